"""Fetching models once: verified, resumable, from whichever mirror works.

A file appears under its name only after its bytes were proved to be the right ones. Until then it is
``.<file>.part``; beside it, ``<file>.json`` records what was verified. What lies there already is used, also
where nobody knows it; only a damaged file is replaced, and only once its replacement is there. The models
root also has ``.locks`` (one per file, so that two processes never fetch the same), ``.archives`` (zips in
use) and ``quarantine`` (damaged files that were replaced).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict

from colab_helpers.errors import LicenceError, ModelError, OutputError, UsageError
from colab_helpers.files import same_file, sha256_of
from colab_helpers.language import mark, tr
from colab_helpers.machine import GIB, disk_free
from colab_helpers.models.archives import ArchiveError, extract_member
from colab_helpers.models.catalog import Archive, ModelEntry, Source
from colab_helpers.models.identify import elsewhere
from colab_helpers.models.origin import FileState, Finding, examine, new_record, unknown_note
from colab_helpers.models.progress import Meter, ProgressCallback
from colab_helpers.models.records import (
    FileSource,
    Record,
    now,
    part_path,
    put_in_place,
    read_record,
    record_path,
    replace_damaged,
    write_record,
)
from colab_helpers.models.transfer import (
    Cancelled,
    Expected,
    Limits,
    MirrorError,
    Transfer,
    discard,
    public_url,
    size_of,
)

DISK_RESERVE = 2 * GIB
"""Disk left free beside the models."""
ACCEPT_COMMAND = "python -m colab_helpers preload --accept-licences"
_BLOCK = 1 << 20
_NOTIFY_SECONDS = 0.25


@dataclass(frozen=True)
class PlannedFile:
    """One file and what has to be done about it.

    Attributes:
        status: ``present`` and ``unknown`` are used as they are; ``damaged`` is replaced.
        bytes: Size; of a missing file the largest its sources give, None where none does.
        resumable: Bytes an interrupted fetch left behind.
        sha256: Of the file on disk, None where it is missing.
        record: What is recorded of the file that is there.
        problem: What is wrong with a damaged one, and what to do.
        found: Another place on this machine where a published file of the model lies.
        notes: What else should be known about it.
    """

    model: ModelEntry
    path: Path
    status: FileState | Literal["missing"]
    bytes: int | None
    resumable: int
    sha256: str | None
    record: Record | None = None
    problem: str = ""
    found: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether it is used as it is."""
        return self.status in ("present", "unknown")


@dataclass(frozen=True)
class Plan:
    """What a fetch would do; sizes in bytes.

    Attributes:
        bytes_missing: Sum over the files to be fetched, less what an interrupted fetch left.
        bytes_free: On the disk of the models root.
    """

    files: tuple[PlannedFile, ...]
    bytes_missing: int
    bytes_free: int

    @property
    def missing(self) -> tuple[PlannedFile, ...]:
        """Files to be fetched, damaged ones among them."""
        return tuple(item for item in self.files if not item.usable)

    @property
    def bytes_needed(self) -> int:
        """What must be free on the disk before the start."""
        return self.bytes_missing + DISK_RESERVE if self.missing else 0


