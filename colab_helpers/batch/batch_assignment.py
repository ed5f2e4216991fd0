"""Apply the people map to the people found in a batch: what is done to whom in each target."""

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
    """The people of a batch and the treatment of each."""

    known: KnownPeople
    people_map: PeopleMap  # complete: it names every group
    people: Mapping[str, KnownPerson]
    default: Treatment | None  # for everybody else

    def assignment(self, key: str) -> Assignment:
        """Return the assignment of a target by its index key; if it was not scanned, people match by face."""
        video = self.known.videos.get(key)
        if video is None:
            return Assignment(self.default, people=self.people, has_people_map=True)
        names = self.people_map.names
        tracks = {number: names.get(group, UNKNOWN_PERSON) for number, group in video.tracks.items()}
        looks = {number: track.look for number, track in video.seen.items()}
        fallback = self._fallback(video)
        return Assignment(fallback, people=self.people, tracks=tracks, looks=looks, has_people_map=True)

    def decisions(self, key: str) -> object:
        """Return what the map adds to a target's work key: the treatment of each track, without names."""
        assignment = self.assignment(key)
        default = _digest(assignment.default_treatment)
        if key in self.known.videos:
            people = {name: _digest(person.treatment) for name, person in assignment.people.items()}
            return {str(number): people.get(name, default) for number, name in assignment.tracks.items()}
        looks = ((person.looks.astype("<f2").tobytes(), person.treatment) for person in self.people.values())
        known = sorted([hashlib.sha256(look).hexdigest(), _digest(treatment)] for look, treatment in looks)
        return {"people": known, "usual": default}

    def _fallback(self, video: KnownTarget) -> Treatment | None:
        """Return the treatment of ungrouped tracks: anybody in the video, or the person most like them."""
        names = self.people_map.names
        may_be = {names[group] for group in video.tracks.values() if group}
        for number, group in video.tracks.items():
            if not group and number in video.seen:
                embedding = video.seen[number].look
                similarities = {name: float((person.looks @ embedding).max())
                                for name, person in self.people.items() if len(person.looks)}  # fmt: skip
                if similarities:
                    may_be.add(max(similarities, key=lambda name: similarities[name]))
        return fallback_treatment(self.default, (self.people[name].treatment for name in may_be))


@dataclass(frozen=True, eq=False)
class TreatmentResolver:
    """Turns the sources of a people map into treatments."""

    engine: Engine
    folder: Path  # base of relative paths in the map
    library: Path | None  # whose names the map may use
    identity: Identity | None  # the person in ``photos``
    photos: Sequence[Source]  # source photos of the run
    needed: bool = True  # whether targets will be processed; if not, ``photos`` may be missing
    _read: dict[tuple[str, ...], tuple[Identity, list[Source]]] = field(default_factory=dict, init=False)

    @property
    def notes(self) -> list[str]:
        """Notes on the photos that were read, one sentence each."""
        return [note for identity, _ in self._read.values() for note in identity.notes]

    @cached_property
    def _portraits(self) -> list[str]:
        """Synthetic people of the library, without those among the run's own sources."""
        own = library_people_in(self.library, [photo.image for photo in self.photos])
        return [name for name in synthetic_people(self.library) if name not in own]

    def of(self, people_map: PeopleMap) -> tuple[dict[str, Treatment | None], Treatment | None]:
        """Return the treatment of each person by name, and the default one.

        Raise UsageError, which names the person, if a source cannot be used.
        """
        people = people_map.people
        treatments = {name: self._treatment(name, one.source, one.settings) for name, one in people.items()}
        return treatments, self._treatment("default", people_map.default, {})

    def embeddings(self, people_map: PeopleMap) -> dict[str, FloatArray]:
        """Return the ``(512,)`` unit embedding of each person for whom the map names photos, by name."""
        shown = {name: one.photos for name, one in people_map.people.items() if one.photos}
        return {name: unit(self._read_photos(name, photos)[0].embedding) for name, photos in shown.items()}

    def portraits(self, people_map: PeopleMap, known: KnownPeople) -> dict[str, Treatment | None]:
        """Return the treatment of each person whose source is a portrait of their own, by name.

        Each gets a different one, which is stored in their first group and kept while the library has it.
        Raise UsageError if there are not enough.
        """
        people = people_map.people
        words = {word for source in (people_map.default, *(one.source for one in people.values()))
                 for word in source if word not in RESERVED}  # fmt: skip
        images = (Source.near(self.folder, word, self.library).image for word in words)
        reserved = library_people_in(self.library, images)
        free = [name for name in self._portraits if name not in reserved]
        groups = {name: known.groups[person.faces[0]] for name, person in people.items()
                  if self.needed and person.source == (PORTRAITS,) and person.faces}  # fmt: skip
        self._require_portraits(len(groups), len(free))
        kept = {group.portrait: name for name, group in reversed(groups.items()) if group.portrait in free}
        unused, treatments = (name for name in free if name not in kept), dict[str, Treatment | None]()
        for name, group in groups.items():
            group.portrait = group.portrait if kept.get(group.portrait) == name else next(unused)
            source = (f"{self.library}/{group.portrait}",)
            treatments[name] = self._treatment(name, source, people[name].settings)
        return treatments

    def _require_portraits(self, needed: int, available: int) -> None:
        where = str(self.folder / MAP_NAME)
        if needed and self.engine.swapper is None:
            what = tr("portraits need the face_swapper, which this run does not use")
            remedy = tr("add it to frame_processors, or choose another source in {file}", file=MAP_NAME)
            raise UsageError(what, where=where, remedy=remedy)
        if needed > available:
            text = mark("{people} person(s) need their own portrait, but the library has only {there} left")
            library = shlex.quote(str(self.library or "FOLDER"))
            verb = f'portraits crowd "an adult" --count {needed - available} --library {library}'
            remedy = tr("run '{command}'", command=f"python -m colab_helpers {verb}")
            raise UsageError(tr(text, people=needed, there=available), where=where, remedy=remedy)

    def _treatment(self, name: str, source: tuple[str, ...], settings: Mapping[str, Any]) -> Treatment | None:
        if source == (LEAVE,):
            return None
        if source in (("blur",), ("pixelate",)):
            return Treatment(action=source[0])
        with self._error_context(name):
            if settings:  # they may need a network that the run has not loaded
                self.engine.changer(Treatment(settings=settings))
        if source == (PORTRAITS,):
            self._require_portraits(int(self.needed), len(self._portraits))
            return Treatment(action="blur")  # for tracks in no group, which cannot get a portrait
        own = source == (PHOTOS,)
        if self.engine.swapper is None or (own and not (self.identity or self.needed)):
            return Treatment(settings=settings)
        if own and self.identity is None:
            what = tr("the source of {name} is photos, but the run has none", name=name)
            text = mark("name photos of the person to put in as sources, or another source in {file}")
            remedy = tr(text, file=MAP_NAME)
            raise UsageError(what, where=str(self.folder / MAP_NAME), remedy=remedy)
        identity, photos = (self.identity, self.photos) if own else self._read_photos(name, source)
        assert identity is not None
        key = " ".join(sorted(photos[number].digest for number in identity.used))
        face, age, shown = identity.embedding, identity.age, "" if own else ", ".join(source)
        return Treatment(source=face, source_name=shown, settings=settings, key=key, age=age)

    @contextmanager
    def _error_context(self, name: str) -> Iterator[None]:
        """Add the map's path and the person's name to errors."""
        try:
            yield
        except ColabHelpersError as error:
            what = f"{error.where}: {error.what}" if error.where else error.what
            where = f"{self.folder / MAP_NAME}: {name}"
            raise UsageError(what, where=where, remedy=error.remedy) from error

    def _read_photos(self, name: str, words: tuple[str, ...]) -> tuple[Identity, list[Source]]:
        """Read the photos that the map names for a person; each list of words once."""
        if words not in self._read:
            with self._error_context(name):
                sources = (Source.near(self.folder, word, self.library) for word in words)
                photos = expand_photos(sources, self.library)
                images = [(photo.name, partial(read_image, photo.image)) for photo in photos]
                self._read[words] = self.engine.identity(images), photos
        return self._read[words]


