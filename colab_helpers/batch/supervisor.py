"""Starts the worker process of a batch, tells how it stands, and starts another if it dies.

Whoever asks for a batch that is at work already only watches it, from whatever machine. Nothing here does
any of the work, so the process that watches may be interrupted or killed at any time.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, NoReturn

from colab_helpers.batch.drive import WorkDirs, job_name, telling_unwritable
from colab_helpers.batch.job import Job
from colab_helpers.batch.object_store import fetch
from colab_helpers.batch.processes import (
    BUSY,
    REFUSED,
    STOPPED,
    describe_exit,
    read_refusal,
    refusal_path,
    repeated_death_error,
)
from colab_helpers.batch.report import JOURNAL_NAME, BatchReport
from colab_helpers.batch.run_watcher import GRACE_PERIOD, RunWatcher, StallTimer, StatusCallback
from colab_helpers.batch.status import BatchStatus, end_status
from colab_helpers.batch.stop import HEARTBEAT_TIMEOUT, STOP_SIGNALS
from colab_helpers.errors import ColabHelpersError, WorkerError
from colab_helpers.files import load_or_none, open_nofollow
from colab_helpers.language import tr
from colab_helpers.progress import ProgressCallback

__all__ = ["BatchStopped", "StatusCallback", "Supervisor"]

_LOG_NAME = "worker.log"
_LOG_LINES = 15
# Workers in a row that may die without a line in the journal: something is wrong with all files.
_MAX_BARREN = 3


class BatchStopped(KeyboardInterrupt):
    """Somebody has stopped the batch; what is finished is kept for the next run.

    ``report`` is what was done before; None where nothing had begun, or the worker had to be killed.
    """

    def __init__(self, report: BatchReport | None = None) -> None:
        super().__init__(tr("stopped; the same command goes on with what is finished"))
        self.report = report


class WorkerExit(NamedTuple):
    """How a worker ended: exit code, the run it did, and what it died of."""

    code: int
    run: str
    cause: str


@dataclass(eq=False)
class Supervisor:
    """Sees a batch through; the callbacks are those of ``RunWatcher``."""

    job: Job
    on_progress: ProgressCallback | None = None
    on_status: StatusCallback | None = None

    @cached_property
    def _places(self) -> WorkDirs:
        return WorkDirs.of(self.job.folder, self.job.request.work_dir)

    @cached_property
    def _watcher(self) -> RunWatcher:
        settings = self.job.request.settings
        return RunWatcher(
            self.job.folder,
            self._places.local,
            limit=float(settings.stall_timeout) + float(settings.gpu_memory_wait),
            on_progress=self.on_progress,
            on_status=self.on_status,
        )

    @property
    def _job_file(self) -> Path:
        return self._places.local / job_name(self.job.run)

    def run(self) -> BatchReport:
        """Have the batch done and return its report; an interrupt (Ctrl-C) stops it, a second one at once.

        Raises:
            WorkerError: Workers die before they begin.
            BatchStopped: Somebody has stopped it, here or elsewhere; what is finished is kept.
            ColabHelpersError: What the worker says why it could not start, such as FolderBusyError.
        """
        with self._watcher.counting_interrupts():
            try:
                with telling_unwritable(self.job.folder):
                    self.job.folder.mkdir(parents=True, exist_ok=True)
                self._places.make()
                return self._seen_through()
            finally:
                for left in (self._job_file, refusal_path(self._job_file)):
                    left.unlink(missing_ok=True)
                if not self._watcher.at_work():
                    self._places.clean_up(self.job.run)

    def _seen_through(self) -> BatchReport:
        """Start workers, or watch one that is there, until the batch has ended."""
        living, cause, barren = self._active_run(), "", 0
        self._watcher.clear_stop_file()
        while True:
            if self._watcher.interrupts:
                raise self._ended_by_us()
            journal = self._journal_size()
            end = self._follow(living) if living else self.start_worker(cause)
            if end.code == 0:
                return self._report_of(end.run) or self._nothing_reported(end.run)
            if end.code == STOPPED:
                end_status(self._watcher.status_files, end.run, cancelled=True)
                raise BatchStopped(self._report_of(end.run))
            if self._watcher.interrupts:
                raise self._ended_by_us()
            if end.code in (BUSY, REFUSED):
                living = self._active_run() if end.code == BUSY else None
                if living is None:
                    raise self._refusal()
                continue
            cause = end.cause
            if living is not None:  # its own supervisor counts its deaths
                living = self._active_run()
                continue
            barren = barren + 1 if self._journal_size() == journal else 0
            if barren >= _MAX_BARREN:
                raise self._given_up(cause)

    def _given_up(self, cause: str) -> WorkerError:
        error = repeated_death_error(self.job.folder, _MAX_BARREN, cause, self._log_tail())
        end_status(self._watcher.status_files, self.job.run, cancelled=False, note=str(error))
        return error

    def _ended_by_us(self) -> BatchStopped:
        """Clean up where the worker did not end by itself when it was asked to, or was not there."""
        end_status(self._watcher.status_files, self.job.run, cancelled=True)
        self._watcher.clear_stop_file()
        return BatchStopped(self._report_of(self.job.run))

    def _active_run(self) -> str | None:
        """Return the run that works in the folder and does just what is asked for, if there is one."""
        status = self._watcher.status()
        same = status is not None and status.job == self.job.digest and status.alive()
        return status.run if status is not None and same else None

    def start_worker(self, cause: str) -> WorkerExit:
        """Start a worker and watch it to its end."""
        self.job.save(self._job_file)
        command = [sys.executable, "-m", "colab_helpers.batch.worker", str(self._job_file)]
        command += ["--cause", cause] if cause else []
        # It inherits that signals wait until it can take them. In a session of its own, neither the
        # terminal's Ctrl-C nor its end reach it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            with open(self._job_file.with_name(_LOG_NAME), "ab", opener=open_nofollow) as log:
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        stalled = self._watcher.wait_until_end(lambda _status: process.poll() is None, process.pid)
        try:
            code = process.wait(GRACE_PERIOD)
        except subprocess.TimeoutExpired as error:
            raise WorkerError(
                tr("the worker process {pid} was killed but does not end", pid=process.pid),
                where=str(self.job.folder),
                remedy=tr("check the disk or the mount it works on, then run again"),
            ) from error
        asked = -code in STOP_SIGNALS  # by a signal that came before it could take any
        return WorkerExit(STOPPED if asked else code, self.job.run, stalled or describe_exit(code))

    def _follow(self, run: str) -> WorkerExit:
        """Watch a worker that somebody else has started, here or on another machine, to its end."""
        news = StallTimer()

        def is_running(status: BatchStatus | None) -> bool:
            if status is not None and (status.run, status.state) != (run, "running"):
                return False
            if status is not None and status.host == socket.gethostname():
                return status.alive()
            # By our own clock: that of the other machine may be wrong.
            return news.seconds(status.updated if status else news.value) < HEARTBEAT_TIMEOUT

        stalled = self._watcher.wait_until_end(is_running)
        last = self._watcher.status()
        if last is None or last.run != run or last.state == "running":
            return WorkerExit(1, run, stalled or tr("ended without a word"))
        return WorkerExit(STOPPED if last.state == "cancelled" else 0, run, "")

    def _report_of(self, run: str) -> BatchReport | None:
        """Read the report of a run; None if it has left none."""
        with suppress(ColabHelpersError):
            fetch(self.job.report_path)
        report = load_or_none(BatchReport, self.job.report_path)
        return report if report and report.run == run else None

    def _nothing_reported(self, run: str) -> NoReturn:
        status = self._watcher.status()
        said = status.notes[-1:] if status is not None and status.run == run else []
        raise WorkerError(
            tr("the run has ended without a report{said}", said="".join(f": {note}" for note in said)),
            where=str(self.job.report_path),
            remedy=tr("run again: finished work is kept"),
        )

    def _refusal(self) -> ColabHelpersError:
        """Return why a worker did not begin its job."""
        said = tr("the worker did not begin and left no reason{log}", log=self._log_tail())
        return read_refusal(self._job_file) or WorkerError(said, where=str(self._job_file))

    def _journal_size(self) -> int:
        try:
            return (self.job.folder / JOURNAL_NAME).stat().st_size
        except OSError:
            return 0

    def _log_tail(self) -> str:
        """Return the last lines that the workers have printed, to be put behind a sentence."""
        try:
            text = self._job_file.with_name(_LOG_NAME).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        said = " | ".join(line for line in text.splitlines()[-_LOG_LINES:] if line.strip())
        return tr("; it said: {lines}", lines=said) if said else ""
