from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from colab_helpers.__main__ import FAILURE, SUCCESS, WRONG_USAGE, main
from colab_helpers.diagnosis import diagnose
from colab_helpers.errors import ColabHelpersError, ConsentError
from colab_helpers.language import spoken
from colab_helpers.machine import GIB, Gpu, Machine
from colab_helpers.models import session
from colab_helpers.settings import load_settings
from colab_helpers.trust.consent import DEMO_CONSENT, DEMO_MANIFEST, is_demo_file, require_consent
from tests.media.make import Spec, make


@pytest.fixture
def common(photo: Path, constant_models: Path, consent: str) -> list[str]:
    return [
        *("-s", str(photo), "--models-dir", str(constant_models), "--consent", consent),
        *("--execution-provider", "cpu", "--output-video-encoder", "libx264"),
    ]


def test_swap_writes_the_result_and_the_report(common: list[str], tmp_path: Path) -> None:
    target = make(tmp_path / "a.mp4", Spec(frames=5))
    report = tmp_path / "report.json"
    code = main(
        ["swap", *common, "-t", str(target), "-o", str(tmp_path / "b.mp4"), "--report", str(report), "--set",
         "output_video_quality=30", "--preset", "speed"]
    )  # fmt: skip
    assert code == SUCCESS
    assert (tmp_path / "b.mp4").exists()
    data = json.loads(report.read_text())
    assert data["settings"]["output_video_quality"] == 30
    assert data["settings"]["temp_frame_format"] == "jpg"


