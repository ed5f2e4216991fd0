"""Read every frame of a video in presentation order, with exact timestamps.

FFmpeg's threads decode; `conversion.FrameConverter` converts the frames to one format and size.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain
from typing import Any

import av
from av.packet import Packet
from av.stream import Discard
from av.video.stream import VideoStream

from colab_helpers.errors import MediaError
from colab_helpers.language import mark, tr
from colab_helpers.machine import this_machine
from colab_helpers.media.conversion import FrameConverter
from colab_helpers.media.demuxing import find_video_stream, open_source
from colab_helpers.media.formats import has_independent_keyframes, is_mov
from colab_helpers.media.inputs import require_file
from colab_helpers.media.probe import VideoInfo
from colab_helpers.media.timestamps import FrameClock
from colab_helpers.media.truncation import TruncationCheck

# A header that leaves more seconds than this to the last frame is considered wrong.
_MAX_LAST_SECONDS = 10
# Bounds memory: decoders hold a frame or two per thread.
_MAX_THREADS = 4
# Most bytes of packets buffered to find the keyframe from which to decode after seeking.
_MAX_BUFFERED = 64 << 20


@dataclass(frozen=True)
class Frame:
    """A decoded frame with its presentation time."""

    index: int  # 0, 1, 2, … in presentation order
    pts: int  # presentation time in ticks of ``time_base``
    time_base: Fraction  # seconds per tick
    duration: int  # ticks until the next frame (for the last frame: as declared)
    # In the working format. Planes may be shared with the decoder: ``make_writable()`` before changing them.
    video: av.VideoFrame

    @property
    def time(self) -> Fraction:
        """Presentation time in seconds."""
        return self.pts * self.time_base


class FrameReader(Iterator[Frame], contextlib.AbstractContextManager["FrameReader"]):
    """Iterator over a video's frames and context manager; may be closed early. See `read_frames`.

    Attributes:
        notes: What was repaired or converted so far, one sentence each.
        count: Frames read so far, including those before ``start``.
        is_intact: Whether the whole video was read with nothing lost or repaired.
    """

    def __init__(self, info: VideoInfo, *, start: int = 0, previous_pts: int | None = None) -> None:
        self.notes: list[str] = []
        self.count, self.is_intact = 0, False
        self._info, self._start, self._previous_pts = info, start, previous_pts
        require_file(info.path)
        self._open()
        self._converter = FrameConverter(info)
        self._frames = self._read()

    @property
    def times_kept(self) -> bool:
        """Whether every frame so far has the timestamp stored in the file."""
        return not self._clock.repaired and not self._truncation.clock.restarts

    def __next__(self) -> Frame:
        return next(self._frames)

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop decoding and close the file; may be called more than once.

        While another thread waits for a frame the file stays open, since closing it would crash the decoder.
        """
        with contextlib.suppress(ValueError):  # generator already executing
            self._frames.close()
            self._container.close()

    def _open(self) -> None:
        self._container = open_source(self._info.path)
        self._stream = find_video_stream(self._container, self._info.path)
        if is_mov(self._container.format.name):
            # The index locates every sample, so other streams need not be read at all.
            for other in self._container.streams:
                if other.index != self._stream.index:
                    other.discard = Discard.all
        self._stream.codec_context.thread_type = "AUTO"
        self._stream.codec_context.thread_count = min(this_machine().cpus, _MAX_THREADS)
        self._clock = FrameClock(self._info)
        self._truncation = TruncationCheck(self._info, self._container, self._stream)

    def _read(self) -> Generator[Frame, None, None]:
        """Yield each frame when the next is known, since it lasts until then."""
        pending: Frame | None = None
        for index, (pts, video) in self._numbered():
            self.count = index + 1
            if index == self._start - 1 and self._previous_pts not in (None, pts):
                moved = mark("frame {number} is shown at {pts}, not at {previous}")
                raise self._changed_error(tr(moved, number=index, pts=pts, previous=self._previous_pts))
            if index < self._start:
                continue
            if pending is not None:
                yield _with_duration(pending, pts - pending.pts)
            pending = Frame(index, pts, self._info.time_base, 0, self._converter.convert_frame(video))
        if pending is not None:
            yield _with_duration(pending, self._last_duration(pending))
        clock_notes = [*self._truncation.clock.notes(), *self._clock.notes()]
        damage = self._truncation.check_complete(self.count)
        self.notes += [*clock_notes, *self._converter.notes(), *damage]
        self.is_intact = not (clock_notes or damage)
        if self.count < self._start:
            missing = mark("it has {frames} frames, so there is no frame {start}")
            raise self._changed_error(tr(missing, frames=self.count, start=self._start))

    def _last_duration(self, frame: Frame) -> int:
        """Return the last frame's duration by its packet; in MP4 with B-frames, by the header."""
        info, stated = self._info, frame.video.duration or self._clock.step
        if not (self._stream.codec_context.has_b_frames and is_mov(self._container.format.name)):
            return stated
        remaining = int((info.start + info.duration) / info.time_base) - frame.pts
        return remaining if 0 < remaining <= _MAX_LAST_SECONDS / info.time_base else stated

    def _numbered(self) -> Iterator[tuple[int, tuple[int, av.VideoFrame]]]:
        """Return numbers, timestamps and frames from frame ``start - 1`` on, or from the first."""
        if self._start and self._previous_pts is not None:
            obstacle = seek_obstacle(self._info)
            frames = None if obstacle else self._seek_to(self._previous_pts)
            if frames is not None:
                return enumerate(frames, self._start - 1)
            decoded = mark("frame {number} was reached by decoding from the start: {reason}")
            reason = obstacle or tr("its packets do not match its frames one to one")
            self.notes.append(tr(decoded, number=self._start, reason=reason))
            self._container.close()
            self._open()
        return enumerate(self._decode_all(self._truncation.read_packets(self._container)))

    def _seek_to(self, pts: int) -> Iterator[tuple[int, av.VideoFrame]] | None:
        """Return timestamps and frames from the one at ``pts`` on; None if it may not be the right one.

        Earlier packets are read, to keep clocks and counts correct, but not decoded. A frame with exactly
        this timestamp must come out, without damaged frames before it, and as many packets must be presented
        before it as there are frames: else a frame was lost, or its timestamp is not its packet's.
        """
        before = 0

        def count_packets() -> Iterator[Packet[Any]]:
            nonlocal before
            first = int(self._info.start / self._info.time_base)
            for packet in self._truncation.read_packets(self._container):
                if packet.pts is not None and not packet.is_discard:
                    before += first <= packet.pts < pts
                yield packet

        frames = self._decode_all(_from_previous_keyframe(count_packets(), pts))
        for frame_pts, video in frames:
            if frame_pts > pts or video.is_corrupt:
                break
            if frame_pts == pts:
                return chain([(frame_pts, video)], frames) if before == self._start - 1 else None
        return None

    def _changed_error(self, what: str) -> MediaError:
        what, remedy = tr("the video has changed: {what}", what=what), tr("start again from the first frame")
        return MediaError(what, where=str(self._info.path), remedy=remedy)

    def _decode_all(self, packets: Iterable[Packet[Any]]) -> Iterator[tuple[int, av.VideoFrame]]:
        try:
            for packet in packets:
                for video in self._decode(packet):
                    yield self._clock.next_pts(video), video
        except av.FFmpegError as error:
            # The demuxer gave up; `check_complete` decides at the end whether the video is complete.
            self._truncation.note_read_error(error)
            for video in self._decode(None):
                yield self._clock.next_pts(video), video

    def _decode(self, packet: Packet[VideoStream] | None) -> list[av.VideoFrame]:
        if packet is not None:
            self._clock.note_packet(packet)
        try:
            return self._stream.decode(packet)
        except av.FFmpegError:  # a damaged packet: go on with the next
            self._clock.note_lost_frame()
            self._truncation.undecodable += 1
            return []


