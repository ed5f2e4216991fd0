"""Fetching models once: verified, resumable, from whichever mirror works.

A file appears under its name only after its bytes were proved to be the right ones. Until then it is hidden
beside its place; ``<file>.json`` there records what was verified. What lies there already is used, also where
nobody knows it; only a damaged file is replaced, and only once its replacement is there. The models root also
has ``.locks`` (one per file, so that two processes never fetch the same) and ``quarantine`` (damaged files
that were replaced).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from colab_helpers.errors import LicenceError, ModelError, OutputError, telling
from colab_helpers.language import mark, tr
from colab_helpers.machine import GIB, disk_free
from colab_helpers.models.catalog import ModelEntry
from colab_helpers.models.download import UNWRITABLE, FetchOptions
from colab_helpers.models.inventory import ModelFile, accepted_at, look_at, take_stock
from colab_helpers.models.records import (
    FileSource,
    Record,
    now,
    part_path,
    put_in_place,
    size_of,
    write_record,
)
from colab_helpers.models.sources import FileProblem, ModelSources

DISK_RESERVE = 2 * GIB
"""Disk left free beside the models."""
_AT_ONCE = 3
_NOTIFY_SECONDS = 0.25
_OFFLINE_REMEDY = mark(
    "fetch them on a machine with a network ('python -m colab_helpers preload') and put them into the "
    "models folder under these names, or run with offline=false"
)
_FAILED_REMEDY = mark(
    "check the network and try again (what arrived is kept and resumed), or put the files into the models "
    "folder yourself"
)


@dataclass(frozen=True)
class Progress:
    """How far a fetch of several files is."""

    files_done: int
    files_total: int
    bytes_done: int
    bytes_total: int
    rate: float  # bytes per second since it began
    eta: float | None  # seconds left at that rate; None while unknown


ProgressCallback = Callable[[Progress], None]
"""Called in the thread that called ``fetch``, about four times a second."""


class PreloadedFile(BaseModel):
    """The file of a model, in place."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    path: Path
    source: FileSource  # how it came this time; ``copied`` from the shared cache or another program
    record: Record
    notes: tuple[str, ...] = ()  # what else happened

    @classmethod
    def of(cls, item: ModelFile, record: Record, source: FileSource, notes: Sequence[str]) -> PreloadedFile:
        """Describe a file by its record, and by how it came this time."""
        return cls(name=item.model.name, path=item.path, source=source, record=record, notes=tuple(notes))


def fetch(
    root: Path,
    models: Iterable[ModelEntry],
    options: FetchOptions,
    *,
    verify: bool = False,
    on_progress: ProgressCallback | None = None,
) -> list[PreloadedFile]:
    """Bring every file of some models into a folder; return one entry for each, in their order.

    Files that can be had are brought even when others cannot; what was interrupted is resumed next time. With
    ``verify`` also the files that count as verified are hashed.

    Raises:
        LicenceError: A missing model's licence limits its use and was not accepted.
        ModelError: Some file cannot be had; the message lists what each address did.
        OutputError: The disk has not enough room, or cannot be written.
    """
    files = take_stock(root, models, verify=verify, accept=options.accept_licences)
    there = {
        item.path: PreloadedFile.of(item, item.record, "present", item.notes)
        for item in files
        if item.record is not None
    }
    missing = [item for item in files if item.record is None]
    _require_accepted(missing, options)
    _check_disk(root, missing)
    there |= _bring_all(ModelSources(root, options), missing, len(there), on_progress)
    return [there[item.path] for item in files]


def _bring_all(
    sources: ModelSources, missing: Sequence[ModelFile], present: int, on_progress: ProgressCallback | None
) -> dict[Path, PreloadedFile]:
    """Bring files, telling how far it is from the caller's own thread, as notebooks need it."""
    began = time.monotonic(), sum(map(_there, missing))
    executor = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="fetch")
    try:
        # The largest first: it would otherwise be alone at the end.
        futures = {
            item.path: executor.submit(copy_context().run, _obtain, sources, item)
            for item in sorted(missing, key=lambda item: -item.model.bytes)
        }
        pending: set[Future[PreloadedFile]] = set(futures.values())
        while pending:
            _, pending = wait(pending, timeout=_NOTIFY_SECONDS, return_when=FIRST_COMPLETED)
            if on_progress is not None:
                left = [item for item in missing if futures[item.path] in pending]
                on_progress(_progress(missing, left, present, began))
    except BaseException:
        sources.cancelled.set()
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
    _raise_problems([future.exception() for future in futures.values()], offline=sources.options.offline)
    return {path: future.result() for path, future in futures.items()}


