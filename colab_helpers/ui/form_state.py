"""What one cell of the notebook leaves to the next: what is chosen, and the batches begun with it."""

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
"""Seconds between two pictures of a run that is at work."""


class Run:
    """A batch, from its prepared request to its report, or the error instead of one.

    ``status`` is how it stood at the last look; ``in_cell`` tells whether a cell waits for it.
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
        """Where its results go."""
        return results_folder(self.request, self.host)

    @property
    def is_watched(self) -> bool:
        """Whether a thread watches it, while its worker process does the work."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def running_from(self) -> str:
        """Who waits for it: ``cell``, ``button`` or nobody."""
        return "cell" if self.in_cell else "button" if self.is_watched else ""

    def work(
        self, *, on_progress: ProgressCallback | None = None, on_status: StatusCallback | None = None
    ) -> BatchReport:
        """Have it done, or watch it where it is at work already."""
        from colab_helpers.api import run_batch_request
        from colab_helpers.batch.supervisor import BatchStopped

        try:
            self.report = run_batch_request(self.request, on_progress=on_progress, on_status=on_status)
        except BatchStopped as stopped:
            if stopped.report is None:
                raise
            self.report = stopped.report
        return self.report

    def watch(self) -> None:
        """Have it done while a thread watches it."""
        # The worker belongs to nobody: a kernel that ends need not wait for it.
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._watch,), name="batch", daemon=True
        )
        self._thread.start()

    def _watch(self) -> None:
        try:
            self.work(on_status=partial(setattr, self, "status"))
        # A batch that was stopped before it began, too: whatever it is, it is shown where it was begun.
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001
            self.error = error

    def html(self, report: BatchReport) -> str:
        """Return what became of it, for a page; players would only make large what nobody looks at."""
        retention_note, players = self.host.retention_note(self.folder), not self.host.headless
        return results_html(report, self.folder, retention_note=retention_note, with_players=players)


class RunController(HasTraits):
    """The latest batch of a notebook, whether a cell or a button has begun it.

    Attributes:
        latest: None if there is none.
        running_from: Who waits for it now: ``cell``, ``button`` or nobody; to be observed in the main thread.
    """

    latest = Instance(Run, allow_none=True)
    running_from = Enum(("", "cell", "button"), default_value="")

    def begin(self, request: BatchRequest, host: Host) -> Run:
        """Return the run of a batch that begins; one that is at work already is joined."""
        last = self.latest
        if last is not None and last.request == request:
            return last
        if last is not None and last.running_from:
            raise UsageError(
                tr("another batch of this notebook is still at work"),
                where=str(last.folder),
                remedy=tr('wait for it, or press Stop in the tab "Run"; then start this one again'),
            )
        self.latest = Run(request, host)
        return self.latest

    def start(self, request: BatchRequest, host: Host) -> None:
        """Have a batch done while a thread watches it."""
        run = self.begin(request, host)
        if not run.running_from:
            run.report = run.error = None
            run.watch()
        self.running_from = "button"  # also where it has ended by now: the next look tells

    def look(self) -> None:
        """See who waits for the latest batch now."""
        self.running_from = self.latest.running_from if self.latest else ""


class RunView:
    """Paints the statuses of a run that is at work, as the monitor does, at most one a second."""

    def __init__(self, folder: Path, paint: Callable[[str], None]) -> None:
        self._paint, self._painted = paint, -math.inf
        self._samples = folder / SAMPLES_NAME

    def __call__(self, status: BatchStatus) -> None:
        """Show how it stands."""
        now = monotonic()
        if now - self._painted < REFRESH and status.state == "running":
            return
        self._painted = now
        samples = recent_samples(self._samples, status.started)
        self._paint(live_html(samples, status, now=status.updated))


def prepare_request(request: BatchRequest, host: Host) -> BatchRequest:
    """Return the request with every folder known and within reach; the demo where nothing is named."""
    folder = results_folder(request, host)
    request = request.with_values(output_dir=folder)
    consent_for(request, [])
    request.check()
    host.ensure_reachable(folder, *request.places)
    if request.sources or request.targets:
        return request
    place = folder / DEMO_FOLDER
    print(tr("no sources and targets: the rendered demo is used, in {folder}", folder=place), flush=True)
    return _with_demo(copy_demo(place), request)


def _with_demo(demo: Demo, request: BatchRequest) -> BatchRequest:
    models = request.models_dir or demo.models
    return request.with_values(sources=[demo.source], targets=demo.targets, models_dir=models)


def results_folder(request: BatchRequest, host: Host) -> Path:
    """Return where the results go: the same folder for the same sources and targets, where none is named.

    Whatever else is asked for may change: what was made otherwise does not pass for what is wanted now.
    """
    return request.output_dir or host.runs / request.run_name


class FormState(HasTraits):
    """What is chosen: the form's answers, and the panel's as they stand now, each linked to its widget.

    Begins with the form's answers. The networks of an earlier choice, by the same cell, are released, and the
    batches it has begun go on here.

    Targets are a path a line, ``map_paths`` a pair, overrides ``name: value``. ``has_panel`` tells
    whether there is a panel, with a button that begins the run; the ``demo`` is used where no sources and
    no targets are chosen.
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
        shown = {name: _shown(getattr(first, name)) for name in self.trait_names()}
        lines = {name: "\n".join(getattr(first, name)) for name in ("targets", "map_paths")}
        super().__init__(**{**shown, **lines})
        self._first = first
        self.has_panel = self.is_closed = False
        self.demo: Demo | None = None
        self.networks = PreviewNetworks()
        self.runs: RunController = earlier.runs if earlier else RunController()
        if earlier:
            earlier.close()

    def close(self) -> None:
        """Leave everything to a later choice."""
        self.is_closed = True
        self.networks.close()
        self.unobserve_all()
        self.runs.unobserve_all()

    @property
    def listed_targets(self) -> tuple[str, ...]:
        """The lines of ``targets``."""
        return tuple(line.strip() for line in self.targets.splitlines() if line.strip())

    def request(self, **changes: Any) -> BatchRequest:
        """Return what is chosen now; where nothing is named, the demo."""
        if not self.has_panel:
            return self._first
        values: dict[str, Any] = {name: getattr(self, name) for name in self.trait_names()}
        texts = ("video_range", "library", "gpus", "cluster")
        values |= {name: values[name].strip() for name in texts}
        values |= {"targets": self.listed_targets, **changes}
        request = self._first.with_values(**values)
        return (
            request
            if self.demo is None or request.sources or request.targets
            else _with_demo(self.demo, request)
        )

    def finding(self) -> tuple[Settings, Path | None]:
        """Return settings and models to find faces with; the usual ones while those chosen cannot be used."""
        models = self.request(overrides={}).models_dir
        try:
            return self.request().settings, models
        except ColabHelpersError:
            return Settings(), models


def _shown(value: Any) -> Any:
    """Return a value of the form as its widget holds it."""
    if isinstance(value, dict):  # JSON is YAML, too
        return "\n".join(f"{name}: {json.dumps(each, default=str)}" for name, each in value.items())
    if isinstance(value, Path):
        return str(value)
    return "" if value is None else value
