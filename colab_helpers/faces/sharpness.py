"""How sharp a face is in its shot: a swapped one that is enhanced beyond that looks like plastic."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from colab_helpers.faces.geometry import FFHQ_512, similarity_transform
from colab_helpers.faces.types import ByteImage, Face, FloatArray
from colab_helpers.media.affine import compose, zoom_of
from colab_helpers.media.picture import Picture

_SIZE = 512
# From eye to eye and down to the mouth, as shares of an FFHQ crop: it is inside every mask.
_LEFT, _TOP, _EDGE = 0.3125, 0.4375, 0.375
_MIN_PIXELS = 24
_MOST = 1.1
"""How sharp a face may become, times what it was."""
MAX_PIXELS = round(_EDGE * _SIZE)
"""A face is looked at in so many pixels a side at most."""
REACH = 3
"""Pixels that count beside one for its Laplacian."""


@dataclass(frozen=True)
class Sharpness:
    """How sharp a face was before it was changed, at the size at which it is seen.

    Attributes:
        pixels: Edge of the square in which it was measured, at that size.
        power: Mean square of the Laplacian there.
    """

    pixels: int
    power: float

    @classmethod
    def of(cls, picture: Picture, face: Face) -> Sharpness | None:
        """Measure a face that is not changed yet; None where it is too small to tell."""
        matrix = similarity_transform(face.kps, FFHQ_512)
        pixels = round(_EDGE * _SIZE / max(zoom_of(matrix), 1.0))
        if pixels < _MIN_PIXELS:
            return None
        scale = pixels / (_EDGE * _SIZE)
        shown = np.array([[scale, 0, -scale * _LEFT * _SIZE], [0, scale, -scale * _TOP * _SIZE]])
        # Through the colours, whatever the frame's own luma weighs them with: as a crop's are.
        crop = picture.crop(compose(shown, matrix), pixels)
        edges = _edges(np.asarray(cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY), np.uint8))
        return cls(pixels, _product(edges, edges))

    def share(self, crop: ByteImage, enhanced: ByteImage, most: float) -> float:
        """Return how much of an enhanced crop may be used, at most ``most`` (0 to 1).

        The Laplacian of a mixture is the mixture of the Laplacians, so its power is a quadratic of the share.
        """
        plain = self._seen(crop)
        added = self._seen(enhanced) - plain
        square, linear = _product(added, added), _product(plain, added)
        spare = self.most - _product(plain, plain)
        if square * most**2 + 2 * linear * most <= spare:
            return most
        root = np.sqrt(max(linear**2 + square * spare, 0.0))
        return float(np.clip((root - linear) / max(square, 1e-9), 0.0, most))

    @property
    def most(self) -> float:
        """The power it may have at most."""
        return _MOST**2 * self.power

    def places(self, size: int) -> FloatArray:
        """Return where a crop is looked at, ``(2, pixels + 2 REACH)``: x and y, mirrored beyond its part."""
        left, top, edge = part_of(size)
        near = np.abs(np.arange(-REACH, self.pixels + REACH))
        near = np.minimum(near, 2 * (self.pixels - 1) - near)  # as OpenCV's filters go on beyond an edge
        inside = np.clip((near + 0.5) * edge / self.pixels - 0.5, 0, edge - 1)
        return np.stack([left + inside, top + inside]).astype(np.float32)

    def _seen(self, crop: ByteImage) -> FloatArray:
        left, top, edge = part_of(crop.shape[0])
        grey = cv2.cvtColor(crop[top : top + edge, left : left + edge], cv2.COLOR_BGR2GRAY)
        # Bilinear, as it is pasted.
        return _edges(np.asarray(cv2.resize(grey, (self.pixels, self.pixels)), np.uint8))


def part_of(size: int) -> tuple[int, int, int]:
    """Left, top and edge of the part that is looked at of a crop."""
    left, top, edge = (round(share * size) for share in (_LEFT, _TOP, _EDGE))
    return left, top, edge


def edges_kernel() -> FloatArray:
    """What `_edges` does to a picture's brightness as one filter, ``(2 REACH + 1, 2 REACH + 1)``."""
    point = np.zeros((4 * REACH + 1, 4 * REACH + 1), np.uint8)
    point[2 * REACH, 2 * REACH] = 1
    return _edges(point)[REACH:-REACH, REACH:-REACH]


def _edges(grey: ByteImage) -> FloatArray:
    """Return the Laplacian of a picture's brightness, blurred by a pixel: grain is not sharpness."""
    smooth = cv2.GaussianBlur(grey.astype(np.float32), (5, 5), 1.0)
    return np.asarray(cv2.Laplacian(smooth, cv2.CV_32F), np.float32)


def _product(one: FloatArray, other: FloatArray) -> float:
    return float(np.vdot(one, other)) / one.size