@pytest.mark.parametrize("name", ["a.mp4", "photo.png", "mine.json"])
def test_the_report_of_a_swap_replaces_nothing_of_the_users(
    common: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    target, path = make(tmp_path / "a.mp4", Spec(frames=5)), tmp_path / name
    if not path.exists():
        path.write_text('{"mine": 1}')
    before = path.read_bytes()
    code = main(["swap", *common, "-t", str(target), "-o", str(tmp_path / "b.mp4"), "--report", str(path)])
    assert code == WRONG_USAGE
    assert str(path) in capsys.readouterr().err
    assert path.read_bytes() == before
    assert not (tmp_path / "b.mp4").exists()


def test_exit_codes(common: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    good, bad = make(tmp_path / "in" / "a.mp4", Spec(frames=5)), tmp_path / "in" / "b.mp4"
    out = ["-o", str(tmp_path / "out")]
    assert main(["batch", *common, "-t", str(good), *out]) == SUCCESS
    bad.write_text("no video")
    assert main(["batch", *common, "-t", str(tmp_path / "in"), *out]) == FAILURE
    assert "1 of 2 done, 1 failed" in capsys.readouterr().out
    assert main(["batch", *common, "-t", str(tmp_path / "in"), *out, "--range", "1"]) == SUCCESS
    assert main(["batch", *common, "-t", str(tmp_path / "in"), *out, "--range", "x"]) == WRONG_USAGE
    assert main(["batch", *common, "-t", str(good), *out, "--batch-size", "99"]) == WRONG_USAGE
    assert main(["batch", *common, "-t", str(good), *out, "--set", "batch_size"]) == WRONG_USAGE
    assert main(["batch", *common, "-t", str(good), *out, "--consent", ""]) == WRONG_USAGE
    assert main(["batch", *common, "-t", str(good), *out, "--models-dir", str(tmp_path)]) == FAILURE
    with pytest.raises(SystemExit) as caught:
        main(["batch"])
    assert caught.value.code == WRONG_USAGE


def test_errors_go_to_stderr_with_a_remedy(
    common: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = make(tmp_path / "a.mp4", Spec(frames=5))
    main(["swap", *common, "-t", str(target), "-o", str(tmp_path / "b.mp4"), "--consent", "yes"])
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "What to do: " in error


def test_preload_shows_licences_and_fetches_nothing_until_they_are_accepted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["preload", "--models-dir", str(tmp_path)]) == FAILURE
    shown = capsys.readouterr()
    for name in ("det_10g", "w600k_r50", "inswapper_128", "GFPGANv1.4"):
        assert f"{name} (" in shown.out
    assert "non-commercial" in shown.out
    assert "--accept-licences" in shown.err
    assert main(["preload", "--models-dir", str(tmp_path), "--offline", "--accept-licences"]) == FAILURE
    assert "nothing is fetched offline" in capsys.readouterr().err
    assert list(tmp_path.rglob("*.onnx")) == []


def test_doctor_speaks_json(capsys: pytest.CaptureFixture[str], constant_models: Path) -> None:
    code = main(["doctor", "--json", "--models-dir", str(constant_models)])
    data = json.loads(capsys.readouterr().out)
    assert code == (SUCCESS if data["ok"] else FAILURE)
    for check in data["checks"]:
        assert check.keys() == {"name", "status", "detail", "remedy", "figures"}
        assert check["remedy"] or check["status"] == "pass"
    models = [check for check in data["checks"] if check["name"].startswith("model ")]
    assert {check["status"] for check in models} == {"warn"}
    assert all("a stand-in" in check["detail"] for check in models)


def test_doctor_fails_where_models_are_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--models-dir", str(tmp_path)]) == FAILURE
    assert "det_10g.onnx" in capsys.readouterr().out


def test_doctor_never_claims_a_gpu_that_a_list_names(
    constant_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CUDA build lists its provider on every machine and falls back to the CPU without a word."""
    machine = Machine(2, 12 * GIB, Gpu("Tesla T4", 15 * GIB, "550.1"), "3.13", "test", on_colab=True)
    monkeypatch.setattr(
        session.onnxruntime,
        "get_available_providers",
        lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
    )
    settings = load_settings(execution_provider="auto")
    diagnosis = diagnose(settings, models_dir=constant_models, machine=machine)
    gpu = next(check for check in diagnosis.checks if check.name == "gpu")
    assert gpu.status == "warn"
    assert "run on the CPU" in gpu.detail
    demanded = diagnose(load_settings(execution_provider="cuda"), models_dir=constant_models, machine=machine)
    assert "gpu" in {check.name for check in demanded.failures()}


def test_cuda_asked_for_but_missing_is_an_error_and_auto_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(2, 12 * GIB, Gpu("Tesla T4", 15 * GIB, "550.1"), "3.13", "test", on_colab=True)
    monkeypatch.setattr(session, "this_machine", lambda: machine)
    monkeypatch.setattr(session, "cuda_problem", lambda _: "cuDNN is missing")
    with pytest.raises(ColabHelpersError, match="cuDNN is missing"):
        session.Runtime("cuda")
    runtime = session.Runtime("auto")
    assert runtime.provider == "cpu"
    assert "cuDNN is missing" in runtime.notes[0]
    assert session.Runtime("cpu").notes == []


def test_a_demo_file_is_known_by_its_hash(tmp_path: Path) -> None:
    target = tmp_path / "targets" / "clip.mp4"
    target.parent.mkdir()
    target.write_bytes(b"clip")
    assert not is_demo_file(target)
    digest = hashlib.sha256(b"clip").hexdigest()
    (tmp_path / DEMO_MANIFEST).write_text(json.dumps({"files": {"targets/clip.mp4": digest}}))
    assert is_demo_file(target)
    assert require_consent(DEMO_CONSENT, [target]) == DEMO_CONSENT
    target.write_bytes(b"something else")
    assert not is_demo_file(target)
    with pytest.raises(ConsentError):
        require_consent(DEMO_CONSENT, [target])


@pytest.mark.parametrize(
    "statement", ["self", "Ana Ruiz and Jon Lee:  written consent,\n2026-10-01", "licensed stock footage"]
)
def test_statements_that_say_who_and_why_are_taken(statement: str, tmp_path: Path) -> None:
    assert require_consent(statement, [tmp_path / "x.mp4"]) == " ".join(statement.split())


def test_a_ground_may_be_named_in_the_language_spoken() -> None:
    with pytest.raises(ConsentError, match="grounds are: self"):
        require_consent("uno mismo", [])
    with spoken("es"):
        assert require_consent("uno mismo", []) == "uno mismo"
        assert require_consent("written consent", []) == "written consent"
        with pytest.raises(ConsentError, match="uno mismo, consentimiento por escrito"):
            require_consent("algo", [])
