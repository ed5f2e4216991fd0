"""What is known about a model file on this disk: the record beside it, and its way into place."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from colab_helpers.files import found, publish, sha256_of, state_of, write_atomically


class Record(BaseModel):
    """What was verified about a file; kept in ``<file>.json``.

    As long as size and modification time are those of the record, the file counts as verified and half a
    gigabyte need not be hashed at every start. Times are in UTC.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    version: Literal[1] = 1
    sha256: str
    bytes: int
    mtime_ns: int
    url: str = ""  # address or path it came from; empty if it was simply there
    licence: str  # its id
    licence_accepted_at: str | None = None  # None where nothing had to be accepted or nobody did

    def still_describes(self, path: Path) -> bool:
        """Whether size and modification time of a file are the recorded ones."""
        return state_of(path) == (self.bytes, self.mtime_ns)


def record_path(path: Path) -> Path:
    """Where the record of a file is kept."""
    return path.with_name(path.name + ".json")


def part_path(path: Path, sha256: str = "") -> Path:
    """Where a file grows until it is complete and verified; told apart by the hash it is to have."""
    # Hidden: browsers call what they are fetching "<file>.part", and that is not ours to resume or remove.
    return path.with_name(f".{path.name}.{sha256[:12]}.part" if sha256 else f".{path.name}.part")


def size_of(path: Path) -> int:
    """Return the bytes of a file; 0 if it is not there."""
    return (state_of(path) or (0,))[0]


def read_record(path: Path) -> Record | None:
    """The record of a file; None if there is none, or none that can be read (then it is hashed anew)."""
    return found(Record, record_path(path))


def recorded_hash(path: Path) -> str | None:
    """SHA-256 of a file as recorded, if the record still describes it."""
    record = read_record(path)
    return record.sha256 if record is not None and record.still_describes(path) else None


def write_record(path: Path, record: Record) -> None:
    """Write the record of a file, all of it or nothing, unless it is there already; OSError if it cannot."""
    if record != read_record(path):
        write_json(record_path(path), record.model_dump())


def write_json(path: Path, data: object) -> None:
    """Write a small file, all of it or nothing."""
    write_atomically(path, (json.dumps(data, indent=2) + "\n").encode())


def now() -> str:
    """The present time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def put_in_place(root: Path, part: Path, path: Path) -> Path | None:
    """Give a verified file its name; return where what lay there is kept, its hash in the name, if anything.

    That name does not end in ``.onnx``, so nothing loads it by mistake.
    """
    kept = None
    if path.exists():
        kept = root / "quarantine" / f"{path.name}.{sha256_of(path)}"
        kept.parent.mkdir(parents=True, exist_ok=True)
        path.replace(kept)
        record_path(path).unlink(missing_ok=True)
    try:
        publish(part, path)
    except OSError:
        if kept is not None:
            kept.replace(path)
        raise
    return kept
