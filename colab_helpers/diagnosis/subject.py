"""What the doctor examines: this machine and its installation, or another that a test describes."""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import psutil

from colab_helpers import requirements
from colab_helpers.diagnosis.findings import INSTALL_REMEDY
from colab_helpers.errors import ColabHelpersError
from colab_helpers.language import tr
from colab_helpers.machine import Machine, this_machine
from colab_helpers.settings import Settings

EXTRAS = ("notebook",)
"""Extras of ``pyproject.toml`` that are looked at, too; without them only the notebooks do not run."""


@dataclass(frozen=True)
class Subject:
    """Everything that findings depend on, apart from what is tried out.

    Attributes:
        folder: Where results would go.
        project: What ``pyproject.toml`` asks for.
        environment: Installed packages, the driver and CUDA's libraries.
        uptime: Seconds since this container or machine was started; None if unknown.
    """

    settings: Settings
    machine: Machine
    models_dir: Path | None
    folder: Path
    project: requirements.Project
    environment: requirements.Environment
    drive: Path | None = None
    uptime: float | None = None

    @classmethod
    def here(
        cls,
        settings: Settings,
        *,
        models_dir: Path | None,
        folder: Path,
        machine: Machine | None = None,
        drive: Path | None = None,
    ) -> Subject:
        """Take stock of the running installation; ColabHelpersError where not even that can be asked."""
        try:
            machine = machine or this_machine()
            project = requirements.read_project()
            environment = requirements.look(project, EXTRAS)
        except ImportError as error:
            raise ColabHelpersError(str(error), where="packages", remedy=tr(INSTALL_REMEDY)) from error
        except requirements.InstallError as error:
            raise ColabHelpersError(error.what, where=error.step, remedy=error.remedy) from error
        return cls(settings, machine, models_dir, folder, project, environment, drive, _uptime())

    @cached_property
    def models(self) -> Path:
        """Folder of the model files."""
        from colab_helpers.models.session import models_root  # not at the top: see ``cuda_problem``

        return models_root(self.models_dir)

    @property
    def wheel_cuda(self) -> int | None:
        """CUDA version the installed ONNX Runtime was built for; None for the CPU build."""
        return wheel_cuda(self.environment.installed.get("onnxruntime-gpu"))

    @cached_property
    def cuda_problem(self) -> str | None:
        """Why no network runs on the GPU, or None if one did; tried once."""
        try:
            # Not at the top: the doctor must get as far as saying that a package cannot be imported.
            from colab_helpers.models.session import cuda_problem
        except ImportError as error:
            return tr("ONNX Runtime cannot be imported ({error})", error=error)
        return cuda_problem(self.machine)

    @property
    def runs_on_gpu(self) -> bool:
        """Whether networks of these settings run on the GPU."""
        return self.settings.execution_provider != "cpu" and self.cuda_problem is None


def wheel_cuda(version: str | None) -> int | None:
    """Return the CUDA version that ``onnxruntime-gpu`` of some version was built for; None without one.

    The wheel says so itself, else it is known of its version.
    """
    if version is None:
        return None
    try:
        built = str(importlib.import_module("onnxruntime.capi.build_and_package_info").cuda_version)
        return int(built.split(".")[0])
    except (ImportError, AttributeError, ValueError):  # a CPU build lies over it, or it is damaged
        lines, installed = requirements.RUNTIME_FOR_CUDA.items(), {"onnxruntime-gpu": version}
        return next((major for major, line in lines if requirements.satisfied(line, installed)), None)


def _uptime() -> float | None:
    """Seconds since the first process was started: in a container, since its session began."""
    try:
        return time.time() - psutil.Process(1).create_time()
    except (psutil.Error, OSError):
        return None
