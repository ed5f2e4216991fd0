"""The people of a video, each with what was counted of all their tracks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from colab_helpers.faces.assignment import Action
from colab_helpers.faces.person_clustering import group_tracks
from colab_helpers.faces.quality import CROWD, FrameStats, Spans, TrackStats, merged
from colab_helpers.faces.selection import Selection
from colab_helpers.faces.tracks import Track

MAX_PEOPLE_ROWS = 12
"""People of whom each gets a row; those seen least are summed up in one more, with those hardly seen."""
MIN_ROW_FRAMES, _HARDLY_SHARE = 12, 0.1
"""Frames that do not make a row, where somebody else is seen in ten times as many."""
MAX_SPANS = 200
"""Spans in a row; of more, those that are next to each other are joined."""
MAX_LOST_FRAMES = 50
"""Frames for which somebody who comes back in the same shot counts as lost, not as gone."""


@dataclass
class PersonStats:
    """One person of a video; where ``people`` is not 1, all those who were hardly seen.

    Attributes:
        counts: What was counted of their tracks.
        lost: Frames in which nothing was found of somebody who was there before and after, in the same shot:
            the detector lost them, or they left the picture for a moment.
        present: Frames from where they come to where they go; none of a crowd.
        missed: Frames in which they were lost, or seen but not changed; empty if they were never changed.
        name: What they are called; None where they are not known by name.
        action: What was done to them; None where they were left.
        source: Who was put in: see ``Treatment.source_name``; None where nobody was.
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
    """Put the tracks of a whole video together to people, by their first frame.

    Args:
        tracks: All of them.
        measured: What was counted of them.
        selection: Who is known by name, and what was done to whom.
    """
    groups: dict[str | None, list[Track]] = {None: []}
    for track in tracks:
        groups.setdefault(selection.name(track.number), []).append(track)
    unknown = group_tracks(groups.pop(None))
    found = [
        _person(shown, measured, selection)
        for person in (*unknown, *groups.values())
        if (shown := [track for track in person if track.number in measured.tracks])
    ]
    ranked = sorted(found, key=lambda person: -person.counts.seen)
    least = min(MIN_ROW_FRAMES, _HARDLY_SHARE * ranked[0].counts.seen) if ranked else 0
    kept = {id(person) for person in ranked[:MAX_PEOPLE_ROWS] if person.counts.seen >= least}
    named = [person for person in ranked if person.name is not None or id(person) in kept]
    others = [person for person in ranked if person.name is None and id(person) not in kept]
    named.sort(key=lambda person: person.present)
    crowd = measured.tracks.get(CROWD)
    return (*named, *([_together(others, crowd)] if others or crowd else []))


def _person(tracks: Sequence[Track], measured: FrameStats, selection: Selection) -> PersonStats:
    counts, tracks = TrackStats(), sorted(tracks, key=lambda track: track.first)
    for track in tracks:
        counts.add(measured.tracks[track.number])
    lost = list(_losses(tracks)) if counts.changed else []
    missed = merged([*counts.spans, *lost]) if counts.changed else []
    present = merged([(track.first, track.last + 1) for track in tracks])
    person = PersonStats(counts, sum(stop - start for start, stop in lost), coarse(present), coarse(missed))
    person.name = selection.name(tracks[0].number)
    changed = next((track.number for track in tracks if measured.tracks[track.number].changed), None)
    treatment = None if changed is None else selection.treatment(changed)
    if treatment is not None:
        person.action = treatment.action
        person.source = treatment.source_name if treatment.source is not None else None
    return person


def _losses(tracks: Sequence[Track]) -> Iterator[tuple[int, int]]:
    """Frames between two tracks of one person in one shot."""
    for before, after in pairwise(tracks):
        gap = after.first - before.last - 1
        if 0 < gap <= MAX_LOST_FRAMES and after.shot <= before.last:
            yield before.last + 1, after.first


def _together(others: Sequence[PersonStats], crowd: TrackStats | None) -> PersonStats:
    whole = PersonStats(TrackStats(), 0, [], [], people=len(others))
    for counts in [*(person.counts for person in others), *([crowd] if crowd else [])]:
        whole.counts.add(counts)
    whole.lost, whole.counts.portrait = sum(person.lost for person in others), None
    return whole


def coarse(spans: Spans, most: int = MAX_SPANS) -> Spans:
    """Join the spans that are nearest to each other until there are no more than ``most``."""
    if not spans:
        return []
    gaps = {number: spans[number][0] - spans[number - 1][1] for number in range(1, len(spans))}
    widest = sorted(gaps, key=lambda number: -gaps[number])[: most - 1]
    edges = [0, *sorted(widest), len(spans)]
    return [(spans[first][0], spans[end - 1][1]) for first, end in pairwise(edges)]
