"""What goes into a video's run beside the video, and what comes out."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from colab_helpers.faces.index import FaceIndex
from colab_helpers.faces.person_stats import PersonStats
from colab_helpers.faces.quality import FrameStats
from colab_helpers.files import unwritable_error
from colab_helpers.language import mark, tr
from colab_helpers.media.label import Label
from colab_helpers.media.segments import Segment
from colab_helpers.models.session import Provider


@dataclass(frozen=True)
class FileResult:
    """What became of one file."""

    frames_in: int  # frames read; ``frames_out`` frames written
    frames_out: int
    measured: FrameStats  # faces changed, and how well they came out; ``people`` the same for each person
    seconds: float  # wall time
    encoder: str | None  # encoder of the result; None for an image, and for a file that is copied
    provider: Provider  # where the networks ran
    notes: tuple[str, ...]  # every fall-back and conversion, one sentence each
    # Length of the result's picture; ``audio_seconds`` that of its audio, 0 without.
    video_seconds: float | None = None
    audio_seconds: float | None = None
    # Whether every frame is shown exactly when the target's is; None for a GIF, whose pictures have times of
    # their own.
    times_kept: bool | None = None
    segments: int = 0  # how many the result was joined from; 0 for a GIF or picture
    segments_kept: int = 0  # how many of them an earlier run had finished
    people: tuple[PersonStats, ...] = ()

    @property
    def faces_swapped(self) -> int:
        """Faces changed, counted over all frames."""
        return self.measured.faces

    @property
    def frames_without_face(self) -> int:
        """Frames in which no face was changed."""
        return self.measured.without_face


@dataclass(frozen=True)
class FinishedSegment:
    """A segment that is safe on disk, and what is known of its frames."""

    segment: Segment  # the file
    length: int  # frames that every segment but the last one was to have
    measured: FrameStats  # what was counted over its frames
    encoder: str  # what it was encoded with; segments of different encoders do not join
    provider: str  # where the networks ran
    faces: str  # digest of the faces that were changed, and where; see ``faces.selection.FacesDigest``
    notes: tuple[str, ...] = ()  # what was repaired or converted, one sentence each
    times_kept: bool = True  # whether its frames, and those before, are shown when the target's are


class Marks(Protocol):
    """Says in a result's file what was done to its target; ``actions`` are those of ``FrameStats``.

    ``label`` is burnt into pictures, if there is one, where AI changed any face of the file.
    """

    label: Label | None

    def comment(self, actions: Collection[str]) -> str:
        """Return what the tags of a video say."""

    def parts(self, actions: Collection[str]) -> dict[str, bytes]:
        """Return what a picture says beside its pixels, as `Still.parts`."""

    def seal(self, partial: Path, output: Path, actions: Collection[str]) -> None:
        """Complete a finished file under its hidden name."""


def label_for(marks: Marks | None, width: int, height: int) -> tuple[Label | None, tuple[str, ...]]:
    """Return the label for pictures of a size, as they are seen, or a note that they have no room for it.

    Marks lose a label that has no room: they say what is there.
    """
    if marks is None or marks.label is None or marks.label.fits(width, height):
        return marks.label if marks else None, ()
    marks.label = None
    told = mark("the visible label has no room in {width}x{height} pixels: the result has none")
    return None, (tr(told, width=width, height=height),)


@dataclass(eq=False)
class SegmentStore:
    """Keeps a video's finished segments, so that a later run makes only those that are missing.

    This one knows them, and what is known of faces, as long as its folder is there.
    """

    folder: Path  # where segments are written; made if missing
    _kept: list[FinishedSegment] = field(default_factory=list, init=False)

    def face_index(self) -> FaceIndex:
        """Return what is known of the video's faces."""
        return FaceIndex(self.folder / "faces")

    def finished(self) -> list[FinishedSegment]:
        """Return those that still stand as they were noted, any of them, in any order."""
        return self._kept

    def keep(self, done: FinishedSegment) -> None:
        """Note a segment; it counts as finished when this returns."""
        self._kept.append(done)


@contextmanager
def temporary_store(output: Path) -> Iterator[SegmentStore]:
    """Keep segments in a hidden folder beside a result, removed at the end; OutputError if it fails."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        place = tempfile.TemporaryDirectory(prefix=".segments-", dir=output.parent)
    except OSError as error:
        raise unwritable_error(output, error) from error
    with place as folder:
        yield SegmentStore(Path(folder))
