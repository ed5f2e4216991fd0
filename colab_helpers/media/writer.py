"""A result file: new pictures, everything else as it was, complete or not there at all.

Frames are encoded with the source's time stamps, rotation, pixel shape and colour tags. Sound,
subtitles, attachments, chapters and tags are copied; their packets keep every byte. The file is written
under a hidden name beside its place and renamed when it is safe on disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, cast

import av
from av.container import OutputContainer
from av.packet import Packet
from av.video.frame import PictureType
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter
from av.video.stream import VideoStream

from colab_helpers.errors import EncoderError, OutputError
from colab_helpers.language import mark, tr
from colab_helpers.media.animation import GifTrack
from colab_helpers.media.containers import (
    MUXERS,
    file_tags,
    muxer_options,
    output_suffix,
    stream_tags,
    timing_note,
)
from colab_helpers.media.copying import EVERYTHING, Kind, StreamCopier
from colab_helpers.media.encoders import EncoderChoice
from colab_helpers.media.names import hidden_name
from colab_helpers.media.probe import VideoInfo, existing_file, open_source
from colab_helpers.media.reader import FULL, working_colour

_DEFAULT_RATE = Fraction(25)
_MOV_FAMILY = ("mp4", "mov")
_CONVERTER = Interpolation.BICUBIC | Interpolation.ACCURATE_RND
_INTERLACED_DCT, _INTERLACED_ME = 1 << 18, 1 << 29
"""FFmpeg's AV_CODEC_FLAG_INTERLACED_DCT and _ME."""


@dataclass(frozen=True)
class WriteSummary:
    """What a finished file holds.

    Attributes:
        frames: Pictures written.
        bytes: Size of the file.
        audio_seconds: Span of the copied sound, 0 without.
        video_seconds: Span from the first frame's start to the last frame's end.
    """

    frames: int
    bytes: int
    audio_seconds: float
    video_seconds: float


class Track(Protocol):
    """Turns pictures into packets of an output's stream."""

    def encode(self, video: av.VideoFrame) -> Iterator[Packet[Any]]:
        """Packets that are ready after this picture."""
        ...

    def finish(self) -> Iterator[Packet[Any]]:
        """The packets still inside the encoder."""
        ...


