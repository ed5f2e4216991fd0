"""Sharpness of a face in its shot: a swapped face that is enhanced beyond it looks artificial."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from colab_helpers.faces.geometry import FFHQ_512, similarity_transform
from colab_helpers.faces.types import ByteImage, Face, FloatArray
from colab_helpers.media.affine import compose, zoom_of
from colab_helpers.media.picture import Picture

_SIZE = 512
# Square from eye to eye and down to the mouth, relative to an FFHQ crop; it lies inside every mask.
_LEFT, _TOP, _EDGE = 0.3125, 0.4375, 0.375
_MIN_PIXELS = 24
_MAX_GAIN = 1.1  # how much sharper than the original a face may become
MAX_PIXELS = round(_EDGE * _SIZE)
"""Maximum edge, in pixels, of the square in which sharpness is measured."""
REACH = 3
"""Radius, in pixels, of the filter of `edges_kernel`."""


@dataclass(frozen=True)
class Sharpness:
    """Sharpness of a face before it is changed, at its size in the frame.

    Attributes:
        pixels: Edge of the square in which it was measured, in pixels of about the frame's size.
        power: Mean square of the Laplacian there.
    """

    pixels: int
    power: float

    @classmethod
    def of(cls, picture: Picture, face: Face) -> Sharpness | None:
        """Measure a face before it is changed; return None if it is too small."""
        matrix = similarity_transform(face.kps, FFHQ_512)
        pixels = round(_EDGE * _SIZE / max(zoom_of(matrix), 1.0))
        if pixels < _MIN_PIXELS:
            return None
        scale = pixels / (_EDGE * _SIZE)
        to_square = np.array([[scale, 0, -scale * _LEFT * _SIZE], [0, scale, -scale * _TOP * _SIZE]])
        # Grey is computed from BGR, as for the crops it is compared with, not taken from the frame's luma.
        crop = picture.crop(compose(to_square, matrix), pixels)
        edges = _edges(np.asarray(cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY), np.uint8))
        return cls(pixels, _product(edges, edges))

    def share(self, crop: ByteImage, enhanced: ByteImage, max_share: float) -> float:
        """Return the largest opacity, 0 to ``max_share``, at which an enhanced crop is not too sharp.

        The Laplacian of a blend is the blend of the Laplacians, so its power is quadratic in the opacity.
        """
        plain = self._scaled_edges(crop)
        added = self._scaled_edges(enhanced) - plain
        square, linear = _product(added, added), _product(plain, added)
        spare = self.max_power - _product(plain, plain)
        if square * max_share**2 + 2 * linear * max_share <= spare:
            return max_share
        root = np.sqrt(max(linear**2 + square * spare, 0.0))
        return float(np.clip((root - linear) / max(square, 1e-9), 0.0, max_share))

    @property
    def max_power(self) -> float:
        """Maximum power of the changed face."""
        return _MAX_GAIN**2 * self.power

    def positions(self, size: int) -> FloatArray:
        """Return x and y where a crop is sampled, ``(2, pixels + 2 REACH)``; mirrored beyond the square."""
        left, top, edge = _square(size)
        index = np.abs(np.arange(-REACH, self.pixels + REACH))
        index = np.minimum(index, 2 * (self.pixels - 1) - index)  # as OpenCV's filters extend a picture
        inside = np.clip((index + 0.5) * edge / self.pixels - 0.5, 0, edge - 1)
        return np.stack([left + inside, top + inside]).astype(np.float32)

    def _scaled_edges(self, crop: ByteImage) -> FloatArray:
        left, top, edge = _square(crop.shape[0])
        grey = cv2.cvtColor(crop[top : top + edge, left : left + edge], cv2.COLOR_BGR2GRAY)
        # Bilinear, as when the crop is pasted.
        return _edges(np.asarray(cv2.resize(grey, (self.pixels, self.pixels)), np.uint8))


def _square(size: int) -> tuple[int, int, int]:
    """Return left, top and edge of the square in which a crop is measured."""
    left, top, edge = (round(share * size) for share in (_LEFT, _TOP, _EDGE))
    return left, top, edge


def edges_kernel() -> FloatArray:
    """Return the filter of `_edges` as one kernel, ``(2 REACH + 1, 2 REACH + 1)``."""
    point = np.zeros((4 * REACH + 1, 4 * REACH + 1), np.uint8)
    point[2 * REACH, 2 * REACH] = 1
    return _edges(point)[REACH:-REACH, REACH:-REACH]


def _edges(grey: ByteImage) -> FloatArray:
    """Return the Laplacian of a grey picture, blurred by one pixel first, as grain is not sharpness."""
    smooth = cv2.GaussianBlur(grey.astype(np.float32), (5, 5), 1.0)
    return np.asarray(cv2.Laplacian(smooth, cv2.CV_32F), np.float32)


def _product(one: FloatArray, other: FloatArray) -> float:
    return float(np.vdot(one, other)) / one.size
