"""What a video file holds, found from its header and a few frames.

At most a handful of frames is decoded, so probing costs little whatever the length of the file.
"""

from __future__ import annotations

import contextlib
import math
import struct
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from colab_helpers.errors import MediaError
from colab_helpers.files import size_and_mtime
from colab_helpers.language import mark, tr
from colab_helpers.media.demuxing import (
    MAX_HOURS,
    codec_name,
    demux_packets,
    find_video_stream,
    open_source,
    to_fraction,
    too_long_error,
)
from colab_helpers.media.formats import (
    UNSPECIFIED,
    ByteImage,
    ColourTags,
    has_alpha,
    is_in_coded_order,
    is_joinable,
    is_mov,
    may_resize,
    seeks_by_bytes,
)
from colab_helpers.media.inputs import require_file

_MAX_PROBED_PACKETS = 600
"""Video packets tried before a stream counts as undecodable (ten seconds at 60 per second)."""

_GRAIN = 2 * 10**9
"""Nanoseconds that the coarsest clock of a file system (FAT's) cannot tell apart."""

_HDR10 = ("MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL")
# How many places are looked at for the largest size.
_SAMPLES = 8

_KINDS = (mark("audio"), mark("subtitle"), mark("data"), mark("attachment"), mark("video"))


@dataclass(frozen=True)
class StreamInfo:
    """A stream beside the picture: audio, subtitles, data or an attached file."""

    index: int  # position in the file
    # ``audio``, ``subtitle``, ``data``, ``attachment`` or ``video`` (a second picture or cover art).
    kind: str
    codec: str  # FFmpeg's codec name, or ``unknown``
    language: str | None = None  # ISO 639-2 code as written in the file, or None

    def __str__(self) -> str:
        """Stream number, kind, codec and language, for messages."""
        codec = f"{self.codec}, {self.language}" if self.language else self.codec
        return tr("{kind} stream {index} ({codec})", kind=tr(self.kind), index=self.index, codec=codec)


