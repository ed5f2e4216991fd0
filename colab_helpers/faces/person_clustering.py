"""Grouping of tracks, of one video or a whole batch, by the person they show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from colab_helpers.faces.geometry import face_distance, overlap
from colab_helpers.faces.tracks import Track
from colab_helpers.faces.types import FloatArray
from colab_helpers.stages import in_groups

SAME_PERSON_COSINE = 0.4
"""Mean cosine between two groups of tracks at or above which they count as one person."""
# Tracks that share this many frames cannot show one person; for fewer, a face may have been tracked twice.
_MIN_SHARED_FRAMES = 3
# Tracks that are clustered at once, which bounds memory; further ones join the groups found so far.
_MAX_CLUSTERED = 1000
_FORBIDDEN = 1e9  # distance of people seen at once, too large for any mean to come below the limit
MIN_EMBEDDINGS = 2
"""A track with fewer embeddings is a fragment: its face was covered, turned away or about to leave.

It joins the group seen in the same place of the same shot within ``_NEAR_FRAMES``, else the one that it
resembles by ``_MIN_MARGIN`` (cosine) more than any other.
"""
_NEAR_FRAMES, _NEAR_OVERLAP = 48, 0.3
_MIN_MARGIN, _MIN_SIMILARITY = 0.1, 0.3


@dataclass(frozen=True, eq=False)
class TrackSummary:
    """One track of one video.

    Attributes:
        video: Key that identifies the video.
        track: Number of the track.
        first: First frame; ``last`` is the last one.
        found: Number of frames in which it was detected.
        embedding: ``(512,)`` mean of its embeddings, of unit length.
        asked: Number of embeddings in that mean.
        shot: First frame of its shot.
        ends: First and last box, xyxy.
    """

    video: str
    track: int
    first: int
    last: int
    found: int
    embedding: FloatArray
    asked: int
    shot: int = 0
    ends: tuple[FloatArray, FloatArray] | None = None

    @classmethod
    def of(cls, video: str, track: Track) -> TrackSummary | None:
        """Summarize a track; return None if it has no embedding."""
        if track.embedding is None:
            return None
        details = track.found, track.embedding, track.asked, track.shot, track.ends
        return cls(video, track.number, track.first, track.last, *details)

    def simultaneous(self, other: TrackSummary) -> bool:
        """Return whether both tracks share at least ``_MIN_SHARED_FRAMES`` frames of a video."""
        shared_frames = min(self.last, other.last) - max(self.first, other.first) + 1
        return self.video == other.video and shared_frames >= _MIN_SHARED_FRAMES

    def gap(self, other: TrackSummary) -> float:
        """Return the frames between two tracks that adjoin in place and shot; infinite for other tracks."""
        if (self.video, self.shot) != (other.video, other.shot) or not self.ends or not other.ends:
            return np.inf
        earlier, later = (self, other) if self.first <= other.first else (other, self)
        assert earlier.ends
        assert later.ends
        near = overlap(earlier.ends[1], later.ends[0]) >= _NEAR_OVERLAP
        return max(later.first - earlier.last, 0) if near else np.inf


def group_tracks(tracks: Sequence[Track]) -> list[list[Track]]:
    """Group a video's tracks by person, the person seen longest first; tracks without embedding last."""
    with_embedding = [track for track in tracks if track.embedding is not None]
    summaries = [one for track in with_embedding if (one := TrackSummary.of("", track)) is not None]
    groups = [[with_embedding[n] for n in group] for group in cluster_tracks(summaries)]
    return groups + [[track] for track in tracks if track.embedding is None]


def cluster_tracks(seen: Sequence[TrackSummary], *, same: float = SAME_PERSON_COSINE) -> list[list[int]]:
    """Group tracks by the person they show, the person seen longest first.

    Agglomerative clustering by the mean cosine between groups (UPGMA; Sokal and Michener 1958), which never
    joins tracks that are seen simultaneously; fragments (see `MIN_EMBEDDINGS`) are assigned afterwards.

    Args:
        seen: The tracks, of one video or many.
        same: Minimum mean cosine of one person, see `SAME_PERSON_COSINE`.

    Returns:
        Groups of indices into ``seen``.
    """
    groups: list[list[int]] = []
    pairs = _simultaneous_pairs(seen)
    reliable = [n for n, one in enumerate(seen) if one.asked >= MIN_EMBEDDINGS]
    for part in in_groups(reliable, _MAX_CLUSTERED):
        groups = _cluster([*groups, *([n] for n in part)], seen, pairs, same)
    unassigned = []
    for n in (n for n, one in enumerate(seen) if one.asked < MIN_EMBEDDINGS):
        group = _nearest_group(n, seen, groups)
        group = _similar_group(n, seen, groups) if group is None else group
        if group is None:
            unassigned.append([n])
        else:
            group.append(n)
    for fragments in in_groups(unassigned, _MAX_CLUSTERED):
        groups += _cluster(fragments, seen, pairs, same)
    return sorted(groups, key=lambda group: (-sum(seen[n].found for n in group), group[0]))


