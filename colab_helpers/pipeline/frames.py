"""Frames on their way: their faces found, selected, changed and measured, and what was measured added up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, TypeVar

import cv2

from colab_helpers.errors import NoFaceError
from colab_helpers.faces.changer import FaceJob
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.index import FrameFaces
from colab_helpers.faces.masks import Look, cover_of
from colab_helpers.faces.quality import Brightness, Measured, brightness, likeness
from colab_helpers.faces.selection import FacesDigest, needs_embeddings, reference_embedding
from colab_helpers.faces.types import Face, FloatArray
from colab_helpers.language import tr
from colab_helpers.machine import GIB
from colab_helpers.media.picture import Picture

# Frames waiting between stages may take this share of the budget; networks, decoder and encoder need the
# rest. Deeper queues do not make a run faster: one slow stage fills them all.
QUEUE_SHARE, _DEEPEST = 0.2, 8

Item = TypeVar("Item")
AnyPicture = TypeVar("AnyPicture", bound=Picture)


@dataclass(eq=False)
class Work(Generic[Item, AnyPicture]):
    """A frame on its way, with the faces of it that are to be changed.

    Attributes:
        index: Its number.
        item: What it was read as.
        picture: Its pixels, which are changed in place.
        faces: The faces that are changed.
        repeats: Whether it shares its picture with the one before, as is done to keep a constant rate: such a
            picture is changed once.
        before: Brightness of the largest face before it was changed, ``after`` after it.
        similarity: Cosine between source and result, where it was measured.
        pts: Its timestamp, in ticks.
        seen: What the networks found in it.
        chosen: Faces that are changed if they are not hidden; see ``Following.works``.
        looks: What the frame shows of each of ``faces``; none where it was not looked at for masks.
        near: The same of the frames around it, by track.
    """

    index: int
    item: Item
    picture: AnyPicture
    faces: Sequence[Face] = ()
    repeats: bool = False
    before: Brightness | None = None
    after: Brightness | None = None
    similarity: float | None = None
    pts: int = 0
    chosen: Sequence[Face] = ()
    looks: Sequence[Look | None] = ()
    near: Sequence[Mapping[int | None, Look]] = ()
    seen: FrameFaces = field(init=False)

    def __post_init__(self) -> None:
        self.seen = FrameFaces(self.index, self.pts, picture=self.picture)

    def jobs(self) -> list[FaceJob]:
        """Return what is to be done to each face."""
        looks = self.looks or [None] * len(self.faces)
        return [
            FaceJob(self.picture, face, cover_of(look, [by_track.get(face.track) for by_track in self.near]))
            for face, look in zip(self.faces, looks, strict=True)
        ]


class FrameChanger:
    """Changes and measures the faces of frames; may run in several threads.

    Args:
        engine: The loaded networks.
        source: Unit embedding of the source; None where nothing is swapped.
        every: Of so many frames one is compared with the source.
    """

    def __init__(self, engine: Engine, source: FloatArray | None, *, every: int) -> None:
        self._engine, self._source, self._every = engine, source, every
        self._changer = engine.changer(source)

    def changed(self, group: list[Work[Item, AnyPicture]]) -> list[Work[Item, AnyPicture]]:
        """Change the faces of some frames, and measure the largest of each."""
        shown = [
            (work, max(work.faces, key=lambda face: face.area))
            for work in group
            if work.faces and not work.repeats
        ]
        for work, largest in shown:
            work.before = brightness(work.picture, largest, work.index)
        self._changer.change([job for work, _ in shown for job in work.jobs()])
        for work, largest in shown:
            work.after = brightness(work.picture, largest, work.index)
            if self._source is not None and work.index % self._every == 0:
                work.similarity = likeness(self._engine.analyser, work.picture, largest, self._source)
        for work in group:
            work.looks = work.near = ()  # as large as a small frame for every few faces, and done with
        return group


def reference_person(
    engine: Engine, pictures: Iterable[Picture], *, number: int, where: str
) -> FloatArray | None:
    """Return the embedding of the person to follow, read off one picture; None where nobody is followed.

    Args:
        engine: The loaded networks.
        pictures: All pictures, in order; none is looked at where nobody is followed.
        number: Which of them shows the person.
        where: Their file, for messages.

    Raises:
        NoFaceError: There is no such picture, or it does not show that person.
    """
    if not needs_embeddings(engine.settings):
        return None
    picture = next(islice(pictures, number, None), None)
    if picture is None:
        raise NoFaceError(
            tr("reference_frame_number is {number}, but the video ends before it", number=number),
            where=where,
            remedy=tr("choose an earlier frame"),
        )
    faces = engine.analyser.embed(picture, engine.analyser.search(picture))
    return reference_embedding(faces, engine.settings, where=where)


class Tally:
    """Adds up what was measured, frame after frame."""

    def __init__(self) -> None:
        self.frames = 0
        self._measured = Measured()
        self._last: tuple[Brightness, float] | None = None
        self.faces = FacesDigest()

    def add(self, work: Work[Item, AnyPicture]) -> None:
        """Count a frame that has been written."""
        self.frames += 1
        self.faces.add(work.chosen)
        if not work.repeats:
            filled = sum(face.filled for face in work.faces)
            self._measured.add_frame(work.index, len(work.faces), filled=filled)
        if work.similarity is not None:
            self._measured.similarities.append(work.similarity)
        if work.before is None or work.after is None:
            return
        added = work.after.level - work.before.level
        if self._last is not None and work.before.follows(self._last[0]):
            self._measured.flicker += (added - self._last[1]) ** 2
            self._measured.pairs += 1
        self._last = work.before, added

    def take(self) -> Measured:
        """Return what was measured since this was last asked."""
        measured, self._measured = self._measured, Measured()
        return measured


def queue_depth(frame_bytes: int, *, max_memory: float, in_work: int, queues: int) -> int:
    """Return how many frames, 1 to 8, may wait in each of ``queues`` queues between stages.

    ``max_memory`` is the RAM the run may hold, in GiB; ``in_work`` the frames that the stages hold.
    """
    frames = int(max_memory * GIB * QUEUE_SHARE / max(1, frame_bytes)) - in_work
    return max(1, min(_DEEPEST, frames // queues))


@contextmanager
def one_opencv_thread() -> Iterator[None]:
    """Keep OpenCV from splitting its small jobs: the stages already use every core.

    Handing parts of a crop or mask to a pool costs 10 to 15 % more CPU than the work itself.
    """
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
