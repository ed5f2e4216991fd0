"""Frames brought into the format, size and colour description the whole video is worked on in.

Formats that cannot be worked on become the nearest one that loses no resolution and, up to 10 bits, no depth.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from colab_helpers.language import mark, tr
from colab_helpers.media.formats import (
    BT709,
    FULL,
    LIMITED,
    UNSPECIFIED,
    WORKING_FORMATS,
    ColourTags,
    chroma_of,
    has_alpha,
    is_grey,
    is_rgb,
    pixel_bits,
    same_range,
)
from colab_helpers.media.probe import VideoInfo

_RESIZED = mark("the picture's size changes in mid-file: {frames} frames were scaled to {width}x{height}")
_REFORMATTED = mark("the pixel format changes in mid-file: {frames} frames were converted to {format}")
_RECOLOURED = mark(
    "the colour description changes in mid-file: "
    "{frames} frames may look different, since the result has one description"
)
_SCALER = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


def working_format(info: VideoInfo) -> tuple[str, str | None]:
    """Return the pixel format frames of a video are worked on in, and a note if that is a conversion.

    RGB and palettes become 4:4:4, grey becomes 4:2:0 with neutral chroma, alpha is dropped, more than 10
    bits become 10.
    """
    source = info.pix_fmt
    if source in WORKING_FORMATS:
        return source, tr("the picture's transparency is dropped") if info.alpha else None
    bits = pixel_bits(source)
    chroma = "444" if is_rgb(source) else "420" if is_grey(source) else chroma_of(source)
    target = f"yuv{chroma}p{'10le' if bits > 8 else ''}"
    lost = [tr("transparency is dropped")] if has_alpha(source) else []
    lost += [tr("depth reduced to 10 bits")] if bits > 10 else []
    told = f" ({', '.join(lost)})" if lost else ""
    return target, tr("{format} is worked on as {target}{lost}", format=source, target=target, lost=told)


def working_colour(info: VideoInfo) -> ColourTags:
    """Return the colour tags of the frames: RGB becomes limited-range BT.709, all else stays."""
    if is_rgb(info.pix_fmt):
        return replace(info.colour, matrix=BT709, range=LIMITED)
    if info.pix_fmt.startswith("yuvj"):
        return replace(info.colour, range=FULL)
    return info.colour


class FrameConverter:
    """Brings frames into the working format, size and colour tags, and counts those that differed."""

    def __init__(self, info: VideoInfo) -> None:
        self._info = info
        self._target, self._note = working_format(info)
        self._colour = working_colour(info)
        self._resized = self._reformatted = self._recoloured = 0
        self._reformatter = VideoReformatter()

    def convert_frame(self, video: av.VideoFrame) -> av.VideoFrame:
        """Return the frame as it is worked on; often the same object."""
        size, wanted = (self._info.width, self._info.height), self._info.colour
        resized = (video.width, video.height) != size
        self._resized += resized
        self._reformatted += video.format.name != self._info.pix_fmt
        pairs = ((video.colorspace, wanted.matrix, UNSPECIFIED), (video.color_range, wanted.range, 0))
        self._recoloured += any(found not in (known, unset) for found, known, unset in pairs)
        if is_grey(video.format.name) and not resized:
            video = _with_neutral_chroma(video, self._target)
        elif video.format.name != self._target or resized:
            video = self._reformatter.reformat(
                video, *size, format=self._target, interpolation=_SCALER, **_colour_arguments(video)
            )
        if video.colorspace == UNSPECIFIED:
            video.colorspace = self._colour.matrix
        if not video.color_range:
            video.color_range = self._colour.range
        return video

    def notes(self) -> list[str]:
        """Return what was converted, one sentence each."""
        told = {"width": self._info.width, "height": self._info.height, "format": self._target}
        counts = (self._resized, _RESIZED), (self._reformatted, _REFORMATTED), (self._recoloured, _RECOLOURED)
        said = [tr(text, frames=frames, **told) for frames, text in counts if frames]
        if self._info.hdr10:
            said.append(tr("the light levels of HDR10 are left out: players assume the usual ones"))
        return [*([self._note] if self._note else []), *said]


def _colour_arguments(video: av.VideoFrame) -> dict[str, Any]:
    """RGB goes to limited BT.709; YUV keeps its matrix and its range."""
    if is_rgb(video.format.name):
        return {"dst_colorspace": Colorspace.ITU709, "dst_color_range": ColorRange.MPEG}
    return same_range(video)


def _with_neutral_chroma(video: av.VideoFrame, target: str) -> av.VideoFrame:
    """Grey samples as luma, untouched: swscale would take them for full range whatever the tag says."""
    out = av.VideoFrame(video.width, video.height, target)
    deep, bits = target.endswith("10le"), video.format.components[0].bits
    order, kind = ">" if video.format.is_big_endian else "<", np.uint16 if deep else np.uint8
    samples = _rows(video.planes[0], np.dtype(f"{order}u2") if bits > 8 else np.dtype(np.uint8))
    if deep:
        samples = samples << max(0, 10 - bits) >> max(0, bits - 10)
    _rows(out.planes[0], np.dtype(kind))[:, : video.width] = samples[:, : video.width]
    for plane in out.planes[1:]:
        _rows(plane, np.dtype(kind))[:] = 512 if deep else 128
    out.pts, out.time_base, out.duration = video.pts, video.time_base, video.duration
    out.colorspace, out.color_range = video.colorspace, video.color_range
    out.color_primaries, out.color_trc = video.color_primaries, video.color_trc
    return out


def _rows(plane: Any, kind: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """The plane as (rows, samples per line) without a copy; padding at the right included."""
    return np.frombuffer(plane, kind).reshape(plane.height, -1)
