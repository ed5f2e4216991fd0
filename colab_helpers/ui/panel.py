"""The panel of ``batch_swap.ipynb``: what to do, chosen by looking; the next cell reads it."""

from __future__ import annotations

from colab_helpers.demo import Demo, copy_demo
from colab_helpers.errors import ColabHelpersError, UsageError
from colab_helpers.language import mark, speak, tr
from colab_helpers.media.probe import is_image
from colab_helpers.request import BatchRequest
from colab_helpers.trust.consent import grounds, require_consent
from colab_helpers.ui.host import Host, show_widget, this_host, widget_library
from colab_helpers.ui.ledger import Entry, Ledger
from colab_helpers.ui.notebook import DEMO_FOLDER, reach, results_folder
from colab_helpers.ui.panel_choice import Choice
from colab_helpers.ui.panel_desk import LABELS, Desk, Part
from colab_helpers.ui.panel_parts import GREEN, RED, paragraph, words
from colab_helpers.ui.panel_preview import PreviewTab
from colab_helpers.ui.panel_results import ResultsTab
from colab_helpers.ui.panel_run import RunTab
from colab_helpers.ui.panel_settings import SettingsTab
from colab_helpers.ui.panel_sources import UPLOADS, SourcesTab
from colab_helpers.ui.panel_targets import TargetsTab

_TITLES = (
    mark("Sources"),
    mark("Targets"),
    mark("Settings"),
    mark("Preview"),
    mark("Run"),
    mark("Results"),
)
_PREVIEW, _RUN, _RESULTS = (_TITLES.index(name) for name in ("Preview", "Run", "Results"))
_shown: list[Choice] = []
_ledger = Ledger()


def show_panel(request: BatchRequest) -> Choice:
    """Show the panel, filled with the answers of the notebook's form.

    Headless, outside notebooks and without ipywidgets nothing is shown, and the answers stand as they are.
    With ``upload`` files of the browser's computer are asked for first: photos are sources, videos are
    targets, beside those named. Without sources and targets the rendered demo is made and shown. Everything
    is said in the request's language from here on.

    Returns:
        What is chosen, read when the run begins.

    Raises:
        UsageError: No file of the browser's computer can be had, or none was chosen.
    """
    speak(request.language)
    if request.upload:
        photos, videos = _uploaded(this_host(headless=request.headless))
        request = request.replaced(sources=[*request.sources, *photos], targets=[*request.targets, *videos])
    widgets = None if request.headless else widget_library()
    if widgets is None:
        return Choice(request)
    _ledger.listeners.clear()
    panel = Panel(Desk(widgets, this_host(), ledger=_ledger), request)
    while _shown:
        # ipywidgets keeps every widget alive, and an earlier panel would keep its networks.
        _shown.pop().close()
    _shown.append(panel.choice)
    show_widget(panel.box)
    panel.fill()
    return panel.choice


