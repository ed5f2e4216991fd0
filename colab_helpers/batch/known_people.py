"""Whom the networks know in an output folder: tracks of all its videos put together, as ``people.json``.

A video that is there is never grouped anew; tracks of later videos join the groups that are there. So a
group keeps its name, whatever is added, in whatever order, and however often a run is killed.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, PlainSerializer, PlainValidator

from colab_helpers.batch.report import write_text
from colab_helpers.errors import UsageError
from colab_helpers.faces.person_clustering import (
    MIN_EMBEDDINGS,
    SAME_PERSON_COSINE,
    TrackSummary,
    cluster_tracks,
    mean_embedding,
)
from colab_helpers.faces.types import FloatArray
from colab_helpers.files import load, natural_key, to_json
from colab_helpers.language import tr
from colab_helpers.request import PEOPLE_NAME

PEOPLE_FOLDER_NAME, PEOPLE_RECORD_NAME = PEOPLE_NAME, "people.json"
LOOKALIKE_SIMILARITY = 0.3
"""Cosine of the mean looks of two groups from which they may be mistaken for each other."""
UNKNOWN_PERSON = ""
"""Stands for whoever a track shows that was hardly seen, or never by the recogniser."""
# What is one group at SAME is taken apart at the first of these at which it is more.
_SPLIT_SIMILARITIES = (0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)


def _look_of(value: Any) -> FloatArray:
    if isinstance(value, str):
        value = np.frombuffer(base64.b64decode(value, validate=True), "<f2")
    # Rounded at once: what a run has in memory is what a later one reads.
    look = np.asarray(value, "<f2").astype(np.float32)
    if look.ndim != 1 or not look.size or not np.isfinite(look).all():
        raise ValueError("no look")
    return look


def _look_text(look: FloatArray) -> str:
    return base64.b64encode(np.asarray(look, "<f2").tobytes()).decode()


Box = tuple[float, float, float, float]
StoredEmbedding = Annotated[
    FloatArray, PlainValidator(_look_of), PlainSerializer(_look_text, return_type=str)
]
"""``(512,)`` unit embedding; in a file as float16 in base64."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore")


class TrackGroup(_Model):
    """Tracks that show one person, as far as the networks can tell."""

    look: StoredEmbedding  # mean of their embeddings
    asked: int  # how many those are
    portrait: str = ""  # whom of the library the person got who is to have a portrait of their own


class KnownTrack(_Model):
    """What is known of one track of a video, or of one face of a picture; see `TrackSummary`."""

    look: StoredEmbedding
    asked: int
    first: int
    last: int
    found: int
    shot: int = 0
    ends: tuple[Box, Box] | None = None
    chosen: bool = False  # whether the request, without a map, would change it
    crop: str = ""  # a picture of it in the same folder, if there is one
    worth: float = 0.0  # of that; see `quality.worth`
    dark: bool = False  # whether little can be told apart in it

    @classmethod
    def of(cls, one: TrackSummary, *, chosen: bool) -> Self:
        """Take what is kept of a track."""
        ends = one.ends and tuple(tuple(map(float, end)) for end in one.ends)
        return cls(**vars(one) | {"look": one.embedding, "ends": ends, "chosen": chosen})

    def appearance(self, video: str, track: int) -> TrackSummary:
        """Return it as it is grouped."""
        ends = self.ends and (np.array(self.ends[0], np.float32), np.array(self.ends[1], np.float32))
        span = self.first, self.last, self.found
        return TrackSummary(video, track, *span, self.look, self.asked, self.shot, ends)


class FaceVisibility(_Model):
    """How well faces are seen in a video or picture, as shares, 0 to 1."""

    frames: int
    faces: float  # of the frames, those that show any
    turned: float = 0.0  # of the faces, those that are turned far to the side
    small: float = 0.0  # those of few pixels
    dark: float = 0.0  # of the best of each person, those too dark to tell much apart
    covered: float | None = None  # what something stands before of these; None without an occluder


class KnownTarget(_Model):
    """The tracks of one video, or the faces of one picture."""

    target: str  # what it is called in reports and lists
    sha256: str  # of its bytes
    rate: float  # frames a second; 0 of a picture
    sight: FaceVisibility
    tracks: dict[int, str]  # which group each belongs to; `UNKNOWN_PERSON` where nobody can tell
    seen: dict[int, KnownTrack] = {}  # those that the recogniser has seen

    def seconds(self, *groups: str) -> float:
        """How long somebody of these groups is on screen, in seconds; in a picture no time."""
        shown = [one for n, one in self.seen.items() if self.tracks[n] in groups]
        return sum(one.last - one.first + 1 for one in shown) / self.rate if self.rate else 0.0


