"""What the doctor examines, this machine and its installation, and what it finds: the lines of its table."""

from __future__ import annotations

import importlib
import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import psutil
from pydantic import BaseModel

from colab_helpers import requirements
from colab_helpers.errors import ColabHelpersError
from colab_helpers.language import mark, tr
from colab_helpers.machine import Machine, this_machine
from colab_helpers.settings import Settings

CheckStatus = Literal["pass", "warn", "fail"]
INSTALL_REMEDY = mark("run 'bash setup.sh install' (on Colab: run the cell \"Get ready\" again)")

_STATUS_WORDS: dict[CheckStatus, str] = {"pass": mark("PASS"), "warn": mark("WARN"), "fail": mark("FAIL")}
# The names of findings on models begin with these.
_NONE: Mapping[str, float] = {}
_TITLES = {"model": mark("model {name}"), "parity": mark("parity {name}")}


class Check(BaseModel, extra="forbid", frozen=True):
    """One finding; its name, in a word or two of English, is the same in every language.

    ``warn``: a run works, but with something less; ``fail``: it does not, or not rightly. Only what passes
    has no remedy. Figures are measured values for machines, whose names end in their unit.
    """

    name: str
    status: CheckStatus
    detail: str
    remedy: str = ""
    figures: dict[str, float] = {}

    @property
    def title(self) -> str:
        """The name as it is shown."""
        kind, _, subject = self.name.partition(" ")
        if subject and kind in _TITLES:
            return tr(_TITLES[kind], name=subject)
        return tr(self.name)


def finding(
    name: str, detail: str, remedy: str = "", *, warns: bool = False, figures: Mapping[str, float] = _NONE
) -> Check:
    """Make a finding: without a remedy it passes, else it fails, or only warns."""
    # JSON knows neither infinity nor "not a number".
    finite = {key: float(value) for key, value in figures.items() if math.isfinite(value)}
    status: CheckStatus = "pass" if not remedy else "warn" if warns else "fail"
    return Check(name=name, status=status, detail=detail, remedy=remedy, figures=finite)


class Diagnosis(BaseModel, extra="forbid", frozen=True):
    """All findings; ``ok`` means that nothing failed."""

    version: Literal[1] = 1
    checks: list[Check]
    ok: bool

    @classmethod
    def of(cls, checks: Iterable[Check]) -> Diagnosis:
        """Sum up findings."""
        found = list(checks)
        return cls(checks=found, ok=all(check.status != "fail" for check in found))

    def failures(self) -> list[Check]:
        """Return what failed."""
        return [check for check in self.checks if check.status == "fail"]

    def lines(self) -> list[str]:
        """Return the table as plain text, each remedy below its finding, the count last."""
        width = max((len(check.title) for check in self.checks), default=0) + 2
        margin = max(len(tr(word)) for word in _STATUS_WORDS.values()) + 1
        lines = []
        for check in self.checks:
            lines.append(f"{tr(_STATUS_WORDS[check.status]):{margin}}{check.title:{width}}{check.detail}")
            if check.remedy:
                lines.append(" " * (margin + width) + tr("what to do: {remedy}", remedy=check.remedy))
        return [*lines, self.summary()]

    def summary(self) -> str:
        """Return how many findings of each kind there are, in one line."""
        count = Counter(check.status for check in self.checks)
        return tr(
            "{passed} passed, {warnings} warning(s), {failed} failed",
            passed=count["pass"],
            warnings=count["warn"],
            failed=count["fail"],
        )


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
        cls, settings: Settings, *, models_dir: Path | None, folder: Path, drive: Path | None = None
    ) -> Subject:
        """Take stock of the running installation; ColabHelpersError where not even that can be asked."""
        try:
            machine, project = this_machine(), requirements.read_project()
            environment = requirements.inspect_environment(project, EXTRAS)
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
        """CUDA version that the installed ``onnxruntime-gpu`` was built for; None without one.

        The wheel says so itself, else it is known of its version.
        """
        version = self.environment.installed.get("onnxruntime-gpu")
        if version is None:
            return None
        try:
            built = str(importlib.import_module("onnxruntime.capi.build_and_package_info").cuda_version)
            return int(built.split(".")[0])
        except (ImportError, AttributeError, ValueError):  # a CPU build lies over it, or it is damaged
            lines, installed = requirements.RUNTIME_FOR_CUDA.items(), {"onnxruntime-gpu": version}
            return next((major for major, line in lines if requirements.is_satisfied(line, installed)), None)

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


def _uptime() -> float | None:
    """Seconds since the first process was started: in a container, since its session began."""
    try:
        return time.time() - psutil.Process(1).create_time()
    except (psutil.Error, OSError):
        return None
