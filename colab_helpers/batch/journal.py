"""The journal of a batch: what is finished, so that a resumed run repeats nothing and trusts nothing partial.

One JSON object per line, appended and synced to disk before the work counts as done. Every line has a
checksum: a line torn by a crash, or damaged later, is ignored, and its work is repeated. The order of the
file is what counts; timestamps are informative only, so clock changes are harmless.
"""

from __future__ import annotations

import os
import time
import zlib
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Protocol, Self

from pydantic import BaseModel, Field, TypeAdapter

from colab_helpers.addresses import address_of
from colab_helpers.batch.object_store import ObjectStates, parts_of, send_part
from colab_helpers.batch.report import FileReport
from colab_helpers.errors import OutputError, wrap_os_error
from colab_helpers.files import (
    ends_with_newline,
    manifest_beside,
    open_nofollow,
    parse_json,
    shorten_name,
    to_json,
    write_atomically,
)
from colab_helpers.language import mark
from colab_helpers.pipeline import FinishedSegment

_PART = 64 << 10  # bytes of journal per object in a store, the most that is sent for an entry


class _Entry(BaseModel, extra="forbid", frozen=True, defer_build=True):
    key: str = Field(description="Work key of the target, from keys.work_key.")
    time: float = Field(default_factory=time.time, description="Seconds since 1970; informative only.")


class SegmentDone(_Entry):
    """A segment is encoded and on disk; its path is the file name alone."""

    event: Literal["segment"] = "segment"
    worker: str = Field("", description="Worker that made it, in a batch of several workers.")
    part: FinishedSegment


class FileDone(_Entry):
    """A result is complete at its final path."""

    event: Literal["done"] = "done"
    run: str = ""
    sha256: str = Field(description="Of the result.")
    seen: ObjectStates = Field({}, description="Of target and result, if they are in object storage.")
    stated: tuple[str, str] | None = Field(None, description="Consent and disclosure in its manifest.")
    report: FileReport


class WorkStarted(_Entry):
    """Work on a target began or was resumed; without a later entry of the same key it was interrupted."""

    event: Literal["started"] = "started"
    run: str
    target: str
    pid: int
    number: int | None = Field(None, description="Of the segment, if only that began.")


class OutputsClaimed(_Entry):
    """A result is about to be written to a path that is free or has a result of an earlier run.

    From then on a file there belongs to the batch, even if a crash separates the result from its entry.
    """

    event: Literal["claimed"] = "claimed"
    names: tuple[str, ...] = Field(description="Of result and files beside it; empty withdraws the claim.")


class FileFailed(_Entry):
    """Work on a target ended with an error."""

    event: Literal["failed"] = "failed"
    run: str
    report: FileReport


Entry = SegmentDone | FileDone | WorkStarted | OutputsClaimed | FileFailed
_ENTRY: TypeAdapter[Entry] = TypeAdapter(Annotated[Entry, Field(discriminator="event")])
_HEAD = '{{"crc":"{:08x}","entry":'
_HEAD_LENGTH = len(_HEAD.format(0))


