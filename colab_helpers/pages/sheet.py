"""Contact sheets: the people of a batch or of a library, with pictures, as a page and as text."""

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
"""Limits of a sheet: people, and pictures per person."""
SHEET_NAME = "sheet.html"
_MAX_FILES = 4
_EDGE = 120


@dataclass(frozen=True, eq=False)
class CardPicture:
    """A picture of a person, ``(H, W, 3)`` uint8 BGR; ``marked`` if it may show somebody else."""

    image: ByteImage
    caption: str = ""
    marked: bool = False

    @cached_property
    def url(self) -> str:
        """The picture as a data URL."""
        return data_url(self.image, height=_EDGE)


@dataclass(frozen=True, eq=False)
class Card:
    """One person on a sheet; ``remarks`` are what the user should check."""

    name: str
    shots: tuple[CardPicture, ...]
    facts: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def line(self) -> str:
        """The card as one line of text."""
        return printable(f"{self.name}: {'; '.join([*self.facts, *self.remarks])}")


def batch_cards(folder: Path) -> list[Card]:
    """Return the people of an output folder; raise UsageError if its records cannot be read."""
    cards = []
    for row in list_people(folder):
        shots = tuple(map(CardPicture, crops_of(folder, row, MAX_SHOTS)))
        cards.append(Card(row.name, shots, facts_of(row), remarks_of(row)))
    return cards


def crops_of(folder: Path, row: PersonSummary, limit: int) -> list[ByteImage]:
    """Read the first ``limit`` pictures of a person; those that cannot be read are left out."""
    crops = []
    for name in row.crops[:limit]:
        with suppress(ColabHelpersError, OSError):
            crops.append(read_image(folder / PEOPLE_FOLDER_NAME / name))
    return crops


def facts_of(row: PersonSummary) -> tuple[str, ...]:
    """Return what is done to a person of a batch, and in which files they are seen for how long."""
    names = [f"{name} ({duration(seconds)})" for name, seconds in row.files.items()]
    files = first_of(names, _MAX_FILES)
    where = tr("{time} in {files}", time=duration(row.seconds), files=files) if names else tr("not seen yet")
    return source_text(row.source), where


def remarks_of(row: PersonSummary) -> tuple[str, ...]:
    """Return what to check about a person before a run."""
    alike = tr("looks similar to {names}", names=", ".join(row.alike)) if row.alike else ""
    doubt = tr("grouped with low confidence: check the pictures") if row.doubtful else ""
    return tuple(filter(None, (alike, doubt)))


def library_cards(library: Path, models_dir: Path | None) -> list[Card]:
    """Return the people of a library, with the weight of each photo; photos of somebody else are marked.

    Raises:
        MissingFileError: The library is empty.
        ModelError: The face detection networks are not in ``models_dir``.
    """
    from colab_helpers.faces.analyser import FaceAnalyser

    names = library_names(library)
    if not names:
        remedy = mark("run the batch with people=only first, or give a folder with one subfolder per person")
        what = tr("there are neither people of a batch here nor folders of photos")
        raise MissingFileError(what, where=str(library), remedy=tr(remedy))
    analyser = FaceAnalyser(Settings(), models_dir=models_dir)
    return [_library_card(library / name, analyser) for name in names]


def _library_card(folder: Path, analyser: FaceAnalyser) -> Card:
    from colab_helpers.faces.photos import examine, find_outliers

    examined, remarks = [], []
    try:
        photos = [Path(path) for path in find_photos(str(folder))]
    except ColabHelpersError as error:
        return Card(folder.name, (), (), (error.what,))
    for path in photos:
        try:
            image = read_image(path)
            small = shrink_to_fit(image, height=2 * _EDGE, width=2 * _EDGE)
            examined.append((path.name, small, examine(analyser, image)))
        except ColabHelpersError as error:
            remarks.append(f"{path.name}: {error.what}")
    embeddings = [one for _, _, report in examined if (one := report.embedding) is not None]
    outliers = iter(find_outliers(embeddings))
    shots = []
    for name, small, report in examined:
        unused = report.embedding is None or next(outliers)
        hints = [tr("Looks like somebody else.")] if unused and report.faces else [*report.hints]
        remarks += [f"{name}: {' '.join(hints)}"] if hints else []
        weight = tr("left out") if unused else tr("weight {share:.0%}", share=report.quality)
        shots.append(CardPicture(small, f"{name}: {weight}", marked=unused))
    used = sum(not shot.marked for shot in shots)
    facts = (tr("{used} of {count} photos used", used=used, count=len(photos)),)
    return Card(folder.name, tuple(shots[:MAX_SHOTS]), facts, tuple(remarks))


def write_sheet(folder: Path, title: str, cards: Sequence[Card]) -> Path:
    """Write a contact sheet into a folder; return its path.

    Raises:
        UsageError: A user's file has its name.
        OutputError: The folder is not writable.
    """
    page = folder / SHEET_NAME
    WritePolicy(made=is_own_file).ensure_writable(page)
    more = max(0, len(cards) - MAX_CARDS)
    write_text(page, render("sheet.html.j2", title=title, cards=cards[:MAX_CARDS], more=more))
    return page
