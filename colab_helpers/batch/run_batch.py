"""A batch from first to last file: one bad file never stops the others."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from colab_helpers.batch.drive import FACES_NAME, Patience, WorkPlaces
from colab_helpers.batch.earlier import EarlierWork, UnfinishedFile
from colab_helpers.batch.estimate import Estimate
from colab_helpers.batch.face_indexes import About, FaceIndexPlace, folder_name, remove_stale
from colab_helpers.batch.growth import Growth, weakened
from colab_helpers.batch.job import Job
from colab_helpers.batch.journal import Failed, FileDone, Journal, Started
from colab_helpers.batch.overwriting import Writable
from colab_helpers.batch.plan import Task, listed
from colab_helpers.batch.report import BatchReport, FileReport, ModelReport, summarize, swapped_people
from colab_helpers.batch.run_file import FileRun, error_text, new_report
from colab_helpers.batch.status import StatusWriter
from colab_helpers.batch.stop import Stop
from colab_helpers.batch.thumbnails import data_url
from colab_helpers.errors import ColabHelpersError, ContentError, MediaError, OutputError, WorkerError
from colab_helpers.faces.cast import Cast
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.photos import Identity
from colab_helpers.language import mark, tr
from colab_helpers.machine import this_machine
from colab_helpers.media.inputs import existing_file
from colab_helpers.models.session import Network
from colab_helpers.progress import Progress, ProgressCallback
from colab_helpers.resources.guard import MemoryGuard
from colab_helpers.trust.consent import consent_of
from colab_helpers.trust.records import Consent

MOST_DEATHS = 3
"""Workers that may die on a file before it is given up: the first, and two with less memory."""
_PICTURE_EDGE = 240


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What a batch is told to do, where it works, and whom it tells and listens to.

    Attributes:
        cause: What the worker before this one died of.
        on_progress: Called while a video runs.
    """

    job: Job
    places: WorkPlaces
    status: StatusWriter
    stop: Stop
    cause: str | None = None
    on_progress: ProgressCallback | None = None

    def beat(self) -> None:
        """Say that the work gets on; KeyboardInterrupt where somebody asks to stop."""
        self.status.tick()
        self.stop.check()

    def sleep(self, seconds: float) -> None:
        """Wait, but not when somebody asks to stop."""
        self.stop.sleep(seconds, self.status.tick)

    @cached_property
    def patience(self) -> Patience:
        """Waits for the output folder."""
        return Patience(self.job.request.settings.output_wait, tell=self._tell_pause, sleep=self.sleep)

    def begin(
        self,
        engine: Engine,
        task: Task,
        key: str,
        earlier: EarlierWork,
        journal: Journal,
        *,
        short: bool = False,
    ) -> tuple[Engine, list[str]]:
        """Note that work on a file begins; return the networks and notes on them.

        They are used with less memory where it is ``short`` or a worker died on the file; WorkerError where
        too many did.
        """
        deaths, notes = earlier.history.interruptions(key, earlier.run), list[str]()
        if deaths >= MOST_DEATHS:
            raise WorkerError(
                tr(
                    "the worker process died {deaths} times on this file, last: {cause}",
                    deaths=deaths,
                    cause=self.cause or tr("unknown"),
                ),
                where=str(task.target),
                remedy=tr("free memory, choose the preset stable, or leave this file out"),
            )
        try:
            journal.append(Started(key=key, run=earlier.run, target=str(task.target), pid=os.getpid()))
        except OutputError as error:
            notes.append(tr("a death of the worker on this file would go unnoticed: {error}", error=error))
        if deaths or short:
            reason = tr("a worker process died on this file") if deaths else tr("RAM is short")
            engine, note = weakened(engine, deaths or 1, reason=reason)
            notes.append(note)
        return engine, notes

    def tell(self, progress: Progress) -> None:
        """Say where a file stands; KeyboardInterrupt where somebody asks to stop."""
        self.status.progress(progress)
        if self.on_progress:
            self.on_progress(progress)
        self.beat()

    def _tell_pause(self, reason: str | None) -> None:
        self.status.pause(reason)
        self.stop.check()


