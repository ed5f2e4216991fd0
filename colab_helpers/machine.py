"""What this machine has: CPU, RAM and disk with container limits honoured, and its GPU.

Whether the GPU can actually run a network is proved by ``models.session``, which tries it.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil

GIB = 1024**3
SYSTEM_RESERVE = 2 * GIB
"""RAM left to the operating system and the notebook server."""

_CGROUP_MEMORY_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),  # cgroup v2
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),  # cgroup v1
)
_CPU_INFO = Path("/proc/cpuinfo")
_CGROUP_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU as NVML reports it; sizes in bytes."""

    name: str
    memory_total: int
    driver: str


@dataclass(frozen=True)
class Machine:
    """The limits a run has to live within; ``memory_total`` in bytes."""

    cpus: int
    memory_total: int
    gpu: Gpu | None
    python: str
    system: str
    on_colab: bool

    @property
    def memory_budget(self) -> float:
        """RAM a run may hold, in GiB: everything but the system's reserve, at least half a GiB."""
        return max(0.5, (self.memory_total - SYSTEM_RESERVE) / GIB)

    @property
    def safe_capacity(self) -> int:
        """Videos that may safely be worked on at once: (RAM - 2 GB) / 2.5 GB, at least one."""
        return max(1, int(self.memory_budget / 2.5))


def cpu_count() -> int:
    """CPUs this process may use: scheduler affinity and the cgroup quota, whichever is smaller."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota = _cgroup_cpu_quota()
    return max(1, min(allowed, quota) if quota else allowed)


@cache
def has_avx512() -> bool:
    """Whether the processor computes in AVX-512; False also where Linux does not tell."""
    try:
        return "avx512bw" in _CPU_INFO.read_text().split()
    except OSError:
        return False


def _cgroup_cpu_quota() -> int | None:
    try:
        quota, period = _CGROUP_CPU_MAX.read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else max(1, int(int(quota) / int(period)))


def memory_total() -> int:
    """RAM in bytes: the physical amount or the cgroup limit, whichever is smaller."""
    return min([psutil.virtual_memory().total, *_cgroup_memory_limits()])


def _cgroup_memory_limits() -> list[int]:
    limits = []
    for path in _CGROUP_MEMORY_LIMITS:
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            limits.append(int(text))
    return limits


def disk_free(path: Path) -> int:
    """Free bytes on the file system that holds ``path`` or its nearest existing parent."""
    existing = path.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def gpu_handle() -> Any:
    """NVML's handle of the GPU that CUDA programs take by default, or None where they see none.

    NVML counts all cards by their place on the bus; CUDA counts those that ``CUDA_VISIBLE_DEVICES`` names,
    the fastest first unless ``CUDA_DEVICE_ORDER`` says ``PCI_BUS_ID`` (CUDA C++ Programming Guide,
    environment variables).

    Raises:
        pynvml.NVMLError: NVML is not initialised, or there is no card.
    """
    import pynvml

    handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    if os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        names = {_text(pynvml.nvmlDeviceGetName(handle)) for handle in handles}
        if len(names) > 1:
            handles.sort(key=_speed, reverse=True)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    wanted = "0" if visible is None else visible.split(",")[0].strip()
    if wanted.isdecimal():
        return handles[int(wanted)] if int(wanted) < len(handles) else None
    if wanted.startswith("MIG-"):
        return pynvml.nvmlDeviceGetHandleByUUID(wanted)
    # CUDA takes any beginning of an identifier, and sees nothing from the first entry it does not know.
    named = [
        handle
        for handle in handles
        if wanted.startswith("GPU-") and _text(pynvml.nvmlDeviceGetUUID(handle)).startswith(wanted)
    ]
    return named[0] if named else None


def _speed(handle: Any) -> int:
    """About as CUDA ranks: cores times clock; 0 where the driver does not tell."""
    import pynvml

    try:
        clock = pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM)
        return int(pynvml.nvmlDeviceGetNumGpuCores(handle) * clock)
    except pynvml.NVMLError:
        return 0


def find_gpu() -> Gpu | None:
    """The NVIDIA GPU that CUDA takes by default, or None where there is no driver or no device."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        handle = gpu_handle()
        if handle is None:
            return None
        return Gpu(
            name=_text(pynvml.nvmlDeviceGetName(handle)),
            memory_total=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
            driver=_text(pynvml.nvmlSystemGetDriverVersion()),
        )
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


@cache
def this_machine() -> Machine:
    """Describe the machine this process runs on; measured once per process."""
    return Machine(
        cpus=cpu_count(),
        memory_total=memory_total(),
        gpu=find_gpu(),
        python=platform.python_version(),
        system=platform.platform(terse=True),
        on_colab="google.colab" in sys.modules or "COLAB_RELEASE_TAG" in os.environ,
    )
