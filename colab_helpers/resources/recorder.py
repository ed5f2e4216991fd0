"""Recorder thread that samples the machine and the run every few seconds."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from contextvars import copy_context
from pathlib import Path
from typing import Any, Self

import psutil

from colab_helpers.files import ends_with_newline, open_nofollow, to_json
from colab_helpers.machine import disk_free, this_machine
from colab_helpers.progress import Progress
from colab_helpers.resources.sampler import gpu_sample, other_gpus, ram_used
from colab_helpers.resources.samples import Sample

INTERVAL = 2.0
"""Seconds between two samples."""
# A network folder that hangs must not delay the end of a run.
_MAX_JOIN_SECONDS = 5.0


class Recorder:
    """Takes samples until it is closed and appends each to a file as one line of JSON.

    A context manager. The first sample is taken on start and the last on close. Errors never reach the run:
    they leave a gap in the charts.

    Args:
        path: The file; existing content is kept.
        folder: The output folder, for its free disk space.
        interval: Seconds between two samples.
        pid: The process to sample, with its children; None for this one.
        gpus: UUIDs of the GPUs in use; empty for all that are visible.
        run_state: Returns the progress of the current file, or a word or two on what the run is doing; called
            from the recorder's thread.
        on_sample: Called with each sample from the recorder's thread.
        clock: Returns the time in seconds since 1970.
        sleep: Waits for some seconds; by default ``close`` ends the wait.
    """

    def __init__(
        self,
        path: Path,
        folder: Path,
        *,
        interval: float = INTERVAL,
        pid: int | None = None,
        gpus: Collection[str] = (),
        run_state: Callable[[], Progress | str] = str,
        on_sample: Callable[[Sample], None] | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self._path, self._folder, self._gpus, self._interval = path, folder, gpus, interval
        self._run_state, self._on_sample, self._clock = run_state, on_sample, clock
        self._stop = threading.Event()
        self._sleep = sleep or self._stop.wait
        run = copy_context().run
        # Daemon: a hanging network folder must not keep the process from exiting.
        self._thread = threading.Thread(target=run, args=(self._run,), name="recorder", daemon=True)
        self.pid = os.getpid() if pid is None else pid
        self.latest: Sample | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> Self:
        """Start the thread; it takes the first sample at once."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Take the last sample and end the thread, within five seconds. May be called twice."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_MAX_JOIN_SECONDS)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._record()
            self._sleep(self._interval)
        self._record()

    def _record(self) -> None:
        """Take a sample; errors of a driver, a callback or a disk stop neither the run nor the sampling."""
        with suppress(Exception):
            self.latest = sample = self._take()
            with suppress(Exception):  # before the write: the file may be in a network folder that hangs
                if self._on_sample:
                    self._on_sample(sample)
            _append_line(self._path, to_json(sample, exclude_none=True).encode())

    def _take(self) -> Sample:
        memory, load = memory_by_process(self.pid), psutil.cpu_percent()
        state: Progress | str = ""
        free: int | None = None
        with suppress(Exception):  # the machine's figures are worth recording without it
            state = self._run_state()
        with suppress(OSError):
            free = disk_free(self._folder)
        run: dict[str, Any] = {"stage": state}
        if isinstance(state, Progress):
            run = {"file": state.file, "frame": state.frame, "stage": state.stage}
            run |= {"fps": round(state.fps, 2), "queues": dict(state.waiting)}
        return Sample(
            time=round(self._clock(), 3),
            cpu_percent=None if self.latest is None else load,
            ram_used=ram_used(),
            ram_total=this_machine().memory_total,
            disk_free=free,
            process_memory=sum(memory.values()) or None,
            gpu=gpu_sample(memory.keys(), self._gpus),
            gpus=other_gpus(self._gpus),
            **run,
        )


def _append_line(path: Path, line: bytes) -> None:
    """Append a line; end a line first that a crash or a full disk cut short.

    The file is opened each time: a mounted folder may vanish and come back during a run, and Drive uploads a
    file only once it is closed.
    """
    with open(path, "ab+", opener=open_nofollow) as file:
        file.write((b"" if ends_with_newline(file) else b"\n") + line + b"\n")


def memory_by_process(pid: int) -> dict[int, int]:
    """Return the resident bytes of a process and its children by process ID, without any that have ended."""
    memory = {}
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for member in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):
                memory[member.pid] = member.memory_info().rss
    return memory
