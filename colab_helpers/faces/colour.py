"""Colour matching of swapped faces (Reinhard et al. 2001), by the pixels that the swap hardly changed."""

from __future__ import annotations

import cv2
import numpy as np

from colab_helpers.faces.types import ByteImage, FloatArray

_STEP = 2  # statistics are taken over every second pixel of every second row
_MIN_PIXELS = 256
# Limit of the change of a standard deviation, and the Lab level added to both: below it there is only noise.
_MAX_GAIN, _NOISE_LEVEL = 1.5, 1.0


def match_colours(changed: ByteImage, before: ByteImage, mask: FloatArray) -> ByteImage:
    """Return a swapped crop with the mean and standard deviation in Lab of the target's own face.

    Brows, eyes and beard are meant to change, so only the half of the pixels counts whose change in lightness
    is nearest to the median. With fewer than 256 face pixels the crop is returned as it is.

    Args:
        changed: ``(S, S, 3)`` uint8 BGR.
        before: The same crop before the swap.
        mask: ``(M, M)`` float32, M a divisor of S; values above 0.5 are face.
    """
    new = _lab(changed)
    inside, step = mask[::_STEP, ::_STEP] > 0.5, _STEP * len(changed) // len(mask)
    if inside.sum() < _MIN_PIXELS:
        return changed
    source, target = new[::step, ::step][inside], _lab(before[::step, ::step])[inside]
    change = source[:, 0] - target[:, 0]
    deviation = np.abs(change - np.median(change))
    common = deviation <= np.median(deviation)
    source, target = source[common], target[common]
    ratio = (target.std(0) + _NOISE_LEVEL) / (source.std(0) + _NOISE_LEVEL)
    gain = np.clip(ratio, 1 / _MAX_GAIN, _MAX_GAIN)
    shift = target.mean(0) - gain * source.mean(0)
    matched = cv2.cvtColor(cv2.transform(new, np.column_stack([np.diag(gain), shift])), cv2.COLOR_Lab2BGR)
    return np.asarray(cv2.convertScaleAbs(np.maximum(matched, 0), alpha=255), np.uint8)


def _lab(bgr: ByteImage) -> FloatArray:
    # In floating point, since rounding to 8 bits would make the result flicker.
    return np.asarray(cv2.cvtColor(bgr.astype(np.float32) / np.float32(255), cv2.COLOR_BGR2Lab))
