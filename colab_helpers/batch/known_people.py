"""Whom the networks know in an output folder: tracks of all its videos put together, as ``people.json``.

A video that is there is never grouped anew; tracks of later videos join the groups that are there. So a
group keeps its name, whatever is added, in whatever order, and however often a run is killed.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator

from colab_helpers.batch.report import write_text
from colab_helpers.errors import UsageError
from colab_helpers.faces.analyser import unit
from colab_helpers.faces.people import CONFIRMED, SAME, Appearance, grouped
from colab_helpers.faces.types import FloatArray
from colab_helpers.files import load, natural_key, to_json
from colab_helpers.language import tr

FOLDER_NAME, RECORD_NAME = "people", "people.json"
MOST_CROPS = 4
ALIKE = 0.3
"""Cosine of the mean looks of two groups from which they may be mistaken for each other."""
NOBODY = ""
"""Stands for whoever a track shows that was hardly seen, or never by the recogniser."""
# What is one group at SAME is taken apart at the first of these at which it is more.
_STRICTER = (0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)


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


Look = Annotated[FloatArray, PlainValidator(_look_of), PlainSerializer(_look_text, return_type=str)]
"""``(512,)`` unit embedding; in a file as float16 in base64."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Group(_Model):
    """Tracks that show one person, as far as the networks can tell."""

    look: Look = Field(description="Mean of their embeddings.")
    asked: int = Field(description="How many embeddings those are.")
    files: dict[str, float] = Field({}, description="Seconds on screen in each target, by its name.")
    frames: int = Field(0, description="Frames in which somebody of the group was detected.")
    crops: list[str] = Field([], description="Pictures in the same folder, the best first.")
    alike: list[str] = Field([], description="Groups that look much like this one.")
    doubtful: bool = Field(False, description="Whether it was put together with little certainty.")


class SeenTrack(_Model):
    """What is known of one track of a video."""

    look: Look
    asked: int
    first: int
    last: int
    found: int
    crop: str = Field("", description="A picture of it in the same folder, if there is one.")
    worth: float = Field(0.0, description="How well that shows the face, 0 to 1.")

    def appearance(self, video: str, track: int) -> Appearance:
        """Return it as it is grouped."""
        return Appearance(video, track, self.first, self.last, self.found, self.look, self.asked)


class SeenIn(_Model):
    """The tracks of one video, or the faces of one picture.

    Attributes:
        sha256: Of the target.
        rate: Its frames a second; 0 of a picture.
        tracks: Which group each track belongs to; `NOBODY` where nobody can tell.
    """

    target: str
    sha256: str
    rate: float
    tracks: dict[int, str]
    seen: dict[int, SeenTrack] = {}

    def seconds(self, group: str) -> float:
        """How long a group is on screen, in seconds; of a picture none."""
        shown = [self.seen[n] for n, who in self.tracks.items() if who == group and n in self.seen]
        return sum(each.last - each.first + 1 for each in shown) / self.rate if self.rate else 0.0


@dataclass(frozen=True, eq=False)
class FoundIn:
    """What was found in a target that is not known yet; see `SeenIn`.

    Attributes:
        key: Of its face index; the appearances name it as their video.
        unseen: Numbers of the tracks that the recogniser never saw.
    """

    key: str
    target: str
    sha256: str
    rate: float
    appearances: Sequence[Appearance]
    unseen: Sequence[int] = ()


