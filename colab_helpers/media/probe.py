"""Describe a video file from its header and a few decoded frames, at a cost independent of its length."""

from __future__ import annotations

import contextlib
import math
import re
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

_MTIME_RESOLUTION = 2 * 10**9
"""Nanoseconds between two modification times of the coarsest file system, FAT."""

# A tag may hold any text: a Fraction of "1/0" fails, and one of "1e999999999" takes forever.
_DURATION = re.compile(r"(\d{1,6}):(\d{1,2}):(\d{1,2}(?:\.\d{1,18})?)")
_HDR10 = ("MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL")
# The video is divided into so many parts; the frame size is sampled at each boundary.
_SAMPLES = 8
# FFmpeg's stream types, marked for translation.
_KINDS = (mark("audio"), mark("subtitle"), mark("data"), mark("attachment"), mark("video"))


@dataclass(frozen=True)
class StreamInfo:
    """A stream other than the main video: audio, subtitles, data, an attachment or further video."""

    index: int  # position in the file
    kind: str  # ``audio``, ``subtitle``, ``data``, ``attachment``, or ``video`` (further video or cover art)
    codec: str  # FFmpeg's codec name, or ``unknown``
    language: str | None = None  # ISO 639-2 code as written in the file, or None

    def __str__(self) -> str:
        """Return stream number, kind, codec and language, for messages."""
        codec = f"{self.codec}, {self.language}" if self.language else self.codec
        return tr("{kind} stream {index} ({codec})", kind=tr(self.kind), index=self.index, codec=codec)


