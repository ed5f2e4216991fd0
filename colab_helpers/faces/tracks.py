"""Faces followed through a video: who is who from frame to frame, where exactly, and how much shows.

Every frame is decided by what was found in at most ``DECISION_LAG`` frames before and after it, so a track
needs little memory, and a run that is taken up again decides as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from colab_helpers.faces.analyser import CONFIDENT_SCORE
from colab_helpers.faces.geometry import overlap, yaw_degrees
from colab_helpers.faces.index import FrameFaces, rounded
from colab_helpers.faces.smoothing import smoothed
from colab_helpers.faces.types import Face, FloatArray

MAX_GAP_FRAMES = 12
"""Frames for which a face may be lost and still be drawn where it must have been."""
DECISION_LAG = 2 * MAX_GAP_FRAMES
"""Frames after one that must be known before it is decided."""
# A track is asked who it is when it begins, in doubt, after so many frames (soon at first: a face that comes
# is seldom seen well), and after the pictures have changed by so many grey levels in all: one face may
# dissolve into another.
_ASKED_SOON, _ASKED_EVERY, _ASKED_CHANGE = 2, 24, 30.0
_AHEAD = 6  # frames for which a face is expected to move on as it did
# Boxes that overlap this much less (intersection over union) are not the same face, unless their embeddings
# agree; boxes of two faces that overlap more than _NEAR may be mistaken for each other.
_MIN_OVERLAP, _NEAR = 0.3, 0.05
# Cosines of embeddings: of what is surely one person, of one person after a cut, of what cannot be one.
_SURELY, _SAME, _OTHER = 0.5, 0.4, 0.15
# What is hardly alike must overlap so much where somebody else may be meant, and all faces after a cut.
_SURE_OVERLAP = 0.6
# At the first and last frames of a shot so many may have been missed.
_EDGE = 2
# A track as short as this whose score is never higher is no face.
_SHORT, _WEAK = 3, 0.65


@dataclass(eq=False)
class Track:
    """One face from where it comes to where it goes.

    Attributes:
        number: From 0, by first appearance.
        first: Its first frame, ``last`` its last one so far.
        shot: First frame of the shot in which it began.
        found: Frames in which it was detected.
        embeddings: Sum of its unit embeddings, ``asked`` how many those are; ``attributes`` those looks' sum.
        area: Sum of its boxes' areas, ``centre`` of their centres, ``score`` of its scores.
        best: Its highest score.
        ends: Its first and last box.
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
    _asked_at: int = -1
    _sure_at: int = -1
    _asked_change: float = 0.0
    _turned: float = np.inf

    @property
    def embedding(self) -> FloatArray | None:
        """Mean of its embeddings, of unit length; None if the recogniser was never asked."""
        if self.embeddings is None:
            return None
        return (self.embeddings / max(float(np.linalg.norm(self.embeddings)), 1e-6)).astype(np.float32)

    def add(self, frame: int, face: Face, changed: float) -> None:
        """Go on with a detected face; ``changed`` is how much all frames so far have changed together."""
        self.last = frame
        self._count(face, 1)
        self._seen.append((frame, face))
        self.ends = (self.ends[0] if self.ends else face.box), face.box
        if face.embedding is not None:
            self._asked_at, self._asked_change = frame, changed
            # Not what is in doubt: one person dissolving into another would take the mean along. But a face
            # that comes is seldom seen well: of the first ones that do not agree, the most frontal counts.
            if self.embeddings is None or self.likeness(face) >= _SURELY:
                before = 0 if self.embeddings is None else self.embeddings
                self.embeddings = np.asarray(before + face.embedding, np.float32)
                self.attributes = self.attributes + face.attributes
                self.asked, self._sure_at = self.asked + 1, frame
                self._turned = min(self._turned, abs(yaw_degrees(face.kps)))
            elif self.asked == 1 and abs(yaw_degrees(face.kps)) < self._turned:
                self.embeddings, self._sure_at = face.embedding, frame
                self.attributes = face.attributes
                self._turned = abs(yaw_degrees(face.kps))

    def likeness(self, face: Face) -> float:
        """Cosine of a face's embedding and the track's, -1 to 1; 1 where either is not known."""
        mean = self.embedding
        return 1.0 if face.embedding is None or mean is None else float(face.embedding @ mean)

    def split_from(self, other: Track, frame: int, new: Face) -> None:
        """Begin with what another track found since it was asked: in ``frame`` it shows somebody else."""
        # One who dissolves into another is unlike herself before the half of it.
        since = (other._sure_at + 2 * frame) / 3
        taken = [(at, face) for at, face in other._seen if at > since]
        sure = next((face.box for at, face in other._seen[::-1] if at <= other._sure_at), new.box)
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
        """Where its box should be if it moves on as it did."""
        at, face = self._seen[-1]
        if len(self._seen) < 2:
            return face.box
        earlier, before = self._seen[-2]
        ahead = min(frame - at, _AHEAD) / (at - earlier)
        return np.asarray(face.box + (face.box - before.box) * ahead, np.float32)

    def is_due(self, frame: int, changed: float) -> bool:
        """Whether it is time to ask who it is."""
        known = self._asked_at - self.first
        wait = min(max(known, _ASKED_SOON), _ASKED_EVERY)
        return frame - self._asked_at >= wait or changed - self._asked_change >= _ASKED_CHANGE

    def forget(self, before: int, *, least: int = 2) -> None:
        """Drop detections that no frame to come looks at; the newest ``least`` stay."""
        while len(self._seen) > least and self._seen[0][0] < before:
            del self._seen[0]

    def at(self, frame: int, *, looked: bool) -> Face | None:
        """Return the face as it is in a frame, at which the detector ``looked`` or not.

        None where it is not there, or never was one.
        """
        if not self.first <= frame <= self.last:
            return None
        if self.last - self.first < _SHORT and self.best < _WEAK:
            return None
        filled = looked and all(at != frame for at, _ in self._seen)
        face = smoothed(self._seen, frame)
        return replace(face, track=self.number, weight=self._weight(frame), filled=filled)

    def away(self, frame: int) -> int:
        """Frames from one to the nearest in which it was found."""
        return min(abs(at - frame) for at, _ in self._seen)

    def _weight(self, frame: int) -> float:
        """How much shows: a face whose score is low where it comes or goes does so slowly."""
        weight = 1.0
        for edge, seen in ((self.first, self._seen), (self.last, self._seen[::-1])):
            sure = next((at for at, face in seen if face.score >= CONFIDENT_SCORE), None)
            slow = 0 if sure is None or seen[0][0] != edge else abs(sure - edge)
            if abs(frame - edge) < slow <= MAX_GAP_FRAMES:
                weight = min(weight, (abs(frame - edge) + 1) / (slow + 1))
        return weight


