"""Functions called by the cells of ``monitor.ipynb``: monitor a batch by its output folder, or this machine.

The batch may run on another machine that shares the folder through Google Drive: then files arrive late, and
their times are by the other machine's clock.
"""

from __future__ import annotations

import math
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from colab_helpers.batch.report import write_text
from colab_helpers.batch.run_watcher import StallTimer
from colab_helpers.batch.status import BatchStatus, read_status
from colab_helpers.batch.stop import HEARTBEAT_TIMEOUT, STATUS_NAME
from colab_helpers.diagnosis import Diagnosis
from colab_helpers.errors import MissingFileError
from colab_helpers.files import load_or_none, to_json
from colab_helpers.language import mark, set_language, tr
from colab_helpers.machine import GIB, this_machine
from colab_helpers.pages.live import RESUME_REMEDY, RETRY_REMEDY, live_html, live_text
from colab_helpers.pages.units import clock_text, number
from colab_helpers.request import MonitorRequest
from colab_helpers.resources.recorder import INTERVAL, Recorder
from colab_helpers.resources.samples import SAMPLES_NAME, Sample, recent_samples
from colab_helpers.ui.form import DOCTOR_REPORT, MONITOR_REPORT
from colab_helpers.ui.host import Host, has_frontend, open_html_area, this_host
from colab_helpers.ui.markup import paragraph
from colab_helpers.ui.progress import TEXT_INTERVAL
from colab_helpers.ui.setup import prepare_folder

HEADLESS_SECONDS = 10.0
"""Default time to monitor this machine when headless."""
UNATTENDED_SECONDS = 60.0
"""The same if not declared headless, but no frontend runs the cells (plain papermill)."""
REMOTE_TIMEOUT = 180.0
"""Seconds without an update until a run on another machine counts as dead: Drive may be minutes late."""
FASTEST = 1.0
"""Minimum seconds between two updates."""
PAGE_SECONDS = 3.0
"""Time the cell takes where all cells run before the page appears (Voila); it then updates by itself."""
STALE_GRACE_SECONDS = 5.0
"""Seconds to wait for a newer status before a remote run is declared dead by a stale one."""

State = Literal["running", "done", "failed", "cancelled", "lost", "no run"]
EndReason = Literal["end of run", "time", "interrupt"]
_STATES: dict[State, str] = {
    "running": mark("it is still running"),
    "done": mark("it is done"),
    "failed": mark("it ended, but not all files succeeded"),
    "cancelled": mark("it was cancelled"),
    "lost": mark("it ended unexpectedly"),
}


class MonitorSummary(BaseModel, extra="forbid", populate_by_name=True):
    """Summary of a monitoring session; written as ``monitor.json``."""

    schema_version: Literal[1] = Field(1, alias="schema")
    state: State = Field(description="Last known state of the run; lost: it ended unexpectedly.")
    ended_by: EndReason = Field(description="Why monitoring ended.")
    folder: str = Field("", description="Output folder of the run; empty if only a machine was monitored.")
    host: str = Field(description="The monitored machine.")
    seconds: float = Field(description="How long was monitored.")
    samples: int = Field(description="Samples read of the run, or taken of this machine.")
    failures: dict[str, str] = Field({}, description="Files that failed, and why.")
    advice: str = Field("", description="What to do next, if anything.")

    def lines(self) -> list[str]:
        """Format the summary as text."""
        text = mark("Monitored this machine for {time} (min:s), {samples} samples")
        if self.folder:
            text = mark("Monitored the run in {folder} for {time} (min:s), {samples} samples")
        line = tr(text, folder=self.folder, time=clock_text(self.seconds), samples=self.samples)
        line += f": {tr(_STATES[self.state])}" if self.state in _STATES else ""
        return [line, *([tr("What to do: {remedy}.", remedy=self.advice.rstrip("."))] if self.advice else [])]


@dataclass(frozen=True)
class MonitorResult:
    """The summary, the path of ``monitor.json`` if written, and whether the charts are still updated."""

    summary: MonitorSummary
    report: Path | None
    host: Host
    is_live: bool = False


