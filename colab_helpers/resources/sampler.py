"""Current use of RAM, VRAM and GPU."""

from __future__ import annotations

import os
from collections.abc import Collection
from functools import cache, partial
from pathlib import Path
from typing import Any

import psutil

from colab_helpers.machine import gpu_handles, this_machine
from colab_helpers.resources.samples import GpuSample

_CGROUP_CURRENT = Path("/sys/fs/cgroup/memory.current")
_CGROUP_STAT = Path("/sys/fs/cgroup/memory.stat")


def ram_used() -> int:
    """Return the bytes of RAM in use: by the container if it has a limit of its own, else on the machine."""
    memory = psutil.virtual_memory()
    machine_wide = int(memory.total - memory.available)
    if this_machine().memory_total >= memory.total:
        return machine_wide
    return _container_used() or machine_wide


def _container_used() -> int | None:
    try:
        current = int(_CGROUP_CURRENT.read_text())
        stat = dict(line.split() for line in _CGROUP_STAT.read_text().splitlines())
    except (OSError, ValueError):
        return None
    # The kernel reclaims inactive file cache under pressure: it is not in use.
    return current - int(stat.get("inactive_file", 0))


def ram_percent() -> float:
    """Return the RAM in use in percent of what this machine or container has."""
    return 100.0 * ram_used() / this_machine().memory_total


def process_memory() -> int:
    """Return the resident bytes of this process."""
    return int(psutil.Process(os.getpid()).memory_info().rss)


def gpu_memory() -> tuple[int, int] | None:
    """Return the VRAM of the first GPU, used (by all programs) and total, in bytes; None if unknown."""
    memory = _query_nvml(open_gpu(), "MemoryInfo")
    return None if memory is None else (int(memory.used), int(memory.total))


def gpu_memory_percent() -> float | None:
    """Return the VRAM in use on the first GPU in percent; None if unknown."""
    memory = gpu_memory()
    return None if memory is None else 100.0 * memory[0] / memory[1]


def gpu_load() -> float | None:
    """Return the load of the first GPU in percent; None if there is none or its driver does not report it."""
    rates = _query_nvml(open_gpu(), "UtilizationRates")
    return None if rates is None else float(rates.gpu)


def gpu_name() -> str:
    """Return the name of the GPU in use by its index on the machine, such as ``GPU 0``; empty if unknown."""
    index = _query_nvml(open_gpu(), "Index")
    return "" if index is None else f"GPU {index}"


def cuda_version() -> str | None:
    """Return the newest CUDA version that the driver supports, such as ``12.8``; None without a GPU."""
    if open_gpu() is None:
        return None
    import pynvml

    version = pynvml.nvmlSystemGetCudaDriverVersion_v2()  # 1000 * major + 10 * minor
    return f"{version // 1000}.{version % 1000 // 10}"


def gpu_sample(processes: Collection[int], uuids: Collection[str] = ()) -> GpuSample | None:
    """Sample the first GPU of `_in_use`; None without one. ``processes`` are the IDs of the run's processes.

    Inside a container NVML may list other process IDs; ``process_memory`` is None then.
    """
    handle = next(iter(_in_use(uuids)), None)
    if handle is None:
        return None
    import pynvml

    query = partial(_query_nvml, handle)
    encoder, decoder, power = map(query, ("EncoderUtilization", "DecoderUtilization", "PowerUsage"))
    return GpuSample(
        **_load(handle),
        process_memory=_memory_of(processes, query("ComputeRunningProcesses") or []),
        encoder=None if encoder is None else encoder[0],
        decoder=None if decoder is None else decoder[0],
        temperature=query("Temperature", pynvml.NVML_TEMPERATURE_GPU),
        power=None if power is None else power / 1000,
    )


def other_gpus(uuids: Collection[str] = ()) -> list[GpuSample]:
    """Sample the load and VRAM of the GPUs of `_in_use` after the first."""
    return [GpuSample(**_load(handle)) for handle in _in_use(uuids)[1:]]


def _in_use(uuids: Collection[str]) -> list[Any]:
    """Return the NVML handles of the GPUs with these UUIDs; if there are none, of all that CUDA sees."""
    return [handle for handle in open_gpus() if uuids and _query_nvml(handle, "UUID") in uuids] or open_gpus()


def _load(handle: Any) -> dict[str, Any]:
    rates, memory = _query_nvml(handle, "UtilizationRates"), _query_nvml(handle, "MemoryInfo")
    return {
        "utilisation": None if rates is None else rates.gpu,
        "memory_used": None if memory is None else memory.used,
        "memory_total": None if memory is None else memory.total,
    }


def _query_nvml(handle: Any, what: str, *args: Any) -> Any:
    """Query NVML; None without a GPU or on an error, since not every card supports every query."""
    if handle is None:
        return None
    import pynvml

    try:
        return getattr(pynvml, f"nvmlDeviceGet{what}")(handle, *args)
    except pynvml.NVMLError:
        return None


def _memory_of(processes: Collection[int], running: Collection[Any]) -> int | None:
    """Return the VRAM used by those of NVML's processes that are ours; None if it lists none of them."""
    ours = [process.usedGpuMemory for process in running if process.pid in processes]
    known = [memory for memory in ours if memory is not None]
    return sum(known) if known else None


@cache
def open_gpus() -> list[Any]:
    """Return NVML handles of the GPUs that CUDA sees, none without a driver; NVML stays initialized."""
    if this_machine().gpu is None:
        return []
    import pynvml

    pynvml.nvmlInit()
    return gpu_handles()


def open_gpu() -> Any:
    """Return the NVML handle of the first GPU that CUDA sees; None without one."""
    return next(iter(open_gpus()), None)
