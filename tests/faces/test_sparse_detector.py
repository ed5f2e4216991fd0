"""Where the detector looks, and that what it is not shown is found all the same."""

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
"""The faces that are there in each frame."""


@dataclass(frozen=True)
class Shown:
    """A picture of which the finder needs the number and the brightness."""

    number: int
    level: int = 100

    def grid(self) -> ByteImage:
        return np.full((4, 4), self.level, np.uint8)


@dataclass(eq=False)
class Detector:
    """Sees what a script says, in the one view in which it can be seen."""

    script: Script
    view: str = "plain"
    looks: list[int] = field(default_factory=list)

    def detect(self, picture: Shown, view: str = "plain") -> list[Face]:
        self.looks.append(picture.number)
        return list(self.script(picture.number)) if view == self.view else []

    def search_views(self, picture: Shown) -> tuple[list[Face], str]:
        self.looks.append(picture.number)
        faces = list(self.script(picture.number))
        return faces, self.view if faces else "plain"


def found(
    detector: Detector, frames: int, *, known: Sequence[FrameFaces] = (), cuts: Sequence[int] = ()
) -> list[FrameFaces]:
    """All rows of a clip, of which the first ones may be known."""
    finder = SparseDetector(cast(FaceAnalyser, detector), known=len(known))
    for row in known:
        finder.observe_known(row)

    def rows() -> Iterator[FrameFaces]:
        for n in range(max(0, len(known) - 1), frames):
            level = 100 + 50 * (sum(n >= cut for cut in cuts) % 2)
            row = FrameFaces(n, n, picture=cast(Any, Shown(n, level)))
            finder.detect(row)
            yield row

    return [*known, *finder.rows(rows())]


def facts(rows: Sequence[FrameFaces]) -> list[Any]:
    return [
        (row.frame, row.change, row.cut, row.searched, row.view, [one.kps.tobytes() for one in row.faces])
        for row in rows
    ]


def still(_n: int) -> list[Face]:
    return [face(200), face(400)]


def test_faces_that_stay_or_move_evenly_are_looked_at_in_every_fourth_frame() -> None:
    for script in (still, lambda n: [face(200 + 0.1 * EYES * n)]):
        detector = Detector(script)
        rows = found(detector, 101)
        assert [row.frame for row in rows] == list(range(101))
        assert len(detector.looks) <= 30
        assert [row.frame for row in rows[5:] if row.searched] == list(range(8, 101, DETECTION_INTERVAL))


@pytest.mark.parametrize("first", range(40, 45))
def test_who_comes_and_goes_is_seen_from_the_first_frame_to_the_last(first: int) -> None:
    rows = found(Detector(lambda n: [face(200)] if first <= n < 73 else []), 100)
    assert [row.frame for row in rows if row.faces][:1] == [first]
    assert [row.frame for row in rows if row.faces][-1:] == [72]


def test_a_head_that_jerks_is_looked_at_in_every_frame() -> None:
    rows = found(Detector(lambda n: [face(200 + (0.4 * EYES if 50 <= n < 54 else 0) * (n - 49))]), 100)
    assert all(row.searched for row in rows[49:55])
    assert sum(row.searched for row in rows) < 35


def test_a_head_that_turns_round_is_looked_at_once_more_between() -> None:
    there = [abs((n + 8) % 16 - 8) * 0.06 * EYES + 200 for n in range(100)]
    rows = found(Detector(lambda n: [face(there[n])]), 97)
    # Where it turns, the frame in the middle tells of the others.
    assert [row.frame for row in rows if row.searched and row.frame % DETECTION_INTERVAL] == list(
        range(10, 97, 8)
    )


def test_a_cut_is_seen_and_looked_at_from_both_sides() -> None:
    rows = found(Detector(lambda n: [face(200 if n < 46 else 210)]), 100, cuts=[46])
    assert [row.frame for row in rows if row.cut] == [46]
    assert all(row.searched for row in rows[45:49])


@pytest.mark.parametrize("view", ["90", "margin"])
def test_what_only_another_view_shows_is_found_from_its_first_frame_on(view: str) -> None:
    first = SEARCH_INTERVAL + 3
    detector = Detector(lambda n: [face(200)] if n >= first else [], view)
    rows = found(detector, 100)
    assert next(row.frame for row in rows if row.faces) == first
    # Whoever is found once in a view is followed in it, without looking at all of them.
    assert len(detector.looks) < 100


def test_who_is_lost_in_one_look_is_looked_for_closely_until_found() -> None:
    gone = {48, 49, 52}
    rows = found(Detector(lambda n: [] if n in gone else [face(200)]), 100)
    assert all(row.searched for row in rows[45:57])
    assert not any(row.searched for row in rows[57:60])
    assert {row.frame for row in rows[44:57] if not row.faces} == gone


def test_a_clip_shorter_than_a_group_is_seen_to_its_end() -> None:
    for frames in (1, 2, 3, 5):
        rows = found(Detector(still), frames)
        assert [row.frame for row in rows] == list(range(frames))
        assert rows[0].searched
        assert rows[-1].searched


def anything(seed: int) -> Script:
    """People who come, go, jerk and get lost at random."""
    rng = np.random.default_rng(seed)
    shown = rng.random(400) > 0.15
    places = np.cumsum(rng.normal(0, 0.1 * EYES, 400) * (rng.random(400) > 0.7)) + 200
    stays = [range(start, start + int(rng.integers(5, 60))) for start in range(0, 400, 60)]

    def script(n: int) -> list[Face]:
        return [face(float(places[n]))] if shown[n] and any(n in stay for stay in stays) else []

    return script


@pytest.mark.parametrize("view", ["plain", "180"])
@pytest.mark.parametrize("seed", range(4))
def test_a_run_that_is_taken_up_decides_as_one_that_was_not(seed: int, view: str) -> None:
    script, cuts = anything(seed), [77, 150, 202]
    whole = found(Detector(script, view), 241, cuts=cuts)
    assert [row.frame for row in whole] == list(range(241))
    for stop in range(1, 241, DETECTION_INTERVAL):  # an index ends with a frame that is looked at in any case
        detector = Detector(script, view)
        again = found(detector, 241, known=whole[:stop], cuts=cuts)
        assert facts(again) == facts(whole)
        assert not detector.looks or min(detector.looks) >= stop
