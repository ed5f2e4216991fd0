"""The status of a batch, a file beside its results for monitors, other processes and other machines."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import copy_context
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from colab_helpers.batch.object_store import fetch, send_all
from colab_helpers.batch.plan import Task
from colab_helpers.batch.report import FileReport, write_text
from colab_helpers.batch.stop import HEARTBEAT_TIMEOUT, STATUS_NAME, STOP_NAME, is_run_alive
from colab_helpers.batch.worker_handles import WorkerStatus
from colab_helpers.errors import OutputError
from colab_helpers.files import load, load_or_none, to_json
from colab_helpers.language import first_of, mark, tr
from colab_helpers.progress import PROCESSING, Progress
from colab_helpers.resources.samples import Sample

_INTERVAL = 0.5
_MANY = 100
_MAX_WORKERS = 64
_REMOTE_INTERVAL = 5.0
"""Seconds between two versions of the file on a mounted drive, which has to upload each."""
# Seconds that the end of a run waits for a mounted drive to take the final status.
REMOTE_STATUS_TIMEOUT = 15.0


class BatchStatus(BaseModel, extra="forbid", populate_by_name=True):
    """Status of a batch, written as ``status.json``. Times in seconds since 1970, by the writer's clock."""

    schema_version: Literal[1] = Field(1, alias="schema")
    state: Literal["running", "done", "failed", "cancelled"] = "running"
    run: str = Field("", description="Identifies the run; a restarted worker continues it.")
    job: str = Field("", description="Digest of the request.")
    pid: int
    pid_started: float = Field(0.0, description="Start of that process, as process ids are reused.")
    host: str
    supervisor: int = Field(0, description="Process that starts another worker if this one dies; 0: none.")
    supervisor_started: float = 0.0
    started: float
    updated: float
    ticks: int = Field(0, description="Increases as the work progresses, but not while it hangs.")
    restarts: int = Field(0, description="How often a worker process died and was restarted.")
    memory_warnings: int = 0
    session_minutes: float = Field(0.0, description="Length of the session; 0: unknown.")
    fitting: int | None = Field(None, description="Files that fit the session at the rate so far.")
    pause: str | None = Field(None, description="What the work is waiting for, if anything.")
    notes: list[str] = Field([], description="Notes on the whole run, one sentence each.")
    workers: list[WorkerStatus] = Field([], description="Workers of a pool, up to 64, paused ones first.")
    worker_count: int = Field(0, description="Number of workers in the pool; 0: a single worker.")
    idle: int = Field(0, description="Workers without a task.")
    rate: float = Field(0.0, description="Frames per second of all workers together.")
    picture: str | None = Field(None, description="A frame just written, as a small JPEG data: URL.")
    sample: Sample | None = Field(None, description="Last sample of the machine's resources.")
    progress: Progress | None = Field(None, description="Of the current or last file; of several, of one.")
    files: list[FileReport] = Field(description="Of a running file ``frames_out`` of ``frames_in`` are done.")

    @property
    def running(self) -> Progress | None:
        """Progress of the current file; None between files."""
        return self.progress if any(file.status == "running" for file in self.files) else None

    @property
    def remarks(self) -> list[str]:
        """Notes on the whole run, including how many files fit the session; one sentence each."""
        if self.fitting is None:
            return list(self.notes)
        text = mark("at this rate {fitting} of {files} file(s) fit the {minutes:.0f} minutes of the session")
        values = {"fitting": self.fitting, "files": len(self.files), "minutes": self.session_minutes}
        return [*self.notes, tr(text, **values)]

    def alive(self) -> bool:
        """Return whether the run is going on: by its processes on this machine, by its last update elsewhere.

        Between two workers the supervisor counts, as long as the last update is recent.
        """
        return is_run_alive(vars(self), HEARTBEAT_TIMEOUT)

    def end(self, *, cancelled: bool) -> None:
        """Set the final state; unfinished files become cancelled."""
        for file in self.files:
            if file.status in ("queued", "running"):
                file.status = "cancelled"
        self.workers, self.worker_count, self.idle, self.rate = [], 0, 0, 0.0
        failed = any(file.status not in ("done", "skipped") for file in self.files)
        self.state = "cancelled" if cancelled else "failed" if failed else "done"
        self.updated = time.time()

    def text(self) -> str:
        """Return the JSON, one line per file; data that grows with a video's length is in the report only."""
        head = to_json(self, indent=1, exclude={"files"}).removesuffix("\n}")
        # Without defaults, as all files are written twice a second and most have nothing else.
        omitted = {"quality", "made_by"}
        files = ",\n".join(to_json(file, exclude_defaults=True, exclude=omitted) for file in self.files)
        return f'{head},\n "files": [\n{files}\n ]\n}}\n'


