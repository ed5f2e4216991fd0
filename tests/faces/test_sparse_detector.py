"""Sparse detection: which frames are detected, and that no face is lost by skipping frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest

from colab_helpers.faces.analyser import FaceAnalyser
from colab_helpers.faces.index import DETECTION_INTERVAL, FrameFaces
from colab_helpers.faces.sparse_detector import SEARCH_INTERVAL, SparseDetector
from colab_helpers.faces.types import ByteImage, Face
from tests.helpers.faces import EYES, face

Script = Callable[[int], Sequence[Face]]
"""Faces present in each frame."""


@dataclass(frozen=True)
class FakePicture:
    """A picture with a frame number and a brightness."""

    number: int
    level: int = 100

    def grid(self) -> ByteImage:
        return np.full((4, 4), self.level, np.uint8)


@dataclass(eq=False)
class Fake:
    """Detects the script's faces in one view only."""

    script: Script
    view: str = "plain"
    calls: list[int] = field(default_factory=list)

    def detect(self, picture: FakePicture, view: str = "plain") -> list[Face]:
        self.calls.append(picture.number)
        return list(self.script(picture.number)) if view == self.view else []

    def search_views(self, picture: FakePicture) -> tuple[list[Face], str]:
        self.calls.append(picture.number)
        faces = list(self.script(picture.number))
        return faces, self.view if faces else "plain"


def detect(
    detector: Fake, frames: int, *, known: Sequence[FrameFaces] = (), cuts: Sequence[int] = ()
) -> list[FrameFaces]:
    """All rows of a clip, the first ones possibly from an index."""
    sparse = SparseDetector(cast(FaceAnalyser, detector), known=len(known))
    for row in known:
        sparse.observe_known(row)

    def rows() -> Iterator[FrameFaces]:
        for n in range(max(0, len(known) - 1), frames):
            level = 100 + 50 * (sum(n >= cut for cut in cuts) % 2)
            row = FrameFaces(n, n, picture=cast(Any, FakePicture(n, level)))
            sparse.detect(row)
            yield row

    return [*known, *sparse.rows(rows())]


def row_values(rows: Sequence[FrameFaces]) -> list[Any]:
    return [
        (row.frame, row.change, row.cut, row.searched, row.view, [one.kps.tobytes() for one in row.faces])
        for row in rows
    ]


def still(_n: int) -> list[Face]:
    return [face(200), face(400)]


def test_still_or_steady_faces_are_detected_every_fourth_frame() -> None:
    for script in (still, lambda n: [face(200 + 0.1 * EYES * n)]):
        detector = Fake(script)
        rows = detect(detector, 101)
        assert [row.frame for row in rows] == list(range(101))
        assert len(detector.calls) <= 30
        assert [row.frame for row in rows[5:] if row.searched] == list(range(8, 101, DETECTION_INTERVAL))


@pytest.mark.parametrize("first", range(40, 45))
def test_appearance_is_found_from_first_to_last_frame(first: int) -> None:
    rows = detect(Fake(lambda n: [face(200)] if first <= n < 73 else []), 100)
    assert [row.frame for row in rows if row.faces][:1] == [first]
    assert [row.frame for row in rows if row.faces][-1:] == [72]


def test_jerking_head_is_detected_in_every_frame() -> None:
    rows = detect(Fake(lambda n: [face(200 + (0.4 * EYES if 50 <= n < 54 else 0) * (n - 49))]), 100)
    assert all(row.searched for row in rows[49:55])
    assert sum(row.searched for row in rows) < 35


def test_reversing_head_is_detected_once_more_in_between() -> None:
    positions = [abs((n + 8) % 16 - 8) * 0.06 * EYES + 200 for n in range(100)]
    rows = detect(Fake(lambda n: [face(positions[n])]), 97)
    # At a reversal, only the middle frame is detected.
    assert [row.frame for row in rows if row.searched and row.frame % DETECTION_INTERVAL] == list(
        range(10, 97, 8)
    )


def test_frames_on_both_sides_of_a_cut_are_detected() -> None:
    rows = detect(Fake(lambda n: [face(200 if n < 46 else 210)]), 100, cuts=[46])
    assert [row.frame for row in rows if row.cut] == [46]
    assert all(row.searched for row in rows[45:49])


@pytest.mark.parametrize("view", ["90", "margin"])
def test_face_visible_in_another_view_is_found_from_its_first_frame(view: str) -> None:
    first = SEARCH_INTERVAL + 3
    detector = Fake(lambda n: [face(200)] if n >= first else [], view)
    assert next(row.frame for row in detect(detector, 100) if row.faces) == first
    # Once found in a view, the face is detected in that view only.
    assert len(detector.calls) < 100


def test_lost_face_is_searched_in_every_frame_until_found() -> None:
    missing = {48, 49, 52}
    rows = detect(Fake(lambda n: [] if n in missing else [face(200)]), 100)
    assert all(row.searched for row in rows[45:57])
    assert not any(row.searched for row in rows[57:60])
    assert {row.frame for row in rows[44:57] if not row.faces} == missing


def test_clip_shorter_than_an_interval_is_detected_to_its_end() -> None:
    for frames in (1, 2, 3, 5):
        rows = detect(Fake(still), frames)
        assert [row.frame for row in rows] == list(range(frames))
        assert rows[0].searched
        assert rows[-1].searched


def random_script(seed: int) -> Script:
    """Faces that appear, disappear, jump and are missed at random."""
    rng = np.random.default_rng(seed)
    visible = rng.random(400) > 0.15
    places = np.cumsum(rng.normal(0, 0.1 * EYES, 400) * (rng.random(400) > 0.7)) + 200
    spans = [range(start, start + int(rng.integers(5, 60))) for start in range(0, 400, 60)]

    def script(n: int) -> list[Face]:
        return [face(float(places[n]))] if visible[n] and any(n in span for span in spans) else []

    return script


@pytest.mark.parametrize("view", ["plain", "180"])
@pytest.mark.parametrize("seed", range(4))
def test_resumed_detection_equals_uninterrupted(seed: int, view: str) -> None:
    script, cuts = random_script(seed), [77, 150, 202]
    whole = detect(Fake(script, view), 241, cuts=cuts)
    assert [row.frame for row in whole] == list(range(241))
    for stop in range(1, 241, DETECTION_INTERVAL):  # an index ends with such a frame
        detector = Fake(script, view)
        resumed = detect(detector, 241, known=whole[:stop], cuts=cuts)
        assert row_values(resumed) == row_values(whole)
        assert not detector.calls or min(detector.calls) >= stop