@dataclass(eq=False)
class Batch:
    """Many targets, done in an ``order``; what is finished is noted in the ``journal``.

    ``cast`` says what is done to whom in a target, ``source`` who is on the photos of the run.
    """

    around: Surroundings
    engine: Engine
    source: Identity | None
    cast: Callable[[Task], Cast]
    writable: Writable
    journal: Journal
    earlier: EarlierWork
    order: Sequence[int]
    estimate: Estimate
    _growth: Growth = field(default_factory=Growth, init=False)

    def __post_init__(self) -> None:
        self.tasks, self.status = self.around.job.tasks, self.around.status
        self.guard = MemoryGuard(sleep=self.around.sleep)

    def run(self) -> BatchReport:
        """Do every task; a stop ends the current one cleanly and leaves the rest as skipped."""
        # Earlier workers of this run were at work, too; from here on a clock that jumps changes nothing.
        began = time.monotonic() - max(0.0, time.time() - self.status.status.started)
        files: dict[int, FileReport] = {}
        stopped = False
        try:
            for index in self.order:
                self.around.beat()
                files[index], worked = self._ended(index)
                self.status.file(index, files[index])
                if worked and len(files) < len(self.tasks):
                    self._growth.check(self.around.stop)
            remove_stale(self.around.job.folder / FACES_NAME)
        except KeyboardInterrupt:
            stopped = True
        photos = list(self.source.photos) if self.source else []
        reports = [files.get(n) or skipped(task, photos) for n, task in enumerate(self.tasks)]
        return self._report(reports, seconds=time.monotonic() - began, stopped=stopped)

    def _report(self, files: list[FileReport], *, seconds: float, stopped: bool) -> BatchReport:
        notes, status = list(self.engine.notes), self.status.status
        if damaged := self.earlier.history.damaged:
            notes.append(tr("{damaged} damaged line(s) of the journal were ignored", damaged=damaged))
        notes += [*status.remarks, *([self.status.problem] if self.status.problem else [])]
        return report_of(
            files,
            consent=consent_of(self.around.job.request.consent),
            settings=self.engine.settings.model_dump(mode="json"),
            seconds=seconds,
            networks=self.engine.loaded,
            notes=notes,
            run=self.earlier.run,
            stopped=stopped,
            memory_warnings=status.memory_warnings,
            restarts=status.restarts,
        )

    def _ended(self, index: int) -> tuple[FileReport, bool]:
        """Return the report of a task, done now unless an earlier run did; and whether there was any work."""
        task = self.tasks[index]
        report = new_report(task, self.source)
        try:
            if os.path.isdir(task.target):  # noqa: PTH112 - Path.is_dir raises where it may not be entered
                listed(task.target)  # says why there is nothing to take from it
            existing_file(task.target)
            work = self._unfinished(task)
            found = self.earlier.result(task)
            if found is not None:
                work.discard()  # an earlier run may have died between noting the result and this
                return found, False
            failed = self.earlier.history.failure(work.key, self.earlier.run, str(task.target))
            if failed is not None:
                return failed.report, False
            self._do(index, task, report, work)
        except Exception as error:  # noqa: BLE001 - one bad file must not stop the others
            report.error, report.status = error_text(error), "failed"
            self._note_failure(task, report)
        return report, report.memory_after > 0

    def _unfinished(self, task: Task) -> UnfinishedFile:
        key, mirror = self.earlier.key(task), self.around.places.mirror
        return UnfinishedFile(
            key=key,
            target=self.earlier.digests(task.target),
            place=self.around.places.local / key[:24],
            mirror=mirror / key[:24] if mirror else None,
            journal=self.journal,
            history=self.earlier.history,
            patience=self.around.patience,
            beat=self.around.beat,
            index=index_place(self.around, self.earlier, task),
        )

    def _do(self, index: int, task: Task, report: FileReport, work: UnfinishedFile) -> None:
        """Do a task, going on where an earlier attempt ended, and note that it is done."""
        engine, notes = self.around.begin(
            self.engine, task, work.key, self.earlier, self.journal, short=self.guard.short
        )
        report.fallbacks += notes
        warnings = self.guard.warnings
        run = FileRun(
            engine=engine,
            cast=self.cast(task),
            consent=consent_of(self.around.job.request.consent),
            task=task,
            report=report,
            writable=self.writable,
            index=index,
            count=len(self.tasks),
            unfinished=work,
            guard=self.guard,
            on_progress=self._on_progress,
            on_picture=lambda picture: self.status.picture(
                data_url(picture.detector_view(_PICTURE_EDGE).image)
            ),
            beat=self.around.beat,
        )
        try:
            digest = run.run()
        except BaseException as error:
            if isinstance(error, ContentError):
                work.discard()
            work.break_off()
            raise
        finally:
            self.status.status.memory_warnings += self.guard.warnings - warnings
        try:
            self.around.patience.attempt(lambda: self._note_done(work.key, report, digest))
        except OutputError as error:
            # Its segments stay: a later run need only join them again.
            report.fallbacks.append(tr("a later run will do this file again: {error}", error=error))
        else:
            work.discard()

    def _note_done(self, key: str, report: FileReport, digest: str | None) -> None:
        assert report.output is not None
        # A stop waits for it: a result that is there but not noted would be made again.
        digest = digest or self.earlier.digests(Path(report.output), on_chunk=self.status.tick)
        run, stated = self.earlier.run, self.earlier.stated
        self.journal.append(FileDone(key=key, run=run, sha256=digest, stated=stated, report=report))

    def _note_failure(self, task: Task, report: FileReport) -> None:
        try:
            key = self.earlier.key(task)
            self.journal.append(Failed(key=key, run=self.earlier.run, report=report))
        except MediaError:
            return  # what cannot be read has no key; a later look costs nothing
        except ColabHelpersError as error:
            report.fallbacks.append(tr("the failure could not be noted: {error}", error=error))

    def _on_progress(self, progress: Progress) -> None:
        self.around.tell(progress)
        self.estimate.look()


