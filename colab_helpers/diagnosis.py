"""The doctor: what works on this machine, found out by trying, with a remedy for what does not."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from colab_helpers.errors import ColabHelpersError
from colab_helpers.faces.engine import Engine
from colab_helpers.machine import GIB, Machine, disk_free, this_machine
from colab_helpers.media.encoders import usable_encoders
from colab_helpers.models.session import cuda_problem, models_root
from colab_helpers.settings import Settings, load_settings

CheckStatus = Literal["pass", "warn", "fail"]
SUPPORTED_PYTHON = ((3, 11), (3, 13))
_LEAST_DISK = 2 * GIB
_LEAST_MEMORY = 4 * GIB


class Check(BaseModel):
    """One finding."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    status: CheckStatus
    detail: str
    remedy: str = ""


class Diagnosis(BaseModel):
    """All findings; ``ok`` means that nothing failed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    checks: list[Check]
    ok: bool


def diagnose(
    settings: Settings | None = None,
    *,
    models_dir: Path | None = None,
    folder: Path = Path(),
    machine: Machine | None = None,
) -> Diagnosis:
    """Check this machine for a run with these settings.

    Args:
        settings: As from ``load_settings``; the default preset if None.
        models_dir: Folder of the model files.
        folder: Where results would go.
        machine: Describes another machine than this one, for tests.
    """
    settings = settings or load_settings()
    machine = machine or this_machine()
    questions: list[Callable[[], Check]] = [
        _python,
        _runtime_packages,
        lambda: _memory(machine),
        lambda: _disk(folder),
        lambda: _gpu(machine, settings),
        lambda: _encoder(settings, machine),
        lambda: _models(settings, models_dir),
    ]
    checks = [question() for question in questions]
    return Diagnosis(checks=checks, ok=all(check.status != "fail" for check in checks))


def _python() -> Check:
    version = sys.version_info[:2]
    low, high = SUPPORTED_PYTHON
    good = low <= version <= high
    return Check(
        name="python",
        status="pass" if good else "fail",
        detail=".".join(map(str, sys.version_info[:3])),
        remedy="" if good else "use Python 3.11, 3.12 or 3.13",
    )


def _runtime_packages() -> Check:
    """Two ONNX Runtime distributions overwrite each other's files; there must be exactly one."""
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _version(name)]
    if len(installed) == 1:
        return Check(name="onnxruntime", status="pass", detail=f"{installed[0]} {_version(installed[0])}")
    return Check(
        name="onnxruntime",
        status="fail",
        detail="both onnxruntime and onnxruntime-gpu are installed" if installed else "not installed",
        remedy="run 'bash setup.sh install': it installs exactly the one that fits this machine",
    )


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory(machine: Machine) -> Check:
    enough = machine.memory_total >= _LEAST_MEMORY
    return Check(
        name="memory",
        status="pass" if enough else "warn",
        detail=f"{machine.memory_total / GIB:.1f} GB RAM, safe for {machine.safe_capacity} video(s) at once",
        remedy="" if enough else "use the preset 'stable' or a machine with more RAM",
    )


def _disk(folder: Path) -> Check:
    free = disk_free(folder)
    enough = free >= _LEAST_DISK
    return Check(
        name="disk",
        status="pass" if enough else "warn",
        detail=f"{free / GIB:.1f} GB free",
        remedy="" if enough else "free space: a result needs up to twice the size of its target",
    )


def _gpu(machine: Machine, settings: Settings) -> Check:
    problem = cuda_problem(machine)
    if problem is None and machine.gpu is not None:
        detail = f"{machine.gpu.name}, {machine.gpu.memory_total / GIB:.1f} GB, driver {machine.gpu.driver}"
        return Check(name="gpu", status="pass", detail=f"{detail}; a network ran on it")
    demanded = settings.execution_provider == "cuda"
    return Check(
        name="gpu",
        status="fail" if demanded else "warn",
        detail=f"networks run on the CPU: {problem}",
        remedy="on Colab choose Runtime > Change runtime type > T4 GPU, then Run all; elsewhere check "
        "nvidia-smi and run 'bash setup.sh install' again",
    )


def _encoder(settings: Settings, machine: Machine) -> Check:
    problems = usable_encoders()
    working = [name for name, problem in problems.items() if problem is None]
    wanted = settings.output_video_encoder
    good = bool(working) if wanted == "auto" else wanted in working
    slow = machine.gpu is not None and "h264_nvenc" not in working
    return Check(
        name="encoder",
        status="fail" if not good else "warn" if slow else "pass",
        detail=f"a trial encode works with {', '.join(working) or 'none'}",
        remedy=""
        if good and not slow
        else "set output_video_encoder to libx264"
        if not good
        else "this GPU has no encoder or the driver hides it; libx264 is used",
    )


def _models(settings: Settings, models_dir: Path | None) -> Check:
    """Load every network of the settings: a file that is there may still be damaged."""
    try:
        engine = Engine.open(settings, models_dir=models_dir)
        networks = engine.networks
    except ColabHelpersError as error:
        return Check(name="models", status="fail", detail=f"{error.where}: {error.what}", remedy=error.remedy)
    standins = [network.name for network in networks if network.standin]
    return Check(
        name="models",
        status="warn" if standins else "pass",
        detail=f"{', '.join(network.name for network in networks)} load from {models_root(models_dir)}"
        + (f"; stand-ins, not the real networks: {', '.join(standins)}" if standins else ""),
        remedy="stand-ins know the demo's rendered people only" if standins else "",
    )
