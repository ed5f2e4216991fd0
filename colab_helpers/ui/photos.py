"""The Photos tab: a card for each source photo, with its quality problems."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from colab_helpers.batch.job import Source
from colab_helpers.batch.library import expand_photos, find_photos, is_photo, library_names
from colab_helpers.batch.object_store import fetch
from colab_helpers.batch.plan import notes_on_skipped
from colab_helpers.errors import ColabHelpersError, UsageError
from colab_helpers.faces.photos import PhotoReport, find_outliers
from colab_helpers.files import absolute, numbered, size_and_mtime, write_atomically
from colab_helpers.language import mark, printable, tr
from colab_helpers.media.images import read_image
from colab_helpers.pages.svg import BAD, GOOD, WARN
from colab_helpers.request import in_library
from colab_helpers.settings import Settings
from colab_helpers.ui.form_state import FormState
from colab_helpers.ui.host import Host
from colab_helpers.ui.markup import bullets, error_message, paragraph, picture, thumbnail
from colab_helpers.ui.preview_networks import detection_key
from colab_helpers.ui.widgets import Widgets

MAX_CARDS = 24
"""Maximum number of cards; further photos are used, but not shown."""
STRANGER = mark("This seems to be a different person from most of the other photos.")
UPLOADS = "uploads"
"""Folder for uploaded photos, under the host's runs."""

_THUMB_WIDTH, _THUMB_HEIGHT = 220, 180
_CARD_LAYOUT = {"width": "246px", "padding": "6px", "margin": "4px", "border": "1px solid #9999"}


@dataclass(frozen=True, eq=False)
class ExaminedPhoto:
    """A photo with its report, or with the ``reason`` why it could not be examined."""

    path: str
    thumbnail: Markup
    report: PhotoReport | None
    reason: str = ""


class PhotosTab:
    """The source photos."""

    def __init__(self, widgets: Widgets, form_state: FormState, host: Host) -> None:
        self._widgets, self._form_state, self._host = widgets, form_state, host
        self._examined: dict[object, ExaminedPhoto] = {}
        style = {"width": "60%", "placeholder": "/path/to/photo.jpg"}
        self.path = widgets.input("Text", label=tr("Photo or folder"), **style)
        style["placeholder"] = tr("a folder of people")
        self.library = widgets.input("Text", "library", label=tr("Library"), **style)
        self.person = widgets.library.Dropdown(layout={"width": "auto", "display": "none"})
        self.person.observe(lambda change: self._try(lambda: self._add_person(change["new"])), "value")
        self.add_button = widgets.button(tr("Add"), lambda: self._try(self._add_path))
        self.upload = widgets.library.FileUpload(accept="image/*", multiple=True, description=tr("Upload"))
        self.upload.observe(lambda _: self._try(self._add_uploads), "value")
        self.message, self.summary = widgets.html(), widgets.html()
        self.cards = widgets.row(align="flex-start")
        adding = widgets.row(self.path, self.add_button, self.upload)
        people = widgets.row(self.library, self.person)
        self.box = widgets.column(adding, people, self.message, self.summary, self.cards)

    def refresh(self) -> None:
        """Show the current source photos."""
        self._try(self._show_names)
        sources = self._form_state.request(overrides={}).sources
        detection = self._form_state.detection_inputs()
        photos = [(photo, source) for source in sources for photo in _photos_in(source)]
        examined = [self._examine(path, detection) for path, _ in photos[:MAX_CARDS]]
        reports = [(photo.path, photo.report.embedding) for photo in examined if photo.report is not None]
        embedded = [(path, embedding) for path, embedding in reports if embedding is not None]
        outliers = find_outliers([embedding for _, embedding in embedded])
        others = {path for (path, _), is_outlier in zip(embedded, outliers, strict=True) if is_outlier}
        self.cards.children = [
            self._card(photo, source, stranger=photo.path in others)
            for photo, (_, source) in zip(examined, photos, strict=False)
        ]
        self.summary.value = self._summary_html(len(photos), examined, others)

    def _show_names(self) -> None:
        """Offer the people of the current library."""
        self.person.layout.display = "none"
        if names := library_names(self._library()):
            self.person.layout.display = ""
            options = [(tr("Add a person of the library"), ""), *((printable(name), name) for name in names)]
            if options != list(self.person.options):
                self.person.options = options

    def _library(self) -> Path | None:
        return self._form_state.request(overrides={}).library

    # --- adding -----------------------------------------------------------------------------------------

    def _try(self, action: Callable[[], None]) -> None:
        self.message.value = ""
        try:
            action()
        except (ColabHelpersError, OSError) as error:
            self.message.value = paragraph(error_message(error), BAD)

    def _add(self, paths: Iterable[str]) -> None:
        self._form_state.sources = tuple(dict.fromkeys([*self._form_state.sources, *paths]))

    def _remove(self, path: str) -> None:
        self._form_state.sources = tuple(other for other in self._form_state.sources if other != path)

    def _add_path(self) -> None:
        path = self.path.value.strip()
        if not path:
            raise UsageError(tr("the path is empty"), remedy=tr("enter the path of a photo or of a folder"))
        folder = in_library(path, self._library())
        self._add([folder] if folder else find_photos(path))
        self.path.value = ""
        if left_out := notes_on_skipped([absolute(folder or path)], wanted=is_photo):
            self.message.value = paragraph(". ".join(left_out))

    def _add_person(self, name: str | None) -> None:
        if folder := in_library(name or "", self._library()):
            self.person.value = ""
            self._add([folder])

    def _add_uploads(self) -> None:
        folder, paths = self._host.runs / UPLOADS, []
        for name, data in uploaded_files(self.upload.value):
            read_image(data)  # raises if it is not an image
            folder.mkdir(parents=True, exist_ok=True)
            paths.append(str(save_upload(folder / Path(name).name, data)))
        self._add(paths)

    # --- cards ------------------------------------------------------------------------------------------

    def _examine(self, path: str, detection: tuple[Settings, Path | None]) -> ExaminedPhoto:
        """Examine a photo unless its result is cached."""
        key, small = (path, size_and_mtime(path), detection_key(*detection)), Markup()
        if key not in self._examined:
            try:
                fetch(Path(path))
                image = read_image(path if path.startswith("data:") else Path(path))
                small = _picture(image, ())
                report = self._form_state.networks.examine(*detection, image)
            except (ColabHelpersError, OSError) as error:
                # Not cached: file and models may be there next time.
                return ExaminedPhoto(path, small, None, error_message(error))
            self._examined[key] = ExaminedPhoto(path, _picture(image, report.faces), report)
        return self._examined[key]

    def _card(self, photo: ExaminedPhoto, source: str, *, stranger: bool) -> Any:
        parts = [self._widgets.html(card_html(photo, stranger=stranger), width="230px")]
        if source in self._form_state.sources:  # not the demo's
            with_name = tr("Remove {name}", name=printable(Path(source).name))
            label = tr("Remove") if source == photo.path else with_name
            parts.append(self._widgets.button(label, lambda: self._remove(source)))
        return self._widgets.column(*parts, layout=_CARD_LAYOUT)

    def _summary_html(self, count: int, examined: Sequence[ExaminedPhoto], others: set[str]) -> Markup:
        if not count:
            return paragraph(tr("No photo yet: add one or more of the source person."), WARN)
        faceless = sum(photo.report is not None and not photo.report.faces for photo in examined)
        used, hidden = count - faceless - len(others), count - len(examined)
        facts = {
            tr("The demo is used: its source is a rendered portrait."): not self._form_state.sources,
            tr("{count} photos of one person are averaged.", count=used): used > 1,
            tr("{count} of them are not shown.", count=hidden): hidden,
        }
        return paragraph(" ".join(text for text, holds in facts.items() if holds))


