"""What a batch has finished, so that nothing is done twice and nothing half-done passes for finished.

One JSON object a line, appended and synced to disk before the work counts as done. Every line carries a
checksum: a line torn by a crash, or damaged later, is as if it had never been written, and its work is
repeated. Entries count in the order of the file; their times are only told to readers, so a clock that
jumps changes nothing.
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

_PART = 64 << 10  # bytes of a journal in one object of a store: so much at most is sent with each entry


class _Entry(BaseModel, extra="forbid", frozen=True, defer_build=True):
    key: str = Field(description="Key of the work on one target, from keys.work_key.")
    time: float = Field(default_factory=time.time, description="Seconds since 1970, for readers only.")


class SegmentDone(_Entry):
    """A segment is encoded and safe on disk; its path is the file's name alone."""

    event: Literal["segment"] = "segment"
    worker: str = Field("", description="Who made it, where several work at the batch.")
    part: FinishedSegment


class FileDone(_Entry):
    """A result is complete in its place."""

    event: Literal["done"] = "done"
    run: str = ""
    sha256: str = Field(description="Of the result.")
    seen: ObjectStates = Field({}, description="Of target and result, where they lie in object storage.")
    stated: tuple[str, str] | None = Field(None, description="Consent and disclosure that its manifest has.")
    report: FileReport


class WorkStarted(_Entry):
    """Work on a target began or went on; without a later entry of the same key it was cut off."""

    event: Literal["started"] = "started"
    run: str
    target: str
    pid: int
    number: int | None = Field(None, description="Of the segment, where no more than that began.")


class OutputsClaimed(_Entry):
    """A result is about to be made where nothing was, or something of an earlier run's.

    What lies there is the batch's own from then on, even if a crash comes between the result and its entry.
    """

    event: Literal["claimed"] = "claimed"
    names: tuple[str, ...] = Field(
        description="Of the result and of what goes beside it; none: what was claimed was not made after all."
    )


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
    """A journal as it was read: its entries in order, and how many damaged lines had to be ignored."""

    entries: list[Entry] = field(default_factory=list)
    damaged: int = 0

    @cached_property
    def made(self) -> dict[str, set[str] | None]:
        """Names of everything that was made in the folder, and the digests it may have.

        None: not known, as of a folder of frames, or of a result at which a crash came before its entry.
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
        """Return the finished segments of a target by number; the latest of each counts."""
        return {e.part.segment.number: e.part for e in self.of(key) if isinstance(e, SegmentDone)}

    def result(self, key: str, output: str | None = None) -> FileDone | None:
        """Return the latest result of a target, under its planned name or one with a suffix more.

        A copy of the target has a result of its own.
        """
        done = (entry for entry in reversed(self.of(key)) if isinstance(entry, FileDone))
        return next((e for e in done if output is None or _may_be(e.report.output or "", output)), None)

    def failure(self, key: str, run: str, target: str | None = None) -> FileFailed | None:
        """Return how a target failed in this run; None if it did not, or was taken up again since."""
        last = next(reversed(self.of(key)), None)
        if not isinstance(last, FileFailed) or last.run != run:
            return None
        return last if target in (None, last.report.target) else None

    def interruptions(self, key: str, run: str) -> int:
        """Count how often in a row work on a target was cut off in this run before it got any further.

        A finished segment is progress: a long video that is interrupted once a day is not a bad video. Of
        segments begun one by one, whoever schedules them counts the deaths.
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
        found: dict[str, list[Entry]] = {}
        for entry in self.entries:
            found.setdefault(entry.key, []).append(entry)
        return found


def _may_be(output: str, planned: str) -> bool:
    """Whether a result is the one that was planned under a name."""
    path = Path(output)
    return path.name in (planned, shorten_name("", planned, path.suffix))


def read_journal(path: Path) -> History:
    """Read a journal; one that is not there yet is empty. OutputError where it cannot be read."""
    history = History()
    unreadable = _telling(path, mark("the journal cannot be read ({reason})"))
    with unreadable, suppress(FileNotFoundError), _readable(path).open("rb") as file:
        for line in file:
            entry = _parse(line)
            if entry is not None:
                history.entries.append(entry)
            elif line.strip():
                history.damaged += 1
    return history


