"""What the cells of ``monitor.ipynb`` call: a batch watched by its folder, or this machine by itself.

The batch may be at work on another machine that shares the folder through Google Drive: what is read is
late then, and its times are those of the other machine's clock.
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
from colab_helpers.ui.host import Host, has_front_end, open_html_area, this_host
from colab_helpers.ui.markup import paragraph
from colab_helpers.ui.progress import TEXT_INTERVAL
from colab_helpers.ui.setup import prepare_folder

HEADLESS_SECONDS = 10.0
"""How long this machine is watched where nobody watches and nothing else is said."""
UNATTENDED_SECONDS = 60.0
"""The same where it is not said that nobody watches, but no front end runs the cells (plain papermill)."""
REMOTE_TIMEOUT = 180.0
"""Seconds without news after which a run on another machine counts as dead: Drive may be minutes late."""
FASTEST = 1.0
"""Least seconds between two looks."""
PAGE_SECONDS = 3.0
"""Where nobody runs cells: how long the first look takes."""
STALE_GRACE_SECONDS = 5.0
"""Seconds that a folder gets to show newer news before a run elsewhere is called dead by old ones."""

State = Literal["running", "done", "failed", "cancelled", "lost", "no run"]
EndReason = Literal["end of run", "time", "interrupt"]
_STATES: dict[State, str] = {
    "running": mark("it is still running"),
    "done": mark("it is done"),
    "failed": mark("it ended, but not all files succeeded"),
    "cancelled": mark("it was cancelled"),
    "lost": mark("it ended without a word"),
}


class MonitorSummary(BaseModel, extra="forbid", populate_by_name=True):
    """What was seen; written as ``monitor.json``."""

    schema_version: Literal[1] = Field(1, alias="schema")
    state: State = Field(description="How the run stood at the end; lost: it died without a word.")
    ended_by: EndReason = Field(description="Why the watching ended.")
    folder: str = Field("", description="Output folder of the run; empty where only a machine was watched.")
    host: str = Field(description="The machine that was watched.")
    seconds: float = Field(description="How long was watched.")
    samples: int = Field(description="Samples of the run, or of this machine, that were seen.")
    failures: dict[str, str] = Field({}, description="Files that failed, and why.")
    advice: str = Field("", description="What to do next, if anything.")

    def lines(self) -> list[str]:
        """Return how the run stood, and what to do, in words."""
        text = mark("Watched this machine for {time} (min:s), {samples} samples")
        if self.folder:
            text = mark("Watched the run in {folder} for {time} (min:s), {samples} samples")
        line = tr(text, folder=self.folder, time=clock_text(self.seconds), samples=self.samples)
        line += f": {tr(_STATES[self.state])}" if self.state in _STATES else ""
        return [line, *([tr("What to do: {remedy}.", remedy=self.advice.rstrip("."))] if self.advice else [])]


@dataclass(frozen=True)
class MonitorResult:
    """What was seen, where it is written down (None: nowhere), and whether the charts go on."""

    summary: MonitorSummary
    report: Path | None
    host: Host
    goes_on: bool = False


def watch(request: MonitorRequest) -> MonitorResult:
    """Show live how a batch and its machine do; interrupt it to end it sooner, the batch goes on.

    ``monitor.json`` goes into the output folder; without one nowhere, headless to a new folder under the
    host's ``runs``. Headless there are plain lines, at most every five seconds.

    Raises:
        MissingFileError: No batch has begun in the folder.
        ColabHelpersError: A folder cannot be reached, read or written.
    """
    set_language(request.language)
    headless, pause = request.headless, max(FASTEST, request.refresh)
    host = this_host(headless=headless)
    host.ensure_reachable(*request.places)
    begun = time.monotonic()
    with ExitStack() as stack:
        source, show = stack.enter_context(_opened(request.folder, pause)), _screen(headless=headless)
        keep = prepare_folder(host, request, MONITOR_REPORT) if headless or request.output_dir else None
        limit = request.seconds or (math.inf if request.folder else _usual_limit(host))
        # A page made of all cells appears when they have ended: it goes on looking by itself.
        here = limit if host.has_cells or headless else min(limit, PAGE_SECONDS)
        ended_by = _follow(source, show, begun + here, pause)
        goes_on = ended_by == "time" and here < limit
        if goes_on:
            _go_on(host, source, show, begun + limit, pause, stack.pop_all())
    summary = _summary(source, ended_by, time.monotonic() - begun)
    report = keep and keep / MONITOR_REPORT
    if report:
        write_text(report, to_json(summary, indent=2) + "\n")
    return MonitorResult(summary, report, host, goes_on)


def _usual_limit(host: Host) -> float:
    """Return how long a machine is watched that never ends by itself."""
    if host.headless:
        return HEADLESS_SECONDS
    # A page made of all cells has nobody before it while they run, and goes on looking afterwards.
    return UNATTENDED_SECONDS if host.has_cells and not has_front_end() else math.inf


def show_result(result: MonitorResult) -> None:
    """Show in a line how the run stood, and what to do; while the charts go on, only that."""
    goes_on = [tr("The charts above go on by themselves.")]
    lines = goes_on if result.goes_on else result.summary.lines()
    result.host.show("".join(map(paragraph, lines)), "\n".join(lines))


# --- what is watched ----------------------------------------------------------------------------------


class _MonitorFeed:
    """A run, by what it writes into its output folder; or this machine, by samples of our own.

    Attributes:
        status: How the run stands; None without one.
        facts: Sentences on the machine.
        remedy: What the doctor says to do about it.
        now: Seconds since 1970 by the clock of whoever writes.
        lost: The run died.
    """

    def __init__(self, samples: Path, folder: Path | None = None) -> None:
        self.folder, self.now, self.lost = folder, time.time(), False
        self.status = _first_status(folder) if folder else None
        self.facts, self.remedy = _doctor_facts(folder) if folder else (_machine_facts(), "")
        self.host = self.status.host if self.status else socket.gethostname()
        self.samples, self.count, self._file = list[Sample](), 0, samples
        self._news, self._first = StallTimer(), time.monotonic()
        self._old = max(0.0, self.now - self.status.updated) if self.status else 0.0

    @property
    def over(self) -> bool:
        """Whether nothing more is to be expected."""
        return self.lost or (self.status is not None and self.status.state != "running")

    def look(self) -> None:
        """Read what is new, and judge whether more will come."""
        now, since = time.time(), 0.0
        if self.folder and self.status:
            # Drive may be away for a while, or show half a file: no news, nothing worse.
            self.status = load_or_none(BatchStatus, self.folder / STATUS_NAME) or self.status
            quiet, since = self._quiet(self.status), self.status.started
            now = self.status.updated + quiet
            self.lost = self.status.state == "running" and self._is_dead(self.status, quiet)
        before = self.samples[-1].time if self.samples else -math.inf
        self.now, self.samples = now, recent_samples(self._file, since)
        self.count += sum(sample.time > before for sample in self.samples)

    def _quiet(self, status: BatchStatus) -> float:
        """Seconds without news. Clocks may differ: but for how old the first was only this one counts."""
        news, before = (status.updated, status.pid), self._news.value
        if before not in (None, news):
            self._old = 0.0
        return self._old + self._news.seconds(news)

    def _is_dead(self, status: BatchStatus, quiet: float) -> bool:
        if self.host == socket.gethostname():
            # A worker that died is started again within seconds.
            return not status.alive() and quiet >= HEARTBEAT_TIMEOUT
        return quiet >= REMOTE_TIMEOUT and time.monotonic() - self._first >= STALE_GRACE_SECONDS


def _first_status(folder: Path) -> BatchStatus:
    try:
        return read_status(folder)
    except MissingFileError as error:
        there = folder.is_dir()
        raise MissingFileError(
            tr("no batch has begun in this folder") if there else tr("there is no such folder"),
            where=str(folder),
            remedy=tr(
                "name the output_dir of batch_swap.ipynb and start that first; on Colab, where each "
                "notebook has a machine of its own, both need the same folder on Google Drive"
            ),
        ) from error


def _machine_facts() -> list[str]:
    gpu = this_machine().gpu
    if gpu is None:
        return []
    memory = number(gpu.memory_total / GIB)
    return [tr("{name}, {memory} GiB, driver {driver}", name=gpu.name, memory=memory, driver=gpu.driver)]


def _doctor_facts(folder: Path) -> tuple[list[str], str]:
    """Return what the doctor's report beside the results says, and what to do about what failed."""
    diagnosis = load_or_none(Diagnosis, folder / DOCTOR_REPORT)
    if diagnosis is None:
        return [], ""
    told = [check for check in diagnosis.checks if check.name.split()[0] in ("gpu", "cuda", "model")]
    remedy = next((check.remedy for check in diagnosis.failures()), "")
    return [f"{check.name}: {check.detail} ({DOCTOR_REPORT})" for check in told], remedy