def _progress(
    missing: Sequence[ModelFile], left: Sequence[ModelFile], present: int, began: tuple[float, int]
) -> Progress:
    """How far it is, by what lies on the disk; ``began``: when, and what was there then, which is no rate."""
    total = sum(item.model.bytes for item in missing)
    done = total - sum(max(0, item.model.bytes - _there(item)) for item in left)
    # Starting a file over takes bytes away; that is not a negative rate.
    rate = max(0, done - began[1]) / max(time.monotonic() - began[0], 1e-6)
    files = present + len(missing)
    return Progress(files - len(left), files, done, total, rate, (total - done) / rate if rate else None)


def _there(item: ModelFile) -> int:
    """Bytes of a file that have arrived; a damaged one, which is to be replaced, does not count."""
    # The part first: what is published between the two looks is then counted in its place.
    part = size_of(part_path(item.path))
    placed = size_of(item.path) if item.finding is None else 0
    return max(placed, item.resumable, part)


def _obtain(sources: ModelSources, planned: ModelFile) -> PreloadedFile:
    """Obtain a file while no other process does."""
    model, path, options = planned.model, planned.path, sources.options
    remedy = mark("free space, check the permissions, or choose another models folder")
    with telling(OutputError, UNWRITABLE, path, remedy), sources.alone(model.path):
        # Another process may have brought it while this one waited. Wrong bytes may have been found only
        # by hashing, so what is there now has to be hashed, too.
        verify = planned.state == "damaged"
        item = look_at(sources.root, model, verify=verify, accept=options.accept_licences)
        if item.record is not None:
            _remove_parts(item)
            return PreloadedFile.of(item, item.record, "present", item.notes)
        accepted, notes = _acceptance(item, options), list[str]()
        path.parent.mkdir(parents=True, exist_ok=True)
        part, how, url, sha256 = sources.bring(item, notes)
        kept = put_in_place(sources.root, part, path)
        if kept is not None:
            text = mark("{path}: was replaced; what lay there before is kept as {kept}")
            notes.append(tr(text, path=model.path, kept=kept))
        _remove_parts(item)
        record = Record(
            sha256=sha256,
            bytes=path.stat().st_size,
            mtime_ns=path.stat().st_mtime_ns,
            url=url,
            source=how,
            licence=model.licence_id,
            licence_accepted_at=accepted,
        )
        write_record(path, record)
        if how == "downloaded":
            sources.share(item, record, notes)
        return PreloadedFile.of(item, record, how, notes)


def _remove_parts(item: ModelFile) -> None:
    """Remove what was left unfinished, of other sources too."""
    part_path(item.path).unlink(missing_ok=True)
    for source in item.model.sources:
        part_path(item.path, source.digest).unlink(missing_ok=True)


# --- what is asked first ------------------------------------------------------------------------------


def _acceptance(item: ModelFile, options: FetchOptions) -> str | None:
    """When the licence of a model was accepted: earlier, beside its file or in the cache, or now."""
    if not item.model.licence.non_commercial:
        return None
    earlier = accepted_at(item.model, item.path, options.cached(item.model))
    return earlier or (now() if options.accept_licences else None)


def _require_accepted(missing: Iterable[ModelFile], options: FetchOptions) -> None:
    """Make sure that every licence which limits use was accepted, before anything is brought.

    Raises:
        LicenceError: One was not; the message names the models and what is forbidden.
    """
    refused = [
        item.model
        for item in missing
        if item.model.licence.non_commercial
        and _within_reach(item, options)
        and not _acceptance(item, options)
    ]
    if refused:
        raise LicenceError(
            tr(
                "these models are for non-commercial use only, and their licences have not been "
                "accepted:\n{licences}",
                licences=licence_notice(refused),
            ),
            remedy=tr(
                "read the licences; if you may use the models under them, run '{command}'",
                command="python -m colab_helpers preload --accept-licences",
            ),
        )


def _within_reach(item: ModelFile, options: FetchOptions) -> bool:
    """Whether a file would be brought; offline it may just be reported as missing."""
    cached = options.cached(item.model)
    return not options.offline or bool(item.found or (cached and cached.is_file()))


def licence_notice(models: Iterable[ModelEntry]) -> str:
    """Licences in words, one line for each model."""
    return "\n".join(
        tr(
            "  {model}: {licence} ({link}). Forbidden: {forbidden}",
            model=model.name,
            licence=tr(model.licence.name),
            link=model.licence.link,
            forbidden=tr(model.licence.forbids),
        )
        for model in models
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


def _raise_problems(errors: Iterable[BaseException | None], *, offline: bool) -> None:
    problems = []
    for error in errors:
        if isinstance(error, FileProblem):
            problems.append(str(error))
        elif error is not None:
            raise error
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
