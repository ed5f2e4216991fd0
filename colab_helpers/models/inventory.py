"""What is there of the models a run needs: used as it is, damaged, elsewhere on this machine, or missing.

A file whose hash is not known is *unknown*, not damaged: it may be a user's own and work well. Damaged is
what cannot be used (it does not load, or is no network of its role), and what has other bytes than when it
was verified although nobody wrote to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

from colab_helpers.errors import ModelError
from colab_helpers.files import sha256_of
from colab_helpers.language import mark, tr
from colab_helpers.models.catalog import ModelEntry, Role, load_catalog, needed_models
from colab_helpers.models.identify import broken_model, elsewhere, not_a_network
from colab_helpers.models.pool import is_out_of_memory
from colab_helpers.models.records import (
    Record,
    now,
    part_path,
    read_record,
    record_path,
    size_of,
    write_record,
)
from colab_helpers.models.session import create_session, first_line, is_standin
from colab_helpers.presets import load_presets
from colab_helpers.settings import Settings

FileState = Literal["present", "unknown", "damaged"]
# How many inputs and outputs a network of each role has; None for any number.
_SIGNATURES: dict[Role, tuple[int, int | None]] = {
    "detector": (1, 9),
    "recogniser": (1, None),
    "swapper": (2, None),
    "enhancer": (1, None),
}


@dataclass(frozen=True)
class Finding:
    """What a file on disk is; ``present`` is published, or the user's own as named in the settings."""

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

    Args:
        entry: What is known of the model.
        path: The file.
        verify: Hash it even if size and time are those recorded.
        loads: It is known to be a network of its role, so it need not be tried.

    Raises:
        OSError: The file cannot be read.
    """
    record = read_record(path)
    same = record is not None and record.still_describes(path)
    sha256 = record.sha256 if record is not None and same and not verify else sha256_of(path)
    if sha256 in entry.accepted:
        return Finding("present", sha256)
    if record is not None and same and record.sha256 != sha256:
        return Finding(
            "damaged",
            sha256,
            tr("its bytes have changed since it was verified, although nobody wrote to it"),
            tr("the disk may be failing: fetch it again with 'preload --verify', or put it there anew"),
        )
    problem = None if loads or same else _role_problem(path, entry.role)
    if problem is not None:
        return Finding("damaged", sha256, problem.what, problem.remedy)
    return Finding("unknown" if entry.local is None else "present", sha256)


def _role_problem(path: Path, role: Role) -> ModelError | None:
    """Why a file is no network of a role; None if it is. It is loaded on the CPU, nothing is run."""
    if (problem := not_a_network(path)) is not None:
        return problem
    try:
        loaded = create_session(str(path), "cpu", optimised=False)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return broken_model(path, first_line(error))
    wanted, found = _SIGNATURES[role], (len(loaded.get_inputs()), len(loaded.get_outputs()))
    if found[0] == wanted[0] and wanted[1] in (None, found[1]):
        return None
    text = mark("it is a network, but no {role}: it has {inputs} inputs and {outputs} outputs")
    return ModelError(
        tr(text, role=role, inputs=found[0], outputs=found[1]),
        where=str(path),
        remedy=tr("give it a name of its own: the file of this name is another network"),
    )


def accepted_at(entry: ModelEntry, *places: Path | None) -> str | None:
    """When the licence of a model was accepted, as the record beside one of some files says."""
    records = (read_record(place) for place in places if place is not None)
    times = (found.licence_accepted_at for found in records if found and found.licence == entry.licence_id)
    return next(filter(None, times), None)


def unlisted_note(name: str) -> str:
    """That a file is used although the catalogue does not name it."""
    return tr(
        "{name}: not in the catalogue; the file that is there is used, its origin and licence are not known",
        name=name,
    )


def origin_notes(settings: Settings, root: Path) -> list[str]:
    """What a run says about the origin of the model files it loads; each file is hashed once."""
    notes: list[str] = []
    catalog = load_catalog(load_presets().models)
    try:
        entries = needed_models(settings, catalog, root=root)
    except ModelError:  # missing: opening it says what to do
        return notes
    for entry in entries:
        path = root / entry.path
        if not path.is_file() or is_standin(path):
            continue
        if entry.name not in catalog.models:
            notes.append(unlisted_note(entry.name))
        else:
            notes += look_at(root, entry, loads=True).notes
    return notes


@dataclass(frozen=True)
class ModelFile:
    """The file of a model, and what has to be done about it."""

    model: ModelEntry
    path: Path
    state: FileState | Literal["missing"]  # ``present`` and ``unknown`` are used as they are
    bytes: int | None  # of a missing file the largest its sources give, if any
    resumable: int = 0  # bytes an interrupted fetch left
    record: Record | None = None  # of the file that is there
    problem: str = ""  # what is wrong with a damaged one, and what to do
    found: Path | None = None  # where else on this machine a published file of it lies
    notes: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether it is used as it is."""
        return self.record is not None


def look_at(
    root: Path, model: ModelEntry, *, verify: bool = False, accept: bool = False, loads: bool = False
) -> ModelFile:
    """Find out what is there of one model; moves nothing.

    Args:
        root: The models root.
        model: What is needed.
        verify: See ``examine``.
        accept: The user accepts its licence; that is recorded if it is there.
        loads: See ``examine``.
    """
    path = root / model.path
    parts = (part_path(path, source.sha256[0]) for source in model.sources)
    missing = ModelFile(model, path, "missing", model.bytes, max(map(size_of, parts), default=0))
    if not path.is_file() or is_outdated_copy(model, path):
        return replace(missing, found=_published_elsewhere(model, path))
    finding = examine(model, path, verify=verify, loads=loads)
    if finding.state == "damaged":
        found = _published_elsewhere(model, path)
        return replace(missing, state="damaged", problem=finding.words, found=found)
    notes = unknown_note(model, finding)
    record = _renewed_record(model, path, finding.sha256, accept=accept)
    try:
        write_record(path, record)
    except OSError as error:  # a folder that is read-only by intent holds models all the same
        text = mark("{path} cannot be written ({reason}): hashed anew next time")
        notes.append(tr(text, path=record_path(path), reason=error.strerror))
    return ModelFile(model, path, finding.state, record.bytes, record=record, notes=tuple(notes))


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


def is_outdated_copy(model: ModelEntry, path: Path) -> bool:
    """Whether a user's own file changed since it was copied here, and the copy is as it was made."""
    local, record = model.local, read_record(path)
    if local is None or not local.is_file() or record is None or local.samefile(path):
        return False
    if record.source != "copied" or not record.still_describes(path):
        return False
    changed = local.stat().st_size != record.bytes or local.stat().st_mtime_ns > record.mtime_ns
    return changed or record.url != str(local)


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
        if found.st_size in sizes and _known_hash(place, found.st_mtime_ns) in model.accepted:
            return place
    return None


@cache
def _known_hash(path: Path, _mtime_ns: int) -> str:
    return sha256_of(path)
