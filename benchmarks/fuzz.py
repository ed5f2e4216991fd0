"""Feeds damaged and hostile files to everything that reads some, and says what does not end as it should.

    python -m benchmarks.fuzz [--count 20000] [--seed 1] [--kind NAME ...]

Every case ends with a result, an error of this package, or an OSError. What counts as found: any other
exception, a process that dies, a case of more than ten seconds, more memory than `MEMORY`, and anything
written outside the case's own folder, run, or asked of the network. Cases are the same for the same seed; a
child reads them, and is replaced when it dies or hangs.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import mmap
import os
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzz_kinds import Kind, kinds
from colab_helpers.errors import ColabHelpersError

SECONDS = 10.0
"""Longest time of a case."""
MEMORY = 3 << 30
"""Address space a child may take beside what it began with, in bytes; see `benchmarks.memory` for runs."""

_NUMBERS = [struct.pack(form, value) for form in (">I", "<I") for value in (0, 1, 0x7FFFFFFF, 0xFFFFFFFF)]
_NUMBERS += [struct.pack(form, value) for form in (">H", "<H") for value in (0x7FFF, 0xFFFF)]
_TOKENS = [
    b"!!python/object/apply:os.system [touch /tmp/owned]", b"&a [*a]", b"<<: *b", b"../../../etc/passwd",
    b"{" * 3000, b"[" * 3000, b"- " * 3000, b'{"a":' * 3000, b"9" * 5000, b"1e999", b"-0", b"NaN",
    b"null", b"true", b"[]", b"{}", b'""', b"\n---\n", b"/dev/zero", b"file:///etc/passwd", b"%s%n{0}", b"\t",
    b"\xed\xa0\x80", b"\\ud800", b"~", b": ", b"'", b'"', b"2026-99-99", b"0x7fffffffffffffffffff", b"\0",
    b"http://127.0.0.1:9/", b"\xff\xfe",
]  # fmt: skip


@dataclass(frozen=True)
class Find:
    """A case that did not end as it should; ``python -m benchmarks.fuzz --case KIND:INDEX`` does it again."""

    kind: str
    index: int
    what: str


def cases(kind: Kind, seed: int, index: int) -> bytes:
    """Return a case's bytes: one of the seeds, damaged in one to six places."""
    rng = np.random.default_rng([seed, zlib.crc32(kind.name.encode()), index])
    data = bytearray(kind.seeds[int(rng.integers(len(kind.seeds)))])
    for _ in range(int(rng.integers(1, 7))):
        at, length = int(rng.integers(len(data) + 1)), int(2 ** rng.uniform(0, 9))
        match int(rng.integers(7)):
            case 0 if data:  # a few bits
                for place in rng.integers(len(data), size=int(rng.integers(1, 9))):
                    data[place] ^= 1 << int(rng.integers(4 if kind.text else 8))
            case 1:
                printable = kind.text and rng.integers(8)
                low, high = (32, 127) if printable else (0, 256)
                data[at : at + length] = rng.integers(low, high, length, np.uint8).tobytes()
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = data[at : at + length] * int(rng.integers(1, 4))
            case 4 if rng.integers(4) == 0:
                del data[at:]
            case 5:
                other = kind.seeds[int(rng.integers(len(kind.seeds)))]
                data[at : at + length] = other[at : at + length]
            case _:
                words = _TOKENS if kind.text else _NUMBERS
                word = words[int(rng.integers(len(words)))]
                data[at : at + (0 if kind.text else len(word))] = word
    return bytes(data)


