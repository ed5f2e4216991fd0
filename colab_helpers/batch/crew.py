"""Several workers of one batch on this machine, each a process with networks of its own, on its own GPU.

This process loads no network: it hands out calls, writes journal and status, and starts another worker where
one dies. What a worker was at then goes to another one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from colab_helpers.batch.hands import Loaded, Prepared
from colab_helpers.batch.journal import Failed, Journal, SegmentDone, Started
from colab_helpers.batch.processes import cause_of
from colab_helpers.batch.report import FileReport
from colab_helpers.batch.run_batch import Batch
from colab_helpers.batch.run_file import error_text
from colab_helpers.batch.schedule import Call, Schedule
from colab_helpers.batch.stop import LONGEST_STOP
from colab_helpers.batch.surroundings import MOST_DEATHS, gave_up
from colab_helpers.errors import OutputError, UsageError, WorkerError
from colab_helpers.language import mark, tr
from colab_helpers.machine import SHARED_BY, visible_gpus
from colab_helpers.pipeline import FinishedSegment
from colab_helpers.progress import Progress

_LOOK_EVERY = 0.5
# Less than a process is waited for that has been asked to stop.
_LAST_NEWS = LONGEST_STOP - 15.0


def devices_of(gpus: str) -> list[str]:
    """Return for each worker of the setting ``gpus`` what it sees: the identifier of a GPU, or "" for none.

    Empty where one worker does it as ever. UsageError where a GPU is not there.
    """
    if gpus.startswith("cpu"):
        return [""] * len(gpus.split(","))
    there = visible_gpus() if gpus else []
    if gpus in ("", "all"):
        return there if len(there) > 1 else []
    wanted = [int(number) for number in gpus.split(",")]
    if missing := [number for number in wanted if number >= len(there)]:
        raise UsageError(
            tr("there is no GPU {number}: {count} are seen", number=missing[0], count=len(there)),
            where="gpus",
            remedy=tr("count from 0, as CUDA does, or look at CUDA_VISIBLE_DEVICES"),
        )
    return [there[number] for number in dict.fromkeys(wanted)]


@dataclass(eq=False)
class _Member:
    """A worker process: what it sees, since when it was last heard, and what it is at."""

    process: subprocess.Popen[bytes]
    far: Connection
    device: str
    heard: float = field(default_factory=time.monotonic)
    loaded: bool = False
    call: Call | None = None
    progress: Progress | None = None
    killed_for: str = ""


@dataclass(eq=False)
class _File:
    """A file in work: since when, what is to be done with it, and its segments so far."""

    began: float = field(default_factory=time.monotonic)
    key: str = ""
    plan: Prepared | None = None
    parts: dict[int, FinishedSegment] = field(default_factory=dict)


@dataclass(eq=False)
class Crew(Batch):
    """A batch done by several workers.

    Attributes:
        journal: Written here alone.
        devices: What each worker sees.
        announce: Called with what is to be said before any work.
        first_alone: Whether one worker has to have looked at all files before others begin.
    """

    journal: Journal
    devices: Sequence[str]
    announce: Callable[[Iterable[str]], None]
    first_alone: bool
    _members: list[_Member] = field(default_factory=list, init=False)
    _files: dict[int, _File] = field(default_factory=dict, init=False)
    _barren: int = field(default=0, init=False)
    _loaded: Loaded = field(default=Loaded(), init=False)

    def __post_init__(self) -> None:
        self._schedule = Schedule(self.order, most_deaths=MOST_DEATHS, whole_above=len(self.devices))
        self._place = {index: place for place, index in enumerate(self.order)}

    @property
    def loaded(self) -> Loaded:
        """What all workers have loaded."""
        return self._loaded

    @cached_property
    def _job_file(self) -> Path:
        path = self.around.places.local / "crew.json"
        self.around.job.save(path)
        return path

    @property
    def _longest_silence(self) -> float:
        settings = self.around.job.request.settings
        return float(settings.stall_timeout) + float(settings.gpu_memory_wait)

    def _do_all(self) -> None:
        try:
            for device in self.devices[: 1 if self.first_alone else None]:
                self._start(device)
            while not self._schedule.over:
                self._hand_out()
                for far in wait([member.far for member in self._members], _LOOK_EVERY):
                    self._hear(next(member for member in self._members if member.far is far))
                self._look_after()
                self.around.stop.check()
        finally:
            self._end()

    def _start(self, device: str) -> None:
        ours, theirs = Pipe()
        command = [sys.executable, "-m", "colab_helpers.batch.member"]
        given = {"CUDA_VISIBLE_DEVICES": device, SHARED_BY: str(len(self.devices))}
        process = subprocess.Popen(
            [*command, str(self._job_file), str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env={**os.environ, **given},
        )
        theirs.close()
        self._members.append(_Member(process, ours, device))

    def _hand_out(self) -> None:
        for member in self._members:
            if member.loaded and member.call is None and (call := self._schedule.next(member)) is not None:
                file = self._files.setdefault(call.index, _File())
                given: dict[str, Any] = {"index": call.index, "deaths": self._schedule.deaths(call)}
                if call.kind in ("segment", "finish") and file.plan is not None:
                    given["encoder"] = file.plan.encoder
                if call.kind == "segment":
                    given |= {"number": call.number, "goes_on": self._schedule.goes_on(call)}
                if call.kind == "finish":
                    given["parts"] = list(file.parts.values())
                member.call, member.progress, member.heard = call, None, time.monotonic()
                with suppress(OSError):  # it has died, which is heard next
                    member.far.send((call.kind, given))

    def _hear(self, member: _Member) -> None:
        """Take one piece of news of a worker."""
        try:
            kind, *news = member.far.recv()
        except (EOFError, OSError):
            self._lost(member)
            return
        member.heard = time.monotonic()
        if kind == "note":
            self._note(member, *news)
        elif kind == "tell":
            self._tell(member, *news)
        elif kind == "announce":
            self.announce(*news)
        elif kind == "opened":
            self._opened(member, *news)
        elif kind == "refused":
            self._refused(member, *news)
        else:
            self._done(member, kind, *news)

    def _note(self, member: _Member, entry: Any) -> None:
        """Write an entry into the journal, and tell the worker how that went."""
        error = None
        try:
            self.journal.append(entry)
        except OutputError as failed:
            error = failed
        if isinstance(entry, Started) and member.call is not None:
            self._files[member.call.index].key = entry.key
        elif isinstance(entry, SegmentDone):
            self._schedule.progressed(member)
        with suppress(OSError):
            member.far.send(error)

    def _tell(self, member: _Member, name: str, given: tuple[Any, ...]) -> None:
        if name == "progress":
            self._progress(member, *given)
        elif name == "note":
            said = self.around.status.status.notes
            self.around.status.note(*(text for text in given if text not in said))
        else:
            getattr(self.around.status, name)(*given)

    def _progress(self, member: _Member, progress: Progress) -> None:
        """Show the file that was begun first, as all who are at it together get on."""
        member.progress, call = progress, member.call
        if call is None:  # it looks at all files before the first call
            self.tell(progress)
            return
        at_work = [each.call for each in self._members if each.call is not None]
        if call.index != min((one.index for one in at_work), key=lambda index: self._place[index]):
            self.around.status.status.files[call.index].status = "running"
            self.around.beat()
            return
        if call.kind == "segment" and (plan := self._files[call.index].plan) is not None:
            frame, fps = len(plan.finished) * plan.length, 0.0
            frame += sum(part.segment.frames for part in self._files[call.index].parts.values())
            for other in self._members:
                at = other.call and (other.call.kind, other.call.index)
                if other.progress and other.call and at == ("segment", call.index):
                    frame += max(0, other.progress.frame - other.call.number * plan.length)
                    fps += other.progress.fps
            left = max(0, (progress.frames or 0) - frame) / fps if fps and progress.frames else None
            progress = replace(progress, frame=frame, fps=fps, eta=left)
        self.tell(progress)

    def _opened(self, member: _Member, loaded: Loaded) -> None:
        member.loaded, self._barren = True, 0
        self._loaded = loaded
        for device in self.devices[len(self._members) :]:  # others have waited for the first
            self._start(device)

    def _refused(self, member: _Member, error: Exception) -> None:
        """Go on with the other workers where one cannot begin; its error is raised where there is none."""
        self._leave(member)
        if not self._members:
            raise error
        told = mark("one worker less: {error}")
        self.around.status.note(tr(told, error=error_text(error)))

    def _done(self, member: _Member, news: str, result: Any, leaves: bool) -> None:
        member.call, call = None, member.call
        assert call is not None
        failed = news == "failed"
        plan = result if isinstance(result, Prepared) else None
        counts = self._schedule.failed(member) if failed else self._schedule.done(member, plan)
        if counts is not None:
            self._take(call, result)
        if leaves:  # it holds too much memory
            self._leave(member)
            self._start(member.device)

    def _take(self, call: Call, result: Prepared | FinishedSegment | FileReport) -> None:
        file = self._files[call.index]
        if isinstance(result, FinishedSegment):
            file.parts[call.number] = result
        elif isinstance(result, FileReport):
            self._over(call, result)
        else:
            file.plan = result
            if result.report is not None:
                self._over(call, result.report)

    def _over(self, call: Call, report: FileReport) -> None:
        """Take a file's report; what several have done is told together."""
        file = self._files.pop(call.index)
        if call.kind == "finish" and file.plan is not None and report.status == "done":
            report.fallbacks = list(dict.fromkeys([*file.plan.notes, *report.fallbacks]))
            report.segments_kept = len(file.plan.finished)
            report.seconds = time.monotonic() - file.began
            report.fps = report.frames_out / report.seconds
        self.ended(call.index, report)

    def _lost(self, member: _Member) -> None:
        """Have another worker take the place of one that died."""
        self._leave(member)
        cause = member.killed_for or cause_of(member.process.wait())
        self.around.status.restarted(cause)
        given_up = self._schedule.died(member)
        if given_up is not None:
            self._give_up(given_up, cause)
        if not member.loaded:
            self._barren += 1
            if self._barren >= MOST_DEATHS:
                told = mark("{number} worker processes in a row died before they did anything: {cause}")
                raise WorkerError(
                    tr(told, number=self._barren, cause=cause),
                    where=str(self.around.job.folder),
                    remedy=tr("free memory, choose the preset stable, or fewer gpus"),
                )
        self._start(member.device)

    def _give_up(self, call: Call, cause: str) -> None:
        task, file = self.around.job.tasks[call.index], self._files[call.index]
        error = gave_up(task, MOST_DEATHS, cause)
        report = FileReport(target=str(task.target), status="failed", error=error_text(error))
        if file.key:
            try:
                self.journal.append(Failed(key=file.key, run=self.around.job.run, report=report))
            except OutputError as unnoted:
                report.fallbacks.append(tr("the failure could not be noted: {error}", error=unnoted))
        self._over(call, report)

    def _look_after(self) -> None:
        """Kill workers of whom nothing is heard; they are replaced as soon as they have gone."""
        for member in self._members:
            busy = member.call is not None or not member.loaded
            if busy and time.monotonic() - member.heard > self._longest_silence and not member.killed_for:
                limit = self._longest_silence
                told = mark("made no progress for {limit:.0f} seconds and was killed")
                member.killed_for = tr(told, limit=limit)
                member.process.kill()

    def _leave(self, member: _Member) -> None:
        self._members.remove(member)
        member.far.close()

    def _end(self) -> None:
        """Have all workers end: what they note meanwhile is still noted."""
        processes = [member.process for member in self._members]
        for member in list(self._members):
            member.process.terminate()
            if member.loaded and member.call is None:
                self._leave(member)
        until = time.monotonic() + _LAST_NEWS
        while self._members and time.monotonic() < until:
            for far in wait([member.far for member in self._members], _LOOK_EVERY):
                member = next(member for member in self._members if member.far is far)
                try:
                    kind, *news = member.far.recv()
                    if kind == "note":
                        self._note(member, *news)
                except (EOFError, OSError):
                    self._leave(member)
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(1.0)
            process.kill()
            process.wait()
        self._job_file.unlink(missing_ok=True)
