"""Batches that wait for each other, each in a folder of its own; no more is known of one than lies there.

What waits is the job ``queued.json``; how it stands, then and later, tells the ``status.json`` of its run.
Whoever is killed therefore loses nothing: the next one goes on with what lies there.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from colab_helpers.batch.job import Job
from colab_helpers.batch.lock import FolderBusyError
from colab_helpers.batch.report import is_own_file
from colab_helpers.batch.status import BatchStatus, StatusWriter
from colab_helpers.batch.stop import STATUS_NAME, request_stop
from colab_helpers.batch.supervisor import BatchStopped, Supervisor
from colab_helpers.batch.write_policy import WritePolicy
from colab_helpers.errors import ColabHelpersError, MissingFileError, UsageError
from colab_helpers.files import load_or_none, natural_key
from colab_helpers.language import tr

QUEUED_NAME = "queued.json"
_POLL_INTERVAL = 0.3


@dataclass(eq=False)
class Queue:
    """The batches queued in a folder; whoever runs ``at_work`` holds ``turn_lock``."""

    folder: Path
    turn_lock: Lock = field(default_factory=Lock)
    at_work: Job | None = None
    _guard: Lock = field(default_factory=Lock)

    def names(self) -> list[str]:
        """List the batches that wait, are at work or have ended, in natural order."""
        records = [path for name in (QUEUED_NAME, STATUS_NAME) for path in self.folder.glob(f"[!.]*/{name}")]
        return sorted({path.parent.name for path in records}, key=natural_key)

    def told(self, name: str) -> tuple[str, BatchStatus | None]:
        """Tell a batch's state, and the status of its run once that began; MissingFileError without any."""
        job, status, alive = _records(self.folder / name)
        if job is not None and (status is None or status.run != job.run):
            return "queued", None
        if status is None:
            what, remedy = tr("there is no such job"), tr("GET /api/jobs lists them")
            raise MissingFileError(what, where=name, remedy=remedy)
        if status.state == "running" and not alive:
            return "queued" if job else "failed", status
        return "running" if job and self._begun(job) else status.state, status

    def add(self, job: Job) -> None:
        """Have a batch wait; FolderBusyError where one of its folder waits or is at work."""
        with self._guard:
            waits, _, alive = _records(job.folder)
            if waits or alive:
                what = tr("a job of this name is waiting or at work")
                raise FolderBusyError(what, where=job.folder.name, remedy=tr("stop it, or choose another"))
            for name in (QUEUED_NAME, STATUS_NAME):
                WritePolicy(made=is_own_file).ensure_writable(job.folder / name)
            job.save(job.folder / QUEUED_NAME)

    def stop(self, name: str) -> None:
        """Stop a batch that waits or is at work; a later one of its name goes on with what is finished."""
        with self._guard:
            job, _, alive = _records(self.folder / name)
            if job is not None and not alive and not self._begun(job):
                _end(job, cancelled=True)
            elif not request_stop(self.folder / name):
                what = tr("no batch is at work there")
                raise UsageError(what, where=name, remedy=tr("where it is only beginning, ask again"))

    def _begun(self, job: Job) -> bool:
        """Whether it is a batch's turn, up to the end of all that belongs to it."""
        return self.at_work is not None and self.at_work.run == job.run

    def work(self) -> None:
        """Do one batch after another, for ever."""
        while True:
            with (
                self.turn_lock,
                suppress(OSError, ColabHelpersError),
            ):  # a folder is gone or full: it is asked again
                with self._guard:
                    self.at_work = self._next()
                if self.at_work is not None:
                    self._do(self.at_work)
            time.sleep(_POLL_INTERVAL)

    def _next(self) -> Job | None:
        """Take the batch that waits longest and in whose folder nobody else works."""
        waiting = self.folder.glob(f"[!.]*/{QUEUED_NAME}")
        for path in sorted(waiting, key=lambda path: path.stat().st_mtime_ns):
            job, status, alive = _records(path.parent)
            if job is not None and status is not None and status.run == job.run and status.state != "running":
                path.unlink()  # its worker ended while nobody was here
            elif job is not None and not (alive and status and status.job != job.digest):
                return job
        return None

    def _do(self, job: Job) -> None:
        note, cancelled = "", False
        try:
            Supervisor(job).run()
        except BatchStopped:
            cancelled = True
        except ColabHelpersError as error:
            note = str(error)
        except Exception as error:  # noqa: BLE001 - those that wait need not suffer
            note = f"{type(error).__name__}: {error}"
        with self._guard:
            self.at_work = None
            if not _records(job.folder)[2]:  # else somebody was faster: it waits for them
                _end(job, *[note][: bool(note)], cancelled=cancelled)


def _records(folder: Path) -> tuple[Job | None, BatchStatus | None, bool]:
    """What lies in a batch's folder: the job that waits, its status, and whether anybody works there."""
    status = load_or_none(BatchStatus, folder / STATUS_NAME)
    return load_or_none(Job, folder / QUEUED_NAME), status, status is not None and status.alive()


def _end(job: Job, *notes: str, cancelled: bool) -> None:
    """Let a batch wait no longer; where its worker could not, a status says how it ended."""
    status = load_or_none(BatchStatus, job.folder / STATUS_NAME)
    if status is None or status.state == "running" or (status.run != job.run and (notes or cancelled)):
        writer = StatusWriter(job.folder / STATUS_NAME, job.tasks, run=job.run, job=job.digest)
        writer.note(*notes)
        writer.end(cancelled=cancelled)
    (job.folder / QUEUED_NAME).unlink(missing_ok=True)
