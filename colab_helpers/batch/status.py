"""How a batch stands, as a file beside its results: for a monitor, another process or another machine."""

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
from colab_helpers.language import first_of, tr
from colab_helpers.progress import PROCESSING, Progress
from colab_helpers.resources.samples import Sample

_INTERVAL = 0.5
_MANY = 100
_MAX_WORKERS = 64
_REMOTE_INTERVAL = 5.0
"""Seconds between two versions of the file on a mounted drive, which has to upload each."""
# How long the end of a run waits for a mounted drive to take its last status.
REMOTE_STATUS_TIMEOUT = 15.0


class BatchStatus(BaseModel, extra="forbid", populate_by_name=True):
    """How a batch stands; written as ``status.json``. Times in seconds since 1970, by the writer's clock."""

    schema_version: Literal[1] = Field(1, alias="schema")
    state: Literal["running", "done", "failed", "cancelled"] = "running"
    run: str = Field("", description="Names the run; a worker started again goes on with it.")
    job: str = Field("", description="Digest of what was asked for.")
    pid: int
    pid_started: float = Field(0.0, description="When that process began, so that no other is taken for it.")
    host: str
    supervisor: int = Field(0, description="Process that starts another worker if this one dies; 0: none.")
    supervisor_started: float = 0.0
    started: float
    updated: float
    ticks: int = Field(0, description="Grows whenever the work itself gets on; not while it hangs.")
    restarts: int = Field(0, description="How often the worker process died and was started again.")
    memory_warnings: int = 0
    session_minutes: float = Field(0.0, description="How long the session can be used; 0: not known.")
    fitting: int | None = Field(None, description="Files that fit the session at the rate so far.")
    pause: str | None = Field(None, description="What the work is waiting for, if anything.")
    notes: list[str] = Field([], description="What concerns the whole run, one sentence each.")
    workers: list[WorkerStatus] = Field([], description="Where several work at it: who does what, up to 64.")
    crew: int = Field(0, description="How many those are in all; 0: one works alone.")
    idle: int = Field(0, description="Those of them who are at nothing.")
    rate: float = Field(0.0, description="Frames per second of all together.")
    picture: str | None = Field(None, description="A frame just written, as a small JPEG data: URL.")
    sample: Sample | None = Field(None, description="The machine at the last look.")
    progress: Progress | None = Field(
        None, description="Where the file at work stands, or the last one; of several the first one's."
    )
    files: list[FileReport] = Field(
        description="While one is at work, ``frames_out`` are written of the ``frames_in`` of its result."
    )

    @property
    def running(self) -> Progress | None:
        """Where the file at work stands; None between files."""
        return self.progress if any(file.status == "running" for file in self.files) else None

    @property
    def remarks(self) -> list[str]:
        """What is to be said of the whole run, one sentence each."""
        if self.fitting is None:
            return list(self.notes)
        fits = tr(
            "at this rate {fitting} of {files} file(s) fit the {minutes:.0f} minutes of the session",
            fitting=self.fitting,
            files=len(self.files),
            minutes=self.session_minutes,
        )
        return [*self.notes, fits]

    def alive(self) -> bool:
        """Whether the run still goes on: by its last news elsewhere, by its processes here.

        Between two workers it is the supervisor that is there, for as long as starting one may take.
        """
        return is_run_alive(vars(self), HEARTBEAT_TIMEOUT)

    def end(self, *, cancelled: bool) -> None:
        """Note that nothing more is done: what is not finished is cancelled."""
        for file in self.files:
            if file.status in ("queued", "running"):
                file.status = "cancelled"
        self.workers, self.crew, self.idle, self.rate = [], 0, 0, 0.0
        failed = any(file.status not in ("done", "skipped") for file in self.files)
        self.state = "cancelled" if cancelled else "failed" if failed else "done"
        self.updated = time.time()

    def text(self) -> str:
        """Return it as JSON, a line a file; what grows with a video's length is left to the report."""
        head = to_json(self, indent=1, exclude={"files"}).removesuffix("\n}")
        # Of many files most have nothing to tell, and all are written twice a second.
        left_out = {"quality", "made_by"}
        told = ",\n".join(to_json(file, exclude_defaults=True, exclude=left_out) for file in self.files)
        return f'{head},\n "files": [\n{told}\n ]\n}}\n'


class _Courier:
    """Takes the latest text to a file that may hang, in a thread of its own; older ones are left out."""

    def __init__(self, path: Path) -> None:
        self.problem: OutputError | None = None
        self._path, self._text, self._busy = path, "", False
        self._changed = threading.Condition()
        threading.Thread(target=copy_context().run, args=(self._run,), name="status", daemon=True).start()

    def take(self, text: str) -> None:
        """Have it written as soon as what is being written is done."""
        with self._changed:
            self._text = text
            self._changed.notify_all()

    def arrived(self, seconds: float) -> bool:
        """Wait at most so long; return whether everything is written."""
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
                fetch(self._path.with_name(STOP_NAME))  # somebody elsewhere may ask so
            except OutputError as error:
                self.problem = error
            with self._changed:
                self._busy = False
                self._changed.notify_all()


