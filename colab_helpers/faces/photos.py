"""How well a photo shows the person who is put in: measured, and said in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
"""Width of a face in pixels below which the recogniser's crop of 112 has to be made up by enlarging."""
BLURRED = 0.04
"""Sharpness below which a photo counts as blurred.

The demo's portraits have 0.16 to 0.34 as they are, 0.05 and more after a Gaussian blur of one pixel, which
nobody notices, and less than 0.03 after one of two pixels. Exposure leaves the figure as it is.
"""
TURNED = 30.0
"""Degrees to the side from which half of a face is hardly seen."""
DARK = 80.0
"""Grey level that the brightest twentieth of a face passes in any usable light, whatever the skin: eyes,
teeth and reflections do. The demo's darkest portrait has 197."""
OVEREXPOSED = 0.1
"""Share of a face's pixels that may be at the upper end of the scale, where nothing can be told apart."""
SAME_PERSON_DISTANCE = 1.4
"""Squared distance of unit embeddings up to which two photos may show one person: a cosine of 0.3."""

# A single photo counts, however poor.
_MIN_QUALITY = 0.05
_CROP = 112
_WHITE = 250


@dataclass(frozen=True, eq=False)
class PhotoReport:
    """What a photo shows.

    Attributes:
        size: Width and height of the photo in pixels.
        faces: All faces, the largest first: that one counts.
        embedding: ``(512,)`` of the largest face; None without a face.
        sharpness: Variance of the Laplacian over the variance of the grey levels, in the aligned crop.
        yaw: Degrees that the face is turned to the side, estimated; positive towards the image's right.
        highlights: Grey level that one twentieth of the face passes, 0 to 255.
        overexposed: Share of the face's pixels that are white.
        quality: How much the face counts beside those of other photos, 0 to 1; see `quality_of`.
        hints: What speaks against the photo and what to know, one sentence each.
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
        """The face that counts."""
        return self.faces[0] if self.faces else None

    @property
    def face_width(self) -> float:
        """Width of the face that counts, in pixels; 0 without one."""
        return _width(self.faces[0]) if self.faces else 0.0


def examine(analyser: FaceAnalyser, image: ByteImage) -> PhotoReport:
    """Measure how well a photo shows a person.

    Args:
        analyser: Finds the faces.
        image: ``(H, W, 3)`` uint8 BGR.
    """
    height, width = image.shape[:2]
    picture = BgrPicture(image)
    faces = order_faces(analyser.search(picture), "largest")
    if not faces:
        hints = (tr("No face was found: take a photo that shows the face from the front."),)
        return PhotoReport((width, height), (), None, 0.0, 0.0, 0.0, 0.0, 0.0, hints)
    face = analyser.embed(picture, faces[:1])[0]
    shown = _Shown.of(image, face)
    return PhotoReport(
        size=(width, height),
        faces=(face, *faces[1:]),
        embedding=face.embedding,
        sharpness=shown.sharpness,
        yaw=shown.yaw,
        highlights=shown.highlights,
        overexposed=shown.overexposed,
        quality=shown.quality,
        hints=(
            *_count_hints(len(faces)),
            *_detail_hints(shown.width, shown.sharpness),
            *_pose_hints(shown.yaw),
            *_light_hints(shown.highlights, shown.overexposed),
        ),
    )


def quality_of(image: ByteImage, face: Face) -> float:
    """How much a face counts beside those of other photos: 1 where no hint speaks against it.

    Otherwise the share it reaches of what `examine` asks for, in the point in which it falls shortest.
    """
    return _Shown.of(image, face).quality


def percentile(values: npt.ArrayLike, percent: float) -> float:
    """Do what numpy's own does, which loads masked arrays first: a fiftieth of a run's start."""
    ranked = np.sort(values, axis=None)
    return float(np.interp(percent / 100 * (len(ranked) - 1), np.arange(len(ranked)), ranked))


class _Shown(NamedTuple):
    """How a photo shows a face; as in `PhotoReport`."""

    width: float
    sharpness: float
    yaw: float
    highlights: float
    overexposed: float

    @classmethod
    def of(cls, image: ByteImage, face: Face) -> Self:
        grey = _grey_crop(image, face)
        highlights, overexposed = percentile(grey, 95), float(np.mean(grey >= _WHITE))
        return cls(_width(face), sharpness_of(grey), yaw_degrees(face.kps), highlights, overexposed)

    @property
    def quality(self) -> float:
        facing = np.cos(np.radians(self.yaw)) / np.cos(np.radians(TURNED))
        unburnt = (1 - self.overexposed) / (1 - OVEREXPOSED)
        shares = (self.width / SMALLEST, self.sharpness / BLURRED, self.highlights / DARK, facing, unburnt)
        return float(np.clip(min(shares), _MIN_QUALITY, 1))


@dataclass(frozen=True, eq=False)
class Identity:
    """Who is put in.

    Attributes:
        embedding: ``(512,)``, averaged over the photos that count, each by its quality; as long as the
            recogniser's are on average, which some swappers want.
        photos: Names of those photos.
        used: Their positions among all that were given.
        notes: Which photos were left out and why, and who counts where several are seen; one sentence each.
        age: How old they seem, on average in years; None where nobody was asked.
    """

    embedding: FloatArray
    photos: tuple[str, ...]
    used: tuple[int, ...]
    notes: tuple[str, ...] = ()
    age: float | None = None


def merge_identity(
    names: Sequence[str],
    found: Sequence[Sequence[FloatArray] | ColabHelpersError],
    quality: Sequence[Sequence[float]] = (),
    ages: Sequence[Sequence[float]] = (),
) -> Identity:
    """Who photos show, from what was found in each.

    Args:
        names: Of the photos, for messages.
        found: ``(512,)`` embeddings of each photo's faces, the largest first, or why there are none.
        quality: Of each of these faces, as from `quality_of`; empty where all count alike.
        ages: How old each of them seems; empty where nobody was asked.

    Raises:
        ColabHelpersError: There is no embedding at all: the first photo's error.
        UsageError: The photos do not show one person, and nobody can tell which is wrong.
    """
    errors = {n: one for n, one in enumerate(found) if isinstance(one, ColabHelpersError)}
    given = {n: one for n, one in enumerate(found) if not isinstance(one, ColabHelpersError)}
    photos = {n: [unit(face) for face in faces] for n, faces in given.items()}
    if not photos:
        raise next(iter(errors.values()))
    places = {n: _shared_face(n, photos) for n in photos}
    known = [(n, photos[n][place]) for n, place in places.items()]
    foreign = {
        n for (n, _), wrong in zip(known, find_outliers([one for _, one in known]), strict=True) if wrong
    }
    used = [n for n, _ in known if n not in foreign]
    if not used:
        raise UsageError(
            tr("the photos do not show one and the same person"),
            where=", ".join(names[n] for n, _ in known),
            remedy=tr("give photos of one person only, each with that face as its largest"),
        )
    weights = [quality[n][places[n]] if quality else 1.0 for n in used]
    mean = np.average([one for n, one in known if n in used], axis=0, weights=weights)
    length = np.mean([np.linalg.norm(given[n][places[n]]) for n in used])
    told = [ages[n][places[n]] for n in used if ages and ages[n]]
    why = {n: error.what for n, error in errors.items()} | dict.fromkeys(
        foreign, tr("it seems to show somebody else than most of the others")
    )
    notes = [tr("the photo {name} is left out: {reason}", name=names[n], reason=why[n]) for n in sorted(why)]
    notes += [_chosen_note(names[n], len(photos[n]), places[n]) for n in used if len(photos[n]) > 1]
    return Identity(
        embedding=np.asarray(length * mean / np.linalg.norm(mean), np.float32),
        photos=tuple(names[n] for n in used),
        used=tuple(used),
        notes=tuple(notes),
        age=float(np.mean(told)) if told else None,
    )


def _shared_face(number: int, photos: Mapping[int, Sequence[FloatArray]]) -> int:
    """Which of a photo's faces most other photos show, too; of equals the largest."""
    others = [faces for n, faces in photos.items() if n != number]

    def shared(face: FloatArray) -> int:
        return sum(any(face_distance(face, one) <= SAME_PERSON_DISTANCE for one in faces) for faces in others)

    counts = [shared(face) for face in photos[number]]
    return counts.index(max(counts))


