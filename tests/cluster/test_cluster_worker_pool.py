"""Where a cluster's pool puts workers, and to whom it gives way; Ray is pretended here."""

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
    """What Ray raises of an actor that is there no longer."""


@dataclass(eq=False)
class Ping:
    actor: Any


class FakeRay:
    """Nodes, actors by node, and the priorities of the batches at work."""

    def __init__(self, nodes: Nodes) -> None:
        self.alive, self.ranks, self.lost = nodes, [0], set[Any]()
        self.hired: list[tuple[str, dict[str, float], int]] = []
        self.killed: list[Any] = []
        self.exceptions = SimpleNamespace(RayError=LostError)
        placed = SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node, soft: node)
        self.util = SimpleNamespace(
            scheduling_strategies=placed, list_named_actors=lambda: [*range(len(self.ranks))]
        )

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"NodeID": name, "NodeManagerAddress": f"{name}.lan", "Resources": has, "Alive": True}
            for name, has in self.alive.items()
        ]

    def remote(self, _kind: type) -> Any:
        def options(scheduling_strategy: str, **claim: float) -> Any:
            def hire(_coordinator: Any, _number: int, _job: str, _code: str, room: int) -> Any:
                self.hired.append((scheduling_strategy, claim, room))
                actor = SimpleNamespace(terminate=SimpleNamespace(remote=lambda: None))
                actor.ping = SimpleNamespace(remote=lambda: Ping(actor))
                return actor

            return SimpleNamespace(remote=hire)

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
        shown, causes = list[list[WorkerStatus]](), list[str]()
        status = SimpleNamespace(workers=shown.append, note_restart=causes.append, note=print)
        given_to: dict[str, Any] = {"read_journal": History, "shown": shown, "causes": causes}
        context: Any = SimpleNamespace(job=job, status=status, **given_to)
        nothing: Any = None
        return ClusterWorkerPool(
            context, range(9), nothing, nothing, [], print, ray=FakeRay(nodes), coordinator=None
        )

    return make


def room(pool: ClusterWorkerPool) -> dict[str, int]:
    pool._supervise()
    return dict(Counter(node for node, *_ in pool.ray.hired))


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
def test_every_gpu_has_its_workers_and_processors_only_where_there_is_none(
    pool: Callable[..., ClusterWorkerPool],
    nodes: Nodes,
    share: float,
    expected: dict[str, int],
    claim: dict[str, float],
) -> None:
    made = pool(nodes, gpus_per_worker=share)
    assert room(made) == expected
    assert {tuple(one.items()) for _, one, _ in made.ray.hired} == {tuple(claim.items())}
    assert {(node, shared) for node, _, shared in made.ray.hired} == {*expected.items()}
    assert room(made) == expected, "nobody is hired twice"
    assert [(one.name, one.stage) for one in made.context.shown[-1]][:1] == [("a.lan", "starting")]


def test_a_node_that_comes_later_gets_workers_and_one_that_goes_no_more(
    pool: Callable[..., ClusterWorkerPool],
) -> None:
    made = pool({"a": {"CPU": 4.0}})
    room(made)
    made.ray.alive["b"] = {"CPU": 8.0}
    assert room(made) == {"a": 1, "b": 2}
    gone = [member for member in made._workers if member.device == "b"]
    del made.ray.alive["b"]
    made.ray.lost |= {id(member.process.actor) for member in gone}
    made._supervise()
    made._handle_messages()
    assert [member.device for member in made._workers] == ["a"]
    assert room(made) == {"a": 1, "b": 2}
    assert made._early_deaths.total() == 0, "a node that goes says nothing of the work"
    assert any("No module named 'colab_helpers'" in text for text in made.context.causes)


def test_where_workers_cannot_begin_none_is_hired_again(pool: Callable[..., ClusterWorkerPool]) -> None:
    made = pool({"a": {"CPU": 4.0}, "b": {"CPU": 4.0}})
    room(made)
    made._on_refused(made._workers[0], ValueError("no networks"))
    assert room(made) == {"a": 1, "b": 1}
    with pytest.raises(ValueError, match="no networks"):
        made._on_refused(made._workers[0], ValueError("no networks"))


def test_one_looks_at_all_files_before_others_are_hired(pool: Callable[..., ClusterWorkerPool]) -> None:
    made = pool({"a": {"CPU": 16.0}}, people="find")
    assert room(made) == {"a": 1}
    made._workers[0].loaded = True
    assert room(made) == {"a": 4}


def test_a_batch_gives_way_to_one_of_a_higher_priority_alone(pool: Callable[..., ClusterWorkerPool]) -> None:
    made = pool({"a": {"CPU": 8.0}}, priority=1)
    made.ray.ranks = [1, 1, 0]
    assert room(made) == {"a": 2}
    at_work = made._workers[0]
    at_work.loaded, made._workers[1].loaded = True, True
    at_work.call = made._schedule.next(at_work)
    made.ray.ranks = [1, 2]
    made._supervise()
    assert made._workers == [at_work], "who is at something may end it"
    made._dispatch()
    at_work.call = None
    made._dispatch()
    assert at_work.call is None, "and begins nothing new"
    made._supervise()
    assert made._workers == []
    made.ray.ranks = [1]
    assert room(made) == {"a": 4}, "two more, once it is over"


def test_news_of_a_worker_reach_the_pool_in_order_and_its_end_last(
    pool: Callable[..., ClusterWorkerPool],
) -> None:
    made = pool({"a": {"CPU": 4.0}})
    room(made)
    (member,) = made._workers
    number, networks = member.number, WorkerInfo(device_name="GPU 0")
    made.receive_message(number, ("opened", networks))
    made.receive_message(99, ("opened", "of nobody"))
    made._handle_messages()
    assert (member.loaded, made.loaded, member.name) == (True, networks, "a.lan GPU 0")
    made.receive_message(number, ("lost", -11))
    made._handle_messages()
    assert made._workers == []
    assert any("signal 11" in text for text in made.context.causes)
    made.receive_message(number, ("opened", "too late"))
    again = pool({"a": {"CPU": 4.0}})
    room(again)
    again.receive_message(number, ("lost", -11))  # that of the pool before
    again._handle_messages()
    assert len(again._workers) == 1