def _photos_in(source: str) -> list[str]:
    """Return the photos of a folder; a source that is not a folder of photos is returned as it is."""
    try:
        return [photo.image for photo in expand_photos([Source.of(source)])]
    except ColabHelpersError:
        return [source]


def card_html(photo: ExaminedPhoto, *, stranger: bool = False) -> Markup:
    """Return the card of a photo: thumbnail with faces marked, name, size and quality hints."""
    name = tr("(image data)") if photo.path.startswith("data:") else printable(Path(photo.path).name)
    head = photo.thumbnail + Markup('<br><b style="overflow-wrap:anywhere">{}</b>').format(name)
    report = photo.report
    if report is None:
        return head + paragraph(tr("Not examined: {reason}", reason=photo.reason), WARN)
    facts = tr("{width} x {height} pixels", width=report.size[0], height=report.size[1])
    facts += tr(", face {face_width:.0f} pixels wide", face_width=report.face_width) if report.faces else ""
    hints = [*([tr(STRANGER)] if stranger else []), *report.hints]
    verdict = bullets(hints, WARN if report.faces else BAD) or paragraph(tr("Good."), GOOD)
    return head + paragraph(facts) + verdict


def _picture(image: Any, faces: Sequence[Any]) -> Markup:
    small = thumbnail(image, faces, _THUMB_WIDTH, _THUMB_HEIGHT, first_counts=True)
    return picture(small, alt=tr("photo"))


def save_upload(path: Path, data: bytes) -> Path:
    """Save an upload, with a number added to its name if a different file has it; return its path.

    Existing files are kept, since a resumed run may read them.
    """
    candidates = (path, *(numbered(path, number) for number in range(2, 10_000)))
    free = next(p for p in candidates if not os.path.lexists(p) or (p.is_file() and p.read_bytes() == data))
    if not free.exists():
        write_atomically(free, data)
    return free


def uploaded_files(value: Any) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of each file of a ``FileUpload``: a mapping in ipywidgets 7, a tuple in 8."""
    if isinstance(value, Mapping):
        value = [{"name": name, **entry} for name, entry in value.items()]
    for entry in value:
        yield str(entry["name"]), bytes(entry["content"])
