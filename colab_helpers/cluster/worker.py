"""A worker on any node: a process with networks of its own, as on one machine, and an actor that carries."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path
from typing import Any

from colab_helpers.addresses import localize_paths
from colab_helpers.batch.keys import code_digest
from colab_helpers.batch.processes import WorkerProcess
from colab_helpers.errors import UsageError
from colab_helpers.language import tr
from colab_helpers.machine import SHARED_BY_ENV


class WorkerActor:
    """Starts a worker's process on its node and carries between that and the crew.

    Ray says by ``CUDA_VISIBLE_DEVICES`` which GPU is its own. A crash of decoder or networks costs the
    process and not this one, which tells of it.

    Args:
        crew: Who hears of the process: the coordinator.
        number: Tells this worker from others.
        job: What is to be done, as JSON.
        code: Digest of the coordinator's code: another one here would make other pictures.
        workers_per_machine: How many workers share this machine.
    """

    def __init__(self, crew: Any, number: int, job: str, code: str, workers_per_machine: int) -> None:
        def receive_message(news: tuple[Any, ...]) -> None:
            crew.receive_message.remote(number, news)

        if code_digest() != code:
            told = tr("{node} has another version of the package", node=socket.gethostname())
            receive_message(("refused", UsageError(told, remedy=tr("install the same one on every machine"))))
            return
        # Ray gives one thread to whoever claims no processor; the GPU's worker needs them all.
        os.environ.pop("OMP_NUM_THREADS", None)
        self._folder = tempfile.TemporaryDirectory(prefix="colab_helpers-")
        file = Path(self._folder.name) / "job.json"
        file.write_text(localize_paths(job), encoding="utf-8")
        self._process = WorkerProcess(file, receive_message, {SHARED_BY_ENV: str(workers_per_machine)})

    def take(self, message: object) -> None:
        """Hand something to the process."""
        self._process.send(message)

    def alive(self) -> None:
        """Answer, which only what is there does."""

    def end(self) -> None:
        """Ask the process to end; what it is at is left as it is."""
        self._process.terminate()