class PreloadedFile(BaseModel):
    """The file of a model, in place.

    Attributes:
        bytes: Its size.
        source: ``present``: it was there; ``copied``: from the shared cache, the user's own path, or another
            program's folder; ``downloaded``.
        origin: Address or path it once came from, without query; empty if it was simply there.
        known: It is a published file, or the user's own; else nobody knows where it is from.
        licence: Its name.
        licence_accepted_at: In UTC; None where nothing had to be accepted or nobody did.
        seconds: Time it took, waiting for other processes included.
        notes: What else happened, such as a damaged file that was replaced.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    role: str
    path: Path
    bytes: int
    source: FileSource
    origin: str
    sha256: str
    known: bool
    licence: str
    licence_link: str
    non_commercial: bool
    licence_accepted_at: str | None
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


class _FileProblem(Exception):  # noqa: N818
    """A file that could not be had; one line for each thing that was tried."""

    def __init__(self, path: str, lines: Sequence[str]) -> None:
        self.path = path
        self.lines = tuple(lines)
        super().__init__(path)


@dataclass(frozen=True)
class _Origin:
    """Where the bytes now in ``.part`` came from."""

    kind: FileSource
    url: str
    sha256: str
    mtime_ns: int | None = None


class Downloader:
    """Brings models into a folder and keeps them right.

    Args:
        root: The models root; made if missing.
        offline: Never touch the network; copies from disk are still made.
        accept_licences: The user accepts the licences that limit use; recorded beside each file.
        proxy: ``http://host:port`` for everything; by default the environment's proxies.
        mirror_prefix: Put before every address, as in ``https://mirror.example/https://github.com/…``;
            the address itself is tried after it.
        tokens: By the name of a server, what it wants to be shown; nobody else is shown it.
        shared_cache: A folder that outlives this machine, such as one on Google Drive: files are copied
            from there, verified, instead of fetched, and fetched files are copied there.
        on_progress: See ``ProgressCallback``.
        workers: Files fetched at the same time.
        limits: Patience with the network.

    Raises:
        UsageError: A proxy or prefix that is not an address.
    """

    def __init__(
        self,
        root: Path,
        *,
        offline: bool = False,
        accept_licences: bool = False,
        proxy: str | None = None,
        mirror_prefix: str | None = None,
        tokens: Mapping[str, str] | None = None,
        shared_cache: Path | None = None,
        on_progress: ProgressCallback | None = None,
        workers: int = 3,
        limits: Limits | None = None,
    ) -> None:
        _check_address("proxy", proxy, ("http://", "https://", "socks4", "socks5"))
        _check_address("mirror_prefix", mirror_prefix, ("http://", "https://"))
        self.root = root
        self.offline = offline
        self.accept_licences = accept_licences
        self.mirror_prefix = mirror_prefix
        self.shared_cache = shared_cache
        self.on_progress = on_progress
        self.workers = max(1, workers)
        self._cancelled = threading.Event()
        self._meter = Meter()
        self._used_archives: set[Path] = set()
        self._transfer = Transfer(
            limits=limits or Limits(),
            proxy=proxy,
            mirror_prefix=mirror_prefix,
            tokens=tokens,
            cancelled=self._cancelled,
        )

    # --- what there is ------------------------------------------------------------------------------

    def plan(self, models: Iterable[ModelEntry], *, verify: bool = False) -> Plan:
        """Find out what is there and what is missing; moves nothing.

        Args:
            models: What is needed; the same file may be named twice.
            verify: Hash every file instead of trusting size and modification time.
        """
        unique = {model.path: model for model in models}
        files = tuple(self._inspect(model, verify=verify) for model in unique.values())
        missing = [item for item in files if not item.usable]
        sizes = sum(max(0, (item.bytes or 0) - item.resumable) for item in missing)
        return Plan(files, sizes + _archive_bytes(missing), disk_free(self.root))

    def _inspect(self, model: ModelEntry, *, verify: bool) -> PlannedFile:
        path = self.root / model.path
        missing = PlannedFile(model, path, "missing", model.bytes, size_of(part_path(path)), None)
        if not path.is_file() or _is_outdated_copy(model, path):
            return replace(missing, found=_published_elsewhere(model, path))
        finding = examine(model, path, verify=verify)
        if finding.state == "damaged":
            found = _published_elsewhere(model, path)
            return replace(
                missing, status="damaged", sha256=finding.sha256, problem=finding.words, found=found
            )
        return self._noted(replace(missing, status=finding.state, resumable=0), finding)

    def _noted(self, item: PlannedFile, finding: Finding) -> PlannedFile:
        """Record that a file which is there was hashed, keeping what was known about its origin."""
        item = replace(item, bytes=item.path.stat().st_size, sha256=finding.sha256)
        if finding.state == "unknown":
            item = replace(item, notes=(unknown_note(item.model.path, finding.sha256),))
        earlier = read_record(item.path)
        if finding.record is not None and not self._newly_accepted(item.model, earlier):
            return replace(item, record=finding.record)
        record = new_record(item.model, item.path, finding.sha256)
        if earlier is not None and earlier.sha256 == finding.sha256:
            came = {"url": earlier.url, "source": earlier.source, "origin_mtime_ns": earlier.origin_mtime_ns}
            record = record.model_copy(update=came)
        accepted = _accepted_at(item.model, earlier) or self._accepting(item.model)
        record = record.model_copy(update={"licence_accepted_at": accepted})
        try:
            write_record(item.path, record)
        except OSError as error:  # a folder that is read-only by intent holds models all the same
            note = tr(
                "{path} cannot be written ({reason}): hashed anew next time",
                path=record_path(item.path),
                reason=error.strerror,
            )
            return replace(item, record=record, notes=(*item.notes, note))
        return replace(item, record=record)

    def _accepting(self, model: ModelEntry) -> str | None:
        return now() if self.accept_licences and model.licence.non_commercial else None

    def _newly_accepted(self, model: ModelEntry, record: Record | None) -> bool:
        return self._accepting(model) is not None and not _accepted_at(model, record)

    # --- fetching -----------------------------------------------------------------------------------

    def fetch(self, models: Iterable[ModelEntry], *, verify: bool = False) -> list[PreloadedFile]:
        """Bring every file of the models into place.

        Files that can be had are brought even when others cannot; what was interrupted is resumed next
        time.

        Args:
            models: What is needed.
            verify: Hash also the files that count as verified.

        Returns:
            One entry per file, in the order of the models.

        Raises:
            LicenceError: A missing model's licence limits its use and was not accepted.
            ModelError: Some file cannot be had; the message lists what each address did.
            OutputError: The disk has not enough room, or cannot be written.
        """
        self._cancelled.clear()
        self._meter = Meter()
        plan = self.plan(models, verify=verify)
        self._check_licences(plan)
        self._check_disk(plan)
        for item in plan.missing:
            self._meter.update(item.model.path, item.resumable, item.bytes)
        try:
            results = self._run(plan)
        finally:
            self._remove_archives()
        return results

    def _check_licences(self, plan: Plan) -> None:
        refused = {
            item.model.name: item.model
            for item in plan.missing
            if item.model.licence.non_commercial
            and self._within_reach(item)
            and not self._acceptance(item.model)
        }
        if refused:
            raise LicenceError(
                tr(
                    "these models are for non-commercial use only, and their licences have not been "
                    "accepted:\n{licences}",
                    licences=licence_notice(refused.values()),
                ),
                remedy=tr(
                    "read the licences; if you may use the models under them, run '{command}'",
                    command=ACCEPT_COMMAND,
                ),
            )

    def _within_reach(self, item: PlannedFile) -> bool:
        """Whether a file would be brought; offline it may just be reported as missing."""
        cached = self._cached(item.model)
        here = item.model.local or item.found or (cached if cached is not None and cached.is_file() else None)
        return not self.offline or here is not None

    def _check_disk(self, plan: Plan) -> None:
        if plan.missing and plan.bytes_free < plan.bytes_needed:
            raise OutputError(
                tr(
                    "{free} are free on the disk, but {needed} are needed "
                    "({missing} of models and {reserve} reserve)",
                    free=_gb(plan.bytes_free),
                    needed=_gb(plan.bytes_needed),
                    missing=_gb(plan.bytes_missing),
                    reserve=_gb(DISK_RESERVE),
                ),
                where=str(self.root),
                remedy=tr(
                    "free space, or choose a folder on another disk in models_dir or COLAB_HELPERS_MODELS"
                ),
            )

    def _run(self, plan: Plan) -> list[PreloadedFile]:
        executor = ThreadPoolExecutor(self.workers, thread_name_prefix="fetch")
        try:
            # The largest first: it would otherwise be alone at the end.
            order = sorted(plan.missing, key=lambda item: -(item.bytes or 0))
            futures = {
                item.model.path: executor.submit(copy_context().run, self._obtain_alone, item)
                for item in order
            }
            self._watch(plan, futures.values())
        except BaseException:
            self._cancelled.set()
            raise
        finally:
            executor.shutdown(wait=True, cancel_futures=True)
        _raise_problems(futures.values(), offline=self.offline)
        return [
            futures[item.model.path].result() if item.model.path in futures else _present(item)
            for item in plan.files
        ]

    def _watch(self, plan: Plan, futures: Iterable[Future[PreloadedFile]]) -> None:
        """Report from the caller's own thread, as notebooks need it."""
        pending = set(futures)
        while pending:
            _, pending = wait(pending, timeout=_NOTIFY_SECONDS, return_when=FIRST_COMPLETED)
            if self.on_progress is not None:
                done = len(plan.files) - len(pending)
                self.on_progress(self._meter.progress(done, len(plan.files)))

    def _obtain_alone(self, item: PlannedFile) -> PreloadedFile:
        """Obtain a file while no other process does."""
        started = time.monotonic()
        try:
            with self._lock(item.model.path):
                found = self._obtain(item)
            return found.model_copy(update={"seconds": round(time.monotonic() - started, 3)})
        except OutputError:
            raise
        except OSError as error:
            raise OutputError(
                tr("cannot be written ({reason})", reason=error.strerror),
                where=str(item.path),
                remedy=tr("free space, check the permissions, or choose another models folder"),
            ) from error

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        lock = self._file_lock(name)
        while True:
            try:
                lock.acquire(timeout=_NOTIFY_SECONDS)
                break
            except Timeout:
                if self._cancelled.is_set():
                    raise Cancelled from None
        try:
            yield
        finally:
            lock.release()

    def _file_lock(self, name: str) -> FileLock:
        folder = self.root / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{name.replace('/', '_')}.lock")

    def _obtain(self, planned: PlannedFile) -> PreloadedFile:
        # Another process may have brought it while this one waited. The plan found wrong bytes only by
        # hashing, so what is there now has to be hashed, too.
        item = self._inspect(planned.model, verify=planned.status == "damaged")
        if item.usable:
            discard(part_path(item.path))
            self._meter.update(item.model.path, item.bytes or 0, item.bytes)
            return _present(item)
        notes: list[str] = []
        acceptance = self._acceptance(item.model)
        item.path.parent.mkdir(parents=True, exist_ok=True)
        origin = self._bring(item, notes)
        self._put(item, notes)
        discard(part_path(item.path))
        record = new_record(item.model, item.path, origin.sha256).model_copy(
            update={
                "url": origin.url,
                "source": origin.kind,
                "licence_accepted_at": acceptance,
                "origin_mtime_ns": origin.mtime_ns,
            }
        )
        write_record(item.path, record)
        if origin.kind == "downloaded":
            self._share(item, record, notes)
        return _fetched(item, record, notes)

    def _put(self, item: PlannedFile, notes: list[str]) -> None:
        """Move the verified bytes into place; nothing that lies there is lost, but an older copy of ours."""
        part = part_path(item.path)
        if not item.path.exists() or _is_outdated_copy(item.model, item.path):
            put_in_place(part, item.path)
            return
        kept = replace_damaged(self.root, part, item.path)
        notes.append(
            tr(
                "{path}: was replaced; what lay there before is kept as {kept}",
                path=item.model.path,
                kept=kept,
            )
        )

    def _bring(self, item: PlannedFile, notes: list[str]) -> _Origin:
        """Fill ``.part`` with bytes that may be used."""
        damage = [item.problem] if item.problem else []
        if item.model.local is not None:
            if damage and same_file(item.model.local, item.path):
                raise _FileProblem(item.model.path, damage)
            return self._copy_local(item, item.model.local)
        origin = self._copy_found(item, notes) or self._copy_shared(item, notes)
        if origin is not None:
            return origin
        if self.offline:
            line = (
                tr("missing ({size} bytes); to be had from:", size=item.bytes)
                if item.bytes
                else tr("missing; to be had from:")
            )
            raise _FileProblem(item.model.path, [*damage, line, *item.model.urls, *notes, *_others(item)])
        return self._download(item, [*damage, *notes])

    def _download(self, item: PlannedFile, notes: Sequence[str]) -> _Origin:
        tried = []
        for source, url in self._addresses(item.model):
            try:
                return self._download_from(source, url, item)
            except (MirrorError, ArchiveError) as problem:
                tried.append(f"{public_url(url)}: {problem}")
        raise _FileProblem(item.model.path, [*notes, *tried, *_others(item)])

    def _addresses(self, model: ModelEntry) -> Iterator[tuple[Source, str]]:
        for source in model.sources:
            for url in source.urls:
                if self.mirror_prefix:
                    yield source, self.mirror_prefix + url
                yield source, url

    def _download_from(self, source: Source, url: str, item: PlannedFile) -> _Origin:
        part = part_path(item.path)
        if source.archive is not None:
            sha256 = self._extract(source, source.archive, url, part)
        else:
            sha256 = self._transfer.fetch(
                url,
                part,
                Expected(source.sha256, source.bytes),
                report=lambda done, total: self._meter.update(item.model.path, done, total),
            )
        return _Origin("downloaded", public_url(url), sha256)

    def _extract(self, source: Source, archive: Archive, url: str, part: Path) -> str:
        """Take a file out of a zip, fetching the zip unless it is there; returns the file's SHA-256."""
        path = self.root / ".archives" / f"{archive.sha256}.zip"
        with self._lock(f".archives/{path.name}"):
            self._used_archives.add(path)
            if not path.exists():
                self._fetch_archive(archive, url, path)
            discard(part)
            try:
                extract_member(path, archive.member, part, expected_bytes=source.bytes)
            except ArchiveError:
                discard(part)
                path.unlink()
                raise
        sha256 = sha256_of(part)
        if sha256 not in source.sha256:
            discard(part)
            raise MirrorError(tr("gives wrong bytes (sha256 {sha256})", sha256=sha256))
        return sha256

    def _fetch_archive(self, archive: Archive, url: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._transfer.fetch(
            url,
            part_path(path),
            Expected((archive.sha256,), archive.bytes),
            report=lambda done, total: self._meter.update(path.name, done, total),
        )
        put_in_place(part_path(path), path)

    def _remove_archives(self) -> None:
        """Remove the zips this fetch used, unless another process is using them now."""
        for path in self._used_archives:
            try:
                with self._file_lock(f".archives/{path.name}").acquire(timeout=0):
                    path.unlink(missing_ok=True)
            except Timeout:
                continue
        self._used_archives.clear()

    # --- copies on disk -----------------------------------------------------------------------------

    def _copy_local(self, item: PlannedFile, local: Path) -> _Origin:
        if not local.is_file():
            raise _FileProblem(item.model.path, [tr("{local}: there is no such file", local=local)])
        finding = examine(item.model, local)
        if finding.state == "damaged":
            raise _FileProblem(item.model.path, [f"{local}: {finding.words}"])
        if item.model.sha256 is not None and finding.sha256 not in item.model.sha256:
            wrong = tr("{local}: has wrong bytes (sha256 {sha256})", local=local, sha256=finding.sha256)
            raise _FileProblem(item.model.path, [wrong])
        sha256 = self._copy(local, item)
        return _Origin("copied", str(local), sha256, mtime_ns=local.stat().st_mtime_ns)

    def _copy_found(self, item: PlannedFile, notes: list[str]) -> _Origin | None:
        """Take over a published file that lies elsewhere on this machine."""
        if item.found is None:
            return None
        try:
            sha256 = self._copy(item.found, item)
        except OSError:
            sha256 = ""
        if sha256 not in item.model.accepted:  # gone or changed meanwhile
            discard(part_path(item.path))
            return None
        notes.append(tr("{path}: taken over from {found}", path=item.model.path, found=item.found))
        return _Origin("copied", str(item.found), sha256)

    def _copy_shared(self, item: PlannedFile, notes: list[str]) -> _Origin | None:
        """Copy from the shared cache; None if it is not there or not right."""
        cached = self._cached(item.model)
        if cached is None or not cached.is_file():
            return None
        try:
            sha256 = self._copy(cached, item)
            if sha256 in item.model.accepted:
                return _Origin("copied", str(cached), sha256)
            finding = examine(item.model, cached, verify=True)
        except OSError as error:  # fetching tells whether it was the cache or this disk
            notes.append(
                tr(
                    "the shared cache could not be read ({reason}): {path}",
                    reason=error.strerror,
                    path=cached,
                )
            )
            return None
        if finding.state == "unknown" and finding.sha256 == sha256:
            notes.append(unknown_note(item.model.path, sha256))
            return _Origin("copied", str(cached), sha256)
        discard(part_path(item.path))
        notes.append(tr("the copy in the shared cache is damaged and was not used: {path}", path=cached))
        return None

    def _copy(self, source: Path, item: PlannedFile) -> str:
        """Copy a file to ``.part`` and return its SHA-256."""
        part, total, done = part_path(item.path), source.stat().st_size, 0
        discard(part)
        with source.open("rb") as reader, part.open("wb") as writer:
            while block := reader.read(_BLOCK):
                if self._cancelled.is_set():
                    raise Cancelled
                writer.write(block)
                done += len(block)
                self._meter.update(item.model.path, done, total)
        return sha256_of(part)

    def _share(self, item: PlannedFile, record: Record, notes: list[str]) -> None:
        """Copy a fetched file to the shared cache. The model is usable all the same if that fails."""
        cached = self._cached(item.model)
        if cached is None or self.shared_cache is None:
            return
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            _copy_whole(item.path, cached, self.shared_cache)
            found = cached.stat()
            write_record(cached, record.model_copy(update={"mtime_ns": found.st_mtime_ns}))
        except OSError as error:
            notes.append(
                tr(
                    "{path} could not be copied to the shared cache ({reason})",
                    path=item.model.path,
                    reason=error.strerror,
                )
            )

    def _cached(self, model: ModelEntry) -> Path | None:
        return None if self.shared_cache is None else self.shared_cache / model.path

    def _acceptance(self, model: ModelEntry) -> str | None:
        """When the licence of a model was accepted: earlier, beside its file or in the cache, or now."""
        if not model.licence.non_commercial:
            return None
        places = [self.root / model.path, self._cached(model)]
        earlier = [_accepted_at(model, read_record(place)) for place in places if place is not None]
        return next(filter(None, earlier), self._accepting(model))


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


def _is_outdated_copy(model: ModelEntry, path: Path) -> bool:
    """Whether a user's own file changed since it was copied here, and the copy is as it was made."""
    local, record = model.local, read_record(path)
    if local is None or not local.is_file() or record is None or local.samefile(path):
        return False
    copied = record.source == "copied" and record.still_describes(path)
    return copied and (str(local), local.stat().st_mtime_ns) != (record.url, record.origin_mtime_ns)


def _published_elsewhere(model: ModelEntry, path: Path) -> Path | None:
    """Where else on this machine a published file of a model lies: told by its size, then by its hash."""
    sizes = {source.bytes for source in model.sources}
    for place in elsewhere(path, model.file_names) if model.sources else ():
        if (place.stat().st_size in sizes or None in sizes) and _hash_of(place) in model.accepted:
            return place
    return None


def _hash_of(path: Path) -> str:
    found = path.stat()
    return _known_hash(path, found.st_size, found.st_mtime_ns)


@cache
def _known_hash(path: Path, _size: int, _mtime_ns: int) -> str:
    return sha256_of(path)


def _others(item: PlannedFile) -> list[str]:
    """Files of the model's name elsewhere that nobody published: the user may use them all the same."""
    found = next(elsewhere(item.path, item.model.file_names), None)
    if found is None:
        return []
    return [
        tr(
            "{found} has this name, but is none of the published files; to use it, copy it to {path}",
            found=found,
            path=item.path,
        )
    ]


def _accepted_at(model: ModelEntry, record: Record | None) -> str | None:
    same = record is not None and record.licence == model.licence_id
    return record.licence_accepted_at if record is not None and same else None


def _archive_bytes(missing: Iterable[PlannedFile]) -> int:
    """Room for the zips of files that come out of one in the first place, each zip once."""
    first = [item.model.sources[0] for item in missing if item.model.sources and item.found is None]
    sizes = {source.urls: source.archive.bytes for source in first if source.archive is not None}
    return sum(sizes.values())


def _copy_whole(source: Path, target: Path, root: Path) -> None:
    """Copy so that a half-written file never has the target's name; a damaged one there is kept aside."""
    part = part_path(target)
    try:
        with source.open("rb") as reader, part.open("wb") as writer:
            while block := reader.read(_BLOCK):
                writer.write(block)
        if target.exists():
            replace_damaged(root, part, target)
        else:
            put_in_place(part, target)
    finally:
        part.unlink(missing_ok=True)


def _fetched(item: PlannedFile, record: Record, notes: Sequence[str]) -> PreloadedFile:
    licence = item.model.licence
    return PreloadedFile(
        name=item.model.name,
        role=item.model.role,
        path=item.path,
        bytes=record.bytes,
        source=record.source,
        origin=record.url,
        sha256=record.sha256,
        known=not item.model.accepted or record.sha256 in item.model.accepted,
        licence=licence.name,
        licence_link=licence.link,
        non_commercial=licence.non_commercial,
        licence_accepted_at=record.licence_accepted_at,
        notes=tuple(notes),
    )


def _present(item: PlannedFile) -> PreloadedFile:
    if item.record is None:
        raise ValueError(f"{item.path} was not verified")
    return _fetched(item, item.record, item.notes).model_copy(update={"source": "present"})


def _raise_problems(futures: Iterable[Future[PreloadedFile]], *, offline: bool) -> None:
    problems = []
    for future in futures:
        error = future.exception()
        if isinstance(error, _FileProblem):
            problems.append(error)
        elif error is not None:
            raise error
    if problems:
        text = "\n".join("\n    ".join([f"  {problem.path}", *problem.lines]) for problem in problems)
        count = len(problems)
        if offline:
            raise ModelError(
                tr(
                    "{count} model file(s) missing, and nothing is fetched offline:\n{files}",
                    count=count,
                    files=text,
                ),
                remedy=tr(_OFFLINE_REMEDY),
            )
        raise ModelError(
            tr("{count} model file(s) not to be had:\n{files}", count=count, files=text),
            remedy=tr(_FAILED_REMEDY),
        )


_OFFLINE_REMEDY = mark(
    "fetch them on a machine with a network ('python -m colab_helpers preload') and put them into the "
    "models folder under these names, or run with offline=false"
)
_FAILED_REMEDY = mark(
    "check the network and try again (what arrived is kept and resumed), set a proxy or a mirror prefix, "
    "or put the files into the models folder yourself"
)
