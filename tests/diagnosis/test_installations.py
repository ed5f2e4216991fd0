"""Broken installations and machines: each is recognised, with its remedy and the right exit code."""

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
from tests.diagnosis.conftest import NO_GPU, T4, Doctor, Pretend

INSTALL = "bash setup.sh install"


def test_a_machine_without_a_gpu_works_and_claims_none_unless_one_is_demanded(doctor: Doctor) -> None:
    answer = doctor()
    assert (answer.code, answer.names("fail")) == (SUCCESS, [])
    assert answer["gpu"].status == "warn"
    assert answer["gpu"].detail == "networks run on the CPU: no NVIDIA GPU is visible"
    assert "everything runs on the CPU" in answer["gpu"].remedy
    assert answer["cuda"].status == "pass"
    assert "no working NVIDIA driver" in answer["cuda"].detail
    for check in answer.checks.values():
        assert "a network ran" not in check.detail
        assert "GPU " not in check.detail or check.name == "gpu"
        assert "cuda_ms" not in check.figures
    lines = requirements.read_project().wanted(("notebook",))
    names = {requirements.canonical(requirements.requirement(line).name) for line in lines}
    assert {"numpy", "onnx", "papermill"} <= names
    assert names | {"python", "insightface", "onnxruntime"} <= set(answer.checks)
    assert all(answer[name].status == "pass" for name in names)
    demanded = doctor("--execution-provider", "cuda")
    assert (demanded.code, demanded.names("fail")) == (FAILURE, ["gpu"])


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
        (
            "onnxruntime= onnxruntime-directml=1.24.0",
            "onnxruntime",
            "fail",
            "onnxruntime-directml 1.24.0: this distribution is not supported",
        ),
    ],
)
def test_packages_that_are_missing_or_outside_their_ranges(
    doctor: Doctor, pretend: Pretend, changes: str, name: str, status: str, detail: str
) -> None:
    given = dict(change.split("=") for change in changes.split())
    without = tuple(name for name, version in given.items() if not version)
    pretend.installed(without, **{name: version for name, version in given.items() if version})
    answer = doctor.ask("packages", "onnxruntime")
    assert answer[name].status == status
    assert answer[name].detail.startswith(detail)
    assert INSTALL in answer[name].remedy
    assert answer.names("fail") == ([name] if status == "fail" else [])


def test_an_unsuitable_python_and_an_empty_shell_of_a_removed_onnxruntime(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(findings, "this_machine", lambda: replace(NO_GPU, python="3.10.4"))
    monkeypatch.setitem(sys.modules, "onnxruntime", type(sys)("onnxruntime"))
    answer = doctor.ask("python", "onnxruntime")
    assert answer.names("fail") == ["python", "onnxruntime"]
    assert answer["python"].detail == "3.10.4, but >=3.11,<3.14 is needed"
    assert "PYTHON=" in answer["python"].remedy
    assert "its files are missing" in answer["onnxruntime"].detail


def test_an_onnxruntime_that_cannot_be_imported_does_not_stop_the_doctor() -> None:
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from colab_helpers.__main__ import main; sys.exit(main(['doctor', '--json']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
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
        # A network that ran proves more: PyTorch brings CUDA's libraries where nobody looks for them.
        (T4, Cuda(12), "1.26.0", None, "pass", "driver for CUDA 12: a network ran with them", ""),
    ],
)  # fmt: skip
def test_whether_driver_libraries_and_runtime_agree(
    doctor: Doctor, pretend: Pretend, machine, cuda, wheel, problem, status, detail, remedy
) -> None:
    pretend.gpu(cuda, problem=problem, wheel=wheel, machine=machine)
    answer = doctor.ask("cuda", "gpu")
    assert answer["cuda"].status == status
    assert detail in answer["cuda"].detail
    assert remedy in answer["cuda"].remedy
    if problem:
        assert answer["gpu"].status == "warn"
        assert answer["gpu"].detail == f"networks run on the CPU: {problem}"
    else:
        assert answer["gpu"].detail.startswith("Tesla T4, 15.0 GB, driver 550.1; a network ran on it")
        assert answer["gpu"].figures["vram_total_bytes"] == 15 * GIB
    if status == "fail":  # who asked for the CPU needs no GPU
        on_cpu = doctor("--preset", "light", "--execution-provider", "cpu")
        assert (on_cpu.code, on_cpu["cuda"].status) == (SUCCESS, "warn")


@pytest.mark.parametrize(("built", "expected"), [("13.0", 13), ("12.8", 12), ("", 12), (None, 12)])
def test_the_wheel_itself_says_what_it_was_built_for(
    pretend: Pretend, built: str | None, expected: int
) -> None:
    pretend.gpu(CUDA_12, problem=None)
    if built is not None:
        sys.modules["onnxruntime.capi.build_and_package_info"].cuda_version = built  # type: ignore[attr-defined]
    found = findings.Subject.here(load_settings(), models_dir=None, folder=Path())
    assert found.wheel_cuda == expected
    pretend.installed(without=("onnxruntime-gpu",))
    assert findings.Subject.here(load_settings(), models_dir=None, folder=Path()).wheel_cuda is None


def test_where_cuda_does_not_work_auto_takes_the_cpu_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "this_machine", lambda: T4)
    monkeypatch.setattr(session, "cuda_problem", lambda _: "cuDNN is missing")
    runtime = session.Runtime("auto")
    assert (runtime.provider, "cuDNN is missing" in runtime.notes[0]) == ("cpu", True)


