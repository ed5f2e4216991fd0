"""A swapped face in the colours of its shot (Reinhard et al. 2001), judged by what both have in common."""

from __future__ import annotations

import cv2
import numpy as np

from colab_helpers.faces.types import ByteImage, FloatArray

# Every second pixel of every second row tells enough.
_STEP = 2
_MIN_PIXELS = 256
# A spread is changed at most so many times, and one of a level or less hardly: that is noise.
_MAX_GAIN, _LEVEL = 1.5, 1.0


def colour_matched(changed: ByteImage, before: ByteImage, mask: FloatArray) -> ByteImage:
    """Give a swapped crop mean and spread of the target's own face in Lab.

    Brows, eyes and beard are what a swap is to change. So only pixels count whose brightness changed about as
    much as that of most.

    Args:
        changed: ``(S, S, 3)`` uint8 BGR.
        before: The same before the swap.
        mask: ``(M, M)`` float32, M a divisor of S; where it is above 0.5 there is the face.
    """
    new = _lab(changed)
    inside, step = mask[::_STEP, ::_STEP] > 0.5, _STEP * len(changed) // len(mask)
    if inside.sum() < _MIN_PIXELS:
        return changed
    ours, theirs = new[::step, ::step][inside], _lab(before[::step, ::step])[inside]
    added = ours[:, 0] - theirs[:, 0]
    off = np.abs(added - np.median(added))
    shared = off <= np.median(off)
    ours, theirs = ours[shared], theirs[shared]
    spread = (theirs.std(0) + _LEVEL) / (ours.std(0) + _LEVEL)
    gain = np.clip(spread, 1 / _MAX_GAIN, _MAX_GAIN)
    shift = theirs.mean(0) - gain * ours.mean(0)
    matched = cv2.cvtColor(cv2.transform(new, np.column_stack([np.diag(gain), shift])), cv2.COLOR_Lab2BGR)
    return np.asarray(cv2.convertScaleAbs(np.maximum(matched, 0), alpha=255), np.uint8)


def _lab(bgr: ByteImage) -> FloatArray:
    # In floats: rounded to 8 bits it would flicker.
    return np.asarray(cv2.cvtColor(bgr.astype(np.float32) / np.float32(255), cv2.COLOR_BGR2Lab))
