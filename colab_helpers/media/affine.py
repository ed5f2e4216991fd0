"""Affine 2x3 matrices: the one place that inverts and chains them."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

_FAR = 1e6

Matrix = npt.NDArray[np.float64]
"""``(2, 3)``: maps a point (x, y, 1) to a point (x, y)."""


def invert(matrix: Matrix) -> Matrix:
    """Invert an affine matrix."""
    return np.asarray(cv2.invertAffineTransform(matrix), np.float64)


def compose(outer: Matrix, inner: Matrix) -> Matrix:
    """Return the matrix that applies ``inner`` first and ``outer`` second."""
    chained: Matrix = outer[:, :2] @ inner
    chained[:, 2] += outer[:, 2]
    return chained


def scaling(x: float, y: float) -> Matrix:
    """Scale both axes about the origin."""
    return np.array([[x, 0, 0], [0, y, 0]], np.float64)


def resizing(ratio: float) -> Matrix:
    """Map an image's pixels to those of one ``ratio`` times as large, as ``cv2.resize`` aligns them."""
    shift = (ratio - 1) / 2
    return np.array([[ratio, 0, shift], [0, ratio, shift]], np.float64)


def zoom_of(matrix: Matrix) -> float:
    """How many times as large a similarity makes things."""
    (a, b, _), (c, d, _) = matrix.tolist()
    return math.sqrt(abs(a * d - b * c))


def transform_points(points: npt.NDArray[np.generic], matrix: Matrix) -> npt.NDArray[np.float32]:
    """Apply a matrix to ``(N, 2)`` points."""
    return (np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)


def crop_bounds(matrix: Matrix, size: int) -> tuple[float, float, float, float]:
    """Return where a square crop lies in the frame that ``matrix`` maps from: left, top, right, bottom.

    A degenerate landmark set can throw the corners arbitrarily far: they are kept within a million pixels.
    """
    (a, b, x), (c, d, y) = invert(matrix).tolist()
    edge = size - 1
    xs = x, x + a * edge, x + b * edge, x + (a + b) * edge
    ys = y, y + c * edge, y + d * edge, y + (c + d) * edge
    left, top, right, bottom = (
        min(max(value, -_FAR), _FAR) if not math.isnan(value) else 0.0
        for value in (min(xs), min(ys), max(xs), max(ys))
    )
    return left, top, right, bottom
