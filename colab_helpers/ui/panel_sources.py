"""The tab of the photos: a card for each with what speaks against it, and the library of people."""

from __future__ import annotations

import html
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from colab_helpers.batch.plan import skipped_files
from colab_helpers.errors import ColabHelpersError, MissingFileError, UsageError
from colab_helpers.faces.photos import PhotoReport, strangers
from colab_helpers.faces.types import ByteImage, Face
from colab_helpers.files import absolute, natural_key, numbered, write_atomically
from colab_helpers.language import mark, printable, tr
from colab_helpers.media.images import read_image
from colab_helpers.media.inputs import existing_file, is_image, reader_missing
from colab_helpers.ui.panel_desk import LABELS, Desk
from colab_helpers.ui.panel_parts import (
    AMBER,
    GREEN,
    RED,
    bullets,
    paragraph,
    picture,
    thumbnail,
    words,
)
from colab_helpers.ui.panel_people import PeopleLibrary

MOST_CARDS = 24
"""More photos than anybody compares by eye are used, too, but not shown."""
STRANGER = mark("This looks like somebody else than most of the other photos do.")
NOBODY = mark("(nobody chosen)")
UPLOADS = "uploads"
"""Folder for uploaded photos, under the host's runs."""

_THUMB_WIDTH, _THUMB_HEIGHT = 220, 180


