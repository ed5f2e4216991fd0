"""Run a batch in a process of its own: ``python -m colab_helpers.batch.worker JOB``.

The process outlives its parent; its state is in the status file. A crash, an out-of-memory kill or a closed
browser costs at most the current segment, and all memory is returned to the system.
"""

from __future__ import annotations

from colab_helpers.startup import begin_startup, exit_immediately, finish_startup

if __name__ == "__main__":
    begin_startup()

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

from colab_helpers.addresses import address_of
from colab_helpers.batch.batch_runner import BatchRunner, InProcessRunner, SkippingRunner
from colab_helpers.batch.context import WorkerContext
from colab_helpers.batch.drive import WorkDirs, supervisor_of
from colab_helpers.batch.estimate import Estimate, shortest_first, workload_of
from colab_helpers.batch.job import Job, consent_for
from colab_helpers.batch.journal import Journal, sync_journal
from colab_helpers.batch.lock import FolderBusyError, folder_lock
from colab_helpers.batch.memory_growth import RecycleError
from colab_helpers.batch.object_store import fetch, needs_download, remove, send_all, sync_inputs, unpin
from colab_helpers.batch.plan import notes_on_skipped
from colab_helpers.batch.processes import BUSY, REFUSED, STOPPED, make_page, write_refusal
from colab_helpers.batch.report import (
    HTML_REPORT_NAME,
    JOURNAL_NAME,
    REPORT_NAME,
    BatchReport,
    check_report_path,
    html_path,
    is_own_file,
)
from colab_helpers.batch.status import StatusWriter, end_status
from colab_helpers.batch.stop import STATUS_NAME, STOP_NAME, STOP_TIMEOUT, StopToken
from colab_helpers.batch.task_runner import TaskRunner
from colab_helpers.batch.worker_pool import WorkerPool, devices_of
from colab_helpers.batch.write_policy import WritePolicy, file_identities
from colab_helpers.errors import ColabHelpersError, OutputError
from colab_helpers.language import mark, tr, use_language
from colab_helpers.machine import disk_free, this_machine
from colab_helpers.progress import Progress, ProgressCallback
from colab_helpers.resources.allocator import tune_allocator
from colab_helpers.resources.recorder import Recorder
from colab_helpers.resources.samples import SAMPLES_NAME

