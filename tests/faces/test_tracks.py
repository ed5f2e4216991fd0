"""Tracking against ground truth: positions, people, gaps, cuts, fades."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from colab_helpers.faces.assignment import Assignment
from colab_helpers.faces.index import FrameFaces
from colab_helpers.faces.person_clustering import PersonFilter
from colab_helpers.faces.selection import Selection
from colab_helpers.faces.tracks import DECISION_LAG, MAX_GAP_FRAMES, Tracker
from colab_helpers.faces.types import Face
from colab_helpers.settings import load_settings
from tests.helpers.faces import EYES, NOISE, face, person


def jittered(faces: Sequence[Face], rng: np.random.Generator) -> list[Face]:
    """Add a detector's noise to points and boxes."""
    return [
        replace(
            one,
            kps=(one.kps + rng.normal(0, NOISE, (5, 2))).astype(np.float32),
            box=(one.box + rng.normal(0, NOISE, 4)).astype(np.float32),
        )
        for one in faces
    ]


def tracked(frames: Sequence[Sequence[Face] | None], cuts: Sequence[int] = ()) -> list[list[Face]]:
    """Track the detections of each frame; None: the frame was not detected."""
    rows = [
        FrameFaces(n, n, cut=n in cuts, searched=faces is not None, faces=list(faces or ()))
        for n, faces in enumerate(frames)
    ]
    return list(Tracker(lambda _row: None).follow(rows))


def moving(n: int) -> float:
    """Position in pixels of a slowly oscillating head."""
    return 200 + 12 * float(np.sin(n / 9))


def jitter(found: Sequence[Sequence[Face]], truth: Callable[[int], float]) -> float:
    """Mean frame-to-frame change of the points' error, in eye distances."""
    errors = [faces[0].kps - face(truth(n)).kps for n, faces in enumerate(found)]
    pairs = zip(errors[1:], errors, strict=False)
    return float(np.mean([np.linalg.norm(a - b, axis=1).mean() for a, b in pairs])) / EYES


@pytest.mark.parametrize("every", [1, 4])
def test_points_are_smoother_than_detections_without_lag(every: int) -> None:
    rng = np.random.default_rng(1)
    seen = [jittered([face(moving(n))], rng) for n in range(150)]
    found = tracked([faces if n % every == 0 else None for n, faces in enumerate(seen)])
    assert len(found) == 150
    assert jitter(found[:146], moving) < 0.5 * jitter(seen, moving)
    errors = [faces[0].kps - face(moving(n)).kps for n, faces in enumerate(found[:146])]
    assert np.abs(np.mean(errors, axis=0)).max() < 0.02 * EYES


def test_jerking_head_is_not_smoothed_away() -> None:
    positions = [200.0] * 20 + [200 + 3 * EYES * min(n, 6) / 6 for n in range(20)]
    found = tracked([[face(x)] for x in positions])
    for (one,), x in zip(found, positions, strict=True):
        assert np.abs(one.kps - face(x).kps).max() < 0.1 * EYES


@pytest.mark.parametrize("gap", [1, 4, 8, MAX_GAP_FRAMES])
def test_gap_is_filled_at_the_interpolated_position(gap: int) -> None:
    rng = np.random.default_rng(2)
    seen = [jittered([face(moving(n))], rng) for n in range(90)]
    seen[40 : 40 + gap] = [[] for _ in range(gap)]
    found = tracked(seen)
    assert [len(faces) for faces in found] == [1] * 90
    assert {faces[0].track for faces in found} == {0}
    assert [faces[0].filled for faces in found] == [40 <= n < 40 + gap for n in range(90)]
    for n in range(40, 40 + gap):
        assert np.linalg.norm(found[n][0].kps - face(moving(n)).kps, axis=1).mean() / EYES < 0.06


def test_longer_absence_starts_a_new_track() -> None:
    absent = MAX_GAP_FRAMES + 1
    found = tracked([[face(200)]] * 20 + [[]] * absent + [[face(200)]] * 20)
    assert [len(faces) for faces in found] == [1] * 20 + [0] * absent + [1] * 20
    assert found[0][0].track != found[-1][0].track


