"""What each worker of a batch does next: pure bookkeeping without files, clocks or processes.

Whoever carries calls to workers and results back asks with `Scheduler.next` and tells what became of them.
What can be finished comes first, then a segment of the video a worker is at, whose faces it knows, then one
of the oldest video begun, and only then another file: few are open at once, and results come early.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from colab_helpers.batch.report import FileReport


@dataclass(frozen=True)
class FilePlan:
    """What is to be done with a file, once its faces are found.

    Attributes:
        segments: How many it has; 0: it goes whole.
        length: Frames of each but the last.
        encoder: Name of the encoder with which all are made.
        finished: Numbers of those that earlier runs have finished.
        notes: What its report says of it so far.
        report: What became of it, if nothing is left to do.
    """

    segments: int = 0
    length: int = 0
    encoder: str = ""
    finished: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    report: FileReport | None = None


Kind = Literal["prepare", "segment", "finish", "whole"]


@dataclass(frozen=True)
class Call:
    """One thing for a worker to do on the file of an ``index``; ``number`` is a segment's, -1 otherwise."""

    kind: Kind
    index: int
    number: int = -1


@dataclass
class _Video:
    """A file in work: segments that nobody is at, last one first, and how many are not finished."""

    waiting: list[int] = field(default_factory=list)
    left: int = 0


class Scheduler:
    """Hands out the calls of files in an ``order``; workers are told apart by anything that has a hash.

    Nothing is kept of a file that is over. A call of which a worker dies is given out again, and its deaths
    are counted; how many are too many says who is asked (``WorkerContext.begin``). By ``sizes``, in bytes, a
    file goes whole, which costs least, where those that wait keep all others at work meanwhile: nobody has to
    look at it before others can help; of size 0 are those that never go in parts. Files of one size may be
    copies, which share what is kept of them, and are done one by one.
    """

    def __init__(self, order: Iterable[int], *, sizes: Mapping[int, int] = MappingProxyType({})) -> None:
        self._new, self._sizes = deque(order), sizes
        self._waiting = sum(sizes.get(index, 0) for index in self._new)
        self._open: dict[int, _Video] = {}  # in the order in which they were begun
        self._ready: deque[Call] = deque()  # all but segments; for whoever asks next
        self._running: dict[Hashable, Call] = {}
        self._last_call: dict[Hashable, Call] = {}
        self._deaths: Counter[Call] = Counter()

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do and nobody is at anything."""
        return not (self._new or self._open or self._running)

    def next(self, worker: Hashable, *, worker_count: int = 2) -> Call | None:
        """Return the next call for one of ``worker_count`` workers; raise ValueError if it still runs one.

        None: all that is left is in other hands; it may ask again after any news of theirs.
        """
        if worker in self._running:
            raise ValueError(f"{worker} is at {self._running[worker]}")
        call = self._ready.popleft() if self._ready else self._segment(worker) or self._another(worker_count)
        if call is not None:
            self._running[worker] = self._last_call[worker] = call
        return call

    def deaths(self, call: Call) -> int:
        """Return how many workers have died on a call."""
        return self._deaths[call]

    def has_successor(self, call: Call) -> bool:
        """Whether the segment behind that of a call is still to be made, by whoever asks."""
        return call.index in self._open and call.number + 1 in self._open[call.index].waiting

    def note_progress(self, worker: Hashable) -> None:
        """Note that a worker gets on: who dies on a file that goes whole dies on what comes now."""
        if (call := self._running.get(worker)) is not None:
            self._deaths.pop(call, None)

    def done(self, worker: Hashable, plan: FilePlan | None = None) -> Call | None:
        """Note that what a worker was at is done; of a file that was to be prepared, ``plan`` is the result.

        Returns the call; None where it counts no longer: the worker was taken for dead, or its file is over.
        """
        if (call := self._landed(worker)) is None:
            return None
        if call.kind == "prepare":
            assert plan is not None
            self._plan(call.index, plan)
        elif call.kind == "segment":
            self._open[call.index].left -= 1
            self._may_finish(call.index)
        else:
            self._close(call.index)
        return call

    def failed(self, worker: Hashable) -> Call | None:
        """Note that what a worker was at ended with an error: nothing more is done on that file.

        Returns the call; None where it counts no longer, so that a file fails once.
        """
        if (call := self._landed(worker)) is not None:
            self._close(call.index)
        return call

    def died(self, worker: Hashable) -> None:
        """Note that a worker is there no longer; another one does again what it was at."""
        self._last_call.pop(worker, None)
        if (call := self._landed(worker)) is None:
            return
        self._deaths[call] += 1
        if call.kind == "segment":
            self._open[call.index].waiting.append(call.number)
        else:
            self._ready.append(call)

    def _landed(self, worker: Hashable) -> Call | None:
        call = self._running.pop(worker, None)
        return call if call is not None and call.index in self._open else None

    def _plan(self, index: int, plan: FilePlan) -> None:
        if plan.report is not None:
            self._close(index)
        elif not plan.segments:
            self._ready.append(Call("whole", index))
        else:
            missing = sorted(set(range(plan.segments)) - set(plan.finished), reverse=True)
            self._open[index] = _Video(missing, len(missing))
            self._may_finish(index)

    def _may_finish(self, index: int) -> None:
        if not self._open[index].left:
            self._ready.append(Call("finish", index))

    def _segment(self, worker: Hashable) -> Call | None:
        """Return a segment that nobody is at, of the worker's own video or else of the oldest one.

        Best is the one behind the worker's last: its stages are warm. Whoever helps begins half-way between
        those at work, so that each goes on for long.
        """
        last = self._last_call.get(worker)
        for index in (last.index if last else -1, *self._open):
            if index in self._open and (waiting := self._open[index].waiting):
                behind = last.number + 1 if last and last.index == index and last.kind == "segment" else -1
                number = behind if behind in waiting else self._half_way(index, waiting)
                waiting.remove(number)
                return Call("segment", index, number)
        return None

    def _half_way(self, index: int, waiting: Iterable[int]) -> int:
        """The first of the longest run of numbers, or the middle if somebody is just before it."""
        runs: list[list[int]] = []
        for number in sorted(waiting):
            if runs and runs[-1][-1] == number - 1:
                runs[-1].append(number)
            else:
                runs.append([number])
        run = max(runs, key=len)
        taken = Call("segment", index, run[0] - 1) in self._last_call.values()
        return run[len(run) // 2 if taken else 0]

    def _another(self, worker_count: int) -> Call | None:
        busy = {self._sizes.get(index) for index in self._open} - {None, 0}
        index = next((each for each in self._new if self._sizes.get(each) not in busy), None)
        if index is None:
            return None
        size = self._sizes.get(index)
        whole = worker_count == 1 or (size is not None and size * worker_count <= self._waiting)
        self._new.remove(index)
        self._waiting -= size or 0
        self._open[index] = _Video()
        return Call("whole" if whole else "prepare", index)

    def _close(self, index: int) -> None:
        del self._open[index]
        for call in [call for call in self._deaths if call.index == index]:
            del self._deaths[call]