Show = Callable[[_MonitorFeed, bool], None]
"""Shows what is watched; whether it is for the last time."""


@contextmanager
def _opened(folder: Path | None, pause: float) -> Iterator[_MonitorFeed]:
    if folder is not None:
        yield _MonitorFeed(folder / SAMPLES_NAME, folder)
        return
    with tempfile.TemporaryDirectory(prefix="monitor-") as name:
        path = Path(name) / SAMPLES_NAME
        with Recorder(path, Path.cwd(), interval=max(INTERVAL, pause)):
            yield _MonitorFeed(path)


# --- watching -----------------------------------------------------------------------------------------


def _screen(*, headless: bool) -> Show:
    """Return what shows how it stands: on one page in a notebook, elsewhere in lines of text."""
    page, printed = None if headless else open_html_area(), -math.inf

    def show(source: _MonitorFeed, last: bool) -> None:
        nonlocal printed
        samples, status = source.samples, source.status
        seen: dict[str, Any] = {"now": source.now, "lost": source.lost, "facts": source.facts}
        if page is not None:
            page(live_html(samples, status, **seen))
        elif last or time.monotonic() - printed >= TEXT_INTERVAL:
            printed = time.monotonic()
            print("\n".join(live_text(samples, status, files=last, **seen)), flush=True)

    return show


