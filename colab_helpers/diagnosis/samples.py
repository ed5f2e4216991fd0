"""A made-up picture, always the same, for networks that are tried out."""

from __future__ import annotations

from typing import Any


def soft_picture(size: int) -> Any:
    """Make a picture of large soft patches, ``(size, size, 3)`` uint8: like a photo, and like nobody."""
    import cv2
    import numpy as np

    patches = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    return cv2.resize(patches, (size, size), interpolation=cv2.INTER_CUBIC)