def _readable(path: Path) -> Path:
    """Return where a journal can be read: of one in a store a copy, which nobody writes but this."""
    if address_of(path) is None:
        return path
    copy = path.with_name(f".{path.name}.read")
    known = copy.read_bytes() if copy.is_file() else b""
    whole = len(known) - len(known) % _PART  # what is full does not change any more
    told = b"".join(parts_of(path, whole // _PART))
    if told != known[whole:]:
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(copy, known[:whole] + told)
    return copy


def sync_journal(path: Path) -> None:
    """Have a journal, before it is written to, be the same here and in its store, if it is in one.

    What the store has counts, and what a run noted here that died before it could send it.
    """
    if address_of(path) is None:
        return
    known, parts = path.read_bytes() if path.is_file() else b"", parts_of(path)
    told = b"".join(parts)
    if not known.startswith(told):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, told)
    if known or told:  # a part that is not full, but the last, is of an entry that was given up
        _send(path, len(told) if all(len(part) == _PART for part in parts[:-1]) else 0)


def _send(path: Path, start: int) -> None:
    """Send what a journal has from a byte on, if it belongs into a store."""
    if address_of(path) is not None:
        with path.open("rb") as file:
            file.seek(start - start % _PART)
            for number, part in enumerate(iter(lambda: file.read(_PART), b""), start // _PART):
                send_part(path, number, part)


class JournalWriter(Protocol):
    """Has entries noted: writes the journal, or tells whoever does."""

    def append(self, entry: Entry) -> None:
        """Add an entry, which is on disk when this returns; OutputError where that cannot be."""


class Journal:
    """A journal open for appending, made if missing; OutputError where it cannot be written to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with _telling(path, mark("the journal cannot be opened ({reason})")):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "a+b", buffering=0, opener=open_nofollow)  # noqa: SIM115
            self._has_torn_line = not ends_with_newline(self._file)
        self._makers: dict[str, dict[int, str]] = {}  # by the keys of files in work

    def append(self, entry: Entry, worker: str = "") -> None:
        """Add an entry, on disk when this returns; after an OutputError readers will not see a part of it.

        A segment's names the ``worker``, one of several; a result's report is told who made its segments.
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
        """Return who made which of a file's segments, as spans; nothing where one worked alone."""
        makers, spans = self._makers.pop(key, {}), dict[str, list[tuple[int, int]]]()
        if len(makers) < segments:  # an earlier run made the others
            earlier = read_journal(self._path).of(key)
            makers = {e.part.segment.number: e.worker for e in earlier if isinstance(e, SegmentDone)} | makers
        for number in range(segments if any(makers.values()) else 0):
            mine = spans.setdefault(makers.get(number, ""), [])
            start = mine.pop()[0] if mine and mine[-1][1] == number else number
            mine.append((start, number + 1))
        return spans

    def _write(self, entry: Entry) -> None:
        body = to_json(entry)
        line = f"{_HEAD.format(zlib.crc32(body.encode()))}{body}}}\n".encode()
        if self._has_torn_line:  # by a crash, or by a full disk a moment ago
            line = b"\n" + line
        self._has_torn_line, start = True, self._file.seek(0, os.SEEK_END)
        with _telling(self._path, mark("the journal cannot be written to ({reason})")):
            while line:
                line = line[self._file.write(line) or 0 :]
            os.fsync(self._file.fileno())
            self._has_torn_line = False
        try:
            _send(self._path, start)
        except OutputError:
            self._file.truncate(start)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close it; where nothing was noted, as of a batch that is refused, nothing is left behind."""
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
        return None  # of another version of this package: its work cannot be trusted


def _telling(path: Path, what: str) -> AbstractContextManager[None]:
    remedy = mark("free space or make the folder writable, then run again: finished work is kept")
    return wrap_os_error(OutputError, what, path, remedy)
