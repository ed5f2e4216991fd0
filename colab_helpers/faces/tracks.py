"""Face tracking in videos: association of detections, smoothed positions and fade weights.

Each frame is decided by the detections in at most ``DECISION_LAG`` frames before and after it, so a track
needs little memory, and a resumed run decides the same as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from colab_helpers.faces.analyser import CONFIDENT_SCORE
from colab_helpers.faces.geometry import overlap, yaw_degrees
from colab_helpers.faces.index import FrameFaces, round_embedding
from colab_helpers.faces.smoothing import smooth_face
from colab_helpers.faces.types import Face, FloatArray

MAX_GAP_FRAMES = 12
"""Longest gap, in frames, over which a lost face is interpolated."""
DECISION_LAG = 2 * MAX_GAP_FRAMES
"""Number of later frames that must be known before a frame is decided."""
# A track is embedded when it begins, when boxes are ambiguous, at intervals that grow between these limits in
# frames (new faces are often hard to see), and after the pictures have changed by this many grey levels in
# total, since one face may dissolve into another.
_MIN_EMBED_INTERVAL, _MAX_EMBED_INTERVAL, _EMBED_CHANGE = 2, 24, 30.0
_MAX_EXTRAPOLATION = 6  # frames for which a face is expected to keep its velocity
# Minimum IoU of boxes of one face, unless embeddings agree; IoU above which two faces may be confused.
_MIN_OVERLAP, _NEAR = 0.3, 0.05
# Cosines of embeddings: certainly one person; one person after a cut; below the last, different people.
_CERTAIN, _SAME, _DIFFERENT = 0.5, 0.4, 0.15
# Minimum IoU of a face that is not similar but may belong to several tracks, and of all faces after a cut.
_SURE_OVERLAP = 0.6
_EDGE_FRAMES = 2  # at the start and end of a shot, in which a face may have been missed
# A track up to this length (in frames) whose score never reaches this is a false detection.
_SHORT, _WEAK = 3, 0.65


@dataclass(eq=False)
class Track:
    """One face from its appearance to its disappearance.

    Attributes:
        number: Number by first appearance, from 0.
        first: First frame.
        last: Last frame so far.
        shot: First frame of the shot in which it began.
        found: Number of frames in which it was detected.
        asked: Number of embeddings in the sums.
        embeddings: Sum of unit embeddings; ``attributes`` is the sum of their faces' attributes.
        area: Sum of the boxes' areas, ``centre`` of their centres, ``score`` of the scores.
        best: Highest score.
        ends: First and last box.
    """

    number: int
    first: int
    last: int
    shot: int = 0
    found: int = 0
    asked: int = 0
    embeddings: FloatArray | None = None
    attributes: FloatArray = field(default_factory=lambda: np.zeros(2, np.float32))
    area: float = 0.0
    centre: FloatArray = field(default_factory=lambda: np.zeros(2, np.float32))
    score: float = 0.0
    best: float = 0.0
    ends: tuple[FloatArray, FloatArray] | None = None
    _seen: list[tuple[int, Face]] = field(default_factory=list, repr=False)
    _embedded_at: int = -1
    _certain_at: int = -1
    _embedded_change: float = 0.0
    _best_yaw: float = np.inf

    @property
    def embedding(self) -> FloatArray | None:
        """Mean embedding, of unit length; None without embeddings."""
        if self.embeddings is None:
            return None
        return (self.embeddings / max(float(np.linalg.norm(self.embeddings)), 1e-6)).astype(np.float32)

    def add(self, frame: int, face: Face, changed: float) -> None:
        """Add a detection; ``changed`` is the sum of `FrameFaces.change` over all frames so far."""
        self.last = frame
        self._count(face, 1)
        self._seen.append((frame, face))
        self.ends = (self.ends[0] if self.ends else face.box), face.box
        if face.embedding is not None:
            self._embedded_at, self._embedded_change = frame, changed
            # Dissimilar embeddings are left out, so that a dissolve into another person does not shift the
            # mean. But as new faces are often hard to see, a more frontal one replaces a single embedding.
            if self.embeddings is None or self.similarity(face) >= _CERTAIN:
                before = 0 if self.embeddings is None else self.embeddings
                self.embeddings = np.asarray(before + face.embedding, np.float32)
                self.attributes = self.attributes + face.attributes
                self.asked, self._certain_at = self.asked + 1, frame
                self._best_yaw = min(self._best_yaw, abs(yaw_degrees(face.kps)))
            elif self.asked == 1 and abs(yaw_degrees(face.kps)) < self._best_yaw:
                self.embeddings, self._certain_at = face.embedding, frame
                self.attributes = face.attributes
                self._best_yaw = abs(yaw_degrees(face.kps))

    def similarity(self, face: Face) -> float:
        """Return the cosine, -1 to 1, of a face's embedding and the track's; 1 if either is unknown."""
        mean = self.embedding
        return 1.0 if face.embedding is None or mean is None else float(face.embedding @ mean)

    def split_from(self, other: Track, frame: int, new: Face) -> None:
        """Take over another track's latest detections, because ``frame`` shows a different person there."""
        # In a dissolve, a face stops being recognised before the midpoint.
        since = (other._certain_at + 2 * frame) / 3
        taken = [(at, face) for at, face in other._seen if at > since]
        sure = next((face.box for at, face in other._seen[::-1] if at <= other._certain_at), new.box)
        while taken and overlap(taken[0][1].box, sure) > overlap(taken[0][1].box, new.box):
            del taken[0]
        if taken and len(taken) < len(other._seen):
            other._seen = other._seen[: -len(taken)]
            other.last = other._seen[-1][0]
            self.first, self._seen = taken[0][0], taken
            for _, face in taken:
                other._count(face, -1)
                self._count(face, 1)

    def _count(self, face: Face, times: int) -> None:
        self.found += times
        self.area += times * face.area
        self.centre += times * np.asarray(face.centre, np.float32)
        self.score, self.best = self.score + times * face.score, max(self.best, face.score)

    def expected(self, frame: int) -> FloatArray:
        """Extrapolate the box to a frame."""
        at, face = self._seen[-1]
        if len(self._seen) < 2:
            return face.box
        earlier, before = self._seen[-2]
        ahead = min(frame - at, _MAX_EXTRAPOLATION) / (at - earlier)
        return np.asarray(face.box + (face.box - before.box) * ahead, np.float32)

    def is_due(self, frame: int, changed: float) -> bool:
        """Return whether it is time for a new embedding."""
        age = self._embedded_at - self.first
        interval = min(max(age, _MIN_EMBED_INTERVAL), _MAX_EMBED_INTERVAL)
        return frame - self._embedded_at >= interval or changed - self._embedded_change >= _EMBED_CHANGE

    def forget(self, before: int, *, least: int = 2) -> None:
        """Drop detections that later frames do not need; keep at least the newest ``least``."""
        while len(self._seen) > least and self._seen[0][0] < before:
            del self._seen[0]

    def at(self, frame: int, *, searched: bool) -> Face | None:
        """Return the smoothed face in a frame; None outside the track, or if the track is a false detection.

        ``searched`` tells whether the detector ran on the frame.
        """
        if not self.first <= frame <= self.last:
            return None
        if self.last - self.first < _SHORT and self.best < _WEAK:
            return None
        filled = searched and all(at != frame for at, _ in self._seen)
        face = smooth_face(self._seen, frame)
        return replace(face, track=self.number, weight=self._weight(frame), filled=filled)

    def distance(self, frame: int) -> int:
        """Return the distance, in frames, from a frame to the nearest detection."""
        return min(abs(at - frame) for at, _ in self._seen)

    def _weight(self, frame: int) -> float:
        """Return the fade weight, 0 to 1: where the score is low at either end, the face fades in or out."""
        weight = 1.0
        for edge, seen in ((self.first, self._seen), (self.last, self._seen[::-1])):
            sure = next((at for at, face in seen if face.score >= CONFIDENT_SCORE), None)
            fade = 0 if sure is None or seen[0][0] != edge else abs(sure - edge)
            if abs(frame - edge) < fade <= MAX_GAP_FRAMES:
                weight = min(weight, (abs(frame - edge) + 1) / (fade + 1))
        return weight


