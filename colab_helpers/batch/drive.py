"""Results on Google Drive or another mounted disk, which may be slow, full or gone: work elsewhere and copy.

Video is never decoded from or encoded to a mounted drive: files are copied whole, compared by their
SHA-256, and only then get their names.
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
from colab_helpers.files import atomic_output, sha256_of
from colab_helpers.language import mark, tr
from colab_helpers.machine import disk_free, is_remote

T = TypeVar("T")

WORK_NAME = ".work"
"""Folder of unfinished work."""
FACES_NAME = ".faces"
"""Folder of what was found in the targets, for later runs."""
CHUNK = 4 << 20
"""Bytes that are copied at once."""
_JOB_NAME = re.compile(r"job-(?P<run>\w+)-(?P<pid>\d+)\.json")
_POLL_INTERVAL = 2.0
_UNREADABLE = mark("the file cannot be read ({reason})")


@dataclass(frozen=True)
class WorkDirs:
    """Where the unfinished work of a batch lies.

    Segments are written to ``local``. Where the results go to a mounted drive, ``mirror`` beside them gets a
    copy of each: the local disk may be gone tomorrow.
    """

    local: Path
    mirror: Path | None

    @classmethod
    def of(cls, output_dir: Path, work_dir: Path | None = None) -> WorkDirs:
        """Choose the same places for the same folders, so that a later run finds them.

        Without a ``work_dir`` results on a mounted drive are worked on in the system's folder for temporary
        files, others beside them, or beside what stands for them here. Each user has a folder of their own
        there.
        """
        beside = output_dir / WORK_NAME
        if address_of(output_dir) or (work_dir is None and not is_remote(output_dir)):
            return cls(beside, None)
        name = hashlib.sha256(os.fsencode(output_dir.absolute())).hexdigest()[:16]
        root = work_dir or Path(tempfile.gettempdir())
        return cls(root / f"colab_helpers-{os.getuid()}" / name, beside)

    @property
    def has_remote_results(self) -> bool:
        """Whether the results go elsewhere than to this machine's disk."""
        return self.mirror is not None or address_of(self.local) is not None

    def make(self) -> None:
        """Make the local folder; away from the results, for this user alone.

        Raises:
            OutputError: It cannot be made, or somebody else has made one of its name.
        """
        what = mark("the folder for unfinished work cannot be made ({reason})")
        remedy = mark("choose another folder, or name a local one for the work with --work-dir")
        with wrap_os_error(OutputError, what, self.local, remedy):
            if self.mirror is not None:
                make_private(self.local.parent)
            self.local.mkdir(parents=True, exist_ok=True)

    def clean_up(self, run: str) -> None:
        """Remove what this run needed for unfinished work, if no segments and no other's job are left."""
        for place in filter(None, (self.local, self.mirror)):
            if place.is_dir() and not any(_is_needed(path, run) for path in place.iterdir()):
                shutil.rmtree(place, ignore_errors=True)


def telling_unwritable(output_dir: Path) -> AbstractContextManager[None]:
    """Say of an error of the system that the output folder cannot be written to: OutputError."""
    what = mark("the output folder cannot be written to ({reason})")
    return wrap_os_error(OutputError, what, output_dir, mark("choose another output folder"))


def make_private(folder: Path) -> None:
    """Make a folder that nobody else can look into, in one where others may have made it before."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()  # a link of somebody else's would lead to somebody else's folder
    shared = folder.parent.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not stat.S_ISDIR(found.st_mode) or (shared and found.st_uid != os.getuid()):
        raise OutputError(
            tr("the folder for unfinished work is not yours"),
            where=str(folder),
            remedy=tr("have it removed, or name another one for the work with --work-dir"),
        )
    if shared and stat.S_IMODE(found.st_mode) != 0o700:
        folder.chmod(0o700)


@dataclass(eq=False)
class RetryPolicy:
    """Tries again while a place is full or gone.

    Args:
        longest: Seconds after which it gives up (setting ``output_wait``).
        tell: Called with what is waited for, and with None when it goes on; may raise to give up.
    """

    longest: float
    tell: Callable[[str | None], None] = lambda _what: None
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def attempt(self, action: Callable[[], T]) -> T:
        """Return what ``action`` returns; an OutputError is raised only after the longest wait.

        Nobody is told of what works at once: whoever is told may give up, and what is done would go unnoted.
        """
        started, waited = self.clock(), False
        while True:
            try:
                result = action()
                break
            except OutputError as error:
                if self.clock() - started >= self.longest:
                    raise
                waited = True
                self.tell(tr("waiting for room or access: {error}", error=error))
                self.sleep(_POLL_INTERVAL)
        if waited:
            self.tell(None)
        return result


def require_room(folder: Path, target_bytes: int, times: int, begun: int = 0) -> None:
    """Refuse a task for which there may not be so many times its target's size, with the bytes it has."""
    free = disk_free(folder)
    if free + begun < times * target_bytes:
        raise OutputError(
            tr(
                "{free:.1f} GB are free, but {needed:.1f} GB are needed: "
                "{times} times the target's size, for its segments and while the result is joined and signed",
                free=free / 1e9,
                needed=times * target_bytes / 1e9,
                times=times,
            ),
            where=str(folder),
            remedy=tr("free space or choose another output folder"),
        )


