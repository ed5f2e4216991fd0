"""What this machine has: CPU, RAM and disk with container limits honoured, its GPU, and its mounts.

Whether the GPU can actually run a network is proved by ``models.session``, which tries it.
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
"""RAM left to the operating system and the notebook server."""
VRAM_OF_A_VIDEO = 5 * 10**9
"""The most that a process with all networks took, in float32 (docs/gpu.md, "From file to file")."""

_CGROUP_MEMORY_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),  # cgroup v2
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),  # cgroup v1
)
_CPU_INFO = Path("/proc/cpuinfo")
_CGROUP_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")

DRIVES = (Path("/content/drive"), Path("/content/gdrive"))
"""Where Colab's users mount Google Drive: today, and in notebooks of earlier years."""
HOME_ENV = "COLAB_HELPERS_HOME"
"""Environment variable that names the folder for what outlives a run."""
SHARED_BY_ENV = "COLAB_HELPERS_SHARED_BY"
"""Environment variable of a worker process that tells how many of them share this machine."""
# File systems that programs or other machines stand behind.
_REMOTE = ("fuse", "nfs", "cifs", "smb", "9p", "drvfs", "davfs", "afp")
# What a file system says whose program or machine has gone.
_GONE = {errno.ENOTCONN, errno.ESTALE, errno.EIO, errno.EHOSTDOWN, errno.ETIMEDOUT}


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
        """RAM a run may hold, in GiB: everything but the system's reserve, at least half a GiB.

        A worker that shares the machine with others has its part of it.
        """
        return max(0.5, (self.memory_total - SYSTEM_RESERVE) / GIB / workers_per_machine())

    @property
    def safe_capacity(self) -> int:
        """Videos for which RAM is enough at once: (RAM - 2 GB) / 2.5 GB, at least one."""
        return max(1, int(self.memory_budget / 2.5))

    @property
    def capacity(self) -> tuple[int, str]:
        """Videos that may safely be worked on at once, at least one, and which memory bears no more."""
        borne = {"RAM": self.safe_capacity}
        if self.gpu is not None:
            borne["VRAM"] = max(1, self.gpu.memory_total // VRAM_OF_A_VIDEO)
        bound = min(borne, key=lambda name: borne[name])
        return borne[bound], bound


def workers_per_machine() -> int:
    """How many worker processes of one batch share this machine: 1 unless it is told otherwise."""
    return int(os.environ.get(SHARED_BY_ENV, 1))


def cpu_count() -> int:
    """CPUs this process may use: scheduler affinity and the cgroup quota, whichever is smaller."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    with contextlib.suppress(OSError, ValueError):  # "max"
        quota, period = map(int, _CGROUP_CPU_MAX.read_text().split())
        allowed = min(allowed, quota // period)
    return max(1, allowed)


@cache
def has_avx512() -> bool:
    """Whether the processor computes in AVX-512; False also where Linux does not tell."""
    try:
        return "avx512bw" in _CPU_INFO.read_text().split()
    except OSError:
        return False


def memory_total() -> int:
    """RAM in bytes: the physical amount or the cgroup limit, whichever is smaller."""
    import psutil  # slow, and not needed to say where things are

    limits = [psutil.virtual_memory().total]
    for path in _CGROUP_MEMORY_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max"
            limits.append(int(path.read_text()))
    return min(limits)


def disk_free(path: Path) -> int:
    """Free bytes on the file system that holds ``path`` or its nearest existing parent.

    Raises:
        UsageError: The mount there no longer answers.
    """
    existing = path.absolute()
    try:
        while not existing.exists():
            existing = existing.parent
        return shutil.disk_usage(existing).free
    except OSError as error:
        raise lost_mount(error, existing) or error from error


def mounts() -> dict[Path, str]:
    """Every mount point with its kind of file system, also of mounts that no longer answer."""
    import psutil

    return {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}


def is_remote(path: Path) -> bool:
    """Whether a path, links followed, lies on a mounted drive rather than on a disk of this machine."""
    known, real = mounts(), _real(path)
    kind = next((known[place] for place in (real, *real.parents) if place in known), "")
    # Container file systems are local, whatever they are made with.
    return kind.startswith(_REMOTE) and kind not in ("fuse.overlayfs", "fuseblk")


def drive_of(path: Path) -> Path | None:
    """The mount point of Google Drive that a path, links followed, lies under, mounted or not; else None."""
    real = _real(path)
    return next((place for place in DRIVES if real.is_relative_to(place)), None)


def is_unmounted_drive(path: Path) -> bool:
    """Whether a path names Google Drive while nothing is mounted there: it would be on the VM's disk."""
    place = drive_of(path)
    # Elsewhere than on Colab a folder of that name may be somebody's own.
    return place is not None and not _is_mounted(place) and (on_colab() or not place.exists())


def mounted_drive() -> Path | None:
    """The user's folder on Google Drive where it is mounted, in a notebook or a shell; else None."""
    return next((place / "MyDrive" for place in DRIVES if _is_mounted(place)), None)


def _is_mounted(place: Path) -> bool:
    # The table also has mounts that no longer answer; os.path.ismount also sees what the table may not show.
    return place in mounts() or os.path.ismount(place)


def require_reachable(paths: Iterable[Path]) -> None:
    """Make sure that places can be reached at all, before anything is made or missed there.

    Raises:
        UsageError: A path lies on a Google Drive that is not mounted, or on a mount that no longer answers.
    """
    for path in paths:
        if is_unmounted_drive(path):
            raise _unmounted(path)
        try:
            path.stat()
        except OSError as error:
            if lost := lost_mount(error, path):
                raise lost from error


def _unmounted(path: Path) -> UsageError:
    place, drive = drive_of(path), mounted_drive()
    what = tr("Google Drive is not mounted at {place}", place=place)
    remedy = tr(
        'mount it in a cell of a notebook of this session, "from google.colab import drive; '
        "drive.mount('{place}')\", or name a place that is not on Drive",
        place=place,
    )
    if drive is not None:
        remedy = tr("Drive is mounted at {place}: write the path with that", place=drive.parent)
    return UsageError(what, where=str(path), remedy=remedy)


def lost_mount(error: OSError, path: Path) -> UsageError | None:
    """What an error says where the file system itself has gone; None for errors of other kinds."""
    if error.errno not in _GONE:
        return None
    return UsageError(
        tr("the drive or disk there no longer answers ({reason})", reason=error.strerror),
        where=str(path),
        remedy=tr("unmount it and mount it again; on Colab: drive.flush_and_unmount(), then drive.mount()"),
    )


def home() -> Path:
    """Folder for what outlives a run, such as saved presets.

    ``COLAB_HELPERS_HOME``; else on Colab a folder of Drive where that is mounted, since the disk ends with
    the session; else the user's own.
    """
    named = os.environ.get(HOME_ENV)
    if named:
        return absolute(named)
    if not on_colab():
        return Path.home() / ".colab_helpers"
    drive = mounted_drive()
    return drive / "colab_helpers" if drive else Path("/content/colab_helpers_home")


def _real(path: Path) -> Path:
    # Path.resolve raises where a mount does not answer; this leaves the rest of the path as it is.
    return Path(os.path.realpath(path))


def gpu_handles() -> list[Any]:
    """NVML's handles of the GPUs that CUDA programs see, in the order in which they number them.

    NVML counts all cards by their place on the bus; CUDA counts those that ``CUDA_VISIBLE_DEVICES`` names,
    the fastest first unless ``CUDA_DEVICE_ORDER`` says ``PCI_BUS_ID`` (CUDA C++ Programming Guide,
    environment variables).

    Raises:
        pynvml.NVMLError: NVML is not initialised, or there is no card.
    """
    import pynvml

    handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    if os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        names = {pynvml.nvmlDeviceGetName(handle) for handle in handles}
        if len(names) > 1:
            handles.sort(key=_speed, reverse=True)
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is None:
        return handles
    named = (_named(wanted.strip(), handles) for wanted in visible.split(","))
    # CUDA sees nothing from the first entry on that it does not know.
    return list(takewhile(lambda handle: handle is not None, named))


def gpu_handle() -> Any:
    """NVML's handle of the GPU that CUDA programs take by default, or None where they see none."""
    return next(iter(gpu_handles()), None)


def _named(wanted: str, handles: list[Any]) -> Any:
    """The card of a number or identifier, of which CUDA takes any beginning."""
    import pynvml

    if wanted.isdecimal():
        return dict(enumerate(handles)).get(int(wanted))
    if wanted.startswith("MIG-"):
        return pynvml.nvmlDeviceGetHandleByUUID(wanted)
    named = (each for each in handles if pynvml.nvmlDeviceGetUUID(each).startswith(wanted))
    return next(named, None) if wanted.startswith("GPU-") else None


def visible_gpus() -> list[str]:
    """Identifiers of the GPUs that CUDA programs see, by which a process can be given one of them."""
    import pynvml

    return _asked(lambda: [pynvml.nvmlDeviceGetUUID(handle) for handle in gpu_handles()]) or []


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

    def first() -> Gpu | None:
        if (handle := gpu_handle()) is None:
            return None
        total, driver = pynvml.nvmlDeviceGetMemoryInfo(handle).total, pynvml.nvmlSystemGetDriverVersion()
        return Gpu(pynvml.nvmlDeviceGetName(handle), int(total), driver)

    return _asked(first)


def _asked(question: Callable[[], T]) -> T | None:
    """Ask NVML; None where there is no driver or no device."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return question()
    except pynvml.NVMLError:
        return None
    finally:
        with contextlib.suppress(pynvml.NVMLError):  # it may not have begun
            pynvml.nvmlShutdown()


def on_colab() -> bool:
    """Whether this is a VM of Google Colab, in a notebook or a shell."""
    return "google.colab" in sys.modules or "COLAB_RELEASE_TAG" in os.environ


@cache
def this_machine() -> Machine:
    """Describe the machine this process runs on; measured once per process."""
    system = os.uname()  # platform.platform() says the same, but starts a program for it
    return Machine(
        cpus=cpu_count(),
        memory_total=memory_total(),
        gpu=find_gpu(),
        python=platform.python_version(),
        system="-".join((system.sysname, system.release, system.machine, *platform.libc_ver())),
        on_colab=on_colab(),
    )
