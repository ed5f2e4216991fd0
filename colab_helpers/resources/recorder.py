"""Notes every few seconds how machine and run stand, in a thread of its own."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path
from typing import Any, Self

import psutil

from colab_helpers.files import ends_a_line, to_json
from colab_helpers.language import tr
from colab_helpers.machine import disk_free, this_machine
from colab_helpers.progress import Progress
from colab_helpers.resources.sampler import gpu_sample, ram_used
from colab_helpers.resources.samples import Sample

INTERVAL = 2.0
"""Seconds between two samples."""
# A folder on a network that hangs must not hold up the end of a run.
_LONGEST_GOODBYE = 5.0
# Windows counts handles in place of file descriptors.
_COUNT_FILES = "num_fds" if hasattr(psutil.Process, "num_fds") else "num_handles"


class Recorder:
    """Takes samples from its start to its end and appends each to a file, one JSON object a line.

    A context manager. The first sample is taken at once and the last at the end. Nothing that goes wrong here
    ever reaches the work: it is remembered in ``problem``, and sampling goes on.

    Args:
        path: The file; what it holds already is kept.
        folder: Where the results go, for the free space there.
        pid: The process whose figures are taken, with its children; None for this one.
        run_state: Says where the file at work stands, or what the run is doing, in a word or two; called, as
            ``on_sample`` with each sample, from the recorder's thread.
        sleep: Waits for some seconds; by default ``close`` ends the wait.

    Attributes:
        cpu_seconds: Processor time that the recorder itself has used.
    """

    def __init__(
        self,
        path: Path,
        folder: Path,
        *,
        interval: float = INTERVAL,
        pid: int | None = None,
        run_state: Callable[[], Progress | str] = str,
        on_sample: Callable[[Sample], None] | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self._folder, self._interval = folder, interval
        self._run_state, self._on_sample, self._clock = run_state, on_sample, clock
        self._stop = threading.Event()
        self._sleep = sleep or self._stop.wait
        self._file = _LineFile(path)
        self.processes = ProcessTree()
        # Daemon: it may hang in a network folder, which must not keep the process from ending.
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._run,), name="recorder", daemon=True
        )
        self.pid = os.getpid() if pid is None else pid
        self.latest: Sample | None = None
        self.problem: str | None = None
        self.cpu_seconds = 0.0

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> Self:
        """Begin; the first sample is taken at once."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Take the last sample and end; returns after five seconds at the latest. May be called twice."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_LONGEST_GOODBYE)

    def _run(self) -> None:
        started = time.thread_time()
        while not self._stop.is_set():
            self._record()
            self.cpu_seconds = time.thread_time() - started
            self._sleep(self._interval)
        self._record()

    def _record(self) -> None:
        try:
            sample = self._take()
        except Exception as error:  # noqa: BLE001 - whatever a driver or system does, the work goes on
            self.problem = tr(
                "a sample could not be taken: {kind}: {error}", kind=type(error).__name__, error=error
            )
            return
        self.latest = sample
        # First: the file may lie in a network folder that hangs.
        try:
            if self._on_sample:
                self._on_sample(sample)
        except Exception as error:  # noqa: BLE001 - a display that fails must end neither work nor sampling
            self.problem = tr(
                "a display of the samples failed: {kind}: {error}", kind=type(error).__name__, error=error
            )
        try:
            self._file.append(to_json(sample).encode())
        except OSError as error:
            self.problem = tr("samples could not always be written: {reason}", reason=error.strerror or error)

    def _take(self) -> Sample:
        process, load = self.processes.read(self.pid), psutil.cpu_percent()
        state = self._state()
        run: dict[str, Any] = {"stage": state}
        if isinstance(state, Progress):
            run = {"file": state.file, "frame": state.frame, "stage": state.stage}
            run |= {"fps": round(state.fps, 2), "queues": dict(state.waiting)}
        return Sample(
            time=round(self._clock(), 3),
            cpu_percent=None if self.latest is None else load,
            ram_used=ram_used(),
            ram_total=this_machine().memory_total,
            disk_free=_disk_free(self._folder),
            gpu=gpu_sample(self.processes.pids),
            **run,
            **process,
        )

    def _state(self) -> Progress | str:
        try:
            return self._run_state()
        except Exception as error:  # noqa: BLE001 - the machine's figures are worth having all the same
            self.problem = tr(
                "the run did not say where it stands: {kind}: {error}", kind=type(error).__name__, error=error
            )
            return ""


class _LineFile:
    """Appends whole lines to a file that it opens anew each time.

    A folder may go and come back while the run goes on, and Drive uploads a file only once it is closed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ends_well = False

    def append(self, line: bytes) -> None:
        """Append a line; one that was cut short before, by a crash or a full disk, is ended first."""
        ends_well, self._ends_well = self._ends_well, False
        with self._path.open("ab+") as file:
            file.write((b"" if ends_well or ends_a_line(file) else b"\n") + line + b"\n")
        self._ends_well = True


class ProcessTree:
    """A process and its children (``pids``); those that end between two looks are left out."""

    def __init__(self) -> None:
        self.pids: set[int] = set()
        self._known: dict[psutil.Process, psutil.Process] = {}

    def read(self, pid: int) -> dict[str, Any]:
        """Return the process fields of a ``Sample``; empty if there is no such process."""
        # The same objects every time: psutil counts a process's time since it was last asked.
        before, self._known = self._known, {}
        figures = []
        for process in _family(pid):
            found = _figures(before.get(process, process))
            if found is not None:
                self._known[process] = before.get(process, process)
                figures.append(found)
        self.pids = {process.pid for process in self._known}
        if not figures:
            return {}
        cpu, memory, threads, files = map(sum, zip(*figures, strict=True))
        return {
            "process_cpu": round(cpu, 1) if before else None,
            "process_memory": memory,
            "threads": threads,
            "open_files": files,
        }


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def _figures(process: psutil.Process) -> tuple[float, int, int, int] | None:
    """Percent of a core since the last look, resident bytes, threads, open files; None if it has ended."""
    try:
        with process.oneshot():
            files = int(getattr(process, _COUNT_FILES)())
            return process.cpu_percent(), process.memory_info().rss, process.num_threads(), files
    except psutil.Error:
        return None


def _disk_free(folder: Path) -> int | None:
    try:
        return disk_free(folder)
    except OSError:
        return None
