"""How well faces came out, in a few numbers that need no reference: likeness, steadiness, gaps.

Each is measured on the fly, so nothing is decoded again, and kept in sums that can be added up: a video
done in two runs gets the numbers of one done in a single run, but for the border between them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict

from colab_helpers.faces.geometry import ARCFACE_112, similarity_transform
from colab_helpers.faces.types import Face, FloatArray
from colab_helpers.media.picture import Picture

if TYPE_CHECKING:
    from colab_helpers.faces.analyser import FaceAnalyser

_PATCH = 16
_POINTS = ARCFACE_112 * np.float32(_PATCH / 112)
# A face whose centre moves by more than this share of its width is another face, or another shot.
_SAME_FACE = 0.5


class Measured(BaseModel):
    """What was counted over consecutive frames.

    Attributes:
        faces: Faces changed.
        without_face: Frames in which no face was changed; frames shown again do not count.
        filled: Those of them that the detector missed for a moment; they are where their track says.
        spans: Frames in which no face was changed: first one, and the one after the last; rising.
        similarities: Cosine between source and result, one for each sample.
        flicker: Sum over pairs of frames of the squared difference in what the change added to the face's
            mean brightness, in grey levels.
        pairs: How many pairs of frames went into ``flicker``.
    """

    model_config = ConfigDict(extra="forbid")

    faces: int = 0
    without_face: int = 0
    filled: int = 0
    spans: list[tuple[int, int]] = []
    similarities: list[float] = []
    flicker: float = 0.0
    pairs: int = 0

    def add(self, later: Measured) -> None:
        """Add what was counted over the frames that follow."""
        self.faces += later.faces
        self.without_face += later.without_face
        self.filled += later.filled
        for start, stop in later.spans:
            self._add_span(start, stop)
        self.similarities += later.similarities
        self.flicker += later.flicker
        self.pairs += later.pairs

    def add_frame(self, index: int, faces: int, *, filled: int = 0) -> None:
        """Count a frame."""
        self.faces, self.filled = self.faces + faces, self.filled + filled
        if not faces:
            self.without_face += 1
            self._add_span(index, index + 1)

    def _add_span(self, start: int, stop: int) -> None:
        while self.spans and self.spans[-1][1] >= start:
            before = self.spans.pop()
            start, stop = min(before[0], start), max(before[1], stop)
        self.spans.append((start, stop))

    @property
    def flicker_rms(self) -> float | None:
        """Root mean square of the steps in brightness, in grey levels; None without two frames to compare."""
        return math.sqrt(self.flicker / self.pairs) if self.pairs else None

    @property
    def similarity_mean(self) -> float | None:
        """Mean cosine; None without samples."""
        return float(np.mean(self.similarities)) if self.similarities else None

    @property
    def similarity_p5(self) -> float | None:
        """Cosine that 95 % of the samples reach; None without samples."""
        return float(np.percentile(self.similarities, 5)) if self.similarities else None


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
    patch = picture.crop(similarity_transform(face.kps, _POINTS), _PATCH)
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
