"""State shared by the notebook's cells: the values of form and panel, and the batches started with them."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from traitlets import Bool, Enum, Float, HasTraits, Instance, Int, Tuple, Unicode

from colab_helpers.batch.job import consent_for
from colab_helpers.batch.report import BatchReport
from colab_helpers.batch.status import BatchStatus
from colab_helpers.demo import DEMO_FOLDER, Demo, copy_demo
from colab_helpers.errors import ColabHelpersError, UsageError
from colab_helpers.language import tr
from colab_helpers.pages.live import live_html
from colab_helpers.pages.report import results_html
from colab_helpers.request import BatchRequest
from colab_helpers.resources.samples import SAMPLES_NAME, recent_samples
from colab_helpers.settings import Settings
from colab_helpers.ui.host import Host
from colab_helpers.ui.preview_networks import PreviewNetworks

if TYPE_CHECKING:
    from colab_helpers.batch.supervisor import StatusCallback
    from colab_helpers.progress import ProgressCallback

REFRESH = 1.0
"""Minimum seconds between two redraws of a run in progress."""


class Run:
    """A batch, from its prepared request to its report or error.

    ``status`` is the latest one seen; ``in_cell`` tells whether a cell waits for the batch.
    """

    def __init__(self, request: BatchRequest, host: Host) -> None:
        self.request, self.host = request, host
        self.status: BatchStatus | None = None
        self.report: BatchReport | None = None
        self.error: BaseException | None = None
        self.in_cell = False
        self._thread: threading.Thread | None = None

    @property
    def folder(self) -> Path:
        """The output folder."""
        return results_folder(self.request, self.host)

    @property
    def is_watched(self) -> bool:
        """Whether a thread watches the worker process."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def running_from(self) -> str:
        """What waits for the run: ``cell``, ``button`` or, if nothing does, the empty string."""
        return "cell" if self.in_cell else "button" if self.is_watched else ""

    def execute(
        self, *, on_progress: ProgressCallback | None = None, on_status: StatusCallback | None = None
    ) -> BatchReport:
        """Run the batch, or join it if it is running already; return its report, also if stopped."""
        from colab_helpers.api import run_batch_request
        from colab_helpers.batch.supervisor import BatchStopped

        try:
            self.report = run_batch_request(self.request, on_progress=on_progress, on_status=on_status)
        except BatchStopped as stopped:
            if stopped.report is None:
                raise
            self.report = stopped.report
        return self.report

    def start(self) -> None:
        """Run the batch in the background, watched by a thread."""
        # A daemon thread: the worker process survives the kernel, which need not wait for it.
        target, arguments = copy_context().run, (self._watch,)
        self._thread = threading.Thread(target=target, args=arguments, name="batch", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        try:
            self.execute(on_status=partial(setattr, self, "status"))
        # Shown by the panel; KeyboardInterrupt means that the batch was stopped before it began.
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001
            self.error = error

    def html(self, report: BatchReport) -> str:
        """Render the results for the notebook, without video players if headless."""
        retention_note, players = self.host.retention_note(self.folder), not self.host.headless
        return results_html(report, self.folder, retention_note=retention_note, with_players=players)


class RunController(HasTraits):
    """Holds the latest batch of a notebook, whether a cell or the button has started it.

    ``running_from`` is that of the run as of the last ``update``; observers are called in the main thread.
    """

    latest = Instance(Run, allow_none=True)
    running_from = Enum(("", "cell", "button"), default_value="")

    def begin(self, request: BatchRequest, host: Host) -> Run:
        """Return the latest run if it is for this request, else a new one.

        Raise UsageError if another run is in progress.
        """
        last = self.latest
        if last is not None and last.request == request:
            return last
        if last is not None and last.running_from:
            remedy = tr('wait for it, or press Stop in the tab "Run"; then start this one again')
            what = tr("another batch of this notebook is still running")
            raise UsageError(what, where=str(last.folder), remedy=remedy)
        self.latest = Run(request, host)
        return self.latest

    def start(self, request: BatchRequest, host: Host) -> None:
        """Run a batch in the background unless it is running; raise UsageError if another one is."""
        run = self.begin(request, host)
        if not run.running_from:
            run.report = run.error = None
            run.start()
        self.running_from = "button"  # even if it has ended by now: the next update tells

    def update(self) -> None:
        """Bring ``running_from`` up to date."""
        self.running_from = self.latest.running_from if self.latest else ""


class RunView:
    """Status callback that draws a run in progress like the monitor, at most once per ``REFRESH`` seconds."""

    def __init__(self, folder: Path, paint: Callable[[str], None]) -> None:
        self._paint, self._last_paint = paint, -math.inf
        self._samples = folder / SAMPLES_NAME

    def __call__(self, status: BatchStatus) -> None:
        """Draw a status unless the last one is too recent; the final one is always drawn."""
        now = monotonic()
        if now - self._last_paint < REFRESH and status.state == "running":
            return
        self._last_paint = now
        samples = recent_samples(self._samples, status.started)
        self._paint(live_html(samples, status, now=status.updated))


def prepare_request(request: BatchRequest, host: Host) -> BatchRequest:
    """Return the request with its output folder set, checked and reachable, or that of the demo if empty.

    Raises:
        ConsentError: There is no usable statement of consent.
        ColabHelpersError: A value is not allowed, or a path not reachable.
    """
    folder = results_folder(request, host)
    request = request.with_values(output_dir=folder)
    consent_for(request, [])
    request.check()
    host.ensure_reachable(folder, *request.paths)
    if request.sources or request.targets:
        return request
    demo_folder = folder / DEMO_FOLDER
    print(tr("no sources and targets: using the rendered demo in {folder}", folder=demo_folder), flush=True)
    return _with_demo(copy_demo(demo_folder), request)


def _with_demo(demo: Demo, request: BatchRequest) -> BatchRequest:
    models = request.models_dir or demo.models
    return request.with_values(sources=[demo.source], targets=demo.targets, models_dir=models)


def results_folder(request: BatchRequest, host: Host) -> Path:
    """Return the output folder; by default it depends on sources and targets only.

    With other settings the same folder is used again: resume recognizes results made with different ones.
    """
    return request.output_dir or host.runs / request.run_name


class FormState(HasTraits):
    """Values of the panel, each linked to its widget; initially those of the form.

    The networks of an ``earlier`` state, of the same cell, are released; its runs are taken over.

    ``targets`` has one path per line, ``map_paths`` one pair, ``overrides`` one ``name: value``.
    ``has_panel`` tells whether there is a panel, with a button that starts the run; ``demo`` is used if there
    are neither sources nor targets.
    """

    library = Unicode()
    people = Unicode("auto")
    sources = Tuple()
    targets = Unicode()
    output_dir = Unicode()
    preset = Unicode()
    overrides = Unicode()
    video_range = Unicode()
    consent = Unicode()
    instead_of_label = Unicode()
    models_dir = Unicode()
    session_minutes = Float()
    shortest_first = Bool()
    gpus = Unicode("all")
    cluster = Unicode()
    gpus_per_worker = Float(1.0)
    priority = Int()
    map_paths = Unicode()

    def __init__(self, first: BatchRequest, earlier: FormState | None = None) -> None:
        values = {name: _widget_value(getattr(first, name)) for name in self.trait_names()}
        lines = {name: "\n".join(getattr(first, name)) for name in ("targets", "map_paths")}
        super().__init__(**{**values, **lines})
        self._first = first
        self.has_panel = self.is_closed = False
        self.demo: Demo | None = None
        self.networks = PreviewNetworks()
        self.runs: RunController = earlier.runs if earlier else RunController()
        if earlier:
            earlier.close()

    def close(self) -> None:
        """Release the networks and stop notifying observers."""
        self.is_closed = True
        self.networks.close()
        self.unobserve_all()
        self.runs.unobserve_all()

    @property
    def listed_targets(self) -> tuple[str, ...]:
        """The non-empty lines of ``targets``."""
        return tuple(line.strip() for line in self.targets.splitlines() if line.strip())

    def request(self, **changes: Any) -> BatchRequest:
        """Return the request for the current values (the demo's if empty); ``changes`` override them."""
        if not self.has_panel:
            return self._first
        values: dict[str, Any] = {name: getattr(self, name) for name in self.trait_names()}
        texts = ("video_range", "library", "gpus", "cluster")
        values |= {name: values[name].strip() for name in texts}
        values |= {"targets": self.listed_targets, **changes}
        request = self._first.with_values(**values)
        if self.demo is None or request.sources or request.targets:
            return request
        return _with_demo(self.demo, request)

    def detection_inputs(self) -> tuple[Settings, Path | None]:
        """Return settings and models folder for face detection; default settings while theirs are invalid."""
        models = self.request(overrides={}).models_dir
        try:
            return self.request().settings, models
        except ColabHelpersError:
            return Settings(), models


def _widget_value(value: Any) -> Any:
    """Convert a value of the form to that of its widget."""
    if isinstance(value, dict):  # the widget takes YAML, which includes JSON
        return "\n".join(f"{name}: {json.dumps(each, default=str)}" for name, each in value.items())
    if isinstance(value, Path):
        return str(value)
    return "" if value is None else value