class KnownPeople(_Model):
    """All groups and videos of an output folder."""

    version: Literal[1] = 1
    recogniser: str = ""  # digest of the network that told them apart: to another one looks mean nothing
    groups: dict[str, TrackGroup] = {}  # p1, p2 and so on, by their first appearance
    videos: dict[str, KnownTarget] = {}  # by the key of their face index
    found: dict[str, KnownTarget] = {}  # those whose tracks are known and not grouped yet
    choice: str = ""  # what tells the request by which some of these are chosen; see `keys.selection_key`
    record: str = ""  # names this record: another one's groups of the same names are other people

    @classmethod
    def load(cls, output_dir: Path) -> Self:
        """Read what is known in an output folder: nobody at first; UsageError where it cannot be read."""
        path = output_dir / PEOPLE_FOLDER_NAME / PEOPLE_RECORD_NAME
        if not path.exists():
            return cls()
        remedy = tr("move the folder {name} away; its people are found again", name=PEOPLE_FOLDER_NAME)
        foreign = tr("this is no record of people that this version can read")
        missing = tr("the record of people cannot be read")
        return load(cls, path, missing=missing, missing_remedy=remedy, foreign=foreign, foreign_remedy=remedy)

    def save(self, output_dir: Path) -> None:
        """Write it, all of it or nothing; OutputError where that is not possible."""
        write_text(output_dir / PEOPLE_FOLDER_NAME / PEOPLE_RECORD_NAME, to_json(self, indent=1) + "\n")

    def call(self, names: Mapping[str, str]) -> None:
        """Take over what targets are called today, by key; forget what was there under these names before."""
        today = set(names.values())
        kept = {key: video for key, video in self.videos.items() if key in names or video.target not in today}
        self.videos = kept
        for key in names.keys() & {*kept, *self.found}:
            (self.found.get(key) or kept[key]).target = names[key]

    def add(self, keys: Iterable[str]) -> None:
        """Group what was ``found``; new people are numbered in the order of ``keys``. Forget the rest."""
        self.record = self.record or secrets.token_hex(4)
        added = {key: self.found[key] for key in keys if key in self.found}
        old, self.found = list(self.groups), {}
        # All groups that are there are seen at once, so to speak: two of them never come together.
        seen = [
            TrackSummary("", n, 0, len(old) + 9, 0, group.look, max(group.asked, MIN_EMBEDDINGS))
            for n, group in enumerate(self.groups.values())
        ]
        seen += [one.appearance(key, n) for key, video in added.items() for n, one in video.seen.items()]
        for members in sorted(map(sorted, cluster_tracks(seen)), key=min):
            new = [seen[n] for n in members if n >= len(old)]
            name = old[members[0]] if members[0] < len(old) else UNKNOWN_PERSON
            if not name and sum(one.asked for one in new) >= MIN_EMBEDDINGS:
                name = self._new_name()
                self.groups[name] = _mean(new)
            for one in new:
                added[one.video].tracks[one.track] = name
        before = {video.sha256: key for key, video in self.videos.items()}
        for key, video in added.items():
            self.videos.pop(before.get(video.sha256, ""), None)
            self.videos[key] = video
        self.count()

    def split(self, name: str) -> list[str]:
        """Take a group apart, by likeness, more strictly than it was put together; return all its names.

        The part that is seen longest keeps the name. UsageError where its tracks are all alike, if any.
        """
        tracks = self.tracks().get(name, [])
        seen = [self.videos[key].seen[n].appearance(key, n) for key, n in tracks]
        parts = next(
            (parts for same in _SPLIT_SIMILARITIES if len(parts := cluster_tracks(seen, same=same)) > 1), None
        )
        if parts is None:
            none = tr("there is no {name}", name=name)
            alike = tr("{name} cannot be split: nothing in it looks like two people", name=name)
            remedy = tr("allowed: {names}", names=", ".join(self.groups))
            raise UsageError(alike if name in self.groups else none, remedy=remedy)
        for part in parts[1:]:
            new = self._new_name()
            self.groups[new] = _mean([seen[n] for n in part])
            for key, number in (tracks[n] for n in part):
                self.videos[key].tracks[number] = new
        self.count()
        return [name, *list(self.groups)[-len(parts) + 1 :]]

    def count(self) -> None:
        """Bring up to date how each group looks."""
        for name, tracks in self.tracks().items():
            if tracks:
                mean = _mean([self.videos[key].seen[n].appearance(key, n) for key, n in tracks])
                self.groups[name].look, self.groups[name].asked = mean.look, mean.asked

    def tracks(self) -> dict[str, list[tuple[str, int]]]:
        """Return the tracks of each group, each by the key of its video and its number there."""
        found: dict[str, list[tuple[str, int]]] = {name: [] for name in self.groups}
        for key, video in self.videos.items():
            for number in video.seen:
                if (group := video.tracks[number]) in found:
                    found[group].append((key, number))
        return found

    def alike(self) -> dict[str, list[str]]:
        """Return the groups that may be mistaken for each."""
        names, looks = [*self.groups], np.array([group.look for group in self.groups.values()])
        near = looks @ looks.T >= LOOKALIKE_SIMILARITY if names else looks
        return {name: [names[m] for m in np.flatnonzero(near[n]) if m != n] for n, name in enumerate(names)}

    def _new_name(self) -> str:
        taken = (natural_key(name)[-1][0] for name in self.groups)
        return f"p{max((0, *taken)) + 1}"


def is_doubtful(tracks: Sequence[KnownTrack]) -> bool:
    """Whether a group was put together with little certainty, or any of it looks like somebody else."""
    sure = [one for one in tracks if one.asked >= MIN_EMBEDDINGS]
    total = np.sum([one.look * one.asked for one in sure], axis=0)
    rests = [(one, total - one.look * one.asked) for one in sure] if len(sure) > 1 else []
    mixed = any(
        float(one.look @ rest) < SAME_PERSON_COSINE * float(np.linalg.norm(rest)) for one, rest in rests
    )
    return bool(tracks) and (not sure or all(one.dark for one in tracks) or mixed)


def _mean(tracks: Sequence[TrackSummary]) -> TrackGroup:
    return TrackGroup(look=mean_embedding(tracks), asked=sum(one.asked for one in tracks))
