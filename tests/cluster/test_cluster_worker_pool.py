"""On which nodes a cluster's pool places workers, and how priorities work, with a fake of Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from colab_helpers.batch import worker_pool as base
from colab_helpers.batch.job import Job
from colab_helpers.batch.journal import History
from colab_helpers.batch.plan import Task
from colab_helpers.batch.worker_handles import WorkerInfo, WorkerStatus
from colab_helpers.cluster import worker_pool as module
from colab_helpers.cluster.worker_pool import ClusterWorkerPool
from colab_helpers.request import BatchRequest

Nodes = dict[str, dict[str, float]]


class LostError(Exception):
    """Raised by Ray for a lost actor."""


@dataclass(eq=False)
class Ping:
    actor: Any


class FakeRay:
    """Nodes, actors by node, and priorities of the running batches."""

    def __init__(self, nodes: Nodes) -> None:
        self.alive, self.ranks, self.lost = nodes, [0], set[Any]()
        self.placed: list[tuple[str, dict[str, float], int]] = []
        self.killed: list[Any] = []
        self.exceptions = SimpleNamespace(RayError=LostError)
        strategies = SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node, soft: node)
        self.util = SimpleNamespace(
            scheduling_strategies=strategies, list_named_actors=lambda: [*range(len(self.ranks))]
        )

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"NodeID": name, "NodeManagerAddress": f"{name}.lan", "Resources": has, "Alive": True}
            for name, has in self.alive.items()
        ]

    def remote(self, _kind: type) -> Any:
        def options(scheduling_strategy: str, **claim: float) -> Any:
            def place(_coordinator: Any, _number: int, _job: str, _code: str, workers: int) -> Any:
                self.placed.append((scheduling_strategy, claim, workers))
                actor = SimpleNamespace(terminate=SimpleNamespace(remote=lambda: None))
                actor.ping = SimpleNamespace(remote=lambda: Ping(actor))
                return actor

            return SimpleNamespace(remote=place)

        return SimpleNamespace(options=options)

    def wait(self, pings: list[Any], *, num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        return pings, []

    def get(self, what: Any, timeout: float = 0) -> Any:
        if isinstance(what, Ping) and id(what.actor) in self.lost:
            raise LostError("The actor died.\nNo module named 'colab_helpers'")
        return what

    def get_actor(self, name: int) -> Any:
        return SimpleNamespace(about=SimpleNamespace(remote=lambda: ("", "", self.ranks[name])))

    def kill(self, actor: Any) -> None:
        self.killed.append(actor)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., ClusterWorkerPool]:
    for each in (module, base):
        monkeypatch.setattr(each, "_POLL_INTERVAL", 0.0)

    def make(nodes: Nodes, **given: Any) -> ClusterWorkerPool:
        request = BatchRequest(targets=["/clips"], output_dir=tmp_path, **given)
        job = Job(
            request=request,
            tasks=tuple(Task(Path(f"/clips/{n}.mp4"), tmp_path / f"{n}.mp4") for n in range(9)),
        )
        statuses, causes = list[list[WorkerStatus]](), list[str]()
        status = SimpleNamespace(workers=statuses.append, note_restart=causes.append, note=print)
        fields: dict[str, Any] = {"read_journal": History, "statuses": statuses, "causes": causes}
        context: Any = SimpleNamespace(job=job, status=status, **fields)
        nothing: Any = None
        return ClusterWorkerPool(
            context, range(9), nothing, nothing, [], print, ray=FakeRay(nodes), coordinator=None
        )

    return make


def placements(pool: ClusterWorkerPool) -> dict[str, int]:
    pool._supervise()
    return dict(Counter(node for node, *_ in pool.ray.placed))


@pytest.mark.parametrize(
    ("nodes", "share", "expected", "claim"),
    [
        (
            {"a": {"GPU": 2.0, "CPU": 8.0}, "b": {"CPU": 64.0}},
            1.0,
            {"a": 2},
            {"num_cpus": 0.0, "num_gpus": 1.0},
        ),
        ({"a": {"GPU": 1.0}, "b": {"GPU": 2.0}}, 0.5, {"a": 2, "b": 4}, {"num_cpus": 0.0, "num_gpus": 0.5}),
        ({"a": {"GPU": 1.0}}, 0.1, {"a": 10}, {"num_cpus": 0.0, "num_gpus": 0.1}),
        ({"a": {"CPU": 10.0}}, 1.0, {"a": 2}, {"num_cpus": 4.0}),
        ({"a": {"CPU": 2.0}, "b": {"memory": 1.0}}, 1.0, {"a": 1}, {"num_cpus": 2.0}),
    ],
)
def test_workers_use_gpus_and_cpus_only_on_nodes_without_gpu(pool, nodes, share, expected, claim) -> None:
    made = pool(nodes, gpus_per_worker=share)
    assert placements(made) == expected
    assert {tuple(one.items()) for _, one, _ in made.ray.placed} == {tuple(claim.items())}
    assert {(node, shared) for node, _, shared in made.ray.placed} == {*expected.items()}
    assert placements(made) == expected, "no worker is placed twice"
    assert [(one.name, one.stage) for one in made.context.statuses[-1]][:1] == [("a.lan", "starting")]


def test_joining_nodes_get_workers_and_lost_nodes_no_more(pool: Callable[..., ClusterWorkerPool]) -> None:
    made = pool({"a": {"CPU": 4.0}})
    placements(made)
    made.ray.alive["b"] = {"CPU": 8.0}
    assert placements(made) == {"a": 1, "b": 2}
    lost = [member for member in made._workers if member.device == "b"]
    del made.ray.alive["b"]
    made.ray.lost |= {id(member.process.actor) for member in lost}
    made._supervise()
    made._handle_messages()
    assert [member.device for member in made._workers] == ["a"]
    assert placements(made) == {"a": 1, "b": 2}
    assert made._early_deaths.total() == 0, "a lost node is no fault of the work"
    assert any("No module named 'colab_helpers'" in text for text in made.context.causes)


def test_node_on_which_workers_cannot_start_gets_no_more(pool: Callable[..., ClusterWorkerPool]) -> None:
    made = pool({"a": {"CPU": 4.0}, "b": {"CPU": 4.0}})
    placements(made)
    made._on_refused(made._workers[0], ValueError("no networks"))
    assert placements(made) == {"a": 1, "b": 1}
    with pytest.raises(ValueError, match="no networks"):
        made._on_refused(made._workers[0], ValueError("no networks"))


def test_one_worker_scans_all_files_before_others_are_placed(pool: Callable[..., ClusterWorkerPool]) -> None:
    made = pool({"a": {"CPU": 16.0}}, people="find")
    assert placements(made) == {"a": 1}
    made._workers[0].loaded = True
    assert placements(made) == {"a": 4}


def test_batch_yields_only_to_higher_priority(pool: Callable[..., ClusterWorkerPool]) -> None:
    made = pool({"a": {"CPU": 8.0}}, priority=1)
    made.ray.ranks = [1, 1, 0]
    assert placements(made) == {"a": 2}
    busy = made._workers[0]
    busy.loaded, made._workers[1].loaded = True, True
    busy.call = made._schedule.next(busy)
    made.ray.ranks = [1, 2]
    made._supervise()
    assert made._workers == [busy], "a busy worker may finish its call"
    made._dispatch()
    busy.call = None
    made._dispatch()
    assert busy.call is None, "it gets no new call"
    made._supervise()
    assert made._workers == []
    made.ray.ranks = [1]
    assert placements(made) == {"a": 4}, "two more once the other batch is done"


def test_messages_of_a_worker_are_handled_in_order_until_its_end(pool) -> None:
    made = pool({"a": {"CPU": 4.0}})
    placements(made)
    (member,) = made._workers
    number, networks = member.number, WorkerInfo(device_name="GPU 0")
    made.receive_message(number, ("opened", networks))
    made.receive_message(99, ("opened", "of no worker"))
    made._handle_messages()
    assert (member.loaded, made.loaded, member.name) == (True, networks, "a.lan GPU 0")
    made.receive_message(number, ("lost", -11))
    made._handle_messages()
    assert made._workers == []
    assert any("signal 11" in text for text in made.context.causes)
    made.receive_message(number, ("opened", "too late"))
    again = pool({"a": {"CPU": 4.0}})
    placements(again)
    again.receive_message(number, ("lost", -11))  # of the earlier pool
    again._handle_messages()
    assert len(again._workers) == 1
