"""A fake NVML."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from colab_helpers.machine import GIB


class NVMLError(Exception):
    """The base error of NVML."""


def fake_nvml(*, missing: tuple[str, ...] = (), cards: int = 1, alike: bool = True) -> ModuleType:
    """NVML with cards of 16 GiB; if not ``alike``, each is faster than the one before it.

    Handles are numbers. Queries named in ``missing`` are not supported.
    """
    running = [SimpleNamespace(pid=pid, usedGpuMemory=n * GIB) for pid, n in ((os.getpid(), 2), (1, 1))]
    answers: dict[str, Callable[..., Any]] = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: cards,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetIndex": lambda handle: handle,
        "nvmlDeviceGetUUID": lambda handle: f"GPU-{'abcd'[handle] * 4}1111",
        "nvmlDeviceGetName": lambda handle: "Card" if alike else f"Card {handle}",
        "nvmlDeviceGetNumGpuCores": lambda handle: 100 * (1 + handle),
        "nvmlDeviceGetMaxClockInfo": lambda _handle, _kind: 1000,
        "nvmlSystemGetDriverVersion": lambda: "1.0",
        "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(used=3 * GIB, total=16 * GIB),
        "nvmlDeviceGetUtilizationRates": lambda _: SimpleNamespace(gpu=87, memory=40),
        "nvmlDeviceGetEncoderUtilization": lambda _: [31, 167000],
        "nvmlDeviceGetDecoderUtilization": lambda _: [0, 167000],
        "nvmlDeviceGetTemperature": lambda _handle, _kind: 64,
        "nvmlDeviceGetPowerUsage": lambda _: 71_250,
        "nvmlDeviceGetComputeRunningProcesses": lambda _: running,
    }

    def refuse(*_: object) -> None:
        raise NVMLError("not supported")

    module = ModuleType("pynvml")
    module.__dict__.update({**answers, **dict.fromkeys(missing, refuse)})
    module.__dict__.update(NVMLError=NVMLError, NVML_TEMPERATURE_GPU=0, NVML_CLOCK_SM=1)
    return module
