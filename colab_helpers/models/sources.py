"""Where the bytes of a model come from: the user's own file, other programs, the shared cache, or mirrors."""

from __future__ import annotations

import shutil
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from colab_helpers.files import same_file, sha256_of
from colab_helpers.language import mark, tr
from colab_helpers.models.catalog import Archive, ModelEntry, Source
from colab_helpers.models.inventory import Finding, ModelFile, examine, namesake_note, unknown_note
from colab_helpers.models.progress import Meter
from colab_helpers.models.records import (
    FileSource,
    Record,
    part_path,
    put_in_place,
    read_record,
    replace_damaged,
    write_record,
)
from colab_helpers.models.responses import MirrorError
from colab_helpers.models.transfer import Cancelled, Expected, FetchOptions, Transfer, discard, public_url

_BLOCK = 1 << 20
_LOOK_EVERY = 0.25


class FileProblem(Exception):  # noqa: N818
    """A file that could not be had; the text has one line for each thing that was tried."""

    def __init__(self, path: str, lines: list[str]) -> None:
        super().__init__("\n    ".join([f"  {path}", *lines]))


@dataclass(frozen=True)
class Brought:
    """Where the bytes now in ``.part`` came from."""

    source: FileSource
    url: str
    sha256: str
    mtime_ns: int | None = None


