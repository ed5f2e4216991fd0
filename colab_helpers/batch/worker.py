"""The process that does a batch: ``python -m colab_helpers.batch.worker JOB``.

It belongs to nobody: whoever started it may go, and whoever comes later reads its status. A crash, an
out-of-memory kill or a closed browser costs the segment at work; all memory is really free afterwards.
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
from colab_helpers.batch.plan import skipped_files
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


def main(argv: Sequence[str] | None = None) -> int:
    """Do a job in a process that does nothing else; returns the exit code, such as ``STOPPED``."""
    stop = StopToken(owns_process=True)
    tune_allocator()  # before any thread has a store of its own
    finish_startup()
    parser = argparse.ArgumentParser(prog="python -m colab_helpers.batch.worker")
    parser.add_argument("job", type=Path)
    parser.add_argument("--cause", help="what the worker before this one died of")
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
    """Do a batch in this process, speaking the job's language; return its report, which is also written.

    Args:
        job: What to do.
        cause: What the worker before this one died of, if it did.
        stop: Who asks to stop; by default only the file ``STOP``, and Ctrl-C where Python raises it.
        supervisor: The process that starts another if this one dies; 0: none.
        on_progress: Called up to four times a second while a video runs.
        make_pool: Makes those who do it, from what ``WorkerPool`` is made of up to ``announce``; None: as
        ``gpus`` says.
        host: What the status calls this machine; by default its name.

    Raises:
        FolderBusyError: Another batch works in the folder.
        RecycleError: The process is to be replaced, where it does nothing else.
        ColabHelpersError: Nothing could be started: consent, models, sources or folders.
    """
    with use_language(job.request.language):
        sync_inputs(job.folder, (), job.request.photo_paths)
        fetch(job.folder / STATUS_NAME)
        for task in job.tasks:
            needs_download(task.target)
        consent_for(job.request, job.inputs)
        work_dirs = WorkDirs.of(job.folder, job.request.work_dir)
        base_policy = WritePolicy(
            file_identities(job.inputs), overwrite=job.request.settings.overwrite, made=is_own_file
        )
        with folder_lock(job.folder, host):
            status = _begin(job, work_dirs, base_policy, supervisor, host)
            if cause:
                status.restarted(cause)
            report = _Run(
                job, work_dirs, status, stop or StopToken(), cause, on_progress, base_policy, make_pool
            ).run()
            for task in job.tasks:  # what workers held to the end
                unpin(task.target)
            work_dirs.clean_up(job.run)
        return report


def _begin(
    job: Job, work_dirs: WorkDirs, base_policy: WritePolicy, supervisor: int, host: str
) -> StatusWriter:
    """Make sure that all records may be written, and say that the run has begun."""
    for name in (JOURNAL_NAME, STATUS_NAME, SAMPLES_NAME):
        base_policy.ensure_writable(job.folder / name)
    sync_journal(job.folder / JOURNAL_NAME)
    check_report_path(job.report_path, base_policy)
    work_dirs.make()
    _remove_torn(job.folder)
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
    """A batch in its locked folder, up to its report; ``base_policy`` knows what the run itself may write."""

    base_policy: WritePolicy = field(default_factory=WritePolicy)
    make_pool: Callable[..., BatchRunner] | None = None

    def run(self) -> BatchReport:
        with self.stop.watching_file(self.job.folder / STOP_NAME, on_late=self._end_late):
            report = self._reported()
        # Not before: whoever reads that the run has ended reads its report next.
        self._end(cancelled=report.stopped)
        return report

    def _reported(self) -> BatchReport:
        """Do the work and write its report; whoever only reads the status learns why nothing was done."""
        samples = self.job.folder / SAMPLES_NAME
        try:
            with Recorder(
                samples,
                self.job.folder,
                gpus=self._devices,
                run_state=self._where_it_stands,
                on_sample=self.status.heartbeat,
            ):
                report = self._worked()
            report.save(self.job.report_path)
            self._make_page(report)
            self._send_records()
        except (ColabHelpersError, KeyboardInterrupt) as error:
            if isinstance(error, ColabHelpersError):
                self.status.note(str(error))
            self._end(cancelled=isinstance(error, KeyboardInterrupt))
            raise
        return report

    def _send_records(self) -> None:
        """Have beside the results in object storage what is kept of a run."""
        path = self.job.report_path
        records = [path, html_path(path), self.job.folder / SAMPLES_NAME]
        try:
            self.retry.attempt(lambda: send_all(records))
        except OutputError as error:
            self.status.note(tr("the report is on this machine alone: {error}", error=error))

    def _where_it_stands(self) -> Progress | str:
        """Return the progress of the file at work, or what is done in a word or two."""
        now = self.status.status
        stage = mark("loading models") if now.progress is None else mark("between files")
        running = now.running
        return replace(running, fps=now.rate or running.fps) if running else now.pause or stage

    def _end(self, *, cancelled: bool) -> None:
        self.status.end(cancelled=cancelled)
        self._clear_stop_file()

    def _clear_stop_file(self) -> None:
        with suppress(OSError, OutputError):
            remove(self.job.folder / STOP_NAME)

    @cached_property
    def _devices(self) -> list[str]:
        """What each of several workers on this machine sees; none where there are none."""
        request = self.job.request
        elsewhere = self.make_pool is not None or request.people == "only"
        return [] if elsewhere else devices_of(request.settings)

    def _worked(self) -> BatchReport:
        with Journal(self.job.folder / JOURNAL_NAME) as journal:
            request = self.job.request
            try:
                order, estimate = self._in_order()
                if self.make_pool is not None:
                    return self.make_pool(self, order, estimate, journal, [], self._announce).run()
                if self._devices:
                    announce = partial(self._announce, workers=len(self._devices))
                    return WorkerPool(self, order, estimate, journal, self._devices, announce).run()
                runner = TaskRunner.open(self, self.base_policy, journal, self._announce)
            except KeyboardInterrupt:
                return SkippingRunner(self, (), Estimate((), (), self.status), "").run()
            if request.people == "only":
                return SkippingRunner(self, order, estimate, tr("only the people were asked for")).run()
            return InProcessRunner(self, order, estimate, runner).run()

    def _in_order(self) -> tuple[list[int], Estimate]:
        """Return the order of the files, and what tells how many of them fit the session."""
        plan, request = self.job.tasks, self.job.request
        loads: list[tuple[int, int] | None] = [None] * len(plan)
        if request.session_minutes or request.shortest_first:
            loads = [workload_of(task.target, heartbeat=self.heartbeat) for task in plan]
        order = shortest_first(loads) if request.shortest_first else list(range(len(plan)))
        return order, Estimate(loads, order, self.status)

    def _announce(self, notes: Iterable[str], times: int, workers: int = 1) -> None:
        """Say before the start what is to be done, and whether there is so many times the targets' room."""
        if self.status.status.notes:  # a worker before this one has said it
            return
        # Not Path.is_file: it raises for names that no system takes.
        there = [task.target for task in self.job.tasks if os.path.isfile(task.target)]  # noqa: PTH113
        size, free = sum(path.stat().st_size for path in there), disk_free(self.job.folder)
        videos, memory = this_machine().capacity
        told = tr(
            "{files} file(s), {size:.1f} GB; {free:.0f} GB are free. This machine's {memory} would bear "
            "{videos} video(s) at once; one is worked on at a time",
            files=len(self.job.tasks),
            size=size / 1e9,
            free=free / 1e9,
            videos=videos,
            memory=memory,
        )
        if workers > 1:
            together = mark(
                "{files} file(s), {size:.1f} GB; {free:.0f} GB are free. {workers} workers share them"
            )
            told = tr(together, files=len(self.job.tasks), size=size / 1e9, free=free / 1e9, workers=workers)
        tight = tr(
            "all results may need {needed:.1f} GB, but {free:.1f} GB are free: later files may find no room",
            needed=times * size / 1e9,
            free=free / 1e9,
        )
        left_out = skipped_files(self.job.folders)
        stays = address_of(self.job.folder) is None  # else each result leaves this disk
        short = [tight] if stays and free < times * size else []
        self.status.note(told, *self.job.notes, *notes, *left_out, *short)

    def _end_late(self) -> None:
        """End a process whose work hangs although it was asked to stop; finished segments are noted."""
        note = tr("the work did not end within {limit:.0f} seconds of being asked to", limit=STOP_TIMEOUT)
        local_path = self.work_dirs.local if self.work_dirs.has_remote_results else self.job.folder
        end_status([local_path / STATUS_NAME], self.job.run, cancelled=True, note=note)
        self._clear_stop_file()
        os._exit(STOPPED)

    def _make_page(self, report: BatchReport) -> None:
        """Make the report for people; whatever happens, that for machines is there already."""
        path = self.job.report_path
        problem = tr("stopped by the user")
        try:
            if not report.stopped:
                problem = make_page(self.job.folder, path, self.heartbeat)
        except KeyboardInterrupt:
            report.stopped = True
        except Exception as error:  # noqa: BLE001 - a page that shows the results must not cost them
            problem = f"{type(error).__name__}: {error}"
        if not problem:
            return
        _remove_torn(path.parent)
        with suppress(OSError):
            html_path(path).unlink(missing_ok=True)  # it is of an earlier run
        note = tr("{file} was not made: {reason}", file=html_path(path).name, reason=problem)
        report.notes.append(note)
        self.status.note(note)
        report.save(path)


def _remove_torn(folder: Path) -> None:
    """Remove what a killed process left of files it was about to replace."""
    for name in (STATUS_NAME, REPORT_NAME, HTML_REPORT_NAME):
        for torn in folder.glob(f".{name}.*.part"):
            with suppress(OSError):
                torn.unlink()


if __name__ == "__main__":
    exit_immediately(main())