def watch(request: MonitorRequest) -> MonitorResult:
    """Show the live status of a batch and its machine until it ends; interrupt to end sooner.

    ``monitor.json`` is written into ``output_dir`` if given, or when headless into a new folder under the
    host's ``runs``. When headless, lines of text are printed, at most every five seconds.

    Raises:
        MissingFileError: No batch was started in the folder.
        ColabHelpersError: A folder is not reachable, readable or writable.
    """
    set_language(request.language)
    headless, pause = request.headless, max(FASTEST, request.refresh)
    host = this_host(headless=headless)
    host.ensure_reachable(*request.paths)
    started = time.monotonic()
    with ExitStack() as stack:
        feed, show = stack.enter_context(_open_feed(request.folder, pause)), _display(headless=headless)
        folder = prepare_folder(host, request, MONITOR_REPORT) if headless or request.output_dir else None
        limit = request.seconds or (math.inf if request.folder else _default_limit(host))
        # Voila shows the page only when all cells have ended: it is updated between cells from then on.
        cell_limit = limit if host.has_cells or headless else min(limit, PAGE_SECONDS)
        ended_by = _monitor(feed, show, started + cell_limit, pause)
        is_live = ended_by == "time" and cell_limit < limit
        if is_live:
            _monitor_between_cells(host, feed, show, started + limit, pause, stack.pop_all())
    summary = _summary(feed, ended_by, time.monotonic() - started)
    report = folder and folder / MONITOR_REPORT
    if report:
        write_text(report, to_json(summary, indent=2) + "\n")
    return MonitorResult(summary, report, host, is_live)


def _default_limit(host: Host) -> float:
    """Return how long to monitor a machine, which never ends by itself."""
    if host.headless:
        return HEADLESS_SECONDS
    # Voila also runs cells without a frontend, but its page keeps updating afterwards.
    return UNATTENDED_SECONDS if host.has_cells and not has_frontend() else math.inf


def show_result(result: MonitorResult) -> None:
    """Show the summary; while the charts are still updated, only say so."""
    lines = [tr("The charts above keep updating.")] if result.is_live else result.summary.lines()
    result.host.show("".join(map(paragraph, lines)), "\n".join(lines))


# --- the data -----------------------------------------------------------------------------------------


class _MonitorFeed:
    """Reads status and samples of a run from its output folder, or samples of this machine.

    Attributes:
        status: Status of the run, if there is one.
        facts: Sentences on the machine.
        remedy: Remedy of the first failed check of the doctor's report, if any.
        now: Seconds since 1970, by the clock of the machine that writes.
        lost: The run died.
    """

    def __init__(self, samples: Path, folder: Path | None = None) -> None:
        self.folder, self.now, self.lost = folder, time.time(), False
        self.status = _first_status(folder) if folder else None
        self.facts, self.remedy = _doctor_facts(folder) if folder else (_machine_facts(), "")
        self.host = self.status.host if self.status else socket.gethostname()
        self.samples, self.count, self._path = list[Sample](), 0, samples
        self._stall, self._started = StallTimer(), time.monotonic()
        self._initial_age = max(0.0, self.now - self.status.updated) if self.status else 0.0

    @property
    def is_over(self) -> bool:
        """Whether the run has ended or died."""
        return self.lost or (self.status is not None and self.status.state != "running")

    def update(self) -> None:
        """Read the latest status and samples, and check whether the run is alive."""
        now, since = time.time(), 0.0
        if self.folder and self.status:
            # Drive may be unavailable for a while, or show half a file: keep the last status.
            self.status = load_or_none(BatchStatus, self.folder / STATUS_NAME) or self.status
            age, since = self._age(self.status), self.status.started
            now = self.status.updated + age
            self.lost = self.status.state == "running" and self._is_dead(self.status, age)
        before = self.samples[-1].time if self.samples else -math.inf
        self.now, self.samples = now, recent_samples(self._path, since)
        self.count += sum(sample.time > before for sample in self.samples)

    def _age(self, status: BatchStatus) -> float:
        """Return the age of a status in seconds, by this machine's clock except for that of the first one."""
        update, before = (status.updated, status.pid), self._stall.value
        if before not in (None, update):
            self._initial_age = 0.0
        return self._initial_age + self._stall.seconds(update)

    def _is_dead(self, status: BatchStatus, age: float) -> bool:
        if self.host == socket.gethostname():
            # The supervisor restarts a dead worker within seconds.
            return not status.alive() and age >= HEARTBEAT_TIMEOUT
        return age >= REMOTE_TIMEOUT and time.monotonic() - self._started >= STALE_GRACE_SECONDS


