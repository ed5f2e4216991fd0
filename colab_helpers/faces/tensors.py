"""From a network's output back to pixels."""

from __future__ import annotations

import numpy as np

from colab_helpers.faces.types import ByteImage, FloatArray


def to_bgr(output: FloatArray) -> ByteImage:
    """``(N, 3, S, S)`` RGB, 0 to 255, to ``(N, S, S, 3)`` uint8 BGR, rounded."""
    pixels = np.clip(np.rint(output), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)[..., ::-1])