def copy_out(
    source: Path,
    target: Path,
    *,
    heartbeat: Callable[[], None] = lambda: None,
    first: Callable[[], object] = lambda: None,
) -> str:
    """Copy a file to where it may get lost, read it back, and only then give it its name.

    An older file is replaced, missing folders are made; ``heartbeat`` is called every few megabytes and may
    raise to give up. ``first`` is called once the copy is complete, before it gets its name. Returns the
    SHA-256 of the file.

    Raises:
        OutputError: The place is full or gone, or does not give back what was written; nothing is left.
    """
    with atomic_output(target) as partial:
        digest = copy_bytes(source, partial, heartbeat)
        if sha256_of(partial, on_chunk=heartbeat) != digest:
            raise OutputError(
                tr("the copy is not what was written"),
                where=str(target),
                remedy=tr("check the disk or the mount"),
            )
        first()
    return digest


def copy_in(source: Path, target: Path, *, heartbeat: Callable[[], None] = lambda: None) -> str:
    """Copy a file to the local disk, unless it is there already in full; return its SHA-256.

    Raises:
        MissingFileError: The source is not there.
        OutputError: The local disk is full, or the source broke off; nothing is left.
    """
    with wrap_os_error(
        MissingFileError, _UNREADABLE, source, mark("check the path; on Drive, mount it again")
    ):
        found = source.stat()
        same = target.is_file() and target.stat().st_size == found.st_size
        if same and target.stat().st_mtime_ns == found.st_mtime_ns:
            return sha256_of(target, on_chunk=heartbeat)
    with atomic_output(target) as partial:
        digest = copy_bytes(source, partial, heartbeat)
        os.utime(partial, ns=(found.st_atime_ns, found.st_mtime_ns))
    return digest


def copy_bytes(source: Path, target: Path, heartbeat: Callable[[], None]) -> str:
    """Copy a file's bytes to disk; return their SHA-256."""
    digest = hashlib.sha256()
    with target.open("wb") as writing:
        for chunk in _chunks(source):
            digest.update(chunk)
            writing.write(chunk)
            heartbeat()
        writing.flush()
        os.fsync(writing.fileno())  # so that what is read back comes from the disk
    return digest.hexdigest()


def _chunks(source: Path) -> Iterator[bytes]:
    # Not a MissingFileError: what can be looked at but not read, as on a lost mount, may come back.
    unreadable = wrap_os_error(OutputError, _UNREADABLE, source, mark("check the disk or the mount"))
    with unreadable, source.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def job_name(run: str) -> str:
    """Return the name of the file in which this process tells its workers what to do."""
    return f"job-{run}-{os.getpid()}.json"


def supervisor_of(job: Path) -> int:
    """Return the process that has written a job's file, if it has also started this process; else 0."""
    match = _JOB_NAME.fullmatch(job.name)
    return os.getppid() if match and int(match["pid"]) == os.getppid() else 0


def _is_needed(path: Path, run: str) -> bool:
    """Whether something in a folder of unfinished work is a video's, or the job of another that waits."""
    if path.is_dir():
        return path.name != FACES_NAME  # there for speed only: the results have a copy
    match = _JOB_NAME.fullmatch(path.name)
    return match is not None and match["run"] != run and psutil.pid_exists(int(match["pid"]))
