"""Resources of this machine: CPU, RAM and disk (within container limits), GPU, and mounts.

Whether the GPU can run a network is tested by ``models.session``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

from colab_helpers.errors import UsageError
from colab_helpers.files import absolute
from colab_helpers.language import tr

T = TypeVar("T")
GIB = 1024**3
SYSTEM_RESERVE = 2 * GIB
"""Bytes of RAM left to the operating system and the notebook server."""
VRAM_OF_A_VIDEO = 5 * 10**9
"""Peak bytes of a process with all networks in float32, as measured (docs/gpu.md, "End to end")."""

_CGROUP_MEMORY_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),  # cgroup v2
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),  # cgroup v1
)
_CPU_INFO = Path("/proc/cpuinfo")
_CGROUP_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")

DRIVES = (Path("/content/drive"), Path("/content/gdrive"))
"""Usual mount points of Google Drive on Colab: the current one, and that of older notebooks."""
HOME_ENV = "COLAB_HELPERS_HOME"
"""Environment variable with the folder for what outlives a run."""
SHARED_BY_ENV = "COLAB_HELPERS_SHARED_BY"
"""Environment variable of a worker process with the number of workers that share this machine."""
# File systems served by a program or by another machine.
_REMOTE = ("fuse", "nfs", "cifs", "smb", "9p", "drvfs", "davfs", "afp")
# Errors of a file system whose program or machine has gone.
_GONE = {errno.ENOTCONN, errno.ESTALE, errno.EIO, errno.EHOSTDOWN, errno.ETIMEDOUT}


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU as NVML reports it; sizes in bytes."""

    name: str
    memory_total: int
    driver: str


