"""Notes every few seconds how machine and run stand, in a thread of its own."""

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
# A folder on a network that hangs must not hold up the end of a run.
_MAX_JOIN_SECONDS = 5.0


class Recorder:
    """Takes samples from its start to its end and appends each to a file, one JSON object a line.

    A context manager. The first sample is taken at once and the last at the end. Nothing that goes wrong here
    ever reaches the work; charts have a gap there.

    Args:
        path: The file; what it holds already is kept.
        folder: Where the results go, for the free space there.
        pid: The process whose figures are taken, with its children; None for this one.
        gpus: Identifiers of the GPUs in use; none: all that are seen.
        run_state: Says where the file at work stands, or what the run is doing, in a word or two; called, as
            ``on_sample`` with each sample, from the recorder's thread.
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
        self._folder, self._interval = folder, interval
        self._run_state, self._on_sample, self._clock = run_state, on_sample, clock
        self._stop = threading.Event()
        self._sleep = sleep or self._stop.wait
        self._path, self._gpus = path, gpus
        # Daemon: it may hang in a network folder, which must not keep the process from ending.
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._run,), name="recorder", daemon=True
        )
        self.pid = os.getpid() if pid is None else pid
        self.latest: Sample | None = None

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
            self._thread.join(_MAX_JOIN_SECONDS)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._record()
            self._sleep(self._interval)
        self._record()

    def _record(self) -> None:
        """Take a sample; whatever a driver, a display or a disk does, the work and the sampling go on."""
        with suppress(Exception):
            self.latest = sample = self._take()
            with suppress(Exception):  # first: the file may lie in a network folder that hangs
                if self._on_sample:
                    self._on_sample(sample)
            _append_line(self._path, to_json(sample, exclude_none=True).encode())

    def _take(self) -> Sample:
        memory, load = memory_by_process(self.pid), psutil.cpu_percent()
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
            process_memory=sum(memory.values()) or None,
            gpu=gpu_sample(memory.keys(), self._gpus),
            gpus=other_gpus(self._gpus),
            **run,
        )

    def _state(self) -> Progress | str:
        with suppress(Exception):  # the machine's figures are worth having all the same
            return self._run_state()
        return ""


def _append_line(path: Path, line: bytes) -> None:
    """Append a line; one that was cut short before, by a crash or a full disk, is ended first.

    The file is opened anew each time: a folder may go and come back while the run goes on, and Drive uploads
    a file only once it is closed.
    """
    with open(path, "ab+", opener=open_nofollow) as file:
        file.write((b"" if ends_with_newline(file) else b"\n") + line + b"\n")


def memory_by_process(pid: int) -> dict[int, int]:
    """Resident bytes of a process and its children, by number; those that have ended are left out."""
    found = {}
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):
                found[each.pid] = each.memory_info().rss
    return found


def _disk_free(folder: Path) -> int | None:
    with suppress(OSError):
        return disk_free(folder)
    return None
