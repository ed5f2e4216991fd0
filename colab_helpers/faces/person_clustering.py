"""Who is seen in a whole batch: the tracks of all its videos, put together by the person they show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from colab_helpers.faces.geometry import face_distance, overlap
from colab_helpers.faces.tracks import Track
from colab_helpers.faces.types import FloatArray
from colab_helpers.stages import in_groups

SAME_PERSON_COSINE = 0.4
"""Mean cosine between two groups of tracks from which they show one person."""
# Two tracks seen in one frame cannot show one person; for so many frames a tracker may have seen double.
_TOGETHER = 3
# Tracks that are compared with one another at once: more need too much memory, and join those groups that
# are there already.
_AT_ONCE = 1000
# Larger than any mean of distances can make it small again.
_NEVER = 1e9
# A track that the recogniser saw less often is a fragment: somebody covered, turned away, or about to leave.
# It belongs to whoever was seen in the same place of the same shot so many frames before or after it, or to
# whom it is liker than to anybody else by so much.
MIN_EMBEDDINGS = 2
_NEAR_FRAMES, _NEAR_OVERLAP = 48, 0.3
_LIKER, _MIN_ALIKE = 0.1, 0.3


@dataclass(frozen=True, eq=False)
class TrackSummary:
    """One track of one video.

    Attributes:
        video: What tells the video from the others.
        track: Number of the track; it is there from frame ``first`` to ``last``.
        found: Frames in which it was detected.
        embedding: ``(512,)`` unit mean of its embeddings; ``asked`` is how many those are.
        shot: Frame with which its shot begins.
        ends: Its first and last box, xyxy.
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
        """Take it from a track; None where the recogniser never saw it."""
        if track.embedding is None:
            return None
        return cls(
            video,
            track.number,
            track.first,
            track.last,
            track.found,
            track.embedding,
            track.asked,
            track.shot,
            track.ends,
        )

    def beside(self, other: TrackSummary) -> bool:
        """Whether both are seen at the same time."""
        shared = min(self.last, other.last) - max(self.first, other.first) + 1
        return self.video == other.video and shared >= _TOGETHER

    def gap(self, other: TrackSummary) -> float:
        """Frames between this and another track that is seen in the same place; infinite where none is."""
        if (self.video, self.shot) != (other.video, other.shot) or not self.ends or not other.ends:
            return np.inf
        earlier, later = (self, other) if self.first <= other.first else (other, self)
        assert earlier.ends
        assert later.ends
        near = overlap(earlier.ends[1], later.ends[0]) >= _NEAR_OVERLAP
        return max(later.first - earlier.last, 0) if near else np.inf


def group_tracks(tracks: Sequence[Track]) -> list[list[Track]]:
    """Group the tracks of one video by the person they show, the one seen longest first."""
    numbered = {track.number: track for track in tracks}
    seen = [one for track in tracks if (one := TrackSummary.of("", track)) is not None]
    groups = [[numbered[seen[n].track] for n in group] for group in cluster_tracks(seen)]
    return groups + [[track] for track in tracks if track.embedding is None]


def cluster_tracks(seen: Sequence[TrackSummary], *, same: float = SAME_PERSON_COSINE) -> list[list[int]]:
    """Group tracks by the person they show, the one seen longest first.

    Agglomerative clustering by the mean cosine between groups (UPGMA; Sokal and Michener 1958), in which two
    tracks of one moment never come together; fragments join a group afterwards.

    Args:
        seen: The tracks, of one video or many.
        same: As `SAME_PERSON_COSINE`.

    Returns:
        Positions in ``seen``.
    """
    sure = [n for n, one in enumerate(seen) if one.asked >= MIN_EMBEDDINGS]
    groups: list[list[int]] = []
    together = _together(seen)
    for part in in_groups(sure, _AT_ONCE):
        groups = _clustered([*groups, *([n] for n in part)], seen, together, same)
    left = []
    for n in (n for n, one in enumerate(seen) if one.asked < MIN_EMBEDDINGS):
        group = _by_place(n, seen, groups)
        group = _by_look(n, seen, groups) if group is None else group
        left += [[n]] if group is None else []
        if group is not None:
            group.append(n)
    for some in in_groups(left, _AT_ONCE):
        groups += _clustered(some, seen, together, same)
    return sorted(groups, key=lambda group: (-sum(seen[n].found for n in group), group[0]))