def _first_status(folder: Path) -> BatchStatus:
    try:
        return read_status(folder)
    except MissingFileError as error:
        exists = folder.is_dir()
        what = tr("no batch was started in this folder") if exists else tr("there is no such folder")
        remedy = mark(
            "enter the output_dir of batch_swap.ipynb and start that first; on Colab, where each "
            "notebook has its own machine, both need the same folder on Google Drive"
        )
        raise MissingFileError(what, where=str(folder), remedy=tr(remedy)) from error


def _machine_facts() -> list[str]:
    gpu = this_machine().gpu
    if gpu is None:
        return []
    memory = number(gpu.memory_total / GIB)
    return [tr("{name}, {memory} GiB, driver {driver}", name=gpu.name, memory=memory, driver=gpu.driver)]


def _doctor_facts(folder: Path) -> tuple[list[str], str]:
    """Return the hardware and model checks of the doctor's report in the folder, and the first remedy."""
    diagnosis = load_or_none(Diagnosis, folder / DOCTOR_REPORT)
    if diagnosis is None:
        return [], ""
    checks = [check for check in diagnosis.checks if check.name.split()[0] in ("gpu", "cuda", "model")]
    remedy = next((check.remedy for check in diagnosis.failures()), "")
    return [f"{check.name}: {check.detail} ({DOCTOR_REPORT})" for check in checks], remedy


Show = Callable[[_MonitorFeed, bool], None]
"""Shows the feed; the flag tells whether it is the last time."""


@contextmanager
def _open_feed(folder: Path | None, pause: float) -> Iterator[_MonitorFeed]:
    if folder is not None:
        yield _MonitorFeed(folder / SAMPLES_NAME, folder)
        return
    with tempfile.TemporaryDirectory(prefix="monitor-") as name:
        path = Path(name) / SAMPLES_NAME
        with Recorder(path, Path.cwd(), interval=max(INTERVAL, pause)):
            yield _MonitorFeed(path)


# --- the loop -----------------------------------------------------------------------------------------


def _display(*, headless: bool) -> Show:
    """Return a function that shows a feed: as HTML in a notebook, else as lines of text."""
    paint, last_print = None if headless else open_html_area(), -math.inf

    def show(feed: _MonitorFeed, last: bool) -> None:
        nonlocal last_print
        samples, status = feed.samples, feed.status
        values: dict[str, Any] = {"now": feed.now, "lost": feed.lost, "facts": feed.facts}
        if paint is not None:
            paint(live_html(samples, status, **values))
        elif last or time.monotonic() - last_print >= TEXT_INTERVAL:
            last_print = time.monotonic()
            print("\n".join(live_text(samples, status, files=last, **values)), flush=True)

    return show


def _step(feed: _MonitorFeed, show: Show, deadline: float) -> bool:
    """Update and show the feed; return whether to continue."""
    feed.update()
    goes_on = not feed.is_over and time.monotonic() < deadline
    show(feed, not goes_on)
    return goes_on


def _monitor(feed: _MonitorFeed, show: Show, deadline: float, pause: float) -> EndReason:
    """Update and show the feed until the run ends, the deadline, or an interrupt."""
    try:
        while _step(feed, show, deadline):
            time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
    except KeyboardInterrupt:
        # The regular way to end monitoring; the batch goes on.
        show(feed, True)
        return "interrupt"
    return "end of run" if feed.is_over else "time"


def _monitor_between_cells(
    host: Host, feed: _MonitorFeed, show: Show, deadline: float, pause: float, resources: ExitStack
) -> None:
    def step() -> bool:
        goes_on = _step(feed, show, deadline)
        if not goes_on:
            resources.close()
        return goes_on

    host.call_repeatedly(step, pause)


def _summary(feed: _MonitorFeed, ended_by: EndReason, seconds: float) -> MonitorSummary:
    status = feed.status
    state: State = "no run" if status is None else "lost" if feed.lost else status.state
    files = status.files if status else []
    advice = {"lost": tr(RESUME_REMEDY), "failed": tr(RETRY_REMEDY)}.get(state, "")
    return MonitorSummary(
        state=state,
        ended_by=ended_by,
        folder=str(feed.folder or ""),
        host=feed.host,
        seconds=round(seconds, 3),
        samples=feed.count,
        failures={Path(file.target).name: file.error for file in files if file.error},
        advice=advice if state == "done" or not feed.remedy else feed.remedy,
    )
