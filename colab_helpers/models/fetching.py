"""Fetch model files once: verified, resumable, from the shared cache or the first mirror that works.

A file is published under its name only after verification; until then it is a hidden partial file in the same
folder. ``<file>.json`` beside it records what was verified. An existing file is used even if it is unknown;
only a damaged file is replaced, and only once its replacement is complete. The models folder also contains
``.locks`` (so that two processes never fetch the same file) and ``quarantine`` (replaced files).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Self

from filelock import FileLock
from pydantic import BaseModel

from colab_helpers.errors import LicenceError, ModelError, OutputError, wrap_os_error
from colab_helpers.files import same_file
from colab_helpers.language import mark, tr
from colab_helpers.machine import GIB, disk_free
from colab_helpers.models.catalog import ModelEntry
from colab_helpers.models.download import FetchOptions, MirrorError, OnBytes, download
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
"""Bytes of disk space left free."""
_NOTIFY_SECONDS = 0.25
_OFFLINE_REMEDY = mark(
    "fetch them on a machine with network access ('python -m colab_helpers preload') and put them into the "
    "models folder under these names, or run with offline=false"
)
_FAILED_REMEDY = mark(
    "check the network and try again (partial downloads are resumed), or put the files into the models "
    "folder yourself"
)

FileSource = Literal["present", "copied", "downloaded"]
SOURCE_WORDS: dict[FileSource, str] = {
    "present": mark("present"),
    "copied": mark("copied"),
    "downloaded": mark("downloaded"),
}
"""Label of each file source, to be passed to ``tr``."""


@dataclass(frozen=True)
class Progress:
    """Progress of fetching several files."""

    files_done: int
    files_total: int
    bytes_done: int
    bytes_total: int


ProgressCallback = Callable[[Progress], None]
"""Called in the thread that called ``fetch``, at most about four times a second."""


class PreloadedFile(BaseModel, extra="forbid", frozen=True):
    """A model file that is ready for use."""

    name: str
    path: Path
    source: FileSource  # ``copied``: from the shared cache
    record: ModelRecord
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, item: ModelFile, record: ModelRecord, source: FileSource, notes: Sequence[str]) -> Self:
        """Describe the file of an inspected model."""
        return cls(name=item.model.name, path=item.path, source=source, record=record, notes=tuple(notes))


class _UnavailableError(Exception):
    """A file could not be obtained; the message has one line for each attempt."""


def fetch(
    root: Path,
    models: Iterable[ModelEntry],
    options: FetchOptions,
    *,
    verify: bool = False,
    on_progress: ProgressCallback | None = None,
) -> list[PreloadedFile]:
    """Fetch the missing files of some models into a folder; return one entry for each model, in order.

    A file that cannot be obtained does not keep the others from being fetched; interrupted downloads are
    resumed by the next call. With ``verify``, files already recorded as verified are hashed again.

    Raises:
        LicenceError: A missing model has a non-commercial licence that was not accepted.
        ModelError: A file cannot be obtained; the message lists the failure of each mirror.
        OutputError: There is not enough disk space, or the folder cannot be written.
    """
    entries = {model.path: model for model in models}.values()
    files = [inspect_model(root, entry, verify=verify, accept=options.accept_licences) for entry in entries]
    missing = [item for item in files if item.record is None]
    _require_accepted(missing, options)
    _check_disk(root, missing)
    report, fetched, problems = _progress_reporter(files, missing, on_progress or (lambda _: None)), {}, []
    for done, item in enumerate(missing):
        try:
            fetched[item.path] = _fetch_locked(root, item, options, partial(report, done))
        except _UnavailableError as problem:
            problems.append(str(problem))
        report(done + 1, 0)
    _raise_problems(problems, offline=options.offline)
    return [
        PreloadedFile.of(item, item.record, "present", item.notes) if item.record else fetched[item.path]
        for item in files
    ]


def _progress_reporter(
    files: Sequence[ModelFile], missing: Sequence[ModelFile], callback: ProgressCallback
) -> Callable[[int, int], None]:
    """Return a function of the files completed and the bytes of the next one; progress never decreases."""
    before = [sum(item.model.bytes for item in missing[:done]) for done in range(len(missing) + 1)]
    furthest, reported_at, reported = 0, -_NOTIFY_SECONDS, 0

    def report(done: int, received: int) -> None:
        nonlocal furthest, reported_at, reported
        furthest = max(furthest, before[done] + received)
        if done > reported or time.monotonic() - reported_at >= _NOTIFY_SECONDS:
            reported_at, reported = time.monotonic(), done
            callback(Progress(len(files) - len(missing) + done, len(files), furthest, before[-1]))

    return report


def _fetch_locked(root: Path, planned: ModelFile, options: FetchOptions, on_bytes: OnBytes) -> PreloadedFile:
    """Fetch a file while holding its lock, unless another process has fetched it meanwhile."""
    model, path, locks = planned.model, planned.path, root / ".locks"
    remedy = mark("free space, check the permissions, or choose another models folder")
    with wrap_os_error(OutputError, mark("cannot be written ({reason})"), path, remedy):
        locks.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / f"{model.path.replace('/', '_')}.lock"):
            # The damage may have been found only by hashing, so the present file has to be hashed as well.
            verify = planned.state == "damaged"
            item = inspect_model(root, model, verify=verify, accept=options.accept_licences)
            if item.record is not None:
                return PreloadedFile.of(item, item.record, "present", item.notes)
            return _fetch_file(root, item, options, on_bytes)


def _fetch_file(root: Path, item: ModelFile, options: FetchOptions, on_bytes: OnBytes) -> PreloadedFile:
    """Fetch a file from the shared cache or a mirror, publish it and write its record."""
    model, path, notes = item.model, item.path, list[str]()
    accepted, copied = _acceptance(item, options), _copy_from_cache(item, options, notes)
    part, url, sha256 = copied or _download_from_mirrors(item, options, notes, on_bytes)
    if (quarantined := put_in_place(root, part, path)) is not None:
        text = mark("{path}: replaced; the previous file was moved to {kept}")
        notes.append(tr(text, path=model.path, kept=quarantined))
    for digest in ("", *(source.digest for source in model.sources)):  # partial files of all sources
        part_path(path, digest).unlink(missing_ok=True)
    record = ModelRecord.of(model, path, sha256, url, accepted)
    write_record(path, record)
    if copied is None:
        _copy_to_cache(item, record, options, notes)
    return PreloadedFile.of(item, record, "copied" if copied else "downloaded", notes)


def _download_from_mirrors(
    item: ModelFile, options: FetchOptions, notes: Sequence[str], on_bytes: OnBytes
) -> tuple[Path, str, str]:
    """Try the mirrors in order; return the verified partial file, its URL and its SHA-256."""
    model, attempts = item.model, list(notes)
    if item.problem is not None:
        problem = item.problem
        attempts.insert(0, tr("{problem}; what to do: {remedy}", problem=problem.what, remedy=problem.remedy))
    if options.offline and model.sources:
        attempts += [tr("missing ({size} bytes); available from:", size=model.bytes), *model.urls]
    for source in () if options.offline else model.sources:
        part = part_path(item.path, source.digest)
        for url in source.urls:
            try:
                return part, url, download(url, part, source, options, on_bytes)
            except MirrorError as error:
                attempts.append(f"{url}: {error}")
    raise _UnavailableError("\n    ".join([f"  {model.path}", *attempts]))


# --- the shared cache ---------------------------------------------------------------------------------


def _copy_from_cache(
    item: ModelFile, options: FetchOptions, notes: list[str]
) -> tuple[Path, str, str] | None:
    """Copy a valid file from the shared cache; return the partial file, its origin and its SHA-256."""
    cache_path, part = options.cache_path(item.model), part_path(item.path)
    if cache_path is None or not cache_path.is_file() or same_file(cache_path, item.path):
        return None
    try:
        shutil.copyfile(cache_path, part)
        copy = inspect_file(item.model, part)
    except OSError as error:  # a fault of this disk is reported when downloading
        notes.append(tr("{path} could not be read ({reason})", path=cache_path, reason=error.strerror))
        return None
    unchanged = recorded_hash(cache_path) in (None, copy.sha256)
    if copy.state == "present" or (copy.state == "unknown" and unchanged):
        notes += copy.notes
        return part, str(cache_path), copy.sha256
    part.unlink()
    notes.append(tr("the copy in the shared cache is damaged and was not used: {path}", path=cache_path))
    return None


def _copy_to_cache(item: ModelFile, record: ModelRecord, options: FetchOptions, notes: list[str]) -> None:
    """Copy a downloaded file to the shared cache; a failure is only noted."""
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
        with suppress(OSError):
            part.unlink(missing_ok=True)
        text = mark("{path} could not be copied to the shared cache ({reason})")
        notes.append(tr(text, path=item.model.path, reason=error.strerror))


# --- checks before fetching ---------------------------------------------------------------------------


def _acceptance(item: ModelFile, options: FetchOptions) -> str | None:
    """Return when the licence was accepted: as recorded here or in the cache, else now, else None."""
    if not item.model.licence.non_commercial:
        return None
    recorded = acceptance_time(item.model, item.path, options.cache_path(item.model))
    return recorded or (now() if options.accept_licences else None)


def _require_accepted(missing: Iterable[ModelFile], options: FetchOptions) -> None:
    """Raise LicenceError, listing models and terms, if a non-commercial licence was not accepted."""
    refused = []
    for item in missing:
        cache_path = options.cache_path(item.model)
        # A file that cannot be had offline is reported as missing instead.
        obtainable = not options.offline or (cache_path is not None and cache_path.is_file())
        if item.model.licence.non_commercial and obtainable and not _acceptance(item, options):
            refused.append(item.model)
    if refused:
        raise LicenceError(
            tr(
                "these models are for non-commercial use only, and their licences have not been "
                "accepted:\n{licences}",
                licences="\n".join(map(_licence_line, refused)),
            ),
            remedy=tr(
                "read the licences; if their terms allow your use, run '{command}' with the same settings",
                command="python -m colab_helpers preload --accept-licences",
            ),
        )


def _licence_line(model: ModelEntry) -> str:
    text, terms = mark("  {model}: {licence} ({link}). Forbidden: {forbidden}"), model.licence
    return tr(text, model=model.name, licence=tr(terms.name), link=terms.link, forbidden=tr(terms.forbids))


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
            else mark("{count} model file(s) could not be obtained:\n{files}")
        )
        raise ModelError(
            tr(text, count=len(problems), files="\n".join(problems)),
            remedy=tr(_OFFLINE_REMEDY if offline else _FAILED_REMEDY),
        )