def _step(source: _MonitorFeed, show: Show, until: float) -> bool:
    """Look and show; return whether there is more to see, and time for it."""
    source.look()
    goes_on = not source.over and time.monotonic() < until
    show(source, not goes_on)
    return goes_on


def _follow(source: _MonitorFeed, show: Show, until: float, pause: float) -> EndReason:
    """Look and show until there is nothing more to see, time is up, or somebody interrupts."""
    try:
        while _step(source, show, until):
            time.sleep(min(pause, max(0.0, until - time.monotonic())))
    except KeyboardInterrupt:
        # The way to end it: not an error, and the run that is watched goes on.
        show(source, True)
        return "interrupt"
    return "end of run" if source.over else "time"


def _go_on(
    host: Host, source: _MonitorFeed, show: Show, until: float, pause: float, opened: ExitStack
) -> None:
    """Look and show between cells, until there is nothing more to see or time is up."""

    def look() -> bool:
        goes_on = _step(source, show, until)
        if not goes_on:
            opened.close()
        return goes_on

    host.call_repeatedly(look, pause)


def _summary(source: _MonitorFeed, ended_by: EndReason, seconds: float) -> MonitorSummary:
    status = source.status
    state: State = "no run" if status is None else "lost" if source.lost else status.state
    files = status.files if status else []
    advice = {"lost": tr(RESUME_REMEDY), "failed": tr(RETRY_REMEDY)}.get(state, "")
    return MonitorSummary(
        state=state,
        ended_by=ended_by,
        folder=str(source.folder or ""),
        host=source.host,
        seconds=round(seconds, 3),
        samples=source.count,
        failures={Path(file.target).name: file.error for file in files if file.error},
        advice=advice if state == "done" or not source.remedy else source.remedy,
    )
