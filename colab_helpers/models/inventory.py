"""State of the model files on disk, and the record beside each file of what was verified.

A file with an unknown hash is ``unknown``, not ``damaged``: it may be the user's own. A ``damaged`` file does
not load, or its content has changed since it was verified although size and modification time have not.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from colab_helpers.errors import ModelError
from colab_helpers.files import load_or_none, publish, sha256_of, size_and_mtime, write_atomically
from colab_helpers.language import mark, tr
from colab_helpers.models.catalog import ModelEntry, broken_model_error, load_catalog, required_models
from colab_helpers.models.session import create_session, is_standin
from colab_helpers.models.session_pool import first_line, is_out_of_memory
from colab_helpers.settings import Settings

FileState = Literal["present", "unknown", "damaged", "missing"]


@dataclass(frozen=True)
class ModelFile:
    """A model's file and its state."""

    model: ModelEntry
    path: Path
    state: FileState = "missing"  # ``present``: a published file; ``unknown`` is used as well
    sha256: str = ""
    problem: ModelError | None = None  # of a damaged file
    record: ModelRecord | None = None  # of a usable file
    notes: tuple[str, ...] = ()

    @property
    def resumable(self) -> int:
        """Bytes left by an interrupted download."""
        parts = (part_path(self.path, source.digest) for source in self.model.sources)
        return max(map(file_size, parts), default=0)


def inspect_file(entry: ModelEntry, path: Path, *, verify: bool = False, loads: bool = False) -> ModelFile:
    """Determine the state of an existing model file; raise OSError if it cannot be read.

    With ``verify`` it is hashed even if its size and modification time are those recorded. A file that is
    neither published nor recorded is loaded once, unless it is known that it ``loads``.
    """
    record = read_record(path)
    unchanged = record is not None and record.still_describes(path)
    sha256 = record.sha256 if record is not None and unchanged and not verify else sha256_of(path)
    if any(source.matches(path, sha256) for source in entry.sources):
        return ModelFile(entry, path, "present", sha256)
    if record is not None and unchanged and record.sha256 != sha256:
        problem: ModelError | None = ModelError(
            tr("its content has changed since it was verified, although size and modification time have not"),
            where=str(path),
            remedy=tr("the disk may be failing: fetch the file again with 'preload --verify', or replace it"),
        )
    else:
        problem = None if loads or unchanged else _load_problem(path)
    if problem:
        return ModelFile(entry, path, "damaged", sha256, problem)
    text = mark("{name}: not a published file (SHA-256 {sha256}); used anyway, origin and licence unknown")
    return ModelFile(entry, path, "unknown", sha256, notes=(tr(text, name=entry.path, sha256=sha256),))


def _load_problem(path: Path) -> ModelError | None:
    """Return why a file does not load as a network on the CPU (it is not run); None if it does."""
    try:
        create_session(str(path), "cpu", optimised=False)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return broken_model_error(path, first_line(error))
    return None


def inspect_model(
    root: Path, model: ModelEntry, *, verify: bool = False, accept: bool = False, loads: bool = False
) -> ModelFile:
    """Determine the state of a model's file and update its record; see ``inspect_file`` for the arguments.

    With ``accept`` the user accepts the model's licence, which is recorded if the file exists.
    """
    path = root / model.path
    if not path.is_file():
        return ModelFile(model, path)
    item = inspect_file(model, path, verify=verify, loads=loads)
    if item.state == "damaged":
        return item
    record, notes = _updated_record(model, path, item.sha256, accept=accept), item.notes
    try:
        write_record(path, record)
    except OSError as error:  # a models folder may be read-only on purpose
        text = mark("{path} cannot be written ({reason}): the file will be hashed again next time")
        notes += (tr(text, path=record_path(path), reason=error.strerror),)
    return replace(item, record=record, notes=notes)


def _updated_record(model: ModelEntry, path: Path, sha256: str, *, accept: bool) -> ModelRecord:
    """Return the record of a file in its present state, keeping its known origin and licence acceptance."""
    previous, accepted = read_record(path), acceptance_time(model, path)
    if accepted is None and accept and model.licence.non_commercial:
        accepted = now()
    url = previous.url if previous is not None and previous.sha256 == sha256 else ""
    return ModelRecord.of(model, path, sha256, url, accepted)


