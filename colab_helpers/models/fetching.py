"""Fetching models once: verified, resumable, from the shared cache or whichever mirror works.

A file appears under its name only after its bytes were proved to be the right ones. Until then it is hidden
beside its place; ``<file>.json`` there records what was verified. What lies there already is used, also where
nobody knows it; only a damaged file is replaced, and only once its replacement is there. The models root also
has ``.locks`` (one per file, so that two processes never fetch the same) and ``quarantine`` (files that were
replaced).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from filelock import FileLock
from pydantic import BaseModel

from colab_helpers.errors import LicenceError, ModelError, OutputError, wrap_os_error
from colab_helpers.files import same_file
from colab_helpers.language import mark, tr
from colab_helpers.machine import GIB, disk_free
from colab_helpers.models.catalog import ModelEntry
from colab_helpers.models.download import FetchOptions, MirrorError, download
from colab_helpers.models.inventory import (
    ModelFile,
    ModelRecord,
    acceptance_time,
    inspect_file,
    inspect_model,
    now,
    part_path,
    put_in_place,
    recorded_hash,
    write_record,
)

DISK_RESERVE = 2 * GIB
"""Disk left free beside the models."""
_NOTIFY_SECONDS = 0.25
_OFFLINE_REMEDY = mark(
    "fetch them on a machine with a network ('python -m colab_helpers preload') and put them into the "
    "models folder under these names, or run with offline=false"
)
_FAILED_REMEDY = mark(
    "check the network and try again (what arrived is kept and resumed), or put the files into the models "
    "folder yourself"
)

FileSource = Literal["present", "copied", "downloaded"]
SOURCE_WORDS: dict[FileSource, str] = {
    "present": mark("present"),
    "copied": mark("copied"),
    "downloaded": mark("downloaded"),
}
"""What each way is called; ``tr`` of it is shown."""


@dataclass(frozen=True)
class Progress:
    """How far a fetch of several files is."""

    files_done: int
    files_total: int
    bytes_done: int
    bytes_total: int


ProgressCallback = Callable[[Progress], None]
"""Called in the thread that called ``fetch``, at most about four times a second."""


class PreloadedFile(BaseModel, extra="forbid", frozen=True):
    """The file of a model, in place."""

    name: str
    path: Path
    source: FileSource  # how it came this time; ``copied`` from the shared cache
    record: ModelRecord
    notes: tuple[str, ...] = ()  # what else happened

    @classmethod
    def of(
        cls, item: ModelFile, record: ModelRecord, source: FileSource, notes: Sequence[str]
    ) -> PreloadedFile:
        """Describe a file by its record, and by how it came this time."""
        return cls(name=item.model.name, path=item.path, source=source, record=record, notes=tuple(notes))


class _UnavailableError(Exception):
    """A file that could not be had; the text has one line for each thing that was tried."""


def fetch(
    root: Path,
    models: Iterable[ModelEntry],
    options: FetchOptions,
    *,
    verify: bool = False,
    on_progress: ProgressCallback | None = None,
) -> list[PreloadedFile]:
    """Bring every file of some models into a folder, one after another; return one entry for each, in order.

    Files that can be had are brought even when others cannot; what was interrupted is resumed next time. With
    ``verify`` also the files that count as verified are hashed.

    Raises:
        LicenceError: A missing model's licence limits its use and was not accepted.
        ModelError: Some file cannot be had; the message lists what each address did.
        OutputError: The disk has not enough room, or cannot be written.
    """
    entries = {model.path: model for model in models}.values()
    files = [inspect_model(root, entry, verify=verify, accept=options.accept_licences) for entry in entries]
    missing = [item for item in files if item.record is None]
    _require_accepted(missing, options)
    _check_disk(root, missing)
    tell, brought, problems = _progress_reporter(files, missing, on_progress or (lambda _: None)), {}, []
    for done, item in enumerate(missing):
        try:
            brought[item.path] = _obtain(root, item, options, partial(tell, done))
        except _UnavailableError as problem:
            problems.append(str(problem))
        tell(done + 1, 0)
    _raise_problems(problems, offline=options.offline)
    return [
        PreloadedFile.of(item, item.record, "present", item.notes) if item.record else brought[item.path]
        for item in files
    ]


def _progress_reporter(
    files: Sequence[ModelFile], missing: Sequence[ModelFile], callback: ProgressCallback
) -> Callable[[int, int], None]:
    """Return what is told how many missing files are done, and bytes of the next; it never goes back."""
    before = [sum(item.model.bytes for item in missing[:done]) for done in range(len(missing) + 1)]
    furthest, told_at, told = 0, -_NOTIFY_SECONDS, 0

    def tell(done: int, arrived: int) -> None:
        nonlocal furthest, told_at, told
        furthest = max(furthest, before[done] + arrived)
        if done > told or time.monotonic() - told_at >= _NOTIFY_SECONDS:
            told_at, told = time.monotonic(), done
            callback(Progress(len(files) - len(missing) + done, len(files), furthest, before[-1]))

    return tell


def _obtain(
    root: Path, planned: ModelFile, options: FetchOptions, arrived: Callable[[int], None]
) -> PreloadedFile:
    """Obtain a file while no other process does."""
    model, path, locks = planned.model, planned.path, root / ".locks"
    remedy = mark("free space, check the permissions, or choose another models folder")
    with wrap_os_error(OutputError, mark("cannot be written ({reason})"), path, remedy):
        locks.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / f"{model.path.replace('/', '_')}.lock"):
            # Another process may have brought it while this one waited. Wrong bytes may have been found only
            # by hashing, so what is there now has to be hashed, too.
            verify = planned.state == "damaged"
            item = inspect_model(root, model, verify=verify, accept=options.accept_licences)
            if item.record is not None:
                return PreloadedFile.of(item, item.record, "present", item.notes)
            return _fetch_file(root, item, options, arrived)


def _fetch_file(
    root: Path, item: ModelFile, options: FetchOptions, arrived: Callable[[int], None]
) -> PreloadedFile:
    """Bring a file from the shared cache or a mirror, and record it."""
    model, path, notes = item.model, item.path, list[str]()
    accepted, copied = _acceptance(item, options), _copy_from_cache(item, options, notes)
    part, url, sha256 = copied or _download_from_mirrors(item, options, notes, arrived)
    if (kept := put_in_place(root, part, path)) is not None:
        text = mark("{path}: was replaced; what lay there before is kept as {kept}")
        notes.append(tr(text, path=model.path, kept=kept))
    for digest in ("", *(source.digest for source in model.sources)):  # what others left unfinished, too
        part_path(path, digest).unlink(missing_ok=True)
    there = path.stat()
    record = ModelRecord(
        sha256=sha256,
        bytes=there.st_size,
        mtime_ns=there.st_mtime_ns,
        url=url,
        licence=model.licence_id,
        licence_accepted_at=accepted,
    )
    write_record(path, record)
    if copied is None:
        _share(item, record, options, notes)
    return PreloadedFile.of(item, record, "copied" if copied else "downloaded", notes)


def _download_from_mirrors(
    item: ModelFile, options: FetchOptions, notes: Sequence[str], arrived: Callable[[int], None]
) -> tuple[Path, str, str]:
    """Fetch from the mirrors in their order; return the verified part, its address and SHA-256."""
    model, tried = item.model, list(notes)
    if item.problem is not None:
        problem = item.problem
        tried.insert(0, tr("{problem}; what to do: {remedy}", problem=problem.what, remedy=problem.remedy))
    if options.offline and model.sources:
        tried += [tr("missing ({size} bytes); to be had from:", size=model.bytes), *model.urls]
    for source in () if options.offline else model.sources:
        part = part_path(item.path, source.digest)
        for url in source.urls:
            try:
                return part, url, download(url, part, source, options, arrived)
            except MirrorError as refused:
                tried.append(f"{url}: {refused}")
    raise _UnavailableError("\n    ".join([f"  {model.path}", *tried]))


# --- the shared cache ---------------------------------------------------------------------------------


def _copy_from_cache(
    item: ModelFile, options: FetchOptions, notes: list[str]
) -> tuple[Path, str, str] | None:
    """Copy from the shared cache what is right there; return the part, where it is from, its SHA-256."""
    cache_path, part = options.cache_path(item.model), part_path(item.path)
    if cache_path is None or not cache_path.is_file() or same_file(cache_path, item.path):
        return None
    try:
        shutil.copyfile(cache_path, part)
        copy = inspect_file(item.model, part)
    except OSError as error:  # or this disk: fetching tells
        notes.append(tr("{path} could not be read ({reason})", path=cache_path, reason=error.strerror))
        return None
    unchanged = recorded_hash(cache_path) in (None, copy.sha256)
    if copy.state == "present" or (copy.state == "unknown" and unchanged):
        notes += copy.notes
        return part, str(cache_path), copy.sha256
    part.unlink()
    notes.append(tr("the copy in the shared cache is damaged and was not used: {path}", path=cache_path))
    return None


def _share(item: ModelFile, record: ModelRecord, options: FetchOptions, notes: list[str]) -> None:
    """Copy a fetched file to the shared cache. The model is usable all the same if that fails."""
    cache_path, cache = options.cache_path(item.model), options.shared_cache
    if cache_path is None or cache is None:
        return
    part = part_path(cache_path)
    try:
        cache_path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(item.path, part)
        put_in_place(cache, part, cache_path)
        write_record(cache_path, record.model_copy(update={"mtime_ns": cache_path.stat().st_mtime_ns}))
    except OSError as error:
        text = mark("{path} could not be copied to the shared cache ({reason})")
        notes.append(tr(text, path=item.model.path, reason=error.strerror))


# --- what is asked first ------------------------------------------------------------------------------


def _acceptance(item: ModelFile, options: FetchOptions) -> str | None:
    """When the licence of a model was accepted: earlier, beside its file or in the cache, or now."""
    if not item.model.licence.non_commercial:
        return None
    earlier = acceptance_time(item.model, item.path, options.cache_path(item.model))
    return earlier or (now() if options.accept_licences else None)


def _require_accepted(missing: Iterable[ModelFile], options: FetchOptions) -> None:
    """Make sure that every licence which limits use was accepted, before anything is brought.

    LicenceError names the models of which none was, and what is forbidden.
    """
    refused = []
    for item in missing:
        cache_path = options.cache_path(item.model)
        # Offline it may just be reported as missing.
        within_reach = not options.offline or (cache_path is not None and cache_path.is_file())
        if item.model.licence.non_commercial and within_reach and not _acceptance(item, options):
            refused.append(item.model)
    if refused:
        raise LicenceError(
            tr(
                "these models are for non-commercial use only, and their licences have not been "
                "accepted:\n{licences}",
                licences="\n".join(map(_licence_line, refused)),
            ),
            remedy=tr(
                "read the licences; if you may use the models under them, run '{command}' "
                "with the same settings",
                command="python -m colab_helpers preload --accept-licences",
            ),
        )


def _licence_line(model: ModelEntry) -> str:
    return tr(
        "  {model}: {licence} ({link}). Forbidden: {forbidden}",
        model=model.name,
        licence=tr(model.licence.name),
        link=model.licence.link,
        forbidden=tr(model.licence.forbids),
    )


def _check_disk(root: Path, missing: Sequence[ModelFile]) -> None:
    if not missing:
        return
    sizes = (max(0, item.model.bytes - item.resumable) for item in missing)
    free, needed = disk_free(root) / GIB, (sum(sizes) + DISK_RESERVE) / GIB
    if free < needed:
        text = mark("{free:.2f} GB are free on the disk, but {needed:.2f} GB are needed (2 GB stay free)")
        raise OutputError(
            tr(text, free=free, needed=needed),
            where=str(root),
            remedy=tr("free space, or choose a folder on another disk in models_dir or COLAB_HELPERS_MODELS"),
        )


def _raise_problems(problems: Sequence[str], *, offline: bool) -> None:
    if problems:
        text = (
            mark("{count} model file(s) missing, and nothing is fetched offline:\n{files}")
            if offline
            else mark("{count} model file(s) not to be had:\n{files}")
        )
        raise ModelError(
            tr(text, count=len(problems), files="\n".join(problems)),
            remedy=tr(_OFFLINE_REMEDY if offline else _FAILED_REMEDY),
        )