def test_little_memory_and_a_disk_of_one_gigabyte(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(findings, "this_machine", lambda: replace(NO_GPU, memory_total=3 * GIB))
    monkeypatch.setattr(environment, "disk_free", lambda _: GIB)
    answer = doctor.ask("memory", "disk")
    assert (answer["memory"].status, answer["disk"].status) == ("warn", "fail")
    assert "'stable'" in answer["memory"].remedy
    assert answer["memory"].figures["ram_total_bytes"] == 3 * GIB
    assert answer["disk"].detail == "1.0 GB free for results"
    assert answer["disk"].remedy.startswith("free space")
    missing = replace(doctor, models=tmp_path).ask("models folder")["models folder"]
    assert missing.status == "fail"
    assert "1.03 GB of models are missing" in missing.detail
    assert "models_dir" in missing.remedy


def test_a_read_only_cache_fails_only_where_something_is_missing(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = tempfile.TemporaryFile

    def read_only(*, dir: Path):
        if Path(dir) in (tmp_path, doctor.models):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(dir=dir)

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    assert doctor.ask("models folder").names("warn") == ["models folder"]
    (tmp_path / "file").write_text("no folder")
    found = replace(doctor, models=tmp_path / "file" / "models").ask("models folder")["models folder"]
    assert (found.status, "cannot be written: Not a directory" in found.detail) == ("fail", True)
    empty = replace(doctor, models=tmp_path).ask("models folder")["models folder"]
    assert empty.status == "fail"
    assert "Read-only file system" in empty.detail
    assert "COLAB_HELPERS_MODELS" in empty.remedy


def test_nothing_is_left_behind(doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_on_colab_the_time_left_is_told_and_drive_where_it_is_mounted(
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
def test_encoders(
    monkeypatch: pytest.MonkeyPatch, working: tuple[str, ...], gpu: bool, wanted: str, status: str
) -> None:
    tried = {name: None if name in working else "Operation not permitted" for name in ENCODERS}
    monkeypatch.setattr(encoders, "usable_encoders", lambda: tried)
    settings, machine = load_settings(output_video_encoder=wanted), T4 if gpu else NO_GPU
    found = findings.Subject.here(settings, models_dir=None, folder=Path())
    (check,) = environment.encoder(replace(found, machine=machine))
    assert check.status == status
    assert ("NVENC is not usable (Operation not permitted)" in check.detail) == ("h264_nvenc" not in working)
    assert bool(check.remedy) == (status != "pass")


def test_a_question_that_breaks_down_becomes_a_finding(standins: Path) -> None:
    def broken(_: findings.Subject) -> list[Check]:
        raise ZeroDivisionError("nobody expected it")

    found = findings.Subject.here(load_settings(), models_dir=standins, folder=Path())
    result = run_checks(found, {"oddity": broken, "python": environment.python})
    assert [check.name for check in result.checks] == ["oddity", "python"]
    assert not result.ok
    assert "ZeroDivisionError: nobody expected it" in result.checks[0].detail


def test_findings_are_a_table_with_their_sum() -> None:
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


def test_without_a_package_of_its_own_the_doctor_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> None:
        raise ModuleNotFoundError("No module named 'pynvml'")

    monkeypatch.setattr(findings, "this_machine", missing)
    assert main(["doctor"]) == WRONG_USAGE
    error = capsys.readouterr().err
    assert error.startswith(f"error: packages: No module named 'pynvml'. What to do: run '{INSTALL}'")


def test_what_is_missing_is_counted_beside_a_network_of_ones_own(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "mine.onnx").write_bytes(b"a swapper that is in no catalogue")
    settings = load_settings(swapper_model="mine", frame_processors="face_swapper")
    found = findings.Subject.here(settings, models_dir=tmp_path, folder=Path())
    assert environment.bytes_missing(found) > 100e6
