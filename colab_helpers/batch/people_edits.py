"""Changes to the people of an output folder, by a verb of the shell or by the panel, each saved at once.

Nothing is held between two of them: whatever the user or a run writes meanwhile is kept.
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
"""Where in an output folder it stands who is known, and what is done to each."""
SOURCE_WORDS = {
    "photos": mark("the photos of the run"),
    "leave": mark("left alone"),
    "blur": mark("blurred"),
    "pixelate": mark("pixelated"),
    "portraits": mark("a portrait of their own"),
}
"""What is done to somebody, by the map's reserved words; ``tr`` of it is shown."""


def source_text(source: Sequence[str]) -> str:
    """Say what a map has done to somebody."""
    return ", ".join(tr(SOURCE_WORDS[word]) if word in SOURCE_WORDS else Path(word).name for word in source)


def list_people(folder: Path) -> list[PersonSummary]:
    """List everybody of an output folder; UsageError where its map or record cannot be read."""
    return summarize_people(KnownPeople.load(folder), PeopleMap.load(folder))


def current_triage(folder: Path) -> Triage:
    """Return how the targets of an output folder look, with everybody called as the map has it now.

    UsageError where the map or a record cannot be read.
    """
    known = KnownPeople.load(folder)
    names = complete_map(PeopleMap.load(folder) or PeopleMap(), known).names
    return build_triage(
        known.videos.values(), names, measured_throughput(read_journal(folder / JOURNAL_NAME))
    )


def set_source(folder: Path, name: str, words: Sequence[str], library: Path | None = None) -> None:
    """Have something else done to somebody: one of `RESERVED`, or names of the library and paths of photos.

    UsageError where nobody has that name, or a word stands for nothing.
    """
    source = [_source(word, library) for word in words]
    with _edited(folder, name) as (_, people_map):
        people_map.put(name, source=source)


def default_of(folder: Path) -> tuple[str, ...]:
    """Return what is done to whoever the map does not name."""
    return (PeopleMap.load(folder) or PeopleMap()).default


def set_default(folder: Path, words: Sequence[str]) -> None:
    """Have something else done to whoever the map does not name; see `set_source`."""
    with _edited(folder) as (_, people_map):
        people_map.default = tuple(words)


def keep_only(folder: Path, name: str) -> None:
    """Leave everybody alone but one; UsageError where there is nobody of that name."""
    with _edited(folder, name, *(row.name for row in list_people(folder))) as (_, people_map):
        people_map.default = (LEAVE,)
        for each, person in list(people_map.people.items()):
            if each != name:
                people_map.put(each, source=(LEAVE,))
            elif person.source == (LEAVE,):
                people_map.put(each, source=(PHOTOS,))


def rename(folder: Path, old: str, new: str) -> None:
    """Call somebody something else; UsageError where somebody else is called that."""
    with _edited(folder, old) as (known, people_map):
        complete_map(people_map, known).rename(old, new)  # raises where it cannot be
        people_map.rename(old, new)


def merge(folder: Path, one: str, other: str) -> None:
    """Have two of the people be one, called ``one``; UsageError where there is nobody of a name."""
    with _edited(folder, one, other) as (_, people_map):
        people_map.merge(one, other)


def split(folder: Path, name: str) -> list[str]:
    """Take somebody apart: who was merged again, else by likeness; return the names of the parts.

    UsageError where nothing in it looks like two people; FolderBusyError while a batch works in the folder.
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
        known.save(folder)  # once the map could be written
        send_all([folder / PEOPLE_FOLDER_NAME])
    return names


@contextmanager
def _edited(folder: Path, *names: str) -> Iterator[tuple[KnownPeople, PeopleMap]]:
    """Give what is known and the map, in which whoever is changed is named; it is saved afterwards."""
    sync_inputs(folder, (), ())
    known, people_map = KnownPeople.load(folder), PeopleMap.load(folder) or PeopleMap()
    whole = complete_map(people_map, known)
    for name in names:
        if name not in whole.people:
            remedy = tr("allowed: {names}", names=", ".join(whole.people))
            raise UsageError(tr("there is no {name}", name=name), remedy=remedy)
        # Nobody else: the next run knows better who is on the map's photos.
        if name not in people_map.people:
            people_map.people[name], people_map.record = whole.people[name], whole.record
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
    raise UsageError(what, remedy=tr("write the path of a photo, or name the folder of people in library"))
