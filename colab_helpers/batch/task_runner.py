"""Run tasks on one worker: whole files or segments of a batch, with networks that are loaded once.

The caller schedules the calls, in this process or in the worker pool's. Networks never leave the worker;
journal entries are handed to the writer of the journal.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from colab_helpers.addresses import address_of
from colab_helpers.batch.batch_assignment import person_filter_digests
from colab_helpers.batch.context import NO_DEATHS, Announce, Deaths, WorkerContext, face_index_location
from colab_helpers.batch.find_people import PeopleFinder
from colab_helpers.batch.journal import FileDone, FileFailed, JournalWriter
from colab_helpers.batch.object_store import ObjectStates, fetch, needs_download, pin, sync_inputs, unpin
from colab_helpers.batch.outputs import deliver_result, may_have_segments
from colab_helpers.batch.photos import identity_of, load_person_filter, request_assignment
from colab_helpers.batch.plan import Task, list_targets
from colab_helpers.batch.report import FileReport, ModelReport
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
from colab_helpers.language import mark, tr
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
    """A worker's networks and its view of the batch; create with `open`.

    Attributes:
        source: The identity in the run's photos; None if people are mapped to sources instead.
        assignment: Returns what is done to whom in a target.
        journal: Takes entries for finished work.
        on_progress: Called while a video is processed.
        did_work: Whether the last file needed any work.
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
    _pinned: Path | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.tasks, self.on_progress = self.context.job.tasks, self.context.report_progress
        self.guard = MemoryGuard(
            sleep=self.context.sleep, on_warning=partial(self.context.status.count_memory_warnings, 1)
        )

    @classmethod
    def open(
        cls, context: WorkerContext, base_policy: WritePolicy, journal: JournalWriter, announce: Announce
    ) -> TaskRunner:
        """Load networks and sources, and find out which work is left.

        ``base_policy``: where the run itself may write; ``announce`` is called before any work.

        Raises:
            ColabHelpersError: A model, source or folder is missing or unusable.
            KeyboardInterrupt: A stop was requested.
        """
        job = context.job
        context.retry.attempt(lambda: sync_inputs(job.folder, (), job.request.photo_paths))
        with context.stop.interruptible():
            check_marking(job.request.settings)
            engine = Engine.open(job.request.settings, models_dir=job.request.models_dir)
            require_networks(engine)
            context.status.tick()
            source = identity_of(engine, job.sources) if job.sources or not job.request.mapped else None
            person_filter, notes = load_person_filter(engine, job.request.target_person, job.request.never)
        digests = DigestCache(context.work_dirs.local / "digests.json", context.heartbeat, context.retry)
        digests.learn(history := context.read_journal())
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
        write_policy = WritePolicy(inputs, base_policy.overwrite, earlier.made, earlier.set_aside)
        announce([*(source.notes if source else ()), *notes], 2 * engine.growth)
        default = request_assignment(source, person_filter, key=" ".join(sorted(earlier.sources)))
        assignment = PeopleFinder(context, engine, earlier, journal, default, source).assignment_lookup()
        return cls(context, engine, source, assignment, write_policy, journal, earlier)

    @property
    def loaded(self) -> WorkerInfo:
        """What the report says of this worker."""
        damaged, models = self.earlier.history.damaged, self.engine.loaded
        ignored = tr("{damaged} damaged line(s) of the journal were ignored", damaged=damaged)
        return WorkerInfo(
            settings=self.engine.settings.model_dump(mode="json"),
            models=tuple(ModelReport(name=n.name, path=str(n.path), standin=n.standin) for n in models),
            notes=(*self.engine.notes, *([ignored] if damaged else [])),
            photos=tuple(self.source.photos) if self.source else (),
            device_name="CPU" if self.engine.provider == "cpu" else gpu_name() or "GPU",
        )

    def prepare(self, index: int, *, deaths: Deaths = NO_DEATHS) -> FilePlan:
        """Find a file's faces and plan its segments; ``deaths`` as for `make_segment`.

        A plan with neither segments nor a report means that the file is processed as a whole.
        """
        self.close()
        task, report = self.tasks[index], self._new_report(index)
        with self._reporting_failure(index, report):
            self._pin(task)
            settings = self.engine.settings
            scattered = settings.keep_frames and self.context.job.request.cluster  # frames on several disks
            if os.path.isdir(task.target) or scattered or not may_have_segments(task, settings):  # noqa: PTH112
                return FilePlan()
            work = self._segment_store(task)
            if (known := self._earlier_report(task, work)) is not None:
                return FilePlan(report=known)
            with work.cleanup_on_failure():
                video = self._run(index, report, work, deaths=deaths).prepare_video()
            if not video.is_divisible:
                return FilePlan(notes=tuple(report.fallbacks))
            length, choice = video.video.segment_length, video.video.choice
            notes = (*choice.notes, *report.fallbacks)
            return FilePlan(video.segments or 0, length, choice.name, tuple(video.finished), notes)
        return FilePlan(report=report)

    def make_segment(
        self,
        index: int,
        number: int,
        *,
        encoder: str,
        has_successor: bool = False,
        deaths: Deaths = NO_DEATHS,
    ) -> None:
        """Make one segment of a file that was prepared by this or another worker.

        ``encoder`` is that of the file's plan; ``has_successor``: whether the following segment is likely to
        be this worker's next call; ``deaths``: how many workers have died on this segment, and the last
        cause. If it raises ColabHelpersError, call `failed`.
        """
        key = index, encoder, deaths
        if self._maker is None or self._segment_key != key or self.guard.short:
            self.close()
            self._pin(self.tasks[index])
            work, report = self._segment_store(self.tasks[index]), self._new_report(index)
            run = self._run(index, report, work, number=number, deaths=deaths, encoder=encoder)
            self._segment_key, self._maker = key, SegmentMaker(run.video_plan())
        try:
            self._maker.make(number, has_successor=has_successor)
        except BaseException:
            self.close()
            raise
        self.guard.check(wait=False)  # workers that waited for memory would wait for each other

    def process_file(self, index: int, *, encoder: str = "", deaths: Deaths | None = None) -> FileReport:
        """Process a file, or the rest of one that was begun with ``encoder``; reuse an earlier result.

        ``deaths`` as for `make_segment`; None reads them from the journal.
        """
        self.close()
        if encoder or (deaths and deaths[0]):  # other workers have added to the journal
            self.earlier.history = self.context.read_journal()
        report, task = self._new_report(index), self.tasks[index]
        try:
            with self._reporting_failure(index, report):
                if os.path.isdir(task.target):  # noqa: PTH112 - Path.is_dir raises without permission
                    list_targets(task.target)  # raises the error that says why the folder has no targets
                if not self.context.retry.attempt(lambda: needs_download(task.target)):
                    require_file(task.target)
                work = self._segment_store(task)
                if (known := self._earlier_report(task, work)) is not None:
                    return known
                self._pin(task)
                self._process(index, report, work, encoder=encoder, deaths=deaths)
        finally:
            unpin(task.target)
        return report

    def failed(self, index: int, error: Exception) -> FileReport:
        """Journal that a file has failed; return its report."""
        self.close()
        report = self._new_report(index)
        with self._reporting_failure(index, report):
            raise error
        return report

    def close(self) -> None:
        """Shut down the pipeline of the current video, if there is one."""
        if self._maker is not None:
            self._maker.close()
            self._maker = None

    def _new_report(self, index: int) -> FileReport:
        self.did_work = False
        return new_report(self.tasks[index], self.source)

    @contextmanager
    def _reporting_failure(self, index: int, report: FileReport) -> Iterator[None]:
        """Turn an error into the file's failure, so that the batch continues."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - one bad file must not stop the others
            report.error, report.status = error_text(error), "failed"
            self._journal_failure(self.tasks[index], report)
            unpin(self.tasks[index].target)

    def _pin(self, task: Task) -> None:
        """Download and pin a target, and unpin the one before; raise MissingFileError if it is missing."""
        if self._pinned not in (None, task.target):
            unpin(self._pinned)
        self._pinned = task.target
        self.context.retry.attempt(lambda: pin(task.target, self.context.heartbeat))
        self.context.retry.attempt(lambda: fetch(sidecar(task.target) or task.target, self.context.heartbeat))
        require_file(task.target)

    def _earlier_report(self, task: Task, work: JournaledSegmentStore) -> FileReport | None:
        """Return the report of an earlier result or of a failure in this run, if it is still valid."""
        if (report := self.earlier.result(task)) is not None:
            work.discard()  # an earlier run may have died between its journal entry and this
            return report
        failed = self.earlier.history.failure(work.key, self.earlier.run, str(task.target))
        return failed.report if failed is not None else None

    def _segment_store(self, task: Task) -> JournaledSegmentStore:
        """Return the store of a target's segments; raise MissingFileError or OSError if it is unreadable."""
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
        """Journal that work on a file or segment begins, and return the run."""
        task = self.tasks[index]
        engine, notes = self.context.begin(
            self.engine, task, work.key, self.earlier, self.journal,
            number=number, deaths=deaths, short_of_memory=self.guard.short,
        )  # fmt: skip
        report.fallbacks += notes
        if number is not None:  # the report is discarded: another worker writes the file's
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

    def _process(self, index: int, report: FileReport, work: JournaledSegmentStore, **options: Any) -> None:
        """Process a task, publish its result, and journal it."""
        run, self.did_work = self._run(index, report, work, **options), True
        with work.cleanup_on_failure():
            digest = run.run()
        digests = deliver_result(report, run.new, self.context.retry, self.context.heartbeat)
        digest = digests.get(Path(report.output or ""), digest)
        if address_of(run.task.target):
            digests[run.task.target] = work.target
        seen = {address_of(p) or "": (*(size_and_mtime(p) or (0, 0)), sha) for p, sha in digests.items()}
        try:
            self.context.retry.attempt(lambda: self._journal_result(work.key, report, digest, seen))
        except OutputError as error:
            # The segments are kept, so that a later run only has to join them.
            text = mark("the result could not be journaled; a later run will redo this file: {error}")
            report.fallbacks.append(tr(text, error=error))
        else:
            work.discard()

    def _journal_result(self, key: str, report: FileReport, digest: str | None, seen: ObjectStates) -> None:
        assert report.output is not None
        # Not interruptible: a published result without a journal entry would be redone.
        digest = digest or self.earlier.digests(Path(report.output), on_chunk=self.context.status.tick)
        entry = {"key": key, "run": self.earlier.run, "stated": self.earlier.stated}
        self.journal.append(FileDone(**entry, sha256=digest, seen=seen, report=report))

    def _journal_failure(self, task: Task, report: FileReport) -> None:
        try:
            self.journal.append(FileFailed(key=self.earlier.key(task), run=self.earlier.run, report=report))
        except MediaError:
            return  # an unreadable target has no key, and fails again at once in a later run
        except ColabHelpersError as error:
            report.fallbacks.append(tr("the failure could not be journaled: {error}", error=error))