class SourcesTab:
    """Photos of the person who is put in.

    Args:
        desk: Shared by all tabs.
        paths: The first photos: paths or data URLs.
    """

    def __init__(self, desk: Desk, paths: Iterable[str] = ()) -> None:
        self._desk = desk
        self.paths = list(paths)
        self._seen: dict[object, Sight] = {}
        self._library = PeopleLibrary(desk.host.home)
        self._make()

    def _make(self) -> None:
        desk, w = self._desk, self._desk.widgets
        self.path = desk.text(tr("Photo or folder"), hint="/path/to/photo.jpg")
        self.add_button = desk.button(tr("Add"), lambda: self._try(self._add_written))
        self.upload = w.FileUpload(accept="image/*", multiple=True, description=tr("Upload"))
        self.upload.observe(self._uploaded, "value")
        self.person = w.Dropdown(options=[tr(NOBODY)], description=tr("Library"), style=LABELS)
        self.use_button = desk.button(tr("Use"), lambda: self._try(self._use_person))
        self.forget_button = desk.button(
            tr("Delete"), lambda: self._try(self._forget), hint=tr("Delete the copies")
        )
        self.name = desk.text(tr("Save these as"), hint=tr("name in the library"), width="auto")
        self.save_button = desk.button(tr("Save"), lambda: self._try(self._save))
        self.message, self.summary = desk.html(), desk.html()
        self.cards = w.HBox(layout={"flex_flow": "row wrap", "align_items": "flex-start"})
        self.box = desk.column(
            desk.row(self.path, self.add_button, self.upload),
            desk.row(self.person, self.use_button, self.forget_button, self.name, self.save_button),
            self.message,
            self.summary,
            self.cards,
        )
        self._list_people()

    def refresh(self) -> None:
        """Show the photos chosen now."""
        shown = self._desk.read().sources
        finding = self._desk.finding_key()
        sights = [self._sight(path, finding) for path in shown[:MOST_CARDS]]
        alien = _aliens(sights)
        self.cards.children = [self._card(sight, alien=sight.path in alien) for sight in sights]
        self.summary.value = self._summary_html(shown, sights, alien)

    def _try(self, action: Callable[[], None]) -> None:
        self.message.value = ""
        try:
            action()
        except (ColabHelpersError, OSError) as error:
            self.message.value = paragraph(words(error), RED)

    def _set(self, paths: Iterable[str]) -> None:
        self.paths = list(dict.fromkeys(paths))
        self._desk.tell("sources")

    # --- adding and the library -----------------------------------------------------------------------

    def _add_written(self) -> None:
        written = self.path.value.strip()
        if not written:
            raise UsageError(
                tr("nothing is written there"), remedy=tr("write the path of a photo or of a folder")
            )
        self._set([*self.paths, *photos_at(written)])
        self.path.value = ""
        left_out = skipped_files([absolute(written)], wanted=is_photo)
        if left_out:
            self.message.value = paragraph(". ".join(left_out))

    def _uploaded(self, _: object) -> None:
        self._try(self._add_uploads)

    def _add_uploads(self) -> None:
        folder = self._desk.host.runs / UPLOADS
        paths = []
        for name, data in uploaded_files(self.upload.value):
            read_image(data)  # raises where it is no picture
            folder.mkdir(parents=True, exist_ok=True)
            paths.append(str(kept_upload(folder / Path(name).name, data)))
        if paths:
            self._set([*self.paths, *paths])

    def _list_people(self, chosen: str = "") -> None:
        names = [person.name for person in self._library.people()]
        self.person.options = [tr(NOBODY), *names]
        self.person.value = chosen if chosen in names else tr(NOBODY)

    def _use_person(self) -> None:
        name = self._chosen_person()
        self._set([str(path) for path in self._library.photos(name)])
        person = next(person for person in self._library.people() if person.name == name)
        consent = " " + tr("Consent noted then: {consent}", consent=person.consent) if person.consent else ""
        self.message.value = paragraph(
            tr("{name}, saved on {saved}.{consent}", name=name, saved=person.saved, consent=consent)
        )

    def _chosen_person(self) -> str:
        if self.person.value == tr(NOBODY):
            raise UsageError(tr("nobody is chosen in the library"), remedy=tr("choose a name first"))
        return str(self.person.value)

    def _save(self) -> None:
        request = self._desk.read()
        person = self._library.save(self.name.value.strip(), request.sources, consent=request.consent)
        self._list_people(person.name)
        self.message.value = paragraph(
            tr("{count} photo(s) saved as {name}.", count=len(person.photos), name=person.name), GREEN
        )

    def _forget(self) -> None:
        name = self._chosen_person()
        self._library.remove(name)
        folder = self._library.folder / name
        self._list_people()
        self.message.value = paragraph(tr("{name} is deleted from the library.", name=name))
        kept = [path for path in self.paths if Path(path).parent != folder]
        if kept != self.paths:
            self._set(kept)

    # --- cards ----------------------------------------------------------------------------------------

    def _sight(self, path: str, finding: object) -> Sight:
        """What a photo shows, or why that is not known."""
        thumbnail = ""
        try:
            key = (path, _changed(path), finding)
            if key not in self._seen:
                image = read_image(path if path.startswith("data:") else Path(path))
                thumbnail = _thumbnail(image, ())
                report = self._desk.examine(image)
                self._seen[key] = Sight(path, _thumbnail(image, report.faces), report)
            return self._seen[key]
        except (ColabHelpersError, OSError) as error:
            # Not remembered: the next look may find the file, or the models.
            return Sight(path, thumbnail, None, words(error))

    def _card(self, sight: Sight, *, alien: bool) -> Any:
        desk, path = self._desk, sight.path
        page = desk.widgets.HTML(card_html(sight, alien=alien), layout={"width": "230px"})
        if path not in self.paths:
            return desk.widgets.VBox([page], layout=_CARD_LAYOUT)
        remove = desk.button(
            tr("Remove"), lambda: self._set([other for other in self.paths if other != path])
        )
        return desk.widgets.VBox([page, remove], layout=_CARD_LAYOUT)

    def _summary_html(self, shown: Sequence[str], sights: Sequence[Sight], alien: set[str]) -> str:
        if not shown:
            return paragraph(tr("No photo yet: add one or more of the person who is put in."), AMBER)
        demo = "" if self.paths else tr("The demo is used: one of its rendered portraits is put in.") + " "
        more = (
            " " + tr("{count} of them are not shown.", count=len(shown) - len(sights))
            if len(shown) > len(sights)
            else ""
        )
        faceless = sum(sight.report is not None and not sight.report.faces for sight in sights)
        wrong = (
            tr("{faceless} photo(s) without a face will be left out.", faceless=faceless) if faceless else ""
        )
        used = len(shown) - faceless - len(alien)
        several = tr("{count} photos of one person are averaged.", count=used) if used > 1 else ""
        known = [sight for sight in sights if sight.report is not None and sight.report.faces]
        if alien and len(alien) == len(known):
            wrong += " " + tr("The run would refuse these photos: they do not show one and the same person.")
        elif alien:
            wrong += " " + tr("{count} photo(s) of somebody else will be left out.", count=len(alien))
        return paragraph(f"{demo}{several}{more}") + paragraph(wrong.strip(), RED)


