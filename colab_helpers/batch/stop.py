"""A stop that somebody asks for, by a signal or the file ``STOP``; raised where the work can take it."""

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
"""A batch tells in the one how it stands; whoever makes the other asks it to stop."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
POLL_INTERVAL = 0.5
# How long work may take to end when it is asked to; less than whoever watches waits for it.
STOP_TIMEOUT = 45.0
HEARTBEAT_TIMEOUT = 30.0
"""Seconds without news after which a run on another machine counts as ended."""
_SAME_START = 2.0


class StopToken:
    """Knows whether somebody has asked the batch to stop; ``owns_process``: it does nothing else."""

    def __init__(self, *, owns_process: bool = False) -> None:
        self.owns_process = owns_process
        self._asked_at: float | None = None
        self._at_once = False
        if owns_process:
            for number in STOP_SIGNALS:
                signal.signal(number, self._ask)
            # Whoever has started this process holds them back until there is somebody to take them.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def _ask(self, *_: object) -> None:
        self._asked_at = self._asked_at or time.monotonic()
        if self._at_once:
            self._at_once = False
            raise KeyboardInterrupt

    def check(self) -> None:
        """Raise KeyboardInterrupt if somebody has asked."""
        if self._asked_at is not None:
            raise KeyboardInterrupt

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Have a stop raised at once, where nothing is written."""
        self._at_once = self.owns_process
        try:
            self.check()
            yield
        finally:
            self._at_once = False
        self.check()

    @contextmanager
    def watching_file(self, file: Path, *, on_late: Callable[[], None]) -> Iterator[None]:
        """Look for the file that asks; from a thread, since looking may hang on a mounted drive.

        ``on_late`` is called where the work does not end in time; it ends the process.
        """
        ended = threading.Event()
        threading.Thread(target=self._look, args=(file, ended, on_late), name="stop", daemon=True).start()
        try:
            yield
        finally:
            ended.set()

    def _look(self, file: Path, ended: threading.Event, on_late: Callable[[], None]) -> None:
        while not ended.wait(POLL_INTERVAL):
            if self._asked_at is None:
                with suppress(OSError):
                    if file.exists():
                        self._tell()
            elif self.owns_process and time.monotonic() - self._asked_at > STOP_TIMEOUT:
                on_late()

    def _tell(self) -> None:
        if self.owns_process:
            os.kill(os.getpid(), signal.SIGTERM)  # taken by the main thread, whatever it waits for
        else:
            self._asked_at = time.monotonic()

    def sleep(self, seconds: float, tick: Callable[[], None]) -> None:
        """Wait, but not when somebody asks to stop; ``tick`` is called meanwhile."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            tick()
            self.check()
            time.sleep(min(left, POLL_INTERVAL))

    def replace_process(self, command: list[str]) -> None:
        """Run a command in a fresh process under the same number; whoever watches need not know."""
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        if self._asked_at is not None:
            os.kill(os.getpid(), signal.SIGTERM)  # for the next one
        os.closerange(3, max(os.sysconf("SC_OPEN_MAX"), 1 << 16))
        os.execv(sys.executable, command)


def is_process_alive(pid: int, started: float) -> bool:
    """Whether a process of this machine is still there, and the one that began then (0: any)."""
    if not pid:
        return False
    import psutil  # slow, and not needed for a run that has ended

    try:
        process = psutil.Process(pid)
        same = not started or abs(process.create_time() - started) < _SAME_START
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def is_run_alive(status: Mapping[str, Any], silence: float = HEARTBEAT_TIMEOUT) -> bool:
    """Whether a run goes on, by the fields of its `BatchStatus`; see `BatchStatus.alive`."""
    if status["state"] != "running":
        return False
    recent: bool = abs(time.time() - status["updated"]) < silence
    if status["host"] != socket.gethostname():
        return recent
    supervised = recent and is_process_alive(status["supervisor"], status["supervisor_started"])
    return supervised or is_process_alive(status["pid"], status["pid_started"])


def request_stop(folder: Path) -> bool:
    """Ask the batch in an output folder to stop; False if none is at work there.

    The status is read as plain JSON, so that nobody waits for models to be built.
    """
    path, stored = folder / STATUS_NAME, address_of(folder) is not None
    if stored:
        from colab_helpers.batch.object_store import fetch, send_all  # slow, and seldom needed here

        fetch(path)
    try:
        alive = is_run_alive(json.loads(path.read_bytes()))
    except OSError:
        return False
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(
            tr("this is no status that this version can read"),
            where=str(path),
            remedy=tr("use the version of the package that runs the batch"),
        ) from error
    if alive:
        copy_atomically(folder / STOP_NAME, io.BytesIO())
        if stored:
            send_all([folder / STOP_NAME])
    return alive
