"""Where this runs, what memory, disk and folders there are, and which encoders work."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from colab_helpers.diagnosis.findings import Check, finding
from colab_helpers.diagnosis.subject import Subject
from colab_helpers.errors import ModelError
from colab_helpers.language import mark, tr
from colab_helpers.machine import GIB, disk_free
from colab_helpers.resources.sampler import ram_used

LEAST_MEMORY = 4 * GIB
LEAST_DISK = 2 * GIB
"""What stays free beside models and results."""
COLAB_SESSION = 12 * 3600.0
"""Longest life of a Colab session, in seconds."""
_SHORT_SESSION = 3600.0
_NVENC_REMEDY = mark(
    "nothing fails without it, the CPU does the work; in a container the driver shows its video parts with "
    "NVIDIA_DRIVER_CAPABILITIES=compute,utility,video"
)


def place(subject: Subject) -> Iterator[Check]:
    """Tell whether this is Colab, and there the time left."""
    if not subject.machine.on_colab:
        yield finding("place", tr("not Colab: {system}", system=subject.machine.system))
        return
    if subject.uptime is None:
        yield finding("place", tr("Google Colab; how much of the session's 12 hours is left is not known"))
        return
    left = max(0.0, COLAB_SESSION - subject.uptime)
    what = tr("Google Colab; at most {hours:.1f} hours of the session are left", hours=left / 3600)
    remedy = ""
    if left < _SHORT_SESSION:
        remedy = tr("start a new session before a long batch (Runtime > Disconnect and delete)")
    yield finding("place", what, remedy, warns=True, figures={"session_left_s": left})


def memory(subject: Subject) -> Iterator[Check]:
    """Check the RAM, the container's limit honoured."""
    total = subject.machine.memory_total
    free = max(0, total - ram_used())
    what = tr(
        "{total:.1f} GB RAM, {free:.1f} GB free; safe for {videos} video(s) at once",
        total=total / GIB,
        free=free / GIB,
        videos=subject.machine.safe_capacity,
    )
    remedy = "" if total >= LEAST_MEMORY else tr("use the preset 'stable' or a machine with more RAM")
    yield finding(
        "memory", what, remedy, warns=True, figures={"ram_total_bytes": total, "ram_free_bytes": free}
    )


def disk(subject: Subject) -> Iterator[Check]:
    """Check the room for results, and whether they can be written."""
    free, problem, folder = (
        disk_free(subject.folder),
        write_problem(subject.folder),
        subject.folder.absolute(),
    )
    what, remedy = tr("{free:.1f} GB free for results", free=free / GIB), ""
    if problem:
        what = tr("{folder} cannot be written: {problem}", folder=folder, problem=problem)
        remedy = tr("choose another folder")
    elif free < LEAST_DISK:
        remedy = tr("free space: 2 GB are kept free, and a result needs up to twice its target")
    yield finding("disk", what, remedy, figures={"disk_free_bytes": free})


def models_folder(subject: Subject) -> Iterator[Check]:
    """Check whether the models folder can be written, and has room for what is missing."""
    root, problem, remedy = subject.models, write_problem(subject.models), ""
    free, missing = disk_free(root), bytes_missing(subject)
    if problem:
        what = tr("{folder} cannot be written: {problem}", folder=root, problem=problem)
        remedy = tr(
            "name a writable folder in models_dir or COLAB_HELPERS_MODELS; until then no model is "
            "fetched or converted"
        )
    else:
        what = tr("{folder} can be written, {free:.1f} GB free", folder=root, free=free / GIB)
        if missing:
            what += tr("; {missing:.2f} GB of models are to be fetched", missing=missing / GIB)
        if missing and free < missing + LEAST_DISK:
            remedy = tr("free space (2 GB are kept free), or name a folder on another disk in models_dir")
    figures = {"disk_free_bytes": free, "missing_bytes": missing}
    # What is there already can be used as it is.
    yield finding("models folder", what, remedy, warns=not missing, figures=figures)


def bytes_missing(subject: Subject) -> int:
    """Add up the models the settings need and the folder lacks, where the catalogue knows their sizes."""
    from colab_helpers.models.catalog import load_catalog, needed_models

    try:
        entries = needed_models(subject.settings, load_catalog())
    except ModelError:  # a model under a name of its own; that it is missing is said with the models
        return 0
    return sum(entry.bytes or 0 for entry in entries if not (subject.models / entry.path).is_file())


def write_problem(folder: Path) -> str:
    """Return why nothing can be written into a folder (or made below its nearest parent); empty if it can.

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
    """Check Google Drive, where it is mounted; where it is not, there is nothing to say."""
    folder = subject.drive
    if folder is None:
        return
    what, remedy, problem = (
        tr("Google Drive is mounted at {folder}", folder=folder),
        "",
        write_problem(folder),
    )
    if problem:
        what = tr("Google Drive is mounted at {folder}, but: {problem}", folder=folder, problem=problem)
        remedy = tr("free space on Drive, or mount it again")
    yield finding("drive", what, remedy, warns=True)


def encoder(subject: Subject) -> Iterator[Check]:
    """Check the encoder that a run would take, and NVENC."""
    from colab_helpers.media.encoders import usable_encoders  # PyAV may be what is broken

    problems = usable_encoders()
    working = [name for name, problem in problems.items() if problem is None]
    wanted = subject.settings.output_video_encoder
    good = bool(working) if wanted == "auto" else wanted in working
    what, remedy = tr("a trial encode works with none"), ""
    if working:
        what = tr("a trial encode works with {names}", names=", ".join(working))
    if "h264_nvenc" not in working:
        what += tr("; NVENC is not usable ({problem})", problem=problems["h264_nvenc"])
        remedy = tr(_NVENC_REMEDY) if subject.machine.gpu is not None else ""
    if not good:
        remedy = tr("set output_video_encoder to auto or libx264")
    yield finding("encoder", what, remedy, warns=good)
