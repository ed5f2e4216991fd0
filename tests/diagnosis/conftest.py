"""Runs the real doctor with single properties of the machine replaced."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import onnx
import pytest
from filelock import FileLock

from colab_helpers import requirements
from colab_helpers.__main__ import main
from colab_helpers.diagnosis import findings
from colab_helpers.diagnosis.doctor import CHECKS, run_checks
from colab_helpers.diagnosis.findings import Check
from colab_helpers.machine import GIB, Gpu, Machine
from colab_helpers.models import session
from colab_helpers.settings import load_settings

T4 = Machine(2, 12 * GIB, Gpu("Tesla T4", 15 * GIB, "550.1"), "3.11.7", "test", on_colab=False)
NO_GPU = Machine(2, 12 * GIB, None, "3.11.7", "test", on_colab=False)


@dataclass(frozen=True)
class Result:
    """Exit code and checks of ``doctor --json``."""

    code: int
    checks: Mapping[str, Check]

    def __getitem__(self, name: str) -> Check:
        return self.checks[name]

    def names(self, status: str) -> list[str]:
        return [name for name, check in self.checks.items() if check.status == status]


@dataclass(frozen=True)
class Doctor:
    """Run the command and check what holds for every result."""

    capsys: pytest.CaptureFixture[str]
    models: Path

    def __call__(self, *words: str, models: Path | None = None) -> Result:
        code = main(["doctor", "--json", "--models-dir", str(models or self.models), *words])
        data = json.loads(self.capsys.readouterr().out)
        checks = [Check.model_validate(item) for item in data["checks"]]
        assert len({check.name for check in checks}) == len(checks)
        for check in checks:
            assert check.remedy or check.status == "pass", check
            assert check.detail
        assert data["ok"] == (code == 0) == all(check.status != "fail" for check in checks)
        return Result(code, {check.name: check for check in checks})

    def run(self, *names: str) -> Result:
        """Run only some checks, without the command line."""
        subject = findings.Subject.here(load_settings(), models_dir=self.models, folder=Path())
        result = run_checks(subject, {name: CHECKS[name] for name in names})
        return Result(0 if result.ok else 1, {check.name: check for check in result.checks})


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str], standins: Path, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """The doctor with the stand-in models on a machine without a GPU."""
    monkeypatch.setattr(findings, "this_machine", lambda: NO_GPU)
    monkeypatch.setattr(requirements, "find_cuda", lambda: None)
    FakeMachine(monkeypatch).installed(without=("onnxruntime-gpu",), onnxruntime="1.26.0")
    return Doctor(capsys, standins)


@dataclass(frozen=True)
class FakeMachine:
    """Replaces properties of the machine."""

    monkeypatch: pytest.MonkeyPatch

    def installed(self, without: tuple[str, ...] = (), **versions: str) -> None:
        """Change versions of packages; underscores in names stand for hyphens."""
        real = requirements.installed_versions
        others = {name.replace("_", "-"): version for name, version in versions.items()}

        def changed(names: object) -> dict[str, str]:
            found = {**real(names), **others}  # type: ignore[arg-type]
            return {name: version for name, version in found.items() if name not in without}

        self.monkeypatch.setattr(requirements, "installed_versions", changed)

    def gpu(
        self,
        cuda: requirements.Cuda | None,
        *,
        problem: str | None,
        wheel: str | None = "1.26.0",
        machine: Machine = T4,
    ) -> None:
        """Give the machine a driver and libraries; ``problem`` is why no network runs on the GPU.

        ``wheel`` is the version of onnxruntime-gpu, or None for the CPU build.
        """
        self.monkeypatch.setattr(findings, "this_machine", lambda: machine)
        self.monkeypatch.setattr(requirements, "find_cuda", lambda: cuda)
        self.monkeypatch.setattr(session, "cuda_problem", lambda _: problem)
        name = "onnxruntime.capi.build_and_package_info"
        self.monkeypatch.setitem(sys.modules, name, ModuleType(name))  # without cuda_version
        if wheel:
            self.installed(without=("onnxruntime",), onnxruntime_gpu=wheel)


@pytest.fixture
def fake_machine(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> FakeMachine:
    return FakeMachine(monkeypatch)


@pytest.fixture(scope="session")
def unmarked(standins: Path, shared_dir: Path) -> Path:
    """The stand-ins without their mark, which the doctor takes for unknown real weights."""
    folder = shared_dir / "unmarked"
    with FileLock(shared_dir / "unmarked.lock"):
        if not folder.exists():
            for path in standins.rglob("*.onnx"):
                model = onnx.load(path)
                del model.metadata_props[:]
                copy = folder / path.relative_to(standins)
                copy.parent.mkdir(parents=True, exist_ok=True)
                onnx.save(model, copy)
    return folder
