"""Statistics per person of a video, summed over all tracks of the person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from colab_helpers.faces.assignment import Action
from colab_helpers.faces.person_clustering import group_tracks
from colab_helpers.faces.quality import CROWD, FrameStats, Spans, TrackStats, merge_spans
from colab_helpers.faces.selection import Selection
from colab_helpers.faces.tracks import Track

MAX_PEOPLE_ROWS = 12
"""People with a row of their own in the report; all others are summed up in one more row."""
MIN_ROW_FRAMES, _MIN_ROW_SHARE = 12, 0.1
"""Fewer frames than both the first and this share of those of the person seen most make no row."""
MAX_SPANS = 200
"""Maximum spans in a row; beyond it, the spans with the smallest gaps are joined."""
MAX_LOST_FRAMES = 50
"""Longest gap, in frames, after which a person back in the same shot counts as lost, not as gone."""


@dataclass
class PersonStats:
    """One person of a video, or all people without a row of their own.

    Attributes:
        counts: Sum of the statistics of their tracks.
        lost: Number of frames without a detection between two tracks of the person in one shot: the detector
            lost the face, or the person was out of the picture.
        present: Spans from first to last frame of each track; empty for several people.
        missed: Spans in which the person was lost, or seen but not changed; empty if never changed.
        people: Number of people, 1 for a single person.
        name: Name; None if not known by name.
        action: Action taken; None if never changed.
        source: Name of the source, see ``Treatment.source_name``; None if nobody was swapped in.
    """

    counts: TrackStats
    lost: int
    present: Spans
    missed: Spans
    people: int = 1
    name: str | None = None
    action: Action | None = None
    source: str | None = None


def summarize_people(
    tracks: Sequence[Track], measured: FrameStats, selection: Selection
) -> tuple[PersonStats, ...]:
    """Sum up the statistics of a whole video's tracks by person, ordered by first frame.

    Args:
        tracks: All tracks.
        measured: Statistics of the tracks.
        selection: Names and treatments of the tracks.
    """
    groups: dict[str | None, list[Track]] = {None: []}
    for track in tracks:
        groups.setdefault(selection.name(track.number), []).append(track)
    unknown = group_tracks(groups.pop(None))
    people = [
        _person(counted, measured, selection)
        for group in (*unknown, *groups.values())
        if (counted := [track for track in group if track.number in measured.tracks])
    ]
    ranked = sorted(people, key=lambda person: -person.counts.seen)
    least = min(MIN_ROW_FRAMES, _MIN_ROW_SHARE * ranked[0].counts.seen) if ranked else 0
    kept = {id(person) for person in ranked[:MAX_PEOPLE_ROWS] if person.counts.seen >= least}
    rows = [person for person in ranked if person.name is not None or id(person) in kept]
    others = [person for person in ranked if person.name is None and id(person) not in kept]
    rows.sort(key=lambda person: person.present)
    crowd = measured.tracks.get(CROWD)
    return (*rows, *([_sum_up(others, crowd)] if others or crowd else []))


def _person(tracks: Sequence[Track], measured: FrameStats, selection: Selection) -> PersonStats:
    counts, tracks = TrackStats(), sorted(tracks, key=lambda track: track.first)
    for track in tracks:
        counts.add(measured.tracks[track.number])
    lost = list(_losses(tracks)) if counts.changed else []
    missed = merge_spans([*counts.spans, *lost]) if counts.changed else []
    present = merge_spans([(track.first, track.last + 1) for track in tracks])
    frames_lost = sum(stop - start for start, stop in lost)
    person = PersonStats(counts, frames_lost, coarsen_spans(present), coarsen_spans(missed))
    person.name = selection.name(tracks[0].number)
    changed = next((track.number for track in tracks if measured.tracks[track.number].changed), None)
    treatment = None if changed is None else selection.treatment(changed)
    if treatment is not None:
        person.action = treatment.action
        person.source = treatment.source_name if treatment.source is not None else None
    return person


def _losses(tracks: Sequence[Track]) -> Iterator[tuple[int, int]]:
    """Yield the gaps between two consecutive tracks of a person in one shot."""
    for before, after in pairwise(tracks):
        gap = after.first - before.last - 1
        if 0 < gap <= MAX_LOST_FRAMES and after.shot <= before.last:
            yield before.last + 1, after.first


def _sum_up(others: Sequence[PersonStats], crowd: TrackStats | None) -> PersonStats:
    total = PersonStats(TrackStats(), sum(person.lost for person in others), [], [], people=len(others))
    for counts in [*(person.counts for person in others), *([crowd] if crowd else [])]:
        total.counts.add(counts)
    total.counts.portrait = None
    return total


def coarsen_spans(spans: Spans, most: int = MAX_SPANS) -> Spans:
    """Join the spans with the smallest gaps until there are at most ``most``."""
    if not spans:
        return []
    gaps = {number: spans[number][0] - spans[number - 1][1] for number in range(1, len(spans))}
    widest = sorted(gaps, key=lambda number: -gaps[number])[: most - 1]
    edges = [0, *sorted(widest), len(spans)]
    return [(spans[first][0], spans[end - 1][1]) for first, end in pairwise(edges)]
