"""Warp crops out of planes, blend them back in, and composite colours over white."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from colab_helpers.media.affine import Matrix, compose, crop_bounds, resizing, scaling, zoom_of
from colab_helpers.media.formats import WORKING_FORMATS, ByteImage, Samples

Mask = npt.NDArray[np.float32]
Region = tuple[int, int, int, int]
"""Half-open pixel rectangle: left, top, right, bottom."""
Box = npt.NDArray[np.float32]

# Samples blended at a time: temporaries stay in the CPU cache, however large the face is.
_STRIP = 1 << 17
# Width of the soft edge along the face's box, as a share of the box's shorter side.
_BOX_FEATHER = 0.08
# Bicubic enlargement of a crop before it is warped: the factor, and the largest edge of the result in pixels.
_ENLARGEMENT, _MAX_ENLARGED_EDGE = 3, 1024


def face_region(matrix: Matrix, size: int, box: Box, width: int, height: int) -> Region:
    """Return the intersection of the crop and the face's box, clipped to the frame; may be empty."""
    x0, y0, x1, y1 = crop_bounds(matrix, size)
    left, top, right, bottom = box.tolist()
    return (
        max(math.floor(max(x0, left)), 0),
        max(math.floor(max(y0, top)), 0),
        max(min(math.ceil(min(x1, right)) + 1, width), 0),
        max(min(math.ceil(min(y1, bottom)) + 1, height), 0),
    )


def extend_box(box: Box, width: int, height: int) -> Box:
    """Move the sides of a face's box at or near the frame's border outwards, so that no weights fade there.

    Weights fade towards the box's sides to blend with the unchanged pixels beyond; beyond the border there
    are none. Near the border a side moves gradually, so that a face leaving the frame shows no jump.
    """
    feather = _feather(box)
    left, top, right, bottom = box.tolist()
    distances = left, top, width - 1 - right, height - 1 - bottom
    out = [2 * min(max(feather - distance, 0), feather) for distance in distances]
    return np.array([left - out[0], top - out[1], right + out[2], bottom + out[3]], np.float32)


def warp_crop(samples: Samples, matrix: Matrix, size: int, *, averaged: bool = True) -> Samples:
    """Warp a ``(size, size)`` crop out of samples; border samples are replicated beyond the border.

    When shrinking to half or less, blocks of samples are averaged first, unless ``averaged`` is False:
    bilinear sampling alone would carry the full noise of a large face into its small crop.
    """
    shrink = int(1 / max(zoom_of(matrix), 1e-6) + 1e-6)
    height, width = samples.shape[:2]
    if averaged and 2 <= shrink <= min(height, width):
        left, top, right, bottom = crop_bounds(matrix, size)
        x, y = max(math.floor(left) - shrink, 0), max(math.floor(top) - shrink, 0)
        across = (min(math.ceil(right) + 2 * shrink, width) - x) // shrink
        down = (min(math.ceil(bottom) + 2 * shrink, height) - y) // shrink
        if across > 0 and down > 0:
            samples, block = samples[y : y + down * shrink, x : x + across * shrink], shrink
            while block > 2 and block % 2 == 0:  # halving several times is faster than one large block
                samples, block = _average_blocks(samples, 2), block // 2
            samples = _average_blocks(samples, block)
            matrix = compose(matrix, resizing(shrink) + np.array([[0, 0, x], [0, 0, y]]))
    return np.asarray(cv2.warpAffine(samples, matrix, (size, size), borderMode=cv2.BORDER_REPLICATE))


def _average_blocks(samples: Samples, block: int) -> Samples:
    """Average blocks of ``block`` by ``block`` samples; ``block`` must divide both sides."""
    size = samples.shape[1] // block, samples.shape[0] // block
    return np.asarray(cv2.resize(samples, size, interpolation=cv2.INTER_AREA))


