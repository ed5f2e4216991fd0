"""Masks: how much of a changed crop shows, pixel by pixel.

A face's *cover* says what is seen of it in the frame as it was: ``(256, 256)`` uint8, 255 where the change
may show, in the crop by FFHQ's points. It is found once, and serves each network's own crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

from colab_helpers.faces.geometry import FFHQ_512, similarity_transform
from colab_helpers.faces.types import ByteImage, Face, FloatArray
from colab_helpers.media.affine import Matrix, compose, invert, resizing
from colab_helpers.media.picture import Picture
from colab_helpers.settings import FaceRegion, Padding

if TYPE_CHECKING:
    from colab_helpers.faces.occluder import FaceParser, Occluder

# A superellipse keeps chin and forehead, which a circle cuts, and drops the crop's corners, which show
# background. Half-axis and softness (with a blur of 1) as shares of the crop's edge.
_EXPONENT = 4.0
_HALF_AXIS = 0.44
_SOFTNESS = 0.035 / 0.3
# BiSeNet's numbers of the parts (CelebAMask-HQ); the mouth is what is seen between the lips.
REGIONS: dict[FaceRegion, tuple[int, ...]] = {
    "skin": (1,),
    "brows": (2, 3),
    "eyes": (4, 5),
    "glasses": (6,),
    "nose": (10,),
    "mouth": (11,),
    "lips": (12, 13),
}
VISIBILITY_SIZE = 256
# As half of the crop by FFHQ's points, to which no cover need be turned, then.
VISIBILITY_TEMPLATE = FFHQ_512 / 2 - np.float32(0.25)
# An edge of a cover is blurred by so many of its pixels, then made twice as steep.
_EDGE = 0.8
# A cover that lies within so many pixels as a mask does is not turned.
_SAME = 0.01
# From so many grey levels on, over so many pixels each way, two frames show something else at a place.
_OTHER, _NOISE = 20, 5


@cache
def face_mask(size: int, blur: float = 0.3, padding: Padding = (0, 0, 0, 0), box: bool = True) -> FloatArray:
    """Rounded square with soft edges, ``(size, size)`` float32: 1 inside, 0 along the border.

    Args:
        size: Edge of the crop in pixels.
        blur: How soft, 0 to 1.
        padding: Percent of the edge that are left out: top, right, bottom, left.
        box: Otherwise it is 1 up to the border.
    """
    if box:
        axis = (np.arange(size, dtype=np.float32) - (size - 1) / 2) / (_HALF_AXIS * size)
        power = np.abs(axis) ** _EXPONENT
        mask = (power[:, None] + power[None, :] <= 1).astype(np.float32)
        top, right, bottom, left = (round(size * percent / 100) for percent in padding)
        mask[:top], mask[size - bottom :], mask[:, :left], mask[:, size - right :] = 0, 0, 0, 0
        if blur:
            mask = cv2.GaussianBlur(mask, (0, 0), blur * _SOFTNESS * size)
    else:
        mask = np.ones((size, size), np.float32)
    mask[[0, -1], :] = 0
    mask[:, [0, -1]] = 0
    mask.setflags(write=False)
    return np.asarray(mask)


def mask_edge(size: int) -> int:
    """Edge of the mask of a crop: the crop's, or 256 where that is a multiple of it."""
    return size if size % VISIBILITY_SIZE else VISIBILITY_SIZE


def weighted(mask: FloatArray, weight: float) -> FloatArray:
    """The mask at a share, 0 to 1, of its strength."""
    return mask if weight >= 1 else mask * np.float32(weight)


@dataclass(frozen=True, eq=False)
class RawVisibility:
    """What a face's own frame shows of it.

    Attributes:
        visibility: Its cover, as the networks see it in this frame alone.
        grey: ``(256, 256)`` uint8, the brightness of the crop without its noise.
    """

    visibility: ByteImage
    grey: ByteImage


