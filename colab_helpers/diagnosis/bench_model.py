"""A small model of a run's rate, and what it says of machines that are not at hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from colab_helpers.machine import this_machine


class _Device(NamedTuple):
    """A machine: processors, how much longer networks take there than on an H200, whether it encodes."""

    cpus: int
    slower: float
    encodes: bool


_DEVICES = {"T4": _Device(2, 15.0, True), "L4": _Device(12, 11.5, True), "A100": _Device(12, 3.1, False)}
"""Colab's machines, their processors taken to be as fast as those here. Slower by the geometric mean of the
ratios to an H200's 989 TFLOPS (float16, dense) and 4,800 GB/s, by NVIDIA's data sheets: T4 65 and 320, L4 121
and 300, A100 (40 GB) 312 and 1,555. The A100 has no NVENC."""
_ON_H200 = {"det_10g": 4.9, "w600k_r50": 2.2, "inswapper_128": 3.2, "GFPGANv1.4": 7.8}
"""Milliseconds of one call there, measured (docs/gpu.md)."""
_STAGES = ("MainThread", "change faces", "find faces", "decode")


def predicted(row: Mapping[str, Any]) -> dict[str, float]:
    """What the model says of a run that was measured: frames a second, and how many percent that is off.

    All processors share the work, or the busiest stage is waited for, or the card: whichever takes longest;
    they work beside each other, but for the start.
    """
    if not row["threads_ms"]:  # nothing looked into it
        return {"model_fps": math.nan, "model_error_percent": math.nan}
    frames, start = row["frames"], row["first_frame_ms"]
    shared = (row["cpu_ms"] * frames - row["first_frame_cpu_ms"]) / this_machine().cpus
    busiest = max(row["threads_ms"].get(name, 0.0) for name in _STAGES) * frames
    card = row["networks_ms"] * frames if row["card"] else 0.0
    fps = 1e3 * frames / (start + max(shared, busiest, card))
    return {"model_fps": fps, "model_error_percent": 100 * (fps / row["fps"] - 1)}


def on_devices(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Frames a second of each run with the real networks on each device, once it is under way.

    Networks' own time here is replaced by theirs there, and what a card encodes is no work of the processors.
    """
    found: dict[str, dict[str, float]] = {name: {} for name in _DEVICES}
    for row in (row for row in rows if row["networks"]):
        calls = {name: each["calls"] / row["frames"] for name, each in row["networks"].items()}
        own = sum(calls[name] * each["cpu_ms"] for name, each in row["networks"].items())
        there = sum(count * _ON_H200.get(name, 0.0) for name, count in calls.items())
        for name, device in _DEVICES.items():
            here = row["cpu_ms"] - row["first_frame_cpu_ms"] / row["frames"] - own
            here -= row["encode_cpu_ms"] if device.encodes else 0.0
            longest = max(here / device.cpus, there * device.slower)
            found[name][f"{row['clip']} {row['way']}"] = 1e3 / longest
    return found