class ModelSources:
    """Fills ``.part`` files below a models root; may be used from several threads.

    When ``cancelled`` is set, everything stops soon; ``meter`` knows how far each file is.
    """

    def __init__(self, root: Path, options: FetchOptions) -> None:
        self.root, self.options, self.meter = root, options, Meter()
        self.cancelled = threading.Event()
        self._zips: set[Path] = set()
        self._transfer = Transfer(options, self.cancelled)

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Keep every other process and thread from a file; waiting for one ends when cancelled."""
        lock = self._lock(name)
        while True:
            with suppress(Timeout):
                lock.acquire(timeout=_LOOK_EVERY)
                break
            if self.cancelled.is_set():
                raise Cancelled
        try:
            yield
        finally:
            lock.release()

    def _lock(self, name: str) -> FileLock:
        folder = self.root / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{name.replace('/', '_')}.lock")

    def bring(self, item: ModelFile, notes: list[str]) -> Brought:
        """Fill the ``.part`` of a file with bytes that may be used; ``notes`` gets what else happened.

        Raises:
            FileProblem: Nothing has it.
        """
        model, options = item.model, self.options
        tried = [item.problem] if item.problem else []
        if model.local is None or not (tried and same_file(model.local, item.path)):
            brought = self._copied(item, notes)
            if brought is not None:
                return brought
        if model.local is not None:
            raise FileProblem(model.path, [*tried, *notes])
        if options.offline:
            missing = (
                tr("missing ({size} bytes); to be had from:", size=item.bytes)
                if item.bytes
                else tr("missing; to be had from:")
            )
            raise FileProblem(model.path, [*tried, missing, *model.urls, *notes, *namesake_note(item)])
        tried += notes
        for source, url in _addresses(model, options.mirror_prefix):
            try:
                return Brought("downloaded", public_url(url), self._downloaded(source, url, item))
            except MirrorError as problem:
                tried.append(f"{public_url(url)}: {problem}")
        raise FileProblem(model.path, [*tried, *namesake_note(item)])

    # --- from disk, and back to it ------------------------------------------------------------------

    def _copied(self, item: ModelFile, notes: list[str]) -> Brought | None:
        """Copy from the user's own path, another program's folder or the shared cache, if right there."""
        model, cached = item.model, self.options.cached(item.model)
        found = cached if cached is not None and cached.is_file() else None
        for place in filter(None, (model.local, item.found, found)):
            try:
                finding = self._copy(place, item)
            except OSError as error:
                if place == model.local and place.is_file():
                    raise  # it is this disk
                notes.append(_unreadable(place, error, cached=place == cached))
                continue
            if finding.state == "present" or (finding.state == "unknown" and place == cached):
                notes += _copy_notes(item, place, finding)
                changed = place.stat().st_mtime_ns if place == model.local else None
                return Brought("copied", str(place), finding.sha256, changed)
            discard(part_path(item.path))
            notes.append(_refusal(place, finding, cached=place == cached))
        return None

    def _copy(self, place: Path, item: ModelFile) -> Finding:
        """Copy a file to ``.part`` and find out what it is."""
        part, total = part_path(item.path), place.stat().st_size
        discard(part)
        for done in _blocks_copied(place, part):
            if self.cancelled.is_set():
                raise Cancelled
            self.meter.update(item.model.path, done, total)
        finding, record = examine(item.model, part), read_record(place)
        if record is None or not record.still_describes(place) or record.sha256 == finding.sha256:
            return finding
        return examine(item.model, place, verify=True)  # its bytes changed without being written

    def share(self, item: ModelFile, record: Record, notes: list[str]) -> None:
        """Copy a fetched file to the shared cache. The model is usable all the same if that fails."""
        cached, cache = self.options.cached(item.model), self.options.shared_cache
        if cached is None or cache is None:
            return
        part = part_path(cached)
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            for _ in _blocks_copied(item.path, part):
                pass
            if cached.exists():
                replace_damaged(cache, part, cached)
            else:
                put_in_place(part, cached)
            write_record(cached, record.model_copy(update={"mtime_ns": cached.stat().st_mtime_ns}))
        except OSError as error:
            text = mark("{path} could not be copied to the shared cache ({reason})")
            notes.append(tr(text, path=item.model.path, reason=error.strerror))

    # --- from the network ---------------------------------------------------------------------------

    def _downloaded(self, source: Source, url: str, item: ModelFile) -> str:
        """Fill ``.part`` from one address; returns its SHA-256."""
        part, name = part_path(item.path), item.model.path
        if source.archive is None:
            return self._fetched(url, part, Expected(source.sha256, source.bytes), name)
        self._extracted(source, source.archive, url, part)
        sha256 = sha256_of(part)
        if sha256 not in source.sha256:
            discard(part)
            raise MirrorError(tr("gives wrong bytes (sha256 {sha256})", sha256=sha256))
        return sha256

    def _fetched(self, url: str, part: Path, expected: Expected, name: str) -> str:
        return self._transfer.fetch(
            url, part, expected, report=lambda done, total: self.meter.update(name, done, total)
        )

    def _extracted(self, source: Source, archive: Archive, url: str, part: Path) -> None:
        """Take a file out of a zip, fetching the zip unless it is there."""
        path = self.root / ".archives" / f"{archive.sha256}.zip"
        with self.alone(f".archives/{path.name}"):
            self._zips.add(path)
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                self._fetched(url, part_path(path), Expected((archive.sha256,), archive.bytes), path.name)
                put_in_place(part_path(path), path)
            discard(part)
            try:
                _extract_member(path, archive.member, part, source.bytes)
            except MirrorError:
                discard(part)
                path.unlink()
                raise

    def remove_zips(self) -> None:
        """Remove the zips that were used, unless another process is using them now."""
        for path in self._zips:
            with suppress(Timeout), self._lock(f".archives/{path.name}").acquire(timeout=0):
                path.unlink(missing_ok=True)


def _addresses(model: ModelEntry, prefix: str | None) -> Iterator[tuple[Source, str]]:
    for source in model.sources:
        for url in source.urls:
            if prefix:
                yield source, prefix + url
            yield source, url


def _blocks_copied(source: Path, target: Path) -> Iterator[int]:
    """Copy a file block by block, telling the bytes that are there after each."""
    with source.open("rb") as reader, target.open("wb") as writer:
        while block := reader.read(_BLOCK):
            writer.write(block)
            yield writer.tell()


def _copy_notes(item: ModelFile, place: Path, finding: Finding) -> list[str]:
    if finding.state == "unknown":
        return [unknown_note(item.model.path, finding.sha256)]
    taken = place == item.found
    return [tr("{path}: taken over from {found}", path=item.model.path, found=place)] if taken else []


def _unreadable(place: Path, error: OSError, *, cached: bool) -> str:
    if cached:  # or this disk: fetching tells
        return tr("the shared cache could not be read ({reason}): {path}", reason=error.strerror, path=place)
    return tr("{local}: there is no such file", local=place)


def _refusal(place: Path, finding: Finding, *, cached: bool) -> str:
    if cached:
        return tr("the copy in the shared cache is damaged and was not used: {path}", path=place)
    if finding.state == "damaged":
        return f"{place}: {finding.words}"
    return tr("{local}: has wrong bytes (sha256 {sha256})", local=place, sha256=finding.sha256)


def _extract_member(archive: Path, member: str, destination: Path, expected_bytes: int | None) -> None:
    """Write one member of a zip to a file, wherever in the zip (antelopev2.zip nests its files).

    Raises:
        MirrorError: The zip is damaged, or does not hold the member once, or with another size.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            found = [info for info in opened.infolist() if f"/{info.filename}".endswith(f"/{member}")]
            if len(found) != 1:
                text = mark("the zip holds {member!r} {count} times instead of once")
                raise MirrorError(tr(text, member=member, count=len(found)))
            (info,) = found
            if expected_bytes not in (None, info.file_size):
                text = mark("{name!r} has {size} bytes instead of {expected}")
                raise MirrorError(tr(text, name=info.filename, size=info.file_size, expected=expected_bytes))
            with opened.open(info) as packed, destination.open("wb") as file:
                shutil.copyfileobj(packed, file)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise MirrorError(tr("the zip is damaged ({error})", error=error)) from error
