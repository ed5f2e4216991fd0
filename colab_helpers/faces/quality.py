"""No-reference quality measures of results: similarity to the source, flicker, frames without a change.

They are measured during the run, so nothing is decoded again, and kept as sums over segments: a video done in
two runs gets the same numbers as one done in a single run.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from pydantic import BaseModel

from colab_helpers.faces.analyser import FaceAnalyser
from colab_helpers.faces.geometry import ARCFACE_112, overlap, similarity_transform, yaw_degrees
from colab_helpers.faces.photos import BLURRED, percentile, sharpness_of
from colab_helpers.faces.types import ByteImage, Face, FloatArray
from colab_helpers.media.images import to_data_url
from colab_helpers.media.picture import Picture

Spans = list[tuple[int, int]]
"""Half-open ranges of frames, sorted and not adjacent."""
MAX_TRACKS = 32
"""Maximum number of tracks with statistics of their own in a segment; all others form the crowd."""
CROWD = -1
"""Track number of the crowd."""

_PATCH = 48
_TEMPLATE = ARCFACE_112 * np.float32(_PATCH / 112)
_SAME_FACE = 0.5  # of a face's width: if its centre moves by more, it is another face, or another shot
# Edge of what a portrait shows, in longer sides of the face's box, and of the picture, in pixels.
_BOX_SCALE, _PORTRAIT_HEIGHT = 1.5, 72
# Width in pixels, and sharpness, beyond which a portrait does not get any better.
_WIDE, _SHARP = 160.0, 4 * BLURRED


class Portrait(BaseModel, extra="forbid"):
    """The frame that shows a person best.

    Attributes:
        worth: Score by yaw, size and sharpness, 0 to 1; 0 if not measured.
        frame: Number of the frame.
        seconds: Time after the first frame.
        box: xyxy in pixels of the stored frame.
        url: The picture as from `portrait_url`; empty if not measured.
    """

    worth: float
    frame: int
    seconds: float
    box: tuple[float, float, float, float]
    url: str = ""


class TrackStats(BaseModel, extra="forbid"):
    """Statistics of one track, or of one person, over some frames.

    Attributes:
        seen: Frames that show the face.
        changed: Frames in which it was changed.
        filled: Changed frames in which the detector missed it.
        hidden: Frames in which it was not changed because it was occluded.
        samples: Number of comparisons with the source.
        swap: Sum over the samples of the cosine of the swapper's output; ``mask`` after masking, ``final``
            in the finished frame.
        flicker: Sum over pairs of consecutive frames of the squared step, in grey levels, of the change's
            effect on mean brightness; ``own`` of the squared step of the target's own brightness.
        pairs: Number of these pairs.
        spans: Frames in which it was seen but not changed.
        portrait: Best frame of the face.
    """

    seen: int = 0
    changed: int = 0
    filled: int = 0
    hidden: int = 0
    samples: int = 0
    swap: float = 0.0
    mask: float = 0.0
    final: float = 0.0
    flicker: float = 0.0
    own: float = 0.0
    pairs: int = 0
    spans: Spans = []
    portrait: Portrait | None = None

    def add(self, other: TrackStats) -> None:
        """Add the statistics of other frames."""
        for name in TrackStats.model_fields.keys() - {"spans", "portrait"}:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.spans = merge_spans([*self.spans, *other.spans])
        self.show(other.portrait)

    def show(self, portrait: Portrait | None) -> None:
        """Take a portrait if it is better than the present one."""
        best = self.portrait
        if portrait is not None and (best is None or portrait.worth > best.worth):
            self.portrait = portrait


class FrameStats(BaseModel, extra="forbid"):
    """Statistics of consecutive frames.

    Attributes:
        faces: Number of faces changed.
        without_face: Frames in which no face was changed; repeated frames do not count.
        filled: Changed faces that the detector missed and that were interpolated from their track.
        spans: Frames in which no face was changed.
        similarities: Cosines between source and result of the largest face, one per sample.
        flicker: Sum over pairs of consecutive frames of the squared step, in grey levels, of the change's
            effect on the largest face's mean brightness.
        pairs: Number of these pairs.
        actions: Set of actions applied to faces.
        tracks: Statistics of each track, by number.
    """

    faces: int = 0
    without_face: int = 0
    filled: int = 0
    spans: Spans = []
    similarities: list[float] = []
    flicker: float = 0.0
    pairs: int = 0
    actions: set[str] = set()
    tracks: dict[int, TrackStats] = {}

    def add(self, later: FrameStats) -> None:
        """Add the statistics of the following frames."""
        for name in ("faces", "without_face", "filled", "similarities", "flicker", "pairs"):
            setattr(self, name, getattr(self, name) + getattr(later, name))
        self.spans = merge_spans([*self.spans, *later.spans])
        self.actions |= later.actions
        for number, counts in later.tracks.items():
            self.tracks.setdefault(number, TrackStats()).add(counts)

    def add_frame(self, index: int, faces: int, *, filled: int = 0) -> None:
        """Count a frame with its number of changed faces."""
        self.faces, self.filled = self.faces + faces, self.filled + filled
        if not faces:
            self.without_face += 1
            add_span(self.spans, index, index + 1)

    def sum_up_crowd(self) -> None:
        """Merge all but the tracks seen most into the crowd."""
        kept = heapq.nlargest(MAX_TRACKS, self.tracks, key=lambda number: self.tracks[number].seen)
        for number in sorted(self.tracks.keys() - set(kept)):
            counts = self.tracks.pop(number)
            self.tracks.setdefault(CROWD, TrackStats()).add(counts)

    @property
    def by_ai(self) -> bool:
        """Whether networks changed any face; anonymization alone does not count."""
        return not self.actions.isdisjoint(("swap", "enhance"))

    @property
    def flicker_rms(self) -> float | None:
        """Root mean square of the steps in brightness, in grey levels; None without pairs of frames."""
        return root_mean(self.flicker, self.pairs)

    @property
    def similarity_mean(self) -> float | None:
        """Mean cosine; None without samples."""
        return float(np.mean(self.similarities)) if self.similarities else None

    @property
    def similarity_p5(self) -> float | None:
        """5th percentile of the cosines; None without samples."""
        return percentile(self.similarities, 5) if self.similarities else None


def root_mean(squares: float, count: int) -> float | None:
    """Return the root mean square from a sum of squares and their count; None for a count of 0."""
    return math.sqrt(squares / count) if count else None


def add_span(spans: Spans, start: int, stop: int) -> None:
    """Add frames to sorted spans; they must not start before the last span."""
    while spans and spans[-1][1] >= start:
        before = spans.pop()
        start, stop = min(before[0], start), max(before[1], stop)
    spans.append((start, stop))


def merge_spans(spans: Spans) -> Spans:
    """Sort spans and join those that overlap or adjoin."""
    result: Spans = []
    for start, stop in sorted(spans):
        add_span(result, start, stop)
    return result


@dataclass(frozen=True)
class Brightness:
    """Mean brightness of a face, with its position.

    Attributes:
        frame: Number of the frame.
        level: Mean grey level, 0 to 255.
        centre: Centre of the face's box.
        width: Width of the box.
    """

    frame: int
    level: float
    centre: tuple[float, float]
    width: float

    def follows(self, before: Brightness) -> bool:
        """Return whether this is the same face, one frame later."""
        moved = math.dist(self.centre, before.centre)
        return self.frame == before.frame + 1 and moved < _SAME_FACE * before.width


def brightness(picture: Picture, face: Face, frame: int) -> Brightness:
    """Measure the mean brightness of the inner face, at the same points of the face in every frame."""
    patch = picture.grey(similarity_transform(face.kps, _TEMPLATE), _PATCH, sparse=True)
    width = float(face.box[2] - face.box[0])
    return Brightness(frame, float(patch.mean()), face.centre, width)


def source_similarity(analyser: FaceAnalyser, picture: Picture, face: Face, source: FloatArray) -> float:
    """Return the cosine, -1 to 1, between a face in the changed picture and the source.

    Args:
        analyser: Embeds the face.
        picture: The changed picture.
        face: Position of the face.
        source: ``(512,)`` embedding of any length.
    """
    (embedded,) = analyser.embed(picture, [face])
    assert embedded.embedding is not None
    return float(embedded.embedding @ source / np.linalg.norm(source))


def expected_worth(face: Face, others: Iterable[Face]) -> float:
    """Return an upper bound of `worth`, 0 to 1, that needs no pixels."""
    if face.filled:
        return 0.0
    frontal = max(0.0, 1 - abs(yaw_degrees(face.kps)) / 90)
    size = min(1.0, float(face.box[2] - face.box[0]) / _WIDE)
    # The detector's score falls with occlusion, except by another face.
    unoccluded = face.score * (1 - max((overlap(face.box, other.box) for other in others), default=0.0))
    return frontal * size * unoccluded**4 * face.weight


def worth(picture: Picture, face: Face, others: Iterable[Face]) -> float:
    """Rate a face as a portrait, 0 to 1: frontal, large, sharp, not occluded (``others``: other faces)."""
    bound = expected_worth(face, others)
    if not bound:
        return 0.0
    sharpness = sharpness_of(picture.grey(similarity_transform(face.kps, ARCFACE_112), 112))
    return round(bound * min(1.0, sharpness / _SHARP), 4)


def portrait_url(picture: Picture, face: Face, upright: Callable[[ByteImage], ByteImage]) -> str:
    """Return a face with its surroundings, rotated by ``upright``, as a small JPEG ``data:`` URL."""
    edge = _BOX_SCALE * float(max(face.box[2:] - face.box[:2]))
    scale, size = 3 * _PORTRAIT_HEIGHT / edge, (_PORTRAIT_HEIGHT, _PORTRAIT_HEIGHT)
    x, y = (scale * (edge / 2 - centre) for centre in face.centre)
    crop = picture.crop(np.array([[scale, 0, x], [0, scale, y]]), 3 * _PORTRAIT_HEIGHT)
    small = cv2.resize(upright(crop), size, interpolation=cv2.INTER_AREA)
    return to_data_url(np.asarray(small, np.uint8), "jpeg", quality=85)
