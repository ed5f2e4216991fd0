"""How much memory is in use, on the machine, in this process and on the GPU."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from colab_helpers.machine import this_machine

_CGROUP_CURRENT = Path("/sys/fs/cgroup/memory.current")
_CGROUP_STAT = Path("/sys/fs/cgroup/memory.stat")


def ram_used() -> int:
    """Bytes of RAM in use: of the container where it has a limit of its own, else of the machine."""
    memory = psutil.virtual_memory()
    machine_wide = int(memory.total - memory.available)
    if this_machine().memory_total >= memory.total:
        return machine_wide
    return _container_used() or machine_wide


def _container_used() -> int | None:
    try:
        current = int(_CGROUP_CURRENT.read_text())
        lines = dict(line.split() for line in _CGROUP_STAT.read_text().splitlines())
    except (OSError, ValueError):
        return None
    # The kernel gives file cache back under pressure; it is no memory that is missing.
    return current - int(lines.get("inactive_file", 0))


def ram_percent() -> float:
    """RAM in use as a share of what this machine or container has, in percent."""
    return 100.0 * ram_used() / this_machine().memory_total


def process_memory() -> int:
    """Resident bytes of this process."""
    return int(psutil.Process(os.getpid()).memory_info().rss)


def gpu_memory() -> tuple[int, int] | None:
    """VRAM of the first GPU in bytes, in use (by all programs) and in all; None without a GPU."""
    handle = _gpu_handle()
    if handle is None:
        return None
    import pynvml

    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return int(memory.used), int(memory.total)


def gpu_memory_percent() -> float | None:
    """VRAM in use on the first GPU in percent, or None without a GPU."""
    memory = gpu_memory()
    return None if memory is None else 100.0 * memory[0] / memory[1]


@cache
def _gpu_handle() -> Any:
    """NVML's handle of the first GPU; None without a driver. NVML stays open for the process's life."""
    if this_machine().gpu is None:
        return None
    import pynvml

    pynvml.nvmlInit()
    return pynvml.nvmlDeviceGetHandleByIndex(0)
