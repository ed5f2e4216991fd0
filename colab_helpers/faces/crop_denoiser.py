"""A still face shown to the swapper with less noise than a frame has: networks answer noise with flicker."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from colab_helpers.faces.types import ByteImage, Face
from colab_helpers.media.picture import Picture

# So much of the frame before is mixed in where nothing moves; where the two differ by so many grey levels
# over some pixels, next to nothing is.
_SHARE, _MOVED, _PATCH = 0.25, 2.0, 5
_SHARES = (_SHARE * np.exp(-np.square(np.arange(256) / _MOVED))).astype(np.float32)


class CropDenoiser:
    """Cuts the crops of a video's faces in the order of its frames; see `crops`.

    Args:
        cut: Cuts out what the swapper sees of a face; None where nothing is swapped.
    """

    def __init__(self, cut: Callable[[Picture, Face], ByteImage | None]) -> None:
        self._cut = cut
        self._before: dict[int, ByteImage] = {}

    def crops(self, picture: Picture, faces: Sequence[Face], *, first: bool) -> dict[int | None, ByteImage]:
        """Return what the swapper is shown of the next frame's faces, by track.

        Args:
            picture: Its pixels, not changed yet.
            faces: The faces that are changed.
            first: Whether a run may begin with it: nothing before it counts.
        """
        before = {} if first else self._before
        self._before = {}
        crops: dict[int | None, ByteImage] = {}
        for face in faces:
            crop = self._cut(picture, face)
            if crop is not None and face.track is not None:
                self._before[face.track] = crop
                known = face.track in before
                crops[face.track] = _steadied(crop, before[face.track]) if known else crop
        return crops


def _steadied(crop: ByteImage, before: ByteImage) -> ByteImage:
    """Mix what a crop's frame before has, where it is the same but for noise."""
    difference = cv2.subtract(before, crop, dtype=cv2.CV_32F)
    moved = cv2.convertScaleAbs(cv2.blur(difference, (_PATCH, _PATCH)))
    mixed = cv2.multiply(difference, cv2.LUT(moved, _SHARES))
    return np.asarray(cv2.add(crop, mixed, dtype=cv2.CV_8U), np.uint8)
