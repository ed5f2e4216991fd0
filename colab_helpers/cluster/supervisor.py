"""Supervise a batch on a cluster: start its coordinator, or find the running one, and watch it."""

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
_ANSWER_TIMEOUT = 60.0


@dataclass(eq=False)
class ClusterSupervisor(Supervisor):
    """Runs a batch on a cluster; the batch continues if the supervisor exits. Raises like `connect`."""

    _ray: Any = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._ray = connect(self.job.request.cluster)

    @property
    def _name(self) -> str:
        """Name of the coordinator, the same for each supervisor of the same job."""
        return f"batch-{self.job.digest[:24]}"

    def _active_run(self) -> str | None:
        """Return the run of the batch's coordinator, if there is one."""
        try:
            coordinator = self._ray.get_actor(self._name, NAMESPACE)
            return str(self._ray.get(coordinator.about.remote(), timeout=_ANSWER_TIMEOUT)[0])
        except (ValueError, self._ray.exceptions.RayError):
            return None

    def start_worker(self, cause: str) -> WorkerExit:
        """Start the coordinator and watch the batch until it ends."""
        from colab_helpers.cluster.coordinator import Coordinator  # imports Ray

        actor = self._ray.remote(num_cpus=0, max_restarts=-1)(Coordinator)
        actor = actor.options(name=self._name, namespace=NAMESPACE, lifetime="detached", get_if_exists=True)
        coordinator = actor.remote(to_json(with_mapped_paths(self.job)), self._name)

        def call(method: Any) -> Any:
            return self._ray.get(method.remote(), timeout=_ANSWER_TIMEOUT)

        try:
            run, *_ = call(coordinator.about)
            while (status := self._watcher.status()) is None or status.run != run:
                if (error := call(coordinator.refusal)) is not None:
                    raise error
                time.sleep(_POLL_INTERVAL)
            return self._follow(run)
        except self._ray.exceptions.RayError as error:
            return WorkerExit(1, self.job.run, tr("was lost: {reason}", reason=type(error).__name__))


def with_mapped_paths(job: Job) -> Job:
    """Return a job with paths as the cluster's machines see them, by the OLD=NEW pairs of ``map_paths``.

    Raise UsageError if a pair is not of the form OLD=NEW with absolute paths.
    """
    text = to_json(job.model_copy(update={"request": job.request.with_values(map_paths=())}))
    for pair in job.request.map_paths:
        old, equals, new = pair.partition("=")
        if not (equals and Path(old).is_absolute() and Path(new).is_absolute()):
            remedy = tr("use OLD=NEW with absolute paths, for example /mnt/videos=/data/videos")
            raise UsageError(tr("invalid path mapping {pair!r}", pair=pair), where="map_paths", remedy=remedy)
        for end in ('"', "/"):
            text = text.replace(f'"{old.rstrip("/")}{end}', f'"{new.rstrip("/")}{end}')
    return from_json(Job, text)