class Finishable(ABC):
    """A context manager that is closed at its end, or aborted if the block was left by an exception."""

    @abstractmethod
    def close(self) -> None:
        """Finishes the work; harmless when done twice."""

    @abstractmethod
    def abort(self) -> None:
        """Gives up and removes what is not finished."""

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes, or aborts."""
        if kind is None:
            self.close()
        else:
            self.abort()


class VideoWriter(Finishable):
    """Writes one video; a context manager that leaves a complete file or none.

    Args:
        path: The result; its suffix (.mp4, .m4v, .mov, .mkv, .gif) names the container. Missing folders
            are made.
        info: The source whose streams, tags and properties are taken over.
        choice: The encoder, from `encoders.choose_encoder`; not used for GIF.
        time_base: Seconds per tick of the stamps given to `write`; the source's if None.
        kinds: Kinds of streams beside the picture that are copied.
        metadata: Tags to add to the source's, or to replace them.

    Raises:
        OutputError: The place cannot be written, is the source itself, or the container cannot hold a
            stream; nothing has been written then.
        EncoderError: The encoder does not open.
    """

    def __init__(
        self,
        path: Path,
        info: VideoInfo,
        *,
        choice: EncoderChoice,
        time_base: Fraction | None = None,
        kinds: frozenset[Kind] = EVERYTHING,
        metadata: dict[str, str] | None = None,
    ) -> None:
        self._time_base = time_base or info.time_base
        self._span = [Fraction(0), Fraction(0)]
        self._frames = 0
        self._last_pts: int | None = None
        self._summary: WriteSummary | None = None
        self._file = ResultFile(
            path, info, choice=choice, time_base=self._time_base, kinds=kinds, metadata=metadata
        )

    @property
    def path(self) -> Path:
        """The result, absolute."""
        return self._file.path

    @property
    def notes(self) -> list[str]:
        """What the container could not keep, one sentence each."""
        return self._file.notes

    @property
    def summary(self) -> WriteSummary:
        """What was written; available once the file is closed."""
        if self._summary is None:
            raise OutputError(tr("the file is not finished yet"), where=str(self.path))
        return self._summary

    def write(self, video: av.VideoFrame, *, pts: int, duration: int) -> None:
        """Encodes one frame and copies what is due beside it.

        The frame may be changed or reused once this returns; its stamps are overwritten.

        Args:
            video: A picture of the source's size.
            pts: Time of presentation in ticks of the writer's time base; must rise.
            duration: Ticks the picture is shown.

        Raises:
            OutputError: The disk is full or the place has gone; the partial file is removed.
            EncoderError: The encoder failed.
        """
        try:
            check_rising(pts, self._last_pts, self.path)
        except OutputError:
            self.abort()
            raise
        self._last_pts = pts
        video.pts, video.time_base, video.duration = pts, self._time_base, duration
        self._file.put(self._file.track.encode(video), until=pts * self._time_base)
        self._note_span(pts, duration)

    def close(self) -> None:
        """Finishes the file and puts it in its place; harmless when done twice.

        Raises:
            OutputError: It cannot be completed; the partial file is removed.
            EncoderError: The encoder failed on its last frames.
        """
        if self._summary is not None:
            return
        self._file.finish(self._file.track.finish())
        self._summary = WriteSummary(
            frames=self._frames,
            bytes=self.path.stat().st_size,
            audio_seconds=float(self._file.copier.sound_seconds),
            video_seconds=float(self._span[1] - self._span[0]),
        )

    def abort(self) -> None:
        """Gives up: closes everything and removes the partial file."""
        self._file.abort()

    def _note_span(self, pts: int, duration: int) -> None:
        start, end = pts * self._time_base, (pts + duration) * self._time_base
        self._span = [start if not self._frames else self._span[0], end]
        self._frames += 1


class ResultFile:
    """A result while it is made: opened under a hidden name, filled with packets, put in its place.

    The picture's stream is set up for an encoder; its packets may come from that encoder or, encoded by
    the same one earlier, from segments. All other streams are copied here.

    Args:
        path: The result; see `VideoWriter`.
        info: The source.
        choice: The encoder; not used for GIF.
        time_base: Seconds per tick of the picture's packets.
        kinds: Kinds of streams beside the picture that are copied.
        metadata: Tags to add to the source's, or to replace them.

    Attributes:
        path: The result, absolute.
        notes: What the container could not keep, one sentence each.
        track: The picture's encoder and stream.
        copier: The streams beside the picture.

    Raises:
        OutputError: The place cannot be written, is the source itself, or the container cannot hold a
            stream; nothing has been written then.
        EncoderError: The encoder does not open.
    """

    def __init__(
        self,
        path: Path,
        info: VideoInfo,
        *,
        choice: EncoderChoice,
        time_base: Fraction,
        kinds: frozenset[Kind],
        metadata: dict[str, str] | None,
    ) -> None:
        self.path = Path(path).absolute()
        self.notes: list[str] = []
        self._info = info
        self._time_base = time_base
        self._suffix = self.path.suffix.lower()
        self._partial = hidden_name(self.path)
        self._check_place(kinds)
        self._source = open_source(existing_file(info.path))
        self.copier = StreamCopier(self._source, info, kinds if self._suffix != ".gif" else frozenset())
        try:
            self._output, self.track = self._open(choice, metadata)
        except BaseException:
            self._discard()
            raise

    def put(self, packets: Iterable[Packet[Any]], *, until: Fraction) -> None:
        """Writes packets of the picture, then copies what is due beside it up to ``until`` seconds.

        Raises:
            OutputError: The disk is full or the place has gone; the partial file is removed.
            EncoderError: The encoder the packets come from failed; likewise.
        """
        with self._cleaning_up():
            for packet in packets:
                self._output.mux_one(packet)
            self.copier.pump(self._output, until)

    def finish(self, packets: Iterable[Packet[Any]], *, check: Callable[[Path], None] | None = None) -> None:
        """Writes the last packets, copies all that is left, and puts the file in its place.

        Args:
            packets: The picture's last packets.
            check: Looks at the complete file before it gets its name; raises if it is not right.

        Raises:
            OutputError: It cannot be completed, or did not pass; the partial file is removed.
            EncoderError: The encoder failed on its last frames; likewise.
        """
        with self._cleaning_up():
            for packet in packets:
                self._output.mux_one(packet)
            self.copier.pump(self._output, None)
            self.copier.finish(self._output)
            self._output.close()
            if check is not None:
                check(self._partial)
            settle(self._partial, self.path)
        self._source.close()
        self.notes += self.copier.notes

    def abort(self) -> None:
        """Gives up: closes everything and removes the partial file."""
        with contextlib.suppress(av.FFmpegError, OSError):
            # The trailer may fail for the very reason of giving up.
            self._output.close()
        self._discard()

    def _discard(self) -> None:
        self._source.close()
        self._partial.unlink(missing_ok=True)

    def _check_place(self, kinds: frozenset[Kind]) -> None:
        if self.path == self._info.path:
            raise OutputError(
                tr("the result would replace its own source"),
                where=str(self.path),
                remedy=tr("choose another name"),
            )
        if self._suffix not in MUXERS or ("audio" in kinds and self._suffix != ".gif"):
            output_suffix(self._info, self._suffix)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._partial.unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(self.path, error) from error

    def _open(self, choice: EncoderChoice, metadata: dict[str, str] | None) -> tuple[OutputContainer, Track]:
        tags = file_tags(dict(self._info.metadata), metadata)
        options = muxer_options(self._source, self._suffix, time_base=self._time_base, tags=tags)
        output = av.open(str(self._partial), "w", format=MUXERS[self._suffix], container_options=options)
        output.metadata.update(tags)
        track = self._add_streams(output, choice)
        if self._source.chapters():
            output.set_chapters(self._source.chapters())
        try:
            output.start_encoding()
        except (av.FFmpegError, OSError) as error:
            raise unwritable(self.path, error) from error
        self.copier.start()
        return output, track

    def _add_streams(self, output: OutputContainer, choice: EncoderChoice) -> Track:
        """In the source's order, so that stream numbers stay what they were."""
        track: Track | None = None
        for stream in self._source.streams:
            if stream.index == self._info.video_index:
                track = self._add_picture(output, choice, cast(VideoStream, stream))
            else:
                self.copier.add(stream, output, self._suffix)
        assert track is not None
        return track

    def _add_picture(self, output: OutputContainer, choice: EncoderChoice, source: VideoStream) -> Track:
        if self._suffix == ".gif":
            self.notes += GifTrack.losses(self._info)
            return GifTrack.of_video(output, self._info, self._time_base)
        note = timing_note(self._time_base, self._suffix)
        self.notes += [note] if note else []
        track = EncodedTrack(output, self._info, choice, self._time_base)
        track.stream.disposition = source.disposition
        track.stream.metadata.update(stream_tags(source, encoded=True))
        return track

    @contextlib.contextmanager
    def _cleaning_up(self) -> Iterator[None]:
        """Whatever fails while writing leaves no partial file and says why."""
        try:
            yield
        except (EncoderError, OutputError):
            self.abort()
            raise
        except (av.FFmpegError, OSError) as error:
            self.abort()
            raise unwritable(self.path, error) from error


