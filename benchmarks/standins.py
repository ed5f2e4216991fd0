"""Measure the stand-in models on random scenes and print a table.

``python -m benchmarks.standins [--seeds 1 2 3] [--empty 1000]``; by default with three random seeds.
"""

from __future__ import annotations

import argparse
import secrets
import tempfile
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from tests.people.looks import IDENTITIES
from tests.people.measure import Figures, Tools, measure_detection, measure_identity, measure_swap
from tests.people.scene import Scene
from tests.people.standins import write_standins

SIZES = ((640, 360), (1280, 720), (1920, 1080))


def _summary(name: str, figures: Figures) -> str:
    def spread(values: list[float], percent: int, worst: Callable[[list[float]], float]) -> str:
        if not values:
            return "-"
        percentile, extreme = np.percentile(values, percent), worst(values)
        return f"{np.mean(values):.3f} (p{percent} {percentile:.3f}, {worst.__name__} {extreme:.3f})"

    low, high = partial(spread, percent=2, worst=min), partial(spread, percent=98, worst=max)
    lines = [
        name,
        f"  recall {figures.recall:.4f} ({figures.found}/{figures.asked})",
        f"  false faces {figures.false} in {figures.frames} frames",
        f"  landmark error / eye distance  {high(figures.landmark)}",
        f"  cosine, same person          {low(figures.same)}",
        f"  cosine, different people     {high(figures.different)}",
        f"  cosine, swapped to source    {low(figures.to_source)}",
        f"  cosine, swapped to original  {high(figures.to_original)}",
        f"  PSNR to true swap, dB  {low(figures.psnr)}   gain {low(figures.gain)}",
    ]
    return "\n".join(lines)


def measure(seed: int, tools: Tools, *, step: int) -> Figures:
    """Measure scenes of one seed in three sizes."""
    figures, portraits = Figures(), tools.portraits()
    names = list(IDENTITIES)
    for k, size in enumerate(SIZES):
        for people in (2, 1):
            scene = Scene(seed + 17 * k + people, size, Fraction(25), 4.0, people)
            frames = range(k, scene.frames, step)
            measure_detection(scene, frames, tools, figures)
            measure_identity(scene, frames, tools, portraits, figures)
            others = [name for name in names if name not in scene.cast]
            for j, i in enumerate(frames):
                measure_swap(scene, [i], others[(seed + j) % len(others)], tools, portraits, figures)
    return figures


def measure_empty(seeds: list[int], count: int, tools: Tools) -> Figures:
    """Count false faces in frames without people."""
    figures = Figures()
    for k in range(count):
        scene = Scene(seeds[k % len(seeds)] * 7919 + k // 4, SIZES[0], Fraction(25), 4.0, 0)
        measure_detection(scene, [(k % 4) * 25], tools, figures)
    return figures


def main() -> None:
    """Print the measurements of each seed, and of frames without people."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="*", default=[])
    parser.add_argument("--step", type=int, default=8, help="measure every STEP-th frame")
    parser.add_argument("--empty", type=int, default=1000, help="number of frames without people")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    seeds = options.seeds or [secrets.randbelow(1_000_000) for _ in range(3)]
    with tempfile.TemporaryDirectory() as folder:
        write_standins(Path(folder))
        tools = Tools(Path(folder))
        for seed in seeds:
            print(_summary(f"seed {seed}", measure(seed, tools, step=options.step)), flush=True)
        print(_summary("no people", measure_empty(seeds, options.empty, tools)))


if __name__ == "__main__":
    main()