def run(count: int, *, seed: int, chosen: Sequence[str] = (), seconds: float = SECONDS) -> list[Find]:
    """Do so many cases, evenly of all kinds or those chosen; return what was found."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder).resolve()
        every = [kind for name, kind in kinds(place).items() if not chosen or name in chosen]
        work = [(kind, index) for index in range(-(-count // len(every))) for kind in every][:count]
        finds: list[Find] = []
        shared = mmap.mmap(-1, 8)
        while (begin := int.from_bytes(shared[:8], "little")) < len(work):
            child = os.fork()
            if not child:
                _child(work, begin, seed, place, shared)
            ended = _ended(child, shared, seconds)
            at = int.from_bytes(shared[:8], "little")
            for line in _taken(place / "finds"):
                finds.append(Find(**line))
            if at < len(work):  # what it was at did that
                finds.append(Find(work[at][0].name, work[at][1], ended))
                shared[:8] = (at + 1).to_bytes(8, "little")
        return finds


def _child(work: Sequence[tuple[Kind, int]], begin: int, seed: int, place: Path, shared: mmap.mmap) -> None:
    """Do cases from one on, and note what is found; the process ends with them."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    watch = _Watch(place)
    faulthandler.disable()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # FFmpeg and libtiff say what is wrong with each file
    try:
        with (place / "finds").open("a") as notes:
            for number in range(begin, len(work)):
                kind, index = work[number]
                shared[:8] = number.to_bytes(8, "little")
                what = outcome(kind, seed, index, place / "case", watch)
                if what:
                    notes.write(json.dumps({"kind": kind.name, "index": index, "what": what}) + "\n")
                    notes.flush()
        shared[:8] = len(work).to_bytes(8, "little")
    finally:
        os._exit(0)


def outcome(kind: Kind, seed: int, index: int, folder: Path, watch: _Watch) -> str:
    """Do a case; return what is wrong with how it ended, or nothing."""
    folder.mkdir(exist_ok=True)
    path = folder / kind.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cases(kind, seed, index))
    watch.begin()
    try:
        kind.read(path)
    except (ColabHelpersError, OSError):
        pass
    except BaseException as error:  # noqa: BLE001 - this is what is looked for
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:150]} in {Path(last.filename).name}:{last.lineno}"
    return "; ".join(watch.end())


class _Watch:
    """Notes what a case does beside reading: writes elsewhere, programs, connections."""

    def __init__(self, allowed: Path) -> None:
        self._allowed, self._seen, self._on = f"{allowed}{os.sep}", list[str](), False
        sys.addaudithook(self._hook)

    def begin(self) -> None:
        self._seen, self._on = [], True

    def end(self) -> list[str]:
        self._on = False
        return self._seen

    def _hook(self, event: str, given: tuple[Any, ...]) -> None:
        if not self._on or event not in _WATCHED:
            return
        writes = event != "open" or bool(given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        inside = bool(given) and str(given[0]).startswith((self._allowed, tempfile.gettempdir() + "/tmp"))
        if writes and not (inside and event in _FILES):
            self._seen.append(f"{event} {given[:1]}")


_FILES = {"open", "os.mkdir", "os.rename", "os.remove"}
_WATCHED = _FILES | {"os.system", "subprocess.Popen", "os.exec", "socket.connect", "os.symlink", "os.link"}


def _ended(child: int, shared: mmap.mmap, seconds: float) -> str:
    """Wait until a child has ended, or does nothing for too long; return how."""
    last, since = b"", time.monotonic()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return f"died of signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "ended"
        if shared[:8] != last:
            last, since = shared[:8], time.monotonic()
        elif time.monotonic() - since > seconds:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"took more than {seconds:g} s"
        time.sleep(0.02)


def _taken(path: Path) -> Iterator[dict[str, Any]]:
    """What a child has noted."""
    if path.exists():
        yield from map(json.loads, path.read_text().splitlines())
        path.unlink()


def main() -> int:
    """Do the cases; returns 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", action="append", default=[])
    options = parser.parse_args()
    started = time.monotonic()
    finds = run(options.count, seed=options.seed, chosen=options.kind)
    for find in finds:
        print(f"{find.kind} {find.index}: {find.what}")
    print(f"{options.count} cases in {time.monotonic() - started:.0f} s, {len(finds)} found")
    return int(bool(finds))


if __name__ == "__main__":
    sys.exit(main())
