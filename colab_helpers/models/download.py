"""Fetching models once: verified, resumable, from whichever mirror works.

A file appears under its name only after its bytes were proved to be the right ones. Until then it is
``.<file>.part``; beside it, ``<file>.json`` records what was verified. What lies there already is used, also
where nobody knows it; only a damaged file is replaced, and only once its replacement is there. The models
root also has ``.locks`` (one per file, so that two processes never fetch the same), ``.archives`` (zips in
use) and ``quarantine`` (damaged files that were replaced).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from colab_helpers.errors import LicenceError, ModelError, OutputError, UsageError
from colab_helpers.language import mark, tr
from colab_helpers.machine import GIB, disk_free
from colab_helpers.models.catalog import ModelEntry
from colab_helpers.models.inventory import (
    DISK_RESERVE,
    ModelFile,
    accepted_at,
    bytes_missing,
    is_outdated_copy,
    look_at,
    renewed_record,
    take_stock,
)
from colab_helpers.models.progress import ProgressCallback
from colab_helpers.models.records import (
    FileSource,
    Record,
    now,
    part_path,
    put_in_place,
    read_record,
    replace_damaged,
    write_record,
)
from colab_helpers.models.sources import FileProblem, ModelSources
from colab_helpers.models.transfer import FetchOptions, discard

_AT_ONCE = 3
_NOTIFY_SECONDS = 0.25
_OFFLINE_REMEDY = mark(
    "fetch them on a machine with a network ('python -m colab_helpers preload') and put them into the "
    "models folder under these names, or run with offline=false"
)
_FAILED_REMEDY = mark(
    "check the network and try again (what arrived is kept and resumed), set a proxy or a mirror prefix, "
    "or put the files into the models folder yourself"
)


class PreloadedFile(BaseModel):
    """The file of a model, in place."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    role: str
    path: Path
    bytes: int
    source: FileSource  # ``copied`` from the shared cache, the user's own path or another program
    origin: str  # address or path it once came from; empty if it was simply there
    sha256: str
    known: bool  # a published file, or the user's own
    licence: str
    licence_link: str
    non_commercial: bool
    licence_accepted_at: str | None  # in UTC, if there was something to accept
    seconds: float = 0.0  # waiting for other processes included
    notes: tuple[str, ...] = ()  # what else happened


def fetch(
    root: Path,
    models: Iterable[ModelEntry],
    options: FetchOptions,
    *,
    verify: bool = False,
    on_progress: ProgressCallback | None = None,
) -> list[PreloadedFile]:
    """Bring every file of some models into a folder.

    Files that can be had are brought even when others cannot; what was interrupted is resumed next time.

    Args:
        root: The models root; made if missing.
        models: What is needed.
        options: How files may be brought.
        verify: Hash also the files that count as verified.
        on_progress: See ``ProgressCallback``.

    Returns:
        One entry per file, in the order of the models.

    Raises:
        LicenceError: A missing model's licence limits its use and was not accepted.
        ModelError: Some file cannot be had; the message lists what each address did.
        OutputError: The disk has not enough room, or cannot be written.
        UsageError: A proxy or prefix that is not an address.
    """
    _check_address("proxy", options.proxy, ("http://", "https://", "socks4", "socks5"))
    _check_address("mirror_prefix", options.mirror_prefix, ("http://", "https://"))
    files = take_stock(root, models, verify=verify, accept_licences=options.accept_licences)
    missing = [item for item in files if not item.usable]
    _require_accepted(missing, options)
    _check_disk(root, missing)
    brought = _bring_all(ModelSources(root, options), missing, len(files) - len(missing), on_progress)
    return [brought[item.path] if item.path in brought else _present(item) for item in files]


def _bring_all(
    sources: ModelSources, missing: Sequence[ModelFile], present: int, on_progress: ProgressCallback | None
) -> dict[Path, PreloadedFile]:
    """Bring files, telling how far it is from the caller's own thread, as notebooks need it."""
    for item in missing:
        sources.meter.update(item.model.path, item.resumable, item.bytes)
    executor = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="fetch")
    try:
        # The largest first: it would otherwise be alone at the end.
        futures = {
            item.path: executor.submit(copy_context().run, _obtain_alone, sources, item)
            for item in sorted(missing, key=lambda item: -(item.bytes or 0))
        }
        pending: set[Future[PreloadedFile]] = set(futures.values())
        while pending:
            _, pending = wait(pending, timeout=_NOTIFY_SECONDS, return_when=FIRST_COMPLETED)
            if on_progress is not None:
                total = present + len(missing)
                on_progress(sources.meter.progress(total - len(pending), total))
    except BaseException:
        sources.cancelled.set()
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
        sources.remove_zips()
    _raise_problems([future.exception() for future in futures.values()], offline=sources.options.offline)
    return {path: future.result() for path, future in futures.items()}


