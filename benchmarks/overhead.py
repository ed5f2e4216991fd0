"""What segments, journal, recorder and worker process cost beside the plain pipeline.

    python -m benchmarks.overhead [--seconds 60] [--repeat 3] [--standins]

The same 1080p24 clip goes through ``python -m colab_helpers swap``, which writes in one go, and through
``batch``, which does everything that a batch does: another process, segments, journal, copies of figures,
verification, reports. Networks cost nothing, so that what is added weighs most; with ``--standins`` they are
the demo's, and so are the two people in the picture. Whole processes are timed; runs alternate and medians
count.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.memory import drawn, make_long_clip, rendered
from benchmarks.throughput import CONSENT, wall_and_cpu


def main() -> None:
    parser = argparse.ArgumentParser(description="Overhead of a batch against the plain pipeline.")
    parser.add_argument("--seconds", type=int, default=60, help="length of the clip, a multiple of 6")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--standins", action="store_true", help="the demo's people and networks")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        block, models, source = rendered(folder) if options.standins else drawn(folder)
        (folder / "in").mkdir()
        make_long_clip(folder / "in" / "clip.mp4", block, seconds=options.seconds)
        measure(folder, models, source, repeat=options.repeat)


def measure(folder: Path, models: Path, source: Path, *, repeat: int) -> None:
    """Time both ways in turn and print the ratio of their medians."""
    common = ["-s", str(source), "--consent", CONSENT, "--models-dir", str(models)]
    common += ["--output-video-encoder", "libx264", "--execution-provider", "cpu"]
    targets = folder / "in"
    ways = {
        "swap": ["swap", "--overwrite", "-t", f"{targets}/clip.mp4", "-o", f"{folder}/plain.mp4", *common],
        "batch": ["batch", "-t", f"{targets}", "-o", f"{folder}/out", *common],
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeat):
        for name, arguments in ways.items():
            shutil.rmtree(folder / "out", ignore_errors=True)
            seconds, _ = wall_and_cpu([sys.executable, "-m", "colab_helpers", *arguments])
            times[name].append(seconds)
            print(f"{name:<6} {times[name][-1]:7.2f} s", flush=True)
    medians = {name: statistics.median(found) for name, found in times.items()}
    ratio = medians["batch"] / medians["swap"]
    print(f"batch / swap = {ratio:.3f} (medians of {repeat})")


if __name__ == "__main__":
    main()
