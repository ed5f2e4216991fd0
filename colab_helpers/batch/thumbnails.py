"""A picture small enough to stand inside a page or a status file."""

from __future__ import annotations

import math

import cv2
import numpy as np

from colab_helpers.faces.types import ByteImage
from colab_helpers.media.images import to_data_url

THUMBNAIL_HEIGHT = 200
"""Height of a picture in a page, in pixels; keeps one near 10 kB."""
JPEG_QUALITY = 85


def shrink_to_fit(image: ByteImage, *, height: int, width: float = math.inf) -> ByteImage:
    """Return a ``(H, W, 3)`` uint8 picture, made smaller where it does not fit."""
    scale = min(1.0, width / image.shape[1], height / image.shape[0])
    if scale == 1:
        return image
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def data_url(image: ByteImage, *, height: int = THUMBNAIL_HEIGHT) -> str:
    """Encode a ``(H, W, 3)`` uint8 BGR picture as a JPEG ``data:`` URL, made smaller if it is higher."""
    return to_data_url(shrink_to_fit(image, height=height), "jpeg", quality=JPEG_QUALITY)
