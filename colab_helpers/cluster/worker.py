"""A worker on a cluster node: a `pool_worker` process, and a Ray actor that forwards its messages."""

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
    """Starts a worker process on its node and forwards messages between it and the coordinator.

    Ray sets ``CUDA_VISIBLE_DEVICES`` to the worker's GPU. A crash in a decoder or network kills the process,
    not this actor, which reports it.

    Args:
        coordinator: Handle of the coordinator.
        number: Number of the worker.
        job: The job as JSON.
        code: Digest of the coordinator's code; results of another version could differ.
        workers_per_machine: Number of workers that share this machine.
    """

    def __init__(self, coordinator: Any, number: int, job: str, code: str, workers_per_machine: int) -> None:
        def receive_message(message: tuple[Any, ...]) -> None:
            coordinator.receive_message.remote(number, message)

        if code_digest() != code:
            what = tr("{node} has another version of the package", node=socket.gethostname())
            remedy = tr("install the same version on every machine")
            receive_message(("refused", UsageError(what, remedy=remedy)))
            return
        # Ray sets it to 1 for actors that claim no core, but a GPU's worker needs all cores.
        os.environ.pop("OMP_NUM_THREADS", None)
        self._folder = tempfile.TemporaryDirectory(prefix="colab_helpers-")
        path = Path(self._folder.name) / "job.json"
        path.write_text(localize_paths(job), encoding="utf-8")
        self._process = WorkerProcess(path, receive_message, {SHARED_BY_ENV: str(workers_per_machine)})

    def send(self, message: object) -> None:
        """Send a message to the process."""
        self._process.send(message)

    def ping(self) -> None:
        """Return; the call succeeds only while the actor is alive."""

    def terminate(self) -> None:
        """Stop the process; its current work is left unfinished."""
        self._process.terminate()
