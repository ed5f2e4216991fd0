"""Decide what each worker of a batch does next: pure bookkeeping without files, clocks or processes.

The worker pool asks with `Scheduler.next` and reports the outcome of each call. Files that only have to be
finished come first, then segments of the worker's current video, whose faces it has loaded, then segments of
the oldest open video, and last a new file: few files are open at once, and results appear early.
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
    """How a file is processed, once its faces are found.

    Attributes:
        segments: Number of segments; 0 if the file is processed as a whole, or if there is a report.
        length: Frames of each segment but the last.
        encoder: Name of the encoder for all segments.
        finished: Numbers of the segments that earlier runs have finished.
        notes: Notes for the file's report.
        report: The file's report, if nothing is left to do.
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
    """One step of work on the file ``index``; ``number`` is the segment's, -1 for other kinds."""

    kind: Kind
    index: int
    number: int = -1


@dataclass
class _OpenFile:
    """A file in progress: its unassigned segments in descending order, and how many are unfinished."""

    waiting: list[int] = field(default_factory=list)
    left: int = 0


class Scheduler:
    """Hands out the calls of files in an ``order``; workers are identified by any hashable value.

    A call whose worker died is handed out again, and its deaths are counted; `WorkerContext.begin` decides
    how many are too many. A file is processed as a whole, which costs least, if the files that wait are large
    enough to keep all other workers busy meanwhile, or if its size is 0.

    Args:
        order: Numbers of the files.
        sizes: Their sizes in bytes, 0 for files that never have segments. Files of the same size may be
            copies, which share stored work, and are processed one after another.
    """

    def __init__(self, order: Iterable[int], *, sizes: Mapping[int, int] = MappingProxyType({})) -> None:
        self._new, self._sizes = deque(order), sizes
        self._waiting = sum(sizes.get(index, 0) for index in self._new)
        self._open: dict[int, _OpenFile] = {}  # in the order in which they were begun
        self._ready: deque[Call] = deque()  # calls other than segments, for any worker
        self._running: dict[Hashable, Call] = {}
        self._last_call: dict[Hashable, Call] = {}
        self._deaths: Counter[Call] = Counter()

    @property
    def is_done(self) -> bool:
        """Whether no work is left or running."""
        return not (self._new or self._open or self._running)

    def next(self, worker: Hashable, *, worker_count: int = 2) -> Call | None:
        """Return the next call for one of ``worker_count`` workers; raise ValueError if it still runs one.

        None means that the other workers are running all that is left; ask again after their next message.
        """
        if worker in self._running:
            raise ValueError(f"{worker} is running {self._running[worker]}")
        call = self._ready.popleft() if self._ready else self._segment(worker) or self._new_file(worker_count)
        if call is not None:
            self._running[worker] = self._last_call[worker] = call
        return call

    def deaths(self, call: Call) -> int:
        """Return how many workers have died on a call."""
        return self._deaths[call]

    def has_successor(self, call: Call) -> bool:
        """Return whether the segment after that of a call is still unassigned."""
        return call.index in self._open and call.number + 1 in self._open[call.index].waiting

    def note_progress(self, worker: Hashable) -> None:
        """Reset the deaths of a worker's call: a later death on a whole file has another cause."""
        if (call := self._running.get(worker)) is not None:
            self._deaths.pop(call, None)

    def done(self, worker: Hashable, plan: FilePlan | None = None) -> Call | None:
        """Mark a worker's call as done; ``plan`` is the result of a "prepare" call.

        Returns the call, or None if it is obsolete: the worker was considered dead, or its file has ended.
        """
        if (call := self._take(worker)) is None:
            return None
        if call.kind == "prepare":
            assert plan is not None
            self._plan(call.index, plan)
        elif call.kind == "segment":
            self._open[call.index].left -= 1
            self._finish_if_complete(call.index)
        else:
            self._close(call.index)
        return call

    def failed(self, worker: Hashable) -> Call | None:
        """Mark a worker's call as failed and end work on its file; return None if it is obsolete."""
        if (call := self._take(worker)) is not None:
            self._close(call.index)
        return call

    def died(self, worker: Hashable) -> None:
        """Remove a worker that died and reschedule its call."""
        self._last_call.pop(worker, None)
        if (call := self._take(worker)) is None:
            return
        self._deaths[call] += 1
        if call.kind == "segment":
            self._open[call.index].waiting.append(call.number)
        else:
            self._ready.append(call)

    def _take(self, worker: Hashable) -> Call | None:
        """Remove and return a worker's running call; None if its file has ended."""
        call = self._running.pop(worker, None)
        return call if call is not None and call.index in self._open else None

    def _plan(self, index: int, plan: FilePlan) -> None:
        if plan.report is not None:
            self._close(index)
        elif not plan.segments:
            self._ready.append(Call("whole", index))
        else:
            missing = sorted(set(range(plan.segments)) - set(plan.finished), reverse=True)
            self._open[index] = _OpenFile(missing, len(missing))
            self._finish_if_complete(index)

    def _finish_if_complete(self, index: int) -> None:
        if not self._open[index].left:
            self._ready.append(Call("finish", index))

    def _segment(self, worker: Hashable) -> Call | None:
        """Return an unassigned segment of the worker's current video, or else of the oldest open one.

        The segment after the worker's last one is preferred, as its pipeline continues there. A worker that
        joins a video starts half-way between the others, so that each has many segments in a row.
        """
        last = self._last_call.get(worker)
        for index in (last.index if last else -1, *self._open):
            if index in self._open and (waiting := self._open[index].waiting):
                following = last.number + 1 if last and last.index == index and last.kind == "segment" else -1
                number = following if following in waiting else self._half_way(index, waiting)
                waiting.remove(number)
                return Call("segment", index, number)
        return None

    def _half_way(self, index: int, waiting: Iterable[int]) -> int:
        """Return the first number of the longest run, or its middle if a worker is just before it."""
        runs: list[list[int]] = []
        for number in sorted(waiting):
            if runs and runs[-1][-1] == number - 1:
                runs[-1].append(number)
            else:
                runs.append([number])
        run = max(runs, key=len)
        taken = Call("segment", index, run[0] - 1) in self._last_call.values()
        return run[len(run) // 2 if taken else 0]

    def _new_file(self, worker_count: int) -> Call | None:
        busy = {self._sizes.get(index) for index in self._open} - {None, 0}
        index = next((each for each in self._new if self._sizes.get(each) not in busy), None)
        if index is None:
            return None
        size = self._sizes.get(index)
        whole = worker_count == 1 or (size is not None and size * worker_count <= self._waiting)
        self._new.remove(index)
        self._waiting -= size or 0
        self._open[index] = _OpenFile()
        return Call("whole" if whole else "prepare", index)

    def _close(self, index: int) -> None:
        del self._open[index]
        for call in [call for call in self._deaths if call.index == index]:
            del self._deaths[call]
