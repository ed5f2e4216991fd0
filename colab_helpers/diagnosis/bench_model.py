"""A simple performance model of a run, and its predictions for other machines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from colab_helpers.machine import this_machine


class _Device(NamedTuple):
    """A machine: CPUs, the time of network calls relative to an H200, whether it has NVENC."""

    cpus: int
    network_time: float
    has_nvenc: bool


_DEVICES = {"T4": _Device(2, 15.0, True), "L4": _Device(12, 11.5, True), "A100": _Device(12, 3.1, False)}
"""Colab's machines, assuming CPUs as fast as this machine's. The network time is the geometric mean of the
ratios to an H200's 989 TFLOPS (float16, dense) and 4,800 GB/s, by NVIDIA's data sheets: T4 65 and 320, L4 121
and 300, A100 (40 GB) 312 and 1,555."""
_H200_MS = {"det_10g": 4.9, "w600k_r50": 2.2, "inswapper_128": 3.2, "GFPGANv1.4": 7.8}
"""Measured milliseconds per call on an H200 (docs/gpu.md)."""
_STAGES = ("MainThread", "change faces", "find faces", "decode")


def predict(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the modelled frames/s of a measured run, and the model's error in percent.

    After the start, the time is that of the bottleneck: total CPU work on all CPUs, the busiest stage's
    thread, or the GPU.
    """
    if not row["threads_ms"]:  # not profiled
        return {"model_fps": math.nan, "model_error_percent": math.nan}
    frames, start = row["frames"], row["first_frame_ms"]
    cpu = (row["cpu_ms"] * frames - row["first_frame_cpu_ms"]) / this_machine().cpus
    busiest = max(row["threads_ms"].get(name, 0.0) for name in _STAGES) * frames
    gpu = row["networks_ms"] * frames if row["card"] else 0.0
    fps = 1e3 * frames / (start + max(cpu, busiest, gpu))
    return {"model_fps": fps, "model_error_percent": 100 * (fps / row["fps"] - 1)}


def predict_devices(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Predict the steady-state frames/s of each run with the real networks on each device.

    The networks' CPU time here is replaced by their GPU time there, and NVENC saves the CPU time of encoding.
    """
    rates: dict[str, dict[str, float]] = {name: {} for name in _DEVICES}
    for row in (row for row in rows if row["networks"]):
        calls = {name: each["calls"] / row["frames"] for name, each in row["networks"].items()}
        networks_cpu = sum(calls[name] * each["cpu_ms"] for name, each in row["networks"].items())
        h200_ms = sum(count * _H200_MS.get(name, 0.0) for name, count in calls.items())
        for name, device in _DEVICES.items():
            cpu = row["cpu_ms"] - row["first_frame_cpu_ms"] / row["frames"] - networks_cpu
            cpu -= row["encode_cpu_ms"] if device.has_nvenc else 0.0
            bottleneck = max(cpu / device.cpus, h200_ms * device.network_time)
            rates[name][f"{row['clip']} {row['way']}"] = 1e3 / bottleneck
    return rates
