"""Several workers of one batch on this machine, each a process with networks of its own, on its own GPU.

This process loads no network: it hands out calls, writes journal and status, and starts another worker where
one dies. What a worker was at then goes to another one.
"""

from __future__ import annotations

import math
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from colab_helpers.batch.batch_runner import BatchRunner
from colab_helpers.batch.context import MAX_DEATHS, NO_DEATHS, Deaths
from colab_helpers.batch.journal import Entry, FileDone, Journal, SegmentDone, WorkStarted, read_journal
from colab_helpers.batch.processes import WorkerProcess, describe_exit, repeated_death_error
from colab_helpers.batch.report import JOURNAL_NAME, FileReport
from colab_helpers.batch.run_file import error_text
from colab_helpers.batch.scheduler import Call, FilePlan, Scheduler
from colab_helpers.batch.stop import STOP_TIMEOUT
from colab_helpers.batch.worker_handles import FileInProgress, WorkerHandle, WorkerInfo
from colab_helpers.errors import OutputError, ProviderError, UsageError
from colab_helpers.files import size_and_mtime
from colab_helpers.language import mark, tr
from colab_helpers.machine import SHARED_BY_ENV, visible_gpus
from colab_helpers.media.inputs import is_image
from colab_helpers.progress import Progress
from colab_helpers.settings import Settings

_POLL_INTERVAL = 0.5
# Less than a process is waited for that has been asked to stop.
_LAST_NEWS = STOP_TIMEOUT - 15.0


def devices_of(settings: Settings) -> list[str]:
    """Return for each worker what it sees, by ``gpus``: the identifier of a GPU, or "" for none.

    Empty where one worker does it, as with a single GPU. UsageError where a GPU is not there.
    """
    gpus = "" if settings.gpus == "all" and settings.execution_provider == "cpu" else settings.gpus
    if gpus.startswith("cpu"):
        return [""] * len(gpus.split(","))
    there = visible_gpus() if gpus else []
    if gpus in ("", "all"):
        return there if len(there) > 1 else []
    wanted = [int(number) for number in gpus.split(",")]
    if missing := [number for number in wanted if number >= len(there)]:
        raise UsageError(
            tr("there is no GPU {number}; GPUs seen here: {count}", number=missing[0], count=len(there)),
            where="gpus",
            remedy=tr("count from 0, as CUDA does, look at CUDA_VISIBLE_DEVICES, or leave it empty"),
        )
    return [there[number] for number in dict.fromkeys(wanted)]


