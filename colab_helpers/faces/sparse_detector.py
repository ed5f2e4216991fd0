"""Faces of a video found with few looks: in every fourth frame, and between where they may differ."""

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
"""Where no face is sure, one frame in so many is also looked at turned, and with a margin."""
# From one look to the next a face may move by so much, be so far from where its speed would have it (both in
# eye distances) and grow by so much, and still be where a curve through all looks says.
_MAX_MOVED, _MAX_TURNED, _MAX_GROWN = 0.8, 0.25, 0.15
_MIN_OVERLAP, _MIN_SCORE = 0.5, 0.6
# So many frames are looked at after a face was lost, or until one comes.
_LOST_FRAMES = 3 * DETECTION_INTERVAL
# A cut changes the picture by so many grey levels, and so many times as much as the frames before it.
CUT_LEVELS, _CUT_TIMES, _CUT_FRAMES = 12.0, 4.0, 5


class SparseDetector:
    """Decides where the detector has to look, and looks there.

    Args:
        analyser: Its detector.
        known: Number of frames that an index knows; they are not looked at, but pass `observe_known` first.
    """

    def __init__(self, analyser: FaceAnalyser, *, known: int = 0) -> None:
        self._analyser, self._known = analyser, known
        self._last: FrameFaces | None = None
        self._before: FrameFaces | None = None
        self._late: list[FrameFaces] = []
        self._dense_until = 0
        self._grid: ByteImage | None = None
        self._changes: deque[float] = deque(maxlen=_CUT_FRAMES)
        self._view: View = "plain"

    def observe_known(self, row: FrameFaces) -> None:
        """Take note of what an index knows of the next frame."""
        self._changes.append(row.change)
        self._view = row.view
        if row.frame % DETECTION_INTERVAL == 0:
            self._note(row)

    def _note(self, key: FrameFaces) -> None:
        if self._last is not None and len(key.faces) != len(self._last.faces):
            lost = len(key.faces) < len(self._last.faces)
            self._dense_until = key.frame + _LOST_FRAMES if lost else 0
        self._before, self._last = self._last, key

    def look(self, row: FrameFaces) -> None:
        """Look at a frame that is seen in any case; may run in several threads, ahead of `rows`."""
        assert row.picture is not None
        row.grid = row.picture.grid()
        if row.frame < self._known or row.frame % DETECTION_INTERVAL:
            return
        row.looked = True
        if row.frame % SEARCH_INTERVAL:
            row.faces = self._analyser.detect(row.picture)
        else:
            row.faces, row.view = self._analyser.search_views(row.picture)

    def rows(self, rows: Iterable[FrameFaces]) -> Iterator[FrameFaces]:
        """Yield the frames that are not known yet once their faces are found, in order.

        As long as nothing is found, frames wait for one that is looked at in other views.

        Args:
            rows: Frames after `look`, in order, from the last known one on.
        """
        waiting: list[list[FrameFaces]] = []
        group: list[FrameFaces] = []
        for row in rows:
            self._compare(row)
            if row.frame < self._known:
                continue
            group.append(row)
            if row.looked:
                waiting.append(group)
                group = []
                self._retry_in_view(row)
                if self._is_found(row):
                    yield from self._decided(waiting)
                    waiting = []
        if group:
            self._ensure_detected(group[-1])
            waiting.append(group)
        yield from self._decided(waiting)
        yield from self._late

    def _compare(self, row: FrameFaces) -> None:
        """Find out how much a frame differs from the one before."""
        before, self._grid = self._grid, row.grid
        if before is None or row.grid is None or row.frame < self._known:
            return
        row.change = cv2.norm(row.grid, before, cv2.NORM_L1) / row.grid.size
        usual = median(self._changes) if self._changes else 0.0
        row.cut = row.change > CUT_LEVELS and row.change > _CUT_TIMES * usual
        self._changes.append(row.change)

    def _is_found(self, row: FrameFaces) -> bool:
        """Whether there is nothing to wait for: a face, or the end of one, or no other view shows any."""
        return bool(row.faces or (self._last and self._last.faces) or row.frame % SEARCH_INTERVAL == 0)

    def _retry_in_view(self, row: FrameFaces) -> None:
        """Look at a frame in the view in which a face was found before, unless the plain one shows one."""
        if row.frame % SEARCH_INTERVAL == 0:  # every view was looked at
            self._view = row.view if row.faces else self._view
        elif row.faces and row.faces[0].score >= CONFIDENT_SCORE:
            self._view = "plain"
        elif self._view != "plain":
            self._look_turned(row)

    def _look_turned(self, row: FrameFaces) -> None:
        assert row.picture is not None
        found = self._analyser.detect(row.picture, self._view)
        if found and (not row.faces or found[0].score > row.faces[0].score):
            row.faces = found

    def _ensure_detected(self, row: FrameFaces) -> None:
        """Look at a frame that need not be looked at."""
        assert row.picture is not None
        if not row.looked:
            row.looked, row.faces = True, self._analyser.detect(row.picture)
            if self._view != "plain" and not (row.faces and row.faces[0].score >= CONFIDENT_SCORE):
                self._look_turned(row)

    def _decided(self, groups: Sequence[list[FrameFaces]]) -> Iterator[FrameFaces]:
        """Yield frames, one group late; each ends with one that was looked at, and may be looked at whole."""
        if self._view != "plain":
            for group in groups[:-1]:
                self._look_turned(group[-1])
        for group in groups:
            if self._last is not None:
                self._detect_between(self._before, self._last, group)
            self._note(group[-1])
            yield from self._late
            self._late = group
            for row in group:
                row.view = self._view

    def _detect_between(
        self, before: FrameFaces | None, last: FrameFaces, group: Sequence[FrameFaces]
    ) -> None:
        """Look at frames up to one that was looked at, until those that were tell of the others."""
        key = group[-1]
        coming = len(key.faces) - len(last.faces)
        if coming or key.frame <= self._dense_until or any(row.cut for row in group):
            # A face that comes may have been there before.
            for row in [*self._late, *group] if coming > 0 and last is self._last else group:
                self._ensure_detected(row)
        elif len(group) > 1 and not _is_steady(before, last, key):
            half = len(group) // 2
            self._ensure_detected(group[half - 1])
            self._detect_between(before, last, group[:half])
            self._detect_between(last, group[half - 1], group[half:])