class StatusWriter:
    """Keeps the status file up to date while a batch runs; ``problem``: why that was not possible.

    Args:
        path: Where it lies; replaced as a whole each time.
        tasks: What is to be done.
        local_path: Where a copy lies that is always up to date; ``path``, on a mounted drive that may hang,
            then gets news every five seconds and never holds anything up.
        run: Names the run; notes and counts of an earlier worker of the same run are taken over.
        host: What this machine is called; by default its name.
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
        import psutil  # who only reads a status need not wait for it

        self._near, self._clock = local_path or path, clock
        self._courier = _Courier(path) if local_path else None
        self._written = self._written_far = float("-inf")
        self._lock = threading.Lock()
        self.problem: str | None = None
        now = time.time()
        before = latest_status([self._near, path])
        kept = {"started", "restarts", "notes", "memory_warnings", "fitting"}
        taken_over = before.model_dump(include=kept) if before and run and before.run == run else {}
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
            **{"started": now, **taken_over},
        )
        with self._lock:
            self._write()

    def tick(self) -> None:
        """Note that the work got on, where there is nothing else to tell."""
        self.status.ticks += 1

    def progress(self, progress: Progress, *, first: bool = True) -> None:
        """Note where a file at work stands; ``first``: it is the one of several that the status shows."""
        with self._lock:
            status, file = self.status, self.status.files[progress.file_index]
            before, news = status.progress, False
            if first:
                news = file.status != "running" or before is None or before.stage != progress.stage
                status.progress = progress
            file.status = "running"
            if progress.stage == PROCESSING:
                file.frames_out, file.frames_in = progress.frame, progress.frames or 0
            status.ticks += 1
            if news or self._clock() - self._written >= _INTERVAL:
                self._write(urgent=news)

    def heartbeat(self, sample: Sample | None = None) -> None:
        """Say that the process lives, and how the machine does; from any thread."""
        with self._lock:
            if self.status.state == "running":
                self.status.sample = sample or self.status.sample
                self._write(urgent=False)

    def warned(self, times: int) -> None:
        """Count how often RAM was found short."""
        self.status.memory_warnings += times

    def picture(self, url: str) -> None:
        """Show a frame just written; it is told with the next news."""
        self.status.picture = url

    def note(self, *texts: str) -> None:
        """Tell something that concerns the whole run, once."""
        with self._changing() as status:
            status.notes = [*dict.fromkeys([*status.notes, *texts])]

    def workers(self, doing: Sequence[WorkerStatus]) -> None:
        """Tell who does what, and what they wait for; it is told with the next news."""
        status = self.status
        status.workers = sorted(doing, key=lambda one: one.pause is None)[:_MAX_WORKERS]
        status.crew, status.rate = len(doing), round(sum(one.fps for one in doing), 2)
        status.idle = sum(not one.file for one in doing)
        held = first_of([*dict.fromkeys(one.pause for one in doing if one.pause)], 2) or None
        if held != status.pause:
            self.pause(held)

    def fitting(self, files: int) -> None:
        """Tell how many files fit the session at the rate so far."""
        if files != self.status.fitting:
            with self._changing() as status:
                status.fitting = files

    def restarted(self, cause: str) -> None:
        """Note that the worker before this one died; who notes it gets on."""
        self.tick()
        self.status.restarts += 1
        self.note(tr("the worker process {cause}; a new one goes on with what is finished", cause=cause))

    def pause(self, reason: str | None) -> None:
        """Note that the work waits, or goes on (None)."""
        self.tick()
        if reason != self.status.pause:
            with self._changing() as status:
                status.pause = reason

    def file(self, index: int, report: FileReport) -> None:
        """Note what became of a file; of many it is told twice a second, as all are written each time."""
        with self._lock:
            status = self.status
            status.files[index] = report
            status.picture = None
            status.ticks += 1
            if len(status.files) <= _MANY or self._clock() - self._written >= _INTERVAL:
                self._write()

    def end(self, *, cancelled: bool = False) -> None:
        """Note that nothing more is done, and wait a little for a mounted drive to have it."""
        with self._changing() as status:
            status.end(cancelled=cancelled)
        if self._courier and not self._courier.arrived(REMOTE_STATUS_TIMEOUT):
            self.note(tr("the status beside the results could not be brought up to date: the drive hangs"))

    @contextmanager
    def _changing(self) -> Iterator[BatchStatus]:
        """Change the status, which is told at once."""
        with self._lock:
            yield self.status
            self._write()

    def _write(self, *, urgent: bool = True) -> None:
        self.status.updated = time.time()
        self._written = now = self._clock()
        text, problem = self.status.text(), self._courier.problem if self._courier else None
        try:
            if self._courier and (urgent or now - self._written_far >= _REMOTE_INTERVAL):
                self._written_far = now
                self._courier.take(text)
            write_text(self._near, text)
        except OutputError as error:
            problem = error
        if problem is not None:
            # The work itself goes on: it will say for itself whether it can still write.
            self.problem = tr("the status could not always be written: {error}", error=problem)


def latest_status(paths: Iterable[Path]) -> BatchStatus | None:
    """Return the newest of several copies of a status; None if there is none that can be read."""
    told = (load_or_none(BatchStatus, path) for path in dict.fromkeys(paths))
    return max(filter(None, told), key=lambda status: status.updated, default=None)


def end_status(paths: Iterable[Path], run: str, *, cancelled: bool, note: str = "") -> None:
    """Say in the stead of a worker that has died that its run has ended."""
    for path in dict.fromkeys(paths):
        status = latest_status([path])
        if status is not None and status.run == run and status.state == "running":
            status.end(cancelled=cancelled)
            status.notes += [note] if note else []
            with suppress(OutputError):
                write_text(path, status.text())


def read_status(folder: Path) -> BatchStatus:
    """Read the status of the batch whose results go to a folder; MissingFileError, UsageError without one."""
    fetch(folder / STATUS_NAME)
    return load(
        BatchStatus,
        folder / STATUS_NAME,
        missing=tr("no batch has written its status here"),
        missing_remedy=tr("name the output folder of a batch"),
        foreign=tr("this is no status that this version can read"),
        foreign_remedy=tr("use the version of the package that runs the batch"),
    )