def _obtain_alone(sources: ModelSources, item: ModelFile) -> PreloadedFile:
    """Obtain a file while no other process does."""
    started = time.monotonic()
    try:
        with sources.alone(item.model.path):
            found = _obtain(sources, item)
        return found.model_copy(update={"seconds": round(time.monotonic() - started, 3)})
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            tr("cannot be written ({reason})", reason=error.strerror),
            where=str(item.path),
            remedy=tr("free space, check the permissions, or choose another models folder"),
        ) from error


def _obtain(sources: ModelSources, planned: ModelFile) -> PreloadedFile:
    # Another process may have brought it while this one waited. Wrong bytes may have been found only by
    # hashing, so what is there now has to be hashed, too.
    model, path, options = planned.model, planned.path, sources.options
    verify = planned.state == "damaged"
    item = look_at(sources.root, model, verify=verify, accept_licences=options.accept_licences)
    if item.usable:
        discard(part_path(path))
        sources.meter.update(model.path, item.bytes or 0, item.bytes)
        return _present(item)
    accepted, notes = _acceptance(item, options), list[str]()
    path.parent.mkdir(parents=True, exist_ok=True)
    brought = sources.bring(item, notes)
    notes += _publish(sources.root, item)
    record = renewed_record(model, path, brought.sha256).model_copy(
        update={
            "url": brought.url,
            "source": brought.source,
            "licence_accepted_at": accepted,
            "origin_mtime_ns": brought.mtime_ns,
        }
    )
    write_record(path, record)
    if brought.source == "downloaded":
        sources.share(item, record, notes)
    return _preloaded(item, record, notes)


def _publish(root: Path, item: ModelFile) -> list[str]:
    """Move the verified bytes into place; nothing that lies there is lost, but an older copy of ours."""
    part, path = part_path(item.path), item.path
    if not path.exists() or is_outdated_copy(item.model, path):
        put_in_place(part, path)
        notes = []
    else:
        kept = replace_damaged(root, part, path)
        text = mark("{path}: was replaced; what lay there before is kept as {kept}")
        notes = [tr(text, path=item.model.path, kept=kept)]
    discard(part)
    return notes


# --- what is asked first ------------------------------------------------------------------------------


def _acceptance(item: ModelFile, options: FetchOptions) -> str | None:
    """When the licence of a model was accepted: earlier, beside its file or in the cache, or now."""
    if not item.model.licence.non_commercial:
        return None
    places = filter(None, (item.path, options.cached(item.model)))
    earlier = [accepted_at(item.model, read_record(place)) for place in places]
    return next(filter(None, earlier), now() if options.accept_licences else None)


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
    return not options.offline or bool(item.model.local or item.found or (cached and cached.is_file()))


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
    free, needed = disk_free(root), bytes_missing(missing)
    if free < needed + DISK_RESERVE:
        raise OutputError(
            tr(
                "{free} are free on the disk, but {needed} are needed "
                "({missing} of models and {reserve} reserve)",
                free=_gb(free),
                needed=_gb(needed + DISK_RESERVE),
                missing=_gb(needed),
                reserve=_gb(DISK_RESERVE),
            ),
            where=str(root),
            remedy=tr("free space, or choose a folder on another disk in models_dir or COLAB_HELPERS_MODELS"),
        )


def _gb(size: int) -> str:
    return f"{size / GIB:.2f} GB"


def _check_address(name: str, value: str | None, schemes: tuple[str, ...]) -> None:
    if value is not None and not value.startswith(schemes):
        raise UsageError(
            tr(
                "must be an address such as {example}host, but got {value!r}", example=schemes[0], value=value
            ),
            where=name,
            remedy=tr("write it with its scheme"),
        )


def _preloaded(item: ModelFile, record: Record, notes: Sequence[str]) -> PreloadedFile:
    model, licence = item.model, item.model.licence
    return PreloadedFile(
        name=model.name,
        role=model.role,
        path=item.path,
        bytes=record.bytes,
        source=record.source,
        origin=record.url,
        sha256=record.sha256,
        known=not model.accepted or record.sha256 in model.accepted,
        licence=licence.name,
        licence_link=licence.link,
        non_commercial=licence.non_commercial,
        licence_accepted_at=record.licence_accepted_at,
        notes=tuple(notes),
    )


def _present(item: ModelFile) -> PreloadedFile:
    if item.record is None:
        raise ValueError(f"{item.path} was not verified")
    return _preloaded(item, item.record, item.notes).model_copy(update={"source": "present"})


def _raise_problems(errors: Iterable[BaseException | None], *, offline: bool) -> None:
    problems = []
    for error in errors:
        if isinstance(error, FileProblem):
            problems.append(str(error))
        elif error is not None:
            raise error
    if not problems:
        return
    count, files = len(problems), "\n".join(problems)
    if offline:
        text = mark("{count} model file(s) missing, and nothing is fetched offline:\n{files}")
        raise ModelError(
            tr(text, count=count, files=files),
            remedy=tr(_OFFLINE_REMEDY),
        )
    raise ModelError(
        tr("{count} model file(s) not to be had:\n{files}", count=count, files=files),
        remedy=tr(_FAILED_REMEDY),
    )
