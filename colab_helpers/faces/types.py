"""A face, and the arrays that hold pixels and points."""

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
"""Sex and age of whoever was not asked."""


@dataclass(frozen=True, eq=False)
class Face:
    """One face in one frame, in pixels of the full frame (x right, y down).

    Attributes:
        box: ``(4,)`` float32, xyxy; may reach beyond the frame.
        kps: ``(5, 2)`` float32: image-left eye, image-right eye, nose, left and right mouth corner.
        score: Detector confidence, 0 to 1.
        embedding: ``(512,)`` float32 of unit length, or None where none was asked for.
        track: Number of the track the face belongs to, or None.
        weight: How much of the change shows, 0 to 1: a face fades in and out.
        attributes: ``(2,)`` float32: 0 female or 1 male, and age in years, 0 to 100; NaN where not asked.
        filled: Whether the detector looked at the frame and missed it.
        behind: Whether somebody else is seen where it must be.
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
        """Area of the box in square pixels."""
        return float((self.box[2] - self.box[0]) * (self.box[3] - self.box[1]))

    @property
    def centre(self) -> tuple[float, float]:
        """Centre of the box (x, y)."""
        return float(self.box[0] + self.box[2]) / 2, float(self.box[1] + self.box[3]) / 2


@dataclass(frozen=True, eq=False)
class FaceJob:
    """One face to be changed in one picture.

    Attributes:
        visibility: What is seen of it, see `masks`; None where nothing covers it.
        crop: What the swapper is shown; None has it cut out of the picture.
        on_swapped: Called once the swapped face is pasted, with the crop ``(S, S, 3)`` uint8 BGR as the
            network gave it, and where the face's five points are in it, ``(5, 2)``.
    """

    picture: Picture
    face: Face
    visibility: ByteImage | None = None
    crop: ByteImage | None = None
    on_swapped: Callable[[ByteImage, FloatArray], None] | None = None
