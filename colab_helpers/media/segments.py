"""A video's pictures in pieces, each its own finished file, joined at the end without encoding again.

A segment holds consecutive frames encoded from a fresh start, so it depends on no other. Segments are NUT
files: of the containers at hand only NUT keeps any time base and every encoded byte. A GIF is not
written in segments; its pictures cost too little to be worth it.
"""

from __future__ import annotations

import contextlib
import re
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet

from colab_helpers.errors import EncoderError, MediaError, MissingFileError, OutputError, UsageError
from colab_helpers.files import sha256_of
from colab_helpers.language import mark, tr
from colab_helpers.media.containers import timing_note
from colab_helpers.media.copying import EVERYTHING, CopiedStream, Kind
from colab_helpers.media.encoders import EncoderChoice
from colab_helpers.media.index import IntArray
from colab_helpers.media.names import hidden_name
from colab_helpers.media.probe import VideoInfo, open_source, picture_stream, probe
from colab_helpers.media.writer import (
    EncodedTrack,
    Finishable,
    ResultFile,
    WriteSummary,
    check_rising,
    settle,
    unwritable,
)

SUFFIX = ".nut"
"""Suffix of segment files."""

_AGAIN = mark("delete it and run again: it is encoded anew")
_MILLISECOND = Fraction(1, 1000)
# Supplemental enhancement information (ITU-T H.264, 7.4.1; H.265, 7.4.2.2): names the encoder, its threads.
_REMARKS = {"h264": frozenset((6,)), "hevc": frozenset((39, 40))}


@dataclass(frozen=True)
class Segment:
    """A finished segment, as a journal records it.

    Attributes:
        path: The file.
        number: 0, 1, 2, … in the order of the video.
        start: Number of its first frame in the video.
        frames: Frames it holds.
        first_pts: When its first frame is shown, in ticks of the writer's time base.
        last_pts: When its last frame is shown.
        end_pts: When its last frame ends.
        bytes: Size of the file.
        sha256: Hash of the file, in hexadecimal.
    """

    path: Path
    number: int
    start: int
    frames: int
    first_pts: int
    last_pts: int
    end_pts: int
    bytes: int
    sha256: str

    @property
    def stop(self) -> int:
        """Number of the frame after its last."""
        return self.start + self.frames

    def __str__(self) -> str:
        """Number and frames, for messages."""
        return tr(
            "segment {number} (frames {first} to {last})",
            number=self.number,
            first=self.start,
            last=self.stop - 1,
        )


@dataclass(frozen=True)
class JoinedVideo:
    """What became of the segments.

    Attributes:
        summary: What the result holds.
        notes: What its container could not keep, one sentence each.
    """

    summary: WriteSummary
    notes: tuple[str, ...]