@dataclass(frozen=True)
class VideoInfo:
    """A video file as its header and its first frame describe it."""

    path: Path
    container: str  # FFmpeg's demuxer name, e.g. ``mov,mp4,m4a,3gp,3g2,mj2``
    codec: str
    video_index: int  # position of the picture stream in the file
    width: int  # pixels of a stored row, before rotation; ``height`` the stored rows
    height: int
    pix_fmt: str  # FFmpeg's pixel format name of decoded frames
    time_base: Fraction  # seconds per tick of the picture's timestamps
    average_rate: Fraction | None  # frames per second, or None if the file does not say
    frames: int | None  # frames the file declares (edit lists honoured), else an estimate, else None
    frames_declared: bool  # whether ``frames`` is a count written in the file
    start: Fraction  # presentation time of the first frame in seconds
    duration: Fraction  # length of the picture stream in seconds; 0 if unknown
    rotation: int  # clockwise degrees a player turns the picture by: 0, 90, 180 or 270
    display_matrix: tuple[int, ...] | None  # the nine integers behind ``rotation`` and ``mirrored``, or None
    sample_aspect_ratio: Fraction | None  # width of a pixel over its height, or None if unspecified
    colour: ColourTags
    interlaced: bool  # whether the first frame is interlaced
    mirrored: bool = False  # whether a player mirrors the stored picture left to right before it turns it
    # Whether times belong to places in the file and not to frames (H.264 in AVI).
    in_coded_order: bool = False
    alpha: bool = False  # whether the picture has transparency, also where this FFmpeg does not decode it
    hdr10: bool = False  # whether it states the light levels of HDR10, which no result has
    audio: tuple[StreamInfo, ...] = ()
    subtitles: tuple[StreamInfo, ...] = ()
    others: tuple[StreamInfo, ...] = ()  # data, attachments, cover art and further pictures
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def upright_rotation(self) -> int:
        """Clockwise degrees that bring heads up in the stored picture, which stays mirrored if it is."""
        return -self.rotation % 360 if self.mirrored else self.rotation

    def upright(self, image: NDArray[Any]) -> ByteImage:
        """Return a stored ``(H, W, 3)`` picture as players show it."""
        turned = np.rot90(image[:, ::-1] if self.mirrored else image, -(self.rotation // 90))
        return np.ascontiguousarray(turned, np.uint8)


def probe(path: str | Path) -> VideoInfo:
    """Describe a video from its header and its first frame; its size is the largest met at a few places.

    Raises:
        MissingFileError: There is no such file.
        MediaError: It is a folder, empty, not a video, cut off, without a picture, too long, or undecodable.
    """
    state = size_and_mtime(path := require_file(path))
    if state is None or time.time_ns() - state[1] < _GRAIN:  # written again, it might look the same
        return _probed.__wrapped__(path, state)
    return _probed(path, state)


@lru_cache(maxsize=4)  # it costs as much as five frames, and several ask
def _probed(path: Path, _state: object) -> VideoInfo:
    with open_source(path) as container:
        stream = find_video_stream(container, path)
        frame, start = _first_frame(container, stream, path)
        info = _describe(path, container, stream, frame, start)
        # Matroska says when a video ends; files that were joined say what their clocks make of it.
        late = max(start or 0, 0) * info.time_base
        if info.duration - late > MAX_HOURS * 3600 and not is_joinable(info.container):
            raise too_long_error(path)
        width, height = _largest_size(container, stream, info)
        return replace(info, width=width, height=height)


def stated_duration(container: InputContainer, stream: VideoStream) -> Fraction:
    """Return the length of a stream in seconds as its header, Matroska's statistics, or the file says."""
    # The tag first: FFmpeg may take the length of the file, subtitles included, for the picture's.
    text = next((value for key, value in stream.metadata.items() if key.startswith("DURATION")), "")
    with contextlib.suppress(ValueError):
        hours, minutes, seconds = text.split(":")
        tagged = int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
        if tagged:
            return tagged
    if stream.duration:
        return stream.duration * (to_fraction(stream.time_base) or Fraction(1, 1000))
    return Fraction(container.duration or 0, av.time_base)


def _first_frame(
    container: InputContainer, stream: VideoStream, path: Path
) -> tuple[av.VideoFrame, int | None]:
    """The first frame, and when it is shown in ticks."""
    last_error = ""
    first: int | None = None
    try:
        for tried, packet in enumerate(islice(demux_packets(container, stream), _MAX_PROBED_PACKETS + 1)):
            first = packet.dts if tried == 0 else first
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                last_error, frames = f" ({error.strerror})", []
            if frames:
                return frames[0], first if _by_place(container, stream) else frames[0].pts
    except av.FFmpegError as error:
        last_error = f" ({error.strerror})"
    raise MediaError(
        tr("no frame of the video can be decoded{error}", error=last_error),
        where=str(path),
        remedy=tr("check that the file is complete, or convert it, e.g. to H.264 in MP4"),
    )


def _largest_size(container: InputContainer, stream: VideoStream, info: VideoInfo) -> tuple[int, int]:
    """The largest size met at a few places: scaled to it nothing is lost."""
    if is_mov(info.container) or not may_resize(info.codec):
        return info.width, info.height
    bytewise = seeks_by_bytes(info.container)
    begin = 0 if bytewise else int(info.start / info.time_base)
    whole = info.path.stat().st_size if bytewise else int(info.duration / info.time_base)
    if not whole:
        # A recorder that was not stopped in order leaves no length: the packets tell.
        with contextlib.suppress(av.FFmpegError):
            whole = max((packet.pts or 0 for packet in demux_packets(container, stream)), default=0) - begin
    sizes = Counter([(info.width, info.height)])
    for part in range(1, _SAMPLES):
        place = begin + whole * part // _SAMPLES
        try:
            if bytewise:
                container.seek(place, unsupported_byte_offset=True)
            else:
                container.seek(place, stream=stream)
        except av.FFmpegError:
            continue
        frame = _frame_after_seek(container, stream)
        if frame is not None:
            sizes[frame.width, frame.height] += 1
    return max(sizes, key=lambda size: (size[0] * size[1], sizes[size]))


def _frame_after_seek(container: InputContainer, stream: VideoStream) -> av.VideoFrame | None:
    """The first frame from the next key frame on; None if none comes soon."""
    begun = False
    with contextlib.suppress(av.FFmpegError):
        for packet in islice(demux_packets(container, stream), _MAX_PROBED_PACKETS):
            begun = begun or packet.is_keyframe
            if begun and (frames := packet.decode()):
                return frames[0]
    return None


def _by_place(container: InputContainer, stream: VideoStream) -> bool:
    return is_in_coded_order(container.format.name, stream.codec_context.codec.canonical_name)


def _describe(
    path: Path, container: InputContainer, stream: VideoStream, frame: av.VideoFrame, start: int | None
) -> VideoInfo:
    time_base = to_fraction(stream.time_base) or Fraction(1, 1000)
    rate = to_fraction(stream.average_rate) or to_fraction(stream.guessed_rate)
    duration, counted = stated_duration(container, stream), _declared_frames(container, stream)
    matrix = _display_matrix(frame)
    beside = [
        StreamInfo(other.index, other.type, codec_name(other), other.language)
        for other in container.streams
        if other.index != stream.index
    ]
    # VP8 and VP9 keep alpha in a second stream, which only a tag tells of.
    tagged = any(key.lower() == "alpha_mode" and value == "1" for key, value in stream.metadata.items())
    return VideoInfo(
        path=path,
        container=container.format.name,
        codec=stream.codec_context.name,
        video_index=stream.index,
        width=frame.width,
        height=frame.height,
        pix_fmt=frame.format.name,
        time_base=time_base,
        average_rate=rate,
        frames=counted or (round(duration * rate) if rate and duration else None),
        frames_declared=bool(counted),
        start=(start or 0) * time_base,
        duration=duration,
        rotation=_rotation(matrix) if matrix else 0,
        mirrored=_mirrors(matrix) if matrix else False,
        display_matrix=matrix,
        sample_aspect_ratio=to_fraction(stream.sample_aspect_ratio),
        colour=_colour_tags(stream, frame),
        hdr10=any(_side_data(frame, name) for name in _HDR10),
        interlaced=frame.interlaced_frame,
        in_coded_order=_by_place(container, stream),
        alpha=tagged or has_alpha(frame.format.name),
        audio=tuple(info for info in beside if info.kind == "audio"),
        subtitles=tuple(info for info in beside if info.kind == "subtitle"),
        others=tuple(info for info in beside if info.kind not in ("audio", "subtitle")),
        metadata={key: _once(value) for key, value in container.metadata.items()},
    )


def _once(value: str) -> str:
    """MP4 may state a tag in two places; newer FFmpeg gives both, joined by a semicolon."""
    half = value[: len(value) // 2]
    return half if half and value == f"{half};{half}" else value


def _declared_frames(container: InputContainer, stream: VideoStream) -> int:
    if stream.frames and is_mov(container.format.name):
        # The sample table counts frames an edit list hides; the demuxer's index marks those.
        shown = sum(not entry.is_discard for entry in stream.index_entries)
        return shown or stream.frames
    return stream.frames


def _colour_tags(stream: VideoStream, frame: av.VideoFrame) -> ColourTags:
    """The bitstream's word, else the container's."""
    context = stream.codec_context

    def known(first: int, second: int) -> int:
        return int(second if first == UNSPECIFIED else first)

    return ColourTags(
        matrix=known(frame.colorspace, context.colorspace),
        range=frame.color_range or context.color_range,
        primaries=known(frame.color_primaries, context.color_primaries),
        transfer=known(frame.color_trc, context.color_trc),
    )


def _side_data(frame: av.VideoFrame, name: str) -> bytes:
    """What FFmpeg attaches to a frame under this name; empty if nothing."""
    data: Any = frame.side_data
    try:
        return bytes(data[name])
    except KeyError:
        return b""


def _display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    raw = _side_data(frame, "DISPLAYMATRIX")
    return struct.unpack("=9i", raw[:36]) if raw else None


def _mirrors(matrix: tuple[int, ...]) -> bool:
    """Whether the display matrix (ISO/IEC 14496-12, 6.2.2: a b u c d v x y w) has a negative determinant."""
    a, b, _, c, d = matrix[:5]
    return a * d < b * c


def _rotation(matrix: tuple[int, ...]) -> int:
    """Clockwise degrees by where the first axis goes; players know only quarter turns."""
    sign = -1 if _mirrors(matrix) else 1
    return round(math.degrees(math.atan2(sign * matrix[1], sign * matrix[0])) / 90) % 4 * 90
