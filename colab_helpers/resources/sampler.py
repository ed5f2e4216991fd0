"""What is in use: memory on the machine and in this process, and the GPU."""

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
    """VRAM of the first GPU in bytes, in use (by all programs) and in all; None without one that answers."""
    handle = open_gpu()
    memory = None if handle is None else _query_nvml(handle, "MemoryInfo")
    return None if memory is None else (int(memory.used), int(memory.total))


def gpu_memory_percent() -> float | None:
    """VRAM in use on the first GPU in percent, or None without a GPU."""
    memory = gpu_memory()
    return None if memory is None else 100.0 * memory[0] / memory[1]


def gpu_load() -> float | None:
    """How busy the first GPU is, in percent; None without one, or where its driver does not tell."""
    handle = open_gpu()
    rates = None if handle is None else _query_nvml(handle, "UtilizationRates")
    return None if rates is None else float(rates.gpu)


def gpu_name() -> str:
    """What the GPU in use is called among those of the machine; empty where that is not known."""
    handle = open_gpu()
    index = None if handle is None else _query_nvml(handle, "Index")
    return "" if index is None else f"GPU {index}"


def cuda_version() -> str | None:
    """The newest CUDA that the driver runs, such as ``12.8``; None without a GPU."""
    if open_gpu() is None:
        return None
    import pynvml

    version = pynvml.nvmlSystemGetCudaDriverVersion_v2()  # 1000 * major + 10 * minor
    return f"{version // 1000}.{version % 1000 // 10}"


def gpu_sample(processes: Collection[int], named: Collection[str] = ()) -> GpuSample | None:
    """Read the first GPU, see `_in_use`; None without one. VRAM of ``processes`` counts as the run's.

    Inside a container NVML may list other process numbers; ``process_memory`` is None then.
    """
    handle = next(iter(_in_use(named)), None)
    if handle is None:
        return None
    import pynvml

    ask = partial(_query_nvml, handle)
    encoder, decoder, power = map(ask, ("EncoderUtilization", "DecoderUtilization", "PowerUsage"))
    return GpuSample(
        **_load(handle),
        process_memory=_memory_of(processes, ask("ComputeRunningProcesses") or []),
        encoder=None if encoder is None else encoder[0],
        decoder=None if decoder is None else decoder[0],
        temperature=ask("Temperature", pynvml.NVML_TEMPERATURE_GPU),
        power=None if power is None else power / 1000,
    )


def other_gpus(named: Collection[str] = ()) -> list[GpuSample]:
    """Read load and VRAM of the further GPUs, see `_in_use`."""
    return [GpuSample(**_load(handle)) for handle in _in_use(named)[1:]]


def _in_use(named: Collection[str]) -> list[Any]:
    """NVML's handles of the GPUs with these identifiers; of all that CUDA sees, where those have none."""
    return [handle for handle in open_gpus() if named and _query_nvml(handle, "UUID") in named] or open_gpus()


def _load(handle: Any) -> dict[str, Any]:
    rates, memory = _query_nvml(handle, "UtilizationRates"), _query_nvml(handle, "MemoryInfo")
    return {
        "utilisation": None if rates is None else rates.gpu,
        "memory_used": None if memory is None else memory.used,
        "memory_total": None if memory is None else memory.total,
    }


def _query_nvml(handle: Any, what: str, *args: Any) -> Any:
    """Ask NVML; None where a card does not tell: each answers other questions, a lost one answers none."""
    import pynvml

    try:
        return getattr(pynvml, f"nvmlDeviceGet{what}")(handle, *args)
    except pynvml.NVMLError:
        return None


def _memory_of(processes: Collection[int], running: Collection[Any]) -> int | None:
    """VRAM of those of NVML's running processes that are ours; None if it lists none of them."""
    ours = [process.usedGpuMemory for process in running if process.pid in processes]
    known = [memory for memory in ours if memory is not None]
    return sum(known) if known else None


@cache
def open_gpus() -> list[Any]:
    """NVML's handles of the GPUs that CUDA sees; none without a driver. NVML stays open from then on."""
    if this_machine().gpu is None:
        return []
    import pynvml

    pynvml.nvmlInit()
    return gpu_handles()


def open_gpu() -> Any:
    """The first of them, which is in use; None without one."""
    return next(iter(open_gpus()), None)
