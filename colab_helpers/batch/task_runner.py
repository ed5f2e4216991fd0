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
from colab_helpers.batch.batch_assignment import person_filter_digests
from colab_helpers.batch.context import NO_DEATHS, Deaths, WorkerContext, face_index_location
from colab_helpers.batch.find_people import PeopleFinder
from colab_helpers.batch.journal import FileDone, FileFailed, JournalWriter, read_journal
from colab_helpers.batch.object_store import ObjectStates, fetch, needs_download, pin, sync_inputs, unpin
from colab_helpers.batch.outputs import deliver_result, may_have_segments
from colab_helpers.batch.photos import identity_of, load_person_filter, request_assignment
from colab_helpers.batch.plan import Task, listed
from colab_helpers.batch.report import JOURNAL_NAME, FileReport, ModelReport
from colab_helpers.batch.resume import DigestCache, EarlierWork, JournaledSegmentStore, model_digest
from colab_helpers.batch.run_file import FileRun, error_text, new_report
from colab_helpers.batch.scheduler import FilePlan
from colab_helpers.batch.thumbnails import data_url
from colab_helpers.batch.worker_handles import WorkerInfo
from colab_helpers.batch.write_policy import WritePolicy, file_identities
from colab_helpers.errors import ColabHelpersError, MediaError, OutputError
from colab_helpers.faces.assignment import Assignment
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.photos import Identity
from colab_helpers.files import size_and_mtime
from colab_helpers.language import tr
from colab_helpers.media.inputs import require_file
from colab_helpers.pipeline.video import SegmentMaker
from colab_helpers.progress import ProgressCallback
from colab_helpers.resources.guard import MemoryGuard
from colab_helpers.resources.sampler import gpu_name
from colab_helpers.trust.consent import parse_consent
from colab_helpers.trust.content import require_networks
from colab_helpers.trust.manifests import sidecar
from colab_helpers.trust.marking import check_marking

_PICTURE_EDGE = 240


