"""The GPU benchmark: its dry run on the CPU, and a GPU that does not work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.gpu import Bench
from tests.helpers.gpu import CUDA, T4, install_fake_gpu


def test_dry_run_measures_everything_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Bench) -> None:
        raise RuntimeError("no room")

    monkeypatch.setattr(gpu, "PARTS", {"broken": fail, **gpu.PARTS})  # the other parts still run
    assert gpu.main(["--out", str(tmp_path), "--cpu-dry-run"]) == 1
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found.pop("broken") == "failed: RuntimeError: no room"
    assert not [part for part, value in found.items() if str(value).startswith("failed")]
    assert found["decoding"]["processors"]["frames"] == 6
    assert found["decoding"]["card"].startswith("not available")
    paths = found["decoding"]["through"]
    assert {path: (row["frames"], row["luma_off"] < 1) for path, row in paths.items()} == {
        "copied": (6, True),
        "resident": (6, True),
    }
    assert list(found["pixels"]) == ["swapper, captured", "swapper", "enhancer, captured", "enhancer"]
    assert all(row["max"] <= 3 and row["own"] > 0 for row in found["pixels"].values())
    (run,) = found["end_to_end"]
    assert [(row["way"], row["frames"]) for row in run["runs"]] == [("swap", 6), ("batch", 6), ("enhance", 6)]
    assert run["runs"][2]["networks"]["GFPGANv1.4"]["calls"] == 6
    assert found["demo"]["faces"][0] == found["demo"]["faces"][1] > 0
    assert found["demo"]["grey_p999"] == 0  # both on the CPU
    assert found["doctor"]["exit code"] == 0
    assert "CPU" in found["doctor"]["model inswapper_128"]


def test_nothing_is_measured_without_a_working_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "this_machine", lambda: T4)
    install_fake_gpu(monkeypatch).missing.add(CUDA)
    with pytest.raises(SystemExit, match="CUDA does not run: ONNX Runtime fell back"):
        gpu.main(["--out", str(tmp_path)])
