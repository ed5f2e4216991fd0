"""Frames on their way: which are still to be done, and what is measured of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from colab_helpers.faces.quality import Brightness, Dips, Measured
from colab_helpers.faces.types import Face
from colab_helpers.media.picture import VideoPicture
from colab_helpers.media.reader import Frame, FrameReader
from colab_helpers.media.retime import constant_rate

CONSTANT_RATE = Fraction(30)
"""Frames per second of a result whose settings do not keep the target's timing (as in roop)."""


@dataclass(eq=False)
class Work:
    """A frame on its way, with the faces of it that are to be changed.

    A frame repeated to keep a constant rate shares its picture with the one before, which is changed
    once: ``repeats`` says so, and ``faces`` is empty then.
    """

    frame: Frame
    picture: VideoPicture
    faces: Sequence[Face] = ()
    repeats: bool = False
    before: Brightness | None = None
    after: Brightness | None = None
    similarity: float | None = None

    @property
    def index(self) -> int:
        """Number of the frame."""
        return self.frame.index

    @property
    def largest(self) -> Face:
        """The face that is measured."""
        return max(self.faces, key=lambda face: face.area)


class Counted(Protocol):
    """What is counted of a frame; see ``Work``."""

    @property
    def index(self) -> int: ...  # noqa: D102
    @property
    def faces(self) -> Sequence[Face]: ...  # noqa: D102
    @property
    def repeats(self) -> bool: ...  # noqa: D102
    @property
    def before(self) -> Brightness | None: ...  # noqa: D102
    @property
    def after(self) -> Brightness | None: ...  # noqa: D102
    @property
    def similarity(self) -> float | None: ...  # noqa: D102


class Tally:
    """Adds up what was measured, frame after frame."""

    def __init__(self) -> None:
        self.frames = 0
        self._measured = Measured()
        self._last: tuple[Brightness, float] | None = None
        self._dips = Dips()

    def add(self, work: Counted) -> None:
        """Count a frame that has been written."""
        self.frames += 1
        if not work.repeats:
            self._measured.add_frame(work.index, len(work.faces))
            for index in self._dips.add(work.index, len(work.faces)):
                self._measured.add_fewer(index)
        if work.similarity is not None:
            self._measured.similarities.append(work.similarity)
        self._add_step(work)

    def _add_step(self, work: Counted) -> None:
        if work.before is None or work.after is None:
            return
        added = work.after.level - work.before.level
        if self._last is not None and work.before.follows(self._last[0]):
            self._measured.flicker += (added - self._last[1]) ** 2
            self._measured.pairs += 1
        self._last = work.before, added

    def take(self) -> Measured:
        """What was measured since this was last asked."""
        measured, self._measured = self._measured, Measured()
        return measured


class Frames(Iterator[Frame]):
    """Frames of the target still to be done, counted as they are read.

    Args:
        frames: From the reader.
        notes: The reader's, which grow while it reads.
        start: Number of the first frame to come out.
        count: Frames read so far.
    """

    def __init__(self, frames: Iterator[Frame], notes: list[str], *, start: int, count: int = 0) -> None:
        self._source = frames
        self.notes = notes
        self.start = start
        self.count = count
        self._wanted = self._counted(frames)

    @property
    def times_kept(self) -> bool:
        """Whether all frames read so far are shown when the target says."""
        return not isinstance(self._source, FrameReader) or self._source.times_kept

    def retime(self) -> None:
        """Bring the frames to the constant rate; ``start`` counts in that rate, too."""
        evened = constant_rate(self._wanted, rate=CONSTANT_RATE)
        self._wanted = (frame for frame in evened if frame.index >= self.start)

    def _counted(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        for frame in frames:
            self.count += 1
            yield frame

    def __next__(self) -> Frame:
        return next(self._wanted)


def as_work(frames: Iterator[Frame], rotation: int) -> Iterator[Work]:
    """Frames with their pictures; those that repeat the one before are marked."""
    before = None
    for frame in frames:
        repeats = frame.video is before
        yield Work(frame, VideoPicture(frame.video, rotation=rotation), repeats=repeats)
        before = frame.video
