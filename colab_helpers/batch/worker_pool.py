"""Distribute a batch over several worker processes of this machine, each with its own networks and GPU.

The pool loads no networks: it assigns calls, writes journal and status, and replaces workers that die. A call
whose worker died is given to another one.
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
from colab_helpers.batch.context import MAX_DEATHS, NO_DEATHS, Announce, Deaths
from colab_helpers.batch.journal import Entry, FileDone, Journal, SegmentDone, WorkStarted
from colab_helpers.batch.processes import WorkerProcess, describe_exit, repeated_death_error
from colab_helpers.batch.report import FileReport
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
# How long workers may take to stop; shorter than the STOP_TIMEOUT of this process itself.
_WORKER_STOP_TIMEOUT = STOP_TIMEOUT - 15.0
_METHODS = {"prepare": "prepare", "segment": "make_segment"}  # for other calls "process_file"


def devices_of(settings: Settings) -> list[str]:
    """Return the device of each worker by ``gpus``: a GPU's identifier, or "" for none.

    It is empty if one in-process worker is enough: ``gpus`` is empty, or ``all`` with at most one GPU. Raise
    UsageError for a GPU that does not exist.
    """
    gpus = "" if settings.gpus == "all" and settings.execution_provider == "cpu" else settings.gpus
    if gpus.startswith("cpu"):
        return [""] * len(gpus.split(","))
    available = visible_gpus() if gpus else []
    if gpus in ("", "all"):
        return available if len(available) > 1 else []
    numbers = [int(number) for number in gpus.split(",")]
    if missing := [number for number in numbers if number >= len(available)]:
        what = tr("there is no GPU {number}; {count} GPU(s) found", number=missing[0], count=len(available))
        remedy = tr("GPUs are numbered from 0; check CUDA_VISIBLE_DEVICES, or leave gpus empty")
        raise UsageError(what, where="gpus", remedy=remedy)
    return [available[number] for number in dict.fromkeys(numbers)]


@dataclass(eq=False)
class WorkerPool(BatchRunner):
    """A batch processed by several workers.

    Attributes:
        journal: Written by the pool alone; workers send it their entries.
        devices: Device of each worker.
        announce: Called before any work.
    """

    journal: Journal
    devices: Sequence[str]
    announce: Announce
    _workers: list[WorkerHandle] = field(default_factory=list, init=False)
    # From the clock, so that late messages for an earlier pool of this batch match no worker of this one.
    _numbers: Iterator[int] = field(default_factory=lambda: count(time.time_ns()), init=False)
    _messages: SimpleQueue[tuple[int, tuple[Any, ...]]] = field(default_factory=SimpleQueue, init=False)
    # Workers that are not started again, by device.
    _disabled: Counter[str] = field(default_factory=Counter, init=False)
    _files: dict[int, FileInProgress] = field(default_factory=dict, init=False)
    _shown_index: int = field(default=-1, init=False)  # the one file that the status shows in detail
    _last_cause: str = field(default="", init=False)
    _early_deaths: Counter[str] = field(default_factory=Counter, init=False)
    _ending: bool = field(default=False, init=False)
    _published: float = field(default=float("-inf"), init=False)

    def __post_init__(self) -> None:
        job = self.context.job
        # With a people map, the first worker scans all files, and the others wait for it.
        self._wait_for_first = job.request.mapped or job.request.people != "auto"
        history = self.context.read_journal()
        begun = {entry.target: entry.key for entry in history.entries if isinstance(entry, WorkStarted)}
        # Deaths in earlier worker pools of this run.
        self._earlier_deaths = {target: history.interruptions(key, job.run) for target, key in begun.items()}
        states = {n: size_and_mtime(task.target) for n, task in enumerate(job.tasks)}
        sizes = {n: state[0] for n, state in states.items() if state}
        # Images have size 0: they are never split, and equal sizes do not mean copies, done one by one.
        sizes |= {n: 0 for n, task in enumerate(job.tasks) if is_image(task.target)}
        self._schedule = Scheduler(self.order, sizes=sizes)

    @cached_property
    def _job_file(self) -> Path:
        path = self.context.work_dirs.local / "pool.json"
        self.context.job.save(path)
        return path

    def receive_message(self, number: int, message: tuple[Any, ...]) -> None:
        """Queue a message of a worker, by its number; from any thread."""
        self._messages.put((number, message))

    def _run_all(self) -> None:
        try:
            while not self._schedule.is_done:
                self._supervise()
                self._dispatch()
                self._handle_messages()
                self.context.stop.check()
        finally:
            self._shut_down()

    def _capacity(self) -> Mapping[str, int]:
        """Return the number of workers for each device."""
        return Counter(self.devices)

    def _spawn_missing(self) -> None:
        """Start the missing workers, but none in place of those that could not start."""
        running = Counter(worker.device for worker in self._workers)
        for device, capacity in self._capacity().items():
            for _ in range(capacity - running[device] - self._disabled[device]):
                ready = not self._workers or any(worker.loaded for worker in self._workers)
                if self._wait_for_first and not ready:
                    return
                self._workers.append(self._spawn_worker(next(self._numbers), device))

    def _spawn_worker(self, number: int, device: str) -> WorkerHandle:
        """Start a worker whose messages are queued under its number."""
        environment = {"CUDA_VISIBLE_DEVICES": device, SHARED_BY_ENV: str(len(self.devices))}
        process = WorkerProcess(self._job_file, partial(self.receive_message, number), environment)
        return WorkerHandle(number, process, device, socket.gethostname())

    def _dispatch(self) -> None:
        worker_count = max(len(self.devices) - self._disabled.total(), len(self._workers))
        for worker in self._workers:
            idle = worker.loaded and worker.call is None
            if idle and (call := self._schedule.next(worker, worker_count=worker_count)) is not None:
                file = self._files.setdefault(call.index, FileInProgress())
                kwargs: dict[str, Any] = {"index": call.index, "deaths": self._deaths(call)}
                if call.kind in ("segment", "finish"):
                    kwargs["encoder"] = file.plan.encoder
                if call.kind == "segment":
                    kwargs |= {"number": call.number, "has_successor": self._schedule.has_successor(call)}
                worker.assign(call)
                worker.process.send((_METHODS.get(call.kind, "process_file"), kwargs))

    def _deaths(self, call: Call) -> Deaths:
        target = str(self.context.job.tasks[call.index].target)
        earlier = self._earlier_deaths.get(target, 0) if call.kind in ("prepare", "whole") else 0
        times = self._schedule.deaths(call) + earlier
        return (times, self._last_cause or self.context.cause or "") if times else NO_DEATHS

    def _handle_messages(self) -> None:
        with suppress(Empty):
            for _ in range(max(1, self._messages.qsize())):
                number, (kind, *args) = self._messages.get(timeout=_POLL_INTERVAL)
                for worker in [each for each in self._workers if each.number == number]:
                    worker.last_heard = time.monotonic()
                    handle: Callable[..., None] = getattr(self, f"_on_{kind}")
                    handle(worker, *args)

    def _on_entry(self, worker: WorkerHandle, entry: Entry) -> None:
        """Append an entry to the journal, and answer the worker with the error or None."""
        error, report = None, entry.report if isinstance(entry, FileDone) else None
        if report and worker.call:
            self._complete_report(worker.call, report)
        try:
            self.journal.append(entry, worker.name)
        except OutputError as failure:
            error = failure
        if report and worker.call:
            self._files[worker.call.index].made_by = report.made_by
        if isinstance(entry, SegmentDone) and worker.call:
            self._schedule.note_progress(worker)
            self._earlier_deaths.pop(str(self.context.job.tasks[worker.call.index].target), None)
            if error is None and (file := self._segmented_file(worker.call)):
                file.frames[entry.part.segment.number] = entry.part.segment.frames
        worker.process.send(error)

    def _on_announce(self, _worker: WorkerHandle, notes: Iterable[str], times: int) -> None:
        self.announce(notes, times)

    def _on_status(self, worker: WorkerHandle, name: str, args: tuple[Any, ...]) -> None:
        """Handle a worker's call of the method ``name`` of its `StatusWriter`."""
        if name == "progress":
            self._show_progress(worker, *args)
        elif name == "pause":
            (worker.pause,) = args
            self.context.status.tick()
        elif name == "file" and (args[0] in self.files or args[0] in self._files):
            self.context.heartbeat()  # a worker that started later looks at all files once more
        elif name != "picture" or (worker.call and worker.call.index == self._shown_index):
            getattr(self.context.status, name)(*args)

    def _show_progress(self, worker: WorkerHandle, progress: Progress) -> None:
        """Publish the progress of a file; one file is shown in detail until it is done."""
        worker.progress, file, index = progress, self._segmented_file(worker.call), progress.file_index
        combined = file.combined_progress(progress, self._workers) if file else progress
        # The file failed in another worker's segment, or a new worker looks at all files once more.
        if index in self.files or (self._files and not worker.call):
            self.context.heartbeat()
            return
        if self._shown_index not in self._files:
            self._shown_index = index
        if index == self._shown_index:
            self.report_progress(combined)
        else:
            self.context.status.progress(combined, first=False)
            self.context.heartbeat()

    def _segmented_file(self, call: Call | None) -> FileInProgress | None:
        """Return the file of a segment call; None for other calls, and for files that have failed since."""
        return self._files.get(call.index) if call is not None and call.kind == "segment" else None

    def _on_opened(self, worker: WorkerHandle, info: WorkerInfo) -> None:
        if self.loaded.encoder not in ("", info.encoder):  # segments of one video would not join
            text = mark("its encoder is {encoder}, but the other workers use {other}")
            what = tr(text, encoder=info.encoder or tr("none"), other=self.loaded.encoder)
            self._on_refused(worker, UsageError(what, remedy=tr("choose the encoder libx264")))
            return
        worker.loaded, self.loaded, self._early_deaths[worker.device] = True, info, 0
        taken, plain = {each.name for each in self._workers}, f"{worker.name} {info.device_name}"
        numbered = (f"{plain} ({number})" for number in range(2, len(taken) + 2))
        worker.name = next(name for name in (plain, *numbered) if name not in taken)

    def _on_refused(self, worker: WorkerHandle, error: Exception) -> None:
        """Continue without a worker that cannot start; raise its error if no other one is left."""
        self._remove(worker)
        self._disable_one(worker, error)

    def _disable_one(self, worker: WorkerHandle, error: Exception) -> None:
        self._disabled[worker.device] += 1
        # An error in the request, such as a photo without a face, would be the same on every worker.
        invalid_request = getattr(error, "refusal", False) and not isinstance(error, ProviderError)
        none_left = not Counter(self._capacity()) - self._disabled
        hopeless = none_left or (invalid_request and self.loaded == WorkerInfo())
        if hopeless and not (self._workers or self._ending):
            raise error
        self.context.status.note(tr("continuing with one worker fewer: {error}", error=error_text(error)))

    def _on_failed(self, worker: WorkerHandle, report: FileReport, leaves: bool) -> None:
        self._finish_call(worker, self._schedule.failed(worker), report, leaves)

    def _on_done(self, worker: WorkerHandle, result: FilePlan | FileReport | None, leaves: bool) -> None:
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
                self._complete_report(call, result)
                del self._files[call.index]
                self.file_ended(call.index, result)
        if leaves:
            self._remove(worker)

    def _complete_report(self, call: Call, report: FileReport) -> None:
        """Add to a file's report what other workers have contributed to the file."""
        file = self._files[call.index]
        report.made_by = report.made_by or file.made_by
        report.fallbacks = list(dict.fromkeys([*file.plan.notes, *report.fallbacks]))
        if call.kind == "finish":
            report.segments_kept, report.seconds = len(file.plan.finished), time.monotonic() - file.began
            report.fps = report.frames_out / report.seconds

    def _on_lost(self, worker: WorkerHandle, code: int) -> None:
        """Reschedule the call of a worker that died with an exit code."""
        self._remove(worker)
        if self._ending:
            return
        self._last_cause = worker.kill_reason or describe_exit(code)
        self.context.status.note_restart(self._last_cause)
        call, file = worker.call, self._segmented_file(worker.call)
        if call is not None and file is not None and call.number in file.frames:
            self._schedule.done(worker)  # the segment is in the journal, only the answer was lost
        else:
            self._schedule.died(worker)
        self._early_deaths[worker.device] += not worker.loaded
        if self._early_deaths[worker.device] >= MAX_DEATHS:  # workers of other devices may still start
            self._early_deaths[worker.device] = 0
            error = repeated_death_error(self.context.job.folder, MAX_DEATHS, self._last_cause)
            self._disable_one(worker, error)

    def _supervise(self) -> None:
        """Publish the workers' states, kill stalled workers, and start missing ones."""
        if time.monotonic() - self._published >= _POLL_INTERVAL:
            self._published, tasks = time.monotonic(), self.context.job.tasks
            statuses = [w.status(tasks[w.call.index].target.name if w.call else "") for w in self._workers]
            self.context.status.workers(statuses)
        settings = self.context.job.request.settings
        for worker in self._workers:
            busy, limit = worker.call is not None or not worker.loaded, settings.worker_timeout
            if busy and time.monotonic() - worker.last_heard > limit and not worker.kill_reason:
                text = mark("made no progress for {limit:.0f} seconds and was killed")
                worker.kill_reason = tr(text, limit=limit)
                worker.process.kill()
        self._spawn_missing()

    def _remove(self, worker: WorkerHandle) -> None:
        """Kill and forget a worker, for example one that uses too much memory; a new one takes its place."""
        self._workers.remove(worker)
        worker.process.kill()

    _on_leave = _remove

    def _shut_down(self) -> None:
        """Stop all workers; what they journal or finish meanwhile still counts."""
        self._ending, until = True, time.monotonic() + _WORKER_STOP_TIMEOUT
        for worker in [*self._workers]:
            if worker.last_heard == math.inf:  # not started yet
                self._remove(worker)
            else:
                worker.process.terminate()
        while self._workers and time.monotonic() < until:
            with suppress(KeyboardInterrupt):  # stopping already
                self._handle_messages()
        for worker in [*self._workers]:
            self._remove(worker)
        self._job_file.unlink(missing_ok=True)
