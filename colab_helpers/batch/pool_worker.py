"""One of a batch's workers on this machine: ``python -m colab_helpers.batch.pool_worker JOB CONNECTION``.

It holds one pair of `TaskRunner` and does what its `crew` asks for, call by call. Status and journal are
written by the batch process alone: what is to be told or noted is sent there.
"""

from __future__ import annotations

from colab_helpers.startup import begin_startup

if __name__ == "__main__":
    begin_startup()

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
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

_TICK_EVERY = 0.5
_POLL_INTERVAL = 1.0


class _RemoteStatus(StatusWriter):
    """Sends what there is to tell of the batch to the process that writes its status."""

    def __init__(self, send: Callable[[object], None]) -> None:
        self._send, self._ticked = send, 0.0
        self.status = BatchStatus(pid=os.getpid(), host="", started=0.0, updated=0.0, files=[])
        for name in ("progress", "picture", "note", "pause", "file", "warned"):
            setattr(self, name, partial(self._tell, name))

    def _tell(self, name: str, *given: object) -> None:
        self._send(("tell", name, given))

    def tick(self) -> None:
        if time.monotonic() - self._ticked >= _TICK_EVERY:
            self._ticked = time.monotonic()
            self._tell("tick")


class _Connection(Connection):
    """The way to whoever asks and writes the journal; what several threads send does not get mixed up."""

    def __init__(self, handle: int) -> None:
        super().__init__(handle)
        self._lock = threading.Lock()

    def send(self, message: object) -> None:
        with self._lock:
            super().send(message)

    def append(self, entry: Entry) -> None:
        """Have an entry noted."""
        self.send(("note", entry))
        if (error := self.recv()) is not None:
            raise error


def main(argv: Sequence[str]) -> None:
    """Do what is asked for until nobody asks any more."""
    stop, connection = StopToken(owns_process=True), _Connection(int(argv[1]))
    tune_allocator()
    _end_with_parent()
    job = Job.load(Path(argv[0]))
    work_dirs = WorkDirs.of(job.folder, job.request.work_dir)
    context = WorkerContext(job, work_dirs, _RemoteStatus(connection.send), stop)
    with use_language(job.request.language):
        try:
            base_policy = WritePolicy(
                file_identities(job.inputs), job.request.settings.overwrite, made=is_own_file
            )
            runner = TaskRunner.open(
                context,
                base_policy,
                connection,
                lambda told, times: connection.send(("announce", [*told], times)),
            )
        except RecycleError:
            connection.send(("leave",))
            return
        except Exception as error:  # noqa: BLE001 - whoever has started this decides what it means
            connection.send(("refused", error))
            return
        loaded = runner.loaded
        wanted = loaded.settings.get("output_video_encoder", "auto")
        connection.send(("opened", replace(loaded, encoder=default_encoder(wanted))))
        _serve(runner, connection, stop)


def _serve(runner: TaskRunner, connection: Connection, stop: StopToken) -> None:
    growth, leaves = MemoryGrowth(), False
    while not leaves:
        with stop.interruptible():
            kind, given = connection.recv()
        try:
            result = getattr(runner, kind)(**given)
            news = "done"
        except Exception as error:  # noqa: BLE001 - one bad file must not stop the others
            result, news = runner.failed(given["index"], error), "failed"
        try:
            if kind != "prepare":  # which uses but some of the networks
                growth.check(stop)
        except RecycleError:
            leaves = True
        connection.send((news, result, leaves))


def _end_with_parent() -> None:
    """End, even amid work that hangs, once the process that asks has gone."""
    parent = os.getppid()

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_INTERVAL)
        os._exit(1)

    threading.Thread(target=look, name="parent", daemon=True).start()


if __name__ == "__main__":
    # Somebody has stopped it, or the batch has ended.
    with suppress(KeyboardInterrupt, EOFError, BrokenPipeError, ConnectionResetError):
        main(sys.argv[1:])
    sys.stdout.flush()
    # Threads of drivers and libraries may hold up a normal exit; everything is on disk already.
    os._exit(0)
