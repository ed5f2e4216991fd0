"""What the cells of ``monitor.ipynb`` call: a batch watched by its folder, or this machine by itself.

The batch may be at work on another machine that shares the folder through Google Drive: what is read is
late then, and its times are those of the other machine's clock.
"""

from __future__ import annotations

import html
import math
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from colab_helpers.batch.status import SILENCE, BatchStatus, read_status
from colab_helpers.diagnosis import Diagnosis
from colab_helpers.errors import ColabHelpersError, MissingFileError, OutputError
from colab_helpers.files import to_json, write_atomically
from colab_helpers.language import mark, speak, tr
from colab_helpers.machine import GIB, this_machine
from colab_helpers.pages.figures import FIGURES
from colab_helpers.pages.history import FigureSummary, SampleHistory
from colab_helpers.pages.live import GO_ON, RETRY, live_html, live_text
from colab_helpers.pages.units import clock_text, number
from colab_helpers.request import MonitorRequest
from colab_helpers.resources.bottleneck import bottleneck
from colab_helpers.resources.recorder import INTERVAL, Recorder
from colab_helpers.resources.samples import SAMPLES_NAME, SampleTail
from colab_helpers.ui.cells import DOCTOR_REPORT, MONITOR_REPORT
from colab_helpers.ui.doctor import prepare_folder, show
from colab_helpers.ui.host import Host, has_front_end, open_panel, repeat, this_host
from colab_helpers.ui.notebook import reach
from colab_helpers.ui.progress import TEXT_INTERVAL

HEADLESS_SECONDS = 10.0
"""How long this machine is watched where nobody watches and nothing else is said."""
UNSEEN_SECONDS = 60.0
"""The same where it is not said that nobody watches, but no front end runs the cells (plain papermill)."""
FAR_SILENCE = 180.0
"""Seconds without news after which a run on another machine counts as dead: Drive may be minutes late."""
_FASTEST = 1.0
# Where nobody runs cells: how long the first look takes.
_PAGE_SECONDS = 3.0
# Before a run elsewhere is called dead by old news alone, the folder gets time to show newer ones.
_FIRST_LOOK = 5.0

