"""The process that does a batch: ``python -m colab_helpers.batch.worker JOB``.

It belongs to nobody: whoever started it may go, and whoever comes later reads its status. A crash, an
out-of-memory kill or a closed browser costs the segment at work; all memory is really free afterwards.
What loads the networks is imported where it is used: until then nobody who only watches needs it.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict

from colab_helpers import errors
from colab_helpers.batch.job import Job, Source
from colab_helpers.batch.journal import Journal, read_journal
from colab_helpers.batch.lock import FolderBusyError, folder_lock
from colab_helpers.batch.names import HTML_REPORT_NAME, JOURNAL_NAME, REPORT_NAME, STATUS_NAME, STOP_NAME
from colab_helpers.batch.places import Patience, WorkPlaces, supervisor_of
from colab_helpers.batch.plan import Writable, identities, skipped_files
from colab_helpers.batch.report import BatchReport, clear_report, html_path, own_file, summarize, write_text
from colab_helpers.batch.status import StatusWriter, end_status
from colab_helpers.errors import ColabHelpersError, WorkerError
from colab_helpers.files import sha256_of, to_json
from colab_helpers.language import VARIABLE, language, mark, spoken, tr
from colab_helpers.machine import disk_free, this_machine
from colab_helpers.progress import ProgressCallback
from colab_helpers.resources.allocator import tune_allocator
from colab_helpers.resources.recorder import Recorder
from colab_helpers.resources.samples import SAMPLES_NAME, RunState
from colab_helpers.settings import Settings
from colab_helpers.trust.consent import require_consent

if TYPE_CHECKING:
    from colab_helpers.batch.outlook import Outlook
    from colab_helpers.batch.runner import Batch

STOPPED, BUSY, REFUSED = 75, 76, 77
"""Exit codes: stopped by somebody; the folder is another's; nothing was started. 0: all was tried."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_LOOK_EVERY = 0.5
# How long work may take to end when it is asked to; less than whoever watches waits for it.
_LONGEST_STOP = 45.0
# How long the page of the report may take, whose pictures are decoded.
_PAGE_SECONDS = 180.0


class Refusal(BaseModel):
    """An error on its way from one process to another."""

    model_config = ConfigDict(extra="forbid")

    kind: str
    what: str
    where: str = ""
    remedy: str = ""

    @classmethod
    def of(cls, error: ColabHelpersError) -> Self:
        """What is to be said."""
        # The nearest class that everybody knows: a room's own subclass need not be importable there.
        kind = next(base.__name__ for base in type(error).__mro__ if hasattr(errors, base.__name__))
        return cls(kind=kind, what=error.what, where=error.where, remedy=error.remedy)

    def error(self) -> ColabHelpersError:
        """The error, to be raised again."""
        kind = getattr(errors, self.kind, WorkerError)
        found: ColabHelpersError = kind(self.what, where=self.where, remedy=self.remedy)
        return found

    def save(self, path: Path) -> None:
        """Write it down."""
        write_text(path, to_json(self))


def refusal_path(job: Path) -> Path:
    """Where a worker writes why it did not begin its job."""
    return job.with_suffix(".refused.json")


