"""What is there of the models a run needs: used as it is, damaged, elsewhere on this machine, or missing.

A file whose hash is not known is *unknown*, not damaged: it may be a user's own and work well. Damaged is
what does not load, and what has other bytes than when it was verified although nobody wrote to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from colab_helpers.errors import ModelError
from colab_helpers.files import sha256_of
from colab_helpers.language import mark, tr
from colab_helpers.models.catalog import ModelEntry, load_catalog, needed_models
from colab_helpers.models.identify import broken_model, elsewhere, not_a_network
from colab_helpers.models.pool import first_line, is_out_of_memory
from colab_helpers.models.records import (
    Record,
    now,
    part_path,
    read_record,
    record_path,
    size_of,
    write_record,
)
from colab_helpers.models.session import create_session, is_standin
from colab_helpers.settings import Settings

FileState = Literal["present", "unknown", "damaged"]


@dataclass(frozen=True)
class Finding:
    """What a file on disk is; ``present`` is a published one."""

    state: FileState
    sha256: str
    problem: str = ""  # what is wrong with a damaged one
    remedy: str = ""  # what to do about that

    @property
    def words(self) -> str:
        """What is wrong, and what to do."""
        return tr("{problem}; what to do: {remedy}", problem=self.problem, remedy=self.remedy)


def examine(entry: ModelEntry, path: Path, *, verify: bool = False, loads: bool = False) -> Finding:
    """Find out what a model file is; one that is neither published nor recorded is loaded once.

    With ``verify`` it is hashed even if size and time are those recorded. With ``loads`` it is known to be a
    network.

    Raises:
        OSError: The file cannot be read.
    """
    record = read_record(path)
    same = record is not None and record.still_describes(path)
    sha256 = record.sha256 if record is not None and same and not verify else sha256_of(path)
    if entry.is_published(path, sha256):
        return Finding("present", sha256)
    if record is not None and same and record.sha256 != sha256:
        return Finding(
            "damaged",
            sha256,
            tr("its bytes have changed since it was verified, although nobody wrote to it"),
            tr("the disk may be failing: fetch it again with 'preload --verify', or put it there anew"),
        )
    problem = None if loads or same else _load_problem(path)
    if problem is not None:
        return Finding("damaged", sha256, problem.what, problem.remedy)
    return Finding("unknown", sha256)


def _load_problem(path: Path) -> ModelError | None:
    """Why a file is no network; None if it is. It is loaded on the CPU, nothing is run."""
    if (problem := not_a_network(path)) is not None:
        return problem
    try:
        create_session(str(path), "cpu", optimised=False)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return broken_model(path, first_line(error))
    return None


def accepted_at(entry: ModelEntry, *places: Path | None) -> str | None:
    """When the licence of a model was accepted, as the record beside one of some files says."""
    records = (read_record(place) for place in places if place is not None)
    times = (found.licence_accepted_at for found in records if found and found.licence == entry.licence_id)
    return next(filter(None, times), None)


def origin_notes(settings: Settings, root: Path) -> list[str]:
    """What a run says about the origin of the model files it loads; each file is hashed once."""
    try:
        entries = needed_models(settings, load_catalog(), root=root)
    except ModelError:  # missing: opening it says what to do
        return []
    there = [entry for entry in entries if (root / entry.path).is_file()]
    real = [entry for entry in there if not is_standin(root / entry.path)]
    return [note for entry in real for note in look_at(root, entry, loads=True).notes]


@dataclass(frozen=True)
class ModelFile:
    """The file of a model, and what has to be done about it."""

    model: ModelEntry
    path: Path
    finding: Finding | None = None  # None where nothing lies there
    record: Record | None = None  # of the file that is there and is used as it is
    found: Path | None = None  # where else on this machine a published file of a missing one lies
    notes: tuple[str, ...] = ()

    @property
    def state(self) -> FileState | Literal["missing"]:
        """What lies there; ``present`` and ``unknown`` are used as they are."""
        return self.finding.state if self.finding else "missing"

    @property
    def problem(self) -> str:
        """What is wrong with a damaged one, and what to do."""
        return self.finding.words if self.finding and self.finding.problem else ""

    @property
    def resumable(self) -> int:
        """Bytes an interrupted fetch left."""
        parts = (part_path(self.path, source.digest) for source in self.model.sources)
        return max(map(size_of, parts), default=0)


def look_at(
    root: Path, model: ModelEntry, *, verify: bool = False, accept: bool = False, loads: bool = False
) -> ModelFile:
    """Find out what is there of one model; moves nothing. See ``examine``.

    With ``accept`` the user accepts its licence; that is recorded if it is there.
    """
    path = root / model.path
    finding = examine(model, path, verify=verify, loads=loads) if path.is_file() else None
    if finding is None or finding.state == "damaged":
        return ModelFile(model, path, finding, found=_published_elsewhere(model, path))
    notes = unknown_note(model, finding)
    record = _renewed_record(model, path, finding.sha256, accept=accept)
    try:
        write_record(path, record)
    except OSError as error:  # a folder that is read-only by intent holds models all the same
        text = mark("{path} cannot be written ({reason}): hashed anew next time")
        notes.append(tr(text, path=record_path(path), reason=error.strerror))
    return ModelFile(model, path, finding, record, notes=tuple(notes))


def take_stock(root: Path, models: Iterable[ModelEntry], **options: bool) -> tuple[ModelFile, ...]:
    """Look at several models, each once; the options are those of ``look_at``."""
    return tuple(
        look_at(root, model, **options) for model in {model.path: model for model in models}.values()
    )


def unknown_note(model: ModelEntry, finding: Finding) -> list[str]:
    """Say that a file is used although nobody published it, if that is so."""
    text = mark(
        "{name}: none of the published files (SHA-256 {sha256}); it is used as it is, its origin and licence "
        "are not known"
    )
    return [tr(text, name=model.path, sha256=finding.sha256)] if finding.state == "unknown" else []


def _renewed_record(model: ModelEntry, path: Path, sha256: str, *, accept: bool) -> Record:
    """The record of a file as it is now; what is known about its origin and its licence is kept."""
    found, earlier = path.stat(), read_record(path)
    accepted = accepted_at(model, path)
    if accepted is None and accept and model.licence.non_commercial:
        accepted = now()
    same = earlier is not None and earlier.sha256 == sha256
    kept = earlier.model_dump() if earlier is not None and same else {"source": "present"}
    current = {"sha256": sha256, "bytes": found.st_size, "mtime_ns": found.st_mtime_ns}
    return Record(**{**kept, **current, "licence": model.licence_id, "licence_accepted_at": accepted})


def namesake_note(item: ModelFile) -> list[str]:
    """Where a file of the model's name lies that nobody published: the user may use it all the same."""
    found = next(elsewhere(item.path, item.model.file_names), None)
    if found is None:
        return []
    text = mark("{found} has this name, but is none of the published files; to use it, copy it to {path}")
    return [tr(text, found=found, path=item.path)]


def _published_elsewhere(model: ModelEntry, path: Path) -> Path | None:
    """Where else on this machine a published file of a model lies: told by its size, then by its hash."""
    sizes = {source.bytes for source in model.sources}
    for place in elsewhere(path, model.file_names) if model.sources else ():
        found = place.stat()
        if found.st_size in sizes and model.is_published(place, _known_hash(place, found.st_mtime_ns)):
            return place
    return None


@cache
def _known_hash(path: Path, _mtime_ns: int) -> str:
    return sha256_of(path)
