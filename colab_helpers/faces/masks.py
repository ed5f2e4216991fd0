"""Masks: the opacity of a changed crop, pixel by pixel.

The *visibility* of a face says which part of it is seen in the original frame: ``(256, 256)`` uint8, 255
where the change may show, aligned by FFHQ's landmarks. It is computed once and warped to each network's crop.
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

# A superellipse keeps chin and forehead, which a circle would cut off, and drops the crop's corners, which
# show background. Half-axis, and sigma of the edge at a blur of 1, are relative to the crop's edge.
_EXPONENT, _HALF_AXIS, _SOFTNESS = 4.0, 0.44, 0.035 / 0.3
# BiSeNet's class numbers (CelebAMask-HQ); "mouth" is what shows between the lips.
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
# Half the scale of FFHQ's 512 px crop, for which the visibility then need not be warped.
VISIBILITY_TEMPLATE = FFHQ_512 / 2 - np.float32(0.25)
_EDGE_SIGMA = 0.8  # pixels, by which a visibility's edges are blurred before they are made twice as steep
_TOLERANCE = 0.01  # pixels; a visibility that is this well aligned with the mask is not warped
# Grey levels by which two frames differ at a pixel at least, averaged over a square of this edge in pixels.
_DIFFERENT, _PATCH = 20, 5


@cache
def face_mask(size: int, blur: float = 0.3, padding: Padding = (0, 0, 0, 0), box: bool = True) -> FloatArray:
    """Return the box mask, a soft superellipse, ``(size, size)`` float32: 1 inside, 0 at the border.

    Args:
        size: Edge of the crop in pixels.
        blur: Softness of the edges, 0 to 1.
        padding: Percent of the edge to leave out: top, right, bottom, left.
        box: If False, the mask is 1 except for the border pixels.
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
    mask[[0, -1], :] = mask[:, [0, -1]] = 0
    mask.setflags(write=False)
    return np.asarray(mask)


def mask_edge(size: int) -> int:
    """Return the edge of a crop's mask: 256 if the crop's edge is a multiple of it, else the crop's."""
    return size if size % VISIBILITY_SIZE else VISIBILITY_SIZE


def scale_mask(mask: FloatArray, weight: float) -> FloatArray:
    """Scale a mask by a weight, 0 to 1."""
    return mask if weight >= 1 else mask * np.float32(weight)


@dataclass(frozen=True, eq=False)
class RawVisibility:
    """The visibility of a face by its own frame alone, before temporal smoothing.

    Attributes:
        visibility: ``(256, 256)`` uint8, from the networks' output.
        grey: ``(256, 256)`` uint8, brightness of the crop, blurred to suppress noise.
    """

    visibility: ByteImage
    grey: ByteImage


