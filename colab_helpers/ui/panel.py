"""The panel of ``batch_swap.ipynb``, an interactive form whose values the next cell reads."""

from __future__ import annotations

from typing import Any

from colab_helpers.batch.job import consent_for
from colab_helpers.batch.library import expand_photo_folders
from colab_helpers.demo import DEMO_FOLDER, copy_demo
from colab_helpers.errors import ColabHelpersError, UsageError
from colab_helpers.language import mark, set_language, tr
from colab_helpers.media.inputs import is_image
from colab_helpers.pages.svg import BAD, GOOD
from colab_helpers.request import BatchRequest
from colab_helpers.trust.records import grounds
from colab_helpers.ui.form_state import FormState, results_folder
from colab_helpers.ui.host import Host, show_widget, this_host, widget_library
from colab_helpers.ui.markup import error_message, paragraph
from colab_helpers.ui.people import PeopleTab
from colab_helpers.ui.photos import UPLOADS, PhotosTab
from colab_helpers.ui.preview import PreviewTab
from colab_helpers.ui.run import RunTab
from colab_helpers.ui.settings import SettingsBox
from colab_helpers.ui.videos import VideosTab
from colab_helpers.ui.widgets import Widgets

_TITLES = (mark("Photos"), mark("Videos"), mark("People"), mark("Preview"), mark("Run"))


def show_panel(request: BatchRequest, earlier: object = None) -> FormState:
    """Show the panel with the values of the notebook's form, and return its state.

    When headless, outside notebooks and without ipywidgets nothing is shown and the values stay as they are.
    With ``request.upload`` the user is asked for files first: images are added to the sources, all others to
    the targets. From here on, messages are in the request's language. The runs of an ``earlier`` state are
    taken over, and its networks are released.

    Raise UsageError if uploads are not possible here, or no file was chosen.
    """
    set_language(request.language)
    host = this_host(headless=request.headless)
    if request.upload:
        photos, videos = _upload(host)
        values = {"sources": [*request.sources, *photos], "targets": [*request.targets, *videos]}
        request = request.with_values(**values)
    # ipywidgets keeps every widget alive: an earlier panel would hold on to its networks.
    form_state = FormState(request, earlier if isinstance(earlier, FormState) else None)
    library = None if request.headless else widget_library()
    if library is not None:
        panel = Panel(library, host, form_state)
        show_widget(panel.box)
        panel.fill()
    return form_state


def _upload(host: Host) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Let the user upload files; return the paths of images, and of all others."""
    paths = host.upload(host.runs / UPLOADS)
    if not paths:
        remedy = tr("run the cell again and choose photos and videos, or untick upload")
        raise UsageError(tr("no file was chosen"), where="upload", remedy=remedy)
    photos = tuple(str(path) for path in paths if is_image(path))
    return photos, tuple(str(path) for path in paths if not is_image(path))


class Panel:
    """The widgets: consent and settings, with the tabs below; ``library`` is ipywidgets 7 or 8."""

    def __init__(self, library: Any, host: Host, form_state: FormState) -> None:
        self._host, self.form_state = host, form_state
        form_state.has_panel = True
        widgets = Widgets(library, form_state)
        style: dict[str, Any] = {"placeholder": tr("Who is shown, and on what grounds")}
        style["layout"] = {"height": "52px"}
        self.consent = widgets.input("Textarea", "consent", label=tr("Consent"), **style)
        label = tr("Instead of the label")
        hint = tr("empty: a visible label; else how you disclose it, such as: in the credits")
        self.instead_of_label = widgets.input("Text", "instead_of_label", label=label, placeholder=hint)
        hint = tr("default folder")
        self.models = widgets.input("Text", "models_dir", label=tr("Models folder"), placeholder=hint)
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
        self.tabs.observe(lambda change: self._on_tab(_TITLES[change["new"]]), "selected_index")
        consent = (self.consent, self.consent_hint, self.instead_of_label)
        self.box = widgets.column(*consent, self.settings.box, self.models, self.status, self.tabs)

    def fill(self) -> None:
        """Fill all tabs; copy the demo if there are neither sources nor targets."""
        form_state = self.form_state
        if not form_state.sources and not form_state.listed_targets:
            self._use_demo()
        self._ensure_reachable()
        self._refresh()
        form_state.observe(self._on_change)
        self.run.take_over()

    def _on_tab(self, title: str) -> None:
        self.preview.set_open(title == "Preview")
        if title == "People":  # another process may have found people
            self.people.refresh()
        if title == "Videos":  # people may have been renamed
            self.videos.refresh()

    def _find(self) -> None:
        """Start a run that only finds people; show in that tab why if it does not start."""
        self.run.start(people="only")
        if not self.form_state.runs.running_from:
            self.people.message.value = self.run.message.value

    def _use_demo(self) -> None:
        try:
            self.form_state.demo = copy_demo(self._host.runs / DEMO_FOLDER)
            text = mark(
                "No sources and targets are chosen: the demo with rendered people and its own small "
                "networks is used. Add your own photos and targets to leave it."
            )
            self.status.value = paragraph(tr(text))
        except (ColabHelpersError, OSError) as error:
            self.status.value = paragraph(error_message(error), BAD)

    def _ensure_reachable(self) -> None:
        """Mount Google Drive or the like if a path of the form needs it."""
        request = self.form_state.request(overrides={})
        try:
            self._host.ensure_reachable(results_folder(request, self._host), *request.paths)
        except ColabHelpersError as error:
            self.status.value = paragraph(error_message(error), BAD)

    def _on_change(self, change: Any) -> None:
        """Update the panel after a change of its values."""
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
        """Show whether the statement of consent is sufficient, else the error of the check."""
        request = self.form_state.request(overrides={})
        try:
            request, _ = expand_photo_folders(request)
            request = request.with_values(output_dir=results_folder(request, self._host))
            consent_for(request, [*request.photo_paths, *self.videos.files])
        except ColabHelpersError as error:
            self.consent_hint.value = paragraph(error_message(error), BAD)
            return
        text = tr("Recorded in the report. Grounds are: {names}.", names=", ".join(grounds()))
        self.consent_hint.value = paragraph(text, GOOD)
