"""What a cluster brings and costs: a real one on the loopback, whose networks wait as long as a T4 computes.

    python -m benchmarks.scaling [--workers 4] [--seconds 40]

Prints what one worker of a cluster takes longer than one without, at segments of 20 s, how much faster
several are than one, and what a thousand videos of three segments that take no time cost the coordinator.
Networks hold a lock while they wait, as work on one card does; times are those by which ``bench`` predicts a
T4. A batch is timed as a whole, from its first entry in the journal to its last (a cluster takes seconds to
begin), and while its middle half of segments was made, when all were at work.
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
WHAT = "whole", "work", "middle half of the segments"


def wait_as_a_t4() -> None:
    """Have networks wait in this process, one at a time, as long as a T4 computes."""
    from colab_helpers.diagnosis.bench_model import _DEVICES, _H200_MS
    from colab_helpers.models.session import Network

    card, run, slower = threading.Lock(), Network.run, _DEVICES["T4"].network_time

    def waited(self: Network, *inputs: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        with card:
            time.sleep(_H200_MS.get(self.name, 0.0) * slower / 1e3)
        return run(self, *inputs)

    setattr(Network, "run", waited)  # noqa: B010


def made(place: Path, name: str, *, files: int, seconds: float) -> Path:
    """A folder of clips of five frames a second with a face in each frame."""
    from fractions import Fraction

    from tests.media.make import Spec, make

    (folder := place / name).mkdir()
    make(folder / "0.mp4", Spec(size=(640, 360), frames=round(5 * seconds), rate=Fraction(5)))
    for number in range(1, files):  # copies would be done one after another
        copy = shutil.copyfile(folder / "0.mp4", folder / f"{number}.mp4")
        with copy.open("ab") as file:
            file.write(bytes(number))
    return folder


def timed(shell: BatchCommand, *options: str) -> tuple[float, float, float]:
    """Seconds of a batch: as a whole, of the work, and of the middle half of its segments."""
    began = time.monotonic()
    wait_for_exit(shell.start(*options), timeout=TIMEOUT)
    whole = time.monotonic() - began
    events = "started", "segment", "done"
    times = [[entry["time"] for entry in journal_entries(shell.out, event)] for event in events]
    half = times[1][len(times[1]) * 3 // 4] - times[1][len(times[1]) // 4]
    return whole, max(times[2]) - min(times[0] or times[1]), half


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling")
    parser.add_argument("--workers", type=int, default=4, help="nodes of the cluster, a worker on each")
    parser.add_argument("--seconds", type=float, default=40.0, help="of each of three clips")
    options = parser.parse_args(argv)
    with first_node(SIMULATED) as place:
        from colab_helpers.diagnosis.bench_networks import write_constant_models
        from tests.people.standins import CONTENT_FILE, content

        models = write_constant_models(place / "models", box=(200, 60, 440, 300))
        (models / CONTENT_FILE).write_bytes(content().SerializeToString())
        photo, three = draw_photo(place), made(place, "three", files=3, seconds=options.seconds)
        many = made(place, "many", files=2 * options.workers + 1, seconds=options.seconds / 4)

        def batch(targets: Path, out: str, *more: str) -> BatchCommand:
            return BatchCommand(
                targets, photo, models, CONSENT, place / out, "--frame-processors", "face_swapper", *more
            )

        long = ("--segment-seconds", "20")
        alone = timed(batch(three, "alone"), *long)
        one = timed(batch(three, "one"), *long, "--cluster", "auto")
        for what, with_one, without in zip(WHAT, one, alone, strict=True):
            more = with_one / without - 1
            print(
                f"one worker, {what}: {without:.1f} s alone, {with_one:.1f} s on a cluster: {more:+.1%}",
                flush=True,
            )
        one = timed(batch(many, "many_one"), "--cluster", "auto")
        for number in range(1, options.workers):
            join(2 + number)
        several = timed(batch(many, "many_all"), "--cluster", "auto")
        for what, slow, fast in zip(WHAT, one, several, strict=True):
            gain = f"{slow:.1f} -> {fast:.1f} s, {slow / fast:.2f} times as fast"
            print(f"{options.workers} workers, {what}: {gain}", flush=True)
        (place / "fake").touch()
        with watched_memory(place) as sizes:
            whole, *_ = timed(batch(thousand(place), "thousand_out", "--cluster", "auto"))
        print(f"1,000 videos of three segments: {whole:.0f} s, {max(sizes) / 1e6:.0f} MB in the coordinator")


if __name__ == "__main__":
    main(sys.argv[1:])
