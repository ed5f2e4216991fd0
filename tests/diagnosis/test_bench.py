"""Parts of ``bench``; tests/models/test_gpu_benchmark.py runs all of it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from colab_helpers.__main__ import main
from colab_helpers.command_line import WRONG_USAGE
from colab_helpers.diagnosis import bench, bench_model
from colab_helpers.diagnosis.bench_clip import make_clip, transcode
from colab_helpers.diagnosis.bench_networks import link_networks, write_constant_models
from colab_helpers.errors import ColabHelpersError
from colab_helpers.faces.detector import Detector
from colab_helpers.models.session import Runtime

ROW = {
    "clip": "clip", "way": "swap", "frames": 100, "fps": 40.0, "cpu_ms": 42.0, "encode_cpu_ms": 10.0,
    "first_frame_ms": 300.0, "first_frame_cpu_ms": 200.0, "networks_ms": 4.0, "card": {},
    "threads_ms": {"change faces": 15.0, "native": 25.0},
    "networks": {"inswapper_128": {"calls": 100, "ms": 3.0, "cpu_ms": 6.0},
                 "det_10g": {"calls": 25, "ms": 4.0, "cpu_ms": 8.0}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "seconds"),
    [
        ({}, 0.3 + (4.2 - 0.2) / 2),  # both cores are always busy
        ({"threads_ms": {"change faces": 30.0}}, 0.3 + 3.0),  # one stage is the bottleneck
        ({"networks_ms": 50.0}, 0.3 + 2.0),  # on the CPU, already counted
        ({"networks_ms": 50.0, "card": {"busy_percent": 80.0}}, 0.3 + 5.0),
    ],
)
def test_predicted_time_is_that_of_the_bottleneck(
    change: dict[str, object], seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_model, "this_machine", lambda: type("Two", (), {"cpus": 2}))
    found = bench_model.predict(ROW | change)
    assert found["model_fps"] == pytest.approx(100 / seconds)
    assert found["model_error_percent"] == pytest.approx(100 * (100 / seconds / 40 - 1))


def test_prediction_for_gpus_uses_real_networks_and_their_encoders() -> None:
    found = bench_model.predict_devices([ROW, {**ROW, "way": "batch", "networks": {}}])
    assert [*found["T4"]] == ["clip swap"]  # a run without profile gives no prediction
    networks, ours = 3.2 + 4.9 / 4, 42 - 2 - (6 + 8 / 4)
    assert found["T4"]["clip swap"] == pytest.approx(1e3 / (15 * networks))  # slower than (32 - 10) / 2
    assert found["A100"]["clip swap"] == pytest.approx(1e3 / (3.1 * networks))
    cheap = {**ROW, "networks": {"det_10g": {"calls": 1, "ms": 4.0, "cpu_ms": 0.0}}}
    found = bench_model.predict_devices([cheap])
    assert found["T4"]["clip swap"] == pytest.approx(1e3 / ((ours + 8 - 10) / 2))
    assert found["A100"]["clip swap"] == pytest.approx(1e3 / ((ours + 8) / 12))  # it has no NVENC


def test_ratios_are_computed_within_each_round() -> None:
    def usages(*walls: float) -> list[bench.ProcessUsage]:
        return [bench.ProcessUsage(wall, 2 * wall, 1e6 * wall) for wall in walls]

    runs = {"PyAV": usages(1.0, 3.0, 2.0), "decode": usages(0.5, 0.5, 0.5), "swap": usages(2.0, 4.0, 2.5)}
    found = bench._summarise(runs, "swap", 10)
    assert found["ratios"] == {"PyAV": 0.75}  # of 0.5, 0.75 and 0.8
    assert (found["fps"], found["cpu_ms"], found["rss_mb"]) == (4.0, 500.0, 4.0)
    assert (found["transcode_cpu_ms"], found["encode_cpu_ms"]) == (400.0, 300.0)
    assert found["spread_percent"] == 40.0


def test_failed_run_is_reported() -> None:
    with pytest.raises(ColabHelpersError, match="failed: no such thing"):
        bench._run([bench.sys.executable, "-c", "raise SystemExit('no such thing')"])


@pytest.mark.parametrize("words", [["--json", "mine.json"], ["--set", "quality"]])
def test_invalid_arguments_are_refused_before_measuring(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.json").write_text("mine")
    assert main(["bench", "--quick", *words]) == WRONG_USAGE
    assert Path("mine.json").read_text() == "mine"


def test_long_clip_repeats_a_block_without_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("colab_helpers.diagnosis.bench_clip._BLOCK", 0.25)
    make_clip(tmp_path / "clip.mp4", seconds=0.75, height=360)
    transcode(str(tmp_path / "clip.mp4"), str(tmp_path / "coded.mp4"), "ultrafast", "40")
    for name in ("clip", "coded"):
        with av.open(str(tmp_path / f"{name}.mp4")) as container:
            frames = [*container.decode(video=0)]
            assert [frame.pts * frame.time_base for frame in frames] == [Fraction(n, 24) for n in range(18)]
            assert (frames[0].width, frames[0].height) == (640, 360)
    transcode(str(tmp_path / "clip.mp4"), str(tmp_path / "none.mp4"), "", "")
    assert not (tmp_path / "none.mp4").exists()


def test_constant_detector_finds_the_given_boxes(tmp_path: Path) -> None:
    boxes = [40.0, 130.0, 140.0, 230.0, 500.0, 100.0, 600.0, 220.0]
    write_constant_models(tmp_path / "two", box=boxes)
    write_constant_models(tmp_path / "none", box=())

    def found(name: str) -> list[list[float]]:
        detector = Detector(Runtime("cpu").open(tmp_path / name / "buffalo_l" / "det_10g.onnx"))
        faces, _ = detector.detect(np.zeros((360, 640, 3), np.uint8), size=640, score=0.5)
        return sorted(map(list, faces[:, :4]))

    assert found("two") == [boxes[:4], boxes[4:]]
    assert found("none") == []


def test_users_networks_are_linked_except_a_real_detector(tmp_path: Path) -> None:
    made = write_constant_models(tmp_path / "made", box=())
    own = write_constant_models(tmp_path / "own", box=(1, 2, 30, 40))
    detector = own / "buffalo_l" / "det_10g.onnx"
    (own / "xseg_1.onnx").unlink()
    link_networks(own, made)
    assert {path.name for path in made.rglob("*.onnx") if path.is_symlink()} == {
        "det_10g.onnx", "w600k_r50.onnx", "genderage.onnx", "inswapper_128.onnx", "GFPGANv1.4.onnx",
        "nsfw_2.onnx"}  # fmt: skip
    detector.write_bytes(detector.read_bytes().replace(b"colab_helpers.standin", b"colab_helpers.nothing"))
    made = write_constant_models(tmp_path / "again", box=())
    link_networks(own, made)
    assert not (made / "buffalo_l" / "det_10g.onnx").is_symlink()
    assert (made / "inswapper_128.onnx").is_symlink()
