"""Measure marking a large output: seconds, CPU time, and peak memory above that of the idle process.

    python -m benchmarks.marking [GIGABYTES ...]

Marks an MP4 of each size (a short video followed by sparse data of that length) in its own process, and reads
the mark back in another.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.helpers.marks import made, marks, read_mark


def main() -> None:
    """Measure every size, or run one part as the child process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", type=float, default=[0.1, 1.0, 4.0], metavar="GIGABYTES")
    parser.add_argument("--part", choices=["mark", "read"], help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        _measure(options.part, options.file)
        return
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = make_large(Path(folder) / "large.mp4", round(size * 1e9))
            for part in ("mark", "read"):
                command = [sys.executable, "-m", "benchmarks.marking", "--part", part, "--file", str(path)]
                output = subprocess.check_output(command, text=True).strip()
                print(f"{size:g} GB, {part}: {output}", flush=True)


def make_large(path: Path, size: int) -> Path:
    """Write a video followed by a second, sparse media data box (ISO/IEC 14496-12, 4.2)."""
    shutil.copyfile(made(path.with_name("target.mp4")), path)
    with path.open("ab") as file:
        file.write(struct.pack(">I4sQ", 1, b"mdat", size))
        file.truncate(file.tell() + size - 16)
    return path


def _measure(part: str, path: Path) -> None:
    memory_before, started = _peak_mib(), time.monotonic()
    if part == "mark":
        marker = marks(path.with_name("target.mp4"), digest="0" * 64)  # a run knows the digest from its start
        marker.seal(path, path, actions=["swap"])
    else:
        print(read_mark(path)[0], end=", ")
    usage = resource.getrusage(resource.RUSAGE_SELF)
    seconds, cpu = time.monotonic() - started, usage.ru_utime + usage.ru_stime
    print(f"{seconds:.1f} s, {cpu:.1f} s of CPU time, {_peak_mib() - memory_before} MiB more than before")


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


if __name__ == "__main__":
    main()
