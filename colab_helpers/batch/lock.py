"""One batch at a time in a folder."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from colab_helpers.batch.drive import WorkDirs, telling_unwritable
from colab_helpers.batch.status import BatchStatus, latest_status
from colab_helpers.batch.stop import STATUS_NAME, is_process_alive
from colab_helpers.errors import UsageError
from colab_helpers.language import tr

LOCK_NAME = ".colab_helpers.lock"


class FolderBusyError(UsageError):
    """Another batch works in the folder."""


@contextmanager
def folder_lock(output_dir: Path, host: str = "") -> Iterator[None]:
    """Hold a folder, which is made if missing, against a second batch; ``host``: what we call ourselves.

    Mounted drives know no locks: theirs lies on a local disk, in one place for all batches of this user.

    Raises:
        FolderBusyError: Another batch works in it, on this machine or, as its status tells, on another.
        OutputError: The folder cannot be made or written to.
    """
    work_dirs = WorkDirs.of(output_dir)
    path = (work_dirs.local if work_dirs.mirror else output_dir) / LOCK_NAME
    lock = FileLock(path, timeout=0)
    with telling_unwritable(output_dir):
        output_dir.mkdir(parents=True, exist_ok=True)
        if work_dirs.mirror:
            work_dirs.make()
        try:
            lock.acquire()
        except Timeout as error:
            raise _busy(output_dir, latest_status([output_dir / STATUS_NAME])) from error
    try:
        _check_status(output_dir, host)
        yield
    finally:
        # While it is held: removed later, it might already be another's.
        path.unlink(missing_ok=True)
        lock.release()


def _busy(output_dir: Path, status: BatchStatus | None, *, afar: bool = False) -> FolderBusyError:
    """Return the refusal that names who works in a folder, as far as its status tells."""
    what = tr("another run is working in this folder{holder}", holder=_holder(status))
    remedy = tr("wait for it, stop it with 'python -m colab_helpers stop', or choose another folder")
    if afar:
        what = tr("another machine is working in this folder{holder}", holder=_holder(status))
        remedy = tr("wait until it has been silent for half a minute, or choose another output folder")
    return FolderBusyError(what, where=str(output_dir), remedy=remedy)


def _holder(status: BatchStatus | None) -> str:
    if status is None:
        return ""
    since = time.strftime("%H:%M", time.localtime(status.started))
    return tr(" (process {pid} on {host}, since {since})", pid=status.pid, host=status.host, since=since)


def _check_status(output_dir: Path, host: str) -> None:
    """Whoever works in the folder without its lock, which is on another disk, is known by the status."""
    status = latest_status([output_dir / STATUS_NAME])
    if status is None or status.state != "running" or status.host == host:
        return
    here = status.host == socket.gethostname()
    works = is_process_alive(status.pid, status.pid_started) if here else status.alive()
    if works and (not here or status.pid != os.getpid()):
        raise _busy(output_dir, status, afar=not here)