class Stop:
    """A stop that somebody asks for, by a signal or the file ``STOP``; raised where the work can take it.

    Args:
        owns_process: Whether this process does nothing but the batch: its signals are taken then, and it is
            ended where the work hangs.
    """

    def __init__(self, *, owns_process: bool = False) -> None:
        self.owns_process = owns_process
        self._asked_at: float | None = None
        self._at_once = False
        if owns_process:
            for number in STOP_SIGNALS:
                signal.signal(number, self._ask)
            # Whoever has started this process holds them back until there is somebody to take them.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    @property
    def asked(self) -> bool:
        """Whether somebody has asked."""
        return self._asked_at is not None

    def _ask(self, *_: object) -> None:
        self._asked_at = self._asked_at or time.monotonic()
        if self._at_once:
            self._at_once = False
            raise KeyboardInterrupt

    def check(self) -> None:
        """Go on, unless somebody has asked.

        Raises:
            KeyboardInterrupt: Somebody has.
        """
        if self.asked:
            raise KeyboardInterrupt

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Where nothing is written, a stop need not wait for the next check.

        Raises:
            KeyboardInterrupt: Somebody has asked, before or meanwhile.
        """
        self._at_once = self.owns_process
        try:
            self.check()
            yield
        finally:
            self._at_once = False
        self.check()

    @contextmanager
    def looking_for(self, file: Path, *, on_late: Callable[[], None]) -> Iterator[None]:
        """Look for the file that asks; from a thread, since looking may hang on a mounted drive.

        Args:
            file: Whoever makes it asks the batch to stop.
            on_late: Called where the work does not end in time; ends the process.
        """
        ended = threading.Event()
        threading.Thread(target=self._look, args=(file, ended, on_late), name="stop", daemon=True).start()
        try:
            yield
        finally:
            ended.set()

    def _look(self, file: Path, ended: threading.Event, on_late: Callable[[], None]) -> None:
        while not ended.wait(_LOOK_EVERY):
            if self._asked_at is None:
                with suppress(OSError):
                    if file.exists():
                        self._tell()
            elif self.owns_process and time.monotonic() - self._asked_at > _LONGEST_STOP:
                on_late()

    def _tell(self) -> None:
        if self.owns_process:
            os.kill(os.getpid(), signal.SIGTERM)  # taken by the main thread, whatever it waits for
        else:
            self._asked_at = time.monotonic()

    def replace_process(self, job: Path) -> None:
        """Go on with the job in a fresh process under the same number; whoever watches need not know."""
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        if self.asked:
            os.kill(os.getpid(), signal.SIGTERM)  # for the next one
        os.closerange(3, max(os.sysconf("SC_OPEN_MAX"), 1 << 16))
        os.execv(sys.executable, [sys.executable, "-m", "colab_helpers.batch.worker", str(job)])


def main(argv: Sequence[str] | None = None) -> int:
    """Do a job in a process that does nothing else; returns the exit code, such as ``STOPPED``."""
    stop = Stop(owns_process=True)
    tune_allocator()  # before any thread has a store of its own
    parser = argparse.ArgumentParser(prog="python -m colab_helpers.batch.worker")
    parser.add_argument("job", type=Path)
    parser.add_argument("--cause", help="what the worker before this one died of")
    options = parser.parse_args(argv)
    from colab_helpers.batch.runner import RecycleError

    try:
        job = Job.load(options.job)
        report = run_job(job, cause=options.cause, stop=stop, supervisor=supervisor_of(options.job))
    except RecycleError as reason:
        print(f"replaced: {reason}", flush=True)
        stop.replace_process(options.job)
    except ColabHelpersError as error:
        Refusal.of(error).save(refusal_path(options.job))
        return BUSY if isinstance(error, FolderBusyError) else REFUSED
    return STOPPED if report.stopped else 0


def run_job(
    job: Job,
    *,
    cause: str | None = None,
    stop: Stop | None = None,
    supervisor: int = 0,
    on_progress: ProgressCallback | None = None,
) -> BatchReport:
    """Do a batch in this process, speaking the job's language.

    Args:
        job: What to do.
        cause: What the worker before this one died of, if it did.
        stop: Who asks to stop; by default only the file ``STOP``, and Ctrl-C where Python raises it.
        supervisor: The process that starts another if this one dies; 0: none.
        on_progress: Called up to four times a second while a video runs.

    Returns:
        The report, which is also written; ``stopped`` in it tells whether somebody stopped the batch.

    Raises:
        FolderBusyError: Another batch works in the folder.
        RecycleError: The process is to be replaced, where it does nothing else.
        ColabHelpersError: Nothing could be started: consent, models, sources or folders.
    """
    with spoken(job.language):
        return _Run(job, cause, stop or Stop(), supervisor, on_progress).run()


class _Run:
    """A batch from the lock on its folder to its report."""

    def __init__(
        self,
        job: Job,
        cause: str | None,
        stop: Stop,
        supervisor: int,
        on_progress: ProgressCallback | None,
    ) -> None:
        self._job, self._cause, self._stop = job, cause, stop
        self._supervisor, self._on_progress = supervisor, on_progress
        self._places = WorkPlaces.of(job.folder, Path(job.work_dir) if job.work_dir else None)
        self._stop_file = job.folder / STOP_NAME
        self._near = (self._places.local if self._places.mirror else job.folder) / STATUS_NAME
        self._settings = Settings.model_validate(job.settings)
        self._own = Writable(identities(job.inputs), overwrite=self._settings.overwrite, made=own_file)

    def run(self) -> BatchReport:
        job = self._job
        consent = require_consent(
            job.consent, [*(s.path for s in job.sources if s.path), *(t.target for t in job.plan)]
        )
        with folder_lock(job.folder):
            for name in (JOURNAL_NAME, STATUS_NAME, SAMPLES_NAME):
                self._own.clear(job.folder / name)
            clear_report(Path(job.report_path), self._own)
            self._places.make()
            _remove_torn(job.folder)
            self._status = status = StatusWriter(
                job.folder / STATUS_NAME,
                job.plan,
                near=self._near if self._places.mirror else None,
                run=job.run,
                job=job.digest,
                supervisor=self._supervisor,
            )
            if self._cause:
                status.restarted(self._cause)
            with self._stop.looking_for(self._stop_file, on_late=self._end_late):
                report = self._reported(consent)
            # Not before: whoever reads that the run has ended reads its report next.
            self._end(cancelled=report.stopped)
            self._places.tidy(job.run)
        return report

    def _reported(self, consent: str) -> BatchReport:
        """Do the work and write its report; whoever only reads the status learns why nothing was done."""
        status = self._status
        try:
            with Recorder(
                self._job.folder / SAMPLES_NAME,
                self._job.folder,
                run_state=lambda: _run_state(status),
                on_sample=status.beat,
            ):
                report = self._worked(consent)
            report.save(Path(self._job.report_path))
            self._make_page(report)
        except (ColabHelpersError, KeyboardInterrupt) as error:
            if isinstance(error, ColabHelpersError):
                status.note(str(error))
            self._end(cancelled=isinstance(error, KeyboardInterrupt))
            raise
        return report

    def _end(self, *, cancelled: bool) -> None:
        self._status.end(cancelled=cancelled)
        with suppress(OSError):
            self._stop_file.unlink(missing_ok=True)

    def _worked(self, consent: str) -> BatchReport:
        with Journal(self._job.folder / JOURNAL_NAME) as journal:
            try:
                batch = self._prepared(journal, consent)
            except KeyboardInterrupt:
                return self._nothing_done(consent)
            return batch.run()

    def _prepared(self, journal: Journal, consent: str) -> Batch:
        """Load the networks and the sources, and look at what there is to do.

        Raises:
            KeyboardInterrupt: Somebody asks to stop.
        """
        from colab_helpers.batch.results import Digests, Results, model_digest
        from colab_helpers.batch.runner import Batch, Resumption, identity_of
        from colab_helpers.faces.engine import Engine
        from colab_helpers.resources.guard import MemoryGuard

        job, stop, status = self._job, self._stop, self._status
        with stop.at_once():
            engine = Engine.open(self._settings, models_dir=Path(job.models_dir) if job.models_dir else None)
            status.tick()
            source = identity_of(engine, job.sources)
        order, outlook = self._in_order()
        results = Results(
            journal,
            read_journal(job.folder / JOURNAL_NAME),
            sources=[_digest(job.sources[n]) for n in source.used] if source else [],
            settings=engine.settings,
            models={net.name: model_digest(net.path) for net in engine.networks},
            run=job.run,
            digests=Digests(self._places.local / "digests.json", beat=self._beat),
        )
        batch = Batch(
            engine=engine,
            source=source,
            tasks=job.plan,
            consent=consent,
            writable=Writable(
                self._own.inputs | identities(network.path for network in engine.networks),
                self._settings.overwrite,
                made=results.made,
                set_aside=results.set_aside,
            ),
            on_progress=self._on_progress,
            status=status,
            resumption=Resumption(
                results=results,
                places=self._places,
                patience=Patience(
                    longest=engine.settings.output_wait, tell=self._tell_pause, sleep=self._sleep
                ),
                cause=self._cause,
                recyclable=stop.owns_process,
            ),
            order=order,
            outlook=outlook,
            check_stop=stop.check,
            guard=MemoryGuard(sleep=self._sleep),
        )
        self._announce(source.notes if source else ())
        return batch

    def _in_order(self) -> tuple[list[int] | None, Outlook | None]:
        """The order of the files, and what tells how many of them fit the session."""
        from colab_helpers.batch.outlook import Outlook, load_of, shortest_first

        job, count = self._job, len(self._job.tasks)
        if not job.session_minutes and not job.shortest_first:
            return None, None
        loads = [load_of(task.target, beat=self._beat) for task in job.plan]
        order = shortest_first(loads) if job.shortest_first else list(range(count))
        return order, Outlook(
            loads, order, job.session_minutes, self._status
        ) if job.session_minutes else None

    def _nothing_done(self, consent: str) -> BatchReport:
        """The report of a batch that was stopped before its first file."""
        from colab_helpers.batch.runner import skipped

        job, status = self._job, self._status.status
        files = [skipped(task, [source.name for source in job.sources]) for task in job.plan]
        return BatchReport(
            run=job.run,
            stopped=True,
            consent=consent,
            settings=job.settings,
            machine=asdict(this_machine()),
            notes=status.notes,
            summary=summarize(files, seconds=max(0.0, time.time() - status.started), memory_warnings=0),
            files=files,
        )

    def _announce(self, notes: Iterable[str]) -> None:
        """Say before the start what is to be done, and whether there is room for it."""
        status, tasks = self._status, self._job.plan
        if status.status.notes:  # a worker before this one has said it
            return
        status.add_notes(notes)
        # Not Path.is_file: it raises for names that no system takes.
        there = [task.target for task in tasks if os.path.isfile(task.target)]  # noqa: PTH113
        size = sum(path.stat().st_size for path in there)
        free = disk_free(self._job.folder)
        status.note(
            tr(
                "{files} file(s), {size:.1f} GB; {free:.0f} GB are free. This machine could "
                "safely work on {videos} video(s) at once; one is worked on at a time",
                files=len(tasks),
                size=size / 1e9,
                free=free / 1e9,
                videos=this_machine().safe_capacity,
            )
        )
        status.add_notes(skipped_files([Path(folder) for folder in self._job.folders]))
        if free < 2 * size:
            status.note(
                tr(
                    "all results may need {needed:.1f} GB, but {free:.1f} GB are free: later "
                    "files may find no room",
                    needed=2 * size / 1e9,
                    free=free / 1e9,
                )
            )

    def _beat(self) -> None:
        self._status.tick()
        self._stop.check()

    def _sleep(self, seconds: float) -> None:
        """Wait, but not when somebody asks to stop."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._beat()
            time.sleep(min(left, _LOOK_EVERY))

    def _tell_pause(self, reason: str | None) -> None:
        self._status.pause(reason)
        self._stop.check()

    def _end_late(self) -> None:
        """End a process whose work hangs although it was asked to stop; finished segments are noted."""
        note = tr("the work did not end within {limit:.0f} seconds of being asked to", limit=_LONGEST_STOP)
        end_status([self._near], self._job.run, cancelled=True, note=note)
        with suppress(OSError):
            self._stop_file.unlink(missing_ok=True)
        os._exit(STOPPED)

    def _make_page(self, report: BatchReport) -> None:
        """Make the report for people; whatever happens, that for machines is there already."""
        path = Path(self._job.report_path)
        try:
            if report.stopped:
                raise KeyboardInterrupt
            problem = _page_apart(path, self._job.folder / SAMPLES_NAME, self._beat)
        except KeyboardInterrupt:
            report.stopped, problem = True, tr("stopped by the user")
        except Exception as error:  # noqa: BLE001 - a page that shows the results must not cost them
            problem = f"{type(error).__name__}: {error}"
        if not problem:
            return
        _remove_torn(path.parent)
        with suppress(OSError):
            html_path(path).unlink(missing_ok=True)  # it is of an earlier run
        note = tr("{file} was not made: {reason}", file=html_path(path).name, reason=problem)
        report.notes.append(note)
        self._status.note(note)
        report.save(path)


