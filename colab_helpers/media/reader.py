"""Every frame of a video, in order, with its exact time.

Decoding runs in FFmpeg's threads; `conversion.FrameConverter` brings them into one format and size.
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

# A header that leaves more than this many seconds to the last frame is taken for wrong.
_MAX_LAST = 10
# Decoders hold a frame or two in each thread.
_MAX_THREADS = 4
# Packets kept back before decoding begins in the middle: at most so many bytes.
_MAX_KEPT = 64 << 20


@dataclass(frozen=True)
class Frame:
    """A decoded frame and when it is shown.

    Attributes:
        index: 0, 1, 2, … in presentation order.
        pts: Time of presentation in ticks of ``time_base``.
        time_base: Seconds per tick.
        duration: Ticks until the next frame (for the last frame: as declared).
        video: The picture, in the working format. Its planes may be shared with the decoder: call
            ``make_writable()`` before writing into them.
    """

    index: int
    pts: int
    time_base: Fraction
    duration: int
    video: av.VideoFrame

    @property
    def time(self) -> Fraction:
        """Time of presentation in seconds."""
        return self.pts * self.time_base


class FrameReader(Iterator[Frame], contextlib.AbstractContextManager["FrameReader"]):
    """Iterator over the frames of a video that can be closed early; a context manager. See `read_frames`.

    Attributes:
        notes: What was repaired or converted so far, one sentence each.
        count: Frames met so far, with those before ``start``.
        is_intact: Whether all was read and nothing of it was lost or repaired.
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
        """Whether every frame so far is shown when the file says."""
        return not self._clock.repaired and not self._truncation.clock.restarts

    def __next__(self) -> Frame:
        return next(self._frames)

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop decoding and close the file; harmless when done twice.

        A thread that still waits for a frame keeps the file: closing it there would crash the decoder.
        """
        with contextlib.suppress(ValueError):  # generator already executing
            self._frames.close()
            self._container.close()

    def _open(self) -> None:
        self._container = open_source(self._info.path)
        self._stream = find_video_stream(self._container, self._info.path)
        if is_mov(self._container.format.name):
            # The index leads straight to the samples: what is not wanted need not be read at all.
            for other in self._container.streams:
                if other.index != self._stream.index:
                    other.discard = Discard.all
        self._stream.codec_context.thread_type = "AUTO"
        self._stream.codec_context.thread_count = min(this_machine().cpus, _MAX_THREADS)
        self._clock = FrameClock(self._info)
        self._truncation = TruncationCheck(self._info, self._container, self._stream)

    def _read(self) -> Generator[Frame, None, None]:
        """Frames one step late: a frame lasts until the next one is shown."""
        waiting: Frame | None = None
        for index, (pts, video) in self._numbered():
            self.count = index + 1
            if index == self._start - 1 and self._previous_pts not in (None, pts):
                moved = mark("frame {number} is shown at {pts}, not at {previous}")
                raise self._changed(tr(moved, number=index, pts=pts, previous=self._previous_pts))
            if index < self._start:
                continue
            if waiting is not None:
                yield self._lasting(waiting, pts - waiting.pts)
            waiting = Frame(index, pts, self._info.time_base, 0, self._converter.convert_frame(video))
        if waiting is not None:
            yield self._lasting(waiting, self._last_duration(waiting))
        clocks = [*self._truncation.clock.notes(), *self._clock.notes()]
        damage = self._truncation.check_complete(self.count)
        self.notes += [*clocks, *self._converter.notes(), *damage]
        self.is_intact = not (clocks or damage)
        if self.count < self._start:
            raise self._changed(
                tr("it has {frames} frames, so none has number {start}", frames=self.count, start=self._start)
            )

    def _lasting(self, frame: Frame, duration: int) -> Frame:
        frame.video.pts, frame.video.time_base, frame.video.duration = frame.pts, frame.time_base, duration
        return replace(frame, duration=duration)

    def _last_duration(self, frame: Frame) -> int:
        """What the header leaves, where B-frames are stored out of order; else what the packet says."""
        info, own = self._info, frame.video.duration or self._clock.step
        if not (self._stream.codec_context.has_b_frames and is_mov(self._container.format.name)):
            return own
        left = int((info.start + info.duration) / info.time_base) - frame.pts
        return left if 0 < left <= _MAX_LAST / info.time_base else own

    def _numbered(self) -> Iterator[tuple[int, tuple[int, av.VideoFrame]]]:
        """Numbers, timestamps and pictures, from the first frame or the one before the first wanted."""
        if self._start and self._previous_pts is not None:
            doubt = seek_obstacle(self._info)
            taken_up = None if doubt else self._seek_to(self._previous_pts)
            if taken_up is not None:
                return enumerate(taken_up, self._start - 1)
            told = mark("frame {number} was reached by decoding from the start: {reason}")
            reason = doubt or tr("its packets give its frames other numbers")
            self.notes.append(tr(told, number=self._start, reason=reason))
            self._container.close()
            self._open()
        return enumerate(self._decoded(self._truncation.read_packets(self._container)))

    def _seek_to(self, pts: int) -> Iterator[tuple[int, av.VideoFrame]] | None:
        """Timestamps and pictures from the one shown at ``pts`` on; None if it is not surely the right one.

        Packets before are read, so that clocks and counts are as ever, but not decoded. The picture has to
        come out with its very timestamp, like those decoded before it without damage, and as many packets
        must be shown before it as there are frames: else a picture before it was lost, or got another
        timestamp than its packet's.
        """
        before = 0

        def counted() -> Iterator[Packet[Any]]:
            nonlocal before
            first = int(self._info.start / self._info.time_base)
            for packet in self._truncation.read_packets(self._container):
                if packet.pts is not None and not packet.is_discard:
                    before += first <= packet.pts < pts
                yield packet

        pictures = self._decoded(_from_previous_keyframe(counted(), pts))
        for found, video in pictures:
            if found > pts or video.is_corrupt:
                break
            if found == pts:
                return chain([(found, video)], pictures) if before == self._start - 1 else None
        return None

    def _changed(self, what: str) -> MediaError:
        return MediaError(
            tr("the video is not what it was: {what}", what=what),
            where=str(self._info.path),
            remedy=tr("begin again from the first frame"),
        )

    def _decoded(self, packets: Iterable[Packet[Any]]) -> Iterator[tuple[int, av.VideoFrame]]:
        try:
            for packet in packets:
                for video in self._decode(packet):
                    yield self._clock.next_pts(video), video
        except av.FFmpegError as error:
            # The demuxer gave up; whether what came before is the whole video is seen at the end.
            self._truncation.note_read_error(error)
            for video in self._decode(None):
                yield self._clock.next_pts(video), video

    def _decode(self, packet: Packet[VideoStream] | None) -> list[av.VideoFrame]:
        if packet is not None:
            self._clock.decoding(packet)
        try:
            return self._stream.decode(packet)
        except av.FFmpegError:
            # One damaged packet: the decoder carries on with the next.
            self._clock.lost()
            self._truncation.undecodable += 1
            return []


def read_frames(info: VideoInfo, *, start: int = 0, previous_pts: int | None = None) -> FrameReader:
    """Open a video for reading its frames in presentation order; use it in a ``with`` statement or close it.

    A ``start`` whose previous frame's timestamp is known is reached without decoding all before it; where
    the file does not allow that, a note says so. Either way the frames are those that reading from the
    first one gives.

    Args:
        info: What `probe` said of the file.
        start: Number of the first frame wanted, from 0.
        previous_pts: Timestamp of frame ``start - 1`` as an earlier reading gave it, in ticks.

    Raises:
        MissingFileError: The file has gone.
        MediaError: At once if the file cannot be opened; while iterating if it ends early, no frame can be
            decoded, or it is not the one ``start`` and ``previous_pts`` were found in.
    """
    return FrameReader(info, start=start, previous_pts=previous_pts)


def seek_obstacle(info: VideoInfo) -> str:
    """Return why decoding a video cannot begin in the middle; empty if it can, as far as its header tells."""
    if info.in_coded_order:
        return tr("the container has no presentation times")
    codec = av.Codec(info.codec, "r")
    if not has_independent_keyframes(codec):
        return tr("key frames of {codec} may need what comes before them", codec=codec.canonical_name)
    return ""


def _from_previous_keyframe(packets: Iterator[Packet[Any]], pts: int) -> Iterator[Packet[Any]]:
    """Packets from the last key frame but one before a timestamp on.

    From the last one a decoder may not give all pictures: those coded after it but shown before it need the
    group before, and some encoders refresh their pictures bit by bit. At most two groups are kept.
    """
    kept: deque[list[Packet[Any]]] = deque([[]], maxlen=2)
    size = 0
    for packet in packets:
        if packet.is_keyframe and packet.pts is not None and packet.pts <= pts:
            kept.append([])
            size = sum(one.size for one in kept[0])
        kept[-1].append(packet)
        size += packet.size
        if packet.pts == pts or size > _MAX_KEPT:
            break
    yield from chain.from_iterable(kept)
    yield from packets
