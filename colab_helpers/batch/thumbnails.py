"""Thumbnails that are small enough to embed in a page or a status file."""

from __future__ import annotations

import math

import cv2
import numpy as np

from colab_helpers.faces.types import ByteImage
from colab_helpers.media.images import to_data_url

THUMBNAIL_HEIGHT = 200
"""Height of a thumbnail in pixels, which keeps it near 10 kB."""
JPEG_QUALITY = 85


def shrink_to_fit(image: ByteImage, *, height: int, width: float = math.inf) -> ByteImage:
    """Scale a ``(H, W, 3)`` uint8 picture down to fit into ``height`` and ``width`` pixels."""
    scale = min(1.0, width / image.shape[1], height / image.shape[0])
    if scale == 1:
        return image
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def data_url(image: ByteImage, *, height: int = THUMBNAIL_HEIGHT) -> str:
    """Encode a ``(H, W, 3)`` uint8 BGR picture as a JPEG ``data:`` URL of at most ``height`` pixels."""
    return to_data_url(shrink_to_fit(image, height=height), "jpeg", quality=JPEG_QUALITY)
