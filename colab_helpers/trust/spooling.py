"""Files as the library of manifests reads and writes them: watched, stoppable, spooled on the right disk."""

from __future__ import annotations

import errno
import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SPOOL_MB = 64
"""What the library writes is in memory up to this size, then on disk."""
_BEAT_BYTES = 4 << 20
_TMPDIR = threading.Lock()  # the environment is that of all threads


class Watched(io.FileIO):
    """A file that the library reads or writes; what stops the work is kept, as the library would lose it.

    Args:
        stopped: Gets the error that ended it.
    """

    def __init__(self, path: Path, mode: str, beat: Callable[[], None], stopped: list[BaseException]) -> None:
        super().__init__(path, mode)
        self._beat, self._stopped, self._since = beat, stopped, 0

    def readinto(self, buffer: Any) -> int:
        """See ``io.FileIO``."""
        return self._kept(super().readinto, buffer)

    def write(self, data: Any) -> int:
        """See ``io.FileIO``; all of it or OSError."""
        return self._kept(self._write_all, data)

    def _write_all(self, data: Any) -> int:
        count = super().write(data) or 0
        if count < len(data):  # a disk that is nearly full takes a part, of which the library knows nothing
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return count

    def _kept(self, action: Callable[[Any], int | None], data: Any) -> int:
        try:
            count = action(data) or 0
            self._since += count
            if self._since >= _BEAT_BYTES:
                self._since = 0
                self._beat()
        except BaseException as error:
            self._stopped.append(error)
            raise OSError from error
        return count


@contextmanager
def spooled_beside(partial: Path) -> Iterator[None]:
    """Have the library keep its own copy of a large file on the result's disk; ``/tmp`` may be memory."""
    if partial.stat().st_size <= SPOOL_MB << 20:
        yield
        return
    with _TMPDIR:
        before = os.environ.get("TMPDIR")
        os.environ["TMPDIR"] = str(partial.parent)
        try:
            yield
        finally:
            os.environ.pop("TMPDIR", None)
            if before is not None:
                os.environ["TMPDIR"] = before
