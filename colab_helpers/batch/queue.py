"""A queue of batches that run one after another, each in a folder of its own that holds all its state.

A waiting batch has a job ``queued.json``; its state is in the ``status.json`` of its run. A server that is
killed loses nothing: the next one continues with the files.
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
    """The batches queued below a folder; ``turn_lock`` is held while the batch ``current`` runs."""

    folder: Path
    turn_lock: Lock = field(default_factory=Lock)
    current: Job | None = None
    _state_lock: Lock = field(default_factory=Lock)

    def names(self) -> list[str]:
        """List the batches that are queued, running or ended, in natural order."""
        records = [path for name in (QUEUED_NAME, STATUS_NAME) for path in self.folder.glob(f"[!.]*/{name}")]
        return sorted({path.parent.name for path in records}, key=natural_key)

    def state_of(self, name: str) -> tuple[str, BatchStatus | None]:
        """Return a batch's state, and its status once it began; raise MissingFileError if there is none."""
        job, status, alive = _records(self.folder / name)
        if job is not None and (status is None or status.run != job.run):
            return "queued", None
        if status is None:
            what, remedy = tr("there is no such job"), tr("GET /api/jobs lists them")
            raise MissingFileError(what, where=name, remedy=remedy)
        if status.state == "running" and not alive:
            return "queued" if job else "failed", status
        return "running" if job and self._is_current(job) else status.state, status

    def add(self, job: Job) -> None:
        """Queue a batch; raise FolderBusyError if one with its folder is queued or running."""
        with self._state_lock:
            queued, _, alive = _records(job.folder)
            if queued or alive:
                what = tr("a job with this name is queued or running")
                remedy = tr("stop it, or choose another name")
                raise FolderBusyError(what, where=job.folder.name, remedy=remedy)
            for name in (QUEUED_NAME, STATUS_NAME):
                WritePolicy(made=is_own_file).ensure_writable(job.folder / name)
            job.save(job.folder / QUEUED_NAME)

    def stop(self, name: str) -> None:
        """Stop a queued or running batch; raise UsageError if it is neither, or has no status yet."""
        with self._state_lock:
            job, _, alive = _records(self.folder / name)
            if job is not None and not alive and not self._is_current(job):
                _end(job, cancelled=True)
            elif not request_stop(self.folder / name):
                what = tr("no batch is running there")
                raise UsageError(what, where=name, remedy=tr("if it has only just started, try again"))

    def _is_current(self, job: Job) -> bool:
        return self.current is not None and self.current.run == job.run

    def work(self) -> None:
        """Run one batch after another, forever."""
        while True:
            # An error means that a folder is gone or full, and the next round tries again.
            with self.turn_lock, suppress(OSError, ColabHelpersError):
                with self._state_lock:
                    self.current = self._next()
                if self.current is not None:
                    self._run(self.current)
            time.sleep(_POLL_INTERVAL)

    def _next(self) -> Job | None:
        """Return the batch that has waited longest and in whose folder no other batch is running."""
        queued = self.folder.glob(f"[!.]*/{QUEUED_NAME}")
        for path in sorted(queued, key=lambda path: path.stat().st_mtime_ns):
            job, status, alive = _records(path.parent)
            if job is not None and status is not None and status.run == job.run and status.state != "running":
                path.unlink()  # its worker ended while no server was running
            elif job is not None and not (alive and status and status.job != job.digest):
                return job
        return None

    def _run(self, job: Job) -> None:
        note, cancelled = "", False
        try:
            Supervisor(job).run()
        except BatchStopped:
            cancelled = True
        except ColabHelpersError as error:
            note = str(error)
        except Exception as error:  # noqa: BLE001 - the other batches must still run
            note = f"{type(error).__name__}: {error}"
        with self._state_lock:
            self.current = None
            if not _records(job.folder)[2]:  # otherwise another batch runs there, and this one stays queued
                _end(job, note, cancelled=cancelled)


def _records(folder: Path) -> tuple[Job | None, BatchStatus | None, bool]:
    """Return the queued job of a folder, its status, and whether a batch is running there."""
    status = load_or_none(BatchStatus, folder / STATUS_NAME)
    return load_or_none(Job, folder / QUEUED_NAME), status, status is not None and status.alive()


def _end(job: Job, note: str = "", *, cancelled: bool) -> None:
    """Remove a batch from the queue, and write its final status if its worker could not."""
    status = load_or_none(BatchStatus, job.folder / STATUS_NAME)
    if status is None or status.state == "running" or (status.run != job.run and (note or cancelled)):
        writer = StatusWriter(job.folder / STATUS_NAME, job.tasks, run=job.run, job=job.digest)
        writer.note(*filter(None, [note]))
        writer.end(cancelled=cancelled)
    (job.folder / QUEUED_NAME).unlink(missing_ok=True)
