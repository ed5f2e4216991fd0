"""Index of the faces in each frame of a video, kept on disk so that no later run detects them again.

Rows are written in chunks of consecutive frames, one compressed numpy file each, named by the first frame.
They hold the output of detector and recogniser only; nothing depends on source, selection or masks.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from colab_helpers.faces.types import ByteImage, Face, FloatArray
from colab_helpers.faces.views import VIEWS, View
from colab_helpers.files import copy_atomically
from colab_helpers.media.picture import Picture

VERSION = 2
DETECTION_INTERVAL = 4
"""The detector runs on every frame whose number is a multiple of this; on others only if needed."""
_EMBEDDING = np.float16


def round_embedding(embedding: FloatArray | None) -> FloatArray | None:
    """Round an embedding to the precision of the index, so that a later run decides the same."""
    return None if embedding is None else embedding.astype(_EMBEDDING).astype(np.float32)


@dataclass(eq=False)
class FrameFaces:
    """The faces found in one frame.

    Attributes:
        frame: Number of the frame.
        pts: Timestamp in ticks of the time base.
        change: Mean absolute difference of brightness to the previous frame, in grey levels.
        cut: Whether a new shot seems to begin with this frame.
        searched: Whether the detector ran; if not, ``faces`` is empty.
        faces: Detections, best score first.
        view: View in which frames around this one are searched if the plain view shows no sure face.
        picture: The pixels; dropped, like ``grid``, once the row is appended to the index.
        grid: Coarse sample of the brightness.
    """

    frame: int
    pts: int
    change: float = 0.0
    cut: bool = False
    searched: bool = False
    faces: Sequence[Face] = ()
    view: View = "plain"
    picture: Picture | None = field(default=None, repr=False)
    grid: ByteImage | None = field(default=None, repr=False)


class Watcher(Protocol):
    """Observes each frame of a video once, in order, as its row is added; may raise to abort the video."""

    @property
    def frames(self) -> int:
        """Number of frames seen."""

    def see(self, row: FrameFaces, seconds: float) -> None:
        """Observe a frame, whose ``picture`` is still unchanged; ``seconds`` is its timestamp."""

    def keep(self) -> None:
        """Save the state; called before rows are written."""

    def end(self) -> None:
        """Observe the end of the video; the end of the result is only made once this returns."""


class FaceIndex:
    """The rows of one video, from the first frame on: those on disk and those still to be written.

    Args:
        folder: Folder of the chunks; None keeps all rows in memory.
        key: Identifies target, networks and settings; chunks with another key are ignored.
        keep: Callback for each chunk that was written.
    """

    def __init__(
        self, folder: Path | None, key: str = "", *, keep: Callable[[Path], None] = lambda _path: None
    ) -> None:
        self._folder, self.key, self._keep = folder, key, keep
        self._lock = threading.Lock()
        self._chunks: list[Path] = []
        self._rows: list[FrameFaces] = []
        self._written, self.complete = 0, False
        while folder is not None and not self.complete:
            chunk = _read_head(folder / _name(self._written), key, self._written)
            if chunk is None:
                break
            self._chunks.append(folder / _name(self._written))
            self._written, self.complete = self._written + chunk[0], chunk[1]
        self._ends_on_disk = self.complete
        self._watcher: Watcher | None = None

    def attach_watcher(self, watcher: Watcher, time_base: Fraction) -> None:
        """Pass new rows, timed by the time base, to a watcher that has already seen the known ones."""
        self._watcher, self._time_base = watcher, time_base
        if self.complete:
            watcher.end()

    def __len__(self) -> int:
        """Return the number of known frames."""
        return self._written + len(self._rows)

    def __iter__(self) -> Iterator[FrameFaces]:
        """Yield the rows known so far, one chunk in memory at a time."""
        with self._lock:
            chunks, rows = list(self._chunks), list(self._rows)
        for path in chunks:
            with np.load(path) as data:
                yield from _rows_of(data)
        yield from rows

    def pts(self, frame: int) -> int:
        """Return the timestamp of a known frame."""
        return next(row.pts for row in self if row.frame == frame)

    def append(self, row: FrameFaces) -> None:
        """Add the row of the next frame, which must be final."""
        if self._watcher is not None:
            self._watcher.see(row, float(row.pts * self._time_base))
        row.picture = row.grid = None
        with self._lock:
            self._rows.append(row)

    def finish(self) -> None:
        """Mark the index as complete: every frame of the video has a row."""
        if self._watcher is not None:
            self._watcher.end()
        with self._lock:
            self.complete = True

    def drop_undecided(self) -> None:
        """Drop the last rows, back to one from which a later run could resume."""
        with self._lock:
            while self._rows and not self._ends_group(len(self._rows)):
                self._rows.pop()

    def flush(self) -> None:
        """Write the rows that are not on disk yet; raise OutputError if that fails."""
        if self._folder is None:
            return
        with self._lock:
            # A run that resumes after any other frame would choose other frames for the detector.
            stop = next((n for n in range(len(self._rows), 0, -1) if self._ends_group(n)), 0)
            rows, path = self._rows[:stop], self._folder / _name(self._written)
            if not rows and (self._ends_on_disk or not self.complete):
                return
            if self._watcher is not None:
                self._watcher.keep()
            data = io.BytesIO()
            np.savez_compressed(data, **_arrays(rows), key=self.key, version=VERSION, complete=self.complete)
            copy_atomically(path, data)
            self._chunks.append(path)
            self._written, self._ends_on_disk = self._written + len(rows), self.complete
            del self._rows[:stop]
        self._keep(path)

    def _ends_group(self, count: int) -> bool:
        return self.complete or self._rows[count - 1].frame % DETECTION_INTERVAL == 0


def _name(frame: int) -> str:
    return f"{frame:08d}.npz"


def _read_head(path: Path, key: str, start: int) -> tuple[int, bool] | None:
    """Return a chunk's number of frames and whether it is the last; None if invalid or of another key."""
    try:
        with np.load(path) as data:
            if int(data["version"]) != VERSION or str(data["key"]) != key:
                return None
            rows = list(_rows_of(data))
            complete = bool(data["complete"])
    except Exception:  # noqa: BLE001 - numpy, zipfile and zlib raise whatever a damaged chunk makes them
        return None
    consecutive = [row.frame for row in rows] == list(range(start, start + len(rows)))
    return (len(rows), complete) if consecutive and (rows or complete) else None


