"""Soft masks in crop space, made once per size; the compositor warps them over a face's box."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

from colab_helpers.faces.types import FloatArray

# A superellipse keeps chin and forehead, which a circle cuts, and drops the crop's corners, which show
# background. Half-axis and softness as shares of the crop's edge.
_EXPONENT = 4.0
_HALF_AXIS = 0.44
_SOFTNESS = 0.035


@cache
def face_mask(size: int) -> FloatArray:
    """Rounded square with soft edges, ``(size, size)`` float32: 1 inside, 0 along the border."""
    axis = (np.arange(size, dtype=np.float32) - (size - 1) / 2) / (_HALF_AXIS * size)
    power = np.abs(axis) ** _EXPONENT
    inside = (power[:, None] + power[None, :] <= 1).astype(np.float32)
    mask = cv2.GaussianBlur(inside, (0, 0), _SOFTNESS * size)
    mask[[0, -1], :] = 0
    mask[:, [0, -1]] = 0
    mask.setflags(write=False)
    return np.asarray(mask)


def weighted(mask: FloatArray, weight: float) -> FloatArray:
    """The mask at a share, 0 to 1, of its strength."""
    return mask if weight >= 1 else mask * np.float32(weight)
