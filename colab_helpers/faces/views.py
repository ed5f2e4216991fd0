"""Further views of a picture for detection if it finds no sure face: brightened, with a margin, rotated."""

from __future__ import annotations

from typing import Literal, get_args

import cv2
import numpy as np

from colab_helpers.faces.types import FloatArray
from colab_helpers.media.affine import compose
from colab_helpers.media.picture import DetectorView, upright_to_stored

DARK = 60.0
"""Mean grey level below which a detector trained on photos misses faces."""
_BRIGHTENED = 110.0
_ROTATIONS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}
_MAX_TILT = 60.0  # degrees up to which a face counts as upright
View = Literal["plain", "bright", "margin", "90", "180", "270"]
"""View of a picture for the detector; the last three are rotated clockwise by as many degrees."""
VIEWS: tuple[View, ...] = get_args(View)


def apply_view(view: View, plain: DetectorView) -> DetectorView:
    """Derive a view from the plain one; dark pictures are brightened in all other views."""
    if view == "plain":
        return plain
    bright = _brighten(plain)
    if view == "bright":
        return bright
    return _add_margin(bright) if view == "margin" else _rotate(bright, int(view))


def is_dark(view: DetectorView) -> bool:
    """Return whether a picture is so dark that faces are missed, but not black."""
    return 0 < _brightness(view) < DARK


def _brightness(view: DetectorView) -> float:
    return sum(cv2.mean(view.image)) / 3  # several times faster than numpy


def is_upright(kps: FloatArray) -> bool:
    """Return whether landmarks ``(5, 2)`` belong to an upright face that is not mirrored."""
    right, down = kps[1] - kps[0], kps[3:].mean(0) - kps[:2].mean(0)
    tilt = abs(np.degrees(np.arctan2(right[1], right[0])))
    return bool(tilt <= _MAX_TILT and right[0] * down[1] - right[1] * down[0] > 0)


def _brighten(view: DetectorView) -> DetectorView:
    if not is_dark(view):
        return view
    image = cv2.convertScaleAbs(view.image, alpha=_BRIGHTENED / _brightness(view))
    return DetectorView(np.asarray(image, np.uint8), view.to_frame)


def _add_margin(view: DetectorView) -> DetectorView:
    """Shrink the picture to half its size, centred, so that a face that fills it gets a margin."""
    height, width = view.image.shape[:2]
    small = cv2.resize(view.image, (max(width // 2, 1), max(height // 2, 1)), interpolation=cv2.INTER_AREA)
    top, left = (height - small.shape[0]) // 2, (width - small.shape[1]) // 2
    image = np.zeros_like(view.image)
    image[top : top + small.shape[0], left : left + small.shape[1]] = small
    x, y = width / small.shape[1], height / small.shape[0]
    back = np.array([[x, 0, -left * x], [0, y, -top * y]], np.float64)
    return DetectorView(image, compose(view.to_frame, back))


def _rotate(view: DetectorView, degrees: int) -> DetectorView:
    height, width = view.image.shape[:2]
    # numpy would take several times longer.
    image = np.asarray(cv2.rotate(view.image, _ROTATIONS[degrees]), np.uint8)
    return DetectorView(image, compose(view.to_frame, upright_to_stored(degrees, width, height)))
