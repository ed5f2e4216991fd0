"""Feed damaged and hostile files to every reader of the package, and print the failures.

    python -m benchmarks.fuzz [--count 20000] [--seed 1] [--kind NAME ...]

A case may end with a result, an error of this package, or an OSError. A failure is any other exception, a
process that dies, a case of more than ten seconds, more memory than `MEMORY`, a write outside the case's
folder, a started program, or a network connection. The same seed gives the same cases. A child process reads
them; it is replaced if it dies or hangs.
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
"""Time limit of a case."""
MEMORY = 3 << 30
"""Address space that a child may allocate on top of what it starts with, in bytes."""

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
class Failure:
    """A failed case; run it again with ``--kind KIND --count INDEX+1`` and the same ``--seed``."""

    kind: str
    index: int
    what: str


def mutated(kind: Kind, seed: int, index: int) -> bytes:
    """Return the bytes of a case: one of the kind's seeds, mutated one to six times."""
    rng = np.random.default_rng([seed, zlib.crc32(kind.name.encode()), index])
    data = bytearray(kind.seeds[int(rng.integers(len(kind.seeds)))])
    for _ in range(int(rng.integers(1, 7))):
        at, length = int(rng.integers(len(data) + 1)), int(2 ** rng.uniform(0, 9))
        match int(rng.integers(7)):
            case 0 if data:  # flip a few bits
                for position in rng.integers(len(data), size=int(rng.integers(1, 9))):
                    data[position] ^= 1 << int(rng.integers(4 if kind.text else 8))
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
                tokens = _TOKENS if kind.text else _NUMBERS
                token = tokens[int(rng.integers(len(tokens)))]
                data[at : at + (0 if kind.text else len(token))] = token
    return bytes(data)


def run(count: int, *, seed: int, chosen: Sequence[str] = (), seconds: float = SECONDS) -> list[Failure]:
    """Run ``count`` cases, spread evenly over all kinds or the ``chosen`` ones; return the failures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        used = [kind for name, kind in kinds(folder).items() if not chosen or name in chosen]
        cases = [(kind, index) for index in range(-(-count // len(used))) for kind in used][:count]
        failures: list[Failure] = []
        shared = mmap.mmap(-1, 8)  # the number of the current case
        while (first := int.from_bytes(shared[:8], "little")) < len(cases):
            child = os.fork()
            if not child:
                _child(cases, first, seed, folder, shared)
            end = _wait(child, shared, seconds)
            current = int.from_bytes(shared[:8], "little")
            failures += [Failure(**entry) for entry in _take(folder / "failures")]
            if current < len(cases):  # the child died or hung in this case
                kind, index = cases[current]
                failures.append(Failure(kind.name, index, end))
                shared[:8] = (current + 1).to_bytes(8, "little")
        return failures


def _child(cases: Sequence[tuple[Kind, int]], first: int, seed: int, folder: Path, shared: mmap.mmap) -> None:
    """Run the cases from number ``first`` on, append failures to a file, and end the process."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    audit = _Audit(folder)
    faulthandler.disable()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # FFmpeg and libtiff log what is wrong with each file
    try:
        with (folder / "failures").open("a") as file:
            for number in range(first, len(cases)):
                kind, index = cases[number]
                shared[:8] = number.to_bytes(8, "little")
                what = failure_of(kind, seed, index, folder / "case", audit)
                if what:
                    file.write(json.dumps({"kind": kind.name, "index": index, "what": what}) + "\n")
                    file.flush()
        shared[:8] = len(cases).to_bytes(8, "little")
    finally:
        os._exit(0)


def failure_of(kind: Kind, seed: int, index: int, folder: Path, audit: _Audit) -> str:
    """Run a case; return how it failed, or an empty string."""
    folder.mkdir(exist_ok=True)
    path = folder / kind.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(mutated(kind, seed, index))
    audit.start()
    try:
        kind.read(path)
    except (ColabHelpersError, OSError):
        pass
    except BaseException as error:  # noqa: BLE001 - the failures looked for
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:150]} in {Path(last.filename).name}:{last.lineno}"
    return "; ".join(audit.stop())


class _Audit:
    """Record forbidden actions of a case: writes elsewhere, started programs, connections."""

    def __init__(self, allowed: Path) -> None:
        self._allowed, self._violations, self._active = f"{allowed}{os.sep}", list[str](), False
        sys.addaudithook(self._hook)

    def start(self) -> None:
        self._violations, self._active = [], True

    def stop(self) -> list[str]:
        self._active = False
        return self._violations

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._active or event not in _AUDITED:
            return
        writes = event != "open" or bool(args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        inside = bool(args) and str(args[0]).startswith((self._allowed, tempfile.gettempdir() + "/tmp"))
        if writes and not (inside and event in _FILE_EVENTS):
            self._violations.append(f"{event} {args[:1]}")


_FILE_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove"}
_AUDITED = _FILE_EVENTS | {
    "os.system",
    "subprocess.Popen",
    "os.exec",
    "socket.connect",
    "os.symlink",
    "os.link",
}


def _wait(child: int, shared: mmap.mmap, seconds: float) -> str:
    """Wait for a child to end, and kill it if a case takes too long; return how it ended."""
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


def _take(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the failures that a child has written, and remove the file."""
    if path.exists():
        yield from map(json.loads, path.read_text().splitlines())
        path.unlink()


def main() -> int:
    """Run the cases; return 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--kind", action="append", default=[], help="file kind to test, such as journal.jsonl; repeatable"
    )
    options = parser.parse_args()
    started = time.monotonic()
    failures = run(options.count, seed=options.seed, chosen=options.kind)
    for failure in failures:
        print(f"{failure.kind} {failure.index}: {failure.what}")
    print(f"{options.count} cases in {time.monotonic() - started:.0f} s, {len(failures)} found")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
