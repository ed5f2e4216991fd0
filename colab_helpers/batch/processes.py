"""Subprocesses of a batch: workers of a pool, their exits and refusals, and the HTML page's renderer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from colab_helpers import errors
from colab_helpers.batch.report import write_text
from colab_helpers.errors import ColabHelpersError, WorkerError
from colab_helpers.language import LANGUAGE_ENV, language, mark, tr

STOPPED, BUSY, REFUSED = 75, 76, 77
"""Exit codes of a worker: stopped; the folder is locked; refused to start. 0: all files were tried."""
# Seconds for the HTML report, which needs decoded frames.
PAGE_TIMEOUT = 180.0
PAGE_POLL_INTERVAL = 0.5


class WorkerProcess:
    """A `pool_worker` process and the connection to it; the process exits by itself if this one does.

    Args:
        job: The job file.
        receive_message: Called from a thread with each message, the last one being ``("lost", exit_code)``.
        environment: Additional environment variables.
    """

    def __init__(
        self, job: Path, receive_message: Callable[[tuple[Any, ...]], object], environment: Mapping[str, str]
    ) -> None:
        from multiprocessing import Pipe  # slow to import, and needed by worker pools only

        self._connection, child = Pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "colab_helpers.batch.pool_worker", str(job), str(child.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[child.fileno()],
            env={**os.environ, **environment},
        )
        child.close()
        self.terminate, self.kill = self._process.terminate, self._process.kill
        threading.Thread(target=self._receive, args=(receive_message,), name="receive", daemon=True).start()

    def send(self, message: object) -> None:
        """Send a message; do nothing if the process has died, which ``receive_message`` reports."""
        with suppress(OSError):
            self._connection.send(message)

    def _receive(self, receive_message: Callable[[tuple[Any, ...]], object]) -> None:
        try:
            while True:
                receive_message(self._connection.recv())
        except (EOFError, OSError):
            pass  # the process has exited or is about to
        except Exception:  # noqa: BLE001 - a message that cannot be unpickled
            self.kill()
        receive_message(("lost", self._process.wait()))


def refusal_path(job: Path) -> Path:
    """Return the file in which a worker writes why it refused its job."""
    return job.with_suffix(".refused.json")


def write_refusal(job: Path, error: ColabHelpersError) -> None:
    """Write an error for the process that started the worker."""
    # The nearest public base class: subclasses defined elsewhere cannot be looked up by name.
    kind = next(base.__name__ for base in type(error).__mro__ if hasattr(errors, base.__name__))
    write_text(refusal_path(job), json.dumps([kind, error.what, error.where, error.remedy]))


def read_refusal(job: Path) -> ColabHelpersError | None:
    """Return the error that a worker has written; None if there is none."""
    try:
        kind, what, where, remedy = json.loads(refusal_path(job).read_bytes())
    except (OSError, ValueError):
        return None
    error: ColabHelpersError = getattr(errors, kind)(what, where=where, remedy=remedy)
    return error


def describe_exit(code: int) -> str:
    """Describe how a process ended by its exit code, as the predicate of a sentence."""
    if code == -signal.SIGKILL:
        return tr("was killed, as the system does when memory runs out (signal 9)")
    if code < 0:
        names = {number.value: number.name for number in signal.Signals}  # real-time signals have none
        name = names.get(-code) or signal.strsignal(-code)
        return tr("died of {name} (signal {number})", name=name, number=-code)
    return tr("exited with code {code}", code=code)


def repeated_death_error(folder: Path, number: int, cause: str, log: str = "") -> WorkerError:
    """Return the error for ``number`` workers in a row that died before they did any work."""
    text = mark("{number} worker processes in a row died before they did any work, the last one {cause}{log}")
    remedy = tr("run 'python -m colab_helpers doctor'; free memory or choose the preset stable")
    return WorkerError(tr(text, number=number, cause=cause, log=log), where=str(folder), remedy=remedy)


def make_page(folder: Path, report: Path, heartbeat: Callable[[], None]) -> str:
    """Render the HTML page of a report; return why that failed, or "". ``heartbeat`` may raise to cancel.

    Runs in a process of its own, as decoders may crash or hang.
    """
    heartbeat()
    process = subprocess.Popen(
        [sys.executable, "-m", "colab_helpers.pages", str(folder), "--report", str(report)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, LANGUAGE_ENV: language()},
    )
    until = time.monotonic() + PAGE_TIMEOUT
    try:
        while time.monotonic() < until:
            with suppress(subprocess.TimeoutExpired):
                lines = process.communicate(timeout=PAGE_POLL_INTERVAL)[1].strip().splitlines()
                code = process.returncode
                return ": ".join([describe_exit(code), *lines[-1:]]) if code else ""
            heartbeat()
    finally:
        process.kill()
        with suppress(subprocess.TimeoutExpired):  # a process that hangs in the kernel survives SIGKILL
            process.wait(1.0)
    return tr("it took longer than {limit:.0f} seconds", limit=PAGE_TIMEOUT)
