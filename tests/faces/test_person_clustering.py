"""Clustering of a batch's tracks by person, on synthetic embeddings."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest

from colab_helpers.faces.person_clustering import PersonFilter, TrackSummary, cluster_tracks
from colab_helpers.settings import load_settings
from tests.helpers.faces import Points, person

LIMIT = load_settings().similar_face_distance
BOX = np.array([100, 100, 200, 200], np.float32)


def look(who: int, noise: float = 0.0, seed: int = 0) -> Points:
    other = np.random.default_rng([who, seed, 7]).normal(size=512)
    mixed = person(who) + noise * other / np.linalg.norm(other)
    return (mixed / np.linalg.norm(mixed)).astype(np.float32)


def track(
    number: int, who: int, first: int, last: int, *, noise: float = 0.7, **given: object
) -> TrackSummary:
    values = {
        "video": "a",
        "asked": 4,
        "found": last - first + 1,
        "embedding": look(who, noise, number),
    } | given
    return TrackSummary(track=number, first=first, last=last, **values)  # type: ignore[arg-type]


def people_of(groups: Sequence[Sequence[int]], who: Sequence[int]) -> list[set[int]]:
    return [{who[n] for n in group} for group in groups]


def test_people_are_recognised_across_videos() -> None:
    rng = np.random.default_rng(3)
    who, seen = [], []
    for video in range(12):
        for shot in range(3):
            for place, one in enumerate(rng.permutation(6)[:3].tolist()):
                seen.append(track(10 * shot + place, one, 100 * shot, 100 * shot + 80, video=str(video)))
                who.append(one)
    groups = cluster_tracks(seen)
    assert len(groups) == len(set(who)) == 6
    assert all(len(people) == 1 for people in people_of(groups, who))
    lengths = [sum(seen[n].found for n in group) for group in groups]
    assert lengths == sorted(lengths, reverse=True)


def test_tracks_seen_at_once_are_different_people() -> None:
    twins = [track(0, 1, 0, 50), track(1, 1, 0, 50)]
    assert len(cluster_tracks(twins)) == 2
    assert len(cluster_tracks([twins[0], track(1, 1, 49, 90)])) == 1  # trackers may overlap briefly
    assert len(cluster_tracks([twins[0], track(1, 1, 0, 50, video="b")])) == 1


def test_fragment_joins_the_track_at_its_place() -> None:
    long, elsewhere = track(0, 1, 0, 40, ends=(BOX, BOX)), track(1, 2, 0, 90, ends=(BOX + 300, BOX + 300))
    fragment = track(2, 9, 45, 46, asked=1, ends=(BOX + 5, BOX + 5))
    assert [sorted(group) for group in cluster_tracks([long, elsewhere, fragment])] == [[1], [0, 2]]
    for change in ({"ends": (BOX + 150, BOX + 150)}, {"shot": 45}, {"video": "b"}):
        stray = track(2, 9, 45, 46, asked=1, **{"ends": (BOX + 5, BOX + 5), **change})
        assert len(cluster_tracks([long, elsewhere, stray])) == 3


def test_fragment_joins_clearly_more_similar_person() -> None:
    seen = [track(0, 1, 0, 40), track(1, 2, 0, 40), track(2, 1, 90, 90, asked=1, noise=2.0, video="b")]
    assert [2] not in cluster_tracks(seen)
    between = (look(1) + look(2)) / np.float32(np.sqrt(2))
    seen[2] = track(2, 1, 90, 90, asked=1, embedding=between, video="b")
    assert [2] in cluster_tracks(seen)


def test_only_the_wanted_person_is_selected() -> None:
    seen = [track(0, 1, 0, 50), track(1, 2, 0, 50), track(2, 1, 60, 90), track(3, 3, 60, 90)]
    assert set(PersonFilter(look(1, 0.3)).tracks(seen, limit=LIMIT)) == {0, 2}
    assert not PersonFilter(look(8)).tracks(seen, limit=LIMIT)


def test_one_embedding_suffices_for_wanted_person_only() -> None:
    seen = [track(0, 2, 0, 50), track(1, 1, 70, 71, asked=1, noise=0.3), track(2, 9, 80, 81, asked=1)]
    assert set(PersonFilter(look(1, 0.3)).tracks(seen, limit=LIMIT)) == {1}
    assert set(PersonFilter(never=[look(7)]).tracks(seen, limit=LIMIT)) == {0}


def test_excluded_people_are_not_selected() -> None:
    seen = [track(0, 1, 0, 50), track(1, 2, 0, 50), track(2, 9, 70, 71, asked=1)]
    assert set(PersonFilter(never=[look(1, 0.3), look(7)]).tracks(seen, limit=LIMIT)) == {1}
    assert not PersonFilter(look(1), never=[look(1, 0.1)]).tracks(
        [track(0, 1, 0, 50, embedding=look(1, 0.1))], limit=LIMIT
    )


@pytest.mark.parametrize("tracks", [0, 1])
def test_wanted_person_with_no_or_one_short_track(tracks: int) -> None:
    seen = [track(0, 1, 0, 2, asked=1)][:tracks]
    assert set(PersonFilter(look(1, 0.2)).tracks(seen, limit=LIMIT)) == set(range(tracks))


def test_clustering_2400_tracks_takes_less_than_100_mb() -> None:
    seen = [track(n, n % 40, 100 * (n // 40), 100 * (n // 40) + 50) for n in range(2400)]
    tracemalloc.start()
    groups = cluster_tracks(seen)
    assert tracemalloc.get_traced_memory()[1] < 100 << 20
    tracemalloc.stop()
    assert sorted(map(len, groups)) == [60] * 40
    assert all(len({n % 40 for n in group}) == 1 for group in groups)
