"""The planes of a frame, crops blended into them, and colours seen over white."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from colab_helpers.media.affine import Matrix, compose, crop_bounds, resizing, scaling, zoom_of
from colab_helpers.media.formats import WORKING_FORMATS, ByteImage

Mask = npt.NDArray[np.float32]
Region = tuple[int, int, int, int]
"""Half-open pixel rectangle: left, top, right, bottom."""
Box = npt.NDArray[np.float32]

# Samples blended at a time: temporaries stay in the CPU cache, and no face, however large, ever needs a
# frame-sized temporary.
_STRIP = 1 << 17
# The soft edge along the face's box, as a share of the box's shorter side.
_BOX_FEATHER = 0.08
# A crop is enlarged by so many times with a cubic, up to an edge of so many pixels.
_TIMES, _LARGEST = 3, 1024


def face_region(matrix: Matrix, size: int, box: Box, width: int, height: int) -> Region:
    """Return the pixels that both the crop and the face's box cover, clipped to the frame; may be empty."""
    x0, y0, x1, y1 = crop_bounds(matrix, size)
    left, top, right, bottom = box.tolist()
    return (
        max(math.floor(max(x0, left)), 0),
        max(math.floor(max(y0, top)), 0),
        max(min(math.ceil(min(x1, right)) + 1, width), 0),
        max(min(math.ceil(min(y1, bottom)) + 1, height), 0),
    )


def extend_box(box: Box, width: int, height: int) -> Box:
    """Move the sides of a face's box that the frame's border cuts, or nearly so, out beyond the border.

    A change fades out towards the box's sides, because what is beyond is not changed; beyond the border there
    is nothing, and a cut face fades for no reason. Where a side comes near, the fading moves out by degrees,
    so that a face that leaves the frame does not jump.
    """
    feather = _feather(box)
    left, top, right, bottom = box.tolist()
    rooms = left, top, width - 1 - right, height - 1 - bottom
    out = [2 * min(max(feather - room, 0), feather) for room in rooms]
    return np.array([left - out[0], top - out[1], right + out[2], bottom + out[3]], np.float32)


def warp_crop(
    samples: npt.NDArray[Any], matrix: Matrix, size: int, *, averaged: bool = True
) -> npt.NDArray[Any]:
    """Warp a ``(size, size)`` crop out of samples; the border goes on beyond itself.

    Where the crop is less than half as large as what it shows, whole blocks of samples are averaged first,
    unless ``averaged`` is False: reading every n-th one alone would carry the full noise of a large face
    into its small crop.
    """
    shrink = int(1 / max(zoom_of(matrix), 1e-6) + 1e-6)
    height, width = samples.shape[:2]
    if averaged and 2 <= shrink <= min(height, width):
        left, top, right, bottom = crop_bounds(matrix, size)
        x, y = max(math.floor(left) - shrink, 0), max(math.floor(top) - shrink, 0)
        across = (min(math.ceil(right) + 2 * shrink, width) - x) // shrink
        down = (min(math.ceil(bottom) + 2 * shrink, height) - y) // shrink
        if across > 0 and down > 0:
            samples, most = samples[y : y + down * shrink, x : x + across * shrink], shrink
            while most > 2 and most % 2 == 0:  # halves are averaged several times faster than all at once
                samples, most = _averaged(samples, 2), most // 2
            samples = _averaged(samples, most)
            matrix = compose(matrix, resizing(shrink) + np.array([[0, 0, x], [0, 0, y]]))
    crop: npt.NDArray[Any] = cv2.warpAffine(samples, matrix, (size, size), borderMode=cv2.BORDER_REPLICATE)
    return crop


def _averaged(samples: npt.NDArray[Any], block: int) -> npt.NDArray[Any]:
    """Average blocks of so many samples each way, which divide their number."""
    height, width = samples.shape[:2]
    size = width // block, height // block
    return np.asarray(cv2.resize(samples, size, interpolation=cv2.INTER_AREA))


