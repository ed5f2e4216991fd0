"""The ``Face`` and ``FaceJob`` records, and the array types used for pixels and points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from colab_helpers.media.formats import ByteImage as ByteImage
from colab_helpers.media.picture import Picture

FloatArray = npt.NDArray[np.float32]
AnyArray = npt.NDArray[Any]
UNKNOWN: FloatArray = np.full(2, np.nan, np.float32)
"""`Face.attributes` where sex and age were not estimated."""


@dataclass(frozen=True, eq=False)
class Face:
    """One face in one frame, in pixels of the full frame (x right, y down).

    Attributes:
        box: Bounding box, ``(4,)`` float32, xyxy; may extend beyond the frame.
        kps: Landmarks, ``(5, 2)`` float32: image-left and image-right eye, nose, left and right mouth corner.
        score: Detector confidence, 0 to 1.
        embedding: ``(512,)`` float32 of unit length, or None if not computed.
        track: Number of the track the face belongs to, or None.
        weight: Opacity of the change, 0 to 1, by which a face fades in and out.
        attributes: ``(2,)`` float32: sex (0 female, 1 male) and age in years, 0 to 100; NaN if not estimated.
        filled: Whether the detector ran on this frame but missed the face, so that its place is interpolated.
        behind: Whether a filled face is probably hidden by another one detected in its place.
    """

    box: FloatArray
    kps: FloatArray
    score: float
    embedding: FloatArray | None = None
    track: int | None = None
    weight: float = 1.0
    filled: bool = False
    behind: bool = False
    attributes: FloatArray = field(default_factory=lambda: UNKNOWN)

    @property
    def area(self) -> float:
        """Area of the bounding box in square pixels."""
        return float((self.box[2] - self.box[0]) * (self.box[3] - self.box[1]))

    @property
    def centre(self) -> tuple[float, float]:
        """Centre of the bounding box (x, y)."""
        return float(self.box[0] + self.box[2]) / 2, float(self.box[1] + self.box[3]) / 2


@dataclass(frozen=True, eq=False)
class FaceJob:
    """One face to change in one picture.

    Attributes:
        visibility: Visible part of the face, see `masks`; None if nothing covers it.
        crop: Aligned crop that the swapper gets; None to cut it from ``picture``.
        on_swapped: Callback for once the swapped face is pasted; gets the network's own output crop
            ``(S, S, 3)`` uint8 BGR and the landmarks in it, ``(5, 2)``.
    """

    picture: Picture
    face: Face
    visibility: ByteImage | None = None
    crop: ByteImage | None = None
    on_swapped: Callable[[ByteImage, FloatArray], None] | None = None
