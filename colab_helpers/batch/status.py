"""How a batch stands, as a file beside its results: for a monitor, another process or another machine."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from contextvars import copy_context
from pathlib import Path
from typing import Literal

import psutil
from pydantic import BaseModel, ConfigDict, Field

from colab_helpers.batch.names import STATUS_NAME, STOP_NAME
from colab_helpers.batch.plan import Task
from colab_helpers.batch.report import FileReport, write_text
from colab_helpers.errors import MissingFileError, OutputError, UsageError
from colab_helpers.files import from_json, to_json
from colab_helpers.language import mark, printable, tr
from colab_helpers.progress import Progress
from colab_helpers.resources.samples import Sample

SILENCE = 30.0
"""Seconds without news after which a run on another machine counts as ended."""
_INTERVAL = 0.5
_FAR_INTERVAL = 5.0
"""Seconds between two versions of the file on a mounted drive, which has to upload each."""
_SAME_START = 2.0
# How long the end of a run waits for a mounted drive to take its last status.
_FAR_WAIT = 15.0

State = Literal["queued", "running", "done", "failed", "skipped", "cancelled"]
STATE_WORDS: dict[State, str] = {
    "queued": mark("queued"),
    "running": mark("running"),
    "done": mark("done"),
    "failed": mark("failed"),
    "skipped": mark("skipped"),
    "cancelled": mark("cancelled"),
}
"""What each state is called; ``tr`` of it is shown."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class FileStatus(_Model):
    """How one target stands."""

    target: str
    state: State = "queued"
    output: str | None = None
    frame: int = Field(0, description="Frames written so far.")
    frames: int | None = Field(None, description="Frames in all, where the file says so.")
    stage: str = Field("", description="What is being done with it: frames, or joining.")
    fps: float = Field(0.0, description="Frames per second since the file began.")
    eta: float | None = Field(None, description="Seconds until the file is done.")
    fallbacks: list[str] = []
    error: str | None = None


class BatchStatus(_Model):
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
    ram_percent: float | None = None
    gpu_percent: float | None = None
    provider: str | None = None
    threads: int = 0
    batch_size: int = 0
    waiting: dict[str, int] = Field({}, description="Items waiting behind each stage of the pipeline.")
    memory_warnings: int = 0
    pause: str | None = Field(None, description="What the work is waiting for, if anything.")
    notes: list[str] = Field([], description="What concerns the whole run, one sentence each.")
    picture: str | None = Field(None, description="A frame just written, as a small JPEG data: URL.")
    sample: Sample | None = Field(None, description="The machine at the last look.")
    files: list[FileStatus]

    def alive(self) -> bool:
        """Whether the run still goes on: by its last news elsewhere, by its processes here.

        Between two workers it is the supervisor that is there, for as long as starting one may take.
        """
        if self.state != "running":
            return False
        recent = abs(time.time() - self.updated) < SILENCE
        if self.host != socket.gethostname():
            return recent
        supervised = recent and process_lives(self.supervisor, self.supervisor_started)
        return supervised or process_lives(self.pid, self.pid_started)

    def end(self, *, cancelled: bool) -> None:
        """Nothing more is done: what is not finished is cancelled."""
        for file in self.files:
            if file.state in ("queued", "running"):
                file.state = "cancelled"
        failed = any(file.state != "done" for file in self.files)
        self.state = "cancelled" if cancelled else "failed" if failed else "done"
        self.updated = time.time()

    def lines(self) -> list[str]:
        """The status in words."""
        ended = sum(file.state not in ("queued", "running") for file in self.files)
        lost = self.state == "running" and not self.alive()
        state = tr("ended without a word; run again to go on") if lost else tr(STATE_WORDS[self.state])
        machine = [f"RAM {self.ram_percent:.0f} %"] if self.ram_percent is not None else []
        machine += [f"VRAM {self.gpu_percent:.0f} %"] if self.gpu_percent is not None else []
        count = tr("{state}: {ended} of {total} files", state=state, ended=ended, total=len(self.files))
        pause = [f"  {self.pause}"] if self.pause and self.alive() else []
        notes = ["  " + tr("note: {note}", note=note) for note in self.notes]
        return [", ".join([count, *machine]), *pause, *notes, *map(_line, self.files)]