@dataclass(frozen=True)
class Machine:
    """Resources of a machine that limit a run; ``memory_total`` in bytes."""

    cpus: int
    memory_total: int
    gpu: Gpu | None
    python: str
    system: str
    on_colab: bool

    @property
    def memory_budget(self) -> float:
        """RAM that a run may use, in GiB: all but the system's reserve, at least half a GiB.

        Workers that share the machine get equal parts.
        """
        return max(0.5, (self.memory_total - SYSTEM_RESERVE) / GIB / workers_per_machine())

    @property
    def safe_capacity(self) -> int:
        """Number of videos for which RAM suffices at the same time: (RAM - 2 GB) / 2.5 GB, at least one."""
        return max(1, int(self.memory_budget / 2.5))

    @property
    def capacity(self) -> tuple[int, str]:
        """Number of videos that fit into memory at the same time, at least one, and the limiting memory."""
        capacities = {"RAM": self.safe_capacity}
        if self.gpu is not None:
            capacities["VRAM"] = max(1, self.gpu.memory_total // VRAM_OF_A_VIDEO)
        limit = min(capacities, key=lambda name: capacities[name])
        return capacities[limit], limit


def workers_per_machine() -> int:
    """Return how many workers of one batch share this machine: 1 unless the environment says otherwise."""
    return int(os.environ.get(SHARED_BY_ENV, 1))


def cpu_count() -> int:
    """Return how many CPUs this process may use: the smaller of scheduler affinity and cgroup quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    with contextlib.suppress(OSError, ValueError):  # "max"
        quota, period = map(int, _CGROUP_CPU_MAX.read_text().split())
        allowed = min(allowed, quota // period)
    return max(1, allowed)


@cache
def has_avx512() -> bool:
    """Return whether the processor has AVX-512 (BW); False also if that is unknown."""
    try:
        return "avx512bw" in _CPU_INFO.read_text().split()
    except OSError:
        return False


def memory_total() -> int:
    """Return the RAM in bytes: the smaller of physical RAM and cgroup limit."""
    import psutil  # slow, and not needed by most of this module

    limits = [psutil.virtual_memory().total]
    for path in _CGROUP_MEMORY_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max"
            limits.append(int(path.read_text()))
    return min(limits)


def disk_free(path: Path) -> int:
    """Return the free bytes on the file system of ``path`` or its nearest existing parent.

    Raise UsageError if the mount no longer responds.
    """
    existing = path.absolute()
    try:
        while not existing.exists():
            existing = existing.parent
        return shutil.disk_usage(existing).free
    except OSError as error:
        raise lost_mount(error, existing) or error from error


def mounts() -> dict[Path, str]:
    """Return all mount points with their file system types, including mounts that no longer respond."""
    import psutil

    return {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}


def is_remote(path: Path) -> bool:
    """Return whether a path, links followed, is on a network or FUSE mount rather than a local disk."""
    known, real = mounts(), _real(path)
    kind = next((known[folder] for folder in (real, *real.parents) if folder in known), "")
    # These two are local although they are FUSE: container layers, and disks such as NTFS.
    return kind.startswith(_REMOTE) and kind not in ("fuse.overlayfs", "fuseblk")


def drive_of(path: Path) -> Path | None:
    """Return the Google Drive mount point above a path, links followed, mounted or not; else None."""
    real = _real(path)
    return next((drive for drive in DRIVES if real.is_relative_to(drive)), None)


def is_unmounted_drive(path: Path) -> bool:
    """Return whether a path is on Google Drive, which is not mounted: a file would land on the VM's disk."""
    drive = drive_of(path)
    # Outside Colab a folder of that name may be an ordinary one.
    return drive is not None and not _is_mounted(drive) and (on_colab() or not drive.exists())


def mounted_drive() -> Path | None:
    """Return the user's folder on a mounted Google Drive; None if it is not mounted."""
    return next((drive / "MyDrive" for drive in DRIVES if _is_mounted(drive)), None)


def _is_mounted(path: Path) -> bool:
    # The table includes mounts that no longer respond; os.path.ismount, mounts that the table may not show.
    return path in mounts() or os.path.ismount(path)


def require_reachable(paths: Iterable[Path]) -> None:
    """Raise UsageError if a path is on a Google Drive that is not mounted, or on a mount that is gone."""
    for path in paths:
        if is_unmounted_drive(path):
            raise _unmounted_error(path)
        try:
            path.stat()
        except OSError as error:
            if lost := lost_mount(error, path):
                raise lost from error


def _unmounted_error(path: Path) -> UsageError:
    mount, drive = drive_of(path), mounted_drive()
    what = tr("Google Drive is not mounted at {place}", place=mount)
    remedy = tr(
        'mount it in a notebook cell of this session, "from google.colab import drive; '
        "drive.mount('{place}')\", or use a path that is not on Drive",
        place=mount,
    )
    if drive is not None:
        remedy = tr("Drive is mounted at {place}: use that path instead", place=drive.parent)
    return UsageError(what, where=str(path), remedy=remedy)


def lost_mount(error: OSError, path: Path) -> UsageError | None:
    """Return the error to raise if an OSError means that the file system is gone; else None."""
    if error.errno not in _GONE:
        return None
    what = tr("the drive or disk no longer responds ({reason})", reason=error.strerror)
    remedy = tr("unmount it and mount it again; on Colab: drive.flush_and_unmount(), then drive.mount()")
    return UsageError(what, where=str(path), remedy=remedy)


def home() -> Path:
    """Return the folder for what outlives a run, such as saved presets.

    It is ``COLAB_HELPERS_HOME``; else on Colab a folder on Drive if that is mounted, since the disk is lost
    with the session; else a folder in the user's home.
    """
    if folder := os.environ.get(HOME_ENV):
        return absolute(folder)
    if not on_colab():
        return Path.home() / ".colab_helpers"
    drive = mounted_drive()
    return drive / "colab_helpers" if drive else Path("/content/colab_helpers_home")


def _real(path: Path) -> Path:
    # Path.resolve raises if a mount does not respond; realpath leaves the rest of the path as it is.
    return Path(os.path.realpath(path))


def gpu_handles() -> list[Any]:
    """Return NVML handles of the GPUs that CUDA sees, in CUDA's order.

    NVML numbers all GPUs by bus id; CUDA those in ``CUDA_VISIBLE_DEVICES``, the fastest first unless
    ``CUDA_DEVICE_ORDER`` is ``PCI_BUS_ID`` (CUDA C++ Programming Guide, environment variables). Raise
    NVMLError if NVML is not initialized, or there is no GPU.
    """
    import pynvml

    handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    if os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        names = {pynvml.nvmlDeviceGetName(handle) for handle in handles}
        if len(names) > 1:
            handles.sort(key=_speed, reverse=True)
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is None:
        return handles
    entries = (_visible_device(entry.strip(), handles) for entry in visible.split(","))
    # CUDA ignores the first unknown entry and all after it.
    return list(takewhile(lambda handle: handle is not None, entries))


def gpu_handle() -> Any:
    """Return the NVML handle of CUDA's default GPU, or None if CUDA sees no GPU."""
    return next(iter(gpu_handles()), None)


def _visible_device(entry: str, handles: list[Any]) -> Any:
    """Return the GPU of an entry of ``CUDA_VISIBLE_DEVICES``: an index, or a UUID or its beginning."""
    import pynvml

    if entry.isdecimal():
        return dict(enumerate(handles)).get(int(entry))
    if entry.startswith("MIG-"):
        return pynvml.nvmlDeviceGetHandleByUUID(entry)
    matches = (handle for handle in handles if pynvml.nvmlDeviceGetUUID(handle).startswith(entry))
    return next(matches, None) if entry.startswith("GPU-") else None


def visible_gpus() -> list[str]:
    """Return the UUIDs of the GPUs that CUDA sees, for ``CUDA_VISIBLE_DEVICES`` of a process."""
    import pynvml

    return _query_nvml(lambda: [pynvml.nvmlDeviceGetUUID(handle) for handle in gpu_handles()]) or []


def _speed(handle: Any) -> int:
    """Estimate CUDA's ranking as cores times clock; 0 if the driver does not report them."""
    import pynvml

    try:
        clock = pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM)
        return int(pynvml.nvmlDeviceGetNumGpuCores(handle) * clock)
    except pynvml.NVMLError:
        return 0


def find_gpu() -> Gpu | None:
    """Describe CUDA's default GPU; None if there is no driver or device."""
    import pynvml

    def first() -> Gpu | None:
        if (handle := gpu_handle()) is None:
            return None
        total, driver = pynvml.nvmlDeviceGetMemoryInfo(handle).total, pynvml.nvmlSystemGetDriverVersion()
        return Gpu(pynvml.nvmlDeviceGetName(handle), int(total), driver)

    return _query_nvml(first)


def _query_nvml(query: Callable[[], T]) -> T | None:
    """Run a query with NVML initialized; return None if there is no driver or device."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return query()
    except pynvml.NVMLError:
        return None
    finally:
        with contextlib.suppress(pynvml.NVMLError):  # nvmlInit may have failed
            pynvml.nvmlShutdown()


def on_colab() -> bool:
    """Return whether this is a Google Colab VM, in a notebook or a shell."""
    return "google.colab" in sys.modules or "COLAB_RELEASE_TAG" in os.environ


@cache
def this_machine() -> Machine:
    """Describe this machine; measured once per process."""
    system = os.uname()  # platform.platform() says the same, but starts a program for it
    return Machine(
        cpus=cpu_count(),
        memory_total=memory_total(),
        gpu=find_gpu(),
        python=platform.python_version(),
        system="-".join((system.sysname, system.release, system.machine, *platform.libc_ver())),
        on_colab=on_colab(),
    )
