"""How well faces came out, in a few numbers that need no reference: likeness, steadiness, gaps.

Each is measured on the fly, so nothing is decoded again, and kept in sums that can be added up segment by
segment: a video done in two runs gets the numbers of one done in a single run.
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
"""Frames: first one, and the one after the last; rising, never touching."""
MAX_TRACKS = 32
"""Tracks that are counted one by one in a segment; what there is beyond them is a crowd."""
CROWD = -1
"""Number under which all further tracks of a segment are counted."""

_PATCH = 48
_POINTS = ARCFACE_112 * np.float32(_PATCH / 112)
# A face whose centre moves by more than this share of its width is another face, or another shot.
_SAME_FACE = 0.5
# A portrait shows so many times as much as the face's box, and is so many pixels high.
_BOX_SCALE, _PORTRAIT_HEIGHT = 1.5, 72
# A portrait is no better for being wider than so many pixels, or sharper than so many times what is blurred.
_WIDE, _SHARP = 160.0, 4 * BLURRED


class Portrait(BaseModel, extra="forbid"):
    """The frame that shows somebody best.

    Attributes:
        worth: How frontal, large and sharp, 0 to 1; 0 where that was not looked at.
        frame: Its number; ``seconds`` its time after the first frame.
        box: xyxy in pixels of the stored frame.
        url: The picture itself, where it was looked at; see `portrait_url`.
    """

    worth: float
    frame: int
    seconds: float
    box: tuple[float, float, float, float]
    url: str = ""


class TrackStats(BaseModel, extra="forbid"):
    """What was counted of one track, or of one person, over some frames.

    Attributes:
        seen: Frames that show the face; ``changed`` those in which it was changed.
        filled: Frames of those changed in which the detector missed it.
        hidden: Frames in which it was not changed because something stood before it.
        samples: How often it was compared with the source; sums of cosines are ``swap`` of the network's
            own crop, ``mask`` of what was pasted of it, and ``final`` of the finished frame.
        flicker: Sum over pairs of frames of the squared step in what the change added to its mean
            brightness, ``own`` of the squared step in the target's, in grey levels; over ``pairs``.
        spans: Frames in which it was seen, but not changed.
        portrait: Its best frame.
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
        """Add what was counted over other frames."""
        for name in TrackStats.model_fields.keys() - {"spans", "portrait"}:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.spans = merged([*self.spans, *other.spans])
        self.show(other.portrait)

    def show(self, portrait: Portrait | None) -> None:
        """Take a portrait if it is better than the one so far; of equals the earlier one."""
        best = self.portrait
        if portrait is not None and (best is None or portrait.worth > best.worth):
            self.portrait = portrait