def crossing(n: int) -> list[Face]:
    """Two people who change places; the nearer one occludes the other in the middle."""
    near, far = face(100 + 5 * n, who=1, size=1.2), face(500 - 5 * n, who=2)
    return [near] if abs(near.centre[0] - far.centre[0]) < 60 else [near, far]


def test_crossing_people_keep_their_tracks() -> None:
    found = tracked([crossing(n) for n in range(80)])
    for n in (0, 79):
        left, right = sorted(found[n], key=lambda one: one.centre[0])
        assert (left.track, right.track) == ((0, 1) if n == 0 else (1, 0))
    assert {one.track for faces in found for one in faces} == {0, 1}
    assert [{one.track: one.behind for one in faces} for faces in found[38:43]] == [{0: False, 1: True}] * 5


def test_cut_ends_all_tracks_except_of_an_unchanged_face() -> None:
    shots = [[face(200, who=1)]] * 20 + [[face(205, who=2)]] * 20 + [[face(205, who=2)]] * 20
    found = tracked(shots, cuts=[20, 40])
    assert [faces[0].track for faces in found] == [0] * 20 + [1] * 40
    assert np.abs(found[19][0].kps - face(200).kps).max() < 0.1
    assert np.abs(found[20][0].kps - face(205).kps).max() < 0.1


def mixed(share: float) -> Face:
    """A face whose embedding lies between two people."""
    vector = (1 - share) * person(1) + share * person(2)
    return replace(face(200), embedding=(vector / np.linalg.norm(vector)).astype(np.float32))


def test_dissolve_between_people_gives_two_tracks() -> None:
    shares = [0.0] * 20 + [n / 12 for n in range(13)] + [1.0] * 20
    found = tracked([[mixed(share)] for share in shares])
    tracks = [faces[0].track for faces in found]
    assert tracks[:20] == [0] * 20
    assert tracks[-20:] == [1] * 20
    sparse = tracked([[mixed(share)] if n % 4 == 0 else None for n, share in enumerate([0] * 21 + [1] * 20)])
    assert [faces[0].track for faces in sparse] == [0] * 21 + [1] * 20


def test_wrong_first_embedding_keeps_one_track() -> None:
    frames = [[face(200, who=1)], [face(250)], [face(300, who=2)], [face(350, who=2)], [], []]
    found = tracked([*frames, *([face(200 + 50 * n, who=2)] for n in range(6, 20))])
    assert [[one.track for one in faces] for faces in found] == [[0]] * 20


def test_uncertain_track_continues_beside_a_new_face() -> None:
    frames = [[mixed(0.0)]] * 10 + [[mixed(0.7)]] * 5 + [[mixed(0.7), face(230, who=3)]] * 10
    found = tracked(frames)
    assert [len(faces) for faces in found] == [1] * 15 + [2] * 10
    assert {faces[0].track for faces in found} == {0}


def test_brief_weak_detection_is_dropped() -> None:
    empty: list[list[Face]] = [[]]
    weak, strong = face(200, score=0.55), face(200, score=0.9)
    assert not any(tracked(empty * 20 + [[weak]] * 2 + empty * 20))
    assert [bool(f) for f in tracked(empty * 20 + [[strong]] * 2 + empty * 20)].count(True) == 2
    assert all(tracked([[weak]] * 40))


def test_gradually_appearing_face_fades_in_and_out() -> None:
    scores = [0.5, 0.55, 0.6, 0.65, *[0.9] * 30, 0.65, 0.6, 0.5]
    empty: list[list[Face]] = [[]] * 5
    found = tracked([*empty, *([face(200, score=score)] for score in scores), *empty])
    weights = [faces[0].weight for faces in found if faces]
    assert weights[:4] == sorted(weights[:4])
    assert weights[0] < 0.3
    assert weights[-3:] == sorted(weights[-3:], reverse=True)
    assert set(weights[4:-3]) == {1.0}