@dataclass(frozen=True)
class VideoInfo:
    """The properties of a video file, from its header and first frame."""

    path: Path
    container: str  # FFmpeg's demuxer name, e.g. ``mov,mp4,m4a,3gp,3g2,mj2``
    codec: str
    video_index: int  # position of the main video stream in the file
    width: int  # pixels per stored row, before rotation
    height: int  # stored rows
    pix_fmt: str  # FFmpeg's name of the decoded frames' pixel format
    time_base: Fraction  # seconds per tick of the video's timestamps
    average_rate: Fraction | None  # frames per second, or None if the file does not say
    frames: int | None  # frame count the file declares (edit lists applied), else an estimate, else None
    frames_declared: bool  # whether ``frames`` is a count stored in the file
    start: Fraction  # presentation time of the first frame in seconds
    duration: Fraction  # duration of the video stream in seconds; 0 if unknown
    rotation: int  # clockwise degrees by which players rotate the frames: 0, 90, 180 or 270
    display_matrix: tuple[int, ...] | None  # the nine integers behind ``rotation`` and ``mirrored``, or None
    sample_aspect_ratio: Fraction | None  # width of a pixel over its height, or None if unspecified
    colour: ColourTags
    interlaced: bool  # whether the first frame is interlaced
    mirrored: bool = False  # whether players mirror the stored frames left to right before rotating them
    in_coded_order: bool = False  # whether timestamps follow coded order, not presentation (H.264 in AVI)
    alpha: bool = False  # whether it has transparency, even if this FFmpeg does not decode it
    hdr10: bool = False  # whether it has HDR10 light levels, which results do not keep
    audio: tuple[StreamInfo, ...] = ()
    subtitles: tuple[StreamInfo, ...] = ()
    others: tuple[StreamInfo, ...] = ()  # data, attachments, cover art and further video
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def upright_rotation(self) -> int:
        """Clockwise degrees that bring a stored frame upright without undoing its mirroring."""
        return -self.rotation % 360 if self.mirrored else self.rotation

    def upright(self, image: NDArray[Any]) -> ByteImage:
        """Return a stored ``(H, W, 3)`` frame as players show it."""
        turned = np.rot90(image[:, ::-1] if self.mirrored else image, -(self.rotation // 90))
        return np.ascontiguousarray(turned, np.uint8)


def probe(path: str | Path) -> VideoInfo:
    """Describe a video from its header and first frame; its size is the largest found at a few positions.

    Raises:
        MissingFileError: There is no such file.
        MediaError: It is a folder, empty, cut off, undecodable, too large or too long, or holds no video.
    """
    state = size_and_mtime(path := require_file(path))
    if state is None or time.time_ns() - state[1] < _MTIME_RESOLUTION:  # a rewrite might go unnoticed
        return _cached_probe.__wrapped__(path, state)
    return _cached_probe(path, state)


@lru_cache(maxsize=4)  # it costs as much as decoding five frames, and has several callers
def _cached_probe(path: Path, _state: object) -> VideoInfo:
    with open_source(path) as container:
        stream = find_video_stream(container, path)
        frame, start = _first_frame(container, stream, path)
        info = _describe(path, container, stream, frame, start)
        # Matroska's duration includes the start offset; that of concatenated files is unreliable.
        offset = max(start or 0, 0) * info.time_base
        if info.duration - offset > MAX_HOURS * 3600 and not is_joinable(info.container):
            raise too_long_error(path)
        width, height = _largest_size(container, stream, info)
        return replace(info, width=width, height=height)


def stated_duration(container: InputContainer, stream: VideoStream) -> Fraction:
    """Return a stream's duration in seconds from Matroska's statistics, its header, or the file's header."""
    # The tag first: FFmpeg may report the file's duration, subtitles included, for the video stream.
    text = next((value for key, value in stream.metadata.items() if key.startswith("DURATION")), "")
    if tag := _DURATION.fullmatch(text):
        tagged = int(tag[1]) * 3600 + int(tag[2]) * 60 + Fraction(tag[3])
        if tagged:
            return tagged
    if stream.duration:
        return stream.duration * (to_fraction(stream.time_base) or Fraction(1, 1000))
    return Fraction(container.duration or 0, av.time_base)


def _first_frame(
    container: InputContainer, stream: VideoStream, path: Path
) -> tuple[av.VideoFrame, int | None]:
    """Return the first frame, and its presentation time in ticks."""
    last_error = ""
    first_dts: int | None = None
    try:
        for index, packet in enumerate(islice(demux_packets(container, stream), _MAX_PROBED_PACKETS + 1)):
            first_dts = packet.dts if index == 0 else first_dts
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                last_error, frames = f" ({error.strerror})", []
            if frames:
                return frames[0], first_dts if _in_coded_order(container, stream) else frames[0].pts
    except av.FFmpegError as error:
        last_error = f" ({error.strerror})"
    what = tr("no frame of the video can be decoded{error}", error=last_error)
    remedy = tr("check that the file is complete, or convert it, e.g. to H.264 in MP4")
    raise MediaError(what, where=str(path), remedy=remedy)


def _largest_size(container: InputContainer, stream: VideoStream, info: VideoInfo) -> tuple[int, int]:
    """Return the largest frame size found at a few positions: scaling frames up to it loses nothing."""
    if is_mov(info.container) or not may_resize(info.codec):
        return info.width, info.height
    by_bytes = seeks_by_bytes(info.container)
    start = 0 if by_bytes else int(info.start / info.time_base)
    length = info.path.stat().st_size if by_bytes else int(info.duration / info.time_base)
    if not length:
        # A recording that was not finalised states no duration: read it off the packets.
        with contextlib.suppress(av.FFmpegError):
            length = max((packet.pts or 0 for packet in demux_packets(container, stream)), default=0) - start
    sizes = Counter([(info.width, info.height)])
    for part in range(1, _SAMPLES):
        position = start + length * part // _SAMPLES
        with contextlib.suppress(av.FFmpegError):
            container.seek(position, stream=None if by_bytes else stream, unsupported_byte_offset=by_bytes)
            if (frame := _frame_after_seek(container, stream)) is not None:
                sizes[frame.width, frame.height] += 1
    return max(sizes, key=lambda size: (size[0] * size[1], sizes[size]))


def _frame_after_seek(container: InputContainer, stream: VideoStream) -> av.VideoFrame | None:
    """Return the first frame decoded from the next keyframe on; None if there is none soon."""
    keyframe_seen = False
    with contextlib.suppress(av.FFmpegError):
        for packet in islice(demux_packets(container, stream), _MAX_PROBED_PACKETS):
            keyframe_seen = keyframe_seen or packet.is_keyframe
            if keyframe_seen and (frames := packet.decode()):
                return frames[0]
    return None


def _in_coded_order(container: InputContainer, stream: VideoStream) -> bool:
    return is_in_coded_order(container.format.name, stream.codec_context.codec.canonical_name)


def _describe(
    path: Path, container: InputContainer, stream: VideoStream, frame: av.VideoFrame, start: int | None
) -> VideoInfo:
    time_base = to_fraction(stream.time_base) or Fraction(1, 1000)
    rate = to_fraction(stream.average_rate) or to_fraction(stream.guessed_rate)
    duration, declared = stated_duration(container, stream), _declared_frames(container, stream)
    raw_matrix = _side_data(frame, "DISPLAYMATRIX")
    matrix = struct.unpack("=9i", raw_matrix[:36]) if raw_matrix else None
    others = [
        StreamInfo(other.index, other.type, codec_name(other), other.language)
        for other in container.streams
        if other.index != stream.index
    ]
    # VP8 and VP9 store alpha as side data of packets, which only a tag announces.
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
        frames=declared or (round(duration * rate) if rate and duration else None),
        frames_declared=bool(declared),
        start=(start or 0) * time_base,
        duration=duration,
        rotation=_rotation(matrix) if matrix else 0,
        mirrored=_mirrors(matrix) if matrix else False,
        display_matrix=matrix,
        sample_aspect_ratio=to_fraction(stream.sample_aspect_ratio),
        colour=_colour_tags(stream, frame),
        hdr10=any(_side_data(frame, name) for name in _HDR10),
        interlaced=frame.interlaced_frame,
        in_coded_order=_in_coded_order(container, stream),
        alpha=tagged or has_alpha(frame.format.name),
        audio=tuple(info for info in others if info.kind == "audio"),
        subtitles=tuple(info for info in others if info.kind == "subtitle"),
        others=tuple(info for info in others if info.kind not in ("audio", "subtitle")),
        metadata={key: _deduplicate(value) for key, value in container.metadata.items()},
    )


def _deduplicate(value: str) -> str:
    """Undo the doubling of a tag that MP4 stores in two places: newer FFmpeg joins both by a semicolon."""
    half = value[: len(value) // 2]
    return half if half and value == f"{half};{half}" else value


def _declared_frames(container: InputContainer, stream: VideoStream) -> int:
    if stream.frames and is_mov(container.format.name):
        # The sample table includes frames hidden by an edit list; the demuxer's index marks those.
        shown = sum(not entry.is_discard for entry in stream.index_entries)
        return shown or stream.frames
    return stream.frames


def _colour_tags(stream: VideoStream, frame: av.VideoFrame) -> ColourTags:
    """Return the colour tags of the bitstream, else the container's."""
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
    """Return a frame's side data of this name; empty if there is none."""
    data: Any = frame.side_data
    try:
        return bytes(data[name])
    except KeyError:
        return b""


def _mirrors(matrix: tuple[int, ...]) -> bool:
    """Return whether a display matrix (ISO/IEC 14496-12, 6.2.2: a b u c d v x y w) mirrors."""
    a, b, _, c, d = matrix[:5]
    return a * d < b * c


def _rotation(matrix: tuple[int, ...]) -> int:
    """Return the rotation of the first axis in clockwise degrees, rounded to quarter turns as players do."""
    sign = -1 if _mirrors(matrix) else 1
    return round(math.degrees(math.atan2(sign * matrix[1], sign * matrix[0])) / 90) % 4 * 90