class FrameStats(BaseModel, extra="forbid"):
    """What was counted over consecutive frames.

    Attributes:
        faces: Faces changed.
        without_face: Frames in which no face was changed; frames shown again do not count.
        filled: Those of them that the detector missed for a moment; they are where their track says.
        spans: Frames in which no face was changed.
        similarities: Cosine between source and result of the largest face, one for each sample.
        flicker: Sum over pairs of frames of the squared difference in what the change added to the largest
            face's mean brightness, in grey levels.
        pairs: How many pairs of frames went into ``flicker``.
        actions: What was done to them, each once.
        tracks: What was counted of each track, by its number.
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
        """Add what was counted over the frames that follow."""
        self.faces += later.faces
        self.without_face += later.without_face
        self.filled += later.filled
        self.spans = merged([*self.spans, *later.spans])
        self.similarities += later.similarities
        self.flicker += later.flicker
        self.pairs += later.pairs
        self.actions |= later.actions
        for number, counts in later.tracks.items():
            self.tracks.setdefault(number, TrackStats()).add(counts)

    def add_frame(self, index: int, faces: int, *, filled: int = 0) -> None:
        """Count a frame."""
        self.faces, self.filled = self.faces + faces, self.filled + filled
        if not faces:
            self.without_face += 1
            add_span(self.spans, index, index + 1)

    def sum_up_crowd(self) -> None:
        """Count all but the tracks seen most as one."""
        kept = heapq.nlargest(MAX_TRACKS, self.tracks, key=lambda number: self.tracks[number].seen)
        for number in sorted(self.tracks.keys() - set(kept)):
            counts = self.tracks.pop(number)
            self.tracks.setdefault(CROWD, TrackStats()).add(counts)

    @property
    def by_ai(self) -> bool:
        """Whether networks changed any face: those that were only made unrecognisable show nobody else."""
        return not self.actions.isdisjoint(("swap", "enhance"))

    @property
    def flicker_rms(self) -> float | None:
        """Root mean square of the steps in brightness, in grey levels; None without two frames to compare."""
        return root_mean(self.flicker, self.pairs)

    @property
    def similarity_mean(self) -> float | None:
        """Mean cosine; None without samples."""
        return float(np.mean(self.similarities)) if self.similarities else None

    @property
    def similarity_p5(self) -> float | None:
        """Cosine that 95 % of the samples reach; None without samples."""
        return percentile(self.similarities, 5) if self.similarities else None


def root_mean(squares: float, count: int) -> float | None:
    """Root of the mean of so many squares, given their sum; None without any."""
    return math.sqrt(squares / count) if count else None


def add_span(spans: Spans, start: int, stop: int) -> None:
    """Add frames that do not begin before the last of those there are."""
    while spans and spans[-1][1] >= start:
        before = spans.pop()
        start, stop = min(before[0], start), max(before[1], stop)
    spans.append((start, stop))


def merged(spans: Spans) -> Spans:
    """Put spans in order, and those together that touch."""
    found: Spans = []
    for start, stop in sorted(spans):
        add_span(found, start, stop)
    return found


@dataclass(frozen=True)
class Brightness:
    """Mean brightness of a face, and where it was.

    Attributes:
        frame: Number of the frame.
        level: Grey levels, 0 to 255.
        centre: Centre of its box; ``width`` of it.
    """

    frame: int
    level: float
    centre: tuple[float, float]
    width: float

    def follows(self, before: Brightness) -> bool:
        """Whether this is the same face one frame later."""
        moved = math.dist(self.centre, before.centre)
        return self.frame == before.frame + 1 and moved < _SAME_FACE * before.width


def brightness(picture: Picture, face: Face, frame: int) -> Brightness:
    """Mean brightness of the inner face, read at the same points of it in every frame."""
    patch = picture.grey(similarity_transform(face.kps, _POINTS), _PATCH, sparse=True)
    width = float(face.box[2] - face.box[0])
    return Brightness(frame, float(patch.mean()), face.centre, width)


def likeness(analyser: FaceAnalyser, picture: Picture, face: Face, source: FloatArray) -> float:
    """Cosine between a face as it stands in the picture now and the source, -1 to 1.

    Args:
        analyser: Its recogniser embeds the face.
        picture: The changed picture.
        face: Where it is.
        source: ``(512,)`` embedding, of any length.
    """
    (embedded,) = analyser.embed(picture, [face])
    assert embedded.embedding is not None
    return float(embedded.embedding @ source / np.linalg.norm(source))


def expected_worth(face: Face, others: Iterable[Face]) -> float:
    """How well a face may do as a portrait, 0 to 1, by what is known without its pixels; see `worth`."""
    if face.filled:
        return 0.0
    frontal = max(0.0, 1 - abs(yaw_degrees(face.kps)) / 90)
    size = min(1.0, float(face.box[2] - face.box[0]) / _WIDE)
    # The detector is the less sure the more of a face is covered; somebody else before it looks like a face.
    free = face.score * (1 - max((overlap(face.box, other.box) for other in others), default=0.0))
    return frontal * size * free**4 * face.weight


def worth(picture: Picture, face: Face, others: Iterable[Face]) -> float:
    """How well a face would do as a portrait, 0 to 1: frontal, large, sharp, with nothing before it.

    ``others`` are the frame's other faces.
    """
    promised = expected_worth(face, others)
    if not promised:
        return 0.0
    sharp = sharpness_of(picture.grey(similarity_transform(face.kps, ARCFACE_112), 112))
    return round(promised * min(1.0, sharp / _SHARP), 4)


def portrait_url(picture: Picture, face: Face, upright: Callable[[ByteImage], ByteImage]) -> str:
    """Cut out a face with what is around it, turned as players show it, as a small JPEG ``data:`` URL."""
    edge = _BOX_SCALE * float(max(face.box[2:] - face.box[:2]))
    scale, size = 3 * _PORTRAIT_HEIGHT / edge, (_PORTRAIT_HEIGHT, _PORTRAIT_HEIGHT)
    x, y = (scale * (edge / 2 - middle) for middle in face.centre)
    crop = picture.crop(np.array([[scale, 0, x], [0, scale, y]]), 3 * _PORTRAIT_HEIGHT)
    small = cv2.resize(upright(crop), size, interpolation=cv2.INTER_AREA)
    return to_data_url(np.asarray(small, np.uint8), "jpeg", quality=85)