def _uploaded(host: Host) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Photos and videos of the user's computer.

    Raises:
        UsageError: There is no way to ask for them, or none was chosen.
    """
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
    """Consent, and below it the tabs.

    Args:
        desk: Shared by all tabs.
        first: What stands there first.

    Attributes:
        box: The whole of it, to be shown.
        choice: What is chosen, whenever it is asked.
    """

    def __init__(self, desk: Desk, first: BatchRequest) -> None:
        self._desk, self._first = desk, first
        self._demo: Demo | None = None
        self.choice = Choice(first, read=self.request, release=self._release, ledger=desk.ledger)
        desk.read = self.request
        self.settings = SettingsTab(desk, first)
        self.sources = SourcesTab(desk, first.sources)
        self.targets = TargetsTab(desk, first)
        self.preview = PreviewTab(desk)
        self.run = RunTab(desk, count=lambda: len(self.targets.tasks))
        self.results = ResultsTab(desk)
        self._make()
        desk.listeners.append(self._changed)
        desk.ledger.listeners.append(self._run_changed)

    def _make(self) -> None:
        desk, w = self._desk, self._desk.widgets
        self.consent = w.Textarea(
            self._first.consent,
            description=tr("Consent"),
            placeholder=tr("Who is shown, and on what ground"),
            continuous_update=False,
            style=LABELS,
            layout={"width": "80%", "height": "52px"},
        )
        self.consent.observe(lambda _: desk.tell("consent"), "value")
        self.consent_hint, self.status = desk.html(), desk.html()
        each = (self.sources, self.targets, self.settings, self.preview, self.run, self.results)
        parts = [tab.box for tab in each]
        self.tabs = w.Tab(children=parts)
        for number, title in enumerate(_TITLES):
            self.tabs.set_title(number, tr(title))
        self.tabs.selected_index = 0
        self.tabs.observe(lambda change: self.preview.opened(change["new"] == _PREVIEW), "selected_index")
        self.box = desk.column(self.consent, self.consent_hint, self.status, self.tabs)

    def request(self) -> BatchRequest:
        """What is chosen now; where nothing is named, the demo that is shown."""
        sources, targets = tuple(self.sources.paths), self.targets.listed
        chosen = self._first.replaced(
            sources=sources,
            targets=targets,
            output_dir=self.targets.output.value,
            preset=self.settings.preset_text,
            overrides=self.settings.overrides,
            video_range=self.targets.range.value.strip(),
            consent=self.consent.value,
            models_dir=self.settings.models.value,
            session_minutes=self.targets.minutes.value,
            shortest_first=self.targets.shortest.value,
        )
        demo = self._demo
        if demo is None or sources or targets:
            return chosen
        models = chosen.models_dir or demo.models
        return chosen.replaced(sources=[demo.source], targets=demo.targets, models_dir=models)

    def fill(self) -> None:
        """Show everything; makes the demo where it is needed."""
        if not self.sources.paths and not self.targets.listed:
            self._make_demo()
        self._reach()
        self._refresh_all()
        self.run.take_over()

    def _make_demo(self) -> None:
        self.status.value = paragraph(tr("No sources and targets: making the rendered demo ..."))
        try:
            self._demo = copy_demo(self._desk.host.runs / DEMO_FOLDER)
            self.status.value = paragraph(
                tr(
                    "No sources and targets are named: the demo with rendered people and its own small "
                    "networks is used. Add photos and targets of your own to leave it."
                )
            )
        except (ColabHelpersError, OSError) as error:
            self.status.value = paragraph(words(error), RED)

    def _reach(self) -> None:
        """Open what the answers name and what has to be opened first, such as Google Drive."""
        request, host = self.request(), self._desk.host
        try:
            reach(host, results_folder(request, host), *request.places)
        except ColabHelpersError as error:
            self.status.value = paragraph(words(error), RED)

    def _changed(self, part: Part) -> None:
        """Bring the tabs in step with what was chosen in one of them."""
        if part == "consent":
            self._show_consent()
            self.run.refresh()
            return
        if part in ("sources", "targets") and self._demo is not None:
            self._tell_demo()
        self._refresh_all()

    def _tell_demo(self) -> None:
        if self.sources.paths or self.targets.listed:
            self.status.value = ""

    def _refresh_all(self) -> None:
        self.sources.refresh()
        self.targets.refresh()
        self._show_consent()
        self.preview.set_targets(self.targets.tasks, first=self.targets.first_good)
        self.preview.mark_stale()
        self.run.refresh()

    def _run_changed(self, entry: Entry) -> None:
        """A batch has begun or ended."""
        self.run.changed(entry)
        if entry.is_working or entry.result is None:
            return
        self.results.show(entry.result)
        if self.tabs.selected_index == _RUN and entry.result.report.ok:
            self.tabs.selected_index = _RESULTS

    def _show_consent(self) -> None:
        """Say whether the statement would do, in the words of whoever checks it."""
        request = self.request()
        try:
            require_consent(request.consent, [*request.source_paths, *self.targets.tasks])
        except ColabHelpersError as error:
            self.consent_hint.value = paragraph(words(error), RED)
            return
        self.consent_hint.value = paragraph(
            tr("Noted in the report. Grounds are: {names}.", names=", ".join(grounds())), GREEN
        )

    def _release(self) -> None:
        self._desk.studio.close()
