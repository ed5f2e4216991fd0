"""Stop requests by a signal or the file ``STOP``, raised as KeyboardInterrupt at safe points."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from colab_helpers.addresses import address_of
from colab_helpers.errors import UsageError
from colab_helpers.files import copy_atomically
from colab_helpers.language import tr

STATUS_NAME, STOP_NAME = "status.json", "STOP"
"""Files of an output folder: a batch writes its state to the former; creating the latter stops it."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
POLL_INTERVAL = 0.5
# Seconds that work may take to stop; less than the supervisor's GRACE_PERIOD.
STOP_TIMEOUT = 45.0
HEARTBEAT_TIMEOUT = 30.0
"""Seconds without a status update after which a run on another machine counts as ended."""
_START_TIME_TOLERANCE = 2.0


class StopToken:
    """Tells whether a stop was requested; with ``owns_process`` also by a signal to this process."""

    def __init__(self, *, owns_process: bool = False) -> None:
        self.owns_process = owns_process
        self._requested_at: float | None = None
        self._raise_at_once = False
        if owns_process:
            for number in STOP_SIGNALS:
                signal.signal(number, self._on_signal)
            # The supervisor starts this process with the signals blocked.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def _on_signal(self, *_: object) -> None:
        self._requested_at = self._requested_at or time.monotonic()
        if self._raise_at_once:
            self._raise_at_once = False
            raise KeyboardInterrupt

    def check(self) -> None:
        """Raise KeyboardInterrupt if a stop was requested."""
        if self._requested_at is not None:
            raise KeyboardInterrupt

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Raise KeyboardInterrupt at once on a signal; for code that writes nothing."""
        self._raise_at_once = self.owns_process
        try:
            self.check()
            yield
        finally:
            self._raise_at_once = False
        self.check()

    @contextmanager
    def watching_file(self, file: Path, *, on_late: Callable[[], None]) -> Iterator[None]:
        """Poll for the ``STOP`` file, from a thread, as access to a mounted drive may hang.

        ``on_late`` is called if the work does not stop within `STOP_TIMEOUT`; it exits the process.
        """
        ended = threading.Event()
        threading.Thread(target=self._poll, args=(file, ended, on_late), name="stop", daemon=True).start()
        try:
            yield
        finally:
            ended.set()

    def _poll(self, file: Path, ended: threading.Event, on_late: Callable[[], None]) -> None:
        while not ended.wait(POLL_INTERVAL):
            if self._requested_at is None:
                with suppress(OSError):
                    if file.exists():
                        self._request()
            elif self.owns_process and time.monotonic() - self._requested_at > STOP_TIMEOUT:
                on_late()

    def _request(self) -> None:
        if self.owns_process:
            os.kill(os.getpid(), signal.SIGTERM)  # interrupts the main thread's system calls
        else:
            self._requested_at = time.monotonic()

    def sleep(self, seconds: float, tick: Callable[[], None]) -> None:
        """Wait, calling ``tick`` meanwhile; raise KeyboardInterrupt if a stop is requested."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            tick()
            self.check()
            time.sleep(min(left, POLL_INTERVAL))

    def replace_process(self, command: list[str]) -> None:
        """Replace this process by a command; it keeps the process id, so that supervisors need not know."""
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        if self._requested_at is not None:
            os.kill(os.getpid(), signal.SIGTERM)  # stays pending for the new program
        os.closerange(3, max(os.sysconf("SC_OPEN_MAX"), 1 << 16))
        os.execv(sys.executable, command)


def is_process_alive(pid: int, started: float) -> bool:
    """Return whether a local process exists and began at ``started``, in seconds since 1970 (0: any time)."""
    if not pid:
        return False
    import psutil  # slow to import, and not needed for a run that has ended

    try:
        process = psutil.Process(pid)
        same = not started or abs(process.create_time() - started) < _START_TIME_TOLERANCE
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def is_run_alive(status: Mapping[str, Any], silence: float = HEARTBEAT_TIMEOUT) -> bool:
    """Return whether a run is still going on, by the fields of its `BatchStatus`; see `BatchStatus.alive`."""
    if status["state"] != "running":
        return False
    recent: bool = abs(time.time() - status["updated"]) < silence
    if status["host"] != socket.gethostname():
        return recent
    supervised = recent and is_process_alive(status["supervisor"], status["supervisor_started"])
    return supervised or is_process_alive(status["pid"], status["pid_started"])


def request_stop(folder: Path) -> bool:
    """Ask the batch in an output folder to stop; return False if none is running there.

    The status is read as plain JSON to spare the import of its models; UsageError is raised if that fails.
    """
    path, stored = folder / STATUS_NAME, address_of(folder) is not None
    if stored:
        from colab_helpers.batch.object_store import fetch, send_all  # slow to import, and seldom needed

        fetch(path)
    try:
        alive = is_run_alive(json.loads(path.read_bytes()))
    except OSError:
        return False
    except (ValueError, TypeError, KeyError) as error:
        what = tr("not a status file that this version can read")
        remedy = tr("use the version of the package that runs the batch")
        raise UsageError(what, where=str(path), remedy=remedy) from error
    if alive:
        copy_atomically(folder / STOP_NAME, io.BytesIO())
        if stored:
            send_all([folder / STOP_NAME])
    return alive