@dataclass(eq=False)
class WorkerPool(BatchRunner):
    """A batch done by several workers.

    Attributes:
        journal: Written here alone.
        devices: What each worker sees.
        announce: Called with what is to be said before any work.
    """

    journal: Journal
    devices: Sequence[str]
    announce: Callable[[Iterable[str], int], None]
    _workers: list[WorkerHandle] = field(default_factory=list, init=False)
    # Those of a crew that ended before this one are not heard for these.
    _numbers: Iterator[int] = field(default_factory=lambda: count(time.time_ns()), init=False)
    _news: SimpleQueue[tuple[int, tuple[Any, ...]]] = field(default_factory=SimpleQueue, init=False)
    _unfit: Counter[str] = field(default_factory=Counter, init=False)
    _files: dict[int, FileInProgress] = field(default_factory=dict, init=False)
    _main: int = field(default=-1, init=False)  # the file that is shown
    _cause: str = field(default="", init=False)
    _early_deaths: Counter[str] = field(default_factory=Counter, init=False)
    _ending: bool = field(default=False, init=False)
    _shown: float = field(default=float("-inf"), init=False)

    def __post_init__(self) -> None:
        request = self.context.job.request
        # Whether one worker has to have looked at all files before others begin.
        self._wait_for_first = request.mapped or request.people != "auto"
        history, run = read_journal(self.context.job.folder / JOURNAL_NAME), self.context.job.run
        begun = {entry.target: entry.key for entry in history.entries if isinstance(entry, WorkStarted)}
        # On what the crews before this one ended, if this run had any.
        self._earlier_deaths = {target: history.interruptions(key, run) for target, key in begun.items()}
        states = {n: size_and_mtime(task.target) for n, task in enumerate(self.context.job.tasks)}
        sizes = {n: state[0] for n, state in states.items() if state}
        # Copies of a picture share nothing, and many pictures have one size.
        sizes |= {n: 0 for n, task in enumerate(self.context.job.tasks) if is_image(task.target)}
        self._schedule = Scheduler(self.order, sizes=sizes)

    @cached_property
    def _job_file(self) -> Path:
        path = self.context.work_dirs.local / "crew.json"
        self.context.job.save(path)
        return path

    @cached_property
    def _longest_silence(self) -> float:
        settings = self.context.job.request.settings
        return float(settings.stall_timeout) + float(settings.gpu_memory_wait)

    def receive_message(self, number: int, news: tuple[Any, ...]) -> None:
        """Take news of a worker, from any thread."""
        self._news.put((number, news))

    def _run_all(self) -> None:
        try:
            while not self._schedule.is_done:
                self._supervise()
                self._dispatch()
                self._take_news()
                self.context.stop.check()
        finally:
            self._end()

    def _capacity(self) -> Mapping[str, int]:
        """Return how many workers each device has room for."""
        return Counter(self.devices)

    def _spawn_missing(self) -> None:
        """Start who is missing, but nobody in place of one that could not begin."""
        at_work = Counter(worker.device for worker in self._workers)
        for device, room in self._capacity().items():
            for _ in range(room - at_work[device] - self._unfit[device]):
                if (
                    self._wait_for_first
                    and self._workers
                    and not any(worker.loaded for worker in self._workers)
                ):
                    return  # others wait until it has looked at all files
                self._workers.append(self._spawn_worker(next(self._numbers), device))

    def _spawn_worker(self, number: int, device: str) -> WorkerHandle:
        """Start a worker; what it says is heard."""
        given = {"CUDA_VISIBLE_DEVICES": device, SHARED_BY_ENV: str(len(self.devices))}
        process = WorkerProcess(self._job_file, partial(self.receive_message, number), given)
        return WorkerHandle(number, process, device, socket.gethostname())

    def _dispatch(self) -> None:
        worker_count = max(len(self.devices) - self._unfit.total(), len(self._workers))
        for worker in self._workers:
            ready = worker.loaded and worker.call is None
            if ready and (call := self._schedule.next(worker, worker_count=worker_count)) is not None:
                file = self._files.setdefault(call.index, FileInProgress())
                given: dict[str, Any] = {"index": call.index, "deaths": self._deaths(call)}
                if call.kind in ("segment", "finish"):
                    given["encoder"] = file.plan.encoder
                if call.kind == "segment":
                    given |= {"number": call.number, "has_successor": self._schedule.has_successor(call)}
                worker.assign(call)
                worker.process.send(("whole" if call.kind == "finish" else call.kind, given))

    def _deaths(self, call: Call) -> Deaths:
        target = str(self.context.job.tasks[call.index].target)
        before = self._earlier_deaths.get(target, 0) if call.kind in ("prepare", "whole") else 0
        times = self._schedule.deaths(call) + before
        return (times, self._cause or self.context.cause or "") if times else NO_DEATHS

    def _take_news(self) -> None:
        with suppress(Empty):
            for _ in range(max(1, self._news.qsize())):
                number, (kind, *news) = self._news.get(timeout=_POLL_INTERVAL)
                for worker in [each for each in self._workers if each.number == number]:
                    worker.last_heard = time.monotonic()
                    # What each does is said by who sends it: `worker`.
                    assign: Callable[..., None] = getattr(self, f"_{kind}")
                    assign(worker, *news)

    def _note(self, worker: WorkerHandle, entry: Entry) -> None:
        """Write an entry into the journal, and tell the worker how that went."""
        error, result = None, entry.report if isinstance(entry, FileDone) else None
        if result and worker.call:
            self._together(worker.call, result)
        try:
            self.journal.append(entry, worker.name)
        except OutputError as failed:
            error = failed
        if result and worker.call:
            self._files[worker.call.index].made_by = result.made_by
        if isinstance(entry, SegmentDone) and worker.call:
            self._schedule.note_progress(worker)
            self._earlier_deaths.pop(str(self.context.job.tasks[worker.call.index].target), None)
            if error is None and (file := self._file(worker.call)):
                file.frames[entry.part.segment.number] = entry.part.segment.frames
        worker.process.send(error)

    def _announce(self, _member: WorkerHandle, notes: Iterable[str], times: int) -> None:
        self.announce(notes, times)

    def _tell(self, worker: WorkerHandle, name: str, given: tuple[Any, ...]) -> None:
        if name == "progress":
            self._progress(worker, *given)
        elif name == "pause":
            (worker.pause,) = given
            self.context.status.tick()
        elif name == "file" and (given[0] in self.files or given[0] in self._files):
            self.context.heartbeat()  # whoever comes later looks at all files once more
        elif name != "picture" or (worker.call and worker.call.index == self._main):
            getattr(self.context.status, name)(*given)

    def _progress(self, worker: WorkerHandle, progress: Progress) -> None:
        """Show how a file gets on, and one above all, as long as that is in work."""
        worker.progress, file, index = progress, self._file(worker.call), progress.file_index
        together = file.together(progress, self._workers) if file else progress
        # It is over, by an error in another's segment; or one who begins looks at it once more.
        if index in self.files or (self._files and not worker.call):
            self.context.heartbeat()
            return
        if self._main not in self._files:
            self._main = index
        if index == self._main:
            self.tell(together)
        else:
            self.context.status.progress(together, first=False)
            self.context.heartbeat()

    def _file(self, call: Call | None) -> FileInProgress | None:
        """Return the file of whose segments one is made; None where it is over, as by an error in another."""
        return self._files.get(call.index) if call is not None and call.kind == "segment" else None

    def _opened(self, worker: WorkerHandle, loaded: WorkerInfo) -> None:
        if self.loaded.encoder not in ("", loaded.encoder):  # parts of one video would not join
            told = mark("the encoder there is {encoder}, that of the others {other}")
            said = tr(told, encoder=loaded.encoder or tr("none"), other=self.loaded.encoder)
            self._refused(worker, UsageError(said, remedy=tr("choose the encoder libx264")))
            return
        worker.loaded, self.loaded, self._early_deaths[worker.device] = True, loaded, 0
        taken, plain = {each.name for each in self._workers}, f"{worker.name} {loaded.place}"
        numbered = (f"{plain} ({number})" for number in range(2, len(taken) + 2))
        worker.name = next(name for name in (plain, *numbered) if name not in taken)

    def _refused(self, worker: WorkerHandle, error: Exception) -> None:
        """Go on with the other workers where one cannot begin; its error is raised where there is none."""
        self._leave(worker)
        self._one_less(worker, error)

    def _one_less(self, worker: WorkerHandle, error: Exception) -> None:
        self._unfit[worker.device] += 1
        # Of what is asked for, as of a photo without a face, anybody would say the same.
        asked = getattr(error, "refusal", False) and not isinstance(error, ProviderError)
        hopeless = (asked and self.loaded == WorkerInfo()) or not Counter(self._capacity()) - self._unfit
        if hopeless and not (self._workers or self._ending):
            raise error
        self.context.status.note(tr("one worker less: {error}", error=error_text(error)))

    def _failed(self, worker: WorkerHandle, report: FileReport, leaves: bool) -> None:
        self._finish_call(worker, self._schedule.failed(worker), report, leaves)

    def _done(self, worker: WorkerHandle, result: FilePlan | FileReport | None, leaves: bool) -> None:
        plan = result if isinstance(result, FilePlan) else None
        self._finish_call(worker, self._schedule.done(worker, plan), result, leaves)

    def _finish_call(
        self, worker: WorkerHandle, call: Call | None, result: FilePlan | FileReport | None, leaves: bool
    ) -> None:
        worker.assign(None)
        if call is not None:
            if isinstance(result, FilePlan):
                self._files[call.index].plan, result = result, result.report
            if result is not None:
                self._together(call, result)
                del self._files[call.index]
                self.ended(call.index, result)
        if leaves:
            self._leave(worker)

    def _together(self, call: Call, report: FileReport) -> None:
        """Tell of a file what several have done."""
        file = self._files[call.index]
        report.made_by = report.made_by or file.made_by
        report.fallbacks = list(dict.fromkeys([*file.plan.notes, *report.fallbacks]))
        if call.kind == "finish":
            report.segments_kept, report.seconds = len(file.plan.finished), time.monotonic() - file.began
            report.fps = report.frames_out / report.seconds

    def _lost(self, worker: WorkerHandle, code: int) -> None:
        """Have another worker take the place of one that died."""
        self._leave(worker)
        if self._ending:
            return
        self._cause = worker.kill_reason or describe_exit(code)
        self.context.status.restarted(self._cause)
        call, file = worker.call, self._file(worker.call)
        if call is not None and file is not None and call.number in file.frames:
            self._schedule.done(worker)  # it is noted, and only the answer was lost
        else:
            self._schedule.died(worker)
        self._early_deaths[worker.device] += not worker.loaded
        if self._early_deaths[worker.device] >= MAX_DEATHS:  # others may do
            self._early_deaths[worker.device] = 0
            self._one_less(worker, repeated_death_error(self.context.job.folder, MAX_DEATHS, self._cause))

    def _show(self) -> None:
        """Tell who does what."""
        self._shown, tasks = time.monotonic(), self.context.job.tasks
        self.context.status.workers(
            [each.told(tasks[each.call.index].target.name if each.call else "") for each in self._workers]
        )

    def _supervise(self) -> None:
        """Kill workers of whom nothing is heard; they are replaced as soon as they have gone."""
        if time.monotonic() - self._shown >= _POLL_INTERVAL:
            self._show()
        for worker in self._workers:
            busy, limit = worker.call is not None or not worker.loaded, self._longest_silence
            if busy and time.monotonic() - worker.last_heard > limit and not worker.kill_reason:
                told = mark("made no progress for {limit:.0f} seconds and was killed")
                worker.kill_reason = tr(told, limit=limit)
                worker.process.kill()
        self._spawn_missing()

    def _leave(self, worker: WorkerHandle) -> None:
        """Have a worker go, as one that holds too much memory asks for; another one takes its place."""
        self._workers.remove(worker)
        worker.process.kill()

    def _end(self) -> None:
        """Have all workers end; what they note, and finish, meanwhile counts."""
        self._ending, until = True, time.monotonic() + _LAST_NEWS
        for worker in [*self._workers]:
            if worker.last_heard == math.inf:  # it has not begun
                self._leave(worker)
            else:
                worker.process.terminate()
        while self._workers and time.monotonic() < until:
            with suppress(KeyboardInterrupt):  # it is known
                self._take_news()
        for worker in [*self._workers]:
            self._leave(worker)
        self._job_file.unlink(missing_ok=True)