class _BackgroundWriter:
    """Writes the latest text to a file that may hang, from a thread; skips texts that are superseded."""

    def __init__(self, path: Path) -> None:
        self.problem: OutputError | None = None
        self._path, self._text, self._busy = path, "", False
        self._changed = threading.Condition()
        threading.Thread(target=copy_context().run, args=(self._run,), name="status", daemon=True).start()

    def put(self, text: str) -> None:
        """Write a text after the current write."""
        with self._changed:
            self._text = text
            self._changed.notify_all()

    def flush(self, seconds: float) -> bool:
        """Wait up to ``seconds``; return whether everything is written."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._text and not self._busy, seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._text)
                text, self._text, self._busy = self._text, "", True
            try:
                write_text(self._path, text)
                send_all([self._path])
                fetch(self._path.with_name(STOP_NAME))  # a stop request from another machine
            except OutputError as error:
                self.problem = error
            with self._changed:
                self._busy = False
                self._changed.notify_all()


class StatusWriter:
    """Keeps the status file up to date while a batch runs; ``problem``: why it could not be written.

    Args:
        path: The status file, replaced atomically.
        tasks: Tasks of the batch.
        local_path: A local copy that is always up to date; ``path``, on a mounted drive that may hang, is
            then written from a thread every five seconds.
        run: Identifies the run; notes and counts of its earlier workers are kept.
        host: Name of this machine; by default its host name. Other arguments are fields of `BatchStatus`.
    """

    def __init__(
        self,
        path: Path,
        tasks: Sequence[Task],
        *,
        local_path: Path | None = None,
        run: str = "",
        job: str = "",
        supervisor: int = 0,
        host: str = "",
        session_minutes: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        import psutil  # slow to import, and not needed to read a status

        self._local_path, self._clock = local_path or path, clock
        self._remote = _BackgroundWriter(path) if local_path else None
        self._written = self._remote_written = float("-inf")
        self._lock = threading.Lock()
        self.problem: str | None = None
        now = time.time()
        before = latest_status([self._local_path, path])
        names = {"started", "restarts", "notes", "memory_warnings", "fitting"}
        kept = before.model_dump(include=names) if before and run and before.run == run else {}
        self.status = BatchStatus(
            run=run,
            job=job,
            pid=os.getpid(),
            pid_started=psutil.Process().create_time(),
            host=host or socket.gethostname(),
            supervisor=supervisor,
            supervisor_started=psutil.Process(supervisor).create_time() if supervisor else 0.0,
            updated=now,
            session_minutes=session_minutes,
            files=[FileReport(target=str(task.target), status="queued") for task in tasks],
            **{"started": now, **kept},
        )
        with self._lock:
            self._write()

    def tick(self) -> None:
        """Count a sign of life of the work itself."""
        self.status.ticks += 1

    def progress(self, progress: Progress, *, first: bool = True) -> None:
        """Set a running file's progress; ``first``: the status shows this one of several in detail."""
        with self._lock:
            status, file = self.status, self.status.files[progress.file_index]
            before, urgent = status.progress, False
            if first:
                urgent = file.status != "running" or before is None or before.stage != progress.stage
                status.progress = progress
            file.status = "running"
            if progress.stage == PROCESSING:
                file.frames_out, file.frames_in = progress.frame, progress.frames or 0
            status.ticks += 1
            if urgent or self._clock() - self._written >= _INTERVAL:
                self._write(urgent=urgent)

    def heartbeat(self, sample: Sample | None = None) -> None:
        """Write the status with a new sample to show that the process lives; from any thread."""
        with self._lock:
            if self.status.state == "running":
                self.status.sample = sample or self.status.sample
                self._write(urgent=False)

    def count_memory_warnings(self, times: int) -> None:
        """Count how often RAM was short."""
        self.status.memory_warnings += times

    def picture(self, url: str) -> None:
        """Set the latest frame; it is written with the next update."""
        self.status.picture = url

    def note(self, *texts: str) -> None:
        """Add notes on the whole run, each only once."""
        with self._changing() as status:
            status.notes = [*dict.fromkeys([*status.notes, *texts])]

    def workers(self, workers: Sequence[WorkerStatus]) -> None:
        """Set the states of the pool's workers, written with the next update, and their common pause."""
        status = self.status
        status.workers = sorted(workers, key=lambda worker: worker.pause is None)[:_MAX_WORKERS]
        status.worker_count, status.rate = len(workers), round(sum(worker.fps for worker in workers), 2)
        status.idle = sum(not worker.file for worker in workers)
        pause = first_of([*dict.fromkeys(worker.pause for worker in workers if worker.pause)], 2) or None
        if pause != status.pause:
            self.pause(pause)

    def fitting(self, files: int) -> None:
        """Set how many files fit the session at the rate so far."""
        if files != self.status.fitting:
            with self._changing() as status:
                status.fitting = files

    def note_restart(self, cause: str) -> None:
        """Note that a worker died and was replaced; counts as a sign of life."""
        self.tick()
        self.status.restarts += 1
        self.note(tr("the worker process {cause}; a new one continues, finished work is kept", cause=cause))

    def pause(self, reason: str | None) -> None:
        """Set what the work waits for; None when it continues."""
        self.tick()
        if reason != self.status.pause:
            with self._changing() as status:
                status.pause = reason

    def file(self, index: int, report: FileReport) -> None:
        """Set a file's report; in large batches written twice a second, as each write has all files."""
        with self._lock:
            status = self.status
            status.files[index] = report
            status.picture = None
            status.ticks += 1
            if len(status.files) <= _MANY or self._clock() - self._written >= _INTERVAL:
                self._write()

    def end(self, *, cancelled: bool = False) -> None:
        """Write the final state, and wait up to `REMOTE_STATUS_TIMEOUT` for a mounted drive to take it."""
        with self._changing() as status:
            status.end(cancelled=cancelled)
        if self._remote and not self._remote.flush(REMOTE_STATUS_TIMEOUT):
            self.note(tr("the status beside the results is out of date: the drive does not respond"))

    @contextmanager
    def _changing(self) -> Iterator[BatchStatus]:
        """Change the status and write it at once."""
        with self._lock:
            yield self.status
            self._write()

    def _write(self, *, urgent: bool = True) -> None:
        self.status.updated = time.time()
        self._written = now = self._clock()
        text, problem = self.status.text(), self._remote.problem if self._remote else None
        try:
            if self._remote and (urgent or now - self._remote_written >= _REMOTE_INTERVAL):
                self._remote_written = now
                self._remote.put(text)
            write_text(self._local_path, text)
        except OutputError as error:
            problem = error
        if problem is not None:
            # The work continues, and fails by itself if it cannot write either.
            self.problem = tr("the status could not always be written: {error}", error=problem)


def latest_status(paths: Iterable[Path]) -> BatchStatus | None:
    """Return the newest readable copy of a status; None if there is none."""
    statuses = (load_or_none(BatchStatus, path) for path in dict.fromkeys(paths))
    return max(filter(None, statuses), key=lambda status: status.updated, default=None)


def end_status(paths: Iterable[Path], run: str, *, cancelled: bool, note: str = "") -> None:
    """Write the final status of a run whose worker has died."""
    for path in dict.fromkeys(paths):
        status = latest_status([path])
        if status is not None and status.run == run and status.state == "running":
            status.end(cancelled=cancelled)
            status.notes += [note] if note else []
            with suppress(OutputError):
                write_text(path, status.text())


def read_status(folder: Path) -> BatchStatus:
    """Read the status in an output folder; raise MissingFileError or UsageError if that is impossible."""
    fetch(folder / STATUS_NAME)
    return load(
        BatchStatus,
        folder / STATUS_NAME,
        missing=tr("no batch has written its status here"),
        missing_remedy=tr("name the output folder of a batch"),
        foreign=tr("not a status file that this version can read"),
        foreign_remedy=tr("use the version of the package that runs the batch"),
    )
