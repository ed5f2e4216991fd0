"""Pixel formats, colour code points, and what families of containers and codecs have in common.

The one home of these facts: how samples lie in a frame, how deep and how fine they are, whether they fill the
whole range, and which containers state their length, begin their clock anew, or know no presentation times.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
import numpy.typing as npt
from av.video.format import VideoFormat
from av.video.reformatter import ColorRange

ByteImage = npt.NDArray[np.uint8]
"""Pixels of 0 to 255; colours are BGR."""

DEFAULT_RATE = Fraction(25)
"""Frames per second where a file does not say."""

BT709, LIMITED, FULL, UNSPECIFIED = 1, 1, 2, 2
"""Code points of ISO/IEC 23091-4: matrix BT.709, limited and full range, unspecified matrix and the like."""


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

    step: tuple[int, int]  # luma samples to one of chroma, across and down
    depth: int = 8  # bits of a sample
    interleaved: bool = False  # whether both chroma samples lie side by side in one plane
    shift: int = 0  # bits below the sample


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
"""Pixel formats frames are worked on in; others are converted to one of these."""


def pixel_bits(pix_fmt: str) -> int:
    """Return the bits of the deepest component of a pixel format (8 for palettes)."""
    kind = VideoFormat(pix_fmt)
    return 8 if kind.has_palette else max(part.bits for part in kind.components)


def chroma_of(pix_fmt: str) -> str:
    """Return ``420``, ``422`` or ``444``: the chroma that keeps all of a pixel format's."""
    kind = VideoFormat(pix_fmt, 64, 64)
    if kind.chroma_width() == 64:
        return "444"
    return "422" if kind.chroma_height() == 64 else "420"


def is_rgb(pix_fmt: str) -> bool:
    """Tell whether samples are RGB or point into a palette of it."""
    kind = VideoFormat(pix_fmt)
    return kind.is_rgb or kind.has_palette or pix_fmt.startswith(("mono", "xyz", "bayer"))


def is_grey(pix_fmt: str) -> bool:
    """Tell whether there is luma only, of whole numbers."""
    return pix_fmt.startswith("gray") and "f" not in pix_fmt


def has_alpha(pix_fmt: str) -> bool:
    """Tell whether a format has room for transparency."""
    kind = VideoFormat(pix_fmt)
    return kind.has_palette or any(part.is_alpha for part in kind.components)


def is_full_range(frame: av.VideoFrame) -> bool:
    """Tell whether luma fills the whole range (JPEG) or 16 to 235 (MPEG), at 8 bits."""
    return int(frame.color_range) == FULL or frame.format.name.startswith("yuvj")


def same_range(frame: av.VideoFrame) -> dict[str, ColorRange]:
    """Return a reformatter's arguments that leave a frame's range as it is."""
    same = ColorRange.JPEG if is_full_range(frame) else ColorRange.MPEG
    return {"src_color_range": same, "dst_color_range": same}


# --- containers, by FFmpeg's names, several of which may be joined by commas --------------------------------


def is_mov(container: str) -> bool:
    """Tell whether a format is of the MP4 family, whose header lists every sample."""
    return bool({"mp4", "mov"} & set(container.split(",")))


def states_length(container: str) -> bool:
    """Tell whether the header states the length, so that an early end can be told."""
    return bool({"mov", "matroska", "avi", "flv", "asf"} & set(container.split(",")))


def is_joinable(container: str) -> bool:
    """Tell whether files may be cut and joined anywhere, and packets state the times they are decoded at."""
    return bool({"mpegts", "mpeg", "flv", "live_flv"} & set(container.split(",")))


def seeks_by_bytes(container: str) -> bool:
    """Tell whether a time may come twice, so that places are sought by bytes."""
    return bool({"mpegts", "mpeg"} & set(container.split(",")))


def is_in_coded_order(container: str, codec: str) -> bool:
    """Tell whether times belong to places in the file, not to frames: no presentation times, yet B-frames."""
    return codec in ("h264", "hevc") and container in ("avi", "h264", "hevc")


def may_resize(codec: str) -> bool:
    """Tell whether pictures of a codec may change their size in mid-stream."""
    return codec in (
        "h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "vp8", "vp9", "av1", "mjpeg", "vc1",
    )  # fmt: skip


# GIF and animated PNG paint over the last picture; others nobody has looked at.
_FRESH_KEY_FRAMES = frozenset((
    "h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "vp8", "vp9", "av1", "ffv1", "png",
))  # fmt: skip


def has_independent_keyframes(codec: av.Codec) -> bool:
    """Tell whether key frames of a codec need nothing that comes before them."""
    return codec.canonical_name in _FRESH_KEY_FRAMES or codec.intra_only
