"""The record of people in an output folder, ``people.json``: the tracks of all its videos in groups.

Videos in the record are never regrouped; tracks of later videos join the existing groups. So a group keeps
its name whatever is added, in any order, and however often a run is killed.
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
from colab_helpers.request import PEOPLE_FOLDER_NAME as PEOPLE_FOLDER_NAME

PEOPLE_RECORD_NAME = "people.json"
LOOKALIKE_SIMILARITY = 0.3
"""Cosine similarity of two groups' mean embeddings from which they may be confused."""
UNKNOWN_PERSON = ""
"""Stands for the group, and the person, of tracks with too few embeddings, or none."""
# A group is split at the first of these cosine similarities at which its tracks form several clusters.
_SPLIT_SIMILARITIES = (0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)


def _decode(value: Any) -> FloatArray:
    if isinstance(value, str):
        value = np.frombuffer(base64.b64decode(value, validate=True), "<f2")
    # Round to float16 at once, so that a run computes with the same values as a later one that reads them.
    look = np.asarray(value, "<f2").astype(np.float32)
    if look.ndim != 1 or not look.size or not np.isfinite(look).all():
        raise ValueError("not an embedding")
    return look


def _encode(look: FloatArray) -> str:
    return base64.b64encode(np.asarray(look, "<f2").tobytes()).decode()


