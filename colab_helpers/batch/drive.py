"""Write results to Google Drive or another mounted disk, which may be slow, full or gone.

Video is never decoded from or encoded to a mounted drive: whole files are copied, verified by their SHA-256,
and only then published under their names.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil

from colab_helpers.addresses import address_of
from colab_helpers.errors import MissingFileError, OutputError, wrap_os_error
from colab_helpers.files import atomic_output, sha256_of, size_and_mtime
from colab_helpers.language import mark, tr
from colab_helpers.machine import disk_free, is_remote

T = TypeVar("T")

WORK_NAME = ".work"
"""Work folder in an output folder."""
FACES_NAME = ".faces"
"""Folder of the targets' face indexes, for later runs."""
CHUNK = 4 << 20
"""Bytes per read when copying."""
_JOB_NAME = re.compile(r"job-(?P<run>\w+)-(?P<pid>\d+)\.json")
_POLL_INTERVAL = 2.0
_UNREADABLE = mark("the file cannot be read ({reason})")


@dataclass(frozen=True)
class WorkDirs:
    """Work folders of a batch.

    Segments are written to ``local``. If the results go to a mounted drive, each is also copied to ``mirror``
    beside them, as the local disk may be gone in the next session.
    """

    local: Path
    mirror: Path | None

    @classmethod
    def of(cls, output_dir: Path, work_dir: Path | None = None) -> WorkDirs:
        """Return the work folders, always the same for an output folder, so that a later run finds them.

        The work folder is in a per-user folder of ``work_dir``, by default of the system's folder for
        temporary files if the results are on a mounted drive; otherwise it is in the output folder.
        """
        beside_results = output_dir / WORK_NAME
        if address_of(output_dir) or (work_dir is None and not is_remote(output_dir)):
            return cls(beside_results, None)
        name = hashlib.sha256(os.fsencode(output_dir.absolute())).hexdigest()[:16]
        root = work_dir or Path(tempfile.gettempdir())
        return cls(root / f"colab_helpers-{os.getuid()}" / name, beside_results)

    @property
    def has_remote_results(self) -> bool:
        """Whether the results go to another disk than the work folder, or to object storage."""
        return self.mirror is not None or address_of(self.local) is not None

    def make(self) -> None:
        """Create the local folder, private to this user if it is not in the output folder.

        Raise OutputError if it cannot be created, or belongs to another user.
        """
        what = mark("the work folder cannot be created ({reason})")
        remedy = mark("choose another output folder, or a local work folder with --work-dir")
        with wrap_os_error(OutputError, what, self.local, remedy):
            if self.mirror is not None:
                make_private(self.local.parent)
            self.local.mkdir(parents=True, exist_ok=True)

    def clean_up(self, run: str) -> None:
        """Remove the work folders unless they hold segments or the job of another process."""
        for folder in filter(None, (self.local, self.mirror)):
            if folder.is_dir() and not any(_is_needed(path, run) for path in folder.iterdir()):
                shutil.rmtree(folder, ignore_errors=True)


def wrap_unwritable(output_dir: Path) -> AbstractContextManager[None]:
    """Turn OSError into an OutputError that says that the output folder cannot be written to."""
    what = mark("the output folder cannot be written to ({reason})")
    return wrap_os_error(OutputError, what, output_dir, mark("choose another output folder"))