def region_weights(mask: Mask, to_plane: Matrix, region: Region, box: Box) -> Mask:
    """Warp a mask over a region of a plane, and let it fade out towards the face's box."""
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
    target: npt.NDArray[Any],
    crop: npt.NDArray[Any],
    to_target: Matrix,
    region: Region,
    weights: Mask,
    *,
    peak: int = 255,
) -> None:
    """Warp a crop over a region of one plane, strip by strip, and blend in place.

    ``target`` ``(H, W)`` and ``crop`` ``(S, S)`` are samples of one kind, ``peak`` the highest there may be;
    ``to_target`` maps the crop's pixels to the plane's, ``weights`` from 0 to 1 say how far each sample
    changes.
    """
    left, top, right, bottom = region
    if left >= right or top >= bottom:
        return
    crop, to_target, way = _enlarged(crop, to_target, peak)
    rows = max(_STRIP // (right - left), 1)
    for start in range(top, bottom, rows):
        stop = min(start + rows, bottom)
        shifted, size = to_target - np.array([[0, 0, left], [0, 0, start]]), (right - left, stop - start)
        warped = cv2.warpAffine(crop, shifted, size, flags=way, borderMode=cv2.BORDER_REPLICATE)
        new = np.asarray(warped.astype(np.float32, copy=False))
        if way == cv2.INTER_CUBIC:  # it may go beyond
            np.clip(new, 0, peak, out=new)
        strip = target[start:stop, left:right]
        old = strip.astype(np.float32)
        new -= old
        new *= weights[start - top : stop - top]
        new += old
        new += np.float32(0.5)
        strip[...] = new  # drops the fraction


def _enlarged(crop: npt.NDArray[Any], to_target: Matrix, peak: int) -> tuple[npt.NDArray[Any], Matrix, int]:
    """Return what is warped in a crop's place, its matrix, and OpenCV's way to interpolate.

    A swapper's crop is mostly smaller than the face: bilinear would blur it. One that is much smaller is
    first enlarged with a cubic, which comes within a grey level of a cubic warp at half its cost.
    """
    zoom, edge = zoom_of(to_target), _TIMES * len(crop)
    if zoom <= 1:
        return crop, to_target, cv2.INTER_LINEAR
    # Floats are enlarged faster.
    if zoom < 2 or edge > _LARGEST:
        return crop.astype(np.float32), to_target, cv2.INTER_CUBIC
    fine = cv2.resize(crop, (edge, edge), interpolation=cv2.INTER_CUBIC)
    if peak != 255:  # eight bits end there by themselves
        np.minimum(fine, peak, out=fine)
    return fine.astype(np.float32), compose(to_target, resizing(1 / _TIMES)), cv2.INTER_LINEAR


def _feather(box: Box) -> float:
    left, top, right, bottom = box.tolist()
    return float(max(1.0, _BOX_FEATHER * min(right - left, bottom - top)))


def ramps_of(box: Box, left: int, top: int, columns: int, rows: int) -> tuple[Mask, Mask]:
    """What `region_weights` multiplies the columns and the rows from some pixel on with."""
    across, down = np.ones((1, columns), np.float32), np.ones((1, rows), np.float32)
    x0, y0, x1, y1 = box.tolist()
    _fade(across, x0 - left, x1 - left, _feather(box))
    _fade(down, y0 - top, y1 - top, _feather(box))
    return across, down


def _fade(weights: Mask, low: float, high: float, feather: float) -> None:
    """Multiply columns by 0 at the box's edges, at ``low`` and ``high``, and beyond; not further inside."""
    position = np.arange(weights.shape[1], dtype=np.float32)
    ramp = np.minimum(position - low, high - position)
    ramp /= feather
    weights *= np.minimum(np.maximum(ramp, 0, out=ramp), 1, out=ramp)


def alpha_crop(alpha: ByteImage, matrix: Matrix, size: int) -> ByteImage:
    """Warp a crop out of the alpha plane; what lies outside the picture is opaque."""
    return np.asarray(cv2.warpAffine(alpha, matrix, (size, size), borderValue=255), np.uint8)


def over_white(bgr: ByteImage, alpha: ByteImage) -> ByteImage:
    """Blend colours ``(H, W, 3)`` over white as far as they are transparent (``alpha`` below 255)."""
    weight = alpha[..., None].astype(np.uint16)
    mixed = bgr * weight + 255 * (255 - weight)
    return np.asarray((mixed + 127) // 255, np.uint8)


def from_over_white(bgr: ByteImage, alpha: ByteImage) -> ByteImage:
    """Return the colours that `over_white` makes these of, as near as they can be had."""
    weight = np.maximum(alpha, 1)[..., None].astype(np.float32) / 255
    return np.asarray(np.clip(255 - (255 - bgr.astype(np.float32)) / weight + 0.5, 0, 255), np.uint8)


# --- planes ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlaneLayout:
    """How one plane of a format lies on the picture."""

    step: tuple[int, int]  # luma samples to one of the plane, across and down
    to_luma: Matrix  # from the plane's samples to luma's: ``x = step * u + offset``
    channels: int  # samples side by side in it
    dtype: type[np.generic]

    def box_of(self, box: Box) -> Box:
        """A box of luma's pixels in the plane's samples."""
        x, y = self.to_luma[:, 2]
        return np.asarray((box - (x, y, x, y)) / (*self.step, *self.step), np.float32)

    def region_of(self, region: Region, samples: npt.NDArray[Any]) -> Region:
        """The samples inside a region of luma's pixels."""
        (sx, sy), (height, width) = self.step, samples.shape[:2]
        left, top, right, bottom = region
        return left // sx, top // sy, min(-(-right // sx), width), min(-(-bottom // sy), height)


@cache
def plane_layouts(name: str) -> tuple[PlaneLayout, ...]:
    """The planes of a pixel format.

    H.264/H.265 default (chroma location type 0): the first chroma sample lies level with the left luma
    column, halfway between lines. JPEG-style formats: halfway in both directions.
    """
    layout = WORKING_FORMATS[name]
    dtype = np.uint8 if layout.depth == 8 else np.uint16
    sx, sy = layout.step
    across = (sx - 1) / 2 if name.startswith("yuvj") else 0.0
    chroma = np.array([[sx, 0, across], [0, sy, (sy - 1) / 2]], np.float64)
    colours = (
        [PlaneLayout((sx, sy), chroma, 2, dtype)]
        if layout.interleaved
        else [PlaneLayout((sx, sy), chroma, 1, dtype)] * 2
    )
    return PlaneLayout((1, 1), scaling(1, 1), 1, dtype), *colours


def plane_samples(plane: Any, grid: PlaneLayout) -> npt.NDArray[Any]:
    """View a plane's buffer as ``(H, W)`` or ``(H, W, channels)`` without copying."""
    flat: npt.NDArray[Any] = np.frombuffer(plane, grid.dtype)
    height, width, line = plane.height, plane.width, plane.line_size // flat.itemsize
    samples = flat[: height * line].reshape(height, line)[:, : width * grid.channels]
    return samples if grid.channels == 1 else samples.reshape(height, width, grid.channels)