class KnownPeople(_Model):
    """All groups and videos of an output folder.

    Attributes:
        recogniser: Digest of the network that told them apart; looks of another one mean nothing to it.
        groups: By name: p1, p2 and so on, by their first appearance.
        videos: By the key of their face index.
        told: Names of the groups that were written to the user's map once.
    """

    version: Literal[1] = 1
    recogniser: str = ""
    groups: dict[str, Group] = {}
    videos: dict[str, SeenIn] = {}
    told: list[str] = []

    @classmethod
    def load(cls, output_dir: Path) -> Self:
        """Read what is known in an output folder: nobody at first; UsageError where it cannot be read."""
        path = output_dir / FOLDER_NAME / RECORD_NAME
        if not path.exists():
            return cls()
        remedy = tr("move the folder {name} away; its people are found again", name=FOLDER_NAME)
        foreign = tr("this is no record of people that this version can read")
        missing = tr("the record of people cannot be read")
        return load(cls, path, missing=missing, missing_remedy=remedy, foreign=foreign, foreign_remedy=remedy)

    def save(self, output_dir: Path) -> None:
        """Write it, all of it or nothing; OutputError where that is not possible."""
        write_text(output_dir / FOLDER_NAME / RECORD_NAME, to_json(self, indent=1) + "\n")

    def add(self, found: Sequence[FoundIn]) -> None:
        """Take up targets that are not known yet, in the order in which new people are numbered."""
        old = list(self.groups)
        # All groups that are there are seen at once, so to speak: two of them never come together.
        seen = [
            Appearance("", n, 0, len(old) + 9, 0, group.look, max(group.asked, CONFIRMED))
            for n, group in enumerate(self.groups.values())
        ]
        seen += [one for target in found for one in target.appearances]
        names: dict[int, str] = {}
        for members in sorted(map(sorted, grouped(seen)), key=min):
            new = [seen[n] for n in members if n >= len(old)]
            name = old[members[0]] if members[0] < len(old) else NOBODY
            if not name and sum(one.asked for one in new) >= CONFIRMED:
                name = self._new_name()
                self.groups[name] = _mean(new)
            names |= dict.fromkeys(members, name)
        before, number = {seen.sha256: key for key, seen in self.videos.items()}, len(old)
        for target in found:
            self.videos.pop(before.get(target.sha256, ""), None)
            entry = SeenIn(target=target.target, sha256=target.sha256, rate=target.rate, tracks={})
            for one in target.appearances:
                entry.tracks[one.track] = names[number]
                entry.seen[one.track] = _seen(one)
                number += 1
            entry.tracks |= dict.fromkeys(target.unseen, NOBODY)
            self.videos[target.key] = entry
        self.count()

    def split(self, name: str) -> list[str]:
        """Take a group apart, by likeness, more strictly than it was put together; return all its names.

        The part that is seen longest keeps the name.

        Raises:
            UsageError: There is no such group, or its tracks are all alike.
        """
        tracks = self._tracks(name)
        seen = [self.videos[key].seen[n].appearance(key, n) for key, n in tracks]
        parts = next((parts for same in _STRICTER if len(parts := grouped(seen, same=same)) > 1), None)
        if parts is None:
            raise UsageError(
                tr("{name} cannot be split: nothing in it looks like two people", name=name)
                if name in self.groups
                else tr("there is no {name}", name=name),
                remedy=tr("allowed: {names}", names=", ".join(self.groups)),
            )
        for part in parts[1:]:
            new = self._new_name()
            self.groups[new] = _mean([seen[n] for n in part])
            for key, number in (tracks[n] for n in part):
                self.videos[key].tracks[number] = new
        self.count()
        return [name, *list(self.groups)[-len(parts) + 1 :]]

    def count(self) -> None:
        """Bring up to date what follows from the tracks of each group."""
        for name, group in self.groups.items():
            tracks = [(self.videos[key], self.videos[key].seen[n]) for key, n in self._tracks(name)]
            if not tracks:
                group.files, group.frames, group.crops = {}, 0, []
                continue
            mean = _mean([one.appearance("", 0) for _, one in tracks])
            group.look, group.asked = mean.look, mean.asked
            group.files = {video.target: round(video.seconds(name), 3) for video, _ in tracks}
            group.frames = sum(one.found for _, one in tracks)
            shown = sorted((one for _, one in tracks if one.crop), key=lambda one: -one.worth)
            group.crops = [one.crop for one in shown[:MOST_CROPS]]
            sure = [one for _, one in tracks if one.asked >= CONFIRMED]
            group.doubtful = not sure or min(float(one.look @ group.look) for one in sure) < SAME
            group.alike = []
        for one, other in combinations(self.groups, 2):
            if float(self.groups[one].look @ self.groups[other].look) >= ALIKE:
                self.groups[one].alike.append(other)
                self.groups[other].alike.append(one)

    def _tracks(self, name: str) -> list[tuple[str, int]]:
        videos = self.videos.items()
        return [(key, n) for key, video in videos for n in video.seen if video.tracks[n] == name]

    def _new_name(self) -> str:
        taken = (natural_key(name)[-1][0] for name in (*self.groups, *self.told))
        return f"p{max((0, *taken)) + 1}"


def _seen(one: Appearance) -> SeenTrack:
    return SeenTrack(look=one.embedding, asked=one.asked, first=one.first, last=one.last, found=one.found)


def _mean(tracks: Sequence[Appearance]) -> Group:
    looks = np.sum([one.embedding * one.asked for one in tracks], axis=0)
    return Group(look=unit(looks), asked=sum(one.asked for one in tracks))
