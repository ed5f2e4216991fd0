"""Names of files, made so that every usual file system takes them."""

from __future__ import annotations

import hashlib
from pathlib import Path

_LONGEST = 255
"""Bytes of a file's name that every usual file system takes."""


def hidden_name(path: Path) -> Path:
    """Where a file is written until it is complete: beside its place, with the same suffix."""
    return path.with_name(shortened(".", path.stem, f".part{path.suffix}"))


def shortened(before: str, stem: str, after: str) -> str:
    """A file's name from three parts; a stem that makes it too long is cut and told apart by its hash."""
    name = f"{before}{stem}{after}"
    if len(name.encode(errors="surrogateescape")) <= _LONGEST:
        return name
    raw = stem.encode(errors="surrogateescape")
    mark = f"~{hashlib.sha256(raw).hexdigest()[:8]}"
    room = _LONGEST - len(f"{before}{mark}{after}".encode(errors="surrogateescape"))
    return f"{before}{raw[: max(0, room)].decode(errors='ignore')}{mark}{after}"