def _arrays(rows: Sequence[FrameFaces]) -> dict[str, Any]:
    faces = [face for row in rows for face in row.faces]
    embeddings = [face.embedding for face in faces if face.embedding is not None]
    return {
        "frame": np.array([row.frame for row in rows], np.int64),
        "pts": np.array([row.pts for row in rows], np.int64),
        "change": np.array([row.change for row in rows], np.float64),
        "cut": np.array([row.cut for row in rows], np.bool_),
        "view": np.array([VIEWS.index(row.view) for row in rows], np.uint8),
        "looked": np.array([row.searched for row in rows], np.bool_),
        "faces": np.array([len(row.faces) for row in rows], np.int64),
        "box": np.array([face.box for face in faces], np.float32).reshape(-1, 4),
        "kps": np.array([face.kps for face in faces], np.float32).reshape(-1, 5, 2),
        "score": np.array([face.score for face in faces], np.float64),
        "attributes": np.array([face.attributes for face in faces], np.float32).reshape(-1, 2),
        "embedded": np.array([face.embedding is not None for face in faces], np.bool_),
        "embedding": np.stack(embeddings).astype(_EMBEDDING) if embeddings else np.zeros((0, 0), _EMBEDDING),
    }


def _rows_of(data: Any) -> Iterator[FrameFaces]:
    parts = {name: data[name] for name in data.files}
    embeddings = iter(parts["embedding"].astype(np.float32))
    faces = (
        Face(box, kps, float(score), next(embeddings) if embedded else None, attributes=attributes)
        for box, kps, score, embedded, attributes in zip(
            *(parts[name] for name in ("box", "kps", "score", "embedded", "attributes")), strict=True
        )
    )
    columns = (parts[name].tolist() for name in ("frame", "pts", "change", "cut", "looked", "view", "faces"))
    for frame, pts, change, cut, ran, view, count in zip(*columns, strict=True):
        yield FrameFaces(frame, pts, change, cut, ran, [next(faces) for _ in range(count)], VIEWS[view])
