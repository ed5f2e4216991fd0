"""Start the worker process of a batch, report its progress, and start another one if it dies.

If the same batch is running already, on any machine, it is only watched. The supervisor does none of the work
and may be interrupted or killed at any time.
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

from colab_helpers.batch.drive import WorkDirs, job_name, wrap_unwritable
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
from colab_helpers.files import load_or_none, open_nofollow, size_and_mtime
from colab_helpers.language import tr
from colab_helpers.progress import ProgressCallback

__all__ = ["BatchStopped", "StatusCallback", "Supervisor"]

_LOG_NAME = "worker.log"
_LOG_LINES = 15
# Workers in a row that may die without a new journal entry; then no file can be expected to succeed.
_MAX_FRUITLESS = 3


class BatchStopped(KeyboardInterrupt):
    """The batch was stopped; finished work is kept for the next run.

    ``report`` covers what was done; None if no work had begun, or the worker had to be killed.
    """

    def __init__(self, report: BatchReport | None = None) -> None:
        super().__init__(tr("stopped; run the same command again to resume"))
        self.report = report


class WorkerExit(NamedTuple):
    """How a worker ended: its exit code, its run, and the cause if it died."""

    code: int
    run: str
    cause: str


@dataclass(eq=False)
class Supervisor:
    """Runs a batch to its end; the callbacks are those of ``RunWatcher``."""

    job: Job
    on_progress: ProgressCallback | None = None
    on_status: StatusCallback | None = None

    @cached_property
    def _work_dirs(self) -> WorkDirs:
        return WorkDirs.of(self.job.folder, self.job.request.work_dir)

    @cached_property
    def _watcher(self) -> RunWatcher:
        return RunWatcher(
            self.job.folder,
            self._work_dirs.local,
            stall_timeout=self.job.request.settings.worker_timeout,
            on_progress=self.on_progress,
            on_status=self.on_status,
        )

    @property
    def _job_file(self) -> Path:
        return self._work_dirs.local / job_name(self.job.run)

    def run(self) -> BatchReport:
        """Run the batch and return its report; Ctrl-C stops it gracefully, a second Ctrl-C at once.

        Raises:
            WorkerError: Workers repeatedly die before they do any work.
            BatchStopped: The batch was stopped, here or elsewhere; finished work is kept.
            ColabHelpersError: The worker refused to start, for example with FolderBusyError.
        """
        with self._watcher.counting_interrupts():
            try:
                with wrap_unwritable(self.job.folder):
                    self.job.folder.mkdir(parents=True, exist_ok=True)
                self._work_dirs.make()
                return self._run_to_end()
            finally:
                for path in (self._job_file, refusal_path(self._job_file)):
                    path.unlink(missing_ok=True)
                if not self._watcher.is_batch_running():
                    self._work_dirs.clean_up(self.job.run)

    def _run_to_end(self) -> BatchReport:
        """Start workers, or watch one that is running, until the batch has ended."""
        watched_run, cause, fruitless = self._active_run(), "", 0
        self._watcher.clear_stop_file()
        while True:
            if self._watcher.interrupts:
                raise self._stopped_error()
            journal_size = self._journal_size()
            end = self._follow(watched_run) if watched_run else self.start_worker(cause)
            if end.code == 0:
                return self._report_of(end.run) or self._raise_missing_report(end.run)
            if end.code == STOPPED:
                end_status(self._watcher.status_files, end.run, cancelled=True)
                raise BatchStopped(self._report_of(end.run))
            if self._watcher.interrupts:
                raise self._stopped_error()
            if end.code in (BUSY, REFUSED):
                watched_run = self._active_run() if end.code == BUSY else None
                if watched_run is None:
                    what = tr("the worker did not start and gave no reason{log}", log=self._log_tail())
                    raise read_refusal(self._job_file) or WorkerError(what, where=str(self._job_file))
                continue
            cause = end.cause
            if watched_run is not None:  # its own supervisor counts its deaths
                watched_run = self._active_run()
                continue
            fruitless = fruitless + 1 if self._journal_size() == journal_size else 0
            if fruitless >= _MAX_FRUITLESS:
                error = repeated_death_error(self.job.folder, fruitless, cause, self._log_tail())
                end_status(self._watcher.status_files, self.job.run, cancelled=False, note=str(error))
                raise error

    def _stopped_error(self) -> BatchStopped:
        """Clean up after a worker that was killed or never started; return the error to raise."""
        end_status(self._watcher.status_files, self.job.run, cancelled=True)
        self._watcher.clear_stop_file()
        return BatchStopped(self._report_of(self.job.run))

    def _active_run(self) -> str | None:
        """Return the run that processes this very job in the folder, if there is one."""
        status = self._watcher.status()
        same = status is not None and status.job == self.job.digest and status.alive()
        return status.run if status is not None and same else None

    def start_worker(self, cause: str) -> WorkerExit:
        """Start a worker and watch it until it ends."""
        self.job.save(self._job_file)
        command = [sys.executable, "-m", "colab_helpers.batch.worker", str(self._job_file)]
        command += ["--cause", cause] if cause else []
        # The worker inherits the blocked signals until its handlers are installed. In a session of its own
        # it receives neither the terminal's Ctrl-C nor its hangup.
        old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            with open(self._job_file.with_name(_LOG_NAME), "ab", opener=open_nofollow) as log:
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)
        stalled = self._watcher.wait_until_end(lambda _status: process.poll() is None, process.pid)
        try:
            code = process.wait(GRACE_PERIOD)
        except subprocess.TimeoutExpired as error:
            what = tr("the worker process {pid} was killed but does not exit", pid=process.pid)
            remedy = tr("check the disk or mount it works on, then run again")
            raise WorkerError(what, where=str(self.job.folder), remedy=remedy) from error
        stopped = -code in STOP_SIGNALS  # by a signal before its handlers were installed
        return WorkerExit(STOPPED if stopped else code, self.job.run, stalled or describe_exit(code))

    def _follow(self, run: str) -> WorkerExit:
        """Watch a worker that another process has started, here or on another machine, until it ends."""
        silence = StallTimer()

        def is_running(status: BatchStatus | None) -> bool:
            if status is not None and (status.run, status.state) != (run, "running"):
                return False
            if status is not None and status.host == socket.gethostname():
                return status.alive()
            # By our own clock: the other machine's may be wrong.
            return silence.seconds(status.updated if status else silence.value) < HEARTBEAT_TIMEOUT

        stalled = self._watcher.wait_until_end(is_running)
        last = self._watcher.status()
        if last is None or last.run != run or last.state == "running":
            return WorkerExit(1, run, stalled or tr("ended without a final status"))
        return WorkerExit(STOPPED if last.state == "cancelled" else 0, run, "")

    def _report_of(self, run: str) -> BatchReport | None:
        """Read the report of a run; None if there is none."""
        with suppress(ColabHelpersError):
            fetch(self.job.report_path)
        report = load_or_none(BatchReport, self.job.report_path)
        return report if report and report.run == run else None

    def _raise_missing_report(self, run: str) -> NoReturn:
        status = self._watcher.status()
        notes = status.notes[-1:] if status is not None and status.run == run else []
        what = tr("the run has ended without a report{note}", note="".join(f": {note}" for note in notes))
        remedy = tr("run again: finished work is kept")
        raise WorkerError(what, where=str(self.job.report_path), remedy=remedy)

    def _journal_size(self) -> int:
        state = size_and_mtime(self.job.folder / JOURNAL_NAME)
        return state[0] if state else 0

    def _log_tail(self) -> str:
        """Return the last lines of the workers' log, as the end of a sentence."""
        try:
            text = self._job_file.with_name(_LOG_NAME).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        lines = " | ".join(line for line in text.splitlines()[-_LOG_LINES:] if line.strip())
        return tr("; its last output: {lines}", lines=lines) if lines else ""