def make_private(folder: Path) -> None:
    """Create a private folder (mode 700) in a folder to which others may write, such as /tmp.

    Raise OutputError if it exists already and belongs to another user, or is a link.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    state = folder.lstat()  # not stat: another user's link would lead to that user's folder
    shared = folder.parent.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not stat.S_ISDIR(state.st_mode) or (shared and state.st_uid != os.getuid()):
        what = tr("the work folder belongs to another user")
        remedy = tr("have it removed, or choose another folder with TMPDIR or --work-dir")
        raise OutputError(what, where=str(folder), remedy=remedy)
    if shared and stat.S_IMODE(state.st_mode) != 0o700:
        folder.chmod(0o700)


@dataclass(eq=False)
class RetryPolicy:
    """Retries an action while its destination is full or unreachable.

    Args:
        timeout: Seconds after which it gives up (setting ``output_wait``).
        on_wait: Called with the reason of a wait, and with None when it ends; may raise to cancel.
    """

    timeout: float
    on_wait: Callable[[str | None], None] = lambda _reason: None
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def attempt(self, action: Callable[[], T]) -> T:
        """Return the result of ``action``; raise its OutputError only after the timeout.

        ``on_wait`` is not called if the action succeeds at once: it may raise, and a success would be lost.
        """
        started, waited = self.clock(), False
        while True:
            try:
                result = action()
            except OutputError as error:
                if self.clock() - started >= self.timeout:
                    raise
                waited = True
                self.on_wait(tr("waiting for free space or access: {error}", error=error))
                self.sleep(_POLL_INTERVAL)
            else:
                if waited:
                    self.on_wait(None)
                return result


def require_free_space(folder: Path, target_bytes: int, times: int, used: int = 0) -> None:
    """Raise OutputError unless ``times`` the target's size is free, counting ``used`` bytes of segments."""
    free = disk_free(folder)
    if free + used < times * target_bytes:
        text = mark(
            "{free:.1f} GB are free, but {needed:.1f} GB are needed: "
            "{times} times the target's size, for its segments and for joining and signing the result"
        )
        what = tr(text, free=free / 1e9, needed=times * target_bytes / 1e9, times=times)
        remedy = tr("free space or choose another output folder")
        raise OutputError(what, where=str(folder), remedy=remedy)


def copy_out(
    source: Path,
    target: Path,
    *,
    heartbeat: Callable[[], None] = lambda: None,
    before_publish: Callable[[], object] = lambda: None,
) -> str:
    """Copy a file to an unreliable disk, verify the copy, and publish it; return its SHA-256.

    Replaces an existing file and creates missing folders. ``heartbeat`` is called every few megabytes and may
    raise to cancel, ``before_publish`` when the copy is complete and verified. Raise OutputError,
    and leave nothing there, if the disk is full or gone, or does not return what was written.
    """
    with atomic_output(target) as partial:
        digest = copy_bytes(source, partial, heartbeat)
        if sha256_of(partial, on_chunk=heartbeat) != digest:
            what, remedy = tr("the copy differs from what was written"), tr("check the disk or the mount")
            raise OutputError(what, where=str(target), remedy=remedy)
        before_publish()
    return digest


def copy_in(source: Path, target: Path, *, heartbeat: Callable[[], None] = lambda: None) -> str:
    """Copy a file to the local disk, unless an up-to-date copy exists; return its SHA-256.

    Raises:
        MissingFileError: The source does not exist.
        OutputError: The local disk is full, or reading the source failed; nothing is left.
    """
    remedy = mark("check the path; on Drive, mount it again")
    with wrap_os_error(MissingFileError, _UNREADABLE, source, remedy):
        state = source.stat()
        if target.is_file() and size_and_mtime(target) == (state.st_size, state.st_mtime_ns):
            return sha256_of(target, on_chunk=heartbeat)
    with atomic_output(target) as partial:
        digest = copy_bytes(source, partial, heartbeat)
        os.utime(partial, ns=(state.st_atime_ns, state.st_mtime_ns))
    return digest


def copy_bytes(source: Path, target: Path, heartbeat: Callable[[], None]) -> str:
    """Copy a file's bytes and flush them to disk; return their SHA-256."""
    digest = hashlib.sha256()
    with target.open("wb") as file:
        for chunk in _chunks(source):
            digest.update(chunk)
            file.write(chunk)
            heartbeat()
        file.flush()
        os.fsync(file.fileno())  # so that verification reads from the disk
    return digest.hexdigest()


def _chunks(source: Path) -> Iterator[bytes]:
    # Not a MissingFileError: a file that exists but cannot be read, as on a lost mount, may come back.
    unreadable = wrap_os_error(OutputError, _UNREADABLE, source, mark("check the disk or the mount"))
    with unreadable, source.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def job_name(run: str) -> str:
    """Return the name of the job file that this process writes for its workers."""
    return f"job-{run}-{os.getpid()}.json"


def supervisor_of(job: Path) -> int:
    """Return the id of the process that wrote a job file, if it is this process's parent; else 0."""
    match = _JOB_NAME.fullmatch(job.name)
    return os.getppid() if match and int(match["pid"]) == os.getppid() else 0


def _is_needed(path: Path, run: str) -> bool:
    """Return whether an entry of a work folder holds segments or is the job of another living process."""
    if path.is_dir():
        return path.name != FACES_NAME  # a cache of the copy beside the results
    match = _JOB_NAME.fullmatch(path.name)
    return match is not None and match["run"] != run and psutil.pid_exists(int(match["pid"]))
