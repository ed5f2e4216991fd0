"""Edits of the people in an output folder, by command line or panel, each saved at once.

No state is kept between edits, so that nothing the user or a run writes in between is lost.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from colab_helpers.batch.journal import read_journal
from colab_helpers.batch.known_people import PEOPLE_FOLDER_NAME, PEOPLE_RECORD_NAME, KnownPeople
from colab_helpers.batch.library import library_names
from colab_helpers.batch.lock import folder_lock
from colab_helpers.batch.object_store import send_all, sync_inputs
from colab_helpers.batch.people_map import (
    LEAVE,
    MAP_NAME,
    PHOTOS,
    RESERVED,
    PeopleMap,
    PersonSummary,
    complete_map,
    new_name,
    summarize_people,
)
from colab_helpers.batch.report import JOURNAL_NAME
from colab_helpers.batch.triage import Triage, build_triage, measured_throughput
from colab_helpers.errors import UsageError
from colab_helpers.files import absolute
from colab_helpers.language import mark, tr
from colab_helpers.request import in_library

PEOPLE_FILES = (MAP_NAME, f"{PEOPLE_FOLDER_NAME}/{PEOPLE_RECORD_NAME}")
"""Files of an output folder that hold its people and what is done to each."""
SOURCE_WORDS = {
    "photos": mark("the photos of the run"),
    "leave": mark("left alone"),
    "blur": mark("blurred"),
    "pixelate": mark("pixelated"),
    "portraits": mark("a portrait of their own"),
}
"""Text for each of the map's reserved words, to be shown with ``tr``."""


def source_text(source: Sequence[str]) -> str:
    """Return the source of a person as text."""
    return ", ".join(tr(SOURCE_WORDS[word]) if word in SOURCE_WORDS else Path(word).name for word in source)


def list_people(folder: Path) -> list[PersonSummary]:
    """List the people of an output folder; raise ColabHelpersError if map or record are unreadable."""
    return summarize_people(KnownPeople.load(folder), PeopleMap.load(folder))


def current_triage(folder: Path) -> Triage:
    """Return the triage of an output folder with the current names of its people.

    Raise ColabHelpersError if map, record or journal cannot be read.
    """
    known = KnownPeople.load(folder)
    names = complete_map(PeopleMap.load(folder) or PeopleMap(), known).names
    throughput = measured_throughput(read_journal(folder / JOURNAL_NAME))
    return build_triage(known.videos.values(), names, throughput)


def set_source(folder: Path, name: str, words: Sequence[str], library: Path | None = None) -> None:
    """Set the source of a person: one of `RESERVED`, or names of the library and paths of photos.

    Raise UsageError if nobody has that name, or a word is none of these.
    """
    source = [_source(word, library) for word in words]
    with _edited(folder, name) as (_, people_map):
        people_map.put(name, source=source)


def default_of(folder: Path) -> tuple[str, ...]:
    """Return the source for people whom the map does not name."""
    return (PeopleMap.load(folder) or PeopleMap()).default


def set_default(folder: Path, words: Sequence[str]) -> None:
    """Set the source for people whom the map does not name; see `set_source`."""
    with _edited(folder) as (_, people_map):
        people_map.default = tuple(words)


def keep_only(folder: Path, name: str) -> None:
    """Leave everybody but one person unchanged; raise UsageError if nobody has that name."""
    with _edited(folder, name, *(row.name for row in list_people(folder))) as (_, people_map):
        people_map.default = (LEAVE,)
        for other, person in list(people_map.people.items()):
            if other != name:
                people_map.put(other, source=(LEAVE,))
            elif person.source == (LEAVE,):
                people_map.put(name, source=(PHOTOS,))


def rename(folder: Path, old: str, new: str) -> None:
    """Rename a person; raise UsageError if there is nobody of that name, or the new one is taken."""
    with _edited(folder, old) as (known, people_map):
        complete_map(people_map, known).rename(old, new)  # raises if the name is taken
        people_map.rename(old, new)


def merge(folder: Path, one: str, other: str) -> None:
    """Merge two people into one, called ``one``; raise UsageError if a name does not exist."""
    with _edited(folder, one, other) as (_, people_map):
        people_map.merge(one, other)


def split(folder: Path, name: str) -> list[str]:
    """Split a person into its groups, or an only group by similarity; return the names of the parts.

    Raises:
        UsageError: There is nobody of that name, or the only group looks like one person.
        FolderBusyError: A batch is running in the folder.
    """
    with folder_lock(folder):
        with _edited(folder, name) as (known, people_map):
            person = people_map.people[name]
            parts = [group for group in person.faces if group in known.groups]
            if len(parts) < 2:
                parts = known.split(parts[0] if parts else name)
            people_map.put(name, faces=parts[:1])
            names = [name]
            for part in parts[1:]:
                names.append(new_name(part, people_map.people))
                people_map.put(names[-1], faces=[part], source=person.source, settings=person.settings)
        known.save(folder)  # only after the map was written
        send_all([folder / PEOPLE_FOLDER_NAME])
    return names


@contextmanager
def _edited(folder: Path, *names: str) -> Iterator[tuple[KnownPeople, PeopleMap]]:
    """Yield the record and the map, with the named people added to the map, and save the map afterwards."""
    sync_inputs(folder, (), ())
    known, people_map = KnownPeople.load(folder), PeopleMap.load(folder) or PeopleMap()
    completed = complete_map(people_map, known)
    for name in names:
        if name not in completed.people:
            remedy = tr("allowed: {names}", names=", ".join(completed.people))
            raise UsageError(tr("there is no {name}", name=name), remedy=remedy)
        # Add nobody else: only a run can match groups to the photos in the map.
        if name not in people_map.people:
            people_map.people[name], people_map.record = completed.people[name], completed.record
    yield known, people_map
    people_map.save(folder)
    send_all([folder / MAP_NAME])


def _source(word: str, library: Path | None) -> str:
    if word in RESERVED or in_library(word, library):
        return word
    if os.path.exists(absolute(word)):  # noqa: PTH110 - Path.exists raises for too long a name
        return str(absolute(word))
    allowed = ", ".join([*RESERVED, *library_names(library)])
    what = tr("{word!r} is neither a file or folder nor one of {names}", word=word, names=allowed)
    raise UsageError(what, remedy=tr("give the path of a photo, or set library to the folder of people"))