def assign_people(
    people_map: PeopleMap, known: KnownPeople, treatments: TreatmentResolver, *, limit: float
) -> BatchAssignment:
    """Apply a people map to the groups that were found.

    ``limit`` is the squared embedding distance up to which a group shows the person in a map's photos.
    Portraits that people get are stored in ``known``. Raise UsageError if the map names a group that does not
    exist, or a source that cannot be used.
    """
    check_groups(people_map, known)
    (by_name, default), embeddings = treatments.of(people_map), treatments.embeddings(people_map)
    completed = complete_map(people_map, known, embeddings, limit)
    people, portraits = {}, treatments.portraits(completed, known)
    for name, person in completed.people.items():
        looks = [known.groups[group].look for group in person.faces]
        looks += [embeddings[name]] if name in embeddings else []
        stacked = np.stack(looks) if looks else np.zeros((0, 512), np.float32)
        people[name] = KnownPerson(name, stacked, portraits.get(name, by_name.get(name, default)))
    return BatchAssignment(known, completed, people, default)


def check_groups(people_map: PeopleMap, known: KnownPeople) -> None:
    """Raise UsageError if a map names groups that do not exist, or those of another record."""
    groups, record = people_map.names, f"{PEOPLE_FOLDER_NAME}/{PEOPLE_RECORD_NAME}"
    if groups and (not known.groups or people_map.record not in ("", known.record)):
        what = tr("its faces refer to another {record}: the one here is different or missing", record=record)
        text = mark("restore that {record}, or move {map} away too, to have a new one written")
        raise UsageError(what, where=MAP_NAME, remedy=tr(text, record=record, map=MAP_NAME))
    for group, name in groups.items():
        if group not in known.groups:
            what = tr("{name}: there is no group {group}", name=name, group=group)
            remedy = tr("allowed: {names}", names=", ".join(known.groups))
            raise UsageError(what, where=MAP_NAME, remedy=remedy)


def initial_map(known: KnownPeople, *, everybody: bool, swaps: bool) -> PeopleMap:
    """Return the map that is equivalent to a request without one.

    It changes the groups that the request chooses in more than half of their frames and, if ``everybody``,
    people found later; nobody unless ``swaps``: the run has source photos, or only enhances.
    """
    people_map = PeopleMap(record=known.record, default=(PHOTOS if everybody and swaps else LEAVE,))
    for group, members in known.tracks().items():
        tracks = [known.videos[key].seen[n] for key, n in members]
        frames = sum(track.found for track in tracks)
        chosen = sum(track.found for track in tracks if track.chosen) * 2 > frames
        people_map.put(group, faces=(group,), source=(PHOTOS if chosen and swaps else LEAVE,))
    return people_map


def person_filter_digests(request: BatchRequest) -> list[str]:
    """Return digests of the photos in ``target_person`` and ``never``."""
    return [
        f"{kind} {Source.of(photo).digest}"
        for kind, photos in (("target", request.target_person), ("never", request.never))
        for photo in sorted(photos)
    ]


def _digest(treatment: Treatment | None) -> str:
    return "" if treatment is None else treatment.digest
