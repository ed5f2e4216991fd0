"""Results of a file's run, the segment store, and the protocol for marking results."""

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
    """Outcome of one file."""

    frames_in: int  # frames read
    frames_out: int  # frames written
    measured: FrameStats  # changed faces and their quality
    seconds: float  # wall time
    encoder: str | None  # encoder of the result; None for an image or a copied file
    provider: Provider  # execution provider of the networks
    notes: tuple[str, ...]  # every fallback and conversion, one sentence each
    video_seconds: float | None = None  # duration of the result's video
    audio_seconds: float | None = None  # duration of its audio; 0 without
    # Whether every frame keeps the target's timestamp; None for a GIF, whose frames have their own durations.
    times_kept: bool | None = None
    segments: int = 0  # segments the result was joined from; 0 for a GIF or picture
    segments_kept: int = 0  # those of them that an earlier run had finished
    people: tuple[PersonStats, ...] = ()  # the measurements of each person

    @property
    def faces_swapped(self) -> int:
        """Changed faces, summed over all frames."""
        return self.measured.faces

    @property
    def frames_without_face(self) -> int:
        """Number of frames in which no face was changed."""
        return self.measured.without_face


@dataclass(frozen=True)
class FinishedSegment:
    """A segment on disk with the measurements of its frames."""

    segment: Segment  # the file
    length: int  # frames planned for every segment but the last
    measured: FrameStats  # measurements of its frames
    encoder: str  # encoder and its options; segments join only where these are equal
    provider: str  # where the networks ran
    faces: str  # digest of the changed faces and their positions; see ``faces.selection.FacesDigest``
    notes: tuple[str, ...] = ()  # repairs and conversions, one sentence each
    times_kept: bool = True  # whether its frames and those before keep the target's timestamps


class Marks(Protocol):
    """Disclosure of what was done to a target in the result's file; ``actions`` as in ``FrameStats``.

    ``label``, if any, is burnt into the pictures of files in which AI changed a face.
    """

    label: Label | None

    def comment(self, actions: Collection[str]) -> str:
        """Return the comment tag of a video."""

    def parts(self, actions: Collection[str]) -> dict[str, bytes]:
        """Return the metadata of a picture, as `Still.parts`."""

    def seal(self, partial: Path, output: Path, actions: Collection[str]) -> None:
        """Sign a finished file under its hidden name."""


def label_for(marks: Marks | None, width: int, height: int) -> tuple[Label | None, tuple[str, ...]]:
    """Return the label for upright pictures of a size, or a note that it does not fit.

    A label that does not fit is removed from ``marks``, so that they do not claim one.
    """
    if marks is None or marks.label is None or marks.label.fits(width, height):
        return marks.label if marks else None, ()
    marks.label = None
    note = mark("the visible label does not fit into {width}x{height} pixels: the result has none")
    return None, (tr(note, width=width, height=height),)


@dataclass(eq=False)
class SegmentStore:
    """Store of a video's finished segments and its face index, for a later run that makes the missing ones.

    This base class remembers them as long as its folder exists; subclasses may persist them.
    """

    folder: Path  # where segments are written; created if missing
    _kept: list[FinishedSegment] = field(default_factory=list, init=False)

    def face_index(self) -> FaceIndex:
        """Return the face index of the video."""
        return FaceIndex(self.folder / "faces")

    def finished(self) -> list[FinishedSegment]:
        """Return the segments whose files are unchanged since they were recorded, in any order."""
        return self._kept

    def keep(self, done: FinishedSegment) -> None:
        """Record a segment; it counts as finished when this returns."""
        self._kept.append(done)


@contextmanager
def temporary_store(output: Path) -> Iterator[SegmentStore]:
    """Keep segments in a hidden folder beside a result until exit; raise OutputError if it cannot be made."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(prefix=".segments-", dir=output.parent)
    except OSError as error:
        raise unwritable_error(output, error) from error
    with temporary as folder:
        yield SegmentStore(Path(folder))
