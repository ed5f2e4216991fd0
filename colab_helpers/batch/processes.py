"""The processes of a batch: one of several workers, what is said of how one ends, and who makes the page."""

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
"""Exit codes: stopped by somebody; the folder is another's; nothing was started. 0: all was tried."""
# Seconds that the page may take, for which pictures are decoded.
PAGE_TIMEOUT = 180.0
PAGE_POLL_INTERVAL = 0.5


class WorkerProcess:
    """One of several workers, `member`, and the way to it; where this process goes, it ends by itself.

    Args:
        job: File that tells it what to do.
        receive_message: Takes each of its news, and as the last ``lost`` with its exit code; called from a
        thread.
        environment: What it has beside this process's own.
    """

    def __init__(
        self, job: Path, receive_message: Callable[[tuple[Any, ...]], object], environment: Mapping[str, str]
    ) -> None:
        from multiprocessing import Pipe  # slow, and needed by crews alone

        self._far, theirs = Pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "colab_helpers.batch.pool_worker", str(job), str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env={**os.environ, **environment},
        )
        theirs.close()
        self.terminate, self.kill = self._process.terminate, self._process.kill
        threading.Thread(target=self._carry, args=(receive_message,), name="carry", daemon=True).start()

    def send(self, message: object) -> None:
        """Hand something to it, unless it has died, which is heard."""
        with suppress(OSError):
            self._far.send(message)

    def _carry(self, receive_message: Callable[[tuple[Any, ...]], object]) -> None:
        try:
            while True:
                receive_message(self._far.recv())
        except (EOFError, OSError):
            pass  # it has ended, or closes its end as it does
        except Exception:  # noqa: BLE001 - what it says cannot be read
            self.kill()
        receive_message(("lost", self._process.wait()))


def refusal_path(job: Path) -> Path:
    """Return where a worker writes why it did not begin its job."""
    return job.with_suffix(".refused.json")


def write_refusal(job: Path, error: ColabHelpersError) -> None:
    """Send an error from the worker to whoever has started it."""
    # The nearest class that everybody knows: a room's own subclass need not be importable there.
    kind = next(base.__name__ for base in type(error).__mro__ if hasattr(errors, base.__name__))
    write_text(refusal_path(job), json.dumps([kind, error.what, error.where, error.remedy]))


def read_refusal(job: Path) -> ColabHelpersError | None:
    """Return the error to be raised again; None if there is none."""
    try:
        kind, what, where, remedy = json.loads(refusal_path(job).read_bytes())
    except (OSError, ValueError):
        return None
    error: ColabHelpersError = getattr(errors, kind)(what, where=where, remedy=remedy)
    return error


def describe_exit(code: int) -> str:
    """Write what a process died of, from its exit code."""
    if code == -signal.SIGKILL:
        return tr("was killed, as the system does when memory runs out (signal 9)")
    if code < 0:
        return tr("died of {name} (signal {number})", name=signal.Signals(-code).name, number=-code)
    return tr("ended with exit code {code}", code=code)


def repeated_death_error(folder: Path, number: int, cause: str, log: str = "") -> WorkerError:
    """Return what to raise where so many workers in a row die before they do anything."""
    told = mark("{number} worker processes in a row died before they did anything, the last one {cause}{log}")
    return WorkerError(
        tr(told, number=number, cause=cause, log=log),
        where=str(folder),
        remedy=tr("run 'python -m colab_helpers doctor'; free memory or choose the preset stable"),
    )


def make_page(folder: Path, report: Path, heartbeat: Callable[[], None]) -> str:
    """Have the page beside a report made; return why there is none. ``heartbeat`` may raise to give up.

    In a process of its own: decoders crash and hang, which must cost nothing else.
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
                said = process.communicate(timeout=PAGE_POLL_INTERVAL)[1].strip().splitlines()
                return (
                    ": ".join([describe_exit(process.returncode), *said[-1:]]) if process.returncode else ""
                )
            heartbeat()
    finally:
        process.kill()
        with suppress(subprocess.TimeoutExpired):  # what hangs in the system does not even end then
            process.wait(1.0)
    return tr("it took longer than {limit:.0f} seconds", limit=PAGE_TIMEOUT)
