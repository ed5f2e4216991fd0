"""Broken installations and machines: findings, remedies and exit codes."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from colab_helpers import requirements
from colab_helpers.__main__ import main
from colab_helpers.command_line import FAILURE, SUCCESS, WRONG_USAGE
from colab_helpers.diagnosis import Diagnosis, environment, findings
from colab_helpers.diagnosis.doctor import run_checks
from colab_helpers.diagnosis.findings import Check
from colab_helpers.machine import GIB
from colab_helpers.media import encoders
from colab_helpers.models import session
from colab_helpers.requirements import Cuda
from colab_helpers.settings import load_settings
from tests.diagnosis.conftest import NO_GPU, T4, Doctor, FakeMachine

INSTALL = "bash setup.sh install"
DIRECTML = "onnxruntime-directml 1.24.0: this distribution is not supported"


def test_machine_without_gpu_fails_only_if_cuda_is_required(doctor: Doctor) -> None:
    result = doctor()
    assert (result.code, result.names("fail")) == (SUCCESS, [])
    assert result["gpu"].status == "warn"
    assert result["gpu"].detail == "networks run on the CPU: no NVIDIA GPU is visible"
    assert "everything runs on the CPU" in result["gpu"].remedy
    assert result["cuda"].status == "pass"
    assert "no working NVIDIA driver" in result["cuda"].detail
    for check in result.checks.values():
        assert "a network ran" not in check.detail
        assert "GPU " not in check.detail or check.name == "gpu"
        assert "cuda_ms" not in check.figures
    lines = requirements.read_project().wanted(("notebook",))
    names = {requirements.canonical(requirements.requirement(line).name) for line in lines}
    assert {"numpy", "onnx", "papermill"} <= names
    assert names | {"python", "insightface", "onnxruntime"} <= set(result.checks)
    assert all(result[name].status == "pass" for name in names)
    required = doctor("--execution-provider", "cuda")
    assert (required.code, required.names("fail")) == (FAILURE, ["gpu"])


@pytest.mark.parametrize(
    ("changes", "name", "status", "detail"),
    [
        ("numpy=1.26.4", "numpy", "fail", "1.26.4; required: "),
        ("pydantic=3.0", "pydantic", "fail", "3.0; required: "),
        ("papermill=2.1", "papermill", "warn", "2.1; required: "),
        ("av=", "av", "fail", "not installed; required: "),
        ("insightface=", "insightface", "warn", "not installed"),
        ("onnxruntime=", "onnxruntime", "fail", "not installed"),
        ("onnxruntime-gpu=1.26.0", "onnxruntime", "fail", "onnxruntime and onnxruntime-gpu are installed"),
        ("onnxruntime=1.12.0", "onnxruntime", "fail", "onnxruntime 1.12.0: onnxruntime>=1.20,<2 is required"),
        ("onnxruntime= onnxruntime-directml=1.24.0", "onnxruntime", "fail", DIRECTML),
    ],
)
def test_missing_and_unsuitable_packages(
    doctor: Doctor, fake_machine: FakeMachine, changes: str, name: str, status: str, detail: str
) -> None:
    given = dict(change.split("=") for change in changes.split())
    without = tuple(name for name, version in given.items() if not version)
    fake_machine.installed(without, **{name: version for name, version in given.items() if version})
    result = doctor.run("packages", "onnxruntime")
    assert result[name].status == status
    assert result[name].detail.startswith(detail)
    assert INSTALL in result[name].remedy
    assert result.names("fail") == ([name] if status == "fail" else [])


def test_unsuitable_python_and_onnxruntime_without_files(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(findings, "this_machine", lambda: replace(NO_GPU, python="3.10.4"))
    monkeypatch.setitem(sys.modules, "onnxruntime", type(sys)("onnxruntime"))
    result = doctor.run("python", "onnxruntime")
    assert result.names("fail") == ["python", "onnxruntime"]
    assert result["python"].detail == "3.10.4, but >=3.11,<3.14 is needed"
    assert "PYTHON=" in result["python"].remedy
    assert "its files are missing" in result["onnxruntime"].detail


def test_doctor_works_without_importable_onnxruntime() -> None:
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from colab_helpers.__main__ import main; sys.exit(main(['doctor', '--json']))"
    )
    options = {"capture_output": True, "text": True, "cwd": Path(__file__).parents[2]}
    done = subprocess.run([sys.executable, "-c", code], check=False, **options)
    assert done.returncode == FAILURE, done.stderr
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["python"]["status"] == checks["numpy"]["status"] == "pass"
    assert "it cannot be imported" in checks["onnxruntime"]["detail"]
    assert "cannot be imported" in checks["gpu"]["detail"]
    assert checks["models"]["status"] == "fail"
    assert INSTALL in checks["models"]["remedy"]


CUDA_12 = Cuda(12, frozenset({12}))
FAILS = "CUDA failure 35"


@pytest.mark.parametrize(
    ("machine", "cuda", "wheel", "problem", "status", "detail", "remedy"),
    [
        (T4, CUDA_12, "1.27.0", FAILS, "fail", "built for CUDA 13, but the driver only supports CUDA 12",
         "the build for CUDA 12"),
        (T4, Cuda(12), "1.26.0", FAILS, "fail", "its runtime library or cuDNN 9 for it cannot be found",
         "as Python packages"),
        (T4, Cuda(13, frozenset({13})), "1.26.0", FAILS, "fail", "needs CUDA 12, but its runtime library",
         "as Python packages"),
        (T4, CUDA_12, None, FAILS, "fail", "supports CUDA 12, but ONNX Runtime is the CPU build", INSTALL),
        (T4, CUDA_12, "1.26.0", FAILS, "fail", "but no network runs: CUDA failure 35", "nvidia-smi"),
        (T4, None, "1.26.0", "no libcuda", "fail", "libcuda.so.1 cannot be loaded", "--gpus all"),
        (NO_GPU, None, "1.26.0", "no driver", "warn", "but there is no working NVIDIA driver", "T4 GPU"),
        # A network ran: CUDA's libraries may come from PyTorch, where find_cuda does not look.
        (T4, Cuda(12), "1.26.0", None, "pass", "driver for CUDA 12: a network ran with them", ""),
    ],
)  # fmt: skip
def test_mismatches_of_driver_libraries_and_onnxruntime(
    doctor: Doctor, fake_machine: FakeMachine, machine, cuda, wheel, problem, status, detail, remedy
) -> None:
    fake_machine.gpu(cuda, problem=problem, wheel=wheel, machine=machine)
    result = doctor.run("cuda", "gpu")
    assert result["cuda"].status == status
    assert detail in result["cuda"].detail
    assert remedy in result["cuda"].remedy
    if problem:
        assert result["gpu"].status == "warn"
        assert result["gpu"].detail == f"networks run on the CPU: {problem}"
    else:
        assert result["gpu"].detail.startswith("Tesla T4, 15.0 GB, driver 550.1; a network ran on it")
        assert result["gpu"].figures["vram_total_bytes"] == 15 * GIB
    if status == "fail":  # the CPU provider needs no GPU
        on_cpu = doctor("--preset", "light", "--execution-provider", "cpu")
        assert (on_cpu.code, on_cpu["cuda"].status) == (SUCCESS, "warn")


@pytest.mark.parametrize(("built", "expected"), [("13.0", 13), ("12.8", 12), ("", 12), (None, 12)])
def test_cuda_version_of_the_wheel(fake_machine: FakeMachine, built: str | None, expected: int) -> None:
    fake_machine.gpu(CUDA_12, problem=None)
    if built is not None:
        sys.modules["onnxruntime.capi.build_and_package_info"].cuda_version = built  # type: ignore[attr-defined]
    found = findings.Subject.here(load_settings(), models_dir=None, folder=Path())
    assert found.wheel_cuda == expected
    fake_machine.installed(without=("onnxruntime-gpu",))
    assert findings.Subject.here(load_settings(), models_dir=None, folder=Path()).wheel_cuda is None


def test_auto_provider_falls_back_to_the_cpu_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "this_machine", lambda: T4)
    monkeypatch.setattr(session, "cuda_problem", lambda _: "cuDNN is missing")
    runtime = session.Runtime("auto")
    assert (runtime.provider, "cuDNN is missing" in runtime.notes[0]) == ("cpu", True)


def test_low_memory_and_disk_space(doctor: Doctor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(findings, "this_machine", lambda: replace(NO_GPU, memory_total=3 * GIB))
    monkeypatch.setattr(environment, "disk_free", lambda _: GIB)
    result = doctor.run("memory", "disk")
    assert (result["memory"].status, result["disk"].status) == ("warn", "fail")
    assert "'stable'" in result["memory"].remedy
    assert result["memory"].figures["ram_total_bytes"] == 3 * GIB
    assert result["disk"].detail == "1.0 GB free for results"
    assert result["disk"].remedy.startswith("free space")
    missing = replace(doctor, models=tmp_path).run("models folder")["models folder"]
    assert missing.status == "fail"
    assert "1.03 GB of models are missing" in missing.detail
    assert "models_dir" in missing.remedy


def test_read_only_models_folder_fails_only_if_models_are_missing(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = tempfile.TemporaryFile

    def read_only(*, dir: Path):
        if Path(dir) in (tmp_path, doctor.models):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(dir=dir)

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    assert doctor.run("models folder").names("warn") == ["models folder"]
    (tmp_path / "file").write_text("no folder")
    found = replace(doctor, models=tmp_path / "file" / "models").run("models folder")["models folder"]
    assert (found.status, "cannot be written: Not a directory" in found.detail) == ("fail", True)
    empty = replace(doctor, models=tmp_path).run("models folder")["models folder"]
    assert empty.status == "fail"
    assert "Read-only file system" in empty.detail
    assert "COLAB_HELPERS_MODELS" in empty.remedy


def test_doctor_leaves_no_files(doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    doctor(models=tmp_path / "models")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("uptime", "status", "detail"),
    [
        (3600.0, "pass", "at most 11.0 hours"),
        (11.5 * 3600, "warn", "at most 0.5 hours"),
        (None, "pass", "is unknown"),
    ],
)
def test_colab_reports_remaining_time_and_mounted_drive(
    standins: Path, tmp_path: Path, uptime: float | None, status: str, detail: str
) -> None:
    on_colab = replace(T4, on_colab=True)
    found = findings.Subject.here(load_settings(), models_dir=standins, folder=tmp_path)
    (check,) = environment.platform(replace(found, machine=on_colab, uptime=uptime))
    assert check.status == status
    assert check.detail.startswith("Google Colab")
    assert detail in check.detail
    assert list(environment.drive(found)) == []
    (check,) = environment.drive(replace(found, drive=tmp_path))
    assert (check.status, str(tmp_path) in check.detail) == ("pass", True)


ENCODERS = ("h264_nvenc", "hevc_nvenc", "libx264", "libx265")


@pytest.mark.parametrize(
    ("working", "gpu", "wanted", "status"),
    [
        (ENCODERS, True, "auto", "pass"),
        (("libx264",), True, "auto", "warn"),
        (("libx264",), False, "auto", "pass"),
        (("libx264",), False, "hevc_nvenc", "fail"),
        ((), False, "auto", "fail"),
    ],
)
def test_encoder_check(
    monkeypatch: pytest.MonkeyPatch, working: tuple[str, ...], gpu: bool, wanted: str, status: str
) -> None:
    problems = {name: None if name in working else "Operation not permitted" for name in ENCODERS}
    monkeypatch.setattr(encoders, "usable_encoders", lambda: problems)
    settings, machine = load_settings(output_video_encoder=wanted), T4 if gpu else NO_GPU
    found = findings.Subject.here(settings, models_dir=None, folder=Path())
    (check,) = environment.encoder(replace(found, machine=machine))
    assert check.status == status
    assert ("NVENC is not usable (Operation not permitted)" in check.detail) == ("h264_nvenc" not in working)
    assert bool(check.remedy) == (status != "pass")


def test_exception_in_a_check_becomes_a_finding(standins: Path) -> None:
    def broken(_: findings.Subject) -> list[Check]:
        raise ZeroDivisionError("nobody expected it")

    found = findings.Subject.here(load_settings(), models_dir=standins, folder=Path())
    result = run_checks(found, {"oddity": broken, "python": environment.python})
    assert [check.name for check in result.checks] == ["oddity", "python"]
    assert not result.ok
    assert "ZeroDivisionError: nobody expected it" in result.checks[0].detail


def test_findings_are_printed_as_a_table_with_totals() -> None:
    checks = [
        Check(name="a", status="pass", detail="good"),
        Check(name="bb", status="fail", detail="bad", remedy="mend it"),
    ]
    result = Diagnosis.of(checks)
    assert not result.ok
    assert result.failures() == [checks[1]]
    assert result.lines() == [
        "PASS a   good",
        "FAIL bb  bad",
        "         what to do: mend it",
        "1 passed, 0 warning(s), 1 failed",
    ]


def test_missing_package_of_the_doctor_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> None:
        raise ModuleNotFoundError("No module named 'pynvml'")

    monkeypatch.setattr(findings, "this_machine", missing)
    assert main(["doctor"]) == WRONG_USAGE
    error = capsys.readouterr().err
    assert error.startswith(f"error: packages: No module named 'pynvml'. What to do: run '{INSTALL}'")


def test_missing_models_are_counted_beside_an_own_network(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "mine.onnx").write_bytes(b"a swapper that is in no catalogue")
    settings = load_settings(swapper_model="mine", frame_processors="face_swapper")
    found = findings.Subject.here(settings, models_dir=tmp_path, folder=Path())
    assert environment.bytes_missing(found) > 100e6