Embed = Callable[[FrameFaces], None]
"""Has the recogniser embed all faces of a frame that it has not embedded yet."""


@dataclass(eq=False)
class Tracker:
    """Follows the faces of one video; see `follow`.

    Attributes:
        done: Called with each row once nothing is added to it any more.
        tracks: All tracks so far, in the order of their numbers.
    """

    embed: Embed
    done: Callable[[FrameFaces], None] = lambda _row: None
    tracks: list[Track] = field(default_factory=list)
    _open: list[Track] = field(default_factory=list)
    _recent: list[Track] = field(default_factory=list)
    _changed: float = 0.0
    _looked: set[int] = field(default_factory=set)
    _shot: int = 0
    _shot_end: int = 0
    _frames: int = 0

    def follow(self, rows: Iterable[FrameFaces], *, start: int = 0) -> Iterator[list[Face]]:
        """Yield the faces of each frame, ``DECISION_LAG`` frames after it was taken.

        Args:
            rows: What was found in each frame, from the first one on.
            start: Of frames before it nobody wants the faces, which are not worked out: none are yielded.
        """
        decided, cut = 0, False
        for row in rows:
            if row.cut and not cut:
                self._shot_end, cut = row.frame, True
            self._changed += row.change
            if row.looked:
                self._looked.add(row.frame)
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
        looked = frame in self._looked
        self._looked.discard(frame)
        shown = self._recent if wanted else []
        pairs = [(face, t.away(frame)) for t in shown if (face := t.at(frame, looked=looked)) is not None]
        faces = [replace(face, behind=face.filled and _is_behind(face, away, pairs)) for face, away in pairs]
        recent = [track for track in self._recent if track in self._open or track.last > frame]
        for track in self._recent:
            track.forget(
                frame - DECISION_LAG if track in recent else frame + 1, least=2 if track in recent else 0
            )
        self._recent = recent
        return faces

    def _associate(self, row: FrameFaces, *, cut: bool) -> None:
        """Go on with tracks, or begin new ones, with what was found in a frame."""
        self._open = [t for t in self._open if row.frame - t.last <= MAX_GAP_FRAMES + 1]
        self._shot = self._shot_end if cut else self._shot
        expected = [track.expected(row.frame) for track in self._open]
        if self._is_in_doubt(row, expected, cut=cut):
            self.embed(row)
        pairs = _matched(self._open, expected, row.faces, cut=cut)
        for number, face in enumerate(row.faces):
            track = pairs.get(number)
            if track is None:
                near_start = row.frame - self._shot <= _EDGE
                first = self._shot if near_start else row.frame
                track = Track(len(self.tracks), first, row.frame, self._shot)
                if not cut:
                    self._split_track(track, row.frame, face, expected)
                self.tracks.append(track)
                self._open.append(track)
                self._recent.append(track)
            track.add(row.frame, face, self._changed)
        if cut:  # who was not found again belongs to the shot before
            self._end([track for track in self._open if track.last < row.frame])
            self._open = [track for track in self._open if track.last == row.frame]

    def _split_track(self, new: Track, frame: int, face: Face, expected: Sequence[FloatArray]) -> None:
        """Give a new track what its place shows since it shows somebody else, back to the look before."""
        for track, box in zip(self._open, expected, strict=False):
            gone = track.last < frame and track.likeness(face) < _OTHER
            if gone and overlap(face.box, box) >= _MIN_OVERLAP:
                new.split_from(track, frame, face)
                while new.first - 1 > track.last and new.first - 1 not in self._looked:
                    new.first -= 1
                return

    def _end(self, tracks: Iterable[Track]) -> None:
        """End tracks with their shot, in whose last frames a face may have been missed."""
        for track in tracks:
            if self._shot_end - 1 - track.last <= _EDGE:
                track.last = max(track.last, self._shot_end - 1)

    def _is_in_doubt(self, row: FrameFaces, expected: Sequence[FloatArray], *, cut: bool) -> bool:
        """Whether boxes alone do not tell who is who."""
        if not row.faces:
            return False
        if cut or any(track.is_due(row.frame, self._changed) for track in self._open):
            return True
        overlaps = np.array([[overlap(face.box, box) for box in expected] for face in row.faces])
        if not overlaps.size:
            return True
        near, same = overlaps > _NEAR, overlaps >= _MIN_OVERLAP
        return bool((near.sum(1) != 1).any() or (near.sum(0) > 1).any() or not same.any(1).all())


