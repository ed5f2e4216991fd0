"""Statistics per person: totals, and frames in which a person was lost or absent."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from colab_helpers.faces.assignment import Assignment
from colab_helpers.faces.person_stats import MAX_LOST_FRAMES, MAX_PEOPLE_ROWS, coarsen_spans, summarize_people
from colab_helpers.faces.quality import CROWD, MAX_TRACKS, FrameStats, Portrait, TrackStats, worth
from colab_helpers.faces.selection import Selection
from colab_helpers.faces.tracks import Track
from colab_helpers.media.picture import BgrPicture
from colab_helpers.settings import load_settings
from tests.helpers.faces import face

EVERYBODY = Selection(load_settings(), Assignment.of(None))


def track(number: int, first: int, last: int, who: int, *, shot: int = 0) -> Track:
    made = Track(number, first, first, shot)
    for frame in (first, last):
        made.add(frame, face(100, who=who), 0.0)
    return made


def stats_of(*tracks: Track, changed: bool = True) -> FrameStats:
    """Statistics in which every frame of every track was seen, and changed or not."""
    stats = FrameStats()
    for one in tracks:
        frames = one.last + 1 - one.first
        portrait = Portrait(worth=0.1 * one.number, frame=one.first, seconds=1.0, box=(0, 0, 1, 1))
        spans = [] if changed else [(one.first, one.last + 1)]
        counts = TrackStats(seen=frames, changed=frames * changed, spans=spans, portrait=portrait)
        stats.tracks[one.number] = counts
    return stats


def test_tracks_of_one_person_are_merged_and_the_gap_counts_as_lost() -> None:
    tracks = [track(0, 0, 99, 1), track(1, 20, 80, 2), track(2, 120, 199, 1)]
    first, second = summarize_people(tracks, stats_of(*tracks), EVERYBODY)
    assert (first.counts.seen, first.lost, first.missed) == (180, 20, [(100, 120)])
    assert first.present == [(0, 100), (120, 200)]
    assert first.counts.portrait is not None
    assert first.counts.portrait.frame == 120
    assert (second.counts.seen, second.lost, second.missed) == (61, 0, [])


@pytest.mark.parametrize(
    ("first", "shot"),
    [(105, 105), (105, 102), (101 + MAX_LOST_FRAMES, 0)],
    ids=["cut", "cut between", "long"],
)
def test_gap_across_shots_or_of_long_duration_is_not_lost(first: int, shot: int) -> None:
    tracks = [track(0, 0, 99, 1), track(1, first, 300, 1, shot=shot)]
    (found,) = summarize_people(tracks, stats_of(*tracks), EVERYBODY)
    assert (found.lost, found.missed) == (0, [])


def test_unchanged_person_has_no_missed_frames() -> None:
    tracks = [track(0, 0, 99, 1), track(1, 105, 200, 1)]
    (found,) = summarize_people(tracks, stats_of(*tracks, changed=False), EVERYBODY)
    assert (found.counts.seen, found.lost, found.missed) == (196, 0, [])


def test_crowd_is_one_row_and_totals_are_kept() -> None:
    tracks = [track(n, n, n + 99 + n, who=n) for n in range(MAX_TRACKS + 9)]
    stats = stats_of(*tracks)
    total = sum(counts.seen for counts in stats.tracks.values())
    stats.sum_up_crowd()
    assert len(stats.tracks) == MAX_TRACKS + 1
    assert stats.tracks[CROWD].seen == sum(100 + n for n in range(9))
    assert FrameStats.model_validate_json(stats.model_dump_json()) == stats
    *named, others = summarize_people(tracks, stats, EVERYBODY)
    assert [one.present[0][0] for one in named] == list(range(MAX_TRACKS + 9))[-MAX_PEOPLE_ROWS:]
    assert sum(one.counts.seen for one in (*named, others)) == total
    assert (others.people, others.present) == (MAX_TRACKS - MAX_PEOPLE_ROWS, [])
    assert len(stats.model_dump_json()) < 300 * (MAX_TRACKS + 1)


def test_briefly_seen_person_gets_no_own_row() -> None:
    tracks = [track(0, 0, 499, 1), track(1, 7, 9, 2)]
    _, others = summarize_people(tracks, stats_of(*tracks), EVERYBODY)
    assert (others.counts.seen, others.present) == (3, [])
    assert len(summarize_people(tracks[1:], stats_of(tracks[1]), EVERYBODY)[0].present) == 1
    assert summarize_people([], FrameStats(), EVERYBODY) == ()


def test_nearest_spans_are_joined() -> None:
    spans = [(0, 1), (3, 4), (10, 12), (13, 20), (40, 41)]
    assert coarsen_spans(spans, 5) == spans
    assert coarsen_spans(spans, 3) == [(0, 4), (10, 20), (40, 41)]
    assert coarsen_spans(spans, 1) == [(0, 41)]
    assert coarsen_spans([], 3) == []


def test_portrait_score_prefers_frontal_large_sharp_visible_faces() -> None:
    noise = np.random.default_rng(0).normal(0, 1, (400, 400, 3)).astype(np.float32)

    def smooth(pixels: float) -> BgrPicture:
        image = cv2.GaussianBlur(noise, (0, 0), pixels)
        return BgrPicture(np.clip(128 + image * 40 / image.std(), 0, 255).astype(np.uint8))

    sharp, blurred = smooth(1.2), smooth(5.0)
    one = face(200, 200, size=1.2)
    best = worth(sharp, one, [])
    turned = replace(one, kps=one.kps + np.array([[0, 0], [0, 0], [12, 0], [0, 0], [0, 0]], np.float32))
    worse = {
        "blurred": worth(blurred, one, []),
        "small": worth(sharp, face(200, 200, size=0.5), []),
        "turned": worth(sharp, turned, []),
        "unsure": worth(sharp, replace(one, score=0.6), []),
        "behind somebody": worth(sharp, one, [face(230, 200, size=1.2)]),
        "fading": worth(sharp, replace(one, weight=0.5), []),
    }
    assert 0.4 < best <= 1
    assert {name: value for name, value in worse.items() if not 0 < value < 0.8 * best} == {}
    assert worth(sharp, replace(one, filled=True), []) == 0
    assert worth(sharp, one, [face(20, 20)]) == best
