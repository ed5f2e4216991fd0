"""Faces made unrecognisable: what is left of one is a few colours, however large it is."""

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

# A crop shows so many times a face's box each way, and so many times the box is hidden: ears and forehead
# reach out of it. Of the crop so many colours are left each way: some four across the face, where people know
# who is familiar to them by seven (Sinha et al. 2006, result 1).
_SHOWN, _HIDDEN, _CELLS = 1.6, 1.3, 6
_SIZE = 24 * _CELLS
_EXPONENT, _SOFTNESS = 4.0, 0.015


@dataclass(frozen=True)
class Anonymizer:
    """Blurs faces, or shows them as large squares; nothing of what they were is in the result.

    Neither asks what is before a face, nor fades in and out: a face is hidden wherever it may be.
    """

    action: Literal["blur", "pixelate"]
    masks: FaceMasks = BOX

    def crop(self, _picture: Picture, _face: Face) -> None:
        """Nothing is shown to a swapper."""

    def change(self, jobs: Sequence[FaceJob]) -> None:
        """Change every face in place."""
        for job in jobs:
            matrix, box = _place(job.face.box)
            hidden = self._hidden(job.picture.crop(matrix, _SIZE))
            job.picture.paste(hidden, matrix, _mask(), box=box)

    def _hidden(self, crop: ByteImage) -> ByteImage:
        # A blur alone could be undone; colours that are not there cannot.
        few = cv2.resize(crop, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA)
        way = cv2.INTER_NEAREST if self.action == "pixelate" else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(few, (_SIZE, _SIZE), interpolation=way), np.uint8)


def _place(box: FloatArray) -> tuple[Matrix, FloatArray]:
    """Where the crop around a face's box is: from the frame to it, and its box in the frame."""
    middle, half = (box[:2] + box[2:]) / 2, np.maximum(box[2:] - box[:2], 2) / 2 * _SHOWN
    scale = _SIZE / (2 * half)
    shift = _SIZE / 2 - scale * middle - 0.5
    matrix = np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]]], np.float64)
    # Wider than the crop: what fades out towards a face's box must not.
    return matrix, np.concatenate([middle - 2 * half, middle + 2 * half]).astype(np.float32)


@cache
def _mask() -> FloatArray:
    """A square with round corners and soft edges, ``(S, S)`` float32, 1 wherever the face is."""
    axis = (np.arange(_SIZE, dtype=np.float32) - (_SIZE - 1) / 2) / (_SIZE / 2 * _HIDDEN / _SHOWN)
    power = np.abs(axis) ** _EXPONENT
    mask = (power[:, None] + power[None, :] <= 1).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), _SOFTNESS * _SIZE), np.float32)