def _cluster(
    groups: Sequence[list[int]], seen: Sequence[TrackSummary], pairs: Iterable[tuple[int, int]], same: float
) -> list[list[int]]:
    """Join groups with similar mean embeddings, but never two with members that are seen simultaneously."""
    if len(groups) < 2:
        return list(groups)
    from scipy.cluster.hierarchy import fcluster, linkage  # slow to import and rarely needed

    embeddings = np.stack([mean_embedding([seen[n] for n in group]) for group in groups])
    distances = np.clip(1 - embeddings @ embeddings.T, 0, 2).astype(np.float64)
    group_of = {n: number for number, group in enumerate(groups) for n in group}
    for a, b in pairs:
        if a in group_of and b in group_of:
            one, other = group_of[a], group_of[b]
            distances[one, other] = distances[other, one] = _FORBIDDEN
    upper = distances[np.triu_indices(len(groups), 1)]
    labels = fcluster(linkage(upper, method="average"), 1 - same, criterion="distance")
    joined: dict[int, list[int]] = {}
    for group, label in zip(groups, labels.tolist(), strict=True):
        joined.setdefault(label, []).extend(group)
    return list(joined.values())


def _simultaneous_pairs(seen: Sequence[TrackSummary]) -> list[tuple[int, int]]:
    """Return the pairs of tracks, as indices, that are simultaneous."""
    order = sorted(range(len(seen)), key=lambda n: (seen[n].video, seen[n].first))
    pairs, present = [], list[int]()
    for n in order:
        one = seen[n]
        present = [m for m in present if seen[m].video == one.video and seen[m].last >= one.first]
        pairs += [(m, n) for m in present if seen[m].simultaneous(one)]
        present.append(n)
    return pairs


def _nearest_group(n: int, seen: Sequence[TrackSummary], groups: Sequence[list[int]]) -> list[int] | None:
    """Return the group that was seen last before, or first after, a fragment in the same place, if any."""
    gaps = [(seen[n].gap(seen[m]), group) for group in _possible_groups(n, seen, groups) for m in group]
    gap, group = min(gaps, key=lambda pair: pair[0], default=(np.inf, None))
    return group if gap <= _NEAR_FRAMES else None


def _similar_group(n: int, seen: Sequence[TrackSummary], groups: Sequence[list[int]]) -> list[int] | None:
    """Return the group that a fragment clearly resembles more than any other, if any."""
    ranked = [(float(np.mean([seen[n].embedding @ seen[m].embedding for m in group])), group)
              for group in _possible_groups(n, seen, groups)]  # fmt: skip
    ranked.sort(key=lambda pair: -pair[0])
    if not ranked or ranked[0][0] < _MIN_SIMILARITY:
        return None
    clear = len(ranked) == 1 or ranked[0][0] - ranked[1][0] >= _MIN_MARGIN
    return ranked[0][1] if clear else None


def _possible_groups(n: int, seen: Sequence[TrackSummary], groups: Sequence[list[int]]) -> list[list[int]]:
    """Return the groups of which no track is simultaneous with a fragment."""
    return [group for group in groups if not any(seen[n].simultaneous(seen[m]) for m in group)]


@dataclass(frozen=True, eq=False)
class PersonFilter:
    """Selects by photos who is changed and who is not.

    Attributes:
        wanted: ``(512,)`` unit embedding of the only person to change; None for everybody.
        never: Unit embeddings of people who are never changed.
    """

    wanted: FloatArray | None = None
    never: Sequence[FloatArray] = ()

    def distance(self, look: FloatArray, *, limit: float) -> float:
        """Return the squared distance of a face from the wanted person; infinite if it is not changed.

        The distance is 0 if everybody is wanted.

        Args:
            look: ``(512,)`` unit embedding of the face.
            limit: Maximum squared distance from a person on the photos.
        """
        excluded = min((face_distance(look, one) for one in self.never), default=np.inf)
        if self.wanted is None:
            return 0.0 if excluded > limit else np.inf
        wanted = face_distance(look, self.wanted)
        return wanted if wanted <= limit and wanted < excluded else np.inf

    def tracks(self, seen: Sequence[TrackSummary], *, limit: float) -> dict[int | None, float]:
        """Return the numbers of one video's tracks that are changed, with the `distance` of their person.

        Without a wanted person, people hardly seen are left unchanged: they may be excluded ones.
        """
        chosen: dict[int | None, float] = {}
        for group in cluster_tracks(seen):
            person = [seen[n] for n in group]
            known = self.wanted is not None or is_identifiable(person)
            distance = self.distance(mean_embedding(person), limit=limit) if known else np.inf
            if distance < np.inf:
                chosen |= dict.fromkeys((one.track for one in person), distance)
        return chosen


def is_identifiable(group: Sequence[TrackSummary]) -> bool:
    """Return whether one person's tracks have enough embeddings to identify the person."""
    return any(one.asked >= MIN_EMBEDDINGS for one in group)


def mean_embedding(group: Sequence[TrackSummary]) -> FloatArray:
    """Return the mean of all embeddings of some tracks, ``(512,)`` of unit length."""
    total = np.sum([one.embedding * one.asked for one in group], axis=0)
    return np.asarray(total / max(float(np.linalg.norm(total)), 1e-6), np.float32)
