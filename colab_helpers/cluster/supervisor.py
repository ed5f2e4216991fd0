"""Whoever asks for a batch on a cluster: starts its coordinator, or finds it at work, and watches."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from colab_helpers.batch.job import Job
from colab_helpers.batch.supervisor import Supervisor, WorkerExit
from colab_helpers.cluster.nodes import NAMESPACE, connect
from colab_helpers.errors import UsageError
from colab_helpers.files import from_json, to_json
from colab_helpers.language import tr

_POLL_INTERVAL = 0.2
_MAX_ANSWER = 60.0


@dataclass(eq=False)
class ClusterSupervisor(Supervisor):
    """Sees a batch through that a cluster does; it may go, and the work goes on.

    Raises:
        UsageError: Ray or the token is missing, or there is no such cluster.
    """

    _ray: Any = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._ray = connect(self.job.request.cluster)

    @property
    def _name(self) -> str:
        """Of the coordinator: the same for whoever asks for the same."""
        return f"batch-{self.job.digest[:24]}"

    def _active_run(self) -> str | None:
        """Return the run of the batch's coordinator, if there is one: Ray knows at once."""
        try:
            coordinator = self._ray.get_actor(self._name, NAMESPACE)
            return str(self._ray.get(coordinator.about.remote(), timeout=_MAX_ANSWER)[0])
        except (ValueError, self._ray.exceptions.RayError):
            return None

    def start_worker(self, cause: str) -> WorkerExit:
        """Start the coordinator and watch the batch to its end."""
        from colab_helpers.cluster.coordinator import Coordinator  # brings Ray

        kind = self._ray.remote(num_cpus=0, max_restarts=-1)(Coordinator)
        named = kind.options(name=self._name, namespace=NAMESPACE, lifetime="detached", get_if_exists=True)
        coordinator = named.remote(to_json(with_mapped_paths(self.job)), self._name)

        def asked(method: Any) -> Any:
            return self._ray.get(method.remote(), timeout=_MAX_ANSWER)

        try:
            run, *_ = asked(coordinator.about)
            while (status := self._watcher.status()) is None or status.run != run:
                if (error := asked(coordinator.refusal)) is not None:
                    raise error
                time.sleep(_POLL_INTERVAL)
            return self._follow(run)
        except self._ray.exceptions.RayError as error:
            return WorkerExit(1, self.job.run, tr("was lost: {reason}", reason=type(error).__name__))


def with_mapped_paths(job: Job) -> Job:
    """Return a job as the machines of the cluster see it, whose mounts may have other names.

    ``map_paths`` has OLD=NEW: what lies below OLD here lies below NEW there. UsageError where one is not so.
    """
    text = to_json(job.model_copy(update={"request": job.request.with_values(map_paths=())}))
    for pair in job.request.map_paths:
        old, equals, new = pair.partition("=")
        if not (equals and Path(old).is_absolute() and Path(new).is_absolute()):
            raise UsageError(
                tr("this does not tell two places apart: {pair!r}", pair=pair),
                where="map_paths",
                remedy=tr("write it like /mnt/videos=/data/videos"),
            )
        for end in ('"', "/"):
            text = text.replace(f'"{old.rstrip("/")}{end}', f'"{new.rstrip("/")}{end}')
    return from_json(Job, text)