class EncodedTrack:
    """The picture through a video encoder.

    Args:
        output: The file its stream is added to.
        info: The source, for size, rate, colour and rotation.
        choice: The encoder.
        time_base: Seconds per tick of the frames' stamps.

    Attributes:
        adds_up: Whether the container's readers take the picture's length as the sum of its coded
            durations (MP4).

    Raises:
        EncoderError: The encoder does not open.
    """

    def __init__(
        self, output: OutputContainer, info: VideoInfo, choice: EncoderChoice, time_base: Fraction
    ) -> None:
        self._choice = choice
        self._durations: dict[int, int] = {}
        self._converter = VideoReformatter()
        self._count = 0
        self.adds_up = output.format.name in _MOV_FAMILY
        self._first: tuple[int, int] | None = None
        self._end: int | None = None
        self._stream = _new_stream(output, info, choice, time_base)
        try:
            self._stream.codec_context.open()
        except av.FFmpegError as error:
            what = tr("{name} does not open ({reason})", name=choice.name, reason=error.strerror)
            raise _failed(what) from error

    @property
    def stream(self) -> VideoStream:
        """The stream of the output."""
        return self._stream

    def encode(self, video: av.VideoFrame) -> Iterator[Packet[Any]]:
        """Packets that are ready after this picture."""
        # Decoded frames carry the type they were coded as; the encoder would take it as an order.
        video.pict_type = PictureType.NONE
        assert video.pts is not None
        self._durations[video.pts] = video.duration
        self._end = video.pts + video.duration
        self._count += 1
        return self._packets(self._fitting(video))

    def finish(self) -> Iterator[Packet[Any]]:
        """The packets still inside the encoder."""
        packets = list(self._packets(None))
        if packets and self.adds_up:
            self._stretch(packets[-1])
        return iter(packets)

    def _stretch(self, last: Packet[Any]) -> None:
        """MP4 knows durations in coded order only: the last coded picture has to fill what is left."""
        if last.dts is not None and self._first is not None and self._end is not None:
            span, coded = self._end - self._first[0], last.dts - self._first[1]
            last.duration = max(1, span - coded)

    def _packets(self, video: av.VideoFrame | None) -> Iterator[Packet[Any]]:
        try:
            packets = self._stream.encode(video)
        except av.FFmpegError as error:
            what = tr(
                "{name} failed at frame {number} ({reason})",
                name=self._choice.name,
                number=self._count,
                reason=error.strerror,
            )
            raise _failed(what) from error
        for packet in packets:
            if packet.pts is not None:
                packet.duration = self._durations.pop(packet.pts, packet.duration)
                if self._first is None and packet.dts is not None:
                    self._first = packet.pts, packet.dts
            yield packet

    def _fitting(self, video: av.VideoFrame) -> av.VideoFrame:
        """The picture in the encoder's format: same matrix, same range, only samples laid out anew."""
        if video.format.name == self._choice.pix_fmt:
            return video
        full = video.color_range == FULL or video.format.name.startswith("yuvj")
        same = ColorRange.JPEG if full else ColorRange.MPEG
        return self._converter.reformat(
            video,
            format=self._choice.pix_fmt,
            interpolation=_CONVERTER,
            src_color_range=same,
            dst_color_range=same,
        )