def _page_apart(path: Path, samples: Path, beat: Callable[[], None]) -> str:
    """Make the page in a process of its own, since decoders crash and hang; why there is none, if so."""
    beat()
    process = subprocess.Popen(
        [sys.executable, "-m", "colab_helpers.pages", str(samples.parent), "--report", str(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, VARIABLE: language()},
    )
    until = time.monotonic() + _PAGE_SECONDS
    try:
        while time.monotonic() < until:
            with suppress(subprocess.TimeoutExpired):
                said = process.communicate(timeout=_LOOK_EVERY)[1].strip().splitlines()
                return ": ".join([cause_of(process.returncode), *said[-1:]]) if process.returncode else ""
            beat()
    finally:
        process.kill()
        with suppress(subprocess.TimeoutExpired):  # what hangs in the system does not even end then
            process.wait(1.0)
    return tr("it took longer than {limit:.0f} seconds", limit=_PAGE_SECONDS)


def cause_of(code: int) -> str:
    """What a process died of, from its exit code."""
    if code == -signal.SIGKILL:
        return tr("was killed, as the system does when memory runs out (signal 9)")
    if code < 0:
        return tr("died of {name} (signal {number})", name=signal.Signals(-code).name, number=-code)
    return tr("ended with exit code {code}", code=code)


def _digest(source: Source) -> str:
    return sha256_of(source.path) if source.path else source.image


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


def _remove_torn(folder: Path) -> None:
    """Remove what a killed process left of files it was about to replace."""
    for name in (STATUS_NAME, REPORT_NAME, HTML_REPORT_NAME):
        for torn in folder.glob(f".{name}.*.part"):
            with suppress(OSError):
                torn.unlink()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # Threads of drivers and libraries may hold up a normal exit; everything is on disk already.
    os._exit(code)
