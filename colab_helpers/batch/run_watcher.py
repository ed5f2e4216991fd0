"""Watch a run until it ends: show its progress, forward Ctrl-C, and kill a worker that hangs."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from colab_helpers.addresses import address_of
from colab_helpers.batch.object_store import fetch, remove, send_all
from colab_helpers.batch.status import BatchStatus, latest_status
from colab_helpers.batch.stop import STATUS_NAME, STOP_NAME, STOP_SIGNALS, is_process_alive
from colab_helpers.errors import ColabHelpersError
from colab_helpers.language import mark, tr
from colab_helpers.progress import Progress, ProgressCallback

StatusCallback = Callable[[BatchStatus], None]

GRACE_PERIOD = 60.0
"""Seconds that a worker may take to exit after a stop request or a kill."""
_POLL_INTERVAL = 0.1
# Longer, since the status comes over the network.
REMOTE_POLL_INTERVAL = 1.0


class StallTimer:
    """Measures how long a value has been unchanged."""

    def __init__(self) -> None:
        self.value: object = None
        self._since = time.monotonic()

    def seconds(self, value: object) -> float:
        """Return the seconds since the value became ``value``."""
        if value != self.value:
            self.value, self._since = value, time.monotonic()
        return time.monotonic() - self._since


@dataclass(eq=False)
class RunWatcher:
    """Watches the run in an output ``folder``.

    Attributes:
        local_folder: Folder on the local disk with a more recent status, if the work is done there.
        stall_timeout: Seconds without any sign of life after which the worker is killed.
        on_progress: Called with each new progress of the current file.
        on_status: Called with each new status.
        interrupts: Number of interrupts (Ctrl-C) so far.
    """

    folder: Path
    local_folder: Path
    stall_timeout: float
    on_progress: ProgressCallback | None = None
    on_status: StatusCallback | None = None
    interrupts: int = field(default=0, init=False)
    _seen: float = field(default=0.0, init=False)
    _shown: Progress | None = field(default=None, init=False)
    _forwarded: int = field(default=0, init=False)  # interrupts passed on to the process
    _stop_pid: int = field(default=0, init=False)  # the process they were passed on to
    _stop_time: float = field(default=0.0, init=False)

    @property
    def status_files(self) -> list[Path]:
        """Where the status may be: on the local disk if the work is done there, and beside the results."""
        return list(dict.fromkeys(folder / STATUS_NAME for folder in (self.local_folder, self.folder)))

    def status(self, own_pid: int = 0) -> BatchStatus | None:
        """Read the latest status; that of our own worker from the local disk alone if it is there."""
        local = latest_status(self.status_files[:1])
        if local is not None and local.pid == own_pid:
            return local
        if address_of(self.folder) and not (local and local.alive()):
            with suppress(ColabHelpersError):
                fetch(self.folder / STATUS_NAME)
        return latest_status(self.status_files)

    def is_batch_running(self) -> bool:
        """Return whether any batch is running in the folder."""
        status = self.status()
        return status is not None and status.alive()

    def clear_stop_file(self) -> None:
        """Remove the ``STOP`` file unless a batch is running, for which it is meant."""
        if not self.is_batch_running():
            with suppress(OSError, ColabHelpersError):
                remove(self.folder / STOP_NAME)

    @contextmanager
    def counting_interrupts(self) -> Iterator[None]:
        """Count Ctrl-C instead of raising; ``wait_until_end`` forwards them to the worker."""
        # Only the main thread may install handlers, and handlers of the caller stay in place.
        main, default = threading.current_thread() is threading.main_thread(), signal.default_int_handler
        replaced = [number for number in STOP_SIGNALS if main and signal.getsignal(number) is default]
        for number in replaced:
            signal.signal(number, self._interrupt)
        try:
            yield
        finally:
            for number in replaced:
                signal.signal(number, default)

    def _interrupt(self, *_: object) -> None:
        self.interrupts += 1

    def wait_until_end(self, is_running: Callable[[BatchStatus | None], bool], own_pid: int = 0) -> str:
        """Show a run's progress until it ends; return why its process was killed, or "".

        ``is_running`` decides by the status; ``own_pid`` is the worker if it was started by this process.
        """
        idle, killed = StallTimer(), ""
        self._forwarded, self._stop_pid = 0, 0
        while is_running(status := self.status(own_pid)):
            here = status is not None and status.host == socket.gethostname()
            pid = own_pid or (status.pid if here and status is not None else 0)
            if not self._forward_interrupts(pid):
                break  # on another machine: it stops once it sees the request
            known = status is not None and pid in (0, status.pid)
            activity = status.ticks if status is not None and known else _cpu_seconds(pid)
            if idle.seconds(activity) > self.stall_timeout and pid and not killed:
                _signal(pid, signal.SIGKILL)
                text = mark("made no progress for {limit:.0f} seconds and was killed")
                killed = tr(text, limit=self.stall_timeout)
                if own_pid:
                    return killed
            if status is not None and known:
                self._show(status)
            if self._forwarded > 1 and not pid:
                break
            time.sleep(_POLL_INTERVAL if pid else REMOTE_POLL_INTERVAL)
        status = self.status(own_pid)  # the final one
        if status is not None and own_pid in (0, status.pid):
            self._show(status)
        return killed

    def _forward_interrupts(self, pid: int) -> bool:
        """Pass Ctrl-C on to a process; return False if waiting for it is pointless."""
        if self.interrupts > self._forwarded or (self._forwarded and pid != self._stop_pid):
            if not self._forwarded:
                self._stop_time = time.monotonic()
            self._forwarded, self._stop_pid = self.interrupts, pid
            self._request_stop(pid)
        if self._forwarded and time.monotonic() - self._stop_time > GRACE_PERIOD:
            self._stop_time = time.monotonic()
            return _signal(pid, signal.SIGKILL)
        return True

    def _request_stop(self, pid: int) -> None:
        """Stop a local process by a signal, a remote one by the ``STOP`` file; kill it the second time."""
        if self.interrupts == 1 and _signal(pid, signal.SIGTERM):
            return
        # Also before a kill: another supervisor that watches would start a new worker.
        with suppress(OSError, ColabHelpersError):
            (self.folder / STOP_NAME).touch()
            send_all([self.folder / STOP_NAME])
        if self.interrupts > 1:
            _signal(pid, signal.SIGKILL)

    def _show(self, status: BatchStatus) -> None:
        try:
            if self.on_status is not None and status.updated != self._seen:
                self._seen = status.updated
                self.on_status(status)
            if status.running and status.running != self._shown and self.on_progress is not None:
                self._shown = status.running
                self.on_progress(status.running)
        except KeyboardInterrupt:  # raised by a callback, or by a handler that is not ours
            self.interrupts += 1


def _signal(pid: int, number: signal.Signals) -> bool:
    """Send a signal; return False if this machine has no such process."""
    try:
        if pid and is_process_alive(pid, 0.0):
            psutil.Process(pid).send_signal(number)
            return True
    except psutil.Error:
        return False  # exited meanwhile
    return False


def _cpu_seconds(pid: int) -> int:
    """Return a process's CPU time in whole seconds, a sign of life if there is no status; -1 if unknown."""
    try:
        times = psutil.Process(pid).cpu_times()
    except (psutil.Error, ValueError):
        return -1
    return int(times.user + times.system)