def test_missed_frames_at_shot_boundaries_are_filled() -> None:
    missed: list[list[Face]] = [[], []]
    shots = [*missed, *[[face(200)]] * 20, *missed, *missed, *[[face(400)]] * 20, *missed]
    found = tracked(shots, cuts=[24])
    assert [len(faces) for faces in found] == [1] * len(found)
    longer: list[list[Face]] = [[]] * 3
    assert [len(faces) for faces in tracked([*longer, *[[face(200)]] * 20])][:3] == [0, 0, 0]


def test_frame_depends_only_on_frames_within_the_lag() -> None:
    rng = np.random.default_rng(3)
    frames = [jittered(crossing(n % 80), rng) if rng.random() > 0.2 else [] for n in range(200)]
    complete = tracked(frames)
    for stop in (60, 117, 160):
        part = tracked(frames[:stop])
        for one, other in zip(part[: stop - DECISION_LAG], complete, strict=False):
            assert [(f.track, f.weight, f.kps.tobytes()) for f in one] == [
                (f.track, f.weight, f.kps.tobytes()) for f in other
            ]


def test_memory_is_bounded_in_track_length_and_count() -> None:
    tracker = Tracker(lambda _row: None)

    def rows() -> Iterator[FrameFaces]:
        for n in range(2000):
            absent = n > 500 and n % 40 > 20
            yield FrameFaces(n, n, searched=True, faces=[] if absent else [face(moving(n), who=n // 40)])
            held = [len(track._seen) for track in tracker.tracks]
            assert max(held, default=0) < 3 * DECISION_LAG
            assert sum(map(bool, held)) <= 3

    assert sum(1 for _ in tracker.follow(rows())) == 2000
    assert len(tracker.tracks) > 30


@pytest.mark.parametrize(("order", "expected"), [("largest", 1), ("smallest", 2)])
def test_selection_is_decided_once_per_person(order: str, expected: int) -> None:
    """The smaller of two faces is temporarily the larger one, then briefly absent."""
    frames = []
    for n in range(100):
        one = face(150, who=1, size=1.2)
        other = face(450, who=2, size=1.4 if 40 <= n < 60 else 0.9)
        frames.append([one] if 70 <= n < 90 else [one, other])
    rows = [FrameFaces(n, n, searched=True, faces=faces) for n, faces in enumerate(frames)]
    tracker = Tracker(lambda _row: None)
    found = list(tracker.follow(rows))
    selection = Selection(load_settings(many_faces=False, face_order=order), Assignment.of(None))
    selection.decide(tracker.tracks)
    chosen = [selection.of(faces) for faces in found]
    assert [len(faces) for faces in chosen] == [1] * 100
    present = [n for n in range(100) if not 68 <= n < 92]
    assert {round(chosen[n][0].centre[0] / 150) for n in present} == {1 if expected == 1 else 3}


def test_only_the_reference_person_is_changed() -> None:
    tracker = Tracker(lambda _row: None)
    found = list(tracker.follow([FrameFaces(n, n, searched=True, faces=crossing(n)) for n in range(80)]))
    selection = Selection(
        load_settings(many_faces=False, face_selector="reference"),
        Assignment.of(None, PersonFilter(person(2))),
    )
    selection.decide(tracker.tracks)
    assert {one.track for faces in found for one in selection.of(faces)} == {1}


def test_frames_before_start_are_skipped_with_equal_results_after() -> None:
    rng = np.random.default_rng(3)
    rows = [
        FrameFaces(n, n, searched=True, faces=jittered([face(moving(n), who=1)], rng) if n % 9 else [])
        for n in range(90)
    ]
    complete = list(Tracker(lambda _row: None).follow(rows))
    part = list(Tracker(lambda _row: None).follow(rows, start=41))
    assert part[:41] == [[]] * 41
    assert all(len(faces) == 1 for faces in complete)
    for (one,), (other,) in zip(complete[41:], part[41:], strict=True):
        np.testing.assert_array_equal(one.kps, other.kps)
        assert (one.filled, one.weight, one.track) == (other.filled, other.weight, other.track)
