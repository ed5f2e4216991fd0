"""What is done on one worker: a batch's files, whole or in parts, on networks that are loaded once.

Whoever schedules the calls has one or several workers; nothing of the networks ever leaves a worker. What is
to be noted in the journal goes to whoever writes it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from colab_helpers.addresses import address_of
from colab_helpers.batch.casting import sought_digests
from colab_helpers.batch.earlier import Digests, EarlierWork, UnfinishedFile, model_digest
from colab_helpers.batch.find_people import PeopleFinder
from colab_helpers.batch.journal import Failed, FileDone, Notes, read_journal
from colab_helpers.batch.members import Loaded
from colab_helpers.batch.outputs import deliver_result, goes_in_parts
from colab_helpers.batch.overwriting import Writable, identities
from colab_helpers.batch.photos import cast_of, identity_of, sought_of
from colab_helpers.batch.plan import Task, listed
from colab_helpers.batch.report import JOURNAL_NAME, FileReport, ModelReport
from colab_helpers.batch.run_file import FileRun, error_text, new_report
from colab_helpers.batch.schedule import Prepared
from colab_helpers.batch.store import Seen, enter, expected, fetch, hold, release
from colab_helpers.batch.surroundings import NONE, Deaths, Surroundings, index_place
from colab_helpers.batch.thumbnails import data_url
from colab_helpers.errors import ColabHelpersError, MediaError, OutputError
from colab_helpers.faces.cast import Cast
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.photos import Identity
from colab_helpers.files import state_of
from colab_helpers.language import tr
from colab_helpers.media.inputs import existing_file
from colab_helpers.pipeline.video import SegmentMaker
from colab_helpers.progress import ProgressCallback
from colab_helpers.resources.guard import MemoryGuard
from colab_helpers.resources.sampler import gpu_name
from colab_helpers.trust.consent import consent_of
from colab_helpers.trust.content import require_networks
from colab_helpers.trust.manifests import sidecar
from colab_helpers.trust.marking import check_marks

_PICTURE_EDGE = 240


@dataclass(eq=False)
class Hands:
    """A worker's networks and what it knows of the batch; see `open`.

    Attributes:
        source: Who is on the photos of the run; ``cast`` says what is done to whom in a target.
        journal: Where is noted what is finished.
        on_progress: Called while a video runs.
        worked: Whether there was any work on the last file.
    """

    around: Surroundings
    engine: Engine
    source: Identity | None
    cast: Callable[[Task], Cast]
    writable: Writable
    journal: Notes
    earlier: EarlierWork
    on_progress: ProgressCallback = field(init=False)
    worked: bool = field(default=False, init=False)
    _at: tuple[int, str, Deaths] | None = field(default=None, init=False)
    _maker: SegmentMaker | None = field(default=None, init=False)
    _brought: Path | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.tasks, self.on_progress = self.around.job.tasks, self.around.tell
        self.guard = MemoryGuard(sleep=self.around.sleep, on_warning=partial(self.around.status.warned, 1))

    @classmethod
    def open(
        cls,
        around: Surroundings,
        own: Writable,
        journal: Notes,
        announce: Callable[[Iterable[str], int], None],
    ) -> Hands:
        """Load networks and sources, and look at what there is to do.

        ``own`` knows what the run itself may write; ``announce`` is told what is to be said before any work,
        and how many times the room of its targets the batch may need.

        Raises:
            ColabHelpersError: Something is missing, or cannot be used.
            KeyboardInterrupt: Somebody asks to stop.
        """
        job = around.job
        around.patience.attempt(lambda: enter(job.folder, (), job.request.photo_paths))
        with around.stop.at_once():
            check_marks(job.request.settings)
            engine = Engine.open(job.request.settings, models_dir=job.request.models_dir)
            require_networks(engine)
            around.status.tick()
            source = identity_of(engine, job.sources) if job.sources or not job.request.mapped else None
            sought, told = sought_of(engine, job.request.target_person, job.request.never)
        digests = Digests(around.places.local / "digests.json", around.beat, around.patience)
        digests.learn(history := read_journal(job.folder / JOURNAL_NAME))
        earlier = EarlierWork(
            history,
            run=job.run,
            sources=[job.sources[n].digest for n in source.used] if source else [],
            sought=sought_digests(job.request),
            settings=engine.settings,
            models={net.name: model_digest(net.path, digests) for net in engine.networks},
            digests=digests,
            consent=job.request.consent,
        )
        inputs = own.inputs | identities(network.path for network in engine.loaded)
        writable = Writable(inputs, own.overwrite, made=earlier.made, set_aside=earlier.set_aside)
        announce([*(source.notes if source else ()), *told], 2 * engine.growth)
        usual = cast_of(source, sought, key=" ".join(sorted(earlier.sources)))
        cast = PeopleFinder(around, engine, earlier, journal, usual, source).casts()
        return cls(around, engine, source, cast, writable, journal, earlier)

    @property
    def loaded(self) -> Loaded:
        """What the report says of these hands."""
        damaged, models = self.earlier.history.damaged, self.engine.loaded
        ignored = tr("{damaged} damaged line(s) of the journal were ignored", damaged=damaged)
        return Loaded(
            settings=self.engine.settings.model_dump(mode="json"),
            models=tuple(ModelReport(name=n.name, path=str(n.path), standin=n.standin) for n in models),
            notes=(*self.engine.notes, *([ignored] if damaged else [])),
            photos=tuple(self.source.photos) if self.source else (),
            place="CPU" if self.engine.provider == "cpu" else gpu_name() or "GPU",
        )

    def prepare(self, index: int, *, deaths: Deaths = NONE) -> Prepared:
        """Find a file's faces, unless it goes whole; see `segment` for ``deaths``."""
        self.close()
        task, report = self.tasks[index], self._report(index)
        with self._told(index, report):
            self._bring(task)
            settings = self.engine.settings
            scattered = settings.keep_frames and self.around.job.request.cluster  # frames on several disks
            if os.path.isdir(task.target) or scattered or not goes_in_parts(task, settings):  # noqa: PTH112
                return Prepared()
            work = self._unfinished(task)
            if (known := self._known(task, work)) is not None:
                return Prepared(report=known)
            with work.leaving_no_more():
                video = self._run(index, report, work, deaths=deaths).prepared()
            if not video.is_divisible:
                return Prepared(notes=tuple(report.fallbacks))
            length, choice = video.video.length, video.video.choice
            notes = (*choice.notes, *report.fallbacks)
            return Prepared(video.segments or 0, length, choice.name, tuple(video.finished), notes)
        return Prepared(report=report)

    def segment(
        self, index: int, number: int, *, encoder: str, goes_on: bool = False, deaths: Deaths = NONE
    ) -> None:
        """Make any segment of a file that was prepared, here or elsewhere.

        Args:
            index: The file.
            number: The segment.
            encoder: As it was prepared.
            goes_on: Whether the next one is likely to be asked for next.
            deaths: How many workers have died on just this, and of what the last.

        Raises:
            ColabHelpersError: It cannot be made; see `failed`.
        """
        at = index, encoder, deaths
        if self._maker is None or self._at != at or self.guard.short:
            self.close()
            self._bring(self.tasks[index])
            work, report = self._unfinished(self.tasks[index]), self._report(index)
            run = self._run(index, report, work, number=number, deaths=deaths, encoder=encoder)
            self._at, self._maker = at, SegmentMaker(run.planned())
        try:
            self._maker.make(number, goes_on=goes_on)
        except BaseException:
            self.close()
            raise
        self.guard.check(wait=False)  # for workers that hold it: they would wait for each other

    def whole(self, index: int, *, encoder: str = "", deaths: Deaths | None = None) -> FileReport:
        """Do a file from end to end, unless an earlier run did, or what is left of one begun with an encoder.

        ``deaths`` is as for `segment`; None: as the journal tells.
        """
        self.close()
        if encoder or (deaths and deaths[0]):  # what other workers have noted since
            self.earlier.history = read_journal(self.around.job.folder / JOURNAL_NAME)
        report = self._report(index)
        try:
            with self._told(index, report):
                report = self._whole(index, report, encoder=encoder, deaths=deaths)
        finally:
            release(self.tasks[index].target)
        return report

    def _whole(self, index: int, report: FileReport, **given: Any) -> FileReport:
        task = self.tasks[index]
        if os.path.isdir(task.target):  # noqa: PTH112 - Path.is_dir raises where it may not be entered
            listed(task.target)  # says why there is nothing to take from it
        if not self.around.patience.attempt(lambda: expected(task.target)):
            existing_file(task.target)
        work = self._unfinished(task)
        if (known := self._known(task, work)) is None:
            self._bring(task)
            self._do(index, report, work, **given)
        return known or report

    def failed(self, index: int, error: Exception) -> FileReport:
        """Note that a file cannot be done; return its report."""
        self.close()
        report = self._report(index)
        with self._told(index, report):
            raise error
        return report

    def close(self) -> None:
        """End the stages of the video at work, if there is any."""
        if self._maker is not None:
            self._maker.close()
            self._maker = None

    def _report(self, index: int) -> FileReport:
        self.worked = False
        return new_report(self.tasks[index], self.source)

    @contextmanager
    def _told(self, index: int, report: FileReport) -> Iterator[None]:
        """Have an error end the work on a file, and no more."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - one bad file must not stop the others
            report.error, report.status = error_text(error), "failed"
            self._note_failure(self.tasks[index], report)
            release(self.tasks[index].target)

    def _bring(self, task: Task) -> None:
        """Have a target on this machine, and none before it; MissingFileError where there is none."""
        if self._brought not in (None, task.target):
            release(self._brought)
        self._brought = task.target
        self.around.patience.attempt(lambda: hold(task.target, self.around.beat))
        self.around.patience.attempt(lambda: fetch(sidecar(task.target) or task.target, self.around.beat))
        existing_file(task.target)

    def _known(self, task: Task, work: UnfinishedFile) -> FileReport | None:
        """Return what became of a file earlier, where that still counts."""
        if (found := self.earlier.result(task)) is not None:
            work.discard()  # an earlier run may have died between noting the result and this
            return found
        failed = self.earlier.history.failure(work.key, self.earlier.run, str(task.target))
        return failed.report if failed is not None else None

    def _unfinished(self, task: Task) -> UnfinishedFile:
        """What there is of the work on a target; MissingFileError, OSError where that cannot be read."""
        key, places = self.earlier.key(task), self.around.places
        return UnfinishedFile(
            key=key,
            target=self.earlier.digests(task.target),
            folder=places.local / key[:24],
            mirror=places.mirror / key[:24] if places.mirror else None,
            journal=self.journal,
            history=self.earlier.history,
            patience=self.around.patience,
            beat=self.around.beat,
            index=index_place(self.around, self.earlier, task),
        )

    def _run(
        self,
        index: int,
        report: FileReport,
        work: UnfinishedFile,
        *,
        number: int | None = None,
        encoder: str = "",
        deaths: Deaths | None = None,
    ) -> FileRun:
        """Note that work on a file, or a segment of it, begins."""
        task = self.tasks[index]
        given: dict[str, Any] = {"number": number, "deaths": deaths, "short": self.guard.short}
        engine, notes = self.around.begin(self.engine, task, work.key, self.earlier, self.journal, **given)
        report.fallbacks += notes
        if number is not None:  # its report is another worker's
            self.around.status.note(*(f"{task.target.name}: {note}" for note in notes))
        return FileRun(
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
            on_progress=self.on_progress,
            on_picture=lambda picture: self.around.status.picture(
                data_url(picture.detector_view(_PICTURE_EDGE).image)
            ),
            beat=self.around.beat,
            encoder=encoder,
        )

    def _do(self, index: int, report: FileReport, work: UnfinishedFile, **given: Any) -> None:
        """Do a task, and note that it is done."""
        run, self.worked = self._run(index, report, work, **given), True
        with work.leaving_no_more():
            digest = run.run()
        digests = deliver_result(report, run.new, self.around.patience, self.around.beat)
        digest = digests.get(Path(report.output or ""), digest)
        if address_of(run.task.target):
            digests[run.task.target] = work.target
        seen = {address_of(path) or "": (*(state_of(path) or (0, 0)), sha) for path, sha in digests.items()}
        try:
            self.around.patience.attempt(lambda: self._note_done(work.key, report, digest, seen))
        except OutputError as error:
            # Its segments stay: a later run need only join them again.
            report.fallbacks.append(tr("a later run will do this file again: {error}", error=error))
        else:
            work.discard()

    def _note_done(self, key: str, report: FileReport, digest: str | None, seen: Seen) -> None:
        assert report.output is not None
        # A stop waits for it: a result that is there but not noted would be made again.
        digest = digest or self.earlier.digests(Path(report.output), on_chunk=self.around.status.tick)
        entry = {"key": key, "run": self.earlier.run, "stated": self.earlier.stated}
        self.journal.append(FileDone(**entry, sha256=digest, seen=seen, report=report))

    def _note_failure(self, task: Task, report: FileReport) -> None:
        try:
            self.journal.append(Failed(key=self.earlier.key(task), run=self.earlier.run, report=report))
        except MediaError:
            return  # what cannot be read has no key; a later look costs nothing
        except ColabHelpersError as error:
            report.fallbacks.append(tr("the failure could not be noted: {error}", error=error))
