"""Every frame of a video, in order, with its exact time.

Decoding runs in FFmpeg's threads. Frames stay in the stream's own pixel format wherever the rest of the
product can work in it; other formats are converted to the nearest one that loses no resolution and, up
to 10 bits, no depth.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain
from types import TracebackType
from typing import Any, Literal

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard
from av.video.format import VideoFormat
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream

from colab_helpers.errors import MediaError, UsageError
from colab_helpers.language import tr
from colab_helpers.media.index import FrameIndex, IntArray, KeyFrame, index_frames
from colab_helpers.media.probe import (
    UNSPECIFIED,
    ColourTags,
    VideoInfo,
    exact,
    existing_file,
    is_mov,
    open_source,
    picture_stream,
)
from colab_helpers.media.timestamps import FrameClock, OneClock, may_restart

SUPPORTED_FORMATS = (
    "yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "nv12",
    "p010le", "yuv420p10le", "yuv422p10le", "yuv444p10le",
)  # fmt: skip
"""Pixel formats frames are handed on in."""

BT709, LIMITED, FULL = 1, 1, 2
"""Code points of ISO/IEC 23091-4 used here: matrix BT.709, limited and full range."""

_SCALER = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_DEFAULT_RATE = Fraction(25)
# A header that leaves more than this many seconds to the last frame is taken for wrong.
_LONGEST_LAST = 10
# What may be missing before a file counts as cut off: writers disagree by a frame or two.
_MISSING_FRAMES, _MISSING_SHARE = 2, Fraction(1, 50)
_MISSING_SECONDS = Fraction(1, 2)
# Formats whose header states the length, so that an early end can be told.
_STATE_LENGTH = frozenset(("mov", "matroska", "avi", "flv", "asf"))


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


class FrameReader(Iterator[Frame]):
    """Iterator over the frames of a video that can be closed early; a context manager.

    Attributes:
        notes: What was repaired or converted so far, one sentence each.
    """

    def __init__(
        self,
        info: VideoInfo,
        *,
        threads: Literal["AUTO"] | int = "AUTO",
        start: int = 0,
        index: FrameIndex | None = None,
        previous_pts: int | None = None,
    ) -> None:
        if start < 0:
            raise UsageError(
                tr("frames count from 0: there is no frame {start}", start=start), where=str(info.path)
            )
        self.notes: list[str] = []
        self._info = info
        self._threads = threads
        self._start = start
        self._index = index
        self._previous_pts = previous_pts
        self._met = 0
        existing_file(info.path)
        self._open()
        self._clock = FrameClock(info)
        self._shaper = _Shaper(info)
        self._frames = self._read()

    @property
    def times_kept(self) -> bool:
        """Whether every frame so far is shown when the file says."""
        return not self._clock.repaired and not self._tally.clock.restarts

    def __iter__(self) -> FrameReader:
        """Itself."""
        return self

    def __next__(self) -> Frame:
        """The next frame in presentation order.

        Raises:
            MediaError: The file ended early, or no frame could be decoded.
        """
        return next(self._frames)

    def __enter__(self) -> FrameReader:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the file."""
        self.close()

    def close(self) -> None:
        """Stops decoding and closes the file; harmless when done twice.

        A thread that still waits for a frame keeps the file: closing it there would crash the decoder.
        """
        with contextlib.suppress(ValueError):  # generator already executing
            self._frames.close()
            self._container.close()

    def _open(self) -> None:
        self._container = open_source(self._info.path)
        self._stream = _picture(self._container, self._info)
        _set_threads(self._stream, self._threads)
        self._tally = _Tally(self._info, self._container, self._stream)

    def _read(self) -> Generator[Frame, None, None]:
        """Frames one step late: a frame lasts until the next one is shown."""
        waiting: tuple[int, av.VideoFrame] | None = None
        index = self._start
        for pts, video in self._wanted():
            if waiting is not None:
                yield self._frame(index, waiting, pts - waiting[0])
                index += 1
            waiting = pts, self._shaper.shape(video)
        if waiting is not None:
            yield self._frame(index, waiting, self._last_duration(*waiting))
        clocks = [*self._tally.clock.notes(), *self._clock.notes()]
        self.notes += [*clocks, *self._shaper.notes(), *self._tally.verdict(self._met)]
        if self._met < self._start:
            raise self._changed(
                tr("it has {frames} frames, so none has number {start}", frames=self._met, start=self._start)
            )

    def _wanted(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """Stamps and pictures from the first wanted frame on."""
        for number, video in self._numbered():
            pts = self._clock.stamp(video)
            self._met = number + 1
            if number == self._start - 1 and self._previous_pts not in (None, pts):
                raise self._changed(
                    tr(
                        "frame {number} is shown at {pts}, not at {previous}",
                        number=number,
                        pts=pts,
                        previous=self._previous_pts,
                    )
                )
            if number >= self._start:
                yield pts, video

    def _numbered(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """Pictures and their numbers, from the first frame or the one before the first wanted."""
        jumped = self._jump() if self._start else None
        if jumped is not None:
            yield from enumerate(jumped, self._start - 1)
        else:
            yield from enumerate(self._decoded(self._tally.watch(self._container)))

    def _jump(self) -> Iterator[av.VideoFrame] | None:
        """Pictures from the one before the first wanted, reached by seeking; None: decode from the start."""
        index = self._index or index_frames(self._info)
        doubt = index.doubt or self._disagreement(index)
        keys = index.keys_before(self._start)
        if not doubt and (not keys or keys[0].packets == 0):
            return None
        landed = None if doubt else self._land(index, keys)
        if landed is not None:
            key, packets = landed
            pictures = self._decoded(packets)
            before = _approach(pictures, index.stamps[key.number : self._start])
            if before is not None:
                return chain([before], pictures)
        if not doubt:
            doubt = tr("seeking does not work") if landed is None else tr("frames are missing after a seek")
        self.notes.append(
            tr(
                "frame {number} was reached by decoding from the start: {reason}",
                number=self._start,
                reason=doubt,
            )
        )
        self._container.close()
        self._open()
        return None

    def _disagreement(self, index: FrameIndex) -> str:
        """Why the index does not fit what is asked for; empty if it does."""
        before = self._start - 1
        if before >= len(index.stamps):
            return tr("its packets are fewer")
        if self._previous_pts not in (None, int(index.stamps[before])):
            return tr("its packets give its frames other numbers")
        return ""

    def _land(self, index: FrameIndex, keys: list[KeyFrame]) -> tuple[KeyFrame, Iterator[Packet[Any]]] | None:
        """A key frame before the first wanted frame, and the packets from it on.

        Formats search by presentation or by decoding time, and some end up a little early or late.
        """
        before = int(index.stamps[self._start - 1])
        for stamp in dict.fromkeys((before, *(stamp for key in keys for stamp in (key.pts, key.dts)))):
            try:
                self._container.seek(stamp, stream=self._stream)
                packets = self._tally.watch(self._container)
                first = next((packet for packet in packets if packet.is_keyframe and packet.size), None)
            except av.FFmpegError:
                continue
            key = None if first is None or first.pts is None else index.key_at(first.pts)
            if first is not None and key is not None and key.number < self._start:
                self._tally.skip(key.packets)
                return key, chain([first], packets)
        return None

    def _changed(self, what: str) -> MediaError:
        return MediaError(
            tr("the video is not what it was: {what}", what=what),
            where=str(self._info.path),
            remedy=tr("begin again from the first frame"),
        )

    def _frame(self, index: int, waiting: tuple[int, av.VideoFrame], duration: int) -> Frame:
        pts, video = waiting
        video.pts, video.time_base, video.duration = pts, self._info.time_base, duration
        return Frame(index, pts, self._info.time_base, duration, video)

    def _last_duration(self, pts: int, video: av.VideoFrame) -> int:
        """What the header leaves, where B-frames are stored out of order; else what the packet says."""
        own = video.duration or self._clock.step
        if not (self._stream.codec_context.has_b_frames and is_mov(self._container)):
            return own
        info = self._info
        left = int((info.start + info.duration) / info.time_base) - pts
        return left if 0 < left <= _LONGEST_LAST / info.time_base else own

    def _decoded(self, packets: Iterable[Packet[Any]]) -> Iterator[av.VideoFrame]:
        try:
            for packet in packets:
                yield from self._decode(packet)
        except av.FFmpegError as error:
            # The demuxer gave up; the tally decides whether what came before is the whole video.
            self._tally.broke_off(error)
            yield from self._decode(None)

    def _decode(self, packet: Packet[VideoStream] | None) -> list[av.VideoFrame]:
        if packet is not None:
            self._clock.decoding(packet)
        try:
            return self._stream.decode(packet)
        except av.FFmpegError:
            # One damaged packet: the decoder carries on with the next.
            self._clock.lost()
            self._tally.undecodable += 1
            return []


def read_frames(
    info: VideoInfo,
    *,
    threads: Literal["AUTO"] | int = "AUTO",
    start: int = 0,
    index: FrameIndex | None = None,
    previous_pts: int | None = None,
) -> FrameReader:
    """Opens a video for reading its frames in presentation order.

    A ``start`` in the middle is reached by seeking to a key frame, and is proved by the stamps of the
    frames met from there on. Where the file does not allow that, all frames before it are decoded, which
    a note says. Either way the frames are those that reading from the first one gives.

    Args:
        info: What `probe` said of the file.
        threads: Decoder threads; ``AUTO`` lets FFmpeg choose by the number of processors.
        start: Number of the first frame wanted, from 0.
        index: What `index_frames` said of the file, if that is known already; only used to seek.
        previous_pts: Stamp of frame ``start - 1`` as an earlier reading gave it, in ticks. Only with it
            are frame numbers certain in a file that has damaged pictures before ``start``.

    Returns:
        An iterator of frames; use it in a ``with`` statement or close it. After the last frame its
        ``notes`` say what was repaired.

    Raises:
        UsageError: ``start`` is negative.
        MissingFileError: The file has gone.
        MediaError: At once if the file cannot be opened; while iterating if it ends early or is not the
            one ``start`` and ``previous_pts`` were found in.
    """
    return FrameReader(info, threads=threads, start=start, index=index, previous_pts=previous_pts)


def working_format(info: VideoInfo) -> tuple[str, str | None]:
    """The pixel format frames of this video are handed on in, and a note if that is a conversion.

    RGB and palettes become 4:4:4, grey becomes 4:2:0 with neutral chroma, alpha is dropped, more than 10
    bits become 10.
    """
    if info.pix_fmt in SUPPORTED_FORMATS:
        return info.pix_fmt, tr("the picture's transparency is dropped") if info.alpha else None
    target = _nearest(info.pix_fmt)
    return target, tr(
        "{format} is worked on as {target}{lost}",
        format=info.pix_fmt,
        target=target,
        lost=_what_is_lost(info.pix_fmt),
    )


def working_colour(info: VideoInfo) -> ColourTags:
    """Colour tags of the frames handed on: RGB becomes limited-range BT.709, all else stays."""
    if _is_rgb(info.pix_fmt):
        return replace(info.colour, matrix=BT709, range=LIMITED)
    if info.pix_fmt.startswith("yuvj"):
        return replace(info.colour, range=FULL)
    return info.colour


def _approach(pictures: Iterator[av.VideoFrame], expected: IntArray) -> av.VideoFrame | None:
    """The last of the expected pictures; None unless each comes, whole and in turn.

    Args:
        pictures: What the decoder gives after a seek; left standing behind the picture returned.
        expected: Stamps from the key frame on.
    """
    met = 0
    for picture in pictures:
        if picture.pts is None or picture.is_corrupt:
            return None
        if met == 0 and picture.pts < expected[0]:
            # Shown before the key frame but coded after it: part of the group before.
            continue
        if picture.pts != expected[met]:
            return None
        met += 1
        if met == len(expected):
            return picture
    return None


def _picture(container: InputContainer, info: VideoInfo) -> VideoStream:
    stream = picture_stream(container, info.path)
    if is_mov(container):
        # The index leads straight to the samples: what is not wanted need not be read at all.
        for other in container.streams:
            if other.index != stream.index:
                other.discard = Discard.all
    return stream


def _set_threads(stream: VideoStream, threads: Literal["AUTO"] | int) -> None:
    stream.codec_context.thread_type = "AUTO"
    stream.codec_context.thread_count = 0 if threads == "AUTO" else threads


class _Shaper:
    """Brings frames into the working format, size and colour tags."""

    def __init__(self, info: VideoInfo) -> None:
        self._size = info.width, info.height
        self._target = working_format(info)[0]
        self._colour = working_colour(info)
        self._note = working_format(info)[1]
        self._info = info
        self._resized = self._reformatted = self._recoloured = 0
        self._reformatter = VideoReformatter()

    def shape(self, video: av.VideoFrame) -> av.VideoFrame:
        self._count(video)
        if video.format.name != self._target or (video.width, video.height) != self._size:
            video = self._convert(video)
        if video.colorspace == UNSPECIFIED:
            video.colorspace = self._colour.matrix
        if not video.color_range:
            video.color_range = self._colour.range
        return video

    def notes(self) -> list[str]:
        width, height = self._size
        said = {
            tr(
                "the picture's size changes in mid-file: {frames} frames were scaled to {width}x{height}",
                frames=self._resized,
                width=width,
                height=height,
            ): self._resized,
            tr(
                "the pixel format changes in mid-file: {frames} frames were converted to {format}",
                frames=self._reformatted,
                format=self._target,
            ): self._reformatted,
            tr(
                "the colour description changes in mid-file: "
                "{frames} frames may look different, since the result has one description",
                frames=self._recoloured,
            ): self._recoloured,
        }
        return [*([self._note] if self._note else []), *(text for text, frames in said.items() if frames)]

    def _count(self, video: av.VideoFrame) -> None:
        """Note how a frame differs from what the result is described as."""
        self._resized += (video.width, video.height) != self._size
        self._reformatted += video.format.name != self._info.pix_fmt
        wanted = self._info.colour
        pairs = ((video.colorspace, wanted.matrix, UNSPECIFIED), (video.color_range, wanted.range, 0))
        self._recoloured += any(found not in (known, unset) for found, known, unset in pairs)

    def _convert(self, video: av.VideoFrame) -> av.VideoFrame:
        if _is_grey(video.format) and (video.width, video.height) == self._size:
            return _with_neutral_chroma(video, self._target)
        return self._reformatter.reformat(
            video, *self._size, format=self._target, interpolation=_SCALER, **_colour_arguments(video)
        )


def _colour_arguments(video: av.VideoFrame) -> dict[str, Any]:
    """RGB goes to limited BT.709; YUV keeps its matrix and its range."""
    if _is_rgb(video.format.name):
        return {"dst_colorspace": Colorspace.ITU709, "dst_color_range": ColorRange.MPEG}
    full = video.color_range == FULL or video.format.name.startswith("yuvj")
    same = ColorRange.JPEG if full else ColorRange.MPEG
    return {"src_color_range": same, "dst_color_range": same}


def _with_neutral_chroma(video: av.VideoFrame, target: str) -> av.VideoFrame:
    """Grey samples as luma, untouched: swscale would take them for full range whatever the tag says."""
    out = av.VideoFrame(video.width, video.height, target)
    luma, deep = video.planes[0], target.endswith("10le")
    bits = video.format.components[0].bits
    order = ">" if video.format.is_big_endian else "<"
    samples = _rows(luma, np.dtype(f"{order}u2") if bits > 8 else np.dtype(np.uint8))
    if deep:
        samples = samples << max(0, 10 - bits) >> max(0, bits - 10)
    _rows(out.planes[0], np.uint16 if deep else np.uint8)[:, : video.width] = samples[:, : video.width]
    for plane in out.planes[1:]:
        _rows(plane, np.uint16 if deep else np.uint8)[:] = 512 if deep else 128
    out.pts, out.time_base, out.duration = video.pts, video.time_base, video.duration
    out.colorspace, out.color_range = video.colorspace, video.color_range
    out.color_primaries, out.color_trc = video.color_primaries, video.color_trc
    return out


def _rows(plane: Any, kind: np.dtype[Any] | type[np.uint8] | type[np.uint16]) -> np.ndarray[Any, Any]:
    """The plane as (rows, samples per line) without a copy; padding at the right included."""
    return np.frombuffer(plane, kind).reshape(plane.height, -1)


def _nearest(pix_fmt: str) -> str:
    kind = VideoFormat(pix_fmt, 64, 64)
    depth = "10le" if not kind.has_palette and max(part.bits for part in kind.components) > 8 else ""
    if _is_rgb(pix_fmt):
        return f"yuv444p{depth}"
    if _is_grey(kind):
        return f"yuv420p{depth}"
    narrow, low = kind.chroma_width() < 64, kind.chroma_height() < 64
    chroma = "444" if not narrow else "420" if low else "422"
    return f"yuv{chroma}p{depth}"


def _what_is_lost(pix_fmt: str) -> str:
    kind = VideoFormat(pix_fmt)
    lost = []
    if any(part.is_alpha for part in kind.components) or kind.has_palette:
        lost.append(tr("transparency is dropped"))
    if not kind.has_palette and max(part.bits for part in kind.components) > 10:
        lost.append(tr("depth reduced to 10 bits"))
    return f" ({', '.join(lost)})" if lost else ""


def _is_rgb(pix_fmt: str) -> bool:
    kind = VideoFormat(pix_fmt)
    return kind.is_rgb or kind.has_palette or pix_fmt.startswith(("mono", "xyz", "bayer"))


def _is_grey(kind: VideoFormat) -> bool:
    return kind.name.startswith("gray") and "f" not in kind.name


class _Tally:
    """Counts what comes out of a file and says at the end whether it was all of it."""

    def __init__(self, info: VideoInfo, container: InputContainer, stream: VideoStream) -> None:
        self.undecodable = 0
        self._info = info
        self._stream = stream
        self.clock = OneClock(container, stream.index)
        self._length = _stated_length(container, stream)
        self._indexed = len(stream.index_entries) if is_mov(container) and stream.frames else 0
        self._packets = 0
        self._end = Fraction(0)
        self._error = ""

    def watch(self, container: InputContainer) -> Iterator[Packet[Any]]:
        """The picture's packets; the other streams are looked at only for where the file ends."""
        picture = self._stream.index
        packets: Iterable[Packet[Any]] = container.demux(self._stream) if self._indexed else container.demux()
        if may_restart(container):
            self.clock = OneClock(container, picture)
            packets = self.clock.corrected(packets)
        for packet in packets:
            if packet.pts is not None:
                self._end = max(self._end, (packet.pts + (packet.duration or 0)) * packet.time_base)
            # Flushing packets carry their stream only as an object.
            if packet.stream.index == picture:
                self._packets += packet.size > 0
                yield packet

    def skip(self, packets: int) -> None:
        """The packet just watched is the first wanted of the file; ``packets`` stand before it."""
        self._packets = packets + 1

    def broke_off(self, error: av.FFmpegError) -> None:
        self._error = error.strerror or type(error).__name__

    def verdict(self, frames: int) -> list[str]:
        """Notes on small damage.

        Raises:
            MediaError: Nothing, or clearly not everything, could be read.
        """
        missing = max(self._missing(frames), self.undecodable)
        expected = max(frames + missing, self._info.frames or 0)
        tolerated = max(_MISSING_FRAMES, int(_MISSING_SHARE * expected))
        if not frames or missing > tolerated:
            raise self._cut_off(frames, expected)
        if self._indexed:
            missing = max(missing, (self._info.frames or 0) - frames)
        if missing or self._error:
            return [
                tr("the file is slightly damaged: about {frames} frame(s) could not be read", frames=missing)
            ]
        return []

    def _missing(self, frames: int) -> int:
        if self._indexed:
            return max(0, self._indexed - self._packets)
        lacking = self._length - self._end
        if lacking <= max(_MISSING_SECONDS, self._length * _MISSING_SHARE):
            return 0
        rate = self._info.average_rate or _DEFAULT_RATE
        return max(_MISSING_FRAMES + 1, (self._info.frames or 0) - frames, int(lacking * rate))

    def _cut_off(self, frames: int, expected: int) -> MediaError:
        reason = f" ({self._error})" if self._error else ""
        return MediaError(
            tr(
                "the file is cut off or damaged: only {frames} of {expected} frames could be read{reason}",
                frames=frames,
                expected=expected,
                reason=reason,
            )
            if self._indexed
            else tr(
                "the file is cut off or damaged: "
                "only {frames} of about {expected} frames could be read{reason}",
                frames=frames,
                expected=expected,
                reason=reason,
            ),
            where=str(self._info.path),
            remedy=tr("copy or download it again, or cut it to the readable part"),
        )


def _stated_length(container: InputContainer, stream: VideoStream) -> Fraction:
    """End of the file in seconds as its header states it; 0 where FFmpeg only estimates it."""
    if not _STATE_LENGTH & set(container.format.name.split(",")):
        return Fraction(0)
    stated = Fraction(container.duration or 0, av.time_base)
    rate = exact(stream.average_rate)
    if container.format.name == "avi" and rate:
        # FFmpeg corrects an AVI's length to what it finds, but keeps the frame count of the header.
        return max(stated, stream.frames / rate)
    return stated