@dataclass(frozen=True, eq=False)
class FaceMasks:
    """What limits the change of a face; all of it combines by the minimum.

    Attributes:
        box: Whether a soft square does; ``blur`` and ``padding`` see `face_mask`.
        occluder: Leaves out what is before the face; None where that is not asked.
        parser: Leaves out all but ``regions``; None where that is not asked.
    """

    box: bool = True
    blur: float = 0.3
    padding: Padding = (0, 0, 0, 0)
    occluder: Occluder | None = None
    parser: FaceParser | None = None
    regions: tuple[FaceRegion, ...] = tuple(REGIONS)

    @property
    def uses_networks(self) -> bool:
        """Whether pictures are looked at."""
        return self.occluder is not None or self.parser is not None

    def raw_visibility(self, picture: Picture, faces: Sequence[Face]) -> list[RawVisibility | None]:
        """Look at the faces of a picture that is not changed yet; None where the box alone counts."""
        if not faces or not self.uses_networks:
            return [None] * len(faces)
        places = [similarity_transform(face.kps, VISIBILITY_TEMPLATE) for face in faces]
        crops = [picture.crop(place, VISIBILITY_SIZE, coarse=True) for place in places]
        covers = np.full((len(faces), VISIBILITY_SIZE, VISIBILITY_SIZE), 255, np.uint8)
        if self.occluder is not None:
            covers = self.occluder.seen(crops)
        if self.parser is not None:
            double = [picture.crop(compose(resizing(2), place), 2 * VISIBILITY_SIZE) for place in places]
            kept = [number for region in self.regions for number in REGIONS[region]]
            for visibility, parts in zip(covers, self.parser.parts(double), strict=True):
                inside = np.isin(parts, kept).astype(np.uint8) * 255
                small = cv2.resize(inside, (VISIBILITY_SIZE, VISIBILITY_SIZE), interpolation=cv2.INTER_AREA)
                np.minimum(visibility, small, out=visibility)
        greys = (cv2.blur(cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY), (_NOISE, _NOISE)) for crop in crops)
        return [
            RawVisibility(visibility, np.asarray(grey, np.uint8))
            for visibility, grey in zip(covers, greys, strict=True)
        ]

    def limit(self, size: int) -> FloatArray:
        """Return what limits every face in a crop, the same array each time; see `of`."""
        return face_mask(mask_edge(size), self.blur, self.padding, self.box)

    def of(self, size: int, place: Matrix, face: Face, visibility: ByteImage | None) -> FloatArray:
        """Return the mask of a crop, ``(S, S)`` by `mask_edge`.

        Args:
            size: Edge of the crop.
            place: From the picture's pixels to the crop's.
            face: Whose crop it is.
            visibility: Its `visibility`; None where nothing covers it.
        """
        mask = self.limit(size)
        edge = len(mask)
        if visibility is None:
            return mask
        to_mask = compose(resizing(edge / size), place)
        there = compose(to_mask, invert(similarity_transform(face.kps, VISIBILITY_TEMPLATE)))
        if edge != VISIBILITY_SIZE or np.abs(there - resizing(1)).max() > _SAME:
            shown = cv2.warpAffine(visibility, there, (edge, edge), borderMode=cv2.BORDER_REPLICATE)
            visibility = np.asarray(shown, np.uint8)
        limit = visibility.astype(np.float32)
        limit *= np.float32(1 / 255)
        return np.minimum(mask, limit, out=limit)


BOX = FaceMasks()
"""The box alone, as it is by default."""


def smooth_visibility(
    own: RawVisibility | None, near: Sequence[RawVisibility | None] = ()
) -> ByteImage | None:
    """Return a face's cover; None where nothing covers it.

    Args:
        own: What its own frame shows.
        near: The same of up to four frames around it. The median counts wherever they show the same, so that
            a network that is in doubt does not flicker; what passes by quickly is not smoothed away.
    """
    if own is None:
        return None
    values = [own.visibility]
    for other in near:
        if other is not None:
            differs = cv2.threshold(cv2.absdiff(own.grey, other.grey), _OTHER - 1, 255, cv2.THRESH_BINARY)[1]
            values.append(np.asarray(cv2.copyTo(own.visibility, differs, other.visibility.copy()), np.uint8))
    visibility = _median([*values, *[own.visibility] * (5 - len(values))])
    if visibility.min() == 255:
        return None
    # As steep as leaves no ghost of the change on what covers it, and no rim of the old face beside it.
    soft = cv2.GaussianBlur(visibility, (5, 5), _EDGE)
    return np.asarray(cv2.addWeighted(soft, 2, soft, 0, -128), np.uint8)


def _median(values: Sequence[ByteImage]) -> ByteImage:
    """The median of five pictures, pixel by pixel."""
    a, b, c, d, e = values
    # Neither the least nor the greatest of a, b, c and d is it: it is the middle one of e and the other two.
    low = cv2.max(cv2.min(a, b), cv2.min(c, d))
    high = cv2.min(cv2.max(a, b), cv2.max(c, d))
    return np.asarray(cv2.max(cv2.min(low, high), cv2.min(cv2.max(low, high), e)), np.uint8)
