"""Sparse face detection in videos: every fourth frame, and frames in between if faces change or move."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from statistics import median

import cv2
import numpy as np

from colab_helpers.faces.analyser import CONFIDENT_SCORE, FaceAnalyser
from colab_helpers.faces.geometry import eye_distance, overlap
from colab_helpers.faces.index import DETECTION_INTERVAL, FrameFaces
from colab_helpers.faces.types import ByteImage, Face
from colab_helpers.faces.views import View

SEARCH_INTERVAL = 5 * DETECTION_INTERVAL
"""Interval of frames that are also searched in other views (margin, rotated) if no face is sure."""
# Limits within which a face can be interpolated between two detections: its motion, its deviation from linear
# motion (both in eye distances) and its relative change of size.
_MAX_MOTION, _MAX_DEVIATION, _MAX_GROWTH = 0.8, 0.25, 0.15
_MIN_OVERLAP, _MIN_SCORE = 0.5, 0.6
_LOST_FRAMES = 3 * DETECTION_INTERVAL  # in all of which the detector runs after a face was lost
# A cut changes the picture by over CUT_LEVELS grey levels and _CUT_RATIO times the median of recent frames.
CUT_LEVELS, _CUT_RATIO, _CUT_FRAMES = 12.0, 4.0, 5


class SparseDetector:
    """Decides in which frames the detector must run, and runs it.

    Args:
        analyser: Provides the detector.
        known: Number of frames known from an index, which pass through `observe_known` first.
    """

    def __init__(self, analyser: FaceAnalyser, *, known: int = 0) -> None:
        self._analyser, self._known = analyser, known
        self._last: FrameFaces | None = None
        self._before: FrameFaces | None = None
        self._pending: list[FrameFaces] = []
        self._dense_until = 0
        self._grid: ByteImage | None = None
        self._changes: deque[float] = deque(maxlen=_CUT_FRAMES)
        self._view: View = "plain"

    def observe_known(self, row: FrameFaces) -> None:
        """Update the state with the next frame of an index."""
        self._changes.append(row.change)
        self._view = row.view
        if row.frame % DETECTION_INTERVAL == 0:
            self._add_key_frame(row)

    def _add_key_frame(self, key: FrameFaces) -> None:
        if self._last is not None and len(key.faces) != len(self._last.faces):
            lost = len(key.faces) < len(self._last.faces)
            self._dense_until = key.frame + _LOST_FRAMES if lost else 0
        self._before, self._last = self._last, key

    def detect(self, row: FrameFaces) -> None:
        """Run the detector if the frame's turn has come; several threads may do so ahead of `rows`."""
        assert row.picture is not None
        row.grid = row.picture.grid()
        if row.frame < self._known or row.frame % DETECTION_INTERVAL:
            return
        row.searched = True
        if row.frame % SEARCH_INTERVAL:
            row.faces = self._analyser.detect(row.picture)
        else:
            row.faces, row.view = self._analyser.search_views(row.picture)

    def rows(self, rows: Iterable[FrameFaces]) -> Iterator[FrameFaces]:
        """Yield the frames that are not known yet, in order, once their faces are found.

        While no face is found, frames wait for one that is searched in all views.

        Args:
            rows: Frames after `detect`, in order, from the last known one on.
        """
        waiting: list[list[FrameFaces]] = []
        group: list[FrameFaces] = []
        for row in rows:
            self._compare(row)
            if row.frame < self._known:
                continue
            group.append(row)
            if row.searched:
                waiting.append(group)
                group = []
                self._retry_in_view(row)
                if self._is_settled(row):
                    yield from self._decide(waiting)
                    waiting = []
        if group:
            self._ensure_detected(group[-1])
            waiting.append(group)
        yield from self._decide(waiting)
        yield from self._pending

    def _compare(self, row: FrameFaces) -> None:
        """Measure how much a frame differs from the previous one, and whether there is a cut."""
        before, self._grid = self._grid, row.grid
        if before is None or row.grid is None or row.frame < self._known:
            return
        row.change = cv2.norm(row.grid, before, cv2.NORM_L1) / row.grid.size
        usual = median(self._changes) if self._changes else 0.0
        row.cut = row.change > CUT_LEVELS and row.change > _CUT_RATIO * usual
        self._changes.append(row.change)

    def _is_settled(self, row: FrameFaces) -> bool:
        """Return whether frames need not wait: a face is or was there, or all views were searched."""
        return bool(row.faces or (self._last and self._last.faces) or row.frame % SEARCH_INTERVAL == 0)

    def _retry_in_view(self, row: FrameFaces) -> None:
        """Search a frame in the view of the last face, unless the plain view shows a sure face."""
        if row.frame % SEARCH_INTERVAL == 0:  # all views were searched
            self._view = row.view if row.faces else self._view
        elif row.faces and row.faces[0].score >= CONFIDENT_SCORE:
            self._view = "plain"
        elif self._view != "plain":
            self._detect_in_view(row)

    def _detect_in_view(self, row: FrameFaces) -> None:
        assert row.picture is not None
        faces = self._analyser.detect(row.picture, self._view)
        if faces and (not row.faces or faces[0].score > row.faces[0].score):
            row.faces = faces

    def _ensure_detected(self, row: FrameFaces) -> None:
        """Run the detector on a frame if it has not run yet."""
        assert row.picture is not None
        if not row.searched:
            row.searched, row.faces = True, self._analyser.detect(row.picture)
            if self._view != "plain" and not (row.faces and row.faces[0].score >= CONFIDENT_SCORE):
                self._detect_in_view(row)

    def _decide(self, groups: Sequence[list[FrameFaces]]) -> Iterator[FrameFaces]:
        """Yield frames with a delay of one group, each of which ends with a detected frame.

        The delay permits detection in a group's other frames when the next group shows a new face.
        """
        if self._view != "plain":
            for group in groups[:-1]:
                self._detect_in_view(group[-1])
        for group in groups:
            if self._last is not None:
                self._detect_between(self._before, self._last, group)
            self._add_key_frame(group[-1])
            yield from self._pending
            self._pending = group
            for row in group:
                row.view = self._view

    def _detect_between(self, before: FrameFaces | None, last: FrameFaces, group: list[FrameFaces]) -> None:
        """Run the detector between two detected frames until the faces in the rest can be interpolated."""
        key = group[-1]
        added = len(key.faces) - len(last.faces)
        if added or key.frame <= self._dense_until or any(row.cut for row in group):
            # A new face may have appeared before the last detected frame, which missed it.
            for row in [*self._pending, *group] if added > 0 and last is self._last else group:
                self._ensure_detected(row)
        elif len(group) > 1 and not _is_steady(before, last, key):
            half = len(group) // 2
            self._ensure_detected(group[half - 1])
            self._detect_between(before, last, group[:half])
            self._detect_between(last, group[half - 1], group[half:])


