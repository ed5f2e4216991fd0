"""The coordinator of a batch on a cluster: a detached Ray actor, one for each batch.

It alone writes journal and status. Ray restarts it if it dies. If the cluster is lost, the same command on
another cluster continues from the journal.
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

# Seconds that an error is kept for the supervisor to read.
_ERROR_TIMEOUT = 10.0


class Coordinator:
    """Actor called ``name`` that runs a ``job``, as JSON, in a thread.

    Its methods return at once, which keeps messages in order.
    """

    def __init__(self, job: str, name: str) -> None:
        self._job, self._name = from_json(Job, localize_paths(job)), name
        self._me = ray.get_runtime_context().current_actor
        self._pool: ClusterWorkerPool | None = None
        self._error: ColabHelpersError | None = None
        self._error_read = threading.Event()
        threading.Thread(target=self._run, name="batch", daemon=True).start()

    def about(self) -> tuple[str, str, int]:
        """Return the run, the output folder and the priority."""
        return self._job.run, str(self._job.folder), self._job.request.priority

    def receive_message(self, number: int, message: tuple[Any, ...]) -> None:
        """Pass a worker's message on to the pool."""
        if self._pool is not None:
            self._pool.receive_message(number, message)

    def refusal(self) -> ColabHelpersError | None:
        """Return the error that ended the batch; None while it is running. The actor may exit afterwards."""
        if self._error is not None:
            self._error_read.set()
        return self._error

    def _run(self) -> None:
        context = ray.get_runtime_context()
        address = context.gcs_address.replace(LOOPBACK, socket.gethostname())
        lost = tr("was lost with its node or process")
        try:
            run_job(
                self._job,
                cause=lost if context.was_current_actor_reconstructed else None,
                make_pool=self._make_pool,
                # Not a host name, so that no supervisor looks there for the process. Only a restarted
                # coordinator has the same name, and need not wait for the heartbeat timeout.
                host=f"Ray at {address}, {self._name}",
            )
        except BaseException as error:  # noqa: BLE001 - the supervisor has to learn of it
            what = tr("unexpected {kind}: {error}", kind=type(error).__name__, error=error)
            unexpected = WorkerError(what, where=str(self._job.folder))
            self._error = error if isinstance(error, ColabHelpersError) else unexpected
        if self._error is not None and self._pool is None:  # otherwise it is in the status
            self._error_read.wait(_ERROR_TIMEOUT)
        ray.kill(self._me, no_restart=True)

    def _make_pool(self, *args: Any) -> ClusterWorkerPool:
        self._pool = ClusterWorkerPool(*args, ray=ray, coordinator=self._me)
        return self._pool
