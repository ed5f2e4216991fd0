"""The process that does a batch: ``python -m colab_helpers.batch.worker JOB``.

It belongs to nobody: whoever started it may go, and whoever comes later reads its status. A crash, an
out-of-memory kill or a closed browser costs the segment at work; all memory is really free afterwards.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from colab_helpers.batch.forecast import forecast
from colab_helpers.batch.job import Job, Source
from colab_helpers.batch.journal import Journal, read_journal
from colab_helpers.batch.lock import FolderBusyError, folder_lock
from colab_helpers.batch.names import HTML_REPORT_NAME, JOURNAL_NAME, REPORT_NAME, STATUS_NAME, STOP_NAME
from colab_helpers.batch.places import Patience, WorkPlaces
from colab_helpers.batch.protocol import (
    BUSY,
    RECYCLE,
    REFUSED,
    Refusal,
    refusal_path,
)
from colab_helpers.batch.report import BatchReport
from colab_helpers.batch.results import Digests, Results, model_digest
from colab_helpers.batch.runner import Batch, RecycleError, Resumption, source_embedding
from colab_helpers.batch.status import StatusWriter
from colab_helpers.errors import ColabHelpersError
from colab_helpers.faces.engine import Engine
from colab_helpers.files import sha256_of
from colab_helpers.language import language, mark, spoken, tr
from colab_helpers.machine import disk_free, this_machine
from colab_helpers.progress import ProgressCallback
from colab_helpers.resources.allocator import tune_allocator
from colab_helpers.resources.recorder import Recorder
from colab_helpers.resources.samples import SAMPLES_NAME, RunState
from colab_helpers.settings import Settings
from colab_helpers.trust.consent import require_consent

# Pictures may be looked for for a minute; a decoder that hangs must not hold up the run.
_PAGE_SECONDS = 300.0


def main(argv: Sequence[str] | None = None) -> int:
    """Do a job; returns the exit code, see ``protocol``."""
    parser = argparse.ArgumentParser(prog="python -m colab_helpers.batch.worker")
    parser.add_argument("job", type=Path)
    parser.add_argument("--cause", help="what the worker before this one died of")
    options = parser.parse_args(argv)
    job = Job.load(options.job)
    tune_allocator()
    with _one_stop_signal():
        try:
            run_job(job, cause=options.cause, recyclable=True)
        except RecycleError as reason:
            print(f"replaced: {reason}", flush=True)
            return RECYCLE
        except FolderBusyError as error:
            Refusal.of(error).save(refusal_path(options.job))
            return BUSY
        except ColabHelpersError as error:
            Refusal.of(error).save(refusal_path(options.job))
            return REFUSED
    return 0


def run_job(
    job: Job,
    *,
    cause: str | None = None,
    recyclable: bool = False,
    on_progress: ProgressCallback | None = None,
) -> BatchReport:
    """Do a batch in this process, speaking the job's language.

    Args:
        job: What to do.
        cause: What the worker before this one died of, if it did.
        recyclable: Whether the process may be replaced between two files; see ``Batch.run``.
        on_progress: Called up to four times a second while a video runs.

    Returns:
        The report, which is also written.

    Raises:
        FolderBusyError: Another batch works in the folder.
        RecycleError: The process is to be replaced.
        ColabHelpersError: Nothing could be started: consent, models, sources or folders.
    """
    with spoken(job.language):
        return _run_job(job, cause=cause, recyclable=recyclable, on_progress=on_progress)


def _run_job(
    job: Job, *, cause: str | None, recyclable: bool, on_progress: ProgressCallback | None
) -> BatchReport:
    folder, settings = job.folder, Settings.model_validate(job.settings)
    tasks = job.plan
    consent = require_consent(
        job.consent, [*(s.path for s in job.sources if s.path), *(t.target for t in tasks)]
    )
    places = WorkPlaces.of(folder, Path(job.work_dir) if job.work_dir else None)
    with folder_lock(folder, places.local if places.mirror else None):
        _remove_torn(folder)
        near = places.local / STATUS_NAME if places.mirror else None
        status = StatusWriter(folder / STATUS_NAME, tasks, near=near, run=job.run, job=job.digest)
        if cause:
            status.restarted(cause)
        recorder = Recorder(
            folder / SAMPLES_NAME, folder, run_state=lambda: _run_state(status), on_sample=status.beat
        )
        with _refusals_told(status):
            with recorder, Journal(folder / JOURNAL_NAME) as journal:
                engine = Engine.open(settings, models_dir=Path(job.models_dir) if job.models_dir else None)
                status.tick()
                batch = Batch(
                    engine=engine,
                    sources=[source.name for source in job.sources],
                    source=source_embedding(engine, job.sources),
                    tasks=tasks,
                    consent=consent,
                    on_progress=on_progress,
                    status=status,
                )
                results = Results(
                    journal,
                    read_journal(folder / JOURNAL_NAME),
                    sources=[_digest(source) for source in job.sources],
                    settings=engine.settings,
                    models={net.name: model_digest(net.path) for net in engine.networks},
                    run=job.run,
                    digests=Digests(places.local / "digests.json", beat=batch.beat),
                )
                batch.resumption = Resumption(
                    results=results,
                    places=places,
                    patience=Patience(longest=engine.settings.output_wait, tell=_waiting(batch, status)),
                    stop_file=folder / STOP_NAME,
                    cause=cause,
                    recyclable=recyclable,
                )
                _announce(batch, job, status)
                report = batch.run()
            _save(report, job)
        # Not before: whoever reads that the run has ended reads its report next.
        status.end(cancelled=batch.cancelled)
        (folder / STOP_NAME).unlink(missing_ok=True)
        places.tidy(job.run)
    return report


@contextmanager
def _refusals_told(status: StatusWriter) -> Iterator[None]:
    """Whoever only reads the status learns why nothing was done."""
    try:
        yield
    except ColabHelpersError as error:
        status.note(str(error))
        status.end()
        raise


def _digest(source: Source) -> str:
    return sha256_of(source.path) if source.path else source.image


def _announce(batch: Batch, job: Job, status: StatusWriter) -> None:
    """Say before the start what is to be done, whether there is room for it, and how long it will take."""
    machine, tasks = this_machine(), batch.tasks
    targets = [task.target for task in tasks]
    size = sum(target.stat().st_size for target in targets if target.is_file())
    free = disk_free(job.folder)
    if not status.status.restarts:
        status.note(
            tr(
                "{files} file(s), {size:.1f} GB; {free:.0f} GB are free. This machine could "
                "safely work on {videos} video(s) at once; one is worked on at a time",
                files=len(tasks),
                size=size / 1e9,
                free=free / 1e9,
                videos=machine.safe_capacity,
            )
        )
        if free < 2 * size:
            status.note(
                tr(
                    "all results may need {needed:.1f} GB, but {free:.1f} GB are free: later "
                    "files may find no room",
                    needed=2 * size / 1e9,
                    free=free / 1e9,
                )
            )
    if job.session_minutes or job.shortest_first:
        found = forecast(batch.engine, batch.source, targets, beat=batch.beat)
        batch.order = found.shortest_first(targets) if job.shortest_first else None
        in_order = [targets[n] for n in batch.order] if batch.order else targets
        status.note(found.line(in_order, job.session_minutes))


def _waiting(batch: Batch, status: StatusWriter) -> Callable[[str | None], None]:
    def tell(reason: str | None) -> None:
        status.pause(reason)
        batch.beat()

    return tell


def _run_state(status: StatusWriter) -> RunState:
    now = status.status
    running = next((file for file in now.files if file.state == "running"), None)
    if running is None:
        return RunState(
            stage=now.pause or (mark("loading models") if not now.provider else mark("between files"))
        )
    return RunState(
        file=Path(running.target).name,
        frame=running.frame,
        fps=running.fps,
        queues=dict(now.waiting),
        stage=running.stage,
    )


def _save(report: BatchReport, job: Job) -> None:
    """Write the report for machines, and have the one for people written beside it."""
    path = Path(job.report_path)
    report.save(path)
    problem = _page_problem(job.folder, path)
    if problem:
        report.notes.append(
            tr("{file} could not be written: {reason}", file=HTML_REPORT_NAME, reason=problem)
        )
        report.save(path)


def _page_problem(folder: Path, report: Path) -> str:
    """Have another process write the page: a decoder that crashes there costs nothing else.

    Returns:
        Why it could not; empty if it did.
    """
    command = [sys.executable, "-m", "colab_helpers.pages", str(folder), "--report", str(report)]
    command += ["--language", language()]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PAGE_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    last = done.stderr.strip().splitlines()[-1:] or [tr("exit code {code}", code=done.returncode)]
    return last[0] if done.returncode else ""


def _remove_torn(folder: Path) -> None:
    """Remove what a killed process left of files it was about to replace."""
    for name in (STATUS_NAME, REPORT_NAME, HTML_REPORT_NAME):
        for torn in folder.glob(f".{name}.*.part"):
            with suppress(OSError):
                torn.unlink()


@contextmanager
def _one_stop_signal() -> Iterator[None]:
    """SIGINT or SIGTERM ends the work cleanly; more of them do not disturb the cleaning up."""

    def stop(number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # Threads of drivers and libraries may hold up a normal exit; everything is on disk already.
    os._exit(code)