def _is_steady(before: FrameFaces | None, last: FrameFaces, key: FrameFaces) -> bool:
    """Return whether the faces of two frames, equal in number, can be interpolated in between."""
    faces = list(key.faces)
    for face in last.faces:
        near = max(faces, key=lambda other: overlap(face.box, other.box))
        faces.remove(near)
        if not _is_similar(face, near) or not _continues(before, last, face, near, key.frame):
            return False
    return True


def _is_similar(face: Face, later: Face) -> bool:
    scale = eye_distance(face.kps)
    motion = float(np.abs(later.kps - face.kps).max()) / scale
    growth = abs(eye_distance(later.kps) / scale - 1)
    near = motion <= _MAX_MOTION and overlap(face.box, later.box) >= _MIN_OVERLAP
    return near and growth <= _MAX_GROWTH and min(face.score, later.score) >= _MIN_SCORE


def _continues(before: FrameFaces | None, last: FrameFaces, face: Face, later: Face, frame: int) -> bool:
    """Return whether a face keeps its velocity; one without an earlier detection must stand still."""
    scale, expected = eye_distance(face.kps), face.kps
    if before is not None and before.faces:
        earlier = max(before.faces, key=lambda other: overlap(face.box, other.box))
        if overlap(face.box, earlier.box) >= _MIN_OVERLAP:
            ahead = (frame - last.frame) / (last.frame - before.frame)
            expected = face.kps + (face.kps - earlier.kps) * ahead
    return float(np.abs(later.kps - expected).max()) / scale <= _MAX_DEVIATION
