"""Quality of source photos, with hints for the user, and the identity that several photos show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import cv2
import numpy as np
import numpy.typing as npt

from colab_helpers.errors import ColabHelpersError, UsageError
from colab_helpers.faces.analyser import FaceAnalyser, unit
from colab_helpers.faces.geometry import arcface_template, face_distance, similarity_transform, yaw_degrees
from colab_helpers.faces.selection import order_faces
from colab_helpers.faces.types import ByteImage, Face, FloatArray
from colab_helpers.language import mark, tr
from colab_helpers.media.picture import BgrPicture

SMALLEST = 100.0
"""Width of a face, in pixels, below which the recogniser's crop of 112 pixels is an enlargement."""
BLURRED = 0.04
"""Sharpness below which a photo counts as blurred.

The demo's portraits have 0.16 to 0.34, at least 0.05 after an unnoticeable Gaussian blur of one pixel, and
less than 0.03 after one of two pixels. The measure does not depend on exposure.
"""
TURNED = 30.0
"""Yaw, in degrees, beyond which half of a face is hardly visible."""
DARK = 80.0
"""Minimum 95th percentile of a face's grey levels: eyes, teeth and reflections exceed it in any usable light,
whatever the skin. The demo's darkest portrait has 197."""
OVEREXPOSED = 0.1
"""Maximum share of a face's pixels that are white."""
SAME_PERSON_DISTANCE = 1.4
"""Maximum squared distance of unit embeddings for photos of one person: a cosine of 0.3."""

_MIN_QUALITY = 0.05  # above 0, so that a photo that is the only one always counts
_CROP = 112
_WHITE = 250


@dataclass(frozen=True, eq=False)
class PhotoReport:
    """Faces and quality of a photo.

    Attributes:
        size: Width and height of the photo in pixels.
        faces: All faces, the largest first; the measures are those of the largest.
        embedding: ``(512,)`` of the largest face; None without a face.
        sharpness: Variance of the Laplacian over the variance of the grey levels, in the aligned crop.
        yaw: Estimated yaw of the face in degrees; positive towards the image's right.
        highlights: 95th percentile of the face's grey levels, 0 to 255.
        overexposed: Share of the face's pixels that are white, 0 to 1.
        quality: Weight of the face among those of several photos, 0 to 1; see `quality_of`.
        hints: Shortcomings of the photo and remarks for the user, one sentence each.
    """

    size: tuple[int, int]
    faces: tuple[Face, ...]
    embedding: FloatArray | None
    sharpness: float
    yaw: float
    highlights: float
    overexposed: float
    quality: float
    hints: tuple[str, ...]

    @property
    def face(self) -> Face | None:
        """The largest face; None without one."""
        return self.faces[0] if self.faces else None

    @property
    def face_width(self) -> float:
        """Width of the largest face in pixels; 0 without one."""
        return _width(self.faces[0]) if self.faces else 0.0


def examine(analyser: FaceAnalyser, image: ByteImage) -> PhotoReport:
    """Measure how well a photo, ``(H, W, 3)`` uint8 BGR, shows a person."""
    height, width = image.shape[:2]
    picture = BgrPicture(image)
    faces = order_faces(analyser.search(picture), "largest")
    if not faces:
        hints = (tr("No face was found: use a photo that shows the face from the front."),)
        return PhotoReport((width, height), (), None, 0.0, 0.0, 0.0, 0.0, 0.0, hints)
    face = analyser.embed(picture, faces[:1])[0]
    measures, count = _Measures.of(image, face), len(faces)
    text = mark("{count} faces were found: the one that most photos show is used, else the largest.")
    return PhotoReport(
        size=(width, height),
        faces=(face, *faces[1:]),
        embedding=face.embedding,
        sharpness=measures.sharpness,
        yaw=measures.yaw,
        highlights=measures.highlights,
        overexposed=measures.overexposed,
        quality=measures.quality,
        hints=(*([tr(text, count=count)] if count > 1 else ()), *measures.hints),
    )