def region_weights(mask: Mask, to_plane: Matrix, region: Region, box: Box) -> Mask:
    """Warp a mask over a region of a plane, fading to 0 at the edges of the face's box."""
    left, top, right, bottom = region
    if left >= right or top >= bottom:
        return np.zeros((0, 0), np.float32)
    shifted = to_plane - np.array([[0, 0, left], [0, 0, top]])
    weights = np.asarray(cv2.warpAffine(mask, shifted, (right - left, bottom - top)), np.float32)
    x0, y0, x1, y1 = box.tolist()
    feather = _feather(box)
    _fade(weights, x0 - left, x1 - left, feather)
    _fade(weights.T, y0 - top, y1 - top, feather)
    return weights


def blend_plane(
    target: Samples, crop: Samples, to_target: Matrix, region: Region, weights: Mask, *, peak: int = 255
) -> None:
    """Warp a crop over a region of one plane, strip by strip, and blend it in place.

    Args:
        target: ``(H, W)`` samples of the plane.
        crop: ``(S, S)`` samples on the same scale.
        to_target: Matrix from the crop's pixels to the plane's.
        region: Samples of the plane that may change.
        weights: Weights of the crop in the region, 0 to 1.
        peak: Largest sample value.
    """
    left, top, right, bottom = region
    if left >= right or top >= bottom:
        return
    crop, to_target, interpolation = _enlarge(crop, to_target, peak)
    rows = max(_STRIP // (right - left), 1)
    for start in range(top, bottom, rows):
        stop = min(start + rows, bottom)
        shifted, size = to_target - np.array([[0, 0, left], [0, 0, start]]), (right - left, stop - start)
        warped = cv2.warpAffine(crop, shifted, size, flags=interpolation, borderMode=cv2.BORDER_REPLICATE)
        new = np.asarray(warped.astype(np.float32, copy=False))
        if interpolation == cv2.INTER_CUBIC:  # it may overshoot
            np.clip(new, 0, peak, out=new)
        strip = target[start:stop, left:right]
        old = strip.astype(np.float32)
        new -= old
        new *= weights[start - top : stop - top]
        new += old
        new += np.float32(0.5)
        strip[...] = new  # truncates the fraction


def _enlarge(crop: Samples, to_target: Matrix, peak: int) -> tuple[Samples, Matrix, int]:
    """Return the crop to warp, its matrix, and the OpenCV interpolation flag.

    A swapper's crop is mostly smaller than the face, so bilinear warping would blur it. One that is much
    smaller is enlarged first: within a grey level of a bicubic warp, at half the cost.
    """
    zoom, edge = zoom_of(to_target), _ENLARGEMENT * len(crop)
    if zoom <= 1:
        return crop, to_target, cv2.INTER_LINEAR
    if zoom < 2 or edge > _MAX_ENLARGED_EDGE:
        return crop.astype(np.float32), to_target, cv2.INTER_CUBIC  # OpenCV warps float32 faster
    enlarged = cv2.resize(crop, (edge, edge), interpolation=cv2.INTER_CUBIC)
    if peak != 255:  # uint8 saturates at 255 anyway
        np.minimum(enlarged, peak, out=enlarged)
    return enlarged.astype(np.float32), compose(to_target, resizing(1 / _ENLARGEMENT)), cv2.INTER_LINEAR


def _feather(box: Box) -> float:
    left, top, right, bottom = box.tolist()
    return float(max(1.0, _BOX_FEATHER * min(right - left, bottom - top)))


def ramps_of(box: Box, left: int, top: int, columns: int, rows: int) -> tuple[Mask, Mask]:
    """Return the ``(1, columns)`` and ``(1, rows)`` factors of `region_weights` from pixel (left, top) on."""
    across, down = np.ones((1, columns), np.float32), np.ones((1, rows), np.float32)
    x0, y0, x1, y1 = box.tolist()
    _fade(across, x0 - left, x1 - left, _feather(box))
    _fade(down, y0 - top, y1 - top, _feather(box))
    return across, down


def _fade(weights: Mask, low: float, high: float, feather: float) -> None:
    """Multiply columns by a ramp: 0 at ``low`` and ``high`` and outside them, 1 from ``feather`` inside."""
    position = np.arange(weights.shape[1], dtype=np.float32)
    ramp = np.minimum(position - low, high - position)
    ramp /= feather
    weights *= np.minimum(np.maximum(ramp, 0, out=ramp), 1, out=ramp)


def alpha_crop(alpha: ByteImage, matrix: Matrix, size: int) -> ByteImage:
    """Warp a crop out of the alpha plane; outside the image it is opaque."""
    return np.asarray(cv2.warpAffine(alpha, matrix, (size, size), borderValue=255), np.uint8)


def over_white(bgr: ByteImage, alpha: ByteImage) -> ByteImage:
    """Composite ``(H, W, 3)`` colours over white by their ``(H, W)`` alpha."""
    weight = alpha[..., None].astype(np.uint16)
    mixed = bgr * weight + 255 * (255 - weight)
    return np.asarray((mixed + 127) // 255, np.uint8)


def from_over_white(bgr: ByteImage, alpha: ByteImage) -> ByteImage:
    """Invert `over_white`: return the colours it would turn into ``bgr``, clipped to 0 to 255."""
    weight = np.maximum(alpha, 1)[..., None].astype(np.float32) / 255
    return np.asarray(np.clip(255 - (255 - bgr.astype(np.float32)) / weight + 0.5, 0, 255), np.uint8)


# --- planes ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlaneLayout:
    """How one plane of a pixel format maps to the picture."""

    step: tuple[int, int]  # luma samples per sample of this plane, across and down
    to_luma: Matrix  # from this plane's samples to luma samples: ``x = step * u + offset``
    channels: int  # interleaved channels
    dtype: type[np.generic]

    def box_of(self, box: Box) -> Box:
        """Return a box in this plane's samples, given in luma samples."""
        x, y = self.to_luma[:, 2]
        return np.asarray((box - (x, y, x, y)) / (*self.step, *self.step), np.float32)

    def region_of(self, region: Region, samples: Samples) -> Region:
        """Return the region of this plane that covers a region given in luma samples."""
        (sx, sy), (height, width) = self.step, samples.shape[:2]
        left, top, right, bottom = region
        return left // sx, top // sy, min(-(-right // sx), width), min(-(-bottom // sy), height)


@cache
def plane_layouts(name: str) -> tuple[PlaneLayout, ...]:
    """Return the layout of each plane of a pixel format.

    Chroma is sited as H.264/H.265 do by default (chroma location type 0): aligned with the left luma column,
    halfway between lines. In JPEG-style formats it is halfway in both directions.
    """
    layout = WORKING_FORMATS[name]
    dtype = np.uint8 if layout.depth == 8 else np.uint16
    sx, sy = layout.step
    offset = (sx - 1) / 2 if name.startswith("yuvj") else 0.0
    chroma = np.array([[sx, 0, offset], [0, sy, (sy - 1) / 2]], np.float64)
    channels, planes = (2, 1) if layout.interleaved else (1, 2)
    chroma_planes = [PlaneLayout((sx, sy), chroma, channels, dtype)] * planes
    return PlaneLayout((1, 1), scaling(1, 1), 1, dtype), *chroma_planes


def plane_samples(plane: Any, layout: PlaneLayout) -> Samples:
    """View a plane's buffer as ``(H, W)`` or ``(H, W, channels)`` without copying."""
    flat: Samples = np.frombuffer(plane, layout.dtype)
    height, width, line = plane.height, plane.width, plane.line_size // flat.itemsize
    samples = flat[: height * line].reshape(height, line)[:, : width * layout.channels]
    return samples if layout.channels == 1 else samples.reshape(height, width, layout.channels)