def acceptance_time(entry: ModelEntry, *paths: Path | None) -> str | None:
    """Return when the licence of a model was accepted, according to the records beside these files."""
    records = (read_record(path) for path in paths if path is not None)
    times = (one.licence_accepted_at for one in records if one and one.licence == entry.licence_id)
    return next(filter(None, times), None)


def origin_notes(settings: Settings, root: Path) -> list[str]:
    """Return a run's notes on the origin of its model files; each file is hashed once."""
    try:
        entries = required_models(settings, load_catalog(), root=root)
    except ModelError:  # a missing model is reported when it is loaded
        return []
    existing = [entry for entry in entries if (root / entry.path).is_file()]
    real = [entry for entry in existing if not is_standin(root / entry.path)]
    return [note for entry in real for note in inspect_model(root, entry, loads=True).notes]


# --- records, and publishing files ----------------------------------------------------------------------


class ModelRecord(BaseModel, extra="ignore", frozen=True):
    """What was verified about a file; stored in ``<file>.json``.

    While size and modification time match the record, the file counts as verified, so that half a gigabyte
    need not be hashed at every start. Times are in UTC.
    """

    version: Literal[1] = 1
    sha256: str
    bytes: int
    mtime_ns: int
    url: str = ""  # URL or path of its origin; empty if unknown
    licence: str  # its id
    licence_accepted_at: str | None = None  # None if not required or not accepted

    @classmethod
    def of(cls, model: ModelEntry, path: Path, sha256: str, url: str, accepted: str | None) -> ModelRecord:
        """Return the record of a file in its present state."""
        stat = path.stat()
        return cls(
            sha256=sha256,
            bytes=stat.st_size,
            mtime_ns=stat.st_mtime_ns,
            url=url,
            licence=model.licence_id,
            licence_accepted_at=accepted,
        )

    def still_describes(self, path: Path) -> bool:
        """Return whether size and modification time of a file are the recorded ones."""
        return size_and_mtime(path) == (self.bytes, self.mtime_ns)


def record_path(path: Path) -> Path:
    """Return the path of a file's record."""
    return path.with_name(path.name + ".json")


def part_path(path: Path, sha256: str = "") -> Path:
    """Return the path of a partial file, one for each expected hash."""
    # Hidden, since browsers name their own downloads "<file>.part", which must not be resumed or removed.
    return path.with_name(f".{path.name}.{sha256[:12]}.part" if sha256 else f".{path.name}.part")


def file_size(path: Path) -> int:
    """Return the size of a file in bytes; 0 if it does not exist."""
    return (size_and_mtime(path) or (0,))[0]


def read_record(path: Path) -> ModelRecord | None:
    """Return the record of a file; None if it is missing or unreadable."""
    return load_or_none(ModelRecord, record_path(path))


def recorded_hash(path: Path) -> str | None:
    """Return the recorded SHA-256 of a file if the record still describes it, else None."""
    record = read_record(path)
    return record.sha256 if record is not None and record.still_describes(path) else None


def write_record(path: Path, record: ModelRecord) -> None:
    """Write the record of a file atomically, unless unchanged; raise OSError if it cannot be written."""
    if record != read_record(path):
        write_json(record_path(path), record.model_dump())


def write_json(path: Path, data: object) -> None:
    """Write a JSON file atomically."""
    write_atomically(path, (json.dumps(data, indent=2) + "\n").encode())


def now() -> str:
    """Return the present time in UTC as ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def put_in_place(root: Path, part: Path, path: Path) -> Path | None:
    """Publish a verified file; return the quarantine path of the file it replaced, or None.

    The quarantined file's name ends in its hash instead of ``.onnx``, so that it is never loaded by mistake.
    """
    quarantined = None
    if path.exists():
        quarantined = root / "quarantine" / f"{path.name}.{sha256_of(path)}"
        quarantined.parent.mkdir(parents=True, exist_ok=True)
        path.replace(quarantined)
        record_path(path).unlink(missing_ok=True)
    try:
        publish(part, path)
    except OSError:
        if quarantined is not None:
            quarantined.replace(path)
        raise
    return quarantined