@dataclass(frozen=True, eq=False)
class FaceMasks:
    """The masks that limit the change of a face; they are combined by the minimum.

    Attributes:
        box: Whether to use the box mask; for ``blur`` and ``padding`` see `face_mask`.
        occluder: Masks out occluders; None to ignore them.
        parser: Masks out all but ``regions``; None to keep the whole face.
    """

    box: bool = True
    blur: float = 0.3
    padding: Padding = (0, 0, 0, 0)
    occluder: Occluder | None = None
    parser: FaceParser | None = None
    regions: tuple[FaceRegion, ...] = tuple(REGIONS)

    @property
    def uses_networks(self) -> bool:
        """Whether the masks depend on the picture's content."""
        return self.occluder is not None or self.parser is not None

    def raw_visibility(self, picture: Picture, faces: Sequence[Face]) -> list[RawVisibility | None]:
        """Run the networks on the faces of an unchanged picture; None for each if only the box is used."""
        if not faces or not self.uses_networks:
            return [None] * len(faces)
        matrices = [similarity_transform(face.kps, VISIBILITY_TEMPLATE) for face in faces]
        crops = [picture.crop(matrix, VISIBILITY_SIZE, coarse=True) for matrix in matrices]
        visibilities = np.full((len(faces), VISIBILITY_SIZE, VISIBILITY_SIZE), 255, np.uint8)
        if self.occluder is not None:
            visibilities = self.occluder.seen(crops)
        if self.parser is not None:
            double = [picture.crop(compose(resizing(2), each), 2 * VISIBILITY_SIZE) for each in matrices]
            kept = [number for region in self.regions for number in REGIONS[region]]
            for visibility, parts in zip(visibilities, self.parser.parts(double), strict=True):
                inside = np.isin(parts, kept).astype(np.uint8) * 255
                small = cv2.resize(inside, (VISIBILITY_SIZE, VISIBILITY_SIZE), interpolation=cv2.INTER_AREA)
                np.minimum(visibility, small, out=visibility)
        greys = (cv2.blur(cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY), (_PATCH, _PATCH)) for crop in crops)
        return [
            RawVisibility(visibility, np.asarray(grey, np.uint8))
            for visibility, grey in zip(visibilities, greys, strict=True)
        ]

    def limit(self, size: int) -> FloatArray:
        """Return the part of `of` that is the same for every face; the array is cached and read-only."""
        return face_mask(mask_edge(size), self.blur, self.padding, self.box)

    def of(self, size: int, matrix: Matrix, face: Face, visibility: ByteImage | None) -> FloatArray:
        """Return the mask of a crop, ``(M, M)`` float32, 0 to 1, with M from `mask_edge`.

        Args:
            size: Edge of the crop.
            matrix: Transform from the picture's pixels to the crop's.
            face: The face in the crop.
            visibility: Its visibility from `smooth_visibility`; None if nothing covers it.
        """
        mask = self.limit(size)
        edge = len(mask)
        if visibility is None:
            return mask
        to_mask = compose(resizing(edge / size), matrix)
        warp = compose(to_mask, invert(similarity_transform(face.kps, VISIBILITY_TEMPLATE)))
        if edge != VISIBILITY_SIZE or np.abs(warp - resizing(1)).max() > _TOLERANCE:
            warped = cv2.warpAffine(visibility, warp, (edge, edge), borderMode=cv2.BORDER_REPLICATE)
            visibility = np.asarray(warped, np.uint8)
        limit = visibility.astype(np.float32)
        limit *= np.float32(1 / 255)
        return np.minimum(mask, limit, out=limit)


BOX = FaceMasks()
"""The box mask alone, with default settings."""


def smooth_visibility(
    own: RawVisibility | None, near: Sequence[RawVisibility | None] = ()
) -> ByteImage | None:
    """Return the temporally smoothed visibility of a face, ``(256, 256)`` uint8; None if nothing covers it.

    Args:
        own: Visibility by the face's own frame.
        near: The same for up to four neighbouring frames. Each pixel is the median of five values, with
            the own value in place of frames that are missing or differ there: uncertain masks do not flicker,
            yet fast occluders are not smoothed away.
    """
    if own is None:
        return None
    values = [own.visibility]
    for other in near:
        if other is not None:
            change = cv2.absdiff(own.grey, other.grey)
            differs = cv2.threshold(change, _DIFFERENT - 1, 255, cv2.THRESH_BINARY)[1]
            values.append(np.asarray(cv2.copyTo(own.visibility, differs, other.visibility.copy()), np.uint8))
    visibility = _median([*values, *[own.visibility] * (5 - len(values))])
    if visibility.min() == 255:
        return None
    # Steep enough to leave neither a ghost of the change on the occluder nor a rim of the old face beside it.
    soft = cv2.GaussianBlur(visibility, (5, 5), _EDGE_SIGMA)
    return np.asarray(cv2.addWeighted(soft, 2, soft, 0, -128), np.uint8)


def _median(values: Sequence[ByteImage]) -> ByteImage:
    """Return the median of five pictures, pixel by pixel."""
    a, b, c, d, e = values
    # Without the minimum and the maximum of a to d: the median of e and the remaining two.
    low = cv2.max(cv2.min(a, b), cv2.min(c, d))
    high = cv2.min(cv2.max(a, b), cv2.max(c, d))
    return np.asarray(cv2.max(cv2.min(low, high), cv2.min(cv2.max(low, high), e)), np.uint8)
