"""From a network's output back to pixels."""

from __future__ import annotations

import cv2
import numpy as np

from colab_helpers.faces.types import ByteImage, FloatArray


def to_bgr(output: FloatArray, *, low: float, high: float, truncate: bool = False) -> ByteImage:
    """Turn RGB planes into BGR pixels: scaled, rounded (or truncated) and clipped.

    Args:
        output: ``(N, 3, S, S)`` float RGB.
        low: The value that is black.
        high: The value that is white.
        truncate: Drop the fraction instead of rounding.

    Returns:
        ``(N, S, S, 3)`` uint8 BGR.
    """
    scale = 255 / (high - low)
    shift = -low * scale - (0.5 if truncate else 0.0)
    images = np.empty((len(output), *output.shape[2:], 3), np.uint8)
    for image, planes in zip(images, output, strict=True):
        # convertScaleAbs rounds and saturates above; the maximum keeps its absolute value from mattering.
        channels = [
            cv2.convertScaleAbs(np.maximum(plane, low), alpha=scale, beta=shift) for plane in planes[::-1]
        ]
        cv2.merge(channels, dst=image)
    return images
