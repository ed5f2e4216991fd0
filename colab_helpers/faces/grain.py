"""The grain of a shot inside a face: networks take it out, and a face without it looks pasted."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from colab_helpers.faces.geometry import arcface_template, similarity_transform
from colab_helpers.faces.masks import BOX, FaceMasks
from colab_helpers.faces.types import ByteImage, Face, FloatArray
from colab_helpers.media.affine import Matrix, compose, invert, resizing
from colab_helpers.media.blending import Region, extend_box, face_region, region_weights
from colab_helpers.media.picture import Picture

_SIZE = 128
# What is finer than a blur of so many pixels is grain, as far as it is not stronger than so many times the
# usual: that is a line.
_FINE, _STRONGEST = 1.0, 2.5
# Of normal noise so many percent are within so many standard deviations; lines and edges are not among them.
_CALM, _CALM_WIDTH = 25, 0.3186
_MIN_PIXELS = 256
# Every fourth pixel of every fourth row tells enough.
_STEP = 4


@dataclass(frozen=True, eq=False)
class Grain:
    """The grain that a face had before it was changed.

    Attributes:
        region: Pixels of the face; ``fine`` ``(h, w)`` float32 is what is finer than a blur there.
        weight: How far each square of ``_STEP`` pixels was changed, 0 to 1.
        level: Standard deviation of the grain, in grey levels.
    """

    picture: Picture
    region: Region
    fine: FloatArray
    weight: FloatArray
    level: float

    @classmethod
    def of(
        cls, picture: Picture, face: Face, visibility: ByteImage | None = None, masks: FaceMasks = BOX
    ) -> Grain | None:
        """Take it from a face that is not changed yet; None where next to nothing of it is in the frame.

        What covers the face keeps the grain it has.
        """
        matrix = similarity_transform(face.kps, arcface_template(_SIZE))
        box = extend_box(face.box, picture.width, picture.height)
        region = face_region(matrix, _SIZE, box, picture.width, picture.height)
        left, top, right, bottom = region
        if (right - left) * (bottom - top) < _MIN_PIXELS or right <= left:
            return None
        mask = masks.of(_SIZE, matrix, face, visibility)
        weight = _coarse_weights(mask, invert(matrix), region, box)
        fine = _fine(picture.luma(region))
        level = _level(fine[::_STEP, ::_STEP][weight > 0.5])
        return cls(picture, region, fine, weight * np.float32(face.weight), level)

    def restore(self) -> None:
        """Add as much of it to the changed face as is missing, and never more than there was."""
        fine = _fine(self.picture.luma(self.region))
        limit = _STRONGEST * self.level
        inside = self.weight > 0.5
        now, grain = (
            fine[::_STEP, ::_STEP][inside],
            np.clip(self.fine[::_STEP, ::_STEP][inside], -limit, limit),
        )
        level = _level(now)
        if level >= self.level:
            return
        # What is left of it adds up with what is added; the rest of what is there now does not.
        kept = float(np.vdot(grain, np.clip(now, -limit, limit))) / max(float(np.vdot(grain, grain)), 1e-9)
        other = max(level**2 - (kept * self.level) ** 2, 0.0)
        missing = np.sqrt(max(self.level**2 - other, 0.0)) / self.level - kept
        if missing > 0:
            height, width = self.fine.shape
            weight = cv2.resize(self.weight, None, fx=_STEP, fy=_STEP)[:height, :width]
            added = cv2.multiply(np.clip(self.fine, -limit, limit), weight, scale=missing)
            self.picture.add_luma(self.region, np.asarray(added, np.float32))


def _coarse_weights(mask: FloatArray, to_frame: Matrix, region: Region, box: FloatArray) -> FloatArray:
    """What `region_weights` gives, for every square of ``_STEP`` pixels from the region's corner on."""
    left, top, right, bottom = region
    squares = (0, 0, -(-(right - left) // _STEP), -(-(bottom - top) // _STEP))
    to_squares = compose(resizing(1 / _STEP), np.array([[1.0, 0, -left], [0, 1, -top]]))
    reach = np.asarray(box / _STEP + np.tile(to_squares[:, 2], 2), np.float32)
    return region_weights(mask, compose(to_squares, to_frame), squares, reach)


def _fine(luma: FloatArray) -> FloatArray:
    return np.asarray(cv2.subtract(luma, cv2.GaussianBlur(luma, (5, 5), _FINE)), np.float32)


def _level(values: FloatArray) -> float:
    """Standard deviation of the grain, judged by where it is calm."""
    if not values.size:
        return 0.0
    at = values.size * _CALM // 100
    return float(np.partition(np.abs(values), at)[at]) / _CALM_WIDTH