State = Literal["running", "done", "failed", "cancelled", "lost", "no run"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class MonitorSummary(_Model):
    """What was seen; written as ``monitor.json``. Times in seconds since 1970, by this machine's clock."""

    schema_version: Literal[1] = Field(1, alias="schema")
    state: State = Field(description="How the run stood at the end; lost: it died without a word.")
    ended_by: Literal["end of run", "time", "interrupt"] = Field(description="Why the watching ended.")
    folder: str = Field("", description="Output folder of the run; empty where only a machine was watched.")
    host: str = Field(description="The machine that the figures belong to.")
    started: float = Field(description="When the watching began.")
    seconds: float = Field(description="How long was watched.")
    samples: int = Field(description="Samples of the run, or of this machine, that the figures come from.")
    figures: dict[str, FigureSummary]
    files: dict[str, int] = Field({}, description="How many files are in which state.")
    failures: dict[str, str] = Field({}, description="Files that failed, and why.")
    restarts: int = 0
    bottleneck: str = Field("", description="What kept the run from going faster, at the last look.")
    warnings: list[str] = Field([], description="Limits that were passed, one sentence each.")
    advice: str = Field("", description="What to do next, if anything.")


@dataclass(frozen=True)
class MonitorResult:
    """What was seen, where it is written down (None: nowhere), and whether the charts go on."""

    summary: MonitorSummary
    report: Path | None
    host: Host
    goes_on: bool = False


def watch(request: MonitorRequest) -> MonitorResult:
    """Show live how a batch and its machine do; interrupt it to end it sooner, the batch goes on.

    Where nothing says how long, a machine by itself is watched until the interrupt, headless for ten seconds,
    and for a minute where no front end runs the cells. ``monitor.json`` goes into the output folder; without
    one nowhere, headless to a new folder under the host's ``runs``. Headless there are plain lines, at most
    every five seconds.

    Raises:
        MissingFileError: No batch has begun in the folder.
        ColabHelpersError: A folder cannot be reached, read or written.
    """
    speak(request.language)
    place, headless, seconds = request.folder, request.headless, request.seconds
    pause = max(_FASTEST, request.refresh)
    host = this_host(headless=headless)
    reach(host, *request.places)
    started, begun = time.time(), time.monotonic()
    with ExitStack() as stack:
        source, screen = stack.enter_context(_opened(place, pause)), _Screen(headless=headless)
        keep = prepare_folder(host, request, MONITOR_REPORT) if headless or request.output_dir else None
        limit = seconds or (math.inf if place else _usual_limit(host))
        # A page made of all cells appears when they have ended: it goes on looking by itself.
        here = limit if host.has_cells or headless else min(limit, _PAGE_SECONDS)
        ended_by = _follow(source, screen, begun + here, pause)
        goes_on = ended_by == "time" and here < limit
        if goes_on:
            _go_on(source, screen, begun + limit, pause, stack.pop_all())
    summary = _summary(source, ended_by, started, time.monotonic() - begun)
    return MonitorResult(summary, _written(summary, keep) if keep else None, host, goes_on)


def _usual_limit(host: Host) -> float:
    """How long a machine is watched that never ends by itself."""
    if host.headless:
        return HEADLESS_SECONDS
    # A page made of all cells has nobody before it while they run, and goes on looking afterwards.
    return UNSEEN_SECONDS if host.has_cells and not has_front_end() else math.inf


def show_result(result: MonitorResult) -> None:
    """Show how the run stood and each figure's least, mean and most; while the charts go on, only that."""
    if result.goes_on:
        told = tr("The charts above go on by themselves.")
        show(result.host, f"<p>{html.escape(told)}</p>", told)
        return
    show(result.host, summary_html(result.summary), "\n".join(summary_text(result)))


def summary_html(summary: MonitorSummary) -> str:
    """What was seen, as an HTML table."""
    head = "".join(f"<th>{name}</th>" for name in ("", tr("least"), tr("mean"), tr("most"), ""))
    rows = "".join(
        f"<tr><td>{html.escape(_title(name))}</td><td>{number(found.least)}</td>"
        f"<td>{number(found.mean)}</td><td>{number(found.most)}</td>"
        f"<td>{html.escape(tr(found.unit))}</td></tr>"
        for name, found in summary.figures.items()
    )
    lines = "".join(f"<p>{html.escape(line)}</p>" for line in _remarks(summary))
    return f"<p><b>{html.escape(_headline(summary))}</b></p>{lines}<table><tr>{head}</tr>{rows}</table>"


def summary_text(result: MonitorResult) -> list[str]:
    """The same in words, and where it is written down."""
    found = result.summary
    figures = [
        f"  {_title(name):18}"
        + tr(
            "least {least}, mean {mean}, most {most} {unit}",
            least=number(row.least),
            mean=number(row.mean),
            most=number(row.most),
            unit=tr(row.unit),
        )
        for name, row in found.figures.items()
    ]
    return [_headline(found), *_remarks(found), *figures]


def _headline(summary: MonitorSummary) -> str:
    values = {"time": clock_text(summary.seconds), "samples": summary.samples}
    if summary.folder:
        text = tr(
            "Watched the run in {folder} for {time} (min:s), {samples} samples",
            folder=summary.folder,
            **values,
        )
    else:
        text = tr("Watched this machine for {time} (min:s), {samples} samples", **values)
    return text if summary.state == "no run" else f"{text}: {tr(_STATES[summary.state])}"


_STATES: dict[State, str] = {
    "running": mark("it is still running"),
    "done": mark("it is done"),
    "failed": mark("it ended, but not all files succeeded"),
    "cancelled": mark("it was cancelled"),
    "lost": mark("it ended without a word"),
}


def _remarks(summary: MonitorSummary) -> list[str]:
    """What went wrong and what to do, one sentence each."""
    failures = [
        tr("{name} failed: {reason}", name=name, reason=reason) for name, reason in summary.failures.items()
    ]
    advice = [tr("What to do: {remedy}.", remedy=summary.advice)] if summary.advice else []
    return [*failures, *summary.warnings, *advice]


def _title(name: str) -> str:
    return next((figure.heading for figure in FIGURES if figure.name == name), name)


# --- what is watched ----------------------------------------------------------------------------------


class _Source:
    """What is watched: this machine, by samples of our own.

    Args:
        samples: Their file.
        since: Earlier samples don't count.

    Attributes:
        folder: Output folder of the run; None without one.
        facts: Sentences on the machine.
        now: Seconds since 1970 by the clock of whoever writes.
        lost: The run died.
        over: Nothing more is to be expected.
    """

    folder: Path | None = None
    status: BatchStatus | None = None
    lost = over = False

    def __init__(self, samples: Path, *, since: float = 0.0) -> None:
        self.history, self._tail = SampleHistory(since=since), SampleTail(samples)
        self.host, self.facts, self.now = socket.gethostname(), _machine_facts(), time.time()

    def look(self) -> None:
        """Read what is new."""
        self.history.add(self._tail.read())
        self.now = time.time()


class _RunSource(_Source):
    """A run, by what it writes into its output folder.

    Raises:
        MissingFileError: No run has begun there.
        UsageError: What is there is of another version.
    """

    def __init__(self, folder: Path) -> None:
        self._seen = self.status = _first_status(folder)
        super().__init__(folder / SAMPLES_NAME, since=self._seen.started)
        self.folder = self._folder = folder
        self.host, self.facts = self._seen.host, _doctor_facts(folder)
        # Clocks may differ: after the first look only this one counts.
        self._age_at_first = max(0.0, time.time() - self._seen.updated)
        self._first = self._changed = time.monotonic()

    def look(self) -> None:
        """Read what is new, and judge whether more will come."""
        self._read_status()
        super().look()
        quiet = self._quiet()
        self.now = self._seen.updated + quiet
        self.lost = self._seen.state == "running" and self._is_dead(quiet)
        self.over = self.lost or self._seen.state != "running"

    def _read_status(self) -> None:
        try:
            found = read_status(self._folder)
        except ColabHelpersError:
            # Drive may be away for a while, or show half a file: no news, nothing worse.
            return
        if (found.updated, found.pid) != (self._seen.updated, self._seen.pid):
            self._changed, self._age_at_first = time.monotonic(), 0.0
        if found.started > self._seen.started:
            self.history = SampleHistory(since=found.started)
        self._seen = self.status = found

    def _quiet(self) -> float:
        """Seconds since the last news."""
        return self._age_at_first + time.monotonic() - self._changed

    def _is_dead(self, quiet: float) -> bool:
        if self.host == socket.gethostname():
            # A worker that died is started again within seconds.
            return not self._seen.alive() and quiet >= SILENCE
        return quiet >= FAR_SILENCE and time.monotonic() - self._first >= _FIRST_LOOK


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


def _doctor_facts(folder: Path) -> list[str]:
    """What the doctor found of GPU, CUDA and models, where its report lies beside the results."""
    try:
        found = Diagnosis.model_validate_json((folder / DOCTOR_REPORT).read_bytes())
    except (OSError, ValidationError):
        return []
    told = [check for check in found.checks if check.name.split()[0] in ("gpu", "cuda", "model")]
    return [f"{check.name}: {check.detail} ({DOCTOR_REPORT})" for check in told]


@contextmanager
def _opened(place: Path | None, pause: float) -> Iterator[_Source]:
    if place is not None:
        yield _RunSource(place)
        return
    with tempfile.TemporaryDirectory(prefix="monitor-") as name:
        path = Path(name) / SAMPLES_NAME
        with Recorder(path, Path.cwd(), interval=max(INTERVAL, pause)):
            yield _Source(path)


# --- watching -----------------------------------------------------------------------------------------


class _Screen:
    """Where it is shown: one panel in a notebook, elsewhere lines of text."""

    def __init__(self, *, headless: bool) -> None:
        self._panel: Callable[[str], None] | None = None if headless else open_panel()
        self._printed = -math.inf

    def show(self, source: _Source, *, last: bool = False) -> None:
        samples = list(source.history.recent)
        if self._panel is not None:
            self._panel(
                live_html(samples, source.status, now=source.now, lost=source.lost, facts=source.facts)
            )
        elif last or time.monotonic() - self._printed >= TEXT_INTERVAL:
            self._printed = time.monotonic()
            lines = live_text(
                samples, source.status, now=source.now, lost=source.lost, facts=source.facts, files=last
            )
            print("\n".join(lines), flush=True)


def _follow(
    source: _Source, screen: _Screen, until: float, pause: float
) -> Literal["end of run", "time", "interrupt"]:
    """Look and show until there is nothing more to see, time is up, or somebody interrupts."""
    try:
        while True:
            source.look()
            left = until - time.monotonic()
            screen.show(source, last=source.over or left <= 0)
            if source.over or left <= 0:
                return "end of run" if source.over else "time"
            time.sleep(min(pause, max(0.0, left)))
    except KeyboardInterrupt:
        # The way to end it: not an error, and the run that is watched goes on.
        screen.show(source, last=True)
        return "interrupt"


def _go_on(source: _Source, screen: _Screen, until: float, pause: float, opened: ExitStack) -> None:
    """Look and show between cells, until there is nothing more to see or time is up."""

    def look() -> bool:
        source.look()
        over = source.over or time.monotonic() >= until
        screen.show(source, last=over)
        if over:
            opened.close()
        return not over

    repeat(look, pause)


def _summary(
    source: _Source, ended_by: Literal["end of run", "time", "interrupt"], started: float, seconds: float
) -> MonitorSummary:
    status, history = source.status, source.history
    state: State = "no run" if status is None else "lost" if source.lost else status.state
    files = status.files if status else []
    is_run = status is not None and history.recent
    advice = GO_ON if state == "lost" else RETRY if state == "failed" else ""
    return MonitorSummary(
        state=state,
        ended_by=ended_by,
        folder=str(source.folder or ""),
        host=source.host,
        started=round(started, 3),
        seconds=round(seconds, 3),
        samples=history.count,
        figures=history.figures(),
        files=dict(Counter(file.status for file in files)),
        failures={Path(file.target).name: file.error for file in files if file.error},
        restarts=status.restarts if status else 0,
        bottleneck=bottleneck(history.recent) if is_run else "",
        warnings=history.warnings(),
        advice=tr(advice),
    )


def _written(summary: MonitorSummary, folder: Path) -> Path:
    path = folder / MONITOR_REPORT
    text = to_json(summary, indent=2) + "\n"
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise OutputError(
            tr("the result cannot be written ({reason})", reason=error.strerror or error),
            where=str(path),
            remedy=tr("name another folder in output_dir"),
        ) from error
    return path