def quality_of(image: ByteImage, face: Face) -> float:
    """Return the weight of a face among those of several photos, 0 to 1.

    It is 1 if `examine` has nothing against the face, else the worst ratio of a measure to its limit.
    """
    return _Measures.of(image, face).quality


def percentile(values: npt.ArrayLike, percent: float) -> float:
    """Replace ``np.percentile``, which imports masked arrays: a fiftieth of a run's start-up time."""
    ranked = np.sort(values, axis=None)
    return float(np.interp(percent / 100 * (len(ranked) - 1), np.arange(len(ranked)), ranked))


class _Measures(NamedTuple):
    """Measures of a face in a photo, see `PhotoReport`."""

    width: float
    sharpness: float
    yaw: float
    highlights: float
    overexposed: float

    @classmethod
    def of(cls, image: ByteImage, face: Face) -> Self:
        matrix = similarity_transform(face.kps, arcface_template(_CROP))
        crop = cv2.warpAffine(image, matrix, (_CROP, _CROP), borderMode=cv2.BORDER_REPLICATE)
        grey = np.asarray(cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY), np.uint8)
        highlights, overexposed = percentile(grey, 95), float(np.mean(grey >= _WHITE))
        return cls(_width(face), sharpness_of(grey), yaw_degrees(face.kps), highlights, overexposed)

    @property
    def quality(self) -> float:
        frontal = np.cos(np.radians(self.yaw)) / np.cos(np.radians(TURNED))
        exposed = (1 - self.overexposed) / (1 - OVEREXPOSED)
        ratios = (self.width / SMALLEST, self.sharpness / BLURRED, self.highlights / DARK, frontal, exposed)
        return float(np.clip(min(ratios), _MIN_QUALITY, 1))

    @property
    def hints(self) -> Iterator[str]:
        if self.width < SMALLEST:  # an enlarged face is blurred anyway, so that is not said as well
            text = mark("The face is small: {width:.0f} pixels wide; {least:.0f} or more are better.")
            yield tr(text, width=self.width, least=SMALLEST)
        elif self.sharpness < BLURRED:
            yield tr("The face is blurred: a sharper photo is better.")
        if abs(self.yaw) > TURNED:
            text = mark("The face is turned by about {degrees:.0f} degrees: a frontal photo is better.")
            yield tr(text, degrees=abs(self.yaw))
        if self.highlights < DARK:
            yield tr("The face is too dark: little detail is visible.")
        if self.overexposed > OVEREXPOSED:
            yield tr("The face is too bright: parts of it are plain white.")


@dataclass(frozen=True, eq=False)
class Identity:
    """The person whom the source photos show.

    Attributes:
        embedding: ``(512,)``, mean over the photos used, weighted by quality; its length is their mean
            length before normalisation, which some swappers depend on.
        photos: Names of the photos used.
        used: Indices of these photos among all photos.
        notes: Photos left out and why, and which of several faces counts; one sentence each.
        age: Estimated age, mean over the photos in years; None if not estimated.
    """

    embedding: FloatArray
    photos: tuple[str, ...]
    used: tuple[int, ...]
    notes: tuple[str, ...] = ()
    age: float | None = None


