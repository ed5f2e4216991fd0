"""What is done to whom in each target: the user's map, put to what is known of the people in it."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from colab_helpers.batch.job import Source, library_people_in
from colab_helpers.batch.known_people import (
    PEOPLE_FOLDER_NAME,
    PEOPLE_RECORD_NAME,
    UNKNOWN_PERSON,
    KnownPeople,
    KnownTarget,
)
from colab_helpers.batch.library import expand_photos, synthetic_people
from colab_helpers.batch.people_map import (
    LEAVE,
    MAP_NAME,
    PHOTOS,
    PORTRAITS,
    RESERVED,
    PeopleMap,
    complete_map,
)
from colab_helpers.errors import ColabHelpersError, UsageError
from colab_helpers.faces.analyser import unit
from colab_helpers.faces.assignment import Assignment, KnownPerson, Treatment, fallback_treatment
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.photos import Identity
from colab_helpers.faces.types import FloatArray
from colab_helpers.language import mark, tr
from colab_helpers.media.images import read_image
from colab_helpers.request import BatchRequest


@dataclass(frozen=True, eq=False)
class BatchAssignment:
    """Who is who in a batch, and what is done to each."""

    known: KnownPeople
    people_map: PeopleMap  # in which everybody is named
    people: Mapping[str, KnownPerson]
    default: Treatment | None  # what is done to whoever is nobody of them

    def assignment(self, key: str) -> Assignment:
        """Return who is who in a target, by the key of its face index; by looks where it was not found."""
        video = self.known.videos.get(key)
        if video is None:
            return Assignment(self.default, people=self.people, has_people_map=True)
        names = self.people_map.names
        tracks = {number: names.get(group, UNKNOWN_PERSON) for number, group in video.tracks.items()}
        looks = {number: one.look for number, one in video.seen.items()}
        return Assignment(
            self._usual(video), people=self.people, tracks=tracks, looks=looks, has_people_map=True
        )

    def decisions(self, key: str) -> object:
        """Return what tells the results of a target apart: what is done to each track, whoever that is."""
        found = self.assignment(key)
        default_treatment = _digest(found.default_treatment)
        if key in self.known.videos:
            people = {name: _digest(person.treatment) for name, person in found.people.items()}
            return {str(number): people.get(name, default_treatment) for number, name in found.tracks.items()}
        looks = ((person.looks.astype("<f2").tobytes(), person.treatment) for person in self.people.values())
        known = sorted([hashlib.sha256(look).hexdigest(), _digest(treatment)] for look, treatment in looks)
        return {"people": known, "usual": default_treatment}

    def _usual(self, video: KnownTarget) -> Treatment | None:
        """What is done to tracks that were hardly seen, which may show anybody who is there or is alike."""
        names = self.people_map.names
        may_be = {names[group] for group in video.tracks.values() if group}
        for number, group in video.tracks.items():
            if not group and number in video.seen:
                look = video.seen[number].look
                likes = {name: float((person.looks @ look).max())
                         for name, person in self.people.items() if len(person.looks)}  # fmt: skip
                may_be |= {max(likes, key=lambda name: likes[name])} if likes else set()
        return fallback_treatment(self.default, (self.people[name].treatment for name in may_be))


@dataclass(frozen=True, eq=False)
class TreatmentResolver:
    """What the sources of a map stand for."""

    engine: Engine
    folder: Path  # where its relative paths start
    library: Path | None  # holds its names
    identity: Identity | None  # who is on the ``photos`` of the run
    photos: Sequence[Source]
    needed: bool = True  # whether anything will be done: else it does not matter that the run has no photos
    _shown: dict[tuple[str, ...], tuple[Identity, list[Source]]] = field(default_factory=dict, init=False)

    @property
    def notes(self) -> list[str]:
        """What is to be said of the photos that were looked at, one sentence each."""
        return [note for identity, _ in self._shown.values() for note in identity.notes]

    @cached_property
    def _portraits(self) -> list[str]:
        """Those of the library who do not exist, but for whom the run puts in itself."""
        own = library_people_in(self.library, [photo.image for photo in self.photos])
        return [name for name in synthetic_people(self.library) if name not in own]

    def of(self, people_map: PeopleMap) -> tuple[dict[str, Treatment | None], Treatment | None]:
        """Return what is done to everybody by name, and to others; UsageError tells whose source is none."""
        people = {
            name: self._treatment(name, one.source, one.settings) for name, one in people_map.people.items()
        }
        return people, self._treatment("default", people_map.default, {})

    def looks(self, people_map: PeopleMap) -> dict[str, FloatArray]:
        """Return how people look on the photos that the map names for them, ``(512,)`` unit each."""
        shown = {name: one.photos for name, one in people_map.people.items() if one.photos}
        return {name: unit(self._named(name, photos)[0].embedding) for name, photos in shown.items()}

    def portraits(self, whole: PeopleMap, known: KnownPeople) -> dict[str, Treatment | None]:
        """Return what is done to those who are to have a portrait of their own, by name: another for each.

        Whom somebody got is kept with their first group: it is the same as long as the library has it.
        UsageError where there are not enough.
        """
        words = {word for source in (whole.default, *(one.source for one in whole.people.values()))
                 for word in source if word not in RESERVED}  # fmt: skip
        named = library_people_in(
            self.library, (Source.near(self.folder, word, self.library).image for word in words)
        )
        free = [name for name in self._portraits if name not in named]
        due = {name: known.groups[person.faces[0]] for name, person in whole.people.items()
               if self.needed and person.source == (PORTRAITS,) and person.faces}  # fmt: skip
        self._require_portraits(len(due), len(free))
        kept = {group.portrait: name for name, group in reversed(due.items()) if group.portrait in free}
        left, got = iter([name for name in free if name not in kept]), dict[str, Treatment | None]()
        for name, group in due.items():
            group.portrait = group.portrait if kept.get(group.portrait) == name else next(left)
            source = (f"{self.library}/{group.portrait}",)
            got[name] = self._treatment(name, source, whole.people[name].settings)
        return got

    def _require_portraits(self, people: int, there: int) -> None:
        where = str(self.folder / MAP_NAME)
        if people and self.engine.swapper is None:
            what = tr("portraits are put in by face_swapper, which the run does not have")
            remedy = tr("add it to frame_processors, or choose another source in {file}", file=MAP_NAME)
            raise UsageError(what, where=where, remedy=remedy)
        if people > there:
            told = mark("{people} are to have a portrait of their own, and the library has {there} for them")
            place = shlex.quote(str(self.library or "FOLDER"))
            verb = f'portraits crowd "an adult" --count {people - there} --library {place}'
            remedy = tr("run '{command}'", command=f"python -m colab_helpers {verb}")
            raise UsageError(tr(told, people=people, there=there), where=where, remedy=remedy)

    def _treatment(self, name: str, source: tuple[str, ...], settings: Mapping[str, Any]) -> Treatment | None:
        if source == (LEAVE,):
            return None
        if source in (("blur",), ("pixelate",)):
            return Treatment(action=source[0])
        with self._naming(name):
            if settings:  # which may need a network that the run has not
                self.engine.changer(Treatment(settings=settings))
        if source == (PORTRAITS,):
            self._require_portraits(int(self.needed), len(self._portraits))
            return Treatment(action="blur")  # of whom nobody can tell who it is
        own = source == (PHOTOS,)
        if self.engine.swapper is None or (own and not (self.identity or self.needed)):
            return Treatment(settings=settings)
        if own and self.identity is None:
            what = tr("the source of {name} is photos, but the run has none", name=name)
            told = mark("name photos of the person to put in as sources, or another source in {file}")
            remedy = tr(told, file=MAP_NAME)
            raise UsageError(what, where=str(self.folder / MAP_NAME), remedy=remedy)
        identity, photos = (self.identity, self.photos) if own else self._named(name, source)
        assert identity is not None
        key = " ".join(sorted(photos[number].digest for number in identity.used))
        told = "" if own else ", ".join(source)
        return Treatment(
            source=identity.embedding, source_name=told, settings=settings, key=key, age=identity.age
        )

    @contextmanager
    def _naming(self, name: str) -> Iterator[None]:
        """Say of what is wrong for whom in the map it is."""
        try:
            yield
        except ColabHelpersError as error:
            what = f"{error.where}: {error.what}" if error.where else error.what
            where = f"{self.folder / MAP_NAME}: {name}"
            raise UsageError(what, where=where, remedy=error.remedy) from error

    def _named(self, name: str, written: tuple[str, ...]) -> tuple[Identity, list[Source]]:
        """Find out whom photos show that the map names for somebody."""
        if written not in self._shown:
            with self._naming(name):
                there = (Source.near(self.folder, one, self.library) for one in written)
                photos = expand_photos(there, self.library)
                shown = self.engine.identity([(one.name, partial(read_image, one.image)) for one in photos])
            self._shown[written] = shown, photos
        return self._shown[written]


def assign_people(
    people_map: PeopleMap, known: KnownPeople, treatments: TreatmentResolver, *, limit: float
) -> BatchAssignment:
    """Put a map to the groups that are known.

    ``limit`` is the squared distance up to which one shows somebody on photos. UsageError where the map names
    a group that there is not, or a source that is none.
    """
    check_groups(people_map, known)
    (done, default), looks = treatments.of(people_map), treatments.looks(people_map)
    whole = complete_map(people_map, known, looks, limit)
    people, portraits = {}, treatments.portraits(whole, known)
    for name, person in whole.people.items():
        shown = [known.groups[group].look for group in person.faces]
        shown += [looks[name]] if name in looks else []
        stacked = np.stack(shown) if shown else np.zeros((0, 512), np.float32)
        people[name] = KnownPerson(name, stacked, portraits.get(name, done.get(name, default)))
    return BatchAssignment(known, whole, people, default)


def check_groups(people_map: PeopleMap, known: KnownPeople) -> None:
    """Raise UsageError where a map names groups that there are not, or those of another record."""
    groups, names = (
        people_map.names,
        {"record": f"{PEOPLE_FOLDER_NAME}/{PEOPLE_RECORD_NAME}", "map": MAP_NAME},
    )
    if groups and (not known.groups or people_map.record not in ("", known.record)):
        what = tr("its faces are of another {record} than the one that is there, if any", **names)
        remedy = tr("put that {record} back; or move {map} away, too: everybody is named anew", **names)
        raise UsageError(what, where=MAP_NAME, remedy=remedy)
    for group, name in groups.items():
        if group not in known.groups:
            what = tr("{name}: nobody was found who is {group}", name=name, group=group)
            remedy = tr("allowed: {names}", names=", ".join(known.groups))
            raise UsageError(what, where=MAP_NAME, remedy=remedy)


def initial_map(known: KnownPeople, *, everybody: bool, swaps: bool) -> PeopleMap:
    """Return the map that says what a request without one does.

    It is done to people whom nobody has seen yet, too, if to ``everybody``; nothing is unless it ``swaps``:
    has photos of who is put in, or an enhancer alone.
    """
    people_map = PeopleMap(record=known.record, default=(PHOTOS if everybody and swaps else LEAVE,))
    for group, found in known.tracks().items():
        tracks = [known.videos[key].seen[n] for key, n in found]
        chosen = sum(one.found for one in tracks if one.chosen) * 2 > sum(one.found for one in tracks)
        people_map.put(group, faces=(group,), source=(PHOTOS if chosen and swaps else LEAVE,))
    return people_map


def person_filter_digests(request: BatchRequest) -> list[str]:
    """Return digests of the photos of who is changed, and of who never is."""
    return [
        f"{kind} {Source.of(photo).digest}"
        for kind, photos in (("target", request.target_person), ("never", request.never))
        for photo in sorted(photos)
    ]


def _digest(treatment: Treatment | None) -> str:
    return "" if treatment is None else treatment.digest