@dataclass
class History:
    """The entries of a journal in order, and the number of damaged lines that were ignored."""

    entries: list[Entry] = field(default_factory=list)
    damaged: int = 0

    @cached_property
    def made(self) -> dict[str, set[str] | None]:
        """Names of everything that was made in the output folder, with the digests it may have.

        None if digests are unknown: for a frames folder, or a result whose entry is missing after a crash.
        """
        made: dict[str, set[str] | None] = {}
        claims: dict[str, str] = {}
        for entry in self.entries:
            if isinstance(entry, OutputsClaimed) and entry.names:
                claims |= dict.fromkeys(entry.names, entry.key)
            elif isinstance(entry, OutputsClaimed | FileFailed):
                claims = {name: key for name, key in claims.items() if key != entry.key}
            elif isinstance(entry, FileDone) and entry.report.output:
                path = Path(entry.report.output)
                digests = {path.name: entry.sha256, manifest_beside(path).name: entry.report.manifest}
                for name, digest in digests.items():
                    if digest:
                        made[name] = (made.get(name) or set()) | {digest}
                        claims.pop(name, None)
                if entry.report.frames_folder:
                    made[Path(entry.report.frames_folder).name] = None
        return made | dict.fromkeys(claims)

    def segments(self, key: str) -> dict[int, FinishedSegment]:
        """Return the finished segments of a target by number; the latest entry of each counts."""
        return {e.part.segment.number: e.part for e in self.of(key) if isinstance(e, SegmentDone)}

    def result(self, key: str, output: str | None = None) -> FileDone | None:
        """Return the latest result of a target, under its planned name or that name plus a file extension.

        Copies of a target share its key; their results are told apart by ``output``.
        """
        done = (entry for entry in reversed(self.of(key)) if isinstance(entry, FileDone))
        return next((e for e in done if output is None or _is_planned(e.report.output or "", output)), None)

    def failure(self, key: str, run: str, target: str | None = None) -> FileFailed | None:
        """Return how a target failed in this run; None if it did not, or was started again since."""
        last = next(reversed(self.of(key)), None)
        if not isinstance(last, FileFailed) or last.run != run:
            return None
        return last if target in (None, last.report.target) else None

    def interruptions(self, key: str, run: str) -> int:
        """Count how often in a row work on a target was interrupted in this run without any progress.

        A finished segment is progress: a long video that is interrupted once a day is not a bad video. If
        segments are started one by one, their scheduler counts the worker deaths.
        """
        count = 0
        for entry in self.of(key):
            if isinstance(entry, WorkStarted):
                if entry.number is None:
                    count = count + 1 if entry.run == run else 0
            elif not isinstance(entry, OutputsClaimed):
                count = 0
        return count

    def of(self, key: str) -> list[Entry]:
        """Return the entries of one target."""
        return self._by_key.get(key, [])

    @cached_property
    def _by_key(self) -> dict[str, list[Entry]]:
        entries: dict[str, list[Entry]] = {}
        for entry in self.entries:
            entries.setdefault(entry.key, []).append(entry)
        return entries


def _is_planned(output: str, planned: str) -> bool:
    path = Path(output)
    return path.name in (planned, shorten_name("", planned, path.suffix))


def read_journal(path: Path) -> History:
    """Read a journal; a missing one is empty. Raise OutputError if it cannot be read."""
    history = History()
    errors = _wrap_error(path, mark("the journal cannot be read ({reason})"))
    with errors, suppress(FileNotFoundError), _local_copy(path).open("rb") as file:
        for line in file:
            entry = _parse(line)
            if entry is not None:
                history.entries.append(entry)
            elif line.strip():
                history.damaged += 1
    return history