def merge_identity(
    names: Sequence[str],
    embeddings: Sequence[Sequence[FloatArray] | ColabHelpersError],
    quality: Sequence[Sequence[float]] = (),
    ages: Sequence[Sequence[float]] = (),
) -> Identity:
    """Merge the faces of several photos into one identity.

    Args:
        names: Names of the photos, for messages.
        embeddings: Raw embeddings ``(512,)`` of each photo's faces, the largest first, or why there are none.
        quality: Quality of each of these faces from `quality_of`; empty to weight all photos equally.
        ages: Age of each of these faces; empty if not estimated.

    Raises:
        ColabHelpersError: No photo has an embedding; this is the error of the first.
        UsageError: The photos show different people, and no majority tells which are wrong.
    """
    errors = {n: one for n, one in enumerate(embeddings) if isinstance(one, ColabHelpersError)}
    raw = {n: one for n, one in enumerate(embeddings) if not isinstance(one, ColabHelpersError)}
    photos = {n: [unit(face) for face in faces] for n, faces in raw.items()}
    if not photos:
        raise next(iter(errors.values()))
    chosen = {n: _shared_face(n, photos) for n in photos}
    units = {n: photos[n][face] for n, face in chosen.items()}
    outliers = {n for n, odd in zip(units, find_outliers(list(units.values())), strict=True) if odd}
    used = [n for n in units if n not in outliers]
    if not used:
        raise UsageError(
            tr("the photos do not show one and the same person"),
            where=", ".join(names[n] for n in units),
            remedy=tr("use photos of one person only, in which that person's face is the largest"),
        )
    weights = [quality[n][chosen[n]] if quality else 1.0 for n in used]
    mean = np.average([units[n] for n in used], axis=0, weights=weights)
    length = np.mean([np.linalg.norm(raw[n][chosen[n]]) for n in used])
    known_ages = [ages[n][chosen[n]] for n in used if ages and ages[n]]
    reasons = {n: error.what for n, error in errors.items()}
    reasons |= dict.fromkeys(outliers, tr("it seems to show a different person than most of the others"))
    text = mark("the photo {name} is left out: {reason}")
    notes = [tr(text, name=names[n], reason=reasons[n]) for n in sorted(reasons)]
    notes += [_choice_note(names[n], len(photos[n]), chosen[n]) for n in used if len(photos[n]) > 1]
    return Identity(
        embedding=np.asarray(length * mean / np.linalg.norm(mean), np.float32),
        photos=tuple(names[n] for n in used),
        used=tuple(used),
        notes=tuple(notes),
        age=float(np.mean(known_ages)) if known_ages else None,
    )


def _shared_face(number: int, photos: Mapping[int, Sequence[FloatArray]]) -> int:
    """Return the index of the face in a photo that most other photos show as well; of equals the largest."""
    others = [faces for n, faces in photos.items() if n != number]

    def shared(face: FloatArray) -> int:
        return sum(any(face_distance(face, one) <= SAME_PERSON_DISTANCE for one in faces) for faces in others)

    counts = [shared(face) for face in photos[number]]
    return counts.index(max(counts))


def _choice_note(name: str, count: int, index: int) -> str:
    if index == 0:
        return tr("the photo {name} shows {count} faces: the largest is used", name=name, count=count)
    text = mark(
        "the photo {name} shows {count} faces: number {rank} by size is used, as it matches the other photos"
    )
    return tr(text, name=name, count=count, rank=index + 1)


def find_outliers(embeddings: Sequence[FloatArray]) -> list[bool]:
    """Mark the photos that seem to show a different person than most of the others.

    Args:
        embeddings: Unit embedding of each photo's face. If only two differ, both are marked, because
            either may be wrong.
    """
    outliers = []
    for number, embedding in enumerate(embeddings):
        others = [other for n, other in enumerate(embeddings) if n != number]
        near = sum(face_distance(embedding, other) <= SAME_PERSON_DISTANCE for other in others)
        outliers.append(2 * near < len(others))
    return outliers


def sharpness_of(grey: ByteImage) -> float:
    """Return the variance of the Laplacian over that of the grey levels; 0 for a uniform image.

    Pech-Pacheco et al. (2000) use the numerator alone; with the quotient a dark photo does not seem blurred.
    """
    variance = float(np.var(grey))
    return float(np.var(cv2.Laplacian(grey, cv2.CV_64F))) / variance if variance > 0 else 0.0


def _width(face: Face) -> float:
    return float(face.box[2] - face.box[0])
