"""What is there of the models a run needs: used as it is, damaged, or missing.

A file whose hash is not known is *unknown*, not damaged: it may be a user's own and work well. Damaged is
what does not load, and what has other bytes than when it was verified although nobody wrote to it. What was
verified is in a record beside the file.
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
    """The file of a model, and what it is; ``present`` is a published one."""

    model: ModelEntry
    path: Path
    state: FileState = "missing"  # ``present`` and ``unknown`` are used as they are
    sha256: str = ""
    problem: ModelError | None = None  # what is wrong with a damaged one, and what to do
    record: ModelRecord | None = None  # of one that is used
    notes: tuple[str, ...] = ()

    @property
    def resumable(self) -> int:
        """Bytes an interrupted fetch left."""
        parts = (part_path(self.path, source.digest) for source in self.model.sources)
        return max(map(file_size, parts), default=0)


def inspect_file(entry: ModelEntry, path: Path, *, verify: bool = False, loads: bool = False) -> ModelFile:
    """Find out what a model file is; one that is neither published nor recorded is loaded once.

    With ``verify`` it is hashed even if size and time are those recorded. With ``loads`` it is known to be a
    network. OSError where it cannot be read.
    """
    record = read_record(path)
    same = record is not None and record.still_describes(path)
    sha256 = record.sha256 if record is not None and same and not verify else sha256_of(path)
    if any(source.gives(path, sha256) for source in entry.sources):
        return ModelFile(entry, path, "present", sha256)
    if record is not None and same and record.sha256 != sha256:
        problem: ModelError | None = ModelError(
            tr("its bytes have changed since it was verified, although nobody wrote to it"),
            where=str(path),
            remedy=tr(
                "the disk may be failing: fetch it again with 'preload --verify', or put it there anew"
            ),
        )
    else:
        problem = None if loads or same else _load_problem(path)
    text = mark(
        "{name}: none of the published files (SHA-256 {sha256}); it is used as it is, its origin and licence "
        "are not known"
    )
    note = tr(text, name=entry.path, sha256=sha256)
    state: FileState = "damaged" if problem else "unknown"
    return ModelFile(entry, path, state, sha256, problem, notes=() if problem else (note,))


def _load_problem(path: Path) -> ModelError | None:
    """Why a file is no network; None if it is. It is loaded on the CPU, nothing is run."""
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
    """Find out what is there of one model, see ``inspect_file``, and record it; moves nothing.

    With ``accept`` the user accepts its licence; that is recorded if it is there.
    """
    path = root / model.path
    if not path.is_file():
        return ModelFile(model, path)
    item = inspect_file(model, path, verify=verify, loads=loads)
    if item.state == "damaged":
        return item
    record, notes = _renewed_record(model, path, item.sha256, accept=accept), item.notes
    try:
        write_record(path, record)
    except OSError as error:  # a folder that is read-only by intent holds models all the same
        text = mark("{path} cannot be written ({reason}): hashed anew next time")
        notes += (tr(text, path=record_path(path), reason=error.strerror),)
    return replace(item, record=record, notes=notes)


def _renewed_record(model: ModelEntry, path: Path, sha256: str, *, accept: bool) -> ModelRecord:
    """The record of a file as it is now; what is known about its origin and its licence is kept."""
    there, earlier = path.stat(), read_record(path)
    accepted = acceptance_time(model, path)
    if accepted is None and accept and model.licence.non_commercial:
        accepted = now()
    return ModelRecord(
        sha256=sha256,
        bytes=there.st_size,
        mtime_ns=there.st_mtime_ns,
        url=earlier.url if earlier is not None and earlier.sha256 == sha256 else "",
        licence=model.licence_id,
        licence_accepted_at=accepted,
    )


def acceptance_time(entry: ModelEntry, *places: Path | None) -> str | None:
    """When the licence of a model was accepted, as the record beside one of some files says."""
    records = (read_record(place) for place in places if place is not None)
    times = (
        load_or_none.licence_accepted_at
        for load_or_none in records
        if load_or_none and load_or_none.licence == entry.licence_id
    )
    return next(filter(None, times), None)


def origin_notes(settings: Settings, root: Path) -> list[str]:
    """What a run says about the origin of the model files it loads; each file is hashed once."""
    try:
        entries = required_models(settings, load_catalog(), root=root)
    except ModelError:  # missing: opening it says what to do
        return []
    there = [entry for entry in entries if (root / entry.path).is_file()]
    real = [entry for entry in there if not is_standin(root / entry.path)]
    return [note for entry in real for note in inspect_model(root, entry, loads=True).notes]


# --- records, and a file's way into place ---------------------------------------------------------------


class ModelRecord(BaseModel, extra="ignore", frozen=True):
    """What was verified about a file; kept in ``<file>.json``.

    As long as size and modification time are those of the record, the file counts as verified and half a
    gigabyte need not be hashed at every start. Times are in UTC.
    """

    version: Literal[1] = 1
    sha256: str
    bytes: int
    mtime_ns: int
    url: str = ""  # address or path it came from; empty if it was simply there
    licence: str  # its id
    licence_accepted_at: str | None = None  # None where nothing had to be accepted or nobody did

    def still_describes(self, path: Path) -> bool:
        """Whether size and modification time of a file are the recorded ones."""
        return size_and_mtime(path) == (self.bytes, self.mtime_ns)


def record_path(path: Path) -> Path:
    """Where the record of a file is kept."""
    return path.with_name(path.name + ".json")


def part_path(path: Path, sha256: str = "") -> Path:
    """Where a file grows until it is complete and verified; told apart by the hash it is to have."""
    # Hidden: browsers call what they are fetching "<file>.part", and that is not ours to resume or remove.
    return path.with_name(f".{path.name}.{sha256[:12]}.part" if sha256 else f".{path.name}.part")


def file_size(path: Path) -> int:
    """Return the bytes of a file; 0 if it is not there."""
    return (size_and_mtime(path) or (0,))[0]


def read_record(path: Path) -> ModelRecord | None:
    """The record of a file; None if there is none, or none that can be read (then it is hashed anew)."""
    return load_or_none(ModelRecord, record_path(path))


def recorded_hash(path: Path) -> str | None:
    """SHA-256 of a file as recorded, if the record still describes it."""
    record = read_record(path)
    return record.sha256 if record is not None and record.still_describes(path) else None


def write_record(path: Path, record: ModelRecord) -> None:
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