@dataclass(eq=False)
class TaskRunner:
    """A worker's networks and what it knows of the batch; see `open`.

    Attributes:
        source: Who is on the photos of the run; ``assignment`` says what is done to whom in a target.
        journal: Where is noted what is finished.
        on_progress: Called while a video runs.
        did_work: Whether there was any work on the last file.
    """

    context: WorkerContext
    engine: Engine
    source: Identity | None
    assignment: Callable[[Task], Assignment]
    write_policy: WritePolicy
    journal: JournalWriter
    earlier: EarlierWork
    on_progress: ProgressCallback = field(init=False)
    did_work: bool = field(default=False, init=False)
    _segment_key: tuple[int, str, Deaths] | None = field(default=None, init=False)
    _maker: SegmentMaker | None = field(default=None, init=False)
    _brought: Path | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.tasks, self.on_progress = self.context.job.tasks, self.context.tell
        self.guard = MemoryGuard(sleep=self.context.sleep, on_warning=partial(self.context.status.warned, 1))

    @classmethod
    def open(
        cls,
        context: WorkerContext,
        base_policy: WritePolicy,
        journal: JournalWriter,
        announce: Callable[[Iterable[str], int], None],
    ) -> TaskRunner:
        """Load networks and sources, and look at what there is to do.

        ``base_policy`` knows what the run itself may write; ``announce`` is told what is to be said before
        any work, and how many times the room of its targets the batch may need.

        Raises:
            ColabHelpersError: Something is missing, or cannot be used.
            KeyboardInterrupt: Somebody asks to stop.
        """
        job = context.job
        context.retry.attempt(lambda: sync_inputs(job.folder, (), job.request.photo_paths))
        with context.stop.interruptible():
            check_marking(job.request.settings)
            engine = Engine.open(job.request.settings, models_dir=job.request.models_dir)
            require_networks(engine)
            context.status.tick()
            source = identity_of(engine, job.sources) if job.sources or not job.request.mapped else None
            person_filter, told = load_person_filter(engine, job.request.target_person, job.request.never)
        digests = DigestCache(context.work_dirs.local / "digests.json", context.heartbeat, context.retry)
        digests.learn(history := read_journal(job.folder / JOURNAL_NAME))
        earlier = EarlierWork(
            history,
            run=job.run,
            sources=[job.sources[n].digest for n in source.used] if source else [],
            person_filter=person_filter_digests(job.request),
            settings=engine.settings,
            models={net.name: model_digest(net.path, digests) for net in engine.networks},
            digests=digests,
            consent=job.request.consent,
        )
        inputs = base_policy.inputs | file_identities(network.path for network in engine.loaded)
        write_policy = WritePolicy(
            inputs, base_policy.overwrite, made=earlier.made, set_aside=earlier.set_aside
        )
        announce([*(source.notes if source else ()), *told], 2 * engine.growth)
        usual = request_assignment(source, person_filter, key=" ".join(sorted(earlier.sources)))
        assignment = PeopleFinder(context, engine, earlier, journal, usual, source).assignment_lookup()
        return cls(context, engine, source, assignment, write_policy, journal, earlier)

    @property
    def loaded(self) -> WorkerInfo:
        """What the report says of these hands."""
        damaged, models = self.earlier.history.damaged, self.engine.loaded
        ignored = tr("{damaged} damaged line(s) of the journal were ignored", damaged=damaged)
        return WorkerInfo(
            settings=self.engine.settings.model_dump(mode="json"),
            models=tuple(ModelReport(name=n.name, path=str(n.path), standin=n.standin) for n in models),
            notes=(*self.engine.notes, *([ignored] if damaged else [])),
            photos=tuple(self.source.photos) if self.source else (),
            place="CPU" if self.engine.provider == "cpu" else gpu_name() or "GPU",
        )

    def prepare(self, index: int, *, deaths: Deaths = NO_DEATHS) -> FilePlan:
        """Find a file's faces, unless it goes whole; see `segment` for ``deaths``."""
        self.close()
        task, report = self.tasks[index], self._report(index)
        with self._told(index, report):
            self._bring(task)
            settings = self.engine.settings
            scattered = settings.keep_frames and self.context.job.request.cluster  # frames on several disks
            if os.path.isdir(task.target) or scattered or not may_have_segments(task, settings):  # noqa: PTH112
                return FilePlan()
            work = self._unfinished(task)
            if (known := self._known(task, work)) is not None:
                return FilePlan(report=known)
            with work.cleanup_on_failure():
                video = self._run(index, report, work, deaths=deaths).prepare_video()
            if not video.is_divisible:
                return FilePlan(notes=tuple(report.fallbacks))
            length, choice = video.video.segment_length, video.video.choice
            notes = (*choice.notes, *report.fallbacks)
            return FilePlan(video.segments or 0, length, choice.name, tuple(video.finished), notes)
        return FilePlan(report=report)

    def segment(
        self,
        index: int,
        number: int,
        *,
        encoder: str,
        has_successor: bool = False,
        deaths: Deaths = NO_DEATHS,
    ) -> None:
        """Make any segment of a file that was prepared, here or elsewhere.

        Args:
            index: The file.
            number: The segment.
            encoder: As it was prepared.
            has_successor: Whether the next one is likely to be asked for next.
            deaths: How many workers have died on just this, and of what the last.

        Raises:
            ColabHelpersError: It cannot be made; see `failed`.
        """
        at = index, encoder, deaths
        if self._maker is None or self._segment_key != at or self.guard.short:
            self.close()
            self._bring(self.tasks[index])
            work, report = self._unfinished(self.tasks[index]), self._report(index)
            run = self._run(index, report, work, number=number, deaths=deaths, encoder=encoder)
            self._segment_key, self._maker = at, SegmentMaker(run.video_plan())
        try:
            self._maker.make(number, has_successor=has_successor)
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
            self.earlier.history = read_journal(self.context.job.folder / JOURNAL_NAME)
        report = self._report(index)
        try:
            with self._told(index, report):
                report = self._whole(index, report, encoder=encoder, deaths=deaths)
        finally:
            unpin(self.tasks[index].target)
        return report

    def _whole(self, index: int, report: FileReport, **given: Any) -> FileReport:
        task = self.tasks[index]
        if os.path.isdir(task.target):  # noqa: PTH112 - Path.is_dir raises where it may not be entered
            listed(task.target)  # says why there is nothing to take from it
        if not self.context.retry.attempt(lambda: needs_download(task.target)):
            require_file(task.target)
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
        self.did_work = False
        return new_report(self.tasks[index], self.source)

    @contextmanager
    def _told(self, index: int, report: FileReport) -> Iterator[None]:
        """Have an error end the work on a file, and no more."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - one bad file must not stop the others
            report.error, report.status = error_text(error), "failed"
            self._note_failure(self.tasks[index], report)
            unpin(self.tasks[index].target)

    def _bring(self, task: Task) -> None:
        """Have a target on this machine, and none before it; MissingFileError where there is none."""
        if self._brought not in (None, task.target):
            unpin(self._brought)
        self._brought = task.target
        self.context.retry.attempt(lambda: pin(task.target, self.context.heartbeat))
        self.context.retry.attempt(lambda: fetch(sidecar(task.target) or task.target, self.context.heartbeat))
        require_file(task.target)

    def _known(self, task: Task, work: JournaledSegmentStore) -> FileReport | None:
        """Return what became of a file earlier, where that still counts."""
        if (found := self.earlier.result(task)) is not None:
            work.discard()  # an earlier run may have died between noting the result and this
            return found
        failed = self.earlier.history.failure(work.key, self.earlier.run, str(task.target))
        return failed.report if failed is not None else None

    def _unfinished(self, task: Task) -> JournaledSegmentStore:
        """What there is of the work on a target; MissingFileError, OSError where that cannot be read."""
        key, work_dirs = self.earlier.key(task), self.context.work_dirs
        return JournaledSegmentStore(
            key=key,
            target=self.earlier.digests(task.target),
            folder=work_dirs.local / key[:24],
            mirror=work_dirs.mirror / key[:24] if work_dirs.mirror else None,
            journal=self.journal,
            history=self.earlier.history,
            retry=self.context.retry,
            heartbeat=self.context.heartbeat,
            index=face_index_location(self.context, self.earlier, task),
        )

    def _run(
        self,
        index: int,
        report: FileReport,
        work: JournaledSegmentStore,
        *,
        number: int | None = None,
        encoder: str = "",
        deaths: Deaths | None = None,
    ) -> FileRun:
        """Note that work on a file, or a segment of it, begins."""
        task = self.tasks[index]
        given: dict[str, Any] = {"number": number, "deaths": deaths, "short": self.guard.short}
        engine, notes = self.context.begin(self.engine, task, work.key, self.earlier, self.journal, **given)
        report.fallbacks += notes
        if number is not None:  # its report is another worker's
            self.context.status.note(*(f"{task.target.name}: {note}" for note in notes))
        return FileRun(
            engine=engine,
            assignment=self.assignment(task),
            consent=parse_consent(self.context.job.request.consent),
            task=task,
            report=report,
            write_policy=self.write_policy,
            index=index,
            count=len(self.tasks),
            unfinished=work,
            guard=self.guard,
            on_progress=self.on_progress,
            on_picture=lambda picture: self.context.status.picture(
                data_url(picture.detector_view(_PICTURE_EDGE).image)
            ),
            heartbeat=self.context.heartbeat,
            encoder=encoder,
        )

    def _do(self, index: int, report: FileReport, work: JournaledSegmentStore, **given: Any) -> None:
        """Do a task, and note that it is done."""
        run, self.did_work = self._run(index, report, work, **given), True
        with work.cleanup_on_failure():
            digest = run.run()
        digests = deliver_result(report, run.new, self.context.retry, self.context.heartbeat)
        digest = digests.get(Path(report.output or ""), digest)
        if address_of(run.task.target):
            digests[run.task.target] = work.target
        seen = {
            address_of(path) or "": (*(size_and_mtime(path) or (0, 0)), sha) for path, sha in digests.items()
        }
        try:
            self.context.retry.attempt(lambda: self._note_done(work.key, report, digest, seen))
        except OutputError as error:
            # Its segments stay: a later run need only join them again.
            report.fallbacks.append(tr("a later run will do this file again: {error}", error=error))
        else:
            work.discard()

    def _note_done(self, key: str, report: FileReport, digest: str | None, seen: ObjectStates) -> None:
        assert report.output is not None
        # A stop waits for it: a result that is there but not noted would be made again.
        digest = digest or self.earlier.digests(Path(report.output), on_chunk=self.context.status.tick)
        entry = {"key": key, "run": self.earlier.run, "stated": self.earlier.stated}
        self.journal.append(FileDone(**entry, sha256=digest, seen=seen, report=report))

    def _note_failure(self, task: Task, report: FileReport) -> None:
        try:
            self.journal.append(FileFailed(key=self.earlier.key(task), run=self.earlier.run, report=report))
        except MediaError:
            return  # what cannot be read has no key; a later look costs nothing
        except ColabHelpersError as error:
            report.fallbacks.append(tr("the failure could not be noted: {error}", error=error))