Box = tuple[float, float, float, float]
StoredEmbedding = Annotated[FloatArray, PlainValidator(_decode), PlainSerializer(_encode, return_type=str)]
"""``(512,)`` unit embedding; stored as float16 in base64."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore")


class TrackGroup(_Model):
    """Tracks that show one person, as far as the networks can tell."""

    look: StoredEmbedding  # mean of their embeddings
    asked: int  # number of embeddings
    portrait: str = ""  # library name of the portrait assigned to the person


class KnownTrack(_Model):
    """One track of a video, or one face of a picture; see `TrackSummary`."""

    look: StoredEmbedding
    asked: int
    first: int
    last: int
    found: int
    shot: int = 0
    ends: tuple[Box, Box] | None = None
    chosen: bool = False  # whether a request without a map changes it
    crop: str = ""  # file name of a picture of it in the same folder
    worth: float = 0.0  # quality of that picture; see `quality.worth`
    dark: bool = False  # whether that picture is too dark

    @classmethod
    def of(cls, track: TrackSummary, *, chosen: bool) -> Self:
        """Make the record of a track."""
        ends = track.ends and tuple(tuple(map(float, box)) for box in track.ends)
        return cls(**vars(track) | {"look": track.embedding, "ends": ends, "chosen": chosen})

    def summary(self, video: str, track: int) -> TrackSummary:
        """Return the track as input for clustering."""
        ends = self.ends and (np.array(self.ends[0], np.float32), np.array(self.ends[1], np.float32))
        span = self.first, self.last, self.found
        return TrackSummary(video, track, *span, self.look, self.asked, self.shot, ends)


class FaceVisibility(_Model):
    """How well faces are visible in a video or picture, as shares, 0 to 1."""

    frames: int  # number of frames
    faces: float  # share of frames with a face
    turned: float = 0.0  # share of faces that are turned far to the side
    small: float = 0.0  # share of faces with few pixels
    dark: float = 0.0  # share of the best pictures of each track that are too dark
    covered: float | None = None  # mean covered share of the faces in these; None without an occluder


class KnownTarget(_Model):
    """The tracks of one video, or the faces of one picture."""

    target: str  # name in reports and lists
    sha256: str  # of the file
    rate: float  # frames per second; 0 for a picture
    sight: FaceVisibility
    tracks: dict[int, str]  # group of each track; `UNKNOWN_PERSON` for none
    seen: dict[int, KnownTrack] = {}  # the tracks that have embeddings

    def seconds(self, *groups: str) -> float:
        """Return the seconds on screen of all tracks in these groups; 0 in a picture."""
        shown = [one for n, one in self.seen.items() if self.tracks[n] in groups]
        return sum(one.last - one.first + 1 for one in shown) / self.rate if self.rate else 0.0


class KnownPeople(_Model):
    """All groups and targets of an output folder."""

    version: Literal[1] = 1
    recogniser: str = ""  # digest of the recognition model: embeddings of another one are not comparable
    groups: dict[str, TrackGroup] = {}  # p1, p2 and so on, in order of appearance
    videos: dict[str, KnownTarget] = {}  # grouped targets by index key
    found: dict[str, KnownTarget] = {}  # scanned targets that are not grouped yet, by index key
    choice: str = ""  # `keys.selection_key` of the request that chose tracks in ``found``
    record: str = ""  # identifier of this record: groups of the same names in another one are other people

    @classmethod
    def load(cls, output_dir: Path) -> Self:
        """Read the record of an output folder; return an empty one if there is none.

        Raise MissingFileError if it cannot be read, UsageError if it is of another version.
        """
        path = output_dir / PEOPLE_FOLDER_NAME / PEOPLE_RECORD_NAME
        if not path.exists():
            return cls()
        remedy = tr("move the folder {name} away and run again to find people anew", name=PEOPLE_FOLDER_NAME)
        foreign = tr("not a record of people that this version can read")
        missing = tr("the record of people cannot be read")
        return load(cls, path, missing=missing, missing_remedy=remedy, foreign=foreign, foreign_remedy=remedy)

    def save(self, output_dir: Path) -> None:
        """Write the record atomically; raise OutputError if that fails."""
        write_text(output_dir / PEOPLE_FOLDER_NAME / PEOPLE_RECORD_NAME, to_json(self, indent=1) + "\n")

    def rename_targets(self, names: Mapping[str, str]) -> None:
        """Set current target names by index key; drop other videos that had these names before."""
        used = set(names.values())
        kept = {key: video for key, video in self.videos.items() if key in names or video.target not in used}
        self.videos = kept
        for key in names.keys() & {*kept, *self.found}:
            (self.found.get(key) or kept[key]).target = names[key]

    def add(self, keys: Iterable[str]) -> None:
        """Group those of ``found`` that are in ``keys``, in the order of ``keys``; drop the others."""
        self.record = self.record or secrets.token_hex(4)
        added = {key: self.found[key] for key in keys if key in self.found}
        old, self.found = list(self.groups), {}
        # Existing groups enter as tracks of one video at the same time, so that no two of them are merged.
        seen = [
            TrackSummary("", n, 0, len(old) + 9, 0, group.look, max(group.asked, MIN_EMBEDDINGS))
            for n, group in enumerate(self.groups.values())
        ]
        seen += [track.summary(key, n) for key, video in added.items() for n, track in video.seen.items()]
        for members in sorted(map(sorted, cluster_tracks(seen)), key=min):
            new = [seen[n] for n in members if n >= len(old)]
            name = old[members[0]] if members[0] < len(old) else UNKNOWN_PERSON
            if not name and sum(one.asked for one in new) >= MIN_EMBEDDINGS:
                name = self._new_name()
                self.groups[name] = _mean(new)
            for one in new:
                added[one.video].tracks[one.track] = name
        previous = {video.sha256: key for key, video in self.videos.items()}
        for key, video in added.items():
            self.videos.pop(previous.get(video.sha256, ""), None)
            self.videos[key] = video
        self.update_means()

    def split(self, name: str) -> list[str]:
        """Split a group by similarity, more strictly than it was formed; return the names of the parts.

        The part with the most frames keeps the name. Raise UsageError if there is no such group, or all its
        tracks are alike.
        """
        tracks = self.tracks().get(name, [])
        seen = [self.videos[key].seen[n].summary(key, n) for key, n in tracks]
        clusterings = (cluster_tracks(seen, same=same) for same in _SPLIT_SIMILARITIES)
        parts = next((parts for parts in clusterings if len(parts) > 1), None)
        if parts is None:
            missing = tr("there is no {name}", name=name)
            alike = tr("{name} cannot be split: nothing in it looks like two people", name=name)
            remedy = tr("allowed: {names}", names=", ".join(self.groups))
            raise UsageError(alike if name in self.groups else missing, remedy=remedy)
        for part in parts[1:]:
            new = self._new_name()
            self.groups[new] = _mean([seen[n] for n in part])
            for key, number in (tracks[n] for n in part):
                self.videos[key].tracks[number] = new
        self.update_means()
        return [name, *list(self.groups)[-len(parts) + 1 :]]

    def update_means(self) -> None:
        """Update the mean embedding of each group."""
        for name, tracks in self.tracks().items():
            if tracks:
                mean = _mean([self.videos[key].seen[n].summary(key, n) for key, n in tracks])
                self.groups[name].look, self.groups[name].asked = mean.look, mean.asked

    def tracks(self) -> dict[str, list[tuple[str, int]]]:
        """Return the tracks of each group, as index keys and track numbers."""
        tracks: dict[str, list[tuple[str, int]]] = {name: [] for name in self.groups}
        for key, video in self.videos.items():
            for number in video.seen:
                if (group := video.tracks[number]) in tracks:
                    tracks[group].append((key, number))
        return tracks

    def alike(self) -> dict[str, list[str]]:
        """Return for each group those that may be confused with it."""
        names, looks = [*self.groups], np.array([group.look for group in self.groups.values()])
        near = looks @ looks.T >= LOOKALIKE_SIMILARITY if names else looks
        return {name: [names[m] for m in np.flatnonzero(near[n]) if m != n] for n, name in enumerate(names)}

    def _new_name(self) -> str:
        taken = (natural_key(name)[-1][0] for name in self.groups)
        return f"p{max((0, *taken)) + 1}"


def is_doubtful(tracks: Sequence[KnownTrack]) -> bool:
    """Return whether a group is uncertain: few embeddings, only dark pictures, a track unlike the others."""
    sure = [track for track in tracks if track.asked >= MIN_EMBEDDINGS]
    total = np.sum([track.look * track.asked for track in sure], axis=0)
    pairs = [(track.look, total - track.look * track.asked) for track in sure] if len(sure) > 1 else []
    mixed = any(float(look @ rest) < SAME_PERSON_COSINE * float(np.linalg.norm(rest)) for look, rest in pairs)
    return bool(tracks) and (not sure or all(track.dark for track in tracks) or mixed)


def _mean(tracks: Sequence[TrackSummary]) -> TrackGroup:
    return TrackGroup(look=mean_embedding(tracks), asked=sum(one.asked for one in tracks))
