"""The panel of ``batch_swap.ipynb``: what to do, chosen by looking; the next cell reads it."""

from __future__ import annotations

from typing import Any

from colab_helpers.batch.job import consent_for
from colab_helpers.batch.library import expand_photo_folders
from colab_helpers.demo import DEMO_FOLDER, copy_demo
from colab_helpers.errors import ColabHelpersError, UsageError
from colab_helpers.language import mark, set_language, tr
from colab_helpers.media.inputs import is_image
from colab_helpers.request import BatchRequest
from colab_helpers.trust.records import grounds
from colab_helpers.ui.form_state import FormState, results_folder
from colab_helpers.ui.host import Host, show_widget, this_host, widget_library
from colab_helpers.ui.markup import GREEN, RED, error_message, paragraph
from colab_helpers.ui.people import PeopleTab
from colab_helpers.ui.photos import UPLOADS, PhotosTab
from colab_helpers.ui.preview import PreviewTab
from colab_helpers.ui.run import RunTab
from colab_helpers.ui.settings import SettingsBox
from colab_helpers.ui.videos import VideosTab
from colab_helpers.ui.widgets import Widgets

_TITLES = (mark("Photos"), mark("Videos"), mark("People"), mark("Preview"), mark("Run"))


def show_panel(request: BatchRequest, earlier: object = None) -> FormState:
    """Show the panel, filled with the answers of the notebook's form; it takes over from an ``earlier`` one.

    Headless, outside notebooks and without ipywidgets nothing is shown, and the answers stand as they are.
    With ``upload`` files of the browser's computer are asked for first: photos are sources, videos are
    targets, beside those named. Everything is said in the request's language from here on.

    Raises:
        UsageError: No file of the browser's computer can be had, or none was chosen.
    """
    set_language(request.language)
    host = this_host(headless=request.headless)
    if request.upload:
        photos, videos = _uploaded(host)
        request = request.with_values(
            sources=[*request.sources, *photos], targets=[*request.targets, *videos]
        )
    # ipywidgets keeps every widget alive, and an earlier panel would keep its networks.
    form_state = FormState(request, earlier if isinstance(earlier, FormState) else None)
    library = None if request.headless else widget_library()
    if library is not None:
        panel = Panel(library, host, form_state)
        show_widget(panel.box)
        panel.fill()
    return form_state


def _uploaded(host: Host) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ask for photos and videos of the user's computer."""
    paths = host.upload(host.runs / UPLOADS)
    if not paths:
        raise UsageError(
            tr("no file was chosen"),
            where="upload",
            remedy=tr("run the cell again and choose photos and videos, or untick upload"),
        )
    photos = tuple(str(path) for path in paths if is_image(path))
    return photos, tuple(str(path) for path in paths if not is_image(path))


class Panel:
    """Consent and settings, and below them the tabs, all in ``box``; ``library`` is ipywidgets, 7 or 8."""

    def __init__(self, library: Any, host: Host, form_state: FormState) -> None:
        self._host, self.form_state = host, form_state
        form_state.has_panel = True
        widgets = Widgets(library, form_state)
        self.consent = widgets.input(
            "Textarea",
            "consent",
            label=tr("Consent"),
            placeholder=tr("Who is shown, and on what ground"),
            layout={"height": "52px"},
        )
        self.instead_of_label = widgets.input(
            "Text",
            "instead_of_label",
            label=tr("Instead of the label"),
            placeholder=tr("empty: a visible label; else how people are told, such as: in the credits"),
        )
        self.models = widgets.input(
            "Text", "models_dir", label=tr("Models folder"), placeholder=tr("the usual place")
        )
        self.consent_hint, self.status = widgets.html(), widgets.html()
        self.settings = SettingsBox(widgets, form_state)
        self.photos, self.videos = PhotosTab(widgets, form_state, host), VideosTab(widgets, form_state, host)
        self.preview, self.run = PreviewTab(widgets, form_state, host), RunTab(widgets, form_state, host)
        self.people = PeopleTab(widgets, form_state, host, find=self._find, changed=self.preview.mark_stale)
        tabs = (self.photos, self.videos, self.people, self.preview, self.run)
        self.tabs = library.Tab(children=[tab.box for tab in tabs])
        for number, title in enumerate(_TITLES):
            self.tabs.set_title(number, tr(title))
        self.tabs.selected_index = 0
        self.tabs.observe(lambda change: self._opened(_TITLES[change["new"]]), "selected_index")
        above = (
            *(self.consent, self.consent_hint, self.instead_of_label),
            *(self.settings.box, self.models, self.status),
        )
        self.box = widgets.column(*above, self.tabs)

    def fill(self) -> None:
        """Show everything; makes the demo where it is needed."""
        form_state = self.form_state
        if not form_state.sources and not form_state.listed_targets:
            self._take_demo()
        self._ensure_reachable()
        self._refresh()
        form_state.observe(self._changed)
        self.run.take_over()

    def _opened(self, title: str) -> None:
        self.preview.opened(title == "Preview")
        if title == "People":  # another process may have found somebody
            self.people.refresh()
        if title == "Videos":  # whose people may be called something else now
            self.videos.refresh()

    def _find(self) -> None:
        """Have everybody found by a run, or say why there is none."""
        self.run.start(people="only")
        if not self.form_state.runs.running_from:
            self.people.message.value = self.run.message.value

    def _take_demo(self) -> None:
        try:
            self.form_state.demo = copy_demo(self._host.runs / DEMO_FOLDER)
            self.status.value = paragraph(
                tr(
                    "No sources and targets are named: the demo with rendered people and its own small "
                    "networks is used. Add photos and targets of your own to leave it."
                )
            )
        except (ColabHelpersError, OSError) as error:
            self.status.value = paragraph(error_message(error), RED)

    def _ensure_reachable(self) -> None:
        """Open what the answers name and what has to be opened first, such as Google Drive."""
        request = self.form_state.request(overrides={})
        try:
            self._host.ensure_reachable(results_folder(request, self._host), *request.places)
        except ColabHelpersError as error:
            self.status.value = paragraph(error_message(error), RED)

    def _changed(self, change: Any) -> None:
        """Bring everything in step with what was chosen anew."""
        if change["name"] == "consent":
            self._show_consent()
            return
        if self.form_state.demo is not None and (self.form_state.sources or self.form_state.listed_targets):
            self.status.value = ""
        self._refresh()

    def _refresh(self) -> None:
        for part in (self.settings, self.photos, self.videos, self.people):
            part.refresh()
        self._show_consent()
        self.preview.refresh(self.videos.files)
        self.run.refresh(len(self.videos.files))

    def _show_consent(self) -> None:
        """Say whether the statement would do, in the words of whoever checks it."""
        request = self.form_state.request(overrides={})
        try:
            request, _ = expand_photo_folders(request)
            request = request.with_values(output_dir=results_folder(request, self._host))
            consent_for(request, [*request.photo_paths, *self.videos.files])
        except ColabHelpersError as error:
            self.consent_hint.value = paragraph(error_message(error), RED)
            return
        self.consent_hint.value = paragraph(
            tr("Noted in the report. Grounds are: {names}.", names=", ".join(grounds())), GREEN
        )
