"""Peak memory of a run by the length of its clip.

    python -m benchmarks.memory [--short 30] [--long 300] [--standins]

Runs ``python -m colab_helpers swap`` on 1080p clips of two lengths, each in a process of its own, and prints
the peak resident memory of each. The networks cost nothing and see one face in every frame; with
``--standins`` they are the demo's, and so are the two people in the picture.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from benchmarks.graphs import write_constant_models
from benchmarks.throughput import CONSENT, HEIGHT, RATE, WIDTH, make_clip
from tests.people.clip import make_demo
from tests.people.ship import SOURCE

_BLOCK_SECONDS = 6
MIB = 1024**2


def make_long_clip(path: Path, block: Path, *, seconds: int) -> None:
    """Repeat a clip by copying its packets."""
    with av.open(str(path), "w") as writer, av.open(str(block)) as first:
        source: Any = first.streams.video[0]
        stream = writer.add_stream_from_template(source)
        step = round(_BLOCK_SECONDS / source.time_base)
        for repeat in range(seconds // _BLOCK_SECONDS):
            with av.open(str(block)) as reader:
                packets: Iterator[Any] = reader.demux(video=0)
                for packet in packets:
                    if packet.dts is None:
                        continue
                    packet.pts += repeat * step
                    packet.dts += repeat * step
                    packet.stream = stream
                    writer.mux(packet)


def peak_memory(command: list[str]) -> int:
    """Peak resident bytes of a command, by the kernel's own count."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise RuntimeError(f"the run failed: {' '.join(command)}")
    return usage.ru_maxrss * 1024


def drawn(folder: Path) -> tuple[Path, Path, Path]:
    """Clip, models and source of drawn pictures and networks that cost nothing."""
    make_clip(folder / "block.mp4", seconds=_BLOCK_SECONDS)
    cv2.imwrite(str(folder / "source.png"), np.full((512, 512, 3), 128, np.uint8))
    models = write_constant_models(folder / "models", box=(200, 60, 440, 300))
    return folder / "block.mp4", models, folder / "source.png"


def rendered(folder: Path) -> tuple[Path, Path, Path]:
    """The same of two rendered people and the stand-ins."""
    size, rate = (WIDTH, HEIGHT), Fraction(RATE)
    demo = make_demo(folder / "demo", size=size, fps=rate, seconds=_BLOCK_SECONDS, clips=1, true_swaps=False)
    return demo.targets[0], demo.models, demo.directory / "source" / f"{SOURCE}.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--short", type=int, default=30, help="seconds")
    parser.add_argument("--long", type=int, default=300, help="seconds")
    parser.add_argument("--standins", action="store_true", help="the demo's people and networks")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        block, models, source = rendered(folder) if options.standins else drawn(folder)
        peaks = []
        for seconds in (options.short, options.long):
            clip = folder / "clip.mp4"
            make_long_clip(clip, block, seconds=seconds)
            command = [
                *(sys.executable, "-m", "colab_helpers", "swap", "-s", str(source), "-t", str(clip)),
                *("-o", str(folder / "out.mp4"), "--models-dir", str(models), "--consent", CONSENT),
                *("--overwrite", "--output-video-encoder", "libx264", "--output-video-preset", "ultrafast"),
            ]
            peaks.append(peak_memory(command))
            print(f"{seconds:4} s of {WIDTH}x{HEIGHT} at {RATE} fps: {peaks[-1] / MIB:.0f} MiB at the peak")
        print(f"long / short: {peaks[1] / peaks[0]:.3f}")


if __name__ == "__main__":
    main()
