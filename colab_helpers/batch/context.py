"""What a worker needs to know of its batch: the job, its folders, and its status, stop and retry handling."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from colab_helpers.batch.drive import FACES_NAME, RetryPolicy, WorkDirs
from colab_helpers.batch.face_indexes import FaceIndexLocation, FaceIndexMetadata, folder_name
from colab_helpers.batch.job import Job
from colab_helpers.batch.journal import History, JournalWriter, WorkStarted, read_journal
from colab_helpers.batch.memory_growth import with_less_memory
from colab_helpers.batch.plan import Task
from colab_helpers.batch.report import JOURNAL_NAME
from colab_helpers.batch.resume import EarlierWork
from colab_helpers.batch.status import StatusWriter
from colab_helpers.batch.stop import StopToken
from colab_helpers.errors import OutputError, WorkerError
from colab_helpers.faces.engine import Engine
from colab_helpers.language import mark, tr
from colab_helpers.progress import Progress, ProgressCallback

Deaths = tuple[int, str]
"""How many workers have died on a file or segment, and the cause of the last death."""
NO_DEATHS: Deaths = (0, "")
MAX_DEATHS = 3
"""Workers that may die on a file before it fails: the first, and two with less memory."""
Announce = Callable[[Iterable[str], int], None]
"""Takes notes for the user, and how many times its targets' size the batch may need on disk."""


@dataclass(frozen=True, eq=False)
class WorkerContext:
    """A batch as one of its workers sees it; ``cause``: why the previous worker died, if one did."""

    job: Job
    work_dirs: WorkDirs
    status: StatusWriter
    stop: StopToken
    cause: str | None = None
    on_progress: ProgressCallback | None = None  # called while a video is processed

    def heartbeat(self) -> None:
        """Send a heartbeat; raise KeyboardInterrupt if a stop was requested."""
        self.status.tick()
        self.stop.check()

    def sleep(self, seconds: float) -> None:
        """Wait with heartbeats; raise KeyboardInterrupt if a stop is requested."""
        self.stop.sleep(seconds, self.status.tick)

    @cached_property
    def retry(self) -> RetryPolicy:
        """Retry policy for the output folder."""
        return RetryPolicy(self.job.request.settings.output_wait, on_wait=self._set_pause, sleep=self.sleep)

    def read_journal(self) -> History:
        """Read the batch's journal, retrying while the output folder cannot be read."""
        return self.retry.attempt(lambda: read_journal(self.job.folder / JOURNAL_NAME))

    def begin(
        self,
        engine: Engine,
        task: Task,
        key: str,
        earlier: EarlierWork,
        journal: JournalWriter,
        *,
        number: int | None = None,
        deaths: Deaths | None = None,
        short_of_memory: bool = False,
    ) -> tuple[Engine, list[str]]:
        """Journal that work on a file, or its segment ``number``, begins; return engine and notes.

        The engine uses less memory if workers have died on this work, or if ``short_of_memory``. ``deaths``
        None counts the deaths in the journal, which is correct for a single worker. Raise WorkerError if
        `MAX_DEATHS` workers have died on this work.
        """
        times, cause = deaths or (earlier.history.interruptions(key, earlier.run), self.cause)
        notes = list[str]()
        if times >= MAX_DEATHS:
            text = mark("the worker process died {deaths} times on this file, last: {cause}")
            what = tr(text, deaths=times, cause=cause or tr("unknown"))
            remedy = tr("free memory, choose the preset stable, or leave this file out")
            raise WorkerError(what, where=str(task.target), remedy=remedy)
        try:
            entry = {"key": key, "run": earlier.run, "target": str(task.target)}
            journal.append(WorkStarted(**entry, pid=os.getpid(), number=number))
        except OutputError as error:
            text = mark("if the worker dies on this file, that will not be detected: {error}")
            notes.append(tr(text, error=error))
        if times or short_of_memory:
            reason = tr("a worker process died on this file") if times else tr("RAM is short")
            engine, note = with_less_memory(engine, times or 1, reason=reason)
            notes.append(note)
        return engine, notes

    def report_progress(self, progress: Progress) -> None:
        """Report a file's progress; raise KeyboardInterrupt if a stop was requested."""
        self.status.progress(progress)
        if self.on_progress:
            self.on_progress(progress)
        self.heartbeat()

    def _set_pause(self, reason: str | None) -> None:
        self.status.pause(reason)
        self.stop.check()


def face_index_location(context: WorkerContext, earlier: EarlierWork, task: Task) -> FaceIndexLocation:
    """Return where a target's face index is kept; raise MissingFileError or OSError if it is unreadable."""
    key, work_dirs = earlier.index_key(task), context.work_dirs
    name, metadata = folder_name(key), FaceIndexMetadata.of(task.target, earlier.digests(task.target))
    beside_results, local = context.job.folder / FACES_NAME / name, work_dirs.local / FACES_NAME / name
    if work_dirs.mirror:
        return FaceIndexLocation(key, metadata, local, beside_results)
    return FaceIndexLocation(key, metadata, beside_results, None)
