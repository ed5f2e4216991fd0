"""One of a batch's workers on this machine: ``python -m colab_helpers.batch.member JOB CONNECTION``.

It holds one pair of `Hands` and does what its `crew` asks for, call by call. Status and journal are written
by the batch process alone: what is to be told or noted is sent there.
"""

from __future__ import annotations

from colab_helpers.itself import own_process

if __name__ == "__main__":
    own_process()

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

from colab_helpers.batch.drive import WorkPlaces
from colab_helpers.batch.growth import Growth, RecycleError
from colab_helpers.batch.hands import Hands
from colab_helpers.batch.job import Job
from colab_helpers.batch.journal import Entry
from colab_helpers.batch.overwriting import Writable, identities
from colab_helpers.batch.report import own_file
from colab_helpers.batch.status import BatchStatus, StatusWriter
from colab_helpers.batch.stop import Stop
from colab_helpers.batch.surroundings import Surroundings
from colab_helpers.language import spoken
from colab_helpers.media.encoders import usual_encoder
from colab_helpers.resources.allocator import tune_allocator

_TICK_EVERY = 0.5
_LOOK_EVERY = 1.0


class _FarStatus(StatusWriter):
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


class _Far(Connection):
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
    stop, far = Stop(owns_process=True), _Far(int(argv[1]))
    tune_allocator()
    _end_with_parent()
    job = Job.load(Path(argv[0]))
    places = WorkPlaces.of(job.folder, job.request.work_dir)
    around = Surroundings(job, places, _FarStatus(far.send), stop)
    with spoken(job.request.language):
        try:
            own = Writable(identities(job.inputs), job.request.settings.overwrite, made=own_file)
            hands = Hands.open(around, own, far, lambda told, times: far.send(("announce", [*told], times)))
        except RecycleError:
            far.send(("leave",))
            return
        except Exception as error:  # noqa: BLE001 - whoever has started this decides what it means
            far.send(("refused", error))
            return
        loaded = hands.loaded
        wanted = loaded.settings.get("output_video_encoder", "auto")
        far.send(("opened", replace(loaded, encoder=usual_encoder(wanted))))
        _serve(hands, far, stop)


def _serve(hands: Hands, far: Connection, stop: Stop) -> None:
    growth, leaves = Growth(), False
    while not leaves:
        with stop.at_once():
            kind, given = far.recv()
        try:
            result = getattr(hands, kind)(**given)
            news = "done"
        except Exception as error:  # noqa: BLE001 - one bad file must not stop the others
            result, news = hands.failed(given["index"], error), "failed"
        try:
            if kind != "prepare":  # which uses but some of the networks
                growth.check(stop)
        except RecycleError:
            leaves = True
        far.send((news, result, leaves))


def _end_with_parent() -> None:
    """End, even amid work that hangs, once the process that asks has gone."""
    parent = os.getppid()

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_EVERY)
        os._exit(1)

    threading.Thread(target=look, name="parent", daemon=True).start()


if __name__ == "__main__":
    # Somebody has stopped it, or the batch has ended.
    with suppress(KeyboardInterrupt, EOFError, BrokenPipeError, ConnectionResetError):
        main(sys.argv[1:])
    sys.stdout.flush()
    # Threads of drivers and libraries may hold up a normal exit; everything is on disk already.
    os._exit(0)
