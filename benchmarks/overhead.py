"""What segments, journal, recorder and worker process cost beside the plain pipeline.

    python -m benchmarks.overhead [--seconds 60] [--repeat 3]

The same 1080p24 clip goes through ``python -m colab_helpers swap``, which writes in one go, and through
``batch``, which does everything that a batch does: another process, segments, journal, copies of figures,
verification, reports. Networks cost nothing, so the pipeline's own work counts in full. Whole processes are
timed; runs alternate and medians count.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from benchmarks.graphs import write_constant_models
from benchmarks.throughput import CONSENT, FACE, make_clip


def main() -> None:
    parser = argparse.ArgumentParser(description="Overhead of a batch against the plain pipeline.")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the clip")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), seconds=options.seconds, repeat=options.repeat)


def measure(folder: Path, *, seconds: float, repeat: int) -> None:
    """Time both ways in turn and print the ratio of their medians."""
    models = write_constant_models(folder / "models", box=(270, 130, 270 + FACE / 3, 130 + FACE / 3))
    cv2.imwrite(str(folder / "face.png"), np.full((256, 256, 3), 120, np.uint8))
    (folder / "in").mkdir()
    make_clip(folder / "in" / "clip.mp4", seconds=seconds)
    common = ["-s", str(folder / "face.png"), "--consent", CONSENT, "--models-dir", str(models)]
    common += ["--output-video-encoder", "libx264", "--execution-provider", "cpu"]
    ways = {
        "swap": ["swap", "-t", str(folder / "in" / "clip.mp4"), "-o", str(folder / "plain.mp4"), *common],
        "batch": ["batch", "-t", str(folder / "in"), "-o", str(folder / "out"), *common],
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeat):
        for name, arguments in ways.items():
            shutil.rmtree(folder / "out", ignore_errors=True)
            times[name].append(_seconds(arguments))
            print(f"{name:<6} {times[name][-1]:7.2f} s", flush=True)
    medians = {name: statistics.median(found) for name, found in times.items()}
    ratio = medians["batch"] / medians["swap"]
    print(f"batch / swap = {ratio:.3f} (medians of {repeat}, {seconds:g} s clip)")


def _seconds(arguments: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "colab_helpers", *arguments], check=True, capture_output=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
