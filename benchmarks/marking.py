"""What marking a large result costs: seconds, processor time, and the most memory held beside the process.

    python -m benchmarks.marking [GIGABYTES ...]

Marks an MP4 of each size, whose pictures are followed by sparse data of that length, in a process of its own,
and reads the mark back in another.
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

_KIB = 1 << 10


def main() -> None:
    """Measure every size, or do one part in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", type=float, default=[0.1, 1.0, 4.0])
    parser.add_argument("--part", choices=["mark", "read"])
    parser.add_argument("--file", type=Path)
    options = parser.parse_args()
    if options.part:
        _measured(options.part, options.file)
        return
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = large(Path(folder) / "large.mp4", round(size * 1e9))
            for part in ("mark", "read"):
                command = [sys.executable, "-m", "benchmarks.marking", "--part", part, "--file", str(path)]
                print(
                    f"{size:g} GB, {part}: {subprocess.check_output(command, text=True).strip()}", flush=True
                )


def large(path: Path, size: int) -> Path:
    """Write a video that is followed by a second, sparse box of media data (ISO/IEC 14496-12, 4.2)."""
    shutil.copyfile(made(path.with_name("target.mp4")), path)
    with path.open("ab") as file:
        file.write(struct.pack(">I4sQ", 1, b"mdat", size))
        file.truncate(file.tell() + size - 16)
    return path


def _measured(part: str, path: Path) -> None:
    before, started = _most(), time.monotonic()
    if part == "mark":
        by = marks(path.with_name("target.mp4"), digest="0" * 64)  # which a run knows from its beginning
        by.seal(path, path, actions=["swap"])
    else:
        print(read_mark(path)[0], end=", ")
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds, cpu = time.monotonic() - started, used.ru_utime + used.ru_stime
    print(f"{seconds:.1f} s, {cpu:.1f} s of a core, {_most() - before} MiB more than before")


def _most() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // _KIB


if __name__ == "__main__":
    main()
