"""Properties of pixel formats, colour code points, and families of containers and codecs."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.video.format import VideoFormat
from av.video.reformatter import ColorRange

ByteImage = npt.NDArray[np.uint8]
"""Pixels from 0 to 255; colours are BGR."""

Samples = npt.NDArray[Any]
"""Samples of an image or plane, of any type."""

DEFAULT_RATE = Fraction(25)
"""Frames per second assumed if a file states none."""

BT709, LIMITED, FULL, UNSPECIFIED = 1, 1, 2, 2
"""Code points: BT.709 matrix; FFmpeg's limited and full range; unspecified matrix, primaries or transfer."""


@dataclass(frozen=True)
class ColourTags:
    """Colour description of a stream as ISO/IEC 23091-4 (H.273) code points."""

    matrix: int = UNSPECIFIED  # RGB-to-YUV matrix: 1 BT.709, 5/6 BT.601, 9 BT.2020, 0 RGB, 2 unspecified
    range: int = 0  # 0 unspecified (taken as limited), 1 limited ("MPEG"), 2 full ("JPEG")
    primaries: int = UNSPECIFIED  # 1 BT.709, 9 BT.2020, 12 Display P3, 2 unspecified
    transfer: int = UNSPECIFIED  # 1 BT.709, 16 PQ, 18 HLG, 2 unspecified


@dataclass(frozen=True)
class Layout:
    """How a pixel format lays out its samples."""

    step: tuple[int, int]  # luma samples per chroma sample, across and down
    depth: int = 8  # bits per sample
    interleaved: bool = False  # whether U and V alternate in one plane
    shift: int = 0  # unused low bits below the sample


WORKING_FORMATS = {
    "yuv420p": Layout((2, 2)),
    "yuvj420p": Layout((2, 2)),
    "yuv422p": Layout((2, 1)),
    "yuvj422p": Layout((2, 1)),
    "yuv444p": Layout((1, 1)),
    "yuvj444p": Layout((1, 1)),
    "nv12": Layout((2, 2), interleaved=True),
    "p010le": Layout((2, 2), depth=10, interleaved=True, shift=6),
    "yuv420p10le": Layout((2, 2), depth=10),
    "yuv422p10le": Layout((2, 1), depth=10),
    "yuv444p10le": Layout((1, 1), depth=10),
}
"""Pixel formats in which frames are processed; others are converted to one of these."""


def pixel_bits(pix_fmt: str) -> int:
    """Return the bit depth of a pixel format's deepest component (8 for palettes)."""
    kind = VideoFormat(pix_fmt)
    return 8 if kind.has_palette else max(part.bits for part in kind.components)


def chroma_of(pix_fmt: str) -> str:
    """Return the coarsest chroma subsampling that loses nothing: ``420``, ``422`` or ``444``."""
    kind = VideoFormat(pix_fmt, 64, 64)
    if kind.chroma_width() == 64:
        return "444"
    return "422" if kind.chroma_height() == 64 else "420"


def is_rgb(pix_fmt: str) -> bool:
    """Return whether samples are RGB or indices into an RGB palette."""
    kind = VideoFormat(pix_fmt)
    return kind.is_rgb or kind.has_palette or pix_fmt.startswith(("mono", "xyz", "bayer"))


def is_grey(pix_fmt: str) -> bool:
    """Return whether a format has integer luma only."""
    return pix_fmt.startswith("gray") and "f" not in pix_fmt


def has_alpha(pix_fmt: str) -> bool:
    """Return whether a format can store transparency."""
    kind = VideoFormat(pix_fmt)
    return kind.has_palette or any(part.is_alpha for part in kind.components)


def is_full_range(frame: av.VideoFrame) -> bool:
    """Return whether luma uses the full range (JPEG) and not 16 to 235 (MPEG, at 8 bits)."""
    return int(frame.color_range) == FULL or frame.format.name.startswith("yuvj")


def same_range(frame: av.VideoFrame) -> dict[str, ColorRange]:
    """Return reformatter arguments that keep a frame's range."""
    same = ColorRange.JPEG if is_full_range(frame) else ColorRange.MPEG
    return {"src_color_range": same, "dst_color_range": same}


# --- containers, by FFmpeg's format name, which may be a comma-separated list -------------------------------


def is_mov(container: str) -> bool:
    """Return whether a format is of the MP4 family, whose header lists every sample."""
    return bool({"mp4", "mov"} & set(container.split(",")))


def states_length(container: str) -> bool:
    """Return whether the header states the length, so that truncation can be detected."""
    return bool({"mov", "matroska", "avi", "flv", "asf"} & set(container.split(",")))


def is_joinable(container: str) -> bool:
    """Return whether files can be cut and concatenated anywhere, and packets carry real decoding times."""
    return bool({"mpegts", "mpeg", "flv", "live_flv"} & set(container.split(",")))


def seeks_by_bytes(container: str) -> bool:
    """Return whether timestamps may repeat, so that seeking has to use byte offsets."""
    return bool({"mpegts", "mpeg"} & set(container.split(",")))


def is_in_coded_order(container: str, codec: str) -> bool:
    """Return whether timestamps follow coded order: a container without presentation times, with B-frames."""
    return codec in ("h264", "hevc") and container in ("avi", "h264", "hevc")


def may_resize(codec: str) -> bool:
    """Return whether the frame size of a codec may change within a stream."""
    return codec in (
        "h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "vp8", "vp9", "av1", "mjpeg", "vc1",
    )  # fmt: skip


# Codecs verified to have them; GIF and animated PNG draw over the previous frame.
_INDEPENDENT_KEYFRAMES = frozenset((
    "h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "vp8", "vp9", "av1", "ffv1", "png",
))  # fmt: skip


def has_independent_keyframes(codec: av.Codec) -> bool:
    """Return whether keyframes of a codec can be decoded without earlier frames."""
    return codec.canonical_name in _INDEPENDENT_KEYFRAMES or codec.intra_only
