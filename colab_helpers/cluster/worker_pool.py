"""The crew of a batch on a cluster: as many workers as there is room for, wherever nodes come and go."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from colab_helpers.batch.keys import code_digest
from colab_helpers.batch.worker_handles import WorkerHandle
from colab_helpers.batch.worker_pool import WorkerPool
from colab_helpers.cluster.worker import WorkerActor
from colab_helpers.files import to_json
from colab_helpers.language import tr

_POLL_INTERVAL = 1.0
_ROUNDING = 1e-6
_MAX_REASON = 200
CORES = 4.0
"""Cores that a worker without a GPU claims; fewer where a node has no more."""


@dataclass(frozen=True, eq=False)
class _RemoteProcess:
    """A worker's process on whatever node: `WorkerProcess` by way of its actor."""

    ray: Any
    actor: Any

    def send(self, message: object) -> None:
        self.actor.take.remote(message)

    def terminate(self) -> None:
        self.actor.end.remote()

    def kill(self) -> None:
        self.ray.kill(self.actor)


@dataclass(eq=False, kw_only=True)
class ClusterWorkerPool(WorkerPool):
    """See ``WorkerPool``; here ``devices`` are nodes, looked up again and again.

    Attributes:
        ray: The module, connected.
        coordinator: The coordinator, through which workers are heard.
    """

    ray: Any
    coordinator: Any
    _pings: dict[Any, WorkerHandle] = field(default_factory=dict, init=False)
    _addresses: dict[str, str] = field(default_factory=dict, init=False)
    _looked: float = field(default=-math.inf, init=False)
    _outranked: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.devices = [node for node, room in self._capacity().items() for _ in range(room)]
        super().__post_init__()

    @cached_property
    def _job(self) -> str:
        return to_json(self.context.job)

    def _dispatch(self) -> None:
        if not self._outranked:
            super()._dispatch()

    def _spawn_missing(self) -> None:
        """Look, now and then, who is there and who else may be, and whether somebody else comes first."""
        if time.monotonic() - self._looked < _POLL_INTERVAL:
            return
        self._looked = time.monotonic()
        if self._workers:
            self._listen()
        self._outranked = any(rank > self.context.job.request.priority for rank in self._ranks())
        if self._outranked:
            for worker in [each for each in self._workers if each.call is None]:
                self._leave(worker)
        else:
            super()._spawn_missing()

    def _spawn_worker(self, number: int, device: str) -> WorkerHandle:
        room, claim = self._places()[device]
        strategy = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(device, soft=False)
        kind = self.ray.remote(WorkerActor).options(**claim, scheduling_strategy=strategy)
        process = _RemoteProcess(
            self.ray, kind.remote(self.coordinator, number, self._job, code_digest(), room)
        )
        # It may have to wait for room.
        return WorkerHandle(number, process, device, self._addresses[device], last_heard=math.inf)

    def _listen(self) -> None:
        """Learn who has come, and who is there no longer."""
        for worker in self._workers:
            if worker not in self._pings.values():
                self._pings[worker.process.actor.alive.remote()] = worker
        for ping in self.ray.wait([*self._pings], num_returns=len(self._pings), timeout=0)[0]:
            worker = self._pings.pop(ping)
            try:
                self.ray.get(ping)
                worker.last_heard = min(worker.last_heard, time.monotonic())
            except self.ray.exceptions.RayError as error:
                if worker in self._workers:
                    reason = str(error).strip().splitlines()[-1].partition(". ")[0][:_MAX_REASON]
                    worker.kill_reason = worker.kill_reason or tr("was lost: {reason}", reason=reason)
                    # Those of a node that has gone tell nothing of the work.
                    self._early_deaths[worker.device] -= (
                        not worker.loaded and worker.device not in self._capacity()
                    )
                    self.receive_message(worker.number, ("lost", -signal.SIGKILL))

    def _ranks(self) -> Iterator[int]:
        for name in self.ray.util.list_named_actors():
            with suppress(ValueError, self.ray.exceptions.RayError):  # it ends just now
                yield self.ray.get(self.ray.get_actor(name).about.remote(), timeout=_POLL_INTERVAL)[2]

    def _capacity(self) -> Mapping[str, int]:
        return {node: room for node, (room, _) in self._places().items()}

    def _places(self) -> dict[str, tuple[int, dict[str, float]]]:
        """For each node how many workers it has room for, and what each of them claims."""
        alive = [node for node in self.ray.nodes() if node["Alive"]]
        self._addresses |= {node["NodeID"]: node["NodeManagerAddress"] for node in alive}
        nodes = {node["NodeID"]: node["Resources"] for node in alive}
        if any(has.get("GPU") for has in nodes.values()):
            share = self.context.job.request.gpus_per_worker
            claim = {"num_cpus": 0.0, "num_gpus": share}
            rooms = {name: int(has.get("GPU", 0) / share + _ROUNDING) for name, has in nodes.items()}
            return {name: (room, claim) for name, room in rooms.items()}
        cores = {name: min(CORES, has.get("CPU", 0.0)) for name, has in nodes.items()}
        return {n: (int(nodes[n]["CPU"] / each), {"num_cpus": each}) for n, each in cores.items() if each}
