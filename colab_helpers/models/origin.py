"""Whether a model file is one of those that were published, one that nobody knows, or damaged.

A file whose hash is not known is *unknown*, not damaged: it may be a user's own and work well. Damaged is
what cannot be used (it does not load, or is no network of its role), and what has other bytes than when it
was verified although nobody wrote to it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from colab_helpers.errors import ModelError
from colab_helpers.files import sha256_of
from colab_helpers.language import tr
from colab_helpers.models.catalog import ModelEntry, load_catalog, needed_models
from colab_helpers.models.records import Record, now, read_record, write_record
from colab_helpers.models.session import is_standin, role_problem
from colab_helpers.presets import load_presets
from colab_helpers.settings import Settings

FileState = Literal["present", "unknown", "damaged"]


@dataclass(frozen=True)
class Finding:
    """What a file on disk is.

    Attributes:
        state: ``present``: published, or the user's own as named in the settings.
        sha256: Of its bytes.
        record: What is recorded of it, if that still holds; None has it recorded anew.
        problem: What is wrong with a damaged one.
        remedy: What to do about that.
    """

    state: FileState
    sha256: str
    record: Record | None = None
    problem: str = ""
    remedy: str = ""

    @property
    def words(self) -> str:
        """What is wrong, and what to do."""
        return tr("{problem}; what to do: {remedy}", problem=self.problem, remedy=self.remedy)


def examine(entry: ModelEntry, path: Path, *, verify: bool = False, loads: bool = False) -> Finding:
    """Find out what a model file is; a file that is neither published nor recorded is loaded once.

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
        return Finding("present", sha256, record if same and not verify else None)
    if record is not None and same and record.sha256 != sha256:
        return Finding(
            "damaged",
            sha256,
            problem=tr("its bytes have changed since it was verified, although nobody wrote to it"),
            remedy=tr(
                "the disk may be failing: fetch it again with 'preload --verify', or put it there anew"
            ),
        )
    problem = None if loads or same else role_problem(path, entry.role)
    if problem is not None:
        return Finding("damaged", sha256, problem=problem.what, remedy=problem.remedy)
    own = entry.local is not None and entry.sha256 is None
    return Finding("present" if own else "unknown", sha256, record if same and not verify else None)


def unknown_note(name: str, sha256: str) -> str:
    """That a file is used although nobody published it."""
    return tr(
        "{name}: none of the published files (SHA-256 {sha256}); it is used as it is, its origin and licence "
        "are not known",
        name=name,
        sha256=sha256,
    )


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
            continue
        found = examine(entry, path, loads=True)
        if found.state == "unknown":
            notes.append(unknown_note(entry.path, found.sha256))
        if found.record is None and found.state != "damaged":
            with suppress(OSError):  # hashed anew next time
                write_record(path, new_record(entry, path, found.sha256))
    return notes


def new_record(entry: ModelEntry, path: Path, sha256: str) -> Record:
    """The record of a file that was simply there."""
    found = path.stat()
    return Record(
        sha256=sha256,
        bytes=found.st_size,
        mtime_ns=found.st_mtime_ns,
        source="present",
        licence=entry.licence_id,
        verified_at=now(),
    )
