"""Run one worker of a worker pool: ``python -m colab_helpers.batch.pool_worker JOB CONNECTION``.

It executes the calls of the `WorkerPool` on its `TaskRunner`, one by one. Status updates and journal entries
are sent to the pool, which alone writes both files.
"""

from __future__ import annotations

from colab_helpers.startup import begin_startup

if __name__ == "__main__":
    begin_startup()

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from colab_helpers.batch.context import WorkerContext
from colab_helpers.batch.drive import WorkDirs
from colab_helpers.batch.job import Job
from colab_helpers.batch.journal import Entry
from colab_helpers.batch.memory_growth import MemoryGrowth, RecycleError
from colab_helpers.batch.report import is_own_file
from colab_helpers.batch.status import BatchStatus, StatusWriter
from colab_helpers.batch.stop import StopToken
from colab_helpers.batch.task_runner import TaskRunner
from colab_helpers.batch.write_policy import WritePolicy, file_identities
from colab_helpers.language import use_language
from colab_helpers.media.encoders import default_encoder
from colab_helpers.resources.allocator import tune_allocator

_TICK_INTERVAL = 0.5
_PARENT_POLL_INTERVAL = 1.0


class _RemoteStatus(StatusWriter):
    """Forwards status updates to the worker pool."""

    def __init__(self, send: Callable[[object], None]) -> None:
        self._send, self._ticked = send, 0.0
        self.status = BatchStatus(pid=os.getpid(), host="", started=0.0, updated=0.0, files=[])
        for name in ("progress", "picture", "note", "pause", "file", "count_memory_warnings"):
            setattr(self, name, partial(self._forward, name))

    def _forward(self, name: str, *args: object) -> None:
        self._send(("status", name, args))

    def tick(self) -> None:
        if time.monotonic() - self._ticked >= _TICK_INTERVAL:
            self._ticked = time.monotonic()
            self._forward("tick")


class _Connection(Connection):
    """Connection to the worker pool that threads may share; a `JournalWriter`."""

    def __init__(self, handle: int) -> None:
        super().__init__(handle)
        self._lock = threading.Lock()

    def send(self, message: object) -> None:
        with self._lock:
            super().send(message)

    def announce(self, notes: Iterable[str], times: int) -> None:
        self.send(("announce", [*notes], times))

    def append(self, entry: Entry) -> None:
        """Send a journal entry and wait for the answer; raise OutputError if it could not be written."""
        self.send(("entry", entry))
        if (error := self.recv()) is not None:
            raise error


def main(argv: Sequence[str]) -> None:
    """Open the worker and serve the pool's calls until it stops or closes the connection."""
    stop, connection = StopToken(owns_process=True), _Connection(int(argv[1]))
    tune_allocator()
    _exit_with_parent()
    job = Job.load(Path(argv[0]))
    work_dirs = WorkDirs.of(job.folder, job.request.work_dir)
    context = WorkerContext(job, work_dirs, _RemoteStatus(connection.send), stop)
    with use_language(job.request.language):
        try:
            overwrite, inputs = job.request.settings.overwrite, file_identities(job.inputs)
            base_policy = WritePolicy(inputs, overwrite, made=is_own_file)
            runner = TaskRunner.open(context, base_policy, connection, connection.announce)
        except RecycleError:
            connection.send(("leave",))
            return
        except Exception as error:  # noqa: BLE001 - the pool decides how to continue
            connection.send(("refused", error))
            return
        info = runner.loaded
        encoder = default_encoder(info.settings.get("output_video_encoder", "auto"))
        connection.send(("opened", replace(info, encoder=encoder)))
        _serve(runner, connection, stop)


def _serve(runner: TaskRunner, connection: Connection, stop: StopToken) -> None:
    growth, leaves = MemoryGrowth(), False
    while not leaves:
        with stop.interruptible():
            method, kwargs = connection.recv()
        try:
            outcome, result = "done", getattr(runner, method)(**kwargs)
        except Exception as error:  # noqa: BLE001 - one bad file must not stop the others
            outcome, result = "failed", runner.failed(kwargs["index"], error)
        try:
            if method != "prepare":  # uses only some of the networks, so that its memory is no baseline
                growth.check(stop)
        except RecycleError:
            leaves = True
        connection.send((outcome, result, leaves))


def _exit_with_parent() -> None:
    """Exit as soon as the parent process is gone, even if the work hangs."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_POLL_INTERVAL)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


if __name__ == "__main__":
    # Stopped, or the pool has closed the connection.
    with suppress(KeyboardInterrupt, EOFError, BrokenPipeError, ConnectionResetError):
        main(sys.argv[1:])
    sys.stdout.flush()
    # A normal exit could hang in threads of drivers and libraries; all results are on disk.
    os._exit(0)