_SUMMARY = mark(
    "{files} file(s), {size:.1f} GB; {free:.0f} GB are free. This machine's {memory} is enough for "
    "{videos} video(s) at once; files are processed one at a time"
)
_POOL_SUMMARY = mark("{files} file(s), {size:.1f} GB; {free:.0f} GB are free. {workers} workers share them")
_SHORT_OF_SPACE = mark(
    "the results may need up to {needed:.1f} GB, but {free:.1f} GB are free: later files may not fit"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a job as the main program of this process; return the exit code, such as ``STOPPED``."""
    stop = StopToken(owns_process=True)
    tune_allocator()  # before any thread has an arena of its own
    finish_startup()
    parser = argparse.ArgumentParser(prog="python -m colab_helpers.batch.worker")
    parser.add_argument("job", type=Path)
    parser.add_argument("--cause", help="why the previous worker died")
    options = parser.parse_args(argv)
    try:
        job = Job.load(options.job)
        report = run_job(job, cause=options.cause, stop=stop, supervisor=supervisor_of(options.job))
    except RecycleError as reason:
        print(f"replaced: {reason}", flush=True)
        stop.replace_process([sys.executable, "-m", "colab_helpers.batch.worker", str(options.job)])
    except ColabHelpersError as error:
        write_refusal(options.job, error)
        return BUSY if isinstance(error, FolderBusyError) else REFUSED
    return STOPPED if report.stopped else 0


def run_job(
    job: Job,
    *,
    cause: str | None = None,
    stop: StopToken | None = None,
    supervisor: int = 0,
    on_progress: ProgressCallback | None = None,
    make_pool: Callable[..., BatchRunner] | None = None,
    host: str = "",
) -> BatchReport:
    """Run a batch in this process and in the job's language; return its report, which is also written.

    Args:
        job: The job.
        cause: Why the previous worker died, if it did.
        stop: Where stops are requested; by default the file ``STOP``, and Ctrl-C if Python raises it.
        supervisor: Process that starts another worker if this one dies; 0: none.
        on_progress: Called up to four times a second while a video is processed.
        make_pool: Creates the worker pool from the arguments of ``WorkerPool``; None: chosen by ``gpus``.
        host: Name of this machine in the status; by default its host name.

    Raises:
        FolderBusyError: Another batch is running in the folder.
        RecycleError: This process, which runs only the batch, holds too much memory and must be replaced.
        ColabHelpersError: The batch cannot start because of its consent, models, sources or folders.
    """
    with use_language(job.request.language):
        sync_inputs(job.folder, (), job.request.photo_paths)
        fetch(job.folder / STATUS_NAME)
        for task in job.tasks:
            needs_download(task.target)
        consent_for(job.request, job.inputs)
        work_dirs = WorkDirs.of(job.folder, job.request.work_dir)
        overwrite = job.request.settings.overwrite
        base_policy = WritePolicy(file_identities(job.inputs), overwrite, made=is_own_file)
        with folder_lock(job.folder, host):
            status = _begin(job, work_dirs, base_policy, supervisor, host)
            if cause:
                status.note_restart(cause)
            stop = stop or StopToken()
            report = _Run(job, work_dirs, status, stop, cause, on_progress, base_policy, make_pool).run()
            for task in job.tasks:  # pinned by workers up to the end
                unpin(task.target)
            work_dirs.clean_up(job.run)
        return report


def _begin(job: Job, work_dirs: WorkDirs, policy: WritePolicy, supervisor: int, host: str) -> StatusWriter:
    """Make sure that all records may be written, and write the first status."""
    for name in (JOURNAL_NAME, STATUS_NAME, SAMPLES_NAME):
        policy.ensure_writable(job.folder / name)
    sync_journal(job.folder / JOURNAL_NAME)
    check_report_path(job.report_path, policy)
    work_dirs.make()
    _remove_partial_files(job.folder)
    return StatusWriter(
        job.folder / STATUS_NAME,
        job.tasks,
        local_path=work_dirs.local / STATUS_NAME if work_dirs.has_remote_results else None,
        run=job.run,
        job=job.digest,
        supervisor=supervisor,
        host=host,
        session_minutes=job.request.session_minutes,
    )


@dataclass(frozen=True, eq=False)
class _Run(WorkerContext):
    """A batch in its locked folder, up to its report; ``base_policy``: where the run itself may write."""

    base_policy: WritePolicy = field(default_factory=WritePolicy)
    make_pool: Callable[..., BatchRunner] | None = None

    def run(self) -> BatchReport:
        with self.stop.watching_file(self.job.folder / STOP_NAME, on_late=self._end_late):
            report = self._run_and_report()
        # Last, since readers of the final status expect the report.
        self._end(cancelled=report.stopped)
        return report

    def _run_and_report(self) -> BatchReport:
        """Process the files and write the report; note an error in the status before raising it."""
        samples = self.job.folder / SAMPLES_NAME
        try:
            folder, devices, on_sample = self.job.folder, self._devices, self.status.heartbeat
            with Recorder(samples, folder, gpus=devices, run_state=self._run_state, on_sample=on_sample):
                report = self._process_files()
            report.save(self.job.report_path)
            self._make_page(report)
            self._upload_records()
        except (ColabHelpersError, KeyboardInterrupt) as error:
            if isinstance(error, ColabHelpersError):
                self.status.note(str(error))
            self._end(cancelled=isinstance(error, KeyboardInterrupt))
            raise
        return report

    def _upload_records(self) -> None:
        """Upload report and samples if the results go to object storage."""
        path = self.job.report_path
        records = [path, html_path(path), self.job.folder / SAMPLES_NAME]
        try:
            self.retry.attempt(lambda: send_all(records))
        except OutputError as error:
            self.status.note(tr("the report could not be uploaded: {error}", error=error))

    def _run_state(self) -> Progress | str:
        """Return the progress of the current file, or the current stage in a word or two."""
        status = self.status.status
        stage = mark("loading models") if status.progress is None else mark("between files")
        running = status.running
        return replace(running, fps=status.rate or running.fps) if running else status.pause or stage

    def _end(self, *, cancelled: bool) -> None:
        self.status.end(cancelled=cancelled)
        self._clear_stop_file()

    def _clear_stop_file(self) -> None:
        with suppress(OSError, OutputError):
            remove(self.job.folder / STOP_NAME)

    @cached_property
    def _devices(self) -> list[str]:
        """Device of each worker of a local pool; empty if there is none."""
        request = self.job.request
        no_local_pool = self.make_pool is not None or request.people == "only"
        return [] if no_local_pool else devices_of(request.settings)

    def _process_files(self) -> BatchReport:
        with Journal(self.job.folder / JOURNAL_NAME) as journal:
            request = self.job.request
            try:
                order, estimate = self._order_files()
                if self.make_pool is not None:
                    return self.make_pool(self, order, estimate, journal, [], self._announce).run()
                if self._devices:
                    announce = partial(self._announce, workers=len(self._devices))
                    return WorkerPool(self, order, estimate, journal, self._devices, announce).run()
                runner = TaskRunner.open(self, self.base_policy, journal, self._announce)
            except KeyboardInterrupt:
                return SkippingRunner(self, (), Estimate((), (), self.status), "").run()
            if request.people == "only":
                reason = tr("only a search for people was requested")
                return SkippingRunner(self, order, estimate, reason).run()
            return InProcessRunner(self, order, estimate, runner).run()

    def _order_files(self) -> tuple[list[int], Estimate]:
        """Return the order of the files, and the estimate of how many of them fit the session."""
        tasks, request = self.job.tasks, self.job.request
        loads: list[tuple[int, int] | None] = [None] * len(tasks)
        if request.session_minutes or request.shortest_first:
            loads = [workload_of(task.target, heartbeat=self.heartbeat) for task in tasks]
        order = shortest_first(loads) if request.shortest_first else list(range(len(tasks)))
        return order, Estimate(loads, order, self.status)

    def _announce(self, notes: Iterable[str], times: int, workers: int = 1) -> None:
        """Note the extent of the batch, and a warning unless ``times`` the targets' size is free."""
        if self.status.status.notes:  # noted by an earlier worker of this run
            return
        # Not Path.is_file, which raises for invalid names.
        targets = [task.target for task in self.job.tasks if os.path.isfile(task.target)]  # noqa: PTH113
        size, free = sum(path.stat().st_size for path in targets), disk_free(self.job.folder)
        videos, memory = this_machine().capacity
        values = {"files": len(self.job.tasks), "size": size / 1e9, "free": free / 1e9}
        if workers > 1:
            summary = tr(_POOL_SUMMARY, workers=workers, **values)
        else:
            summary = tr(_SUMMARY, videos=videos, memory=memory, **values)
        is_local = address_of(self.job.folder) is None  # otherwise each result leaves this disk
        short = is_local and free < times * size
        warnings = [tr(_SHORT_OF_SPACE, needed=times * size / 1e9, free=free / 1e9)] if short else []
        self.status.note(summary, *self.job.notes, *notes, *notes_on_skipped(self.job.folders), *warnings)

    def _end_late(self) -> None:
        """Exit although the work hangs after a stop was requested; finished segments are journaled."""
        note = tr("the work did not stop within {limit:.0f} seconds of the request", limit=STOP_TIMEOUT)
        local_path = self.work_dirs.local if self.work_dirs.has_remote_results else self.job.folder
        end_status([local_path / STATUS_NAME], self.job.run, cancelled=True, note=note)
        self._clear_stop_file()
        os._exit(STOPPED)

    def _make_page(self, report: BatchReport) -> None:
        """Render the HTML report; failures are noted in the JSON report, which is written already."""
        path = self.job.report_path
        problem = tr("stopped by the user")
        try:
            if not report.stopped:
                problem = make_page(self.job.folder, path, self.heartbeat)
        except KeyboardInterrupt:
            report.stopped = True
        except Exception as error:  # noqa: BLE001 - a failed page must not cost the results
            problem = f"{type(error).__name__}: {error}"
        if not problem:
            return
        _remove_partial_files(path.parent)
        with suppress(OSError):
            html_path(path).unlink(missing_ok=True)  # an earlier run's
        note = tr("{file} was not written: {reason}", file=html_path(path).name, reason=problem)
        report.notes.append(note)
        self.status.note(note)
        report.save(path)


def _remove_partial_files(folder: Path) -> None:
    """Remove temporary files of atomic writes that a killed process left."""
    for name in (STATUS_NAME, REPORT_NAME, HTML_REPORT_NAME):
        for path in folder.glob(f".{name}.*.part"):
            with suppress(OSError):
                path.unlink()


if __name__ == "__main__":
    exit_immediately(main())
