"""Film grain and noise of a face: networks remove it, and a face without it looks pasted on."""

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
# Grain is what a Gaussian blur of this sigma (pixels) removes, clipped to this many standard deviations of
# grain: what is stronger is a line.
_SIGMA, _CLIP = 1.0, 2.5
# The grain level is estimated from a low percentile of magnitudes, so that lines and edges do not count: this
# percentage of normal noise lies within this many standard deviations.
_PERCENT, _PERCENT_WIDTH = 25, 0.3186
_MIN_PIXELS = 256
_STEP = 4  # statistics are taken over every fourth pixel of every fourth row


@dataclass(frozen=True, eq=False)
class Grain:
    """The grain that a face had before it was changed.

    Attributes:
        picture: The picture that shows the face.
        region: Pixels of the face.
        fine: Fine detail of the luma there, ``(h, w)`` float32.
        weight: Opacity of the change in each square of ``_STEP`` pixels, 0 to 1.
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
        """Measure a face before it is changed; return None if hardly any of it is in the frame.

        Occluders keep their own grain.
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
        """Add to the changed face as much of its former grain as it lost, and no more."""
        limit, inside = _CLIP * self.level, self.weight > 0.5
        now = _fine(self.picture.luma(self.region))[::_STEP, ::_STEP][inside]
        grain = np.clip(self.fine[::_STEP, ::_STEP][inside], -limit, limit)
        level = _level(now)
        if level >= self.level:
            return
        # Former grain that is left correlates with what is added: amplitudes add up. For the rest powers do.
        kept = float(np.vdot(grain, np.clip(now, -limit, limit))) / max(float(np.vdot(grain, grain)), 1e-9)
        other = max(level**2 - (kept * self.level) ** 2, 0.0)
        missing = np.sqrt(max(self.level**2 - other, 0.0)) / self.level - kept
        if missing > 0:
            height, width = self.fine.shape
            weight = cv2.resize(self.weight, None, fx=_STEP, fy=_STEP)[:height, :width]
            added = cv2.multiply(np.clip(self.fine, -limit, limit), weight, scale=missing)
            self.picture.add_luma(self.region, np.asarray(added, np.float32))


def _coarse_weights(mask: FloatArray, to_frame: Matrix, region: Region, box: FloatArray) -> FloatArray:
    """Return `region_weights` at 1 / ``_STEP`` of the resolution, counted from the region's corner."""
    left, top, right, bottom = region
    coarse_region = (0, 0, -(-(right - left) // _STEP), -(-(bottom - top) // _STEP))
    to_coarse = compose(resizing(1 / _STEP), np.array([[1.0, 0, -left], [0, 1, -top]]))
    coarse_box = np.asarray(box / _STEP + np.tile(to_coarse[:, 2], 2), np.float32)
    return region_weights(mask, compose(to_coarse, to_frame), coarse_region, coarse_box)


def _fine(luma: FloatArray) -> FloatArray:
    return np.asarray(cv2.subtract(luma, cv2.GaussianBlur(luma, (5, 5), _SIGMA)), np.float32)


def _level(values: FloatArray) -> float:
    """Estimate the standard deviation of grain from a low percentile of its magnitude."""
    if not values.size:
        return 0.0
    rank = values.size * _PERCENT // 100
    return float(np.partition(np.abs(values), rank)[rank]) / _PERCENT_WIDTH
