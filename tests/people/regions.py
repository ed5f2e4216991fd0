"""Part of the face in each pixel of a rendered head, numbered as by BiSeNet's face parser."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tests.people.actors import NO_HIT, Head, Layer
from tests.people.mouth import mouth_shape
from tests.people.paint import F32, Sheet, brow_cover, eye_opening

U8 = npt.NDArray[np.uint8]

SKIN, LEFT_BROW, RIGHT_BROW, LEFT_EYE, RIGHT_EYE, GLASSES = 1, 2, 3, 4, 5, 6
NOSE, MOUTH, UPPER_LIP, LOWER_LIP, NECK, HAIR = 10, 11, 12, 13, 14, 17
PARTS = (0, *range(SKIN, GLASSES + 1), *range(NOSE, NECK + 1), HAIR)
"""Parts that the renderer draws; 0 is everything else. Left is the image's left."""
# Radius of the face (hairline to chin) relative to the inner face, and width of its edge.
_FACE, _FACE_EDGE = 1.08, 0.04


def parts_of(head: Head, layer: Layer) -> U8:
    """Return the part in each pixel of a head's square, given its drawn layer; uint8."""
    x, y = head.front
    look, act = head.look, head.act
    parts = np.where(layer.alpha > 0.5, SKIN, 0).astype(np.uint8)
    ahead = x > NO_HIT
    grid = Sheet(head.res, 0, 0, x, y)
    wing = 0.06 + (0.075 + 0.055 * look.face.nose_width) * np.clip((y + 0.1) / 0.4, 0, 1) ** 1.5
    parts[ahead & (np.abs(x) < wing) & (y > -0.12) & (y < 0.4)] = NOSE
    for side, eye, brow in ((-1, LEFT_EYE, LEFT_BROW), (1, RIGHT_EYE, RIGHT_BROW)):
        parts[ahead & (brow_cover(grid, side, look.body, look.face, act) > 0.5)] = brow
        parts[ahead & (eye_opening(grid, side, look.body, look.face, act).inside > 0.5)] = eye
    mouth = mouth_shape(grid, look.body, look.face, act)
    lips = ahead & (mouth.lips > 0.5)
    parts[lips] = np.where(y < mouth.line + 0.5 * mouth.gap, UPPER_LIP, LOWER_LIP)[lips]
    parts[ahead & (mouth.opening > 0.5) & (mouth.gap > 0.02)] = MOUTH
    parts[head.hair > 0.5] = HAIR
    return parts


def face_of(head: Head) -> F32:
    """Return the share of face in each pixel of a head's square, 0 to 1, without hair, ears and neck."""
    x, y = head.front
    radius = np.sqrt((x / 0.66) ** 2 + ((y - 0.1) / 0.86) ** 2)
    inside = np.clip((_FACE - radius) / _FACE_EDGE + 0.5, 0, 1) * (x > NO_HIT)
    return np.asarray(inside * (1 - head.hair), np.float32)
