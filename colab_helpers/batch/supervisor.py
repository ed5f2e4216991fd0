"""Starts the worker process of a batch, tells how it stands, and starts another if it dies.

Whoever asks for a batch that is at work already only watches it, from whatever machine. Nothing here does
any of the work, so the process that watches may be interrupted or killed at any time.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from colab_helpers.batch.job import Job
from colab_helpers.batch.names import JOURNAL_NAME, STATUS_NAME, STOP_NAME
from colab_helpers.batch.places import WorkPlaces, job_name
from colab_helpers.batch.report import BatchReport
from colab_helpers.batch.status import SILENCE, BatchStatus, end_status, latest_status, process_lives
from colab_helpers.batch.worker import (
    BUSY,
    REFUSED,
    STOP_SIGNALS,
    STOPPED,
    Refusal,
    cause_of,
    refusal_path,
)
from colab_helpers.errors import ColabHelpersError, OutputError, WorkerError
from colab_helpers.files import from_json
from colab_helpers.language import tr
from colab_helpers.progress import Progress, ProgressCallback

NoteCallback = Callable[[str], None]
StatusCallback = Callable[[BatchStatus], None]

_LOOK_EVERY = 0.1
# Reading a status that another machine writes asks a network for it.
_LOOK_AFAR_EVERY = 1.0
_LOG_NAME = "worker.log"
_LOG_LINES = 15
# Workers in a row that may die without a line in the journal: something is wrong with all files.
_MOST_BARREN = 3
# How long a worker that was asked to stop, or killed, may take to be gone.
_GRACE = 60.0


class BatchStopped(KeyboardInterrupt):
    """Somebody has stopped the batch; what is finished is kept for the next run.

    Attributes:
        report: What was done before; None where nothing had begun, or the worker had to be killed.
    """

    def __init__(self, report: BatchReport | None = None) -> None:
        super().__init__(tr("stopped; the same command goes on with what is finished"))
        self.report = report


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

    def __post_init__(self) -> None:
        self._places = WorkPlaces.of(self.job.folder, Path(self.job.work_dir) if self.job.work_dir else None)

    def run(self) -> BatchReport:
        """Have the batch done; an interrupt (Ctrl-C) stops it, a second one at once.

        Returns:
            The report.

        Raises:
            UsageError: Another batch works in the folder.
            WorkerError: Workers die before they begin.
            BatchStopped: Somebody has stopped it, here or elsewhere; what is finished is kept.
            ColabHelpersError: What the worker says why it could not start.
        """
        with self._interrupts_counted():
            path = self._places.local / job_name(self.job.run)
            try:
                self._make_folders()
                return self._seen_through(path)
            finally:
                for left in (path, refusal_path(path)):
                    left.unlink(missing_ok=True)
                if not self._at_work():
                    self._places.tidy(self.job.run)

    def _make_folders(self) -> None:
        try:
            self.job.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                tr("the output folder cannot be written to ({reason})", reason=error.strerror or error),
                where=str(self.job.folder),
                remedy=tr("choose another output folder"),
            ) from error
        self._places.make()

    def _seen_through(self, path: Path) -> BatchReport:
        """Start workers, or watch one that is there, until the batch has ended."""
        living, cause, barren = self._living(), "", 0
        if not self._at_work():
            self._stop_file.unlink(missing_ok=True)
        while True:
            if self._interrupts:
                raise self._ended_by_us()
            journal = _size(self.job.folder / JOURNAL_NAME)
            end = self._attached(living) if living else self._started(path, cause)
            if end.code == 0:
                return self._report(end.run)
            if end.code == STOPPED:
                end_status(self._status_files, end.run, cancelled=True)
                raise BatchStopped(self._report_of(end.run))
            if self._interrupts:
                raise self._ended_by_us()
            if end.code in (BUSY, REFUSED):
                living = self._living() if end.code == BUSY else None
                if living is None:
                    raise _refusal(path)
                continue
            cause = end.cause
            if living is not None:  # its own supervisor counts its deaths
                living = self._living()
                continue
            barren = barren + 1 if _size(self.job.folder / JOURNAL_NAME) == journal else 0
            if barren >= _MOST_BARREN:
                raise self._given_up(path, barren, cause)

    def _given_up(self, path: Path, barren: int, cause: str) -> WorkerError:
        error = WorkerError(
            tr(
                "{number} worker processes in a row died before they did anything, the last one {cause}{log}",
                number=barren,
                cause=cause,
                log=_log_tail(path),
            ),
            where=str(self.job.folder),
            remedy=tr("run 'python -m colab_helpers doctor'; free memory or choose the preset stable"),
        )
        end_status(self._status_files, self.job.run, cancelled=False, note=str(error))
        return error

    def _ended_by_us(self) -> BatchStopped:
        """The worker did not end by itself when it was asked to, or was not there: clean up in its stead."""
        end_status(self._status_files, self.job.run, cancelled=True)
        if not self._at_work():
            with suppress(OSError):
                self._stop_file.unlink(missing_ok=True)
        return BatchStopped(self._report_of(self.job.run))

    # --- interrupts -----------------------------------------------------------------------------------

    @contextmanager
    def _interrupts_counted(self) -> Iterator[None]:
        """Ctrl-C raises nothing meanwhile, wherever it comes; it is counted and looked at in ``_watch``."""
        main = threading.current_thread() is threading.main_thread()
        # What somebody else has made of them stays theirs.
        ours = [number for number in STOP_SIGNALS if signal.getsignal(number) is signal.default_int_handler]
        ours = ours if main else []
        for number in ours:
            signal.signal(number, self._interrupt)
        try:
            yield
        finally:
            for number in ours:
                signal.signal(number, signal.default_int_handler)

    def _interrupt(self, *_: object) -> None:
        self._interrupts += 1

    # --- one worker -----------------------------------------------------------------------------------

    def _started(self, path: Path, cause: str) -> _End:
        """Start a worker and watch it to its end."""
        self.job.save(path)
        command = [sys.executable, "-m", "colab_helpers.batch.worker", str(path)]
        command += ["--cause", cause] if cause else []
        # It inherits that signals wait until it can take them. In a session of its own, neither the
        # terminal's Ctrl-C nor its end reach it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            with path.with_name(_LOG_NAME).open("ab") as log:
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        stalled = self._watch(lambda _status: process.poll() is None, process.pid)
        try:
            code = process.wait(_GRACE)
        except subprocess.TimeoutExpired as error:
            raise WorkerError(
                tr("the worker process {pid} was killed but does not end", pid=process.pid),
                where=str(self.job.folder),
                remedy=tr("check the disk or the mount it works on, then run again"),
            ) from error
        asked = -code in STOP_SIGNALS  # by a signal that came before it could take any
        return _End(STOPPED if asked else code, self.job.run, stalled or cause_of(code))

    def _attached(self, run: str) -> _End:
        """Watch a worker that somebody else has started, here or on another machine, to its end."""
        heard, since = 0.0, self.clock()

        def goes_on(status: BatchStatus | None) -> bool:
            nonlocal heard, since
            if status is not None and (status.run, status.state) != (run, "running"):
                return False
            if status is not None and status.host == socket.gethostname():
                return status.alive()
            # By our own clock: that of the other machine may be wrong.
            if status is not None and status.updated != heard:
                heard, since = status.updated, self.clock()
            return self.clock() - since < SILENCE

        stalled = self._watch(goes_on)
        last = self._status()
        if last is None or last.run != run or last.state == "running":
            return _End(1, run, stalled or tr("ended without a word"))
        return _End(STOPPED if last.state == "cancelled" else 0, run, "")

    def _watch(self, goes_on: Callable[[BatchStatus | None], bool], own: int = 0) -> str:
        """Show how a run stands until it ends.

        Args:
            goes_on: Whether it does, as its status tells.
            own: The process that does it, if it was started here.

        Returns:
            What its process was killed for; empty if it was not.
        """
        seen, since = -1, self.clock()
        answered, asked, asked_at = 0, 0, self.clock()
        limit = float(self.job.settings["stall_timeout"]) + float(self.job.settings["gpu_memory_wait"])
        killed = ""
        while goes_on(status := self._status(own)):
            here = status is not None and status.host == socket.gethostname()
            pid = own or (status.pid if here and status is not None else 0)
            if self._interrupts > answered or (answered and pid != asked):
                if self._interrupts > answered == 0:
                    asked_at = self.clock()
                answered, asked = self._interrupts, pid
                self._ask_to_stop(pid)
            if answered and self.clock() - asked_at > _GRACE:
                if not _kill(pid):
                    break  # on another machine: it will stop when it hears of it
                asked_at = self.clock()
            known = status is not None and pid in (0, status.pid)
            signs = status.ticks if status is not None and known else _cpu_seconds(pid)
            if signs != seen:
                seen, since = signs, self.clock()
            elif self.clock() - since > limit and pid and not killed:
                _kill(pid)
                killed = tr("made no progress for {limit:.0f} seconds and was killed", limit=limit)
                if own:
                    return killed
            if status is not None and known:
                self._show(status)
            if answered > 1 and not pid:
                break
            time.sleep(_LOOK_EVERY if pid else _LOOK_AFAR_EVERY)
        status = self._status(own)  # it has said its last word since
        if status is not None and own in (0, status.pid):
            self._show(status)
        return killed

    def _ask_to_stop(self, pid: int) -> None:
        """Ask a process of this machine by a signal, one of another by the file; the second time, end it."""
        if self._interrupts == 1 and _signal(pid, signal.SIGTERM):
            return
        # Also where a process is killed: whoever else watches it would start another one.
        with suppress(OSError):
            self._stop_file.touch()
        if self._interrupts > 1:
            _kill(pid)

    # --- what the worker says -------------------------------------------------------------------------

    @property
    def _stop_file(self) -> Path:
        return self.job.folder / STOP_NAME

    @property
    def _status_files(self) -> list[Path]:
        """Where statuses may lie: on the local disk if the work is done there, and beside the results."""
        return list(dict.fromkeys(place / STATUS_NAME for place in (self._places.local, self.job.folder)))

    def _status(self, own: int = 0) -> BatchStatus | None:
        """The latest status; that of an own worker without asking the drive where it is on the local disk."""
        near = latest_status(self._status_files[:1])
        return near if near is not None and near.pid == own else latest_status(self._status_files)

    def _at_work(self) -> bool:
        """Whether any batch works in the folder."""
        status = self._status()
        return status is not None and status.alive()

    def _living(self) -> str | None:
        """The run that works in the folder and does just what is asked for; None if there is none."""
        status = self._status()
        same = status is not None and status.job == self.job.digest and status.alive()
        return status.run if status is not None and same else None

    def _show(self, status: BatchStatus) -> None:
        try:
            self._tell(status)
        except KeyboardInterrupt:  # of a display, or where Ctrl-C is not ours to count
            self._interrupts += 1

    def _tell(self, status: BatchStatus) -> None:
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

    def _report_of(self, run: str) -> BatchReport | None:
        """The report of a run; None if it has left none."""
        try:
            report = from_json(BatchReport, Path(self.job.report_path).read_bytes())
        except (OSError, ValueError):
            return None
        return report if report.run == run else None

    def _report(self, run: str) -> BatchReport:
        report = self._report_of(run)
        if report is not None:
            return report
        status = self._status()
        said = status.notes[-1:] if status is not None and status.run == run else []
        raise WorkerError(
            tr("the run has ended without a report{said}", said="".join(f": {note}" for note in said)),
            where=self.job.report_path,
            remedy=tr("run again: finished work is kept"),
        )


def _refusal(job: Path) -> ColabHelpersError:
    """Why a worker did not begin its job."""
    try:
        return from_json(Refusal, refusal_path(job).read_bytes()).error()
    except (OSError, ValueError):
        return WorkerError(
            tr("the worker did not begin and left no reason{log}", log=_log_tail(job)), where=str(job)
        )


@dataclass(frozen=True)
class _End:
    """How a worker ended: exit code, the run it did, and what it died of."""

    code: int
    run: str
    cause: str


def _kill(pid: int) -> bool:
    return _signal(pid, signal.SIGKILL)


def _signal(pid: int, number: signal.Signals) -> bool:
    """Send a signal; False if there is no such process here."""
    try:
        if pid and process_lives(pid, 0.0):
            psutil.Process(pid).send_signal(number)
            return True
    except psutil.Error:
        return False  # it has gone
    return False


def _cpu_seconds(pid: int) -> int:
    """Whole seconds a process has computed: a sign of life where its status is out of reach."""
    try:
        times = psutil.Process(pid).cpu_times()
    except (psutil.Error, ValueError):
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
