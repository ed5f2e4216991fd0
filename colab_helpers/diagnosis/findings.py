"""The doctor's subject (this machine and its installation) and its findings, the lines of its table."""

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
_NONE: Mapping[str, float] = {}
# Titles of findings about a model, by the first word of the finding's name.
_TITLES = {"model": mark("model {name}"), "parity": mark("parity {name}")}


class Check(BaseModel, extra="forbid", frozen=True):
    """A finding; its name, in a word or two of English, is the same in every language.

    ``warn``: a run works, but with restrictions; ``fail``: it does not work, or gives wrong results. Every
    finding that does not pass has a remedy. Figures are machine-readable values; their names end in the unit.
    """

    name: str
    status: CheckStatus
    detail: str
    remedy: str = ""
    figures: dict[str, float] = {}

    @property
    def title(self) -> str:
        """The translated name."""
        kind, _, subject = self.name.partition(" ")
        if subject and kind in _TITLES:
            return tr(_TITLES[kind], name=subject)
        return tr(self.name)


def finding(
    name: str, detail: str, remedy: str = "", *, warns: bool = False, figures: Mapping[str, float] = _NONE
) -> Check:
    """Create a finding: it passes without a remedy, else it warns if ``warns``, else fails."""
    # JSON has neither infinity nor NaN.
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
        """Collect findings."""
        findings = list(checks)
        return cls(checks=findings, ok=all(check.status != "fail" for check in findings))

    def failures(self) -> list[Check]:
        """Return the failed findings."""
        return [check for check in self.checks if check.status == "fail"]

    def lines(self) -> list[str]:
        """Return the table as lines of text, each remedy below its finding, and the summary last."""
        width = max((len(check.title) for check in self.checks), default=0) + 2
        margin = max(len(tr(word)) for word in _STATUS_WORDS.values()) + 1
        lines = []
        for check in self.checks:
            lines.append(f"{tr(_STATUS_WORDS[check.status]):{margin}}{check.title:{width}}{check.detail}")
            if check.remedy:
                lines.append(" " * (margin + width) + tr("what to do: {remedy}", remedy=check.remedy))
        return [*lines, self.summary()]

    def summary(self) -> str:
        """Return the number of findings of each status, in one line."""
        count = Counter(check.status for check in self.checks)
        text = mark("{passed} passed, {warnings} warning(s), {failed} failed")
        return tr(text, passed=count["pass"], warnings=count["warn"], failed=count["fail"])


EXTRAS = ("notebook",)
"""Extras of ``pyproject.toml`` that are checked as well; only the notebooks need them."""


@dataclass(frozen=True)
class Subject:
    """What the checks examine: the machine, the installation, and the settings of a run."""

    settings: Settings
    machine: Machine
    models_dir: Path | None
    folder: Path  # the output folder
    project: requirements.Project  # the requirements in ``pyproject.toml``
    environment: requirements.Environment  # installed packages, the driver and CUDA's libraries
    drive: Path | None = None
    uptime: float | None = None  # seconds since the container or machine was started; None if unknown

    @classmethod
    def here(
        cls, settings: Settings, *, models_dir: Path | None, folder: Path, drive: Path | None = None
    ) -> Subject:
        """Inspect the running installation; raise ColabHelpersError if that is impossible."""
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
        """The models folder."""
        from colab_helpers.models.session import models_root  # imported here: see ``cuda_problem``

        return models_root(self.models_dir)

    @property
    def wheel_cuda(self) -> int | None:
        """Major CUDA version that ``onnxruntime-gpu`` was built for; None if it is not installed."""
        version = self.environment.installed.get("onnxruntime-gpu")
        if version is None:
            return None
        try:
            built = str(importlib.import_module("onnxruntime.capi.build_and_package_info").cuda_version)
            return int(built.split(".")[0])
        except (ImportError, AttributeError, ValueError):  # overwritten by a CPU build, or damaged
            lines, installed = requirements.RUNTIME_FOR_CUDA.items(), {"onnxruntime-gpu": version}
            return next((major for major, line in lines if requirements.is_satisfied(line, installed)), None)

    @cached_property
    def cuda_problem(self) -> str | None:
        """Why no network runs on the GPU, or None if a trial network ran."""
        try:
            # Imported here, so that the doctor still runs if a package cannot be imported.
            from colab_helpers.models.session import cuda_problem
        except ImportError as error:
            return tr("ONNX Runtime cannot be imported ({error})", error=error)
        return cuda_problem(self.machine)

    @property
    def runs_on_gpu(self) -> bool:
        """Whether networks run on the GPU with these settings."""
        return self.settings.execution_provider != "cpu" and self.cuda_problem is None


def _uptime() -> float | None:
    """Return the seconds since the first process was started, in a container since its session began."""
    try:
        return time.time() - psutil.Process(1).create_time()
    except (psutil.Error, OSError):
        return None