def index_place(around: Surroundings, earlier: EarlierWork, task: Task) -> FaceIndexPlace:
    """Where the face index of a target lies; MissingFileError, OSError where the target cannot be read."""
    key, places = earlier.index_key(task), around.places
    name, about = folder_name(key), About.of(task.target, earlier.digests(task.target))
    beside, near = around.job.folder / FACES_NAME / name, places.local / FACES_NAME / name
    if places.mirror:
        return FaceIndexPlace(key, about, near, beside)
    return FaceIndexPlace(key, about, beside, None)


def skipped(task: Task, sources: list[str], why: str = "") -> FileReport:
    """Return the report of a task that was not done: somebody stopped the batch, unless ``why`` tells it."""
    why = why or tr("stopped by the user")
    return FileReport(source=sources, target=str(task.target), status="skipped", error=why)


def report_of(
    files: Sequence[FileReport],
    *,
    consent: Consent,
    settings: Mapping[str, Any],
    seconds: float,
    networks: Iterable[Network] = (),
    notes: Sequence[str] = (),
    run: str = "",
    stopped: bool = False,
    memory_warnings: int = 0,
    restarts: int = 0,
) -> BatchReport:
    """Put together the report of a run on this machine."""
    foreign = consent.unnamed(swapped_people(files))
    if foreign:
        told = mark("the statement of consent does not name everybody who was changed or put in: {names}")
        notes = [*notes, tr(told, names=", ".join(foreign))]
    return BatchReport(
        run=run,
        stopped=stopped,
        consent=consent,
        settings=dict(settings),
        machine=asdict(this_machine()),
        models=[ModelReport(name=net.name, path=str(net.path), standin=net.standin) for net in networks],
        notes=list(notes),
        not_in_consent=foreign,
        summary=summarize(files, seconds=seconds, memory_warnings=memory_warnings, restarts=restarts),
        files=list(files),
    )
