"""Temporal denoising of the swapper's input crops: noise in the input makes the output flicker."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from colab_helpers.faces.types import ByteImage, Face
from colab_helpers.media.picture import Picture

# Weight of the previous frame where nothing moves; the mean difference in grey levels that lowers it to 1/e;
# edge of the patch over which the difference is averaged, in pixels.
_WEIGHT, _MOTION, _PATCH = 0.25, 2.0, 5
_WEIGHTS = (_WEIGHT * np.exp(-np.square(np.arange(256) / _MOTION))).astype(np.float32)


class CropDenoiser:
    """Cuts and denoises the crops of a video's faces, frame by frame; see `crops`.

    Args:
        cut: Cuts the crop that the swapper takes of a face; returns None if nothing is swapped.
    """

    def __init__(self, cut: Callable[[Picture, Face], ByteImage | None]) -> None:
        self._cut = cut
        self._before: dict[int, ByteImage] = {}

    def crops(self, picture: Picture, faces: Sequence[Face], *, first: bool) -> dict[int | None, ByteImage]:
        """Return the swapper's input crops for the next frame's faces, by track.

        Args:
            picture: The frame, unchanged so far.
            faces: The faces to be changed.
            first: Whether a run may start at this frame, which then must not depend on earlier ones.
        """
        before = {} if first else self._before
        self._before = {}
        crops: dict[int | None, ByteImage] = {}
        for face in faces:
            crop = self._cut(picture, face)
            if crop is not None and face.track is not None:
                self._before[face.track] = crop
                known = face.track in before
                crops[face.track] = _denoise(crop, before[face.track]) if known else crop
        return crops


def _denoise(crop: ByteImage, before: ByteImage) -> ByteImage:
    """Mix in the previous frame's crop where the two differ by noise only."""
    difference = cv2.subtract(before, crop, dtype=cv2.CV_32F)
    motion = cv2.convertScaleAbs(cv2.blur(difference, (_PATCH, _PATCH)))
    mixed = cv2.multiply(difference, cv2.LUT(motion, _WEIGHTS))
    return np.asarray(cv2.add(crop, mixed, dtype=cv2.CV_8U), np.uint8)