def _chosen_note(name: str, count: int, place: int) -> str:
    if place == 0:
        return tr("the photo {name} shows {count} faces: the largest counts", name=name, count=count)
    told = mark(
        "the photo {name} shows {count} faces: number {place} by size counts, whom the other photos show"
    )
    return tr(told, name=name, count=count, place=place + 1)


def find_outliers(embeddings: Sequence[FloatArray]) -> list[bool]:
    """Which of several photos seem to show somebody else than most of the others do.

    Args:
        embeddings: Unit embedding of each photo's face. Of two that differ nobody can tell which one is
            wrong: both are marked.
    """
    marks = []
    for number, embedding in enumerate(embeddings):
        others = [other for place, other in enumerate(embeddings) if place != number]
        near = sum(face_distance(embedding, other) <= SAME_PERSON_DISTANCE for other in others)
        marks.append(2 * near < len(others))
    return marks


def sharpness_of(grey: ByteImage) -> float:
    """Variance of the Laplacian over that of the grey levels; 0 for an even surface.

    Pech-Pacheco et al. (2000) take the numerator alone; dividing keeps a dark photo from counting as blurred.
    """
    spread = float(np.var(grey))
    return float(np.var(cv2.Laplacian(grey, cv2.CV_64F))) / spread if spread > 0 else 0.0


def _width(face: Face) -> float:
    return float(face.box[2] - face.box[0])


def _grey_crop(image: ByteImage, face: Face) -> ByteImage:
    matrix = similarity_transform(face.kps, arcface_template(_CROP))
    crop = cv2.warpAffine(image, matrix, (_CROP, _CROP), borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY), np.uint8)


def _count_hints(count: int) -> list[str]:
    told = mark("{count} faces were found: the one that most photos show counts, else the largest.")
    return [] if count == 1 else [tr(told, count=count)]


def _detail_hints(width: float, sharpness: float) -> list[str]:
    # A small face, enlarged, is blurred as well: that need not be said twice.
    if width < SMALLEST:
        return [
            tr(
                "The face is small: {width:.0f} pixels wide; {least:.0f} or more are better.",
                width=width,
                least=SMALLEST,
            )
        ]
    return [tr("The face is blurred: a sharper photo is better.")] if sharpness < BLURRED else []


def _pose_hints(yaw: float) -> list[str]:
    if abs(yaw) <= TURNED:
        return []
    return [
        tr(
            "The face is turned away, by about {degrees:.0f} degrees: one from the front is better.",
            degrees=abs(yaw),
        )
    ]


def _light_hints(highlights: float, overexposed: float) -> list[str]:
    dark = [tr("The face is too dark: little can be told apart.")] if highlights < DARK else []
    return dark + (
        [tr("The face is too bright: parts of it are plain white.")] if overexposed > OVEREXPOSED else []
    )
