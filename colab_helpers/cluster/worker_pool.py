"""Distribute a batch over a cluster whose nodes may come and go, with as many workers as fit."""

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
"""Cores that a worker without a GPU claims; fewer if its node has fewer."""


@dataclass(frozen=True, eq=False)
class _RemoteProcess:
    """A `WorkerProcess` on another node, controlled through its actor."""

    ray: Any
    actor: Any

    def send(self, message: object) -> None:
        self.actor.send.remote(message)

    def terminate(self) -> None:
        self.actor.terminate.remote()

    def kill(self) -> None:
        self.ray.kill(self.actor)


@dataclass(eq=False, kw_only=True)
class ClusterWorkerPool(WorkerPool):
    """A `WorkerPool` whose ``devices`` are the nodes of a cluster, polled for changes."""

    ray: Any  # the connected module
    coordinator: Any  # its handle; it receives the workers' messages
    _pings: dict[Any, WorkerHandle] = field(default_factory=dict, init=False)
    _addresses: dict[str, str] = field(default_factory=dict, init=False)
    _polled: float = field(default=-math.inf, init=False)
    _outranked: bool = field(default=False, init=False)  # a batch with a higher priority is running

    def __post_init__(self) -> None:
        self.devices = [node for node, capacity in self._capacity().items() for _ in range(capacity)]
        super().__post_init__()

    @cached_property
    def _job(self) -> str:
        return to_json(self.context.job)

    def _dispatch(self) -> None:
        if not self._outranked:
            super()._dispatch()

    def _spawn_missing(self) -> None:
        """Poll the workers, and start missing ones unless a batch with a higher priority is running."""
        if time.monotonic() - self._polled < _POLL_INTERVAL:
            return
        self._polled = time.monotonic()
        if self._workers:
            self._ping_workers()
        self._outranked = any(priority > self.context.job.request.priority for priority in self._priorities())
        if self._outranked:
            for worker in [each for each in self._workers if each.call is None]:
                self._remove(worker)
        else:
            super()._spawn_missing()

    def _spawn_worker(self, number: int, device: str) -> WorkerHandle:
        capacity, claim = self._node_capacities()[device]
        strategy = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(device, soft=False)
        actor = self.ray.remote(WorkerActor).options(**claim, scheduling_strategy=strategy)
        handle = actor.remote(self.coordinator, number, self._job, code_digest(), capacity)
        # Not heard yet: the actor may have to wait for free resources.
        process, address = _RemoteProcess(self.ray, handle), self._addresses[device]
        return WorkerHandle(number, process, device, address, last_heard=math.inf)

    def _ping_workers(self) -> None:
        """Find out which workers have started and which are gone."""
        for worker in self._workers:
            if worker not in self._pings.values():
                self._pings[worker.process.actor.ping.remote()] = worker
        for ping in self.ray.wait([*self._pings], num_returns=len(self._pings), timeout=0)[0]:
            worker = self._pings.pop(ping)
            try:
                self.ray.get(ping)
                worker.last_heard = min(worker.last_heard, time.monotonic())
            except self.ray.exceptions.RayError as error:
                if worker in self._workers:
                    reason = str(error).strip().splitlines()[-1].partition(". ")[0][:_MAX_REASON]
                    worker.kill_reason = worker.kill_reason or tr("was lost: {reason}", reason=reason)
                    # A lost node is not the worker's fault: cancels what `_on_lost` will add.
                    lost_node = worker.device not in self._capacity()
                    self._early_deaths[worker.device] -= not worker.loaded and lost_node
                    self.receive_message(worker.number, ("lost", -signal.SIGKILL))

    def _priorities(self) -> Iterator[int]:
        """Yield the priorities of all running batches."""
        for name in self.ray.util.list_named_actors():
            with suppress(ValueError, self.ray.exceptions.RayError):  # it is just ending
                yield self.ray.get(self.ray.get_actor(name).about.remote(), timeout=_POLL_INTERVAL)[2]

    def _capacity(self) -> Mapping[str, int]:
        return {node: capacity for node, (capacity, _) in self._node_capacities().items()}

    def _node_capacities(self) -> dict[str, tuple[int, dict[str, float]]]:
        """Return for each node how many workers it can run, and the resources that each of them claims."""
        alive = [node for node in self.ray.nodes() if node["Alive"]]
        self._addresses |= {node["NodeID"]: node["NodeManagerAddress"] for node in alive}
        nodes = {node["NodeID"]: node["Resources"] for node in alive}
        if any(resources.get("GPU") for resources in nodes.values()):
            share = self.context.job.request.gpus_per_worker
            claim = {"num_cpus": 0.0, "num_gpus": share}
            gpus = {node: resources.get("GPU", 0) for node, resources in nodes.items()}
            return {node: (int(count / share + _ROUNDING), claim) for node, count in gpus.items()}
        cores = {node: min(CORES, resources.get("CPU", 0.0)) for node, resources in nodes.items()}
        return {n: (int(nodes[n]["CPU"] / each), {"num_cpus": each}) for n, each in cores.items() if each}