def read_frames(info: VideoInfo, *, start: int = 0, previous_pts: int | None = None) -> FrameReader:
    """Open a video to read its frames in presentation order; use it in a ``with`` statement or close it.

    If ``previous_pts`` is known, ``start`` is reached without decoding all earlier frames; if the file does
    not allow that, a note says so. Either way the frames are the same as when reading from the first one.

    Args:
        info: The result of `probe`.
        start: Index of the first frame wanted, from 0.
        previous_pts: Timestamp, in ticks, of frame ``start - 1`` in an earlier reading.

    Raises:
        MissingFileError: The file no longer exists.
        MediaError: At once if the file cannot be opened; while iterating if it ends early, no frame can be
            decoded, or it is not the file that ``start`` and ``previous_pts`` were taken from.
    """
    return FrameReader(info, start=start, previous_pts=previous_pts)


def seek_obstacle(info: VideoInfo) -> str:
    """Return why decoding cannot start in the middle of a video; empty if the header shows no obstacle."""
    if info.in_coded_order:
        return tr("the container has no presentation times")
    codec = av.Codec(info.codec, "r")
    if not has_independent_keyframes(codec):
        return tr("keyframes of {codec} may depend on earlier frames", codec=codec.canonical_name)
    return ""


def _from_previous_keyframe(packets: Iterator[Packet[Any]], pts: int) -> Iterator[Packet[Any]]:
    """Yield packets from the second to last keyframe before a timestamp on.

    From the last one a decoder may not return all frames: those coded after it but shown before it need the
    previous group of pictures, and some encoders refresh gradually. So two groups are buffered.
    """
    groups: deque[list[Packet[Any]]] = deque([[]], maxlen=2)
    size = 0
    for packet in packets:
        if packet.is_keyframe and packet.pts is not None and packet.pts <= pts:
            groups.append([])
            size = sum(buffered.size for buffered in groups[0])
        groups[-1].append(packet)
        size += packet.size
        if packet.pts == pts or size > _MAX_BUFFERED:
            break
    yield from chain.from_iterable(groups)
    yield from packets


def _with_duration(frame: Frame, duration: int) -> Frame:
    frame.video.pts, frame.video.time_base, frame.video.duration = frame.pts, frame.time_base, duration
    return replace(frame, duration=duration)