def _is_behind(face: Face, away: int, pairs: Iterable[tuple[Face, int]]) -> bool:
    """Whether one that was found clearly nearer in time is where a lost face must be."""
    near = (other for other, nearer in pairs if nearer + 1 < away)
    return any(overlap(face.box, other.box) >= _MIN_OVERLAP for other in near)


def _matched(
    tracks: Sequence[Track], expected: Sequence[FloatArray], faces: Sequence[Face], *, cut: bool
) -> dict[int, Track]:
    """Which face goes on which track, so that overlap and likeness are greatest over all (Kuhn 1955)."""
    if not tracks or not faces:
        return {}
    shared = np.array([[overlap(face.box, box) for box in expected] for face in faces])
    alone = (shared >= _MIN_OVERLAP).sum(1) < 2
    gain = np.array([[_gain(track, face, shared[n, m], alone=bool(alone[n]), cut=cut)
                      for m, track in enumerate(tracks)] for n, face in enumerate(faces)])  # fmt: skip
    if min(gain.shape) == 1:
        pairs = [np.unravel_index(gain.argmax(), gain.shape)]
    else:
        from scipy.optimize import linear_sum_assignment  # slow to import, and seldom needed

        pairs = list(zip(*linear_sum_assignment(gain, maximize=True), strict=True))
    return {int(face): tracks[int(track)] for face, track in pairs if gain[face, track] > 0}


def _gain(track: Track, face: Face, shared: float, *, alone: bool, cut: bool) -> float:
    """How well a face goes on a track whose place it shares so far; 0 where it cannot.

    Where it shares that of others, too (not ``alone``), it must be alike, or very near.
    """
    if face.embedding is None or track.embedding is None:
        return shared if shared >= _MIN_OVERLAP and not cut else 0.0
    alike = track.likeness(face)
    if cut and (alike < _SAME or shared < _SURE_OVERLAP):
        return 0.0
    if alike < _OTHER:  # one look at a face that comes may be wrong
        return shared if track.asked == 1 and shared >= _SURE_OVERLAP else 0.0
    least = _MIN_OVERLAP if alone else _SURE_OVERLAP
    near = shared >= least or (alike >= _SAME and shared > 0)
    return shared + alike if near else 0.0


def embed_missing(row: FrameFaces, embed: Callable[[Sequence[Face]], list[Face]]) -> None:
    """Add the embeddings that are missing to a frame's faces, rounded as the index keeps them."""
    if any(face.embedding is None for face in row.faces):
        row.faces = [replace(new, embedding=rounded(new.embedding)) for new in embed(row.faces)]
