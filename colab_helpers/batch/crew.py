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

from colab_helpers.batch.journal import Entry, FileDone, Journal, SegmentDone, Started, read_journal
from colab_helpers.batch.members import Loaded, Member, OpenFile
from colab_helpers.batch.processes import WorkerProcess, cause_of, given_up
from colab_helpers.batch.report import JOURNAL_NAME, FileReport
from colab_helpers.batch.run_batch import Batch
from colab_helpers.batch.run_file import error_text
from colab_helpers.batch.schedule import Call, Prepared, Schedule
from colab_helpers.batch.stop import LONGEST_STOP
from colab_helpers.batch.surroundings import MOST_DEATHS, NONE, Deaths
from colab_helpers.errors import OutputError, ProviderError, UsageError
from colab_helpers.files import state_of
from colab_helpers.language import mark, tr
from colab_helpers.machine import SHARED_BY, visible_gpus
from colab_helpers.media.inputs import is_image
from colab_helpers.progress import Progress
from colab_helpers.settings import Settings

_LOOK_EVERY = 0.5
# Less than a process is waited for that has been asked to stop.
_LAST_NEWS = LONGEST_STOP - 15.0


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
class Crew(Batch):
    """A batch done by several workers.

    Attributes:
        journal: Written here alone.
        devices: What each worker sees.
        announce: Called with what is to be said before any work.
    """

    journal: Journal
    devices: Sequence[str]
    announce: Callable[[Iterable[str], int], None]
    _members: list[Member] = field(default_factory=list, init=False)
    # Those of a crew that ended before this one are not heard for these.
    _numbers: Iterator[int] = field(default_factory=lambda: count(time.time_ns()), init=False)
    _news: SimpleQueue[tuple[int, tuple[Any, ...]]] = field(default_factory=SimpleQueue, init=False)
    _unfit: Counter[str] = field(default_factory=Counter, init=False)
    _files: dict[int, OpenFile] = field(default_factory=dict, init=False)
    _main: int = field(default=-1, init=False)  # the file that is shown
    _cause: str = field(default="", init=False)
    _barren: Counter[str] = field(default_factory=Counter, init=False)
    _ending: bool = field(default=False, init=False)
    _shown: float = field(default=float("-inf"), init=False)

    def __post_init__(self) -> None:
        request = self.around.job.request
        # Whether one worker has to have looked at all files before others begin.
        self._first_alone = request.mapped or request.people != "auto"
        history, run = read_journal(self.around.job.folder / JOURNAL_NAME), self.around.job.run
        begun = {entry.target: entry.key for entry in history.entries if isinstance(entry, Started)}
        # On what the crews before this one ended, if this run had any.
        self._before = {target: history.interruptions(key, run) for target, key in begun.items()}
        states = {n: state_of(task.target) for n, task in enumerate(self.around.job.tasks)}
        sizes = {n: state[0] for n, state in states.items() if state}
        # Copies of a picture share nothing, and many pictures have one size.
        sizes |= {n: 0 for n, task in enumerate(self.around.job.tasks) if is_image(task.target)}
        self._schedule = Schedule(self.order, sizes=sizes)

    @cached_property
    def _job_file(self) -> Path:
        path = self.around.places.local / "crew.json"
        self.around.job.save(path)
        return path

    @cached_property
    def _longest_silence(self) -> float:
        settings = self.around.job.request.settings
        return float(settings.stall_timeout) + float(settings.gpu_memory_wait)

    def hear(self, number: int, news: tuple[Any, ...]) -> None:
        """Take news of a worker, from any thread."""
        self._news.put((number, news))

    def _do_all(self) -> None:
        try:
            while not self._schedule.over:
                self._look_after()
                self._hand_out()
                self._take_news()
                self.around.stop.check()
        finally:
            self._end()

    def _room(self) -> Mapping[str, int]:
        """Return how many workers each device has room for."""
        return Counter(self.devices)

    def _recruit(self) -> None:
        """Start who is missing, but nobody in place of one that could not begin."""
        at_work = Counter(member.device for member in self._members)
        for device, room in self._room().items():
            for _ in range(room - at_work[device] - self._unfit[device]):
                if self._first_alone and self._members and not any(member.loaded for member in self._members):
                    return  # others wait until it has looked at all files
                self._members.append(self._hired(next(self._numbers), device))

    def _hired(self, number: int, device: str) -> Member:
        """Start a worker; what it says is heard."""
        given = {"CUDA_VISIBLE_DEVICES": device, SHARED_BY: str(len(self.devices))}
        far = WorkerProcess(self._job_file, partial(self.hear, number), given)
        return Member(number, far, device, socket.gethostname())

    def _hand_out(self) -> None:
        among = max(len(self.devices) - self._unfit.total(), len(self._members))
        for member in self._members:
            ready = member.loaded and member.call is None
            if ready and (call := self._schedule.next(member, among=among)) is not None:
                file = self._files.setdefault(call.index, OpenFile())
                given: dict[str, Any] = {"index": call.index, "deaths": self._deaths(call)}
                if call.kind in ("segment", "finish"):
                    given["encoder"] = file.plan.encoder
                if call.kind == "segment":
                    given |= {"number": call.number, "goes_on": self._schedule.goes_on(call)}
                member.takes(call)
                member.far.send(("whole" if call.kind == "finish" else call.kind, given))

    def _deaths(self, call: Call) -> Deaths:
        target = str(self.around.job.tasks[call.index].target)
        before = self._before.get(target, 0) if call.kind in ("prepare", "whole") else 0
        times = self._schedule.deaths(call) + before
        return (times, self._cause or self.around.cause or "") if times else NONE

    def _take_news(self) -> None:
        with suppress(Empty):
            for _ in range(max(1, self._news.qsize())):
                number, (kind, *news) = self._news.get(timeout=_LOOK_EVERY)
                for member in [each for each in self._members if each.number == number]:
                    member.heard = time.monotonic()
                    # What each does is said by who sends it: `member`.
                    takes: Callable[..., None] = getattr(self, f"_{kind}")
                    takes(member, *news)

    def _note(self, member: Member, entry: Entry) -> None:
        """Write an entry into the journal, and tell the worker how that went."""
        error, result = None, entry.report if isinstance(entry, FileDone) else None
        if result and member.call:
            self._together(member.call, result)
        try:
            self.journal.append(entry, member.name)
        except OutputError as failed:
            error = failed
        if result and member.call:
            self._files[member.call.index].made_by = result.made_by
        if isinstance(entry, SegmentDone) and member.call:
            self._schedule.progressed(member)
            self._before.pop(str(self.around.job.tasks[member.call.index].target), None)
            if error is None and (file := self._file(member.call)):
                file.frames[entry.part.segment.number] = entry.part.segment.frames
        member.far.send(error)

    def _announce(self, _member: Member, notes: Iterable[str], times: int) -> None:
        self.announce(notes, times)

    def _tell(self, member: Member, name: str, given: tuple[Any, ...]) -> None:
        if name == "progress":
            self._progress(member, *given)
        elif name == "pause":
            (member.pause,) = given
            self.around.status.tick()
        elif name == "file" and (given[0] in self.files or given[0] in self._files):
            self.around.beat()  # whoever comes later looks at all files once more
        elif name != "picture" or (member.call and member.call.index == self._main):
            getattr(self.around.status, name)(*given)

    def _progress(self, member: Member, progress: Progress) -> None:
        """Show how a file gets on, and one above all, as long as that is in work."""
        member.progress, file, index = progress, self._file(member.call), progress.file_index
        together = file.together(progress, self._members) if file else progress
        # It is over, by an error in another's segment; or one who begins looks at it once more.
        if index in self.files or (self._files and not member.call):
            self.around.beat()
            return
        if self._main not in self._files:
            self._main = index
        if index == self._main:
            self.tell(together)
        else:
            self.around.status.progress(together, first=False)
            self.around.beat()

    def _file(self, call: Call | None) -> OpenFile | None:
        """Return the file of whose segments one is made; None where it is over, as by an error in another."""
        return self._files.get(call.index) if call is not None and call.kind == "segment" else None

    def _opened(self, member: Member, loaded: Loaded) -> None:
        if self.loaded.encoder not in ("", loaded.encoder):  # parts of one video would not join
            told = mark("the encoder there is {encoder}, that of the others {other}")
            said = tr(told, encoder=loaded.encoder or tr("none"), other=self.loaded.encoder)
            self._refused(member, UsageError(said, remedy=tr("choose the encoder libx264")))
            return
        member.loaded, self.loaded, self._barren[member.device] = True, loaded, 0
        taken, plain = {each.name for each in self._members}, f"{member.name} {loaded.place}"
        numbered = (f"{plain} ({number})" for number in range(2, len(taken) + 2))
        member.name = next(name for name in (plain, *numbered) if name not in taken)

    def _refused(self, member: Member, error: Exception) -> None:
        """Go on with the other workers where one cannot begin; its error is raised where there is none."""
        self._leave(member)
        self._one_less(member, error)

    def _one_less(self, member: Member, error: Exception) -> None:
        self._unfit[member.device] += 1
        # Of what is asked for, as of a photo without a face, anybody would say the same.
        asked = getattr(error, "refusal", False) and not isinstance(error, ProviderError)
        hopeless = (asked and self.loaded == Loaded()) or not Counter(self._room()) - self._unfit
        if hopeless and not (self._members or self._ending):
            raise error
        self.around.status.note(tr("one worker less: {error}", error=error_text(error)))

    def _failed(self, member: Member, report: FileReport, leaves: bool) -> None:
        self._landed(member, self._schedule.failed(member), report, leaves)

    def _done(self, member: Member, result: Prepared | FileReport | None, leaves: bool) -> None:
        plan = result if isinstance(result, Prepared) else None
        self._landed(member, self._schedule.done(member, plan), result, leaves)

    def _landed(
        self, member: Member, call: Call | None, result: Prepared | FileReport | None, leaves: bool
    ) -> None:
        member.takes(None)
        if call is not None:
            if isinstance(result, Prepared):
                self._files[call.index].plan, result = result, result.report
            if result is not None:
                self._together(call, result)
                del self._files[call.index]
                self.ended(call.index, result)
        if leaves:
            self._leave(member)

    def _together(self, call: Call, report: FileReport) -> None:
        """Tell of a file what several have done."""
        file = self._files[call.index]
        report.made_by = report.made_by or file.made_by
        report.fallbacks = list(dict.fromkeys([*file.plan.notes, *report.fallbacks]))
        if call.kind == "finish":
            report.segments_kept, report.seconds = len(file.plan.finished), time.monotonic() - file.began
            report.fps = report.frames_out / report.seconds

    def _lost(self, member: Member, code: int) -> None:
        """Have another worker take the place of one that died."""
        self._leave(member)
        if self._ending:
            return
        self._cause = member.killed_for or cause_of(code)
        self.around.status.restarted(self._cause)
        call, file = member.call, self._file(member.call)
        if call is not None and file is not None and call.number in file.frames:
            self._schedule.done(member)  # it is noted, and only the answer was lost
        else:
            self._schedule.died(member)
        self._barren[member.device] += not member.loaded
        if self._barren[member.device] >= MOST_DEATHS:  # others may do
            self._barren[member.device] = 0
            self._one_less(member, given_up(self.around.job.folder, MOST_DEATHS, self._cause))

    def _show(self) -> None:
        """Tell who does what."""
        self._shown, tasks = time.monotonic(), self.around.job.tasks
        self.around.status.workers(
            [each.told(tasks[each.call.index].target.name if each.call else "") for each in self._members]
        )

    def _look_after(self) -> None:
        """Kill workers of whom nothing is heard; they are replaced as soon as they have gone."""
        if time.monotonic() - self._shown >= _LOOK_EVERY:
            self._show()
        for member in self._members:
            busy, limit = member.call is not None or not member.loaded, self._longest_silence
            if busy and time.monotonic() - member.heard > limit and not member.killed_for:
                told = mark("made no progress for {limit:.0f} seconds and was killed")
                member.killed_for = tr(told, limit=limit)
                member.far.kill()
        self._recruit()

    def _leave(self, member: Member) -> None:
        """Have a worker go, as one that holds too much memory asks for; another one takes its place."""
        self._members.remove(member)
        member.far.kill()

    def _end(self) -> None:
        """Have all workers end; what they note, and finish, meanwhile counts."""
        self._ending, until = True, time.monotonic() + _LAST_NEWS
        for member in [*self._members]:
            if member.heard == math.inf:  # it has not begun
                self._leave(member)
            else:
                member.far.terminate()
        while self._members and time.monotonic() < until:
            with suppress(KeyboardInterrupt):  # it is known
                self._take_news()
        for member in [*self._members]:
            self._leave(member)
        self._job_file.unlink(missing_ok=True)
