"""The grain of a shot inside a face: networks take it out, and a face without it looks pasted."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from colab_helpers.faces.geometry import arcface_template, similarity_transform
from colab_helpers.faces.masks import face_mask
from colab_helpers.faces.types import Face, FloatArray
from colab_helpers.media.affine import invert
from colab_helpers.media.blending import Region, face_region, region_weights
from colab_helpers.media.picture import Picture

_SIZE = 128
# What is finer than a blur of so many pixels is grain, as far as it is not stronger than so many times the
# usual: that is a line.
_FINE, _STRONGEST = 1.0, 2.5
# Of normal noise so many percent are within so many standard deviations; lines and edges are not among them.
_CALM, _CALM_WIDTH = 25, 0.3186
_LEAST_PIXELS = 256


@dataclass(frozen=True, eq=False)
class Grain:
    """The grain that a face had before it was changed.

    Attributes:
        region: Pixels of the face; ``fine`` ``(h, w)`` float32 is what is finer than a blur there.
        weight: How far each of them was changed, 0 to 1.
    """

    picture: Picture
    region: Region
    fine: FloatArray
    weight: FloatArray

    @classmethod
    def of(cls, picture: Picture, face: Face) -> Grain | None:
        """Take it from a face that is not changed yet; None where next to nothing of it is in the frame."""
        matrix = similarity_transform(face.kps, arcface_template(_SIZE))
        region = face_region(matrix, _SIZE, face.box, picture.width, picture.height)
        left, top, right, bottom = region
        if (right - left) * (bottom - top) < _LEAST_PIXELS or right <= left:
            return None
        weight = region_weights(face_mask(_SIZE), invert(matrix), region, face.box)
        return cls(picture, region, _fine(picture.luma(region)), weight * np.float32(face.weight))

    def restore(self) -> None:
        """Add as much of it to the changed face as is missing, and never more than there was."""
        inside = self.weight > 0.5
        fine = _fine(self.picture.luma(self.region))
        before, now = _level(self.fine, inside), _level(fine, inside)
        if now >= before:
            return
        limit = _STRONGEST * before
        grain = np.clip(self.fine, -limit, limit)
        # What is left of it adds up with what is added; the rest of what is there now does not.
        kept = float(np.vdot(grain[inside], np.clip(fine[inside], -limit, limit)))
        kept /= max(float(np.square(grain[inside]).sum()), 1e-9)
        other = max(now**2 - (kept * before) ** 2, 0.0)
        missing = np.sqrt(max(before**2 - other, 0.0)) / before - kept
        self.picture.add_luma(self.region, grain * self.weight * np.float32(max(missing, 0.0)))


def _fine(luma: FloatArray) -> FloatArray:
    return np.asarray(luma - cv2.GaussianBlur(luma, (0, 0), _FINE), np.float32)


def _level(fine: FloatArray, inside: npt.NDArray[np.bool_]) -> float:
    """Standard deviation of the grain, judged by where it is calm."""
    values = np.abs(fine[inside])
    return float(np.percentile(values, _CALM)) / _CALM_WIDTH if values.size else 0.0