def _failed(what: str) -> EncoderError:
    return EncoderError(what, remedy=tr("choose the encoder libx264"))


def _new_stream(
    output: OutputContainer, info: VideoInfo, choice: EncoderChoice, time_base: Fraction
) -> VideoStream:
    rate = info.average_rate or _DEFAULT_RATE
    stream = cast(VideoStream, output.add_stream(choice.name, rate=rate, options=dict(choice.options)))
    context = stream.codec_context
    context.width, context.height, context.pix_fmt = info.width, info.height, choice.pix_fmt
    stream.time_base = context.time_base = time_base
    context.thread_type = "AUTO"
    context.sample_aspect_ratio = info.sample_aspect_ratio or Fraction(0)
    colour = working_colour(info)
    context.colorspace, context.color_range = colour.matrix, colour.range
    context.color_primaries, context.color_trc = colour.primaries, colour.transfer
    if info.interlaced:
        context.flags |= _INTERLACED_DCT | _INTERLACED_ME
    if output.format.name in _MOV_FAMILY and ("hevc" in choice.name or "265" in choice.name):
        # Apple's players take HEVC under this name only; others take both.
        context.codec_tag = "hvc1"
    if info.display_matrix:
        stream.set_display_matrix(info.display_matrix)
    return stream


def check_rising(pts: int, last: int | None, path: Path) -> None:
    """Raises OutputError, naming ``path``, if a stamp is not later than the one before (None: first)."""
    if last is not None and pts <= last:
        raise OutputError(
            tr("time stamp {pts} is not later than the one before ({last})", pts=pts, last=last),
            where=str(path),
            remedy=tr("give frames in the order they are shown"),
        )


def settle(partial: Path, path: Path) -> None:
    """On disk first, then in place: a name never stands for a torn file."""
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        # Some mounted cloud drives cannot sync a folder; the file itself is safe already.
        with contextlib.suppress(OSError):
            os.fsync(folder)
    finally:
        os.close(folder)


_REMEDIES = {
    errno.ENOSPC: mark("free some space or choose another disk"),
    errno.EDQUOT: mark("free some space or choose another disk"),
    errno.EFBIG: mark("choose a disk that takes larger files"),
    errno.EACCES: mark("choose a folder you may write to"),
    errno.EPERM: mark("choose a folder you may write to"),
    errno.EROFS: mark("choose a folder you may write to"),
    errno.ENOTDIR: mark("a part of the path is a file, not a folder: choose another folder"),
    errno.EINVAL: mark("this container does not take what the source holds: write another, such as .mkv"),
    errno.EEXIST: mark("a part of the path is a file, not a folder: choose another folder"),
}
_OTHER_REMEDY = mark("check the folder and the free space")


def unwritable(path: Path, error: OSError | av.FFmpegError) -> OutputError:
    """The error to raise for a file that cannot be written, with a remedy where the cause is known."""
    code = error.errno or 0
    return OutputError(
        tr("the result cannot be written ({reason})", reason=error.strerror or error),
        where=str(path),
        remedy=tr(_REMEDIES.get(code, _OTHER_REMEDY)),
    )


__all__ = ["VideoWriter", "WriteSummary", "output_suffix"]
