"""The benchmark for a machine with a GPU: its dry run, and its parts on a pretended GPU."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.gpu import NOT_AVAILABLE, Bench, Plan
from tests.models.pretend import CUDA, T4, PretendedGpu, pretend_gpu


def test_the_dry_run_measures_everything_but_the_gpu(tmp_path: Path) -> None:
    assert gpu.main(["--out", str(tmp_path), "--cpu-dry-run"]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert {part for part, value in found.items() if value == NOT_AVAILABLE} == {
        "waiting",
        "options",
        "out_of_memory",
        "memory",
        "graphs",
    }
    assert not [part for part, value in found.items() if str(value).startswith("failed")]
    measured = {(row["network"], row["precision"], row["batch"]) for row in found["speed"]}
    assert {("swapper", "float32", 1), ("swapper", "float16", 2), ("enhancer", "float16", 2)} <= measured
    assert all(row["ms_per_sample"] > 0 for row in found["speed"])
    (clip,) = found["end_to_end"]
    assert (clip["frames"], clip["faces"], clip["provider"]) == ([6, 6], [6, 6], "cpu")
    (note,) = clip["notes"]
    assert note.startswith("2 file(s)")  # the plan of every batch, and nothing besides
    assert clip["processor_seconds"] > 0
    assert found["demo"]["faces"][0] == found["demo"]["faces"][1] > 0
    assert found["demo"]["grey_p999"] == 0  # both on the CPU
    assert found["doctor"]["exit code"] == 0
    assert "CPU" in found["doctor"]["model inswapper_128"]
    assert {row["way"] for row in found["stacks"]} >= {"as they are", "one by one"}
    assert clip["files"][2].startswith("inswapper_128-batch-")  # what a run loads after 'convert'
    assert [row["apart"] for row in found["binding"]] == [0] * 4  # IO binding gives the same
    halves = [row for row in found["difference"] if row["precision"] == "float16"]
    assert all(0 < row["grey_max"] < 4 for row in halves)
    table = (tmp_path / "gpu.md").read_text()
    for part in found:
        assert f"## {part}" in table
    assert "| swapper | float16 |" in table


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> PretendedGpu:
    monkeypatch.setattr(gpu, "this_machine", lambda: T4)
    monkeypatch.setattr(gpu, "gpu_memory", lambda: (1 << 30, 15 << 30))
    return pretend_gpu(monkeypatch)


def test_on_a_gpu_each_option_is_measured(
    tmp_path: Path, pretended: PretendedGpu, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(Plan("cuda", (1, 2), seconds=0.0, clip=0.0, until=time.monotonic() + 600), tmp_path)
    assert gpu.machine(bench)["cuda"] == "a network ran on it"
    assert {"verdicts", "notes", "bytes"} <= set(gpu.write_networks(bench, small=True)["swapper"])
    pretended.asked.clear()
    rows = gpu.speed(bench)
    swapper = [(row["precision"], row["search"], row["batch"]) for row in rows if row["network"] == "swapper"]
    assert swapper == [
        (precision, search, batch)
        for precision in ("float32", "tf32", "float16")
        for search in ("HEURISTIC", "EXHAUSTIVE")
        for batch in (1, 2)
    ]
    asked = pretended.options(bench.files["swapper"]["float32"].name, CUDA)
    assert [(one["use_tf32"], one["cudnn_conv_algo_search"]) for one in asked] == [
        ("0", "HEURISTIC"),
        ("0", "EXHAUSTIVE"),
        ("1", "HEURISTIC"),
        ("1", "EXHAUSTIVE"),
    ]
    assert {"loaded_mb", "running_mb", "guess_mb"} <= set(gpu.memory(bench)[0])
    assert {row["precision"] for row in gpu.apart(bench)} == {"float32", "tf32", "float16"}
    rows = gpu.options(bench)
    assert {row["way"] for row in rows} == {"usual", "quick search", "channels last", "bias fused"}
    assert all(row["ms"] > 0 and row["apart"] == 0 for row in rows)
    asked = pretended.options(bench.files["swapper"]["float16"].name, CUDA)
    assert [one.get("prefer_nhwc") for one in asked].count("1") == 1
    capsys.readouterr()
    gpu.call_from_threads([str(bench.path(role, "float32")) for role in gpu.FILES], True, True, calls=5)
    called = json.loads(capsys.readouterr().out)
    assert (called["replayed"], called["notes"]) == ([True] * 4, [])
    assert called["wall_ms"] > 0
    # No device here: what cannot be captured is told, and the rest goes on.
    assert all(str(row["graph_ms"]).startswith(NOT_AVAILABLE) for row in gpu.graphs(bench))


def test_without_a_gpu_that_runs_nothing_is_measured(tmp_path: Path, pretended: PretendedGpu) -> None:
    pretended.missing.add(CUDA)
    with pytest.raises(SystemExit, match="CUDA does not run: ONNX Runtime fell back"):
        gpu.main(["--out", str(tmp_path)])


def test_a_part_that_fails_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Bench) -> None:
        raise RuntimeError("no room")

    for part in ("end_to_end", "binding"):
        monkeypatch.setattr(gpu, part, fail)
    parts = "end_to_end,binding,speed"
    assert gpu.main(["--out", str(tmp_path), "--cpu-dry-run", "--only", parts]) == 1
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["binding"] == "failed: RuntimeError: no room"
    assert found["speed"]
