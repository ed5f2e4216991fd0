"""Measure the speed-up and overhead of a cluster on the loopback, with the network times of a T4 simulated.

    python -m benchmarks.scaling [--workers 4] [--seconds 40]

Prints the overhead of one cluster worker compared with a local one, with segments of 20 s; the speed-up of
several workers; and the coordinator's time and memory for a thousand videos of three segments that take no
time. The simulated networks sleep while they hold a lock, as they share one GPU, for the times with which
``bench`` predicts a T4. The time of a batch is given in total, from the first journal entry to the last (a
cluster takes seconds to start), and for the middle half of its segments, when all workers are busy.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from tests.helpers.cluster import first_node, join, thousand, watched_memory
from tests.helpers.processes import BatchCommand, draw_photo, journal_entries, wait_for_exit

CONSENT = "Rendered for this measurement: synthetic."
SIMULATED = """
if "colab_helpers.batch.pool_worker" in sys.orig_argv or "colab_helpers.batch.worker" in sys.orig_argv:
    from benchmarks.scaling import wait_as_a_t4
    wait_as_a_t4()
"""
TIMEOUT = 3600.0
PERIODS = "total", "first to last journal entry", "middle half of the segments"


def wait_as_a_t4() -> None:
    """Make the networks of this process sleep as long as a T4 computes, one at a time."""
    from colab_helpers.diagnosis.bench_model import _DEVICES, _H200_MS
    from colab_helpers.models.session import Network

    gpu, run, factor = threading.Lock(), Network.run, _DEVICES["T4"].network_time

    def delayed(self: Network, *inputs: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        with gpu:
            time.sleep(_H200_MS.get(self.name, 0.0) * factor / 1e3)
        return run(self, *inputs)

    setattr(Network, "run", delayed)  # noqa: B010


def make_clips(folder: Path, *, files: int, seconds: float) -> Path:
    """Fill a new folder with clips of five frames per second; return the folder."""
    from fractions import Fraction

    from tests.media.make import Spec, make

    folder.mkdir()
    make(folder / "0.mp4", Spec(size=(640, 360), frames=round(5 * seconds), rate=Fraction(5)))
    for number in range(1, files):  # identical files would be processed one after another
        copy = shutil.copyfile(folder / "0.mp4", folder / f"{number}.mp4")
        with copy.open("ab") as file:
            file.write(bytes(number))
    return folder


def run_timed(command: BatchCommand, *options: str) -> tuple[float, float, float]:
    """Run a batch; return its seconds: total, journal's first to last entry, middle half of the segments."""
    started = time.monotonic()
    wait_for_exit(command.start(*options), timeout=TIMEOUT)
    total = time.monotonic() - started
    starts, segments, ends = (
        [entry["time"] for entry in journal_entries(command.out, event)]
        for event in ("started", "segment", "done")
    )
    half = segments[len(segments) * 3 // 4] - segments[len(segments) // 4]
    return total, max(ends) - min(starts or segments), half


def main(argv: Sequence[str] | None = None) -> None:
    """Run the measurements and print them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--workers", type=int, default=4, help="nodes of the cluster, with one worker each")
    parser.add_argument("--seconds", type=float, default=40.0, help="length of each of the three clips")
    options = parser.parse_args(argv)
    with first_node(SIMULATED) as folder:
        from colab_helpers.diagnosis.bench_networks import write_constant_models
        from tests.people.standins import CONTENT_FILE, content

        models = write_constant_models(folder / "models", box=(200, 60, 440, 300))
        (models / CONTENT_FILE).write_bytes(content().SerializeToString())
        photo, three = draw_photo(folder), make_clips(folder / "three", files=3, seconds=options.seconds)
        many = make_clips(folder / "many", files=2 * options.workers + 1, seconds=options.seconds / 4)

        def batch(targets: Path, out: str, *args: str) -> BatchCommand:
            return BatchCommand(
                targets, photo, models, CONSENT, folder / out, "--frame-processors", "face_swapper", *args
            )

        long = ("--segment-seconds", "20")
        local = run_timed(batch(three, "alone"), *long)
        one = run_timed(batch(three, "one"), *long, "--cluster", "auto")
        for period, clustered, plain in zip(PERIODS, one, local, strict=True):
            times = f"{plain:.1f} s local, {clustered:.1f} s on a cluster: {clustered / plain - 1:+.1%}"
            print(f"one worker, {period}: {times}", flush=True)
        one = run_timed(batch(many, "many_one"), "--cluster", "auto")
        for number in range(1, options.workers):
            join(2 + number)
        several = run_timed(batch(many, "many_all"), "--cluster", "auto")
        for period, slow, fast in zip(PERIODS, one, several, strict=True):
            gain = f"{slow:.1f} -> {fast:.1f} s, {slow / fast:.2f} times as fast"
            print(f"{options.workers} workers, {period}: {gain}", flush=True)
        (folder / "fake").touch()
        with watched_memory(folder) as sizes:
            total, *_ = run_timed(batch(thousand(folder), "thousand_out", "--cluster", "auto"))
        print(f"1,000 videos of three segments: {total:.0f} s, {max(sizes) / 1e6:.0f} MB in the coordinator")


if __name__ == "__main__":
    main(sys.argv[1:])