def process_lives(pid: int, started: float) -> bool:
    """Whether a process of this machine is still there, and the one that began then (0: any)."""
    if not pid:
        return False
    try:
        process = psutil.Process(pid)
        same = not started or abs(process.create_time() - started) < _SAME_START
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _line(file: FileStatus) -> str:
    name = printable(Path(file.target).name)
    if file.state == "running":
        frames = f"{file.frame}/{file.frames}" if file.frames else str(file.frame)
        tail = tr(": {frames} frames, {fps:.1f} frames/s", frames=frames, fps=file.fps)
        tail += tr(", {eta:.0f} s left", eta=file.eta) if file.eta is not None else ""
    else:
        tail = f": {file.error}" if file.error else ""
    return f"  {tr(STATE_WORDS[file.state]):<10} {name}{tail}"


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
        """Wait at most so long; whether everything is written."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._text and not self._busy, seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._text)
                text, self._text, self._busy = self._text, "", True
            try:
                write_text(self._path, text)
            except OutputError as error:
                self.problem = error
            with self._changed:
                self._busy = False
                self._changed.notify_all()


class StatusWriter:
    """Keeps the status file up to date while a batch runs.

    Args:
        path: Where it lies; replaced as a whole each time.
        tasks: What is to be done.
        near: Where a copy lies that is always up to date; ``path``, on a mounted drive that may hang, then
            gets news every five seconds and never holds anything up.
        run: Names the run; notes and counts of an earlier worker of the same run are taken over.
        job: Digest of what was asked for.
        supervisor: The process that starts another worker if this one dies; 0: none.
        clock: Seconds that only grow.

    Attributes:
        status: How the batch stands.
        problem: Why it could not be written, if it could not.
    """

    def __init__(
        self,
        path: Path,
        tasks: Sequence[Task],
        *,
        near: Path | None = None,
        run: str = "",
        job: str = "",
        supervisor: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._near, self._clock = path, near, clock
        self._courier = _Courier(path) if near else None
        self._written = self._written_far = float("-inf")
        self._lock = threading.Lock()
        self.problem: str | None = None
        now = time.time()
        before = _earlier([near or path, path], run)
        self.status = BatchStatus(
            run=run,
            job=job,
            pid=os.getpid(),
            pid_started=psutil.Process().create_time(),
            host=socket.gethostname(),
            supervisor=supervisor,
            supervisor_started=psutil.Process(supervisor).create_time() if supervisor else 0.0,
            started=before.started if before else now,
            updated=now,
            restarts=before.restarts if before else 0,
            notes=before.notes if before else [],
            memory_warnings=before.memory_warnings if before else 0,
            files=[FileStatus(target=str(task.target)) for task in tasks],
        )
        with self._lock:
            self._write()

    def tick(self) -> None:
        """Note that the work got on, where there is nothing else to tell."""
        self.status.ticks += 1

    def progress(self, progress: Progress) -> None:
        """Note where the running file stands."""
        with self._lock:
            status, file = self.status, self.status.files[progress.file_index]
            news = file.state != "running" or file.stage != progress.stage
            file.state, file.stage = "running", progress.stage
            file.frame, file.frames = progress.frame, progress.frames
            file.fps, file.eta = progress.fps, progress.eta
            status.ram_percent, status.gpu_percent = progress.ram_percent, progress.gpu_percent
            status.provider, status.threads = progress.provider, progress.threads
            status.batch_size, status.waiting = progress.batch_size, dict(progress.waiting)
            status.ticks += 1
            if news or self._clock() - self._written >= _INTERVAL:
                self._write(urgent=news)

    def beat(self, sample: Sample | None = None) -> None:
        """Say that the process lives, and how the machine does; from any thread."""
        with self._lock:
            if self.status.state == "running":
                self.status.sample = sample or self.status.sample
                self._write(urgent=False)

    def picture(self, url: str) -> None:
        """Show a frame just written; it is told with the next news."""
        self.status.picture = url

    def note(self, text: str, *, instead_of: str = "") -> None:
        """Tell something that concerns the whole run, in the place of what was told before of the same."""
        self.add_notes([text], instead_of=instead_of)

    def add_notes(self, texts: Iterable[str], *, instead_of: str = "") -> None:
        """Tell several things, as ``note`` does one."""
        with self._lock:
            others = [note for note in self.status.notes if not instead_of or note != instead_of]
            self.status.notes = [*others, *texts]
            self._write()

    def restarted(self, cause: str) -> None:
        """Note that the worker before this one died."""
        self.status.restarts += 1
        self.note(tr("the worker process {cause}; a new one goes on with what is finished", cause=cause))

    def pause(self, reason: str | None) -> None:
        """Note that the work waits, or goes on (None)."""
        self.tick()
        if reason != self.status.pause:
            with self._lock:
                self.status.pause = reason
                self._write()

    def file(self, index: int, report: FileReport) -> None:
        """Note what became of a file."""
        with self._lock:
            file = self.status.files[index]
            file.state, file.output, file.error = report.status, report.output, report.error
            file.frame, file.frames, file.fps = report.frames_out, report.frames_out, report.fps
            file.eta, file.fallbacks, file.stage = None, list(report.fallbacks), ""
            self.status.picture = None
            self.status.ticks += 1
            self._write()

    def end(self, *, cancelled: bool = False) -> None:
        """Note that nothing more is done, and wait a little for a mounted drive to have it."""
        with self._lock:
            self.status.end(cancelled=cancelled)
            self._write()
        if self._courier and not self._courier.arrived(_FAR_WAIT):
            self.note(tr("the status beside the results could not be brought up to date: the drive hangs"))

    def _write(self, *, urgent: bool = True) -> None:
        self.status.updated = time.time()
        self._written = now = self._clock()
        text = to_json(self.status, indent=1) + "\n"
        far = self._courier.problem if self._courier else None
        try:
            if self._courier and (urgent or now - self._written_far >= _FAR_INTERVAL):
                self._written_far = now
                self._courier.take(text)
            write_text(self._near or self._path, text)
        except OutputError as error:
            far = error
        if far is not None:
            # The work itself goes on: it will say for itself whether it can still write.
            self.problem = tr("the status could not always be written: {error}", error=far)


def _earlier(paths: Iterable[Path], run: str) -> BatchStatus | None:
    """What an earlier worker of this run has written."""
    found = latest_status(paths)
    return found if found and run and found.run == run else None


def latest_status(paths: Iterable[Path]) -> BatchStatus | None:
    """The newest of several copies of a status; None if there is none that can be read."""
    found = []
    for path in dict.fromkeys(paths):
        with suppress(OSError, ValueError):
            found.append(from_json(BatchStatus, path.read_bytes()))
    return max(found, key=lambda status: status.updated, default=None)


def end_status(paths: Iterable[Path], run: str, *, cancelled: bool, note: str = "") -> None:
    """Say in the stead of a worker that has died that its run has ended."""
    for path in dict.fromkeys(paths):
        status = latest_status([path])
        if status is not None and status.run == run and status.state == "running":
            status.end(cancelled=cancelled)
            status.notes += [note] if note else []
            with suppress(OutputError):
                write_text(path, to_json(status, indent=1) + "\n")


def ask_to_stop(folder: Path) -> bool:
    """Ask the batch in an output folder to stop; False if none is at work there.

    Raises:
        OutputError: The folder cannot be written to.
    """
    try:
        if not read_status(folder).alive():
            return False
    except MissingFileError:
        return False
    write_text(folder / STOP_NAME, "")
    return True


def read_status(folder: Path) -> BatchStatus:
    """The status of the batch whose results go to a folder.

    Raises:
        MissingFileError: No batch has written a status there.
        UsageError: What is there is of another version or no status.
    """
    path = folder / STATUS_NAME
    try:
        return from_json(BatchStatus, path.read_bytes())
    except OSError as error:
        raise MissingFileError(
            tr("no batch has written its status here"),
            where=str(path),
            remedy=tr("name the output folder of a batch"),
        ) from error
    except ValueError as error:
        raise UsageError(
            tr("this is no status that this version can read"),
            where=str(path),
            remedy=tr("use the version of the package that runs the batch"),
        ) from error