_CARD_LAYOUT = {"width": "246px", "padding": "6px", "margin": "4px", "border": "1px solid #9999"}


@dataclass(frozen=True, eq=False)
class Sight:
    """What was seen of a photo.

    Attributes:
        thumbnail: HTML; empty where there is no picture.
        report: None where it could not be examined; ``reason`` says why.
    """

    path: str
    thumbnail: str
    report: PhotoReport | None
    reason: str = ""


def card_html(sight: Sight, *, alien: bool = False) -> str:
    """A photo with its faces marked, and what there is to say about it."""
    name = tr("(picture as data)") if sight.path.startswith("data:") else printable(Path(sight.path).name)
    head = f'{sight.thumbnail}<br><b style="overflow-wrap:anywhere">{html.escape(name)}</b>'
    report = sight.report
    if report is None:
        return head + paragraph(tr("Not examined: {reason}", reason=sight.reason), AMBER)
    hints = [*([tr(STRANGER)] if alien else []), *report.hints]
    facts = tr("{width} x {height} pixels", width=report.size[0], height=report.size[1])
    facts += tr(", face {face_width:.0f} pixels wide", face_width=report.face_width) if report.faces else ""
    verdict = bullets(hints, AMBER if report.faces else RED) or paragraph(tr("Good."), GREEN)
    return f"{head}{paragraph(facts)}{verdict}"


def _thumbnail(image: ByteImage, faces: Sequence[Face]) -> str:
    small = thumbnail(image, faces, _THUMB_WIDTH, _THUMB_HEIGHT, first_counts=True)
    return picture(small, alt=tr("photo"))


def _aliens(sights: Iterable[Sight]) -> set[str]:
    """Photos that seem to show somebody else."""
    known = [(sight.path, sight.report.embedding) for sight in sights if sight.report is not None]
    embedded = [(path, embedding) for path, embedding in known if embedding is not None]
    marks = strangers([embedding for _, embedding in embedded])
    return {path for (path, _), mark in zip(embedded, marks, strict=True) if mark}


def photos_at(written: str) -> list[str]:
    """The photos that a person means: a file, those of a folder in natural order, or a data URL.

    Raises:
        MissingFileError: There is nothing.
    """
    if written.startswith("data:"):
        return [written]
    path = absolute(written)
    if path.is_file():
        return [str(path)]
    if not path.is_dir():
        raise MissingFileError(
            tr("there is no such file or folder"), where=written, remedy=tr("check the path")
        )
    photos = (item for item in path.iterdir() if item.is_file() and is_photo(item))
    found = sorted(photos, key=lambda item: natural_key(item.name))
    if not found:
        remedy = "; ".join([*skipped_files([path], wanted=is_photo), tr("name another")])
        raise MissingFileError(tr("the folder holds no photo"), where=written, remedy=remedy)
    return [str(item) for item in found]


def kept_upload(path: Path, data: bytes) -> Path:
    """Keep an upload under its name, with a number where a file of other bytes has that name.

    A run that is taken up again may read the file of that name.

    Raises:
        OSError: It cannot be written.
    """
    places = (path, *(numbered(path, number) for number in range(2, 10_000)))
    place = next(p for p in places if not os.path.lexists(p) or (p.is_file() and p.read_bytes() == data))
    if not place.exists():
        write_atomically(place, data)
    return place


def is_photo(path: Path) -> bool:
    """Whether a file's suffix is that of a picture that can be read here."""
    return is_image(path) and not reader_missing(path)


def uploaded_files(value: Any) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of what a ``FileUpload`` holds: a mapping in ipywidgets 7, a tuple in 8."""
    if isinstance(value, Mapping):
        for name, entry in value.items():
            yield str(name), bytes(entry["content"])
        return
    for entry in value:
        yield str(entry["name"]), bytes(entry["content"])


def _changed(path: str) -> object:
    if path.startswith("data:"):
        return None
    found = existing_file(path).stat()
    return found.st_mtime_ns, found.st_size
