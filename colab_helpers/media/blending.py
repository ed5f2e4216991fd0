"""Crops blended into planes of samples, and colours seen over white."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from colab_helpers.media.affine import Matrix, compose, crop_corners
from colab_helpers.media.formats import ByteImage

Mask = npt.NDArray[np.float32]
Region = tuple[int, int, int, int]
"""Half-open pixel rectangle: left, top, right, bottom."""
Box = npt.NDArray[np.float32]

# Rows blended at a time: temporaries stay in the CPU cache, and no face, however large, ever needs a
# frame-sized temporary.
_STRIP_ROWS = 96
# The soft edge along the face's box, as a share of the box's shorter side.
_BOX_FEATHER = 0.08


def face_region(matrix: Matrix, size: int, box: Box, width: int, height: int) -> Region:
    """Return the pixels that both the crop and the face's box cover, clipped to the frame; may be empty."""
    # A degenerate landmark set can throw the corners arbitrarily far; clip before converting to int.
    points = np.clip(np.nan_to_num(crop_corners(matrix, size)), -1e6, 1e6)
    left, top = np.floor(np.maximum(points.min(0), box[:2]))
    right, bottom = np.ceil(np.minimum(points.max(0), box[2:])) + 1
    return (
        int(max(left, 0)),
        int(max(top, 0)),
        int(max(min(right, width), 0)),
        int(max(min(bottom, height), 0)),
    )


def open_box(box: Box, width: int, height: int) -> Box:
    """Move the sides of a face's box that the frame's border cuts, or nearly so, out beyond the border.

    A change fades out towards the box's sides, because what is beyond is not changed; beyond the border there
    is nothing, and a cut face fades for no reason. Where a side comes near, the fading moves out by degrees,
    so that a face that leaves the frame does not jump.
    """
    feather = _feather(box)
    room = np.array([box[0], box[1], width - 1 - box[2], height - 1 - box[3]], np.float32)
    out = 2 * np.clip(feather - room, 0, feather)
    return np.asarray(box + out * np.array([-1, -1, 1, 1], np.float32), np.float32)


def warp_crop(samples: npt.NDArray[Any], matrix: Matrix, size: int) -> npt.NDArray[Any]:
    """Warp a ``(size, size)`` crop out of samples; the border goes on beyond itself.

    Where the crop is less than half as large as what it shows, whole blocks of samples are averaged first:
    reading every n-th one alone would carry the full noise of a large face into its small crop.
    """
    shrink = shrinks_by(matrix)
    height, width = samples.shape[:2]
    if 2 <= shrink <= min(height, width):
        points = np.clip(crop_corners(matrix, size), -1e6, 1e6)
        low = np.clip(np.floor(points.min(0)) - shrink, 0, None).astype(int)
        blocks = np.minimum(np.ceil(points.max(0)) + 2 * shrink, (width, height)).astype(int) - low
        across, down = blocks // shrink
        if across > 0 and down > 0:
            part = samples[low[1] : low[1] + down * shrink, low[0] : low[0] + across * shrink]
            samples = cv2.resize(part, (int(across), int(down)), interpolation=cv2.INTER_AREA)
            middle = low + (shrink - 1) / 2
            matrix = compose(matrix, np.array([[shrink, 0, middle[0]], [0, shrink, middle[1]]]))
    crop: npt.NDArray[Any] = cv2.warpAffine(samples, matrix, (size, size), borderMode=cv2.BORDER_REPLICATE)
    return crop


def shrinks_by(matrix: Matrix) -> int:
    """How many samples each way a crop averages; less than two: it reads each by itself."""
    return int(1 / max(np.sqrt(abs(np.linalg.det(matrix[:, :2]))), 1e-6) + 1e-6)


def region_weights(mask: Mask, to_frame: Matrix, region: Region, box: Box) -> Mask:
    """Warp a mask over a region of the frame, and let it fade out towards the face's box."""
    left, top, right, bottom = region
    shifted = to_frame - np.array([[0, 0, left], [0, 0, top]])
    weight: npt.NDArray[Any] = cv2.warpAffine(mask, shifted, (right - left, bottom - top))
    weight *= box_ramp(left, right, box[0], box[2], box)
    weight *= box_ramp(top, bottom, box[1], box[3], box)[:, None]
    return weight


def blend_plane(
    target: npt.NDArray[Any],
    crop: npt.NDArray[Any],
    mask: Mask,
    to_target: Matrix,
    region: Region,
    box: Box,
) -> None:
    """Warp crop and mask over a region of one plane, strip by strip, and blend in place."""
    left, top, right, bottom = region
    if left >= right or top >= bottom:
        return
    ramp_x = box_ramp(left, right, box[0], box[2], box)
    for start in range(top, bottom, _STRIP_ROWS):
        stop = min(start + _STRIP_ROWS, bottom)
        shifted = to_target - np.array([[0, 0, left], [0, 0, start]])
        size = (right - left, stop - start)
        weight: npt.NDArray[Any] = cv2.warpAffine(mask, shifted, size)
        weight *= ramp_x
        weight *= box_ramp(start, stop, box[1], box[3], box)[:, None]
        # A swapper's crop is mostly smaller than the face: bilinear would blur it.
        new = cv2.warpAffine(crop, shifted, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        _blend_strip(target[start:stop, left:right], new, weight)


def _blend_strip(strip: npt.NDArray[Any], new: npt.NDArray[Any], weight: npt.NDArray[Any]) -> None:
    """``strip += (new - strip) * weight``, rounded, in place."""
    if strip.ndim == 3:
        weight = cv2.merge([weight] * strip.shape[2])  # OpenCV does not broadcast
    difference = cv2.subtract(new, strip, dtype=cv2.CV_32F)
    cv2.multiply(difference, weight, dst=difference)
    depth = cv2.CV_8U if strip.dtype == np.uint8 else cv2.CV_16U
    strip[...] = cv2.add(strip, difference, dtype=depth)


def _feather(box: Box) -> float:
    return max(1.0, _BOX_FEATHER * float(min(box[2] - box[0], box[3] - box[1])))


def box_ramp(start: int, stop: int, low: float, high: float, box: Box) -> npt.NDArray[np.float32]:
    """Weights along one axis: 0 at the box's edges and beyond, 1 further inside than the feather."""
    feather = _feather(box)
    position = np.arange(start, stop, dtype=np.float32)
    ramp: npt.NDArray[np.float32] = np.clip(np.minimum(position - low, high - position) / feather, 0, 1)
    return ramp.astype(np.float32)


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
