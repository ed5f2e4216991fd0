"""Anonymization of faces: blurring or pixelating them down to a few colours, whatever their size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import cv2
import numpy as np

from colab_helpers.faces.masks import BOX, FaceMasks
from colab_helpers.faces.types import ByteImage, Face, FaceJob, FloatArray
from colab_helpers.media.affine import Matrix
from colab_helpers.media.picture import Picture

# Width and height of the crop and of its hidden part, in sizes of the face's box: ears and forehead extend
# beyond the box. The crop is reduced to _CELLS colours each way, so that about four are left across the face;
# people recognise familiar faces from seven on (Sinha et al. 2006, result 1).
_CROP_SCALE, _HIDDEN_SCALE, _CELLS = 1.6, 1.3, 6
_SIZE = 24 * _CELLS
_EXPONENT, _SOFTNESS = 4.0, 0.015


@dataclass(frozen=True)
class Anonymizer:
    """Blurs or pixelates faces so that the original cannot be restored.

    Occluders and fade weights are ignored: a face is hidden wherever it may be.
    """

    action: Literal["blur", "pixelate"]
    masks: FaceMasks = BOX

    def crop(self, _picture: Picture, _face: Face) -> None:
        """Return None: there is no swapper that needs a crop."""

    def change(self, jobs: Sequence[FaceJob]) -> None:
        """Change every face in place."""
        for job in jobs:
            matrix, box = _crop_placement(job.face.box)
            hidden = self._obscure(job.picture.crop(matrix, _SIZE))
            job.picture.paste(hidden, matrix, _mask(), box=box)

    def _obscure(self, crop: ByteImage) -> ByteImage:
        # Reduce the resolution first: a blur alone could be undone.
        cells = cv2.resize(crop, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA)
        interpolation = cv2.INTER_NEAREST if self.action == "pixelate" else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(cells, (_SIZE, _SIZE), interpolation=interpolation), np.uint8)


def _crop_placement(box: FloatArray) -> tuple[Matrix, FloatArray]:
    """Return the transform from the frame to the crop around a face, and the box to paste it into."""
    centre, half = (box[:2] + box[2:]) / 2, np.maximum(box[2:] - box[:2], 2) / 2 * _CROP_SCALE
    scale = _SIZE / (2 * half)
    shift = _SIZE / 2 - scale * centre - 0.5
    matrix = np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]]], np.float64)
    # Twice the crop, so that pasting, which fades out towards the edges of the box, keeps the crop opaque.
    return matrix, np.concatenate([centre - 2 * half, centre + 2 * half]).astype(np.float32)


@cache
def _mask() -> FloatArray:
    """Return a square with rounded, soft edges, ``(S, S)`` float32, that is 1 all over the face."""
    axis = (np.arange(_SIZE, dtype=np.float32) - (_SIZE - 1) / 2) / (_SIZE / 2 * _HIDDEN_SCALE / _CROP_SCALE)
    power = np.abs(axis) ** _EXPONENT
    mask = (power[:, None] + power[None, :] <= 1).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), _SOFTNESS * _SIZE), np.float32)
