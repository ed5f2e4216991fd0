"""What whoever works on a batch is told to do, where, and whom it tells and listens to."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property

from colab_helpers.batch.drive import FACES_NAME, RetryPolicy, WorkDirs
from colab_helpers.batch.face_indexes import FaceIndexLocation, FaceIndexMetadata, folder_name
from colab_helpers.batch.job import Job
from colab_helpers.batch.journal import JournalWriter, WorkStarted
from colab_helpers.batch.memory_growth import with_less_memory
from colab_helpers.batch.plan import Task
from colab_helpers.batch.resume import EarlierWork
from colab_helpers.batch.status import StatusWriter
from colab_helpers.batch.stop import StopToken
from colab_helpers.errors import OutputError, WorkerError
from colab_helpers.faces.engine import Engine
from colab_helpers.language import tr
from colab_helpers.progress import Progress, ProgressCallback

Deaths = tuple[int, str]
"""How many workers have died on something, and of what the last."""
NO_DEATHS: Deaths = (0, "")
MAX_DEATHS = 3
"""Workers that may die on a file before it is given up: the first, and two with less memory."""


@dataclass(frozen=True, eq=False)
class WorkerContext:
    """What a batch is told to do, where it works, and whom it tells and listens to.

    Attributes:
        cause: What the worker before this one died of.
        on_progress: Called while a video runs.
    """

    job: Job
    work_dirs: WorkDirs
    status: StatusWriter
    stop: StopToken
    cause: str | None = None
    on_progress: ProgressCallback | None = None

    def heartbeat(self) -> None:
        """Say that the work gets on; KeyboardInterrupt where somebody asks to stop."""
        self.status.tick()
        self.stop.check()

    def sleep(self, seconds: float) -> None:
        """Wait, but not when somebody asks to stop."""
        self.stop.sleep(seconds, self.status.tick)

    @cached_property
    def retry(self) -> RetryPolicy:
        """Waits for the output folder."""
        return RetryPolicy(self.job.request.settings.output_wait, tell=self._tell_pause, sleep=self.sleep)

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
        short: bool = False,
    ) -> tuple[Engine, list[str]]:
        """Note that work on a file, or on a segment of a ``number``, begins; return the networks and notes.

        They are used with less memory where it is ``short`` or workers died on that, which the journal tells
        whoever works alone; WorkerError where too many did.
        """
        died, notes = deaths or (earlier.history.interruptions(key, earlier.run), self.cause), list[str]()
        times, cause = died
        if times >= MAX_DEATHS:
            raise WorkerError(
                tr(
                    "the worker process died {deaths} times on this file, last: {cause}",
                    deaths=times,
                    cause=cause or tr("unknown"),
                ),
                where=str(task.target),
                remedy=tr("free memory, choose the preset stable, or leave this file out"),
            )
        try:
            entry = {"key": key, "run": earlier.run, "target": str(task.target)}
            journal.append(WorkStarted(**entry, pid=os.getpid(), number=number))
        except OutputError as error:
            notes.append(tr("a death of the worker on this file would go unnoticed: {error}", error=error))
        if times or short:
            reason = tr("a worker process died on this file") if times else tr("RAM is short")
            engine, note = with_less_memory(engine, times or 1, reason=reason)
            notes.append(note)
        return engine, notes

    def tell(self, progress: Progress) -> None:
        """Say where a file stands; KeyboardInterrupt where somebody asks to stop."""
        self.status.progress(progress)
        if self.on_progress:
            self.on_progress(progress)
        self.heartbeat()

    def _tell_pause(self, reason: str | None) -> None:
        self.status.pause(reason)
        self.stop.check()


def face_index_location(context: WorkerContext, earlier: EarlierWork, task: Task) -> FaceIndexLocation:
    """Where the face index of a target lies; MissingFileError, OSError where the target cannot be read."""
    key, work_dirs = earlier.index_key(task), context.work_dirs
    name, about = folder_name(key), FaceIndexMetadata.of(task.target, earlier.digests(task.target))
    beside, near = context.job.folder / FACES_NAME / name, work_dirs.local / FACES_NAME / name
    if work_dirs.mirror:
        return FaceIndexLocation(key, about, near, beside)
    return FaceIndexLocation(key, about, beside, None)