Embed = Callable[[FrameFaces], None]
"""Embeds all faces of a frame that have no embedding yet."""


@dataclass(eq=False)
class Tracker:
    """Tracks the faces of one video; see `follow`.

    Attributes:
        embed: Called when a frame's faces need embeddings.
        done: Called with each row once it is final.
        tracks: All tracks so far, by number.
    """

    embed: Embed
    done: Callable[[FrameFaces], None] = lambda _row: None
    tracks: list[Track] = field(default_factory=list)
    _open: list[Track] = field(default_factory=list)
    _recent: list[Track] = field(default_factory=list)
    _changed: float = 0.0
    _searched: set[int] = field(default_factory=set)
    _shot: int = 0
    _shot_end: int = 0
    _frames: int = 0

    def follow(self, rows: Iterable[FrameFaces], *, start: int = 0) -> Iterator[list[Face]]:
        """Yield the faces of each frame, with a delay of ``DECISION_LAG`` frames.

        Args:
            rows: Detections in each frame, from the first one on.
            start: First frame whose faces are needed; earlier ones yield empty lists.
        """
        decided, cut = 0, False
        for row in rows:
            if row.cut and not cut:
                self._shot_end, cut = row.frame, True
            self._changed += row.change
            if row.searched:
                self._searched.add(row.frame)
                self._associate(row, cut=cut)
                cut = False
            self.done(row)
            if row.frame - DECISION_LAG >= decided:
                yield self._faces(decided, wanted=decided >= start)
                decided += 1
            self._frames = row.frame + 1
        self._shot_end = self._frames
        self._end(self._open)
        for frame in range(decided, self._frames):
            yield self._faces(frame, wanted=frame >= start)

    def _faces(self, frame: int, *, wanted: bool) -> list[Face]:
        searched, shown = frame in self._searched, self._recent if wanted else []
        self._searched.discard(frame)
        found = ((track, track.at(frame, searched=searched)) for track in shown)
        pairs = [(face, track.distance(frame)) for track, face in found if face is not None]
        faces = [replace(face, behind=face.filled and _is_behind(face, n, pairs)) for face, n in pairs]
        recent = [track for track in self._recent if track in self._open or track.last > frame]
        for track in self._recent:
            before, least = (frame - DECISION_LAG, 2) if track in recent else (frame + 1, 0)
            track.forget(before, least=least)
        self._recent = recent
        return faces

    def _associate(self, row: FrameFaces, *, cut: bool) -> None:
        """Assign a frame's detections to open tracks, or begin new ones."""
        self._open = [t for t in self._open if row.frame - t.last <= MAX_GAP_FRAMES + 1]
        self._shot = self._shot_end if cut else self._shot
        expected = [track.expected(row.frame) for track in self._open]
        if self._needs_embeddings(row, expected, cut=cut):
            self.embed(row)
        pairs = _match_tracks(self._open, expected, row.faces, cut=cut)
        for number, face in enumerate(row.faces):
            track = pairs.get(number)
            if track is None:
                near_start = row.frame - self._shot <= _EDGE_FRAMES
                first = self._shot if near_start else row.frame
                track = Track(len(self.tracks), first, row.frame, self._shot)
                if not cut:
                    self._split_track(track, row.frame, face, expected)
                self.tracks.append(track)
                self._open.append(track)
                self._recent.append(track)
            track.add(row.frame, face, self._changed)
        if cut:  # tracks without a detection belong to the previous shot
            self._end([track for track in self._open if track.last < row.frame])
            self._open = [track for track in self._open if track.last == row.frame]

    def _split_track(self, new: Track, frame: int, face: Face, expected: Sequence[FloatArray]) -> None:
        """Give a new track the detections of its person that went to the old track in the same place.

        The new track also gets the frames before them in which the detector did not run.
        """
        for track, box in zip(self._open, expected, strict=False):
            gone = track.last < frame and track.similarity(face) < _DIFFERENT
            if gone and overlap(face.box, box) >= _MIN_OVERLAP:
                new.split_from(track, frame, face)
                while new.first - 1 > track.last and new.first - 1 not in self._searched:
                    new.first -= 1
                return

    def _end(self, tracks: Iterable[Track]) -> None:
        """Extend tracks to the end of the shot if at most ``_EDGE_FRAMES`` frames are missing."""
        for track in tracks:
            if self._shot_end - 1 - track.last <= _EDGE_FRAMES:
                track.last = max(track.last, self._shot_end - 1)

    def _needs_embeddings(self, row: FrameFaces, expected: Sequence[FloatArray], *, cut: bool) -> bool:
        """Return whether embeddings are needed: boxes do not determine the tracks, or an embedding is due."""
        if not row.faces:
            return False
        if cut or any(track.is_due(row.frame, self._changed) for track in self._open):
            return True
        overlaps = np.array([[overlap(face.box, box) for box in expected] for face in row.faces])
        if not overlaps.size:
            return True
        near, same = overlaps > _NEAR, overlaps >= _MIN_OVERLAP
        return bool((near.sum(1) != 1).any() or (near.sum(0) > 1).any() or not same.any(1).all())


