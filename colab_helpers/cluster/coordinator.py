"""Who sees a batch through on a cluster: an actor that belongs to nobody's shell, one for each batch.

It alone writes journal and status. Ray starts it again where it dies, and where its node dies with the whole
cluster the same command on another one goes on: what is finished says the journal.
"""

from __future__ import annotations

import socket
import threading
from typing import Any

import ray

from colab_helpers.addresses import localize_paths
from colab_helpers.batch.job import Job
from colab_helpers.batch.worker import run_job
from colab_helpers.cluster.nodes import LOOPBACK
from colab_helpers.cluster.worker_pool import ClusterWorkerPool
from colab_helpers.errors import ColabHelpersError, WorkerError
from colab_helpers.files import from_json
from colab_helpers.language import tr

# How long an error waits for whoever has asked for the batch.
_MAX_WAIT = 10.0


class Coordinator:
    """Does a batch in a thread of its own; its methods take no time, so that news keep their order.

    Args:
        job: What is to be done, as JSON.
        name: Its own.
    """

    def __init__(self, job: str, name: str) -> None:
        self._job, self._name = from_json(Job, localize_paths(job)), name
        self._me = ray.get_runtime_context().current_actor
        self._crew: ClusterWorkerPool | None = None
        self._error: ColabHelpersError | None = None
        self._told = threading.Event()
        threading.Thread(target=self._run, name="batch", daemon=True).start()

    def about(self) -> tuple[str, str, int]:
        """Return what names the run, where results go, and the priority; answered once it is there."""
        return self._job.run, str(self._job.folder), self._job.request.priority

    def receive_message(self, number: int, news: tuple[Any, ...]) -> None:
        """Take news of a worker."""
        if self._crew is not None:
            self._crew.receive_message(number, news)

    def refusal(self) -> ColabHelpersError | None:
        """Return why the batch could not be begun, or ended; None where it is at work. Told once."""
        if self._error is not None:
            self._told.set()
        return self._error

    def _run(self) -> None:
        context = ray.get_runtime_context()
        place = context.gcs_address.replace(LOOPBACK, socket.gethostname())
        try:
            run_job(
                self._job,
                cause=tr("was lost with its process or its node")
                if context.was_current_actor_reconstructed
                else None,
                make_pool=self._gathered,
                # No machine's name, so that nobody looks there for a process to end; the same for whoever
                # takes this one's place, and for nobody else: it need not wait for its silence.
                host=f"Ray at {place}, {self._name}",
            )
        except BaseException as error:  # noqa: BLE001 - whoever asks has to learn of it
            told = tr("unexpected {kind}: {error}", kind=type(error).__name__, error=error)
            unknown = WorkerError(told, where=str(self._job.folder))
            self._error = error if isinstance(error, ColabHelpersError) else unknown
        if self._error is not None and self._crew is None:  # else the status tells it
            self._told.wait(_MAX_WAIT)
        ray.kill(self._me, no_restart=True)

    def _gathered(self, *given: Any) -> ClusterWorkerPool:
        """Return who does the batch; called with what any crew is made of."""
        self._crew = ClusterWorkerPool(*given, ray=ray, coordinator=self._me)
        return self._crew
