"""Convert frames to the pixel format, size and colour tags in which a whole video is processed.

Unsupported formats become the nearest one that loses no resolution and, up to 10 bits, no bit depth.
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

_RESIZED = mark("the frame size changes within the file: {frames} frames were scaled to {width}x{height}")
_REFORMATTED = mark("the pixel format changes within the file: {frames} frames were converted to {format}")
_RECOLOURED = mark("the colour tags change within the file: {frames} frames may look different in the result")
_RGB_TO_YUV = {"dst_colorspace": Colorspace.ITU709, "dst_color_range": ColorRange.MPEG}
_SCALER = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


def working_format(info: VideoInfo) -> tuple[str, str | None]:
    """Return the pixel format a video's frames are processed in, and a note if anything is lost or converted.

    RGB and palettes become 4:4:4, grey becomes 4:2:0 with neutral chroma, alpha is dropped, and more than 10
    bits become 10.
    """
    source = info.pix_fmt
    if source in WORKING_FORMATS:
        return source, tr("the video's transparency is dropped") if info.alpha else None
    bits = pixel_bits(source)
    chroma = "444" if is_rgb(source) else "420" if is_grey(source) else chroma_of(source)
    target = f"yuv{chroma}p{'10le' if bits > 8 else ''}"
    losses = [tr("transparency is dropped")] if has_alpha(source) else []
    losses += [tr("bit depth reduced to 10 bits")] if bits > 10 else []
    lost = f" ({', '.join(losses)})" if losses else ""
    return target, tr("{format} is processed as {target}{lost}", format=source, target=target, lost=lost)


def working_colour(info: VideoInfo) -> ColourTags:
    """Return the colour tags of processed frames: RGB becomes limited-range BT.709, others keep theirs."""
    if is_rgb(info.pix_fmt):
        return replace(info.colour, matrix=BT709, range=LIMITED)
    if info.pix_fmt.startswith("yuvj"):
        return replace(info.colour, range=FULL)
    return info.colour


class FrameConverter:
    """Converts frames to the working format, size and colour tags, and counts those that differed."""

    def __init__(self, info: VideoInfo) -> None:
        self._info = info
        self._target, self._note = working_format(info)
        self._colour = working_colour(info)
        self._resized = self._reformatted = self._recoloured = 0
        self._reformatter = VideoReformatter()

    def convert_frame(self, video: av.VideoFrame) -> av.VideoFrame:
        """Return the frame as it is processed; the same object if nothing needs converting."""
        size, tags = (self._info.width, self._info.height), self._info.colour
        resized = (video.width, video.height) != size
        self._resized += resized
        self._reformatted += video.format.name != self._info.pix_fmt
        same_matrix = video.colorspace in (tags.matrix, UNSPECIFIED)
        self._recoloured += not (same_matrix and video.color_range in (tags.range, 0))
        if is_grey(video.format.name) and not resized:
            video = _with_neutral_chroma(video, self._target)
        elif video.format.name != self._target or resized:
            colour: dict[str, Any] = _RGB_TO_YUV if is_rgb(video.format.name) else same_range(video)
            video = self._reformatter.reformat(
                video, *size, format=self._target, interpolation=_SCALER, **colour
            )
        if video.colorspace == UNSPECIFIED:
            video.colorspace = self._colour.matrix
        if not video.color_range:
            video.color_range = self._colour.range
        return video

    def notes(self) -> list[str]:
        """Return what was converted, one sentence each."""
        values = {"width": self._info.width, "height": self._info.height, "format": self._target}
        counts = (self._resized, _RESIZED), (self._reformatted, _REFORMATTED), (self._recoloured, _RECOLOURED)
        notes = [self._note] if self._note else []
        notes += [tr(text, frames=frames, **values) for frames, text in counts if frames]
        if self._info.hdr10:
            notes.append(tr("the HDR10 light levels are dropped: players assume the usual ones"))
        return notes


def _with_neutral_chroma(video: av.VideoFrame, target: str) -> av.VideoFrame:
    """Copy grey samples to luma unscaled, since swscale assumes full range whatever the tag says."""
    out = av.VideoFrame(video.width, video.height, target)
    ten_bit, bits = target.endswith("10le"), video.format.components[0].bits
    order, dtype = ">" if video.format.is_big_endian else "<", np.dtype(np.uint16 if ten_bit else np.uint8)
    samples = _rows(video.planes[0], np.dtype(f"{order}u2" if bits > 8 else np.uint8))
    if ten_bit:
        samples = samples << max(0, 10 - bits) >> max(0, bits - 10)
    _rows(out.planes[0], dtype)[:, : video.width] = samples[:, : video.width]
    for plane in out.planes[1:]:
        _rows(plane, dtype)[:] = 512 if ten_bit else 128
    out.pts, out.time_base, out.duration = video.pts, video.time_base, video.duration
    out.colorspace, out.color_range = video.colorspace, video.color_range
    out.color_primaries, out.color_trc = video.color_primaries, video.color_trc
    return out


def _rows(plane: Any, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """View a plane as ``(rows, samples per line)`` without a copy, including the padding at the right."""
    return np.frombuffer(plane, dtype).reshape(plane.height, -1)
