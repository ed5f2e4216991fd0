"""Invert, compose and apply affine 2x3 matrices."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

_MAX_COORDINATE = 1e6

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
    """Return the matrix that scales both axes about the origin."""
    return np.array([[x, 0, 0], [0, y, 0]], np.float64)


def resizing(ratio: float) -> Matrix:
    """Return the pixel mapping of ``cv2.resize`` for an image enlarged ``ratio`` times."""
    shift = (ratio - 1) / 2
    return np.array([[ratio, 0, shift], [0, ratio, shift]], np.float64)


def zoom_of(matrix: Matrix) -> float:
    """Return the scale factor of a similarity transform."""
    (a, b, _), (c, d, _) = matrix.tolist()
    return math.sqrt(abs(a * d - b * c))


def transform_points(points: npt.NDArray[np.generic], matrix: Matrix) -> npt.NDArray[np.float32]:
    """Apply a matrix to ``(N, 2)`` points."""
    return (np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)


def crop_bounds(matrix: Matrix, size: int) -> tuple[float, float, float, float]:
    """Return the bounds of a square crop in the frame ``matrix`` maps from: left, top, right, bottom.

    Degenerate landmarks can yield any value: coordinates are clamped to a million pixels, and NaN becomes 0.
    """
    (a, b, x), (c, d, y) = invert(matrix).tolist()
    edge = size - 1
    xs = x, x + a * edge, x + b * edge, x + (a + b) * edge
    ys = y, y + c * edge, y + d * edge, y + (c + d) * edge
    left, top, right, bottom = (
        min(max(value, -_MAX_COORDINATE), _MAX_COORDINATE) if not math.isnan(value) else 0.0
        for value in (min(xs), min(ys), max(xs), max(ys))
    )
    return left, top, right, bottom
