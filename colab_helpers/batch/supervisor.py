"""Starts the worker process of a batch, tells how it stands, and starts another if it dies.

Whoever asks for a batch that is at work already only watches it. Nothing here does any of the work, so
the process that watches may be interrupted or killed at any time.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from colab_helpers.batch.job import Job
from colab_helpers.batch.names import JOURNAL_NAME, STATUS_NAME, STOP_NAME
from colab_helpers.batch.places import WorkPlaces, job_name
from colab_helpers.batch.protocol import (
    BUSY,
    RECYCLE,
    REFUSED,
    Refusal,
    refusal_path,
)
from colab_helpers.batch.report import BatchReport
from colab_helpers.batch.status import BatchStatus, process_lives
from colab_helpers.errors import ColabHelpersError, OutputError, UsageError, WorkerError
from colab_helpers.files import from_json
from colab_helpers.language import tr
from colab_helpers.progress import Progress, ProgressCallback

NoteCallback = Callable[[str], None]
StatusCallback = Callable[[BatchStatus], None]

_LOOK_EVERY = 0.1
_LOG_NAME = "worker.log"
_LOG_LINES = 15
# Workers in a row that may die without a line in the journal: something is wrong with all files.
_MOST_BARREN = 3
# How long a worker that was asked to stop may take to clean up.
_GRACE = 60.0


@dataclass(eq=False)
class Supervisor:
    """Sees a batch through.

    Args:
        job: What is asked for.
        on_progress: Called with every new state of a running file.
        on_note: Called once for each remark on the whole run, and for each pause.
        on_status: Called with every new status.
        clock: Seconds that only grow.
    """

    job: Job
    on_progress: ProgressCallback | None = None
    on_note: NoteCallback | None = None
    on_status: StatusCallback | None = None
    clock: Callable[[], float] = time.monotonic
    _places: WorkPlaces = field(init=False)
    _told: set[str] = field(default_factory=set, init=False)
    _seen: float = field(default=0.0, init=False)
    _shown: object = field(default=None, init=False)
    _interrupts: int = field(default=0, init=False)
    _interrupted_at: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._places = WorkPlaces.of(self.job.folder, Path(self.job.work_dir) if self.job.work_dir else None)

    def run(self) -> BatchReport:
        """Have the batch done; an interrupt (Ctrl-C) stops it, a second one at once.

        Returns:
            The report.

        Raises:
            UsageError: Another batch works in the folder.
            WorkerError: Workers die before they begin.
            KeyboardInterrupt: The worker had to be killed; what is finished is kept for the next run.
            ColabHelpersError: What the worker says why it could not start.
        """
        folder, places = self.job.folder, self._places
        try:
            folder.mkdir(parents=True, exist_ok=True)
            places.local.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                tr("the output folder cannot be written to ({reason})", reason=error.strerror or error),
                where=str(folder),
                remedy=tr("choose another output folder"),
            ) from error
        living, cause, barren = self._living(), None, 0
        if living is None:
            (folder / STOP_NAME).unlink(missing_ok=True)
        path = places.local / job_name(self.job.run)
        self.job.save(path)
        while True:
            journal = _size(folder / JOURNAL_NAME)
            end = self._attached(living) if living else self._started(path, cause)
            if end.code == 0:
                _tidy(path)
                places.tidy(self.job.run)
                return self._report(end.run)
            if self._interrupts:
                _tidy(path)
                raise KeyboardInterrupt
            if end.code in (BUSY, REFUSED):
                living = self._living() if end.code == BUSY else None
                if living is None:
                    refusal = _refusal(path)
                    places.tidy(self.job.run)
                    raise refusal
                continue
            living = None
            if end.code == RECYCLE:
                cause = None
                continue
            cause = end.cause
            barren = barren + 1 if _size(folder / JOURNAL_NAME) == journal else 0
            if barren >= _MOST_BARREN:
                raise WorkerError(
                    tr(
                        "{number} worker processes in a row died before they did anything, the last one "
                        "{cause}{log}",
                        number=barren,
                        cause=cause,
                        log=_log_tail(path),
                    ),
                    where=str(folder),
                    remedy=tr(
                        "run 'python -m colab_helpers doctor'; free memory or choose the preset stable"
                    ),
                )

    # --- one worker ---------------------------------------------------------------------------------

    def _started(self, path: Path, cause: str | None) -> _End:
        """Start a worker and watch it to its end."""
        command = [sys.executable, "-m", "colab_helpers.batch.worker", str(path)]
        command += ["--cause", cause] if cause else []
        with path.with_name(_LOG_NAME).open("ab") as log:
            # A session of its own: the terminal's Ctrl-C, or its end, must not reach it.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        stalled = self._watch(lambda: process.poll() is None, process.pid)
        code = process.wait()
        return _End(code, self.job.run, stalled or _cause(code))

    def _attached(self, run: str) -> _End:
        """Watch a worker that somebody else has started to its end."""
        status = self._status()
        if status is None:
            return _End(1, run, tr("left no status"))
        stalled = self._watch(lambda: process_lives(status.pid, status.pid_started), status.pid)
        last = self._status()
        if last is not None and last.run == run and last.state != "running":
            return _End(0, run, "")
        return _End(1, run, stalled or tr("ended without a word"))

    def _watch(self, lives: Callable[[], bool], pid: int) -> str | None:
        """Show how it stands until it ends; what it was killed for, if it was."""
        seen, since = -1, self.clock()
        limit = float(self.job.settings["stall_timeout"]) + float(self.job.settings["gpu_memory_wait"])
        while lives():
            try:
                status = self._status()
                known = status is not None and status.pid == pid
                signs = status.ticks if status is not None and known else _cpu_seconds(pid)
                if signs != seen:
                    seen, since = signs, self.clock()
                elif self.clock() - since > limit:
                    _kill(pid)
                    return tr("made no progress for {limit:.0f} seconds and was killed", limit=limit)
                if status is not None and known:
                    self._show(status)
                if self._interrupts and self.clock() - self._interrupted_at > _GRACE:
                    _kill(pid)
                time.sleep(_LOOK_EVERY)
            except KeyboardInterrupt:
                self._interrupt(pid)
        status = self._status()
        if status is not None and status.pid == pid:
            self._show_last(status)
        return None

    def _interrupt(self, pid: int) -> None:
        self._interrupts += 1
        self._interrupted_at = self.clock()
        if self._interrupts > 1:
            _kill(pid)
            return
        try:
            (self.job.folder / STOP_NAME).touch()
        except OSError:
            _signal(pid, signal.SIGTERM)

    # --- what the worker says -----------------------------------------------------------------------

    def _status(self) -> BatchStatus | None:
        """The latest status: on the local disk if the work is done there, else beside the results."""
        for folder in dict.fromkeys((self._places.local, self.job.folder)):
            try:
                return from_json(BatchStatus, (folder / STATUS_NAME).read_bytes())
            except (OSError, ValueError):
                continue
        return None

    def _living(self) -> str | None:
        """The run that works in the folder and does just what is asked for; None if there is none."""
        status = self._status()
        same = status is not None and status.job == self.job.digest and status.alive()
        return status.run if status is not None and same else None

    def _show(self, status: BatchStatus) -> None:
        for note in [*status.notes, *([status.pause] if status.pause else [])]:
            if note not in self._told and self.on_note:
                self.on_note(note)
            self._told.add(note)
        if self.on_status is not None and status.updated != self._seen:
            self._seen = status.updated
            self.on_status(status)
        for index, file in enumerate(status.files):
            state = (index, file.frame, file.stage)
            if file.state != "running" or state == self._shown or self.on_progress is None:
                continue
            self._shown = state
            self.on_progress(
                Progress(
                    file=Path(file.target).name,
                    file_index=index,
                    file_count=len(status.files),
                    frame=file.frame,
                    frames=file.frames,
                    fps=file.fps,
                    eta=file.eta,
                    ram_percent=status.ram_percent or 0.0,
                    gpu_percent=status.gpu_percent,
                    provider=status.provider or "",
                    threads=status.threads,
                    batch_size=status.batch_size,
                    stage=file.stage,
                    waiting=status.waiting,
                )
            )

    def _show_last(self, status: BatchStatus) -> None:
        try:
            self._show(status)
        except KeyboardInterrupt:
            self._interrupts += 1

    def _report(self, run: str) -> BatchReport:
        path = Path(self.job.report_path)
        try:
            report = from_json(BatchReport, path.read_bytes())
        except (OSError, ValueError) as error:
            raise WorkerError(
                tr("the worker has ended, but its report cannot be read"),
                where=str(path),
                remedy=tr("run again: finished work is kept"),
            ) from error
        if report.run != run:
            raise UsageError(
                tr("the report is of another run"),
                where=str(path),
                remedy=tr("run again: finished work is kept"),
            )
        return report


def _refusal(job: Path) -> ColabHelpersError:
    """Why a worker did not begin its job."""
    try:
        refusal = from_json(Refusal, refusal_path(job).read_bytes())
    except (OSError, ValueError):
        return WorkerError(
            tr("the worker did not begin and left no reason{log}", log=_log_tail(job)), where=str(job)
        )
    _tidy(job)
    return refusal.error()


def _tidy(job: Path) -> None:
    """Remove a job that has ended."""
    for path in (job, refusal_path(job)):
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _End:
    """How a worker ended: exit code, the run it did, and what it died of."""

    code: int
    run: str
    cause: str


def _cause(code: int) -> str:
    """What a process died of, from its exit code."""
    if code == -signal.SIGKILL:
        return tr("was killed, as the system does when memory runs out (signal 9)")
    if code < 0:
        return tr("died of {name} (signal {number})", name=signal.Signals(-code).name, number=-code)
    return tr("ended with exit code {code}", code=code)


def _kill(pid: int) -> None:
    _signal(pid, signal.SIGKILL)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        psutil.Process(pid).send_signal(number)
    except psutil.Error:
        return  # it has gone


def _cpu_seconds(pid: int) -> int:
    """Whole seconds a process has computed: a sign of life where its status is out of reach."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return -1
    return int(times.user + times.system)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _log_tail(job: Path) -> str:
    """The last lines of what the workers have printed, to be put behind a sentence."""
    try:
        lines = job.with_name(_LOG_NAME).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    said = " | ".join(line for line in lines[-_LOG_LINES:] if line.strip())
    return tr("; it said: {lines}", lines=said) if lines else ""