def _is_steady(before: FrameFaces | None, last: FrameFaces, key: FrameFaces) -> bool:
    """Whether the faces of two frames, equally many, tell where they are in those between."""
    faces = list(key.faces)
    for face in last.faces:
        near = max(faces, key=lambda other: overlap(face.box, other.box))
        faces.remove(near)
        if not _is_alike(face, near) or not _moves_on(before, last, face, near, key.frame):
            return False
    return True


def _is_alike(face: Face, later: Face) -> bool:
    scale = eye_distance(face.kps)
    moved = float(np.abs(later.kps - face.kps).max()) / scale
    grown = abs(eye_distance(later.kps) / scale - 1)
    return (
        moved <= _MAX_MOVED
        and grown <= _MAX_GROWN
        and min(face.score, later.score) >= _MIN_SCORE
        and overlap(face.box, later.box) >= _MIN_OVERLAP
    )


def _moves_on(before: FrameFaces | None, last: FrameFaces, face: Face, later: Face, frame: int) -> bool:
    """Whether a face goes on as it moved; one that was not there before has to stand still."""
    scale, expected = eye_distance(face.kps), face.kps
    if before is not None and before.faces:
        earlier = max(before.faces, key=lambda other: overlap(face.box, other.box))
        if overlap(face.box, earlier.box) >= _MIN_OVERLAP:
            ahead = (frame - last.frame) / (last.frame - before.frame)
            expected = face.kps + (face.kps - earlier.kps) * ahead
    return float(np.abs(later.kps - expected).max()) / scale <= _MAX_TURNED