def _is_behind(face: Face, distance: int, pairs: Iterable[tuple[Face, int]]) -> bool:
    """Return whether another face, detected more recently, covers the place of a lost one."""
    near = (other for other, nearer in pairs if nearer + 1 < distance)
    return any(overlap(face.box, other.box) >= _MIN_OVERLAP for other in near)


def _match_tracks(
    tracks: Sequence[Track], expected: Sequence[FloatArray], faces: Sequence[Face], *, cut: bool
) -> dict[int, Track]:
    """Assign faces, by index, to tracks so that the total gain is greatest (Kuhn 1955)."""
    if not tracks or not faces:
        return {}
    overlaps = np.array([[overlap(face.box, box) for box in expected] for face in faces])
    alone = (overlaps >= _MIN_OVERLAP).sum(1) < 2
    gain = np.array([[_gain(track, face, overlaps[n, m], alone=bool(alone[n]), cut=cut)
                      for m, track in enumerate(tracks)] for n, face in enumerate(faces)])  # fmt: skip
    if min(gain.shape) == 1:
        pairs = [np.unravel_index(gain.argmax(), gain.shape)]
    else:
        from scipy.optimize import linear_sum_assignment  # slow to import and rarely needed

        pairs = list(zip(*linear_sum_assignment(gain, maximize=True), strict=True))
    return {int(face): tracks[int(track)] for face, track in pairs if gain[face, track] > 0}


def _gain(track: Track, face: Face, shared: float, *, alone: bool, cut: bool) -> float:
    """Rate a match by ``shared``, the IoU with the track's expected box, and similarity; 0 if impossible.

    A face that overlaps other tracks as well (not ``alone``) must be similar, or overlap much.
    """
    if face.embedding is None or track.embedding is None:
        return shared if shared >= _MIN_OVERLAP and not cut else 0.0
    cosine = track.similarity(face)
    if cut and (cosine < _SAME or shared < _SURE_OVERLAP):
        return 0.0
    if cosine < _DIFFERENT:  # the first embedding of a new face may be misleading
        return shared if track.asked == 1 and shared >= _SURE_OVERLAP else 0.0
    least = _MIN_OVERLAP if alone else _SURE_OVERLAP
    near = shared >= least or (cosine >= _SAME and shared > 0)
    return shared + cosine if near else 0.0


def embed_missing(row: FrameFaces, embed: Callable[[Sequence[Face]], list[Face]]) -> None:
    """Add missing embeddings to a frame's faces, rounded as in the index."""
    if any(face.embedding is None for face in row.faces):
        row.faces = [replace(new, embedding=round_embedding(new.embedding)) for new in embed(row.faces)]
