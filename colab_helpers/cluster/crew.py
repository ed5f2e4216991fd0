"""The crew of a batch on a cluster: as many workers as there is room for, wherever nodes come and go."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from multiprocessing import Pipe
from typing import Any

from colab_helpers.batch.crew import Crew
from colab_helpers.batch.keys import code_digest
from colab_helpers.batch.members import Member
from colab_helpers.cluster.worker import Worker
from colab_helpers.files import to_json
from colab_helpers.language import tr

_LOOK_EVERY = 1.0
_ROUNDING = 1e-6
_LONGEST_REASON = 200
CORES = 4.0
"""Cores that a worker without a GPU claims; fewer where a node has no more."""


class _Carried:
    """A worker's process on whatever node, and the crew's end of the way there.

    News come through a pipe, so that they can be waited for beside those of others.
    """

    code = -signal.SIGKILL
    """What the process has ended with, as far as is known."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self.actor, self._ray = actor, ray
        self._news, self.into = Pipe(duplex=False)
        self.recv, self.fileno, self.close = self._news.recv, self._news.fileno, self._news.close

    def send(self, message: object) -> None:
        self.actor.take.remote(message)

    def terminate(self) -> None:
        self.actor.end.remote()

    def kill(self) -> None:
        self._ray.kill(self.actor)

    def wait(self, _seconds: float | None = None) -> int:
        return self.code


@dataclass(eq=False, kw_only=True)
class ClusterCrew(Crew):
    """See ``Crew``; here ``devices`` are nodes, looked up again and again.

    Attributes:
        ray: The module, connected.
        me: The coordinator, through which workers are heard.
        share: Of a GPU that each worker gets.
        rank: Priority: as long as a batch of a higher one is at work, this one does nothing new.
    """

    ray: Any
    me: Any
    share: float = 1.0
    rank: int = 0
    _numbers: dict[int, Member] = field(default_factory=dict, init=False)
    _pings: dict[Any, Member] = field(default_factory=dict, init=False)
    _there: set[Member] = field(default_factory=set, init=False)
    _addresses: dict[str, str] = field(default_factory=dict, init=False)
    _unfit: set[str] = field(default_factory=set, init=False)
    _looked: float = field(default=float("-inf"), init=False)
    _outranked: bool = field(default=False, init=False)
    _job: str = field(default="", init=False)
    _next: Iterator[int] = field(default_factory=count, init=False)

    def __post_init__(self) -> None:
        self.devices = [node for node, (room, _) in self._places().items() for _ in range(room)]
        super().__post_init__()

    def hear(self, number: int, news: tuple[Any, ...]) -> None:
        """Take news of a worker, from another thread."""
        member = self._numbers.get(number)
        if member is None:
            return
        with suppress(OSError):  # nobody listens any more
            if news[0] == "lost":
                member.process.code = news[1]
                member.far.into.close()
            else:
                member.far.into.send(news)

    def _start(self, device: str) -> None:
        """Start nobody: who is missing is started by the next look, if the node is still there."""

    def _hand_out(self) -> None:
        if not self._outranked:
            super()._hand_out()

    def _look_after(self) -> None:
        for member in self._members:
            if member not in self._there:  # it waits for room
                member.heard = time.monotonic()
        super()._look_after()
        if time.monotonic() - self._looked < _LOOK_EVERY:
            return
        self._looked = time.monotonic()
        if self._members:
            self._listen()
        self._outranked = any(rank > self.rank for rank in self._ranks())
        if self._outranked:
            for member in [each for each in self._members if each.call is None]:
                self._leave(member)
        else:
            self._recruit()

    def _refused(self, member: Member, error: Exception) -> None:
        self._unfit.add(member.device)
        super()._refused(member, error)

    def _listen(self) -> None:
        """Learn who has come, and who is there no longer."""
        for member in self._members:
            if member not in self._pings.values():
                self._pings[member.process.actor.alive.remote()] = member
        for ping in self.ray.wait([*self._pings], num_returns=len(self._pings), timeout=0)[0]:
            member = self._pings.pop(ping)
            try:
                self.ray.get(ping)
                self._there.add(member)
            except self.ray.exceptions.RayError as error:
                if member in self._members:
                    reason = str(error).strip().splitlines()[-1].partition(". ")[0][:_LONGEST_REASON]
                    member.killed_for = member.killed_for or tr("was lost: {reason}", reason=reason)
                    member.far.into.close()
                    # Those of a node that has gone tell nothing of the work.
                    self._barren -= not member.loaded and member.device not in self._places()

    def _ranks(self) -> Iterator[int]:
        for name in self.ray.util.list_named_actors():
            with suppress(ValueError, self.ray.exceptions.RayError):  # it ends just now
                yield self.ray.get(self.ray.get_actor(name).rank.remote(), timeout=_LOOK_EVERY)

    def _places(self) -> dict[str, tuple[int, dict[str, float]]]:
        """For each node how many workers it has room for, and what each of them claims."""
        alive = [node for node in self.ray.nodes() if node["Alive"]]
        self._addresses |= {node["NodeID"]: node["NodeManagerAddress"] for node in alive}
        nodes = {node["NodeID"]: node["Resources"] for node in alive}
        if any(has.get("GPU") for has in nodes.values()):
            claim = {"num_cpus": 0.0, "num_gpus": self.share}
            return {
                name: (int(has.get("GPU", 0) / self.share + _ROUNDING), claim) for name, has in nodes.items()
            }
        places = {}
        for name, has in nodes.items():
            cores = min(CORES, has.get("CPU", 0.0))
            places[name] = int(has.get("CPU", 0) / cores) if cores else 0, {"num_cpus": cores}
        return places

    def _recruit(self) -> None:
        at_work = Counter(member.device for member in self._members)
        for node, (room, claim) in self._places().items():
            for _ in range(room - at_work[node] if node not in self._unfit else 0):
                if self.first_alone and self._members and not any(member.loaded for member in self._members):
                    return  # others wait until it has looked at all files
                self._hire(node, room, claim)

    def _hire(self, node: str, room: int, claim: dict[str, float]) -> None:
        self._job = self._job or to_json(self.around.job)
        strategy = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
        kind = self.ray.remote(Worker).options(**claim, scheduling_strategy=strategy)
        number = next(self._next)
        carried = _Carried(self.ray, kind.remote(self.me, number, self._job, code_digest(), room))
        self._numbers[number] = member = Member(carried, carried, node, self._addresses[node])
        self._members.append(member)

    def _end(self) -> None:
        for member in [each for each in self._members if each not in self._there]:
            self._leave(member)  # it has not begun
        super()._end()

    def _leave(self, member: Member) -> None:
        super()._leave(member)
        member.process.kill()
        self._there.discard(member)
        self._numbers = {number: other for number, other in self._numbers.items() if other is not member}