class SegmentWriter(Finishable):
    """Writes one segment; a context manager that leaves a complete file or none.

    Args:
        folder: Where segments lie; made if missing.
        number: Number of the segment; names the file.
        info: The source.
        choice: The encoder.
        start: Number of its first frame in the video.
        time_base: Seconds per tick of the stamps given to `write`; the source's if None.

    Raises:
        OutputError: The folder cannot be written.
        EncoderError: The encoder does not open.
    """

    def __init__(
        self,
        folder: Path,
        number: int,
        info: VideoInfo,
        *,
        choice: EncoderChoice,
        start: int,
        time_base: Fraction | None = None,
    ) -> None:
        self.path = folder.absolute() / f"{number:06d}{SUFFIX}"
        self.frames = 0
        self._number = number
        self._start = start
        self._time_base = time_base or info.time_base
        self._first_pts = self._last_pts = self._end_pts = 0
        self._segment: Segment | None = None
        self._partial = hidden_name(self.path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._output = av.open(str(self._partial), "w", format="nut")
        except (av.FFmpegError, OSError) as error:
            raise unwritable(self.path, error) from error
        with self._cleaning_up():
            self._track = EncodedTrack(self._output, info, choice, self._time_base)
            self._output.start_encoding()

    @property
    def segment(self) -> Segment:
        """The finished segment.

        Raises:
            UsageError: It is not closed yet.
        """
        if self._segment is None:
            raise UsageError(tr("the segment is not finished yet"), where=str(self.path))
        return self._segment

    def write(self, video: av.VideoFrame, *, pts: int, duration: int) -> None:
        """Encodes one frame, which may be changed or reused once this returns.

        Args:
            video: A picture of the source's size; its stamps are overwritten.
            pts: Time of presentation in ticks of the writer's time base; must rise.
            duration: Ticks the picture is shown; counts for the last frame, others last until the next.

        Raises:
            OutputError: The disk is full, the folder has gone, or ``pts`` does not rise; the partial file
                is removed.
            EncoderError: The encoder failed; likewise.
        """
        with self._cleaning_up():
            check_rising(pts, self._last_pts if self.frames else None, self.path)
            if not self.frames:
                self._first_pts = pts
            self._last_pts, self._end_pts = pts, pts + duration
            self.frames += 1
            # NUT has no negative stamps, and the same frames make the same file wherever they stand.
            video.pts, video.time_base, video.duration = pts - self._first_pts, self._time_base, duration
            for packet in self._track.encode(video):
                self._output.mux_one(packet)

    def close(self) -> None:
        """Finishes the segment and puts it in its place; harmless when done twice.

        Raises:
            UsageError: It holds no frame.
            OutputError: It cannot be completed; the partial file is removed.
            EncoderError: The encoder failed on its last frames.
        """
        if self._segment is not None:
            return
        if not self.frames:
            self.abort()
            raise UsageError(tr("a segment needs at least one frame"), where=str(self.path))
        with self._cleaning_up():
            for packet in self._track.finish():
                self._output.mux_one(packet)
            self._output.close()
            digest, size = sha256_of(self._partial), self._partial.stat().st_size
            settle(self._partial, self.path)
        self._segment = Segment(
            path=self.path,
            number=self._number,
            start=self._start,
            frames=self.frames,
            first_pts=self._first_pts,
            last_pts=self._last_pts,
            end_pts=self._end_pts,
            bytes=size,
            sha256=digest,
        )

    def abort(self) -> None:
        """Gives up: closes everything and removes the partial file."""
        with contextlib.suppress(av.FFmpegError, OSError):
            # The trailer may fail for the very reason of giving up.
            self._output.close()
        self._partial.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _cleaning_up(self) -> Iterator[None]:
        try:
            yield
        except (EncoderError, OutputError):
            self.abort()
            raise
        except (av.FFmpegError, OSError) as error:
            self.abort()
            raise unwritable(self.path, error) from error


class SegmentedWriter(Finishable):
    """Writes consecutive frames into consecutive segments; used like `writer.VideoWriter`.

    A context manager: left by an exception, the segment at work is removed and the finished ones stay.

    Args:
        folder: Where segments lie; made if missing.
        info: The source.
        choice: The encoder.
        length: Frames of a segment; the last one holds what is left.
        on_segment: Called with each segment when it is safe on disk.
        start: Number of the first frame that will be written; a multiple of ``length``.
        time_base: Seconds per tick of the stamps given to `write`; the source's if None.

    Raises:
        UsageError: ``start`` is no multiple of ``length``, or ``length`` is not positive.
    """

    def __init__(
        self,
        folder: Path,
        info: VideoInfo,
        *,
        choice: EncoderChoice,
        length: int,
        on_segment: Callable[[Segment], None],
        start: int = 0,
        time_base: Fraction | None = None,
    ) -> None:
        if length < 1 or start < 0 or start % length:
            raise UsageError(
                tr("segments of {length} frames cannot start at frame {start}", length=length, start=start),
                where=str(folder),
                remedy=tr("start at a multiple of the segment's length"),
            )
        self._folder = folder
        self._info = info
        self._choice = choice
        self._length = length
        self._on_segment = on_segment
        self._next = start
        self._time_base = time_base
        self._last_pts: int | None = None
        self._writer: SegmentWriter | None = None

    def write(self, video: av.VideoFrame, *, pts: int, duration: int) -> None:
        """Encodes one frame; see `SegmentWriter.write`."""
        if self._writer is None:
            check_rising(pts, self._last_pts, self._folder)
            self._writer = SegmentWriter(
                self._folder,
                self._next // self._length,
                self._info,
                choice=self._choice,
                start=self._next,
                time_base=self._time_base,
            )
        self._writer.write(video, pts=pts, duration=duration)
        self._last_pts = pts
        if self._writer.frames == self._length:
            self.close()

    def close(self) -> None:
        """Finishes the segment at work, if there is one; see `SegmentWriter.close`."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
            self._next = writer.segment.stop
            self._on_segment(writer.segment)

    def abort(self) -> None:
        """Removes the segment at work; the finished ones stay."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.abort()


def check_segment(segment: Segment) -> None:
    """Makes sure that a segment's file is what was recorded.

    Raises:
        MissingFileError: There is no such file.
        MediaError: It has other bytes, or cannot be read.
    """
    try:
        same = segment.path.stat().st_size == segment.bytes and sha256_of(segment.path) == segment.sha256
    except FileNotFoundError as error:
        raise MissingFileError(
            tr("the file of {segment} is missing", segment=segment),
            where=str(segment.path),
            remedy=tr("run again"),
        ) from error
    except OSError as error:
        raise _damaged(segment, _unreadable(segment, error)) from error
    if not same:
        what = tr("the file of {segment} has changed since it was written", segment=segment)
        raise _damaged(segment, what)


def join_segments(
    segments: Sequence[Segment],
    info: VideoInfo,
    output: Path,
    *,
    choice: EncoderChoice,
    time_base: Fraction | None = None,
    kinds: frozenset[Kind] = EVERYTHING,
    metadata: dict[str, str] | None = None,
    on_frame: Callable[[int], None] | None = None,
) -> JoinedVideo:
    """Makes the result from its segments: packets are copied, nothing is decoded or encoded.

    The result is what `writer.VideoWriter` makes of the same frames, but for a key frame at each
    segment's start. It is read once and compared with the segments before it gets its name. If anything
    fails, nothing is left of the result; the segments stay in any case.

    Args:
        segments: All segments of the video, in order.
        info: The source.
        output: The result; its suffix (.mp4, .m4v, .mov, .mkv) names the container.
        choice: The encoder the segments were written with.
        time_base: Seconds per tick of the segments' stamps; the source's if None.
        kinds: Kinds of streams beside the picture that are copied.
        metadata: Tags to add to the source's, or to replace them.
        on_frame: Called with the count of frames joined so far, after each; may raise to give up.

    Raises:
        UsageError: The segments do not follow on one another, or the result is to be a GIF.
        MissingFileError: A segment's file is missing.
        MediaError: A segment's file is damaged, or comes from another encoder.
        OutputError: The result cannot be written, or is not what was joined.
        EncoderError: The encoder does not open.
    """
    if output.suffix.lower() == ".gif":
        raise UsageError(
            tr("a GIF is not made from segments"),
            where=str(output),
            remedy=tr("write it in one go with VideoWriter"),
        )
    _check_order(segments, output)
    time_base = time_base or info.time_base
    surveys = [_survey(segment, time_base) for segment in segments]
    timeline = _Timeline(surveys, segments[-1].end_pts, time_base)
    file = ResultFile(output, info, choice=choice, time_base=time_base, kinds=kinds, metadata=metadata)
    try:
        assert isinstance(file.track, EncodedTrack)
        _check_same_encoder(segments, surveys, file.track)
        for count, packet in enumerate(_joined(segments, surveys, timeline, file.track), 1):
            assert packet.pts is not None
            file.put((packet,), until=packet.pts * time_base)
            if on_frame is not None:
                on_frame(count)
        file.finish((), check=_Check(file, timeline, info).run)
    except BaseException:
        file.abort()
        raise
    summary = WriteSummary(
        frames=len(timeline.stamps),
        bytes=file.path.stat().st_size,
        audio_seconds=float(file.copier.sound_seconds),
        video_seconds=float(timeline.span * time_base),
    )
    return JoinedVideo(summary, tuple(file.notes))


@dataclass(frozen=True, eq=False)
class _Survey:
    """What a segment's packets say.

    Attributes:
        stamps: ``(frames,)`` int64: presentation times in ticks, rising.
        offset: Ticks to add to the file's own times.
        delay: Pictures coded before one that is shown earlier than they are, at most.
        kind: Codec, size and parameter sets; the same for all segments that can be joined.
    """

    stamps: IntArray
    offset: int
    delay: int
    kind: tuple[object, ...]


class _Timeline:
    """Presentation times of all pictures, and the decoding times that follow from them.

    Each segment's encoder started its decoding times before its first picture, where those of the segment
    before may still run. Here the n-th coded picture gets the presentation time of the picture shown
    ``delay`` places earlier. The first ``delay`` ones lie before the start, in even steps, and begin as
    far ahead as the decoding times lie behind at the end: then they add up to the length, as MP4 needs.
    """

    def __init__(self, surveys: Sequence[_Survey], end: int, time_base: Fraction) -> None:
        self.time_base = time_base
        self.stamps = np.concatenate([survey.stamps for survey in surveys])
        self._end = end
        self._delay = min(max(survey.delay for survey in surveys), len(self.stamps) - 1)
        self._lead = int(self.stamps[-1] - self.stamps[-1 - self._delay])

    @property
    def span(self) -> int:
        """Ticks from the first picture's start to the last one's end."""
        return self._end - int(self.stamps[0])

    def dts(self, place: int) -> int:
        """Decoding time of the ``place``-th coded picture."""
        if place < self._delay:
            return int(self.stamps[0]) - self._lead * (self._delay - place) // self._delay
        return int(self.stamps[place - self._delay])

    def duration(self, pts: int) -> int:
        """Ticks the picture shown at ``pts`` lasts."""
        after = bisect_left(self.stamps, pts) + 1
        return (self._end if after == len(self.stamps) else int(self.stamps[after])) - pts

    @property
    def last_duration(self) -> int:
        """Ticks the picture shown last lasts."""
        return self._end - int(self.stamps[-1])


def _check_order(segments: Sequence[Segment], output: Path) -> None:
    if not segments:
        raise UsageError(tr("there is no segment to join"), where=str(output))
    if (segments[0].number, segments[0].start) != (0, 0):
        raise UsageError(
            tr("the first one to join is {segments}, not segment 0", segments=segments[0]), where=str(output)
        )
    for one, after in pairwise(segments):
        follows = (after.number, after.start) == (one.number + 1, one.stop)
        if not follows or after.first_pts <= one.last_pts:
            raise UsageError(
                tr("{after} does not follow {one}", after=after, one=one),
                where=str(output),
                remedy=tr("run again: what is missing is encoded anew"),
            )


def _survey(segment: Segment, time_base: Fraction) -> _Survey:
    check_segment(segment)
    try:
        with open_source(segment.path) as container:
            stream = container.streams.video[0]
            packets = (packet for packet in container.demux(stream) if packet.size)
            coded = np.fromiter((_ticks(packet, time_base) for packet in packets), np.int64)
            context = stream.codec_context
            kind = (
                context.codec.canonical_name,
                (context.width, context.height),
                _parameter_sets(context.codec.canonical_name, context.extradata or b""),
            )
    except (av.FFmpegError, OSError) as error:
        raise _damaged(segment, _unreadable(segment, error)) from error
    order = np.argsort(coded, kind="stable")
    stamps = coded[order]
    if len(stamps) != segment.frames or int(stamps[-1] - stamps[0]) != segment.last_pts - segment.first_pts:
        what = tr("the file of {segment} does not hold the frames that were recorded", segment=segment)
        raise _damaged(segment, what)
    numbers = np.empty_like(order)
    numbers[order] = np.arange(len(order))
    delay = int((np.arange(len(order)) - numbers).max())
    offset = segment.first_pts - int(stamps[0])
    return _Survey(stamps + offset, offset, delay, kind)


def _ticks(packet: Packet[Any], time_base: Fraction) -> int:
    """Presentation time in ticks: NUT may count in a fraction of the time base it was given."""
    assert packet.pts is not None
    ratio = packet.time_base / time_base
    return packet.pts * ratio.numerator // ratio.denominator


def _parameter_sets(codec: str, extradata: bytes) -> tuple[bytes, ...]:
    """What a decoder has to know of a stream, without remarks on how it was encoded."""
    if codec not in _REMARKS:
        return (extradata,)
    units = [unit.rstrip(b"\0") for unit in re.split(b"\0\0\1", extradata) if unit.rstrip(b"\0")]
    return tuple(unit for unit in units if _unit_type(codec, unit) not in _REMARKS[codec])


def _unit_type(codec: str, unit: bytes) -> int:
    return unit[0] & 31 if codec == "h264" else unit[0] >> 1 & 63


def _check_same_encoder(segments: Sequence[Segment], surveys: Sequence[_Survey], track: EncodedTrack) -> None:
    context = track.stream.codec_context
    codec = context.codec.canonical_name
    sets = _parameter_sets(codec, context.extradata or b"")
    kind = (codec, (context.width, context.height), sets)
    for segment, survey in zip(segments, surveys, strict=True):
        if survey.kind != kind:
            raise MediaError(
                tr(
                    "{segment} was encoded by another encoder, or with other settings, "
                    "than the result is to be",
                    segment=segment,
                ),
                where=str(segment.path),
                remedy=tr(_AGAIN),
            )


def _joined(
    segments: Sequence[Segment], surveys: Sequence[_Survey], timeline: _Timeline, track: EncodedTrack
) -> Iterator[Packet[Any]]:
    """The segments' packets with the times they have in the whole video."""
    place = 0
    for segment, survey in zip(segments, surveys, strict=True):
        try:
            with open_source(segment.path) as container:
                for packet in container.demux(container.streams.video[0]):
                    if packet.size:
                        pts = _ticks(packet, timeline.time_base) + survey.offset
                        packet.stream, packet.time_base = track.stream, timeline.time_base
                        packet.pts, packet.dts = pts, timeline.dts(place)
                        packet.duration = timeline.duration(pts)
                        place += 1
                        if track.adds_up and place == len(timeline.stamps):
                            packet.duration = timeline.last_duration
                        yield packet
        except (av.FFmpegError, OSError) as error:
            raise _damaged(segment, _unreadable(segment, error)) from error


@dataclass(frozen=True, eq=False)
class _Check:
    """Compares a joined file with what went into it."""

    file: ResultFile
    timeline: _Timeline
    info: VideoInfo

    def run(self, path: Path) -> None:
        """Raises OutputError if the file is not what was joined."""
        try:
            found = probe(path)
            with open_source(path) as container:
                difference = self._describes(found) or self._holds(container, path)
        except (MediaError, av.FFmpegError) as error:
            what = error.what if isinstance(error, MediaError) else error.strerror
            raise self._wrong(tr("it cannot be read ({reason})", reason=what)) from error
        if difference:
            raise self._wrong(difference)

    def _describes(self, found: VideoInfo) -> str:
        """What its header says wrongly; empty if nothing."""
        if (found.width, found.height) != (self.info.width, self.info.height):
            return tr("its pictures are {width}x{height}", width=found.width, height=found.height)
        # MP4 says how long the pictures last, Matroska when the last one ends.
        first = found.start if "matroska" in found.container else 0
        length = self.timeline.span * self.timeline.time_base
        if abs(found.duration - first - length) > _MILLISECOND:
            return tr(
                "it lasts {found} seconds, not {expected}",
                found=float(found.duration - first),
                expected=float(length),
            )
        return ""

    def _holds(self, container: InputContainer, path: Path) -> str:
        """What its packets say wrongly; empty if nothing."""
        picture = picture_stream(container, path).index
        kinds = Counter[str](stream.type for stream in container.streams)
        missing = Counter(["video", *(one.kind for one in self.file.copier.copied.values())]) - kinds
        if missing:
            return tr("streams are missing: {streams}", streams=", ".join(missing))
        sounds = {stream.index: CopiedStream("audio", "") for stream in container.streams.audio}
        stamps = array("q")
        tick = container.streams[picture].time_base or Fraction(0)
        for packet in container.demux():
            index = packet.stream.index
            if index == picture and packet.pts is not None and not packet.is_discard:
                stamps.append(packet.pts)
            if index in sounds:
                sounds[index].packets += packet.size > 0
                sounds[index].bytes += packet.size
        return self._shows(np.sort(np.array(stamps)), tick, path.suffix) or self._sounds(
            list(sounds.values())
        )

    def _shows(self, stamps: IntArray, tick: Fraction, suffix: str) -> str:
        """Compares presentation times, exactly but for what containers do to them."""
        if len(stamps) != len(self.timeline.stamps):
            return tr(
                "it has {found} frames, not {expected}", found=len(stamps), expected=len(self.timeline.stamps)
            )
        time_base = self.timeline.time_base
        pairs = zip(stamps, self.timeline.stamps, strict=True)
        shifts = {int(found) * tick - int(wanted) * time_base for found, wanted in pairs}
        # MP4 may round where the whole picture starts, to its movie clock; Matroska rounds each stamp.
        rounds = timing_note(time_base, suffix.lower()) is not None
        same = len(shifts) == 1 or (rounds and max(shifts) - min(shifts) <= _MILLISECOND)
        if not same or min(abs(shift - min(shifts)) for shift in self._usual_shifts(suffix)) > _MILLISECOND:
            return tr("its frames have other time stamps")
        return ""

    def _usual_shifts(self, suffix: str) -> tuple[Fraction, ...]:
        """Seconds a container moves all streams by: Matroska has no time before zero."""
        first = min(int(self.timeline.stamps[0]) * self.timeline.time_base, self.file.copier.sound_start)
        return (Fraction(0), -first) if suffix.lower() == ".mkv" and first < 0 else (Fraction(0),)

    def _sounds(self, found: list[CopiedStream]) -> str:
        for one, wanted in zip(
            found, (one for one in self.file.copier.copied.values() if one.kind == "audio"), strict=True
        ):
            # PCM has no packets of its own: containers cut it as they like.
            same = (
                one.bytes == wanted.bytes
                if wanted.codec.startswith("pcm_")
                else one.packets == wanted.packets
            )
            if not same:
                return tr(
                    "it has {found} packets of sound, not {expected}",
                    found=one.packets,
                    expected=wanted.packets,
                )
        return ""

    def _wrong(self, what: str) -> OutputError:
        return OutputError(
            tr("the joined file is not what was joined: {what}", what=what),
            where=str(self.file.path),
            remedy=tr("run again; if it happens twice, check the disk"),
        )


def _unreadable(segment: Segment, error: OSError | av.FFmpegError) -> str:
    return tr("the file of {segment} cannot be read ({reason})", segment=segment, reason=error.strerror)


def _damaged(segment: Segment, what: str) -> MediaError:
    return MediaError(what, where=str(segment.path), remedy=tr(_AGAIN))


__all__ = [
    "SUFFIX",
    "JoinedVideo",
    "Segment",
    "SegmentWriter",
    "SegmentedWriter",
    "check_segment",
    "join_segments",
]
