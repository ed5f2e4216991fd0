"""Contact sheets: the people of a batch, or of a library, with pictures, as a page and as lines."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from colab_helpers.batch.known_people import PEOPLE_FOLDER_NAME
from colab_helpers.batch.library import find_photos, library_names
from colab_helpers.batch.people_edits import list_people, source_text
from colab_helpers.batch.people_map import PersonSummary
from colab_helpers.batch.report import is_own_file, write_text
from colab_helpers.batch.thumbnails import data_url, shrink_to_fit
from colab_helpers.batch.write_policy import WritePolicy
from colab_helpers.errors import ColabHelpersError, MissingFileError
from colab_helpers.faces.types import ByteImage
from colab_helpers.language import first_of, mark, printable, tr
from colab_helpers.media.images import read_image
from colab_helpers.pages.rendering import render
from colab_helpers.pages.units import duration
from colab_helpers.settings import Settings

if TYPE_CHECKING:
    from colab_helpers.faces.analyser import FaceAnalyser

MAX_CARDS, MAX_SHOTS = 200, 8
"""People on a sheet, and pictures of each."""
SHEET_NAME = "sheet.html"
_MAX_FILES = 4
_EDGE = 120


@dataclass(frozen=True, eq=False)
class CardPicture:
    """A picture of somebody, ``(H, W, 3)`` uint8 BGR, with what is said of it; ``marked``: as doubtful."""

    image: ByteImage
    told: str = ""
    marked: bool = False

    @cached_property
    def url(self) -> str:
        """The picture as a data URL."""
        return data_url(self.image, height=_EDGE)


@dataclass(frozen=True, eq=False)
class Card:
    """One of the people; ``remarks`` is what somebody should look at."""

    name: str
    shots: tuple[CardPicture, ...]
    facts: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def line(self) -> str:
        """What a list says."""
        return printable(f"{self.name}: {'; '.join([*self.facts, *self.remarks])}")


def batch_cards(folder: Path) -> list[Card]:
    """Return the people of an output folder; UsageError where its records cannot be read."""
    return [
        Card(
            row.name,
            tuple(map(CardPicture, crops_of(folder, row, MAX_SHOTS))),
            facts_of(row),
            remarks_of(row),
        )
        for row in list_people(folder)
    ]


def crops_of(folder: Path, row: PersonSummary, most: int) -> list[ByteImage]:
    """Read the first pictures of somebody; those that are no longer there are left out."""
    found = []
    for name in row.crops[:most]:
        with suppress(ColabHelpersError, OSError):
            found.append(read_image(folder / PEOPLE_FOLDER_NAME / name))
    return found


def facts_of(row: PersonSummary) -> tuple[str, ...]:
    """What is done to somebody of a batch, and where they are seen."""
    names = [f"{name} ({duration(seconds)})" for name, seconds in row.files.items()]
    seen = first_of(names, _MAX_FILES)
    where = tr("{time} in {files}", time=duration(row.seconds), files=seen) if names else tr("not seen yet")
    return source_text(row.source), where


def remarks_of(row: PersonSummary) -> tuple[str, ...]:
    """What to look at before a run."""
    alike = tr("looks much like {names}", names=", ".join(row.alike)) if row.alike else ""
    doubt = tr("put together with little certainty: look at the pictures") if row.doubtful else ""
    return tuple(filter(None, (alike, doubt)))


def library_cards(library: Path, models_dir: Path | None) -> list[Card]:
    """Return the people of a library, each photo with how much it counts; one of somebody else is marked.

    Raises:
        MissingFileError: Nobody is in it.
        ModelError: The networks that find faces are not in ``models_dir``.
    """
    from colab_helpers.faces.analyser import FaceAnalyser

    names = library_names(library)
    if not names:
        remedy = mark(
            "run the batch with people=only first, or name a folder that holds one of photos for each person"
        )
        what = tr("there are neither people of a batch here nor folders of photos")
        raise MissingFileError(what, where=str(library), remedy=tr(remedy))
    analyser = FaceAnalyser(Settings(), models_dir=models_dir)
    return [_person(library / name, analyser) for name in names]


def _person(folder: Path, analyser: FaceAnalyser) -> Card:
    from colab_helpers.faces.photos import examine, find_outliers

    seen, remarks = [], []
    try:
        photos = [Path(path) for path in find_photos(str(folder))]
    except ColabHelpersError as error:
        return Card(folder.name, (), (), (error.what,))
    for path in photos:
        try:
            image = read_image(path)
            small = shrink_to_fit(image, height=2 * _EDGE, width=2 * _EDGE)
            seen.append((path.name, small, examine(analyser, image)))
        except ColabHelpersError as error:
            remarks.append(f"{path.name}: {error.what}")
    known = [one for _, _, report in seen if (one := report.embedding) is not None]
    odd = iter(find_outliers(known))
    shots = []
    for name, small, report in seen:
        foreign = report.embedding is None or next(odd)
        hints = [tr("Looks like somebody else.")] if foreign and report.faces else [*report.hints]
        remarks += [f"{name}: {' '.join(hints)}"] if hints else []
        told = tr("left out") if foreign else tr("counts {share:.0%}", share=report.quality)
        shots.append(CardPicture(small, f"{name}: {told}", marked=foreign))
    used = sum(not shot.marked for shot in shots)
    facts = (tr("{used} of {count} photos count", used=used, count=len(photos)),)
    return Card(folder.name, tuple(shots[:MAX_SHOTS]), facts, tuple(remarks))


def write_sheet(folder: Path, title: str, cards: Sequence[Card]) -> Path:
    """Write a page of people into a folder; return its place.

    Raises:
        UsageError: A file of the user's has its name.
        OutputError: The folder cannot be written to.
    """
    page = folder / SHEET_NAME
    WritePolicy(made=is_own_file).ensure_writable(page)
    more = max(0, len(cards) - MAX_CARDS)
    write_text(page, render("sheet.html.j2", title=title, cards=cards[:MAX_CARDS], more=more))
    return page
