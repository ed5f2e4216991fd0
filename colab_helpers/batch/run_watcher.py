"""Watches a run until it ends: shows how it stands, passes Ctrl-C on to it, and kills what hangs."""

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
from colab_helpers.language import tr
from colab_helpers.progress import Progress, ProgressCallback

StatusCallback = Callable[[BatchStatus], None]

GRACE_PERIOD = 60.0
"""Seconds that a worker which was asked to stop, or killed, may take to be gone."""
_POLL_INTERVAL = 0.1
# Reading a status that another machine writes asks a network for it.
REMOTE_POLL_INTERVAL = 1.0


class StallTimer:
    """Tells how long a value has been the same."""

    def __init__(self) -> None:
        self.value: object = None
        self._since = time.monotonic()

    def seconds(self, value: object) -> float:
        """Return the seconds since it became this value."""
        if value != self.value:
            self.value, self._since = value, time.monotonic()
        return time.monotonic() - self._since


@dataclass(eq=False)
class RunWatcher:
    """Whoever watches a run in a ``folder``; its status lies ``near`` if the work is done on a local disk.

    A process without any sign of life for ``limit`` seconds is killed. ``on_progress`` is called with every
    new state of a running file, ``on_status`` with every new status.
    """

    folder: Path
    near: Path
    limit: float
    on_progress: ProgressCallback | None = None
    on_status: StatusCallback | None = None
    interrupts: int = field(default=0, init=False)
    _seen: float = field(default=0.0, init=False)
    _shown: Progress | None = field(default=None, init=False)
    _answered: int = field(default=0, init=False)
    _asked: int = field(default=0, init=False)
    _asked_at: float = field(default=0.0, init=False)

    @property
    def status_files(self) -> list[Path]:
        """Where statuses may lie: on the local disk if the work is done there, and beside the results."""
        return list(dict.fromkeys(place / STATUS_NAME for place in (self.near, self.folder)))

    def status(self, own: int = 0) -> BatchStatus | None:
        """Read the latest status; that of an own worker without asking the drive where it is near."""
        near = latest_status(self.status_files[:1])
        if near is not None and near.pid == own:
            return near
        if address_of(self.folder) and not (near and near.alive()):
            with suppress(ColabHelpersError):
                fetch(self.folder / STATUS_NAME)
        return latest_status(self.status_files)

    def at_work(self) -> bool:
        """Whether any batch works in the folder."""
        status = self.status()
        return status is not None and status.alive()

    def clear_stop_file(self) -> None:
        """Remove the file that asks to stop, unless it is meant for a batch at work."""
        if not self.at_work():
            with suppress(OSError, ColabHelpersError):
                remove(self.folder / STOP_NAME)

    @contextmanager
    def counting_interrupts(self) -> Iterator[None]:
        """Have Ctrl-C raise nothing meanwhile: it is counted, and looked at in ``wait_until_end``."""
        # Only the main thread may; and what somebody else has made of them stays theirs.
        main = threading.current_thread() is threading.main_thread()
        given = signal.default_int_handler
        ours = [number for number in STOP_SIGNALS if main and signal.getsignal(number) is given]
        for number in ours:
            signal.signal(number, self._interrupt)
        try:
            yield
        finally:
            for number in ours:
                signal.signal(number, signal.default_int_handler)

    def _interrupt(self, *_: object) -> None:
        self.interrupts += 1

    def wait_until_end(self, is_running: Callable[[BatchStatus | None], bool], own: int = 0) -> str:
        """Show how a run stands until it ends; return what its process was killed for, if it was.

        Whether it goes on is told by its status; ``own`` is the process that does it, if it was started here.
        """
        life, killed = StallTimer(), ""
        self._answered, self._asked = 0, 0
        while is_running(status := self.status(own)):
            here = status is not None and status.host == socket.gethostname()
            pid = own or (status.pid if here and status is not None else 0)
            if not self._stop(pid):
                break  # on another machine: it will stop when it hears of it
            known = status is not None and pid in (0, status.pid)
            signs = status.ticks if status is not None and known else _cpu_seconds(pid)
            if life.seconds(signs) > self.limit and pid and not killed:
                _signal(pid, signal.SIGKILL)
                killed = tr("made no progress for {limit:.0f} seconds and was killed", limit=self.limit)
                if own:
                    return killed
            if status is not None and known:
                self._show(status)
            if self._answered > 1 and not pid:
                break
            time.sleep(_POLL_INTERVAL if pid else REMOTE_POLL_INTERVAL)
        status = self.status(own)  # it has said its last word since
        if status is not None and own in (0, status.pid):
            self._show(status)
        return killed

    def _stop(self, pid: int) -> bool:
        """Pass Ctrl-C on to a process; return whether there is any use in waiting for it longer."""
        if self.interrupts > self._answered or (self._answered and pid != self._asked):
            if not self._answered:
                self._asked_at = time.monotonic()
            self._answered, self._asked = self.interrupts, pid
            self._ask(pid)
        if self._answered and time.monotonic() - self._asked_at > GRACE_PERIOD:
            self._asked_at = time.monotonic()
            return _signal(pid, signal.SIGKILL)
        return True

    def _ask(self, pid: int) -> None:
        """Ask a process of this machine by a signal, one of another by the file; the second time, end it."""
        if self.interrupts == 1 and _signal(pid, signal.SIGTERM):
            return
        # Also where a process is killed: whoever else watches it would start another one.
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
        except KeyboardInterrupt:  # of a display, or where Ctrl-C is not ours to count
            self.interrupts += 1


def _signal(pid: int, number: signal.Signals) -> bool:
    """Send a signal; False if there is no such process here."""
    try:
        if pid and is_process_alive(pid, 0.0):
            psutil.Process(pid).send_signal(number)
            return True
    except psutil.Error:
        return False  # it has gone
    return False


def _cpu_seconds(pid: int) -> int:
    """Whole seconds a process has computed: a sign of life where its status is out of reach."""
    try:
        times = psutil.Process(pid).cpu_times()
    except (psutil.Error, ValueError):
        return -1
    return int(times.user + times.system)
