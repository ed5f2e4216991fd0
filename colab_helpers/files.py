"""Files by their bytes: telling them apart, and writing small ones whole."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

_CHUNK = 4 << 20


def sha256_of(path: Path, *, on_chunk: Callable[[], None] | None = None) -> str:
    """SHA-256 of a file's bytes, 64 lower-case hex digits.

    Args:
        path: The file.
        on_chunk: Called every few megabytes; may raise to give up.

    Raises:
        OSError: It cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            if on_chunk is not None:
                on_chunk()
    return digest.hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write a small file, all of it or nothing, safe on disk; its folder must be there.

    Raises:
        OSError: It cannot be written; a file that was there stays as it was.
    """
    # The process in the name keeps two writers apart; not mkstemp, whose files nobody else may read.
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
