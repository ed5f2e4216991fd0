"""Where the bytes of a model come from: other programs, the shared cache, or mirrors."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from colab_helpers.files import same_file
from colab_helpers.language import mark, tr
from colab_helpers.models.download import Cancelled, FetchOptions, MirrorError, Transfer
from colab_helpers.models.inventory import Finding, ModelFile, examine, namesake_note, unknown_note
from colab_helpers.models.records import (
    FileSource,
    Record,
    part_path,
    put_in_place,
    recorded_hash,
    write_record,
)

_BLOCK = 1 << 20
_LOOK_EVERY = 0.25


class FileProblem(Exception):  # noqa: N818
    """A file that could not be had; the text has one line for each thing that was tried."""

    def __init__(self, path: str, lines: list[str]) -> None:
        super().__init__("\n    ".join([f"  {path}", *lines]))


Brought = tuple[Path, FileSource, str, str]
"""Bytes that may be used, how and from where they came, and their SHA-256."""


class ModelSources:
    """Fills ``.part`` files below a models root; may be used from several threads.

    When ``cancelled`` is set, everything stops soon.
    """

    def __init__(self, root: Path, options: FetchOptions) -> None:
        self.root, self.options = root, options
        self.cancelled = threading.Event()
        self._transfer = Transfer(options, self.cancelled)

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Keep every other process and thread from a file; waiting for one ends when cancelled."""
        folder = self.root / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{name.replace('/', '_')}.lock")
        while True:
            if self.cancelled.is_set():
                raise Cancelled
            with suppress(Timeout):
                lock.acquire(timeout=_LOOK_EVERY)
                break
        try:
            yield
        finally:
            lock.release()

    def bring(self, item: ModelFile, notes: list[str]) -> Brought:
        """Find bytes of a file that may be used; ``notes`` gets what else happened.

        Raises:
            FileProblem: Nothing has it.
        """
        brought = self._copied(item, notes)
        if brought is not None:
            return brought
        model, tried = item.model, [*filter(None, [item.problem]), *notes]
        if self.options.offline and model.sources:
            tried += [tr("missing ({size} bytes); to be had from:", size=model.bytes), *model.urls]
        for source in () if self.options.offline else model.sources:
            part = part_path(item.path, source.digest)
            for url in source.urls:
                try:
                    return part, "downloaded", url, self._transfer.fetch(url, part, source)
                except MirrorError as problem:
                    tried.append(f"{url}: {problem}")
        raise FileProblem(model.path, [*tried, *namesake_note(item)])

    def _copied(self, item: ModelFile, notes: list[str]) -> Brought | None:
        """Copy from another program's folder or the shared cache, if it is right there."""
        model, cached = item.model, self.options.cached(item.model)
        for place in filter(None, (item.found, cached)):
            if not place.is_file() or same_file(place, item.path):
                continue
            try:
                finding = self._copy(place, item)
            except OSError as error:  # or this disk: fetching tells
                notes.append(tr("{path} could not be read ({reason})", path=place, reason=error.strerror))
                continue
            if finding.state != "damaged":
                notes += unknown_note(model, finding)
                if place == item.found:
                    notes.append(tr("{path}: taken over from {found}", path=model.path, found=place))
                return part_path(item.path), "copied", str(place), finding.sha256
            part_path(item.path).unlink()
            notes.append(tr("the copy in the shared cache is damaged and was not used: {path}", path=place))
        return None

    def _copy(self, place: Path, item: ModelFile) -> Finding:
        """Copy a file to ``.part`` and find out what it is."""
        part = part_path(item.path)
        with place.open("rb") as reader, part.open("wb") as writer:
            while block := reader.read(_BLOCK):
                if self.cancelled.is_set():
                    raise Cancelled
                writer.write(block)
        finding = examine(item.model, part)
        if recorded_hash(place) in (None, finding.sha256):
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
            shutil.copyfile(item.path, part)
            put_in_place(cache, part, cached)
            write_record(cached, record.model_copy(update={"mtime_ns": cached.stat().st_mtime_ns}))
        except OSError as error:
            text = mark("{path} could not be copied to the shared cache ({reason})")
            notes.append(tr(text, path=item.model.path, reason=error.strerror))
