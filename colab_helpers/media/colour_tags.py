"""What a stream says of its colours: ISO/IEC 23091-4 code points and the light levels of HDR10."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.video.stream import VideoStream

from colab_helpers.media.formats import UNSPECIFIED


@dataclass(frozen=True)
class ColourTags:
    """Colour description of a stream as ISO/IEC 23091-4 (H.273) code points.

    Attributes:
        matrix: RGB-to-YUV matrix: 1 BT.709, 5/6 BT.601, 9 BT.2020, 0 RGB, 2 unspecified.
        range: 0 unspecified (taken as limited), 1 limited ("MPEG"), 2 full ("JPEG").
        primaries: 1 BT.709, 9 BT.2020, 12 Display P3, 2 unspecified.
        transfer: 1 BT.709, 16 PQ, 18 HLG, 2 unspecified.
    """

    matrix: int = UNSPECIFIED
    range: int = 0
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED


@dataclass(frozen=True)
class LightLevels:
    """HDR10 static metadata in the units of SMPTE ST 2086 and CTA-861.3.

    Attributes:
        primaries: Red, green, blue and white point, each (x, y) in units of 0.00002; empty if unknown.
        luminance: Maximum and minimum in units of 0.0001 cd/m²; empty if unknown.
        content: Maximum content and maximum frame-average light level in cd/m²; empty if unknown.
    """

    primaries: tuple[tuple[int, int], ...] = ()
    luminance: tuple[int, ...] = ()
    content: tuple[int, ...] = ()


def colour_tags(stream: VideoStream, frame: av.VideoFrame) -> ColourTags:
    """Return the bitstream's word, else the container's."""
    context = stream.codec_context

    def known(first: int, second: int) -> int:
        return int(second if first == UNSPECIFIED else first)

    return ColourTags(
        matrix=known(frame.colorspace, context.colorspace),
        range=frame.color_range or context.color_range,
        primaries=known(frame.color_primaries, context.color_primaries),
        transfer=known(frame.color_trc, context.color_trc),
    )


def light_levels(frame: av.VideoFrame) -> LightLevels | None:
    """Return the light levels a frame carries, or None."""
    mastering = side_data(frame, "MASTERING_DISPLAY_METADATA")
    content = side_data(frame, "CONTENT_LIGHT_LEVEL")
    if mastering is None and content is None:
        return None
    primaries, luminance = _mastering(mastering) if mastering else ((), ())
    return LightLevels(
        primaries=primaries,
        luminance=luminance,
        content=struct.unpack("=2I", content[:8]) if content else (),
    )


def side_data(frame: av.VideoFrame, name: str) -> bytes | None:
    """Return what FFmpeg attaches to a frame under this name, or None."""
    data: Any = frame.side_data
    try:
        return bytes(data[name])
    except KeyError:
        return None


def _mastering(raw: bytes) -> tuple[tuple[tuple[int, int], ...], tuple[int, ...]]:
    """AVMasteringDisplayMetadata: ten rationals (r, g, b, white, min, max), then two flags."""
    numbers = struct.unpack("=22i", raw[:88])
    parts = [
        Fraction(top, bottom) if bottom else Fraction(0)
        for top, bottom in zip(numbers[0:20:2], numbers[1:20:2], strict=True)
    ]
    points = [round(part * 50000) for part in parts[:8]]
    has_primaries, has_luminance = numbers[20:]
    return (
        tuple(zip(points[0::2], points[1::2], strict=True)) if has_primaries else (),
        (round(parts[9] * 10000), round(parts[8] * 10000)) if has_luminance else (),
    )
