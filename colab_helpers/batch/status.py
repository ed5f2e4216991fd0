"""How a batch stands, as a file beside its results: for a monitor, another process or another machine."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from colab_helpers.batch.plan import Task
from colab_helpers.batch.report import FileReport, write_text
from colab_helpers.errors import MissingFileError, OutputError, UsageError
from colab_helpers.progress import Progress

STATUS_NAME = "status.json"
SILENCE = 30.0
"""Seconds without news after which a run on another machine counts as ended."""
_INTERVAL = 1.0

State = Literal["queued", "running", "done", "failed", "skipped", "cancelled"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class FileStatus(_Model):
    """How one target stands."""

    target: str
    state: State = "queued"
    output: str | None = None
    frame: int = Field(0, description="Frames written so far.")
    frames: int | None = Field(None, description="Frames in all, where the file says so.")
    fps: float = Field(0.0, description="Frames per second since the file began.")
    eta: float | None = Field(None, description="Seconds until the file is done.")
    fallbacks: list[str] = []
    error: str | None = None


class BatchStatus(_Model):
    """How a batch stands; written as ``status.json``. Times in seconds since 1970, by the writer's clock."""

    schema_version: Literal[1] = Field(1, alias="schema")
    state: Literal["running", "done", "failed", "cancelled"] = "running"
    pid: int
    host: str
    started: float
    updated: float
    ram_percent: float | None = None
    gpu_percent: float | None = None
    provider: str | None = None
    memory_warnings: int = 0
    files: list[FileStatus]

    def alive(self) -> bool:
        """Whether the run still goes on: by its process here, by its last news elsewhere."""
        if self.state != "running":
            return False
        if self.host == socket.gethostname():
            return psutil.pid_exists(self.pid)
        return abs(time.time() - self.updated) < SILENCE

    def lines(self) -> list[str]:
        """The status in words."""
        ended = sum(file.state not in ("queued", "running") for file in self.files)
        lost = self.state == "running" and not self.alive()
        state = "ended without a word; run again to go on" if lost else self.state
        machine = [f"RAM {self.ram_percent:.0f} %"] if self.ram_percent is not None else []
        machine += [f"VRAM {self.gpu_percent:.0f} %"] if self.gpu_percent is not None else []
        head = ", ".join([f"{state}: {ended} of {len(self.files)} files", *machine])
        return [head, *(_line(file) for file in self.files)]


def _line(file: FileStatus) -> str:
    name = Path(file.target).name
    if file.state == "running":
        frames = f"{file.frame}/{file.frames}" if file.frames else str(file.frame)
        eta = f", {file.eta:.0f} s left" if file.eta is not None else ""
        return f"  running    {name}: {frames} frames, {file.fps:.1f} frames/s{eta}"
    tail = f": {file.error}" if file.error else ""
    return f"  {file.state:<10} {name}{tail}"


class StatusWriter:
    """Keeps ``status.json`` up to date, at most once a second while a file runs.

    Args:
        path: The file.
        tasks: What the batch will do.
        clock: Seconds that only grow.

    Attributes:
        problem: Why the file is not up to date; None while it is.
    """

    def __init__(
        self, path: Path, tasks: Sequence[Task], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path, self._clock = path, clock
        self._written = float("-inf")
        self.problem: str | None = None
        now = time.time()
        self.status = BatchStatus(
            pid=os.getpid(),
            host=socket.gethostname(),
            started=now,
            updated=now,
            files=[FileStatus(target=str(task.target)) for task in tasks],
        )
        self._write()

    def progress(self, progress: Progress) -> None:
        """Note where the running file stands."""
        status, file = self.status, self.status.files[progress.file_index]
        news = file.state != "running"
        file.state = "running"
        file.frame, file.frames = progress.frame, progress.frames
        file.fps, file.eta = progress.fps, progress.eta
        status.ram_percent, status.gpu_percent = progress.ram_percent, progress.gpu_percent
        status.provider = progress.provider
        if news or self._clock() - self._written >= _INTERVAL:
            self._write()

    def file(self, index: int, report: FileReport) -> None:
        """Note what became of a file."""
        file = self.status.files[index]
        file.state, file.output, file.error = report.status, report.output, report.error
        file.frame, file.frames, file.fps = report.frames_out, report.frames_out, report.fps
        file.eta, file.fallbacks = None, list(report.fallbacks)
        self._write()

    def end(self, *, memory_warnings: int, cancelled: bool = False) -> None:
        """Note that nothing more is done."""
        for file in self.status.files:
            if file.state in ("queued", "running"):
                file.state = "cancelled"
        failed = any(file.state != "done" for file in self.status.files)
        self.status.state = "cancelled" if cancelled else "failed" if failed else "done"
        self.status.memory_warnings = memory_warnings
        self._write()

    def _write(self) -> None:
        self.status.updated = time.time()
        self._written = self._clock()
        try:
            write_text(self._path, self.status.model_dump_json(by_alias=True, indent=1) + "\n")
        except OutputError as error:
            # The work itself goes on: it will say for itself whether it can still write.
            self.problem = f"the status could not always be written: {error}"


def read_status(folder: Path) -> BatchStatus:
    """The status of the batch whose results go to a folder.

    Raises:
        MissingFileError: No batch has written a status there.
        UsageError: What is there is of another version or no status.
    """
    path = folder / STATUS_NAME
    try:
        return BatchStatus.model_validate_json(path.read_bytes())
    except OSError as error:
        raise MissingFileError(
            "no batch has written its status here",
            where=str(path),
            remedy="name the output folder of a batch",
        ) from error
    except ValidationError as error:
        raise UsageError(
            "this is no status that this version can read",
            where=str(path),
            remedy="use the version of the package that runs the batch",
        ) from error