def _clustered(
    groups: Sequence[list[int]],
    seen: Sequence[TrackSummary],
    together: Iterable[tuple[int, int]],
    same: float,
) -> list[list[int]]:
    """Join groups whose mean looks are alike; never two of which members are seen at once."""
    if len(groups) < 2:
        return list(groups)
    from scipy.cluster.hierarchy import fcluster, linkage  # slow to import, and seldom needed

    looks = np.stack([mean_embedding([seen[n] for n in group]) for group in groups])
    distances = np.clip(1 - looks @ looks.T, 0, 2).astype(np.float64)
    place = {n: number for number, group in enumerate(groups) for n in group}
    apart = [(place[a], place[b]) for a, b in together if a in place and b in place]
    for one, other in apart:
        distances[one, other] = distances[other, one] = _NEVER
    upper = distances[np.triu_indices(len(groups), 1)]
    labels = fcluster(linkage(upper, method="average"), 1 - same, criterion="distance")
    joined: dict[int, list[int]] = {}
    for group, label in zip(groups, labels.tolist(), strict=True):
        joined.setdefault(label, []).extend(group)
    return list(joined.values())


def _together(seen: Sequence[TrackSummary]) -> list[tuple[int, int]]:
    """Pairs that are seen at the same time."""
    order = sorted(range(len(seen)), key=lambda n: (seen[n].video, seen[n].first))
    pairs, present = [], list[int]()
    for n in order:
        one = seen[n]
        present = [m for m in present if seen[m].video == one.video and seen[m].last >= one.first]
        pairs += [(m, n) for m in present if seen[m].beside(one)]
        present.append(n)
    return pairs


def _by_place(n: int, seen: Sequence[TrackSummary], groups: Sequence[list[int]]) -> list[int] | None:
    """The group of whoever was last or next seen where a fragment is."""
    gaps = [(seen[n].gap(seen[m]), group) for group in _possible(n, seen, groups) for m in group]
    gap, group = min(gaps, key=lambda pair: pair[0], default=(np.inf, None))
    return group if gap <= _NEAR_FRAMES else None


def _by_look(n: int, seen: Sequence[TrackSummary], groups: Sequence[list[int]]) -> list[int] | None:
    """The group that a fragment is clearly liker than any other."""
    likes = [(float(np.mean([seen[n].embedding @ seen[m].embedding for m in group])), group)
             for group in _possible(n, seen, groups)]  # fmt: skip
    likes.sort(key=lambda pair: -pair[0])
    if not likes or likes[0][0] < _MIN_ALIKE or (len(likes) > 1 and likes[0][0] - likes[1][0] < _LIKER):
        return None
    return likes[0][1]


def _possible(n: int, seen: Sequence[TrackSummary], groups: Sequence[list[int]]) -> list[list[int]]:
    return [group for group in groups if not any(seen[n].beside(seen[m]) for m in group)]


@dataclass(frozen=True, eq=False)
class PersonFilter:
    """Who is changed, and who never is, as photos show them.

    Attributes:
        wanted: ``(512,)`` unit embedding of the one person who is changed; None for everybody.
        never: Those of people who are left as they are.
    """

    wanted: FloatArray | None = None
    never: Sequence[FloatArray] = ()

    def distance(self, look: FloatArray, *, limit: float) -> float:
        """How far somebody is from who is changed; infinite for whoever is left.

        Args:
            look: ``(512,)`` unit embedding.
            limit: Squared distance up to which it may be somebody on the photos.
        """
        spared = min((face_distance(look, one) for one in self.never), default=np.inf)
        if self.wanted is None:
            return 0.0 if spared > limit else np.inf
        hers = face_distance(look, self.wanted)
        return hers if hers <= limit and hers < spared else np.inf

    def tracks(self, seen: Sequence[TrackSummary], *, limit: float) -> dict[int | None, float]:
        """Return the numbers of the tracks of one video that are changed, with `distance` of who they show.

        Where everybody but some is changed, whoever was hardly seen is left: it may be one of those.
        """
        chosen: dict[int | None, float] = {}
        for group in cluster_tracks(seen):
            shown = [seen[n] for n in group]
            sure = self.wanted is not None or is_identifiable(shown)
            apart = self.distance(mean_embedding(shown), limit=limit) if sure else np.inf
            if apart < np.inf:
                chosen |= dict.fromkeys((one.track for one in shown), apart)
        return chosen


def is_identifiable(group: Sequence[TrackSummary]) -> bool:
    """Whether tracks of one person show enough of them to tell who it is."""
    return any(one.asked >= MIN_EMBEDDINGS for one in group)


def mean_embedding(group: Sequence[TrackSummary]) -> FloatArray:
    """Return the mean of the embeddings of some tracks, ``(512,)`` of unit length."""
    total = np.sum([one.embedding * one.asked for one in group], axis=0)
    return np.asarray(total / max(float(np.linalg.norm(total)), 1e-6), np.float32)
