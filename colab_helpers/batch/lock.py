"""Lock an output folder for one batch at a time."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from colab_helpers.batch.drive import WorkDirs, wrap_unwritable
from colab_helpers.batch.status import BatchStatus, latest_status
from colab_helpers.batch.stop import STATUS_NAME, is_process_alive
from colab_helpers.errors import UsageError
from colab_helpers.language import mark, tr

LOCK_NAME = ".colab_helpers.lock"


class FolderBusyError(UsageError):
    """Another batch is running in the folder."""


@contextmanager
def folder_lock(output_dir: Path, host: str = "") -> Iterator[None]:
    """Lock a folder, which is created if missing; ``host`` is this machine's name in the status.

    Mounted drives do not support locks: theirs are on the local disk, in one folder for this user's batches.

    Raises:
        FolderBusyError: Another batch is running in it, on this machine or, by its status, on another.
        OutputError: The folder cannot be created or written to.
    """
    work_dirs = WorkDirs.of(output_dir)
    path = (work_dirs.local if work_dirs.mirror else output_dir) / LOCK_NAME
    lock = FileLock(path, timeout=0)
    with wrap_unwritable(output_dir):
        output_dir.mkdir(parents=True, exist_ok=True)
        if work_dirs.mirror:
            work_dirs.make()
        try:
            lock.acquire()
        except Timeout as error:
            raise _busy_error(output_dir, latest_status([output_dir / STATUS_NAME])) from error
    try:
        _check_status(output_dir, host)
        yield
    finally:
        # Before the release, after which the file may belong to another batch.
        path.unlink(missing_ok=True)
        lock.release()


def _busy_error(output_dir: Path, status: BatchStatus | None, *, remote: bool = False) -> FolderBusyError:
    """Return the error that names the batch running in a folder, if its status is known."""
    holder = ""
    if status is not None:
        since = time.strftime("%H:%M", time.localtime(status.started))
        text = mark(" (process {pid} on {host}, since {since})")
        holder = tr(text, pid=status.pid, host=status.host, since=since)
    what = tr("another run is working in this folder{holder}", holder=holder)
    remedy = tr("wait for it, stop it with 'python -m colab_helpers stop', or choose another folder")
    if remote:
        what = tr("another machine is working in this folder{holder}", holder=holder)
        remedy = tr("wait until its status has not changed for 30 seconds, or choose another output folder")
    return FolderBusyError(what, where=str(output_dir), remedy=remedy)


def _check_status(output_dir: Path, host: str) -> None:
    """Raise FolderBusyError for a batch whose lock is on another disk, known by its status alone."""
    status = latest_status([output_dir / STATUS_NAME])
    if status is None or status.state != "running" or status.host == host:
        return
    here = status.host == socket.gethostname()
    running = is_process_alive(status.pid, status.pid_started) if here else status.alive()
    if running and (not here or status.pid != os.getpid()):
        raise _busy_error(output_dir, status, remote=not here)