def _local_copy(path: Path) -> Path:
    """Return the file to read a journal from: for one in a store a copy that only this function writes."""
    if address_of(path) is None:
        return path
    copy = path.with_name(f".{path.name}.read")
    local = copy.read_bytes() if copy.is_file() else b""
    full = len(local) - len(local) % _PART  # full parts do not change any more
    rest = b"".join(parts_of(path, full // _PART))
    if rest != local[full:]:
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(copy, local[:full] + rest)
    return copy


def sync_journal(path: Path) -> None:
    """Make a journal in a store and its local file the same, before anything is appended.

    The store's content counts, followed by entries that a run had written locally but not sent when it died.
    """
    if address_of(path) is None:
        return
    local, parts = path.read_bytes() if path.is_file() else b"", parts_of(path)
    stored = b"".join(parts)
    if not local.startswith(stored):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, stored)
    if local or stored:  # a part before the last that is not full was left by an entry that failed
        _send(path, len(stored) if all(len(part) == _PART for part in parts[:-1]) else 0)


def _send(path: Path, start: int) -> None:
    """Send a journal from a byte offset on, if it is in a store."""
    if address_of(path) is not None:
        with path.open("rb") as file:
            file.seek(start - start % _PART)
            for number, part in enumerate(iter(lambda: file.read(_PART), b""), start // _PART):
                send_part(path, number, part)


class JournalWriter(Protocol):
    """Appends entries to a journal, directly or through another process."""

    def append(self, entry: Entry) -> None:
        """Append an entry, which is on disk when this returns; raise OutputError if that fails."""


class Journal:
    """A journal open for appending, created if missing; raises OutputError if that fails."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with _wrap_error(path, mark("the journal cannot be opened ({reason})")):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "a+b", buffering=0, opener=open_nofollow)  # noqa: SIM115
            self._has_torn_line = not ends_with_newline(self._file)
        # Worker of each segment by number, by the key of each unfinished target.
        self._makers: dict[str, dict[int, str]] = {}

    def append(self, entry: Entry, worker: str = "") -> None:
        """Append an entry, on disk when this returns; after an OutputError readers see no part of it.

        A segment's entry gets the ``worker``; the report of a result gets the makers of its segments.
        """
        if isinstance(entry, SegmentDone):
            entry = entry.model_copy(update={"worker": worker})
            self._makers.setdefault(entry.key, {})[entry.part.segment.number] = worker
        elif isinstance(entry, FileDone):
            entry.report.made_by = self._made_by(entry.key, entry.report.segments)
        elif isinstance(entry, FileFailed):
            self._makers.pop(entry.key, None)
        self._write(entry)

    def _made_by(self, key: str, segments: int) -> dict[str, list[tuple[int, int]]]:
        """Return the spans of segments that each worker made; empty if the batch had no worker pool."""
        makers, spans = self._makers.pop(key, {}), dict[str, list[tuple[int, int]]]()
        if len(makers) < segments:  # earlier runs made the others
            earlier = read_journal(self._path).of(key)
            makers = {e.part.segment.number: e.worker for e in earlier if isinstance(e, SegmentDone)} | makers
        for number in range(segments if any(makers.values()) else 0):
            own = spans.setdefault(makers.get(number, ""), [])
            start = own.pop()[0] if own and own[-1][1] == number else number
            own.append((start, number + 1))
        return spans

    def _write(self, entry: Entry) -> None:
        body = to_json(entry)
        line = f"{_HEAD.format(zlib.crc32(body.encode()))}{body}}}\n".encode()
        if self._has_torn_line:  # after a crash, or a failed write
            line = b"\n" + line
        was_torn, start = self._has_torn_line, self._file.seek(0, os.SEEK_END)
        self._has_torn_line = True
        try:
            with _wrap_error(self._path, mark("the journal cannot be written to ({reason})")):
                while line:
                    line = line[self._file.write(line) or 0 :]
                os.fsync(self._file.fileno())
            _send(self._path, start)
        except OutputError:  # the entry may be complete, and only not on disk or not in the store
            with suppress(OSError):
                self._file.truncate(start)
                self._has_torn_line = was_torn
            raise
        self._has_torn_line = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file; remove it if it is empty, as after a batch that was refused."""
        with suppress(OSError):
            if not self._file.seek(0, os.SEEK_END):
                self._path.unlink()
        self._file.close()


def _parse(line: bytes) -> Entry | None:
    """Return the entry of a line, or None if the line is empty, torn or damaged."""
    line = line.rstrip(b"\r\n")
    body = line[_HEAD_LENGTH:-1]
    if line != _HEAD.format(zlib.crc32(body)).encode() + body + b"}":
        return None
    try:
        return _ENTRY.validate_python(parse_json(body))
    except ValueError:
        return None  # from another version of this package: do not trust its work


def _wrap_error(path: Path, what: str) -> AbstractContextManager[None]:
    remedy = mark("free space or make the folder writable, then run again: finished work is kept")
    return wrap_os_error(OutputError, what, path, remedy)
