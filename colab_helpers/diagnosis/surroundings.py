"""Where this runs, and what memory, disk and folders there are."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from colab_helpers.diagnosis.findings import Check
from colab_helpers.diagnosis.subject import Subject
from colab_helpers.errors import ModelError
from colab_helpers.language import tr
from colab_helpers.machine import GIB, disk_free
from colab_helpers.resources.sampler import ram_used
from colab_helpers.settings import load_presets

LEAST_MEMORY = 4 * GIB
LEAST_DISK = 2 * GIB
"""What stays free beside models and results."""

COLAB_SESSION = 12 * 3600.0
"""Longest life of a Colab session, in seconds."""
_SHORT_SESSION = 3600.0


def place(subject: Subject) -> Iterator[Check]:
    """Colab or not, and there the time left."""
    if not subject.machine.on_colab:
        yield Check(
            name="place", status="pass", detail=tr("not Colab: {system}", system=subject.machine.system)
        )
        return
    if subject.uptime is None:
        detail = tr("Google Colab; how much of the session's 12 hours is left is not known")
        yield Check(name="place", status="pass", detail=detail)
        return
    left = max(0.0, COLAB_SESSION - subject.uptime)
    short = left < _SHORT_SESSION
    yield Check(
        name="place",
        status="warn" if short else "pass",
        detail=tr("Google Colab; at most {hours:.1f} hours of the session are left", hours=left / 3600),
        remedy=tr("start a new session before a long batch (Runtime > Disconnect and delete)")
        if short
        else "",
        figures={"session_left_s": left},
    )


def memory(subject: Subject) -> Iterator[Check]:
    """RAM, the container's limit honoured."""
    total = subject.machine.memory_total
    free = max(0, total - ram_used())
    enough = total >= LEAST_MEMORY
    yield Check(
        name="memory",
        status="pass" if enough else "warn",
        detail=tr(
            "{total:.1f} GB RAM, {free:.1f} GB free; safe for {videos} video(s) at once",
            total=total / GIB,
            free=free / GIB,
            videos=subject.machine.safe_capacity,
        ),
        remedy="" if enough else tr("use the preset 'stable' or a machine with more RAM"),
        figures={"ram_total_bytes": float(total), "ram_free_bytes": float(free)},
    )


def disk(subject: Subject) -> Iterator[Check]:
    """Room for results, and whether they can be written."""
    free = disk_free(subject.folder)
    problem = write_problem(subject.folder)
    enough = free >= LEAST_DISK
    if problem:
        detail, remedy = (
            tr("{folder} cannot be written: {problem}", folder=subject.folder.absolute(), problem=problem),
            tr("choose another folder"),
        )
    else:
        detail = tr("{free:.1f} GB free for results", free=free / GIB)
        remedy = (
            "" if enough else tr("free space: 2 GB are kept free, and a result needs up to twice its target")
        )
    yield Check(
        name="disk",
        status="fail" if problem or not enough else "pass",
        detail=detail,
        remedy=remedy,
        figures={"disk_free_bytes": float(free)},
    )


def models_folder(subject: Subject) -> Iterator[Check]:
    """Whether the models folder can be written, and has room for what is missing."""
    root = subject.models
    free, missing = disk_free(root), bytes_missing(subject)
    problem = write_problem(root)
    figures = {"disk_free_bytes": float(free), "missing_bytes": float(missing)}
    if problem:
        yield Check(
            name="models folder",
            # What is there already can be used as it is.
            status="fail" if missing else "warn",
            detail=tr("{folder} cannot be written: {problem}", folder=root, problem=problem),
            remedy=tr(
                "name a writable folder in models_dir or COLAB_HELPERS_MODELS; until then no model is "
                "fetched or converted"
            ),
            figures=figures,
        )
        return
    short = missing > 0 and free < missing + LEAST_DISK
    yield Check(
        name="models folder",
        status="fail" if short else "pass",
        detail=tr("{folder} can be written, {free:.1f} GB free", folder=root, free=free / GIB)
        + (tr("; {missing:.2f} GB of models are to be fetched", missing=missing / GIB) if missing else ""),
        remedy=tr("free space (2 GB are kept free), or name a folder on another disk in models_dir")
        if short
        else "",
        figures=figures,
    )


def bytes_missing(subject: Subject) -> int:
    """Sizes of the models the settings need and the folder lacks, where the catalogue knows them."""
    from colab_helpers.models.catalog import load_catalog, needed_models

    try:
        entries = needed_models(subject.settings, load_catalog(load_presets().models))
    except ModelError:  # a model under a name of its own; that it is missing is said with the models
        return 0
    return sum(entry.bytes or 0 for entry in entries if not (subject.models / entry.path).is_file())


def write_problem(folder: Path) -> str:
    """Why nothing can be written into a folder (or made below its nearest parent); empty if it can.

    Found by writing: permissions say nothing of read-only disks, quotas and root.
    """
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"\0" * 4096)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def drive(subject: Subject) -> Iterator[Check]:
    """Google Drive, where it is mounted; where it is not, there is nothing to say."""
    if subject.drive is None:
        return
    problem = write_problem(subject.drive)
    yield Check(
        name="drive",
        status="warn" if problem else "pass",
        detail=tr(
            "Google Drive is mounted at {folder}, but: {problem}", folder=subject.drive, problem=problem
        )
        if problem
        else tr("Google Drive is mounted at {folder}", folder=subject.drive),
        remedy=tr("free space on Drive, or mount it again") if problem else "",
    )
