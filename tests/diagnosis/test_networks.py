"""Networks on CPU and GPU, damaged files, and unknown weights compared with insightface."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from colab_helpers.command_line import FAILURE, SUCCESS
from colab_helpers.diagnosis import networks, reference
from colab_helpers.diagnosis.networks import difference
from colab_helpers.faces import analyser, swapper_enhancer
from colab_helpers.faces.detector import Detector
from colab_helpers.files import sha256_of
from colab_helpers.models.inventory import ModelRecord, write_record
from colab_helpers.models.model_conversion import convert
from colab_helpers.models.session import Runtime
from colab_helpers.requirements import Cuda
from colab_helpers.settings import load_settings
from tests.diagnosis.conftest import Doctor, FakeMachine
from tests.helpers.networks import small_inswapper
from tests.people import kinds

NAMES = ["det_10g", "w600k_r50", "inswapper_128", "GFPGANv1.4"]
CONTENT = ["nsfw_2", "genderage"]


@pytest.fixture
def copied(standins: Path, tmp_path: Path) -> Path:
    """A copy of the stand-ins, which tests may damage."""
    return Path(shutil.copytree(standins, tmp_path / "models"))


def write_enhancer(path: Path, factor: float, *, root: bool = False) -> Path:
    """An enhancer that multiplies by ``factor``; ``root`` adds a square root, NaN for negative values."""
    shape = [1, 3, 512, 512]
    nodes = [helper.make_node("Mul", ["input", "factor"], ["y" if root else "output"])]
    if root:
        nodes.append(helper.make_node("Sqrt", ["y"], ["output"]))
    graph = helper.make_graph(
        nodes,
        "enhancer",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.float32(factor), "factor")],
    )
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def test_networks_of_the_preset_are_run_and_timed(doctor: Doctor) -> None:
    result = doctor()
    assert [name for name in result.checks if name.startswith("model ")] == [
        f"model {name}" for name in (*NAMES, "xseg_1", *CONTENT)
    ]
    for name in (*NAMES, "xseg_1", *CONTENT):
        check = result[f"model {name}"]
        assert check.status == "warn"
        assert "a stand-in, not the real network" in check.detail
        assert check.figures["cpu_ms"] > 0
    assert not [name for name in result.checks if name.startswith("parity ")]
    result = doctor("--preset", "light")
    assert "model GFPGANv1.4" not in result.checks
    assert "model inswapper_128" in result.checks


def test_missing_models_fail(doctor: Doctor, tmp_path: Path) -> None:
    result = doctor(models=tmp_path)
    assert result.code == FAILURE
    assert result.names("fail") == [f"model {name}" for name in NAMES + CONTENT]
    assert "preload --accept-licences" in result["model det_10g"].remedy


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("short", "ONNX Runtime cannot load"),
        ("empty", "ONNX Runtime cannot load"),
        ("text", "ONNX Runtime cannot load"),
        ("other", "no known kind of swapper has these inputs: input [1, 3, 512, 512]"),
    ],
)
def test_damaged_model_file_fails(doctor: Doctor, copied: Path, damage: str, words: str) -> None:
    path = copied / "inswapper_128.onnx"
    intact, other = path.read_bytes(), (copied / "GFPGANv1.4.onnx").read_bytes()
    damaged = {"short": intact[: len(intact) // 2], "empty": b"", "text": b"<html>", "other": other}
    path.write_bytes(damaged[damage])
    result = doctor("--preset", "light", models=copied)
    assert result.names("fail") == ["model inswapper_128"]
    check = result["model inswapper_128"]
    assert str(path) in check.detail
    assert words in check.detail
    assert damage == "other" or "fetch it again" in check.remedy


def test_nan_in_the_output_fails(doctor: Doctor, copied: Path) -> None:
    write_enhancer(copied / "GFPGANv1.4.onnx", 1.0, root=True)
    result = doctor(models=copied)
    assert result.names("fail") == ["model GFPGANv1.4"]
    assert "on the CPU its output contains NaN or infinity" in result["model GFPGANv1.4"].detail
    assert "half precision" in result["model GFPGANv1.4"].remedy


def test_file_changed_since_its_verification_fails(doctor: Doctor, copied: Path) -> None:
    path = write_enhancer(copied / "GFPGANv1.4.onnx", 1.0)
    found = path.stat()
    fields = {"bytes": found.st_size, "mtime_ns": found.st_mtime_ns, "source": "present", "licence": "own"}
    record = ModelRecord(sha256=sha256_of(path), **fields)
    write_record(path, record)
    write_enhancer(path, 1.0 + 2**-10)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))  # like silent corruption
    assert record.still_describes(path)
    check = doctor(models=copied)["model GFPGANv1.4"]
    assert check.status == "fail"
    assert "its content has changed since it was verified" in check.detail


@pytest.fixture
def gpu_enhancer(monkeypatch: pytest.MonkeyPatch, fake_machine: FakeMachine, copied: Path) -> Path:
    """A GPU that runs every network, but the enhancer from this file."""
    fake_machine.gpu(Cuda(12, frozenset({12})), problem=None)
    real, other = networks.open_network, copied / "on_gpu.onnx"

    def opened(path: Path, provider: str, **_: object):
        on_gpu = provider == "cuda" and path.stem == "GFPGANv1.4"
        return real(other if on_gpu else path, "cpu")

    monkeypatch.setattr(networks, "open_network", opened)
    write_enhancer(copied / "GFPGANv1.4.onnx", 1.0)
    return other


@pytest.mark.parametrize(
    ("factor", "root", "what"),
    [
        (1.001, False, ""),
        (1.02, False, "GPU and CPU give different results (1% is allowed)"),
        (1.0, True, "on the GPU its output contains NaN or infinity"),
    ],
)
def test_gpu_and_cpu_results_are_compared(
    doctor: Doctor, copied: Path, gpu_enhancer: Path, factor: float, root: bool, what: str
) -> None:
    write_enhancer(gpu_enhancer, factor, root=root)
    result = doctor(models=copied)
    assert result.names("fail") == (["model GFPGANv1.4"] if what else [])
    check = result["model GFPGANv1.4"]
    assert what in check.detail
    assert "no float16 copy was compared here yet" in check.detail
    assert "sampling and blending of faces: on the CPU, because" in check.detail
    assert check.figures["cuda_ms"] > 0
    assert result["gpu"].status == result["cuda"].status == "pass"
    if not root:
        assert check.figures["difference"] == pytest.approx(factor - 1, rel=0.01)
        assert ("execution_provider=cpu" in check.remedy) == bool(what)
        on_cpu = doctor("--execution-provider", "cpu", models=copied)
        assert "cuda_ms" not in on_cpu["model GFPGANv1.4"].figures


def test_difference_of_outputs() -> None:
    ones = np.ones((1, 4), np.float32)
    assert difference([ones], [ones]) == 0
    assert difference([ones, ones], [ones, ones * np.float32(1.5)]) == pytest.approx(0.5)
    assert difference([ones], [np.ones((2, 4), np.float32)]) == np.inf
    assert np.isnan(difference([ones, ones], [ones * np.nan, ones]))
    assert difference([0 * ones], [ones]) == pytest.approx(2.0)


def test_file_that_a_run_loads_is_named_and_compared(doctor: Doctor, copied: Path) -> None:
    onnx.save(small_inswapper(), copied / "inswapper_128.onnx")
    made = convert(copied / "inswapper_128.onnx", half=True, runtime=Runtime("cpu"))
    plain = doctor("--preset", "light", models=copied)["model inswapper_128"]
    assert plain.detail.startswith("CPU ")
    half = doctor("--preset", "light", "--half-precision", "true", models=copied)["model inswapper_128"]
    assert f"a run loads {made.path.name}" in half.detail
    assert 1e-6 < half.figures["difference"] < 0.01


def test_converted_file_with_different_results_fails(doctor: Doctor, copied: Path) -> None:
    path = write_enhancer(copied / "GFPGANv1.4.onnx", 1.0)
    made = convert(path, half=True, runtime=Runtime("cpu"))
    assert made.half
    found = made.path.stat()
    model = onnx.load(made.path)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.float16(1.05), "factor"))
    onnx.save(model, made.path)
    os.utime(made.path, ns=(found.st_atime_ns, found.st_mtime_ns))  # like silent corruption
    check = doctor("--half-precision", "true", models=copied)["model GFPGANv1.4"]
    assert check.status == "fail"
    assert "the converted file gives different results (1% is allowed)" in check.detail
    assert str(made.path.parent) in check.remedy
    assert check.figures["difference"] == pytest.approx(0.05, abs=0.001)


def test_weights_that_are_not_exported_fail(doctor: Doctor, copied: Path) -> None:
    (copied / "GFPGANv1.4.onnx").rename(copied / "GFPGANv1.4.pth")
    check = doctor(models=copied)["model GFPGANv1.4"]
    assert check.status == "fail"
    assert "colab_helpers convert" in check.remedy


def test_unknown_weights_are_compared_with_insightface(
    doctor: Doctor, unmarked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # insightface prints while it loads; the result must remain valid JSON.
    result = doctor(models=unmarked)
    assert result.code == SUCCESS
    for name in NAMES[:3]:
        assert result[f"parity {name}"].status == "pass"
    assert result["parity det_10g"].figures["difference"] < 0.01
    assert "not a published file (SHA-256 " in result["model det_10g"].detail
    assert result["model det_10g"].status == "warn"

    def missing(_: Path) -> None:
        raise ImportError("No module named 'insightface'")

    monkeypatch.setattr(reference, "_insightface", missing)
    result = doctor("--preset", "light", models=unmarked)
    assert (result.code, result["parity det_10g"].status) == (SUCCESS, "warn")


def test_attributes_are_compared_with_insightface_if_selected(
    doctor: Doctor, unmarked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--preset", "light", "--face-selector-age-start", "18")
    check = doctor(*options, models=unmarked)["parity genderage"]
    assert (check.status, check.figures["difference"] <= 0.6) == ("pass", True)
    monkeypatch.setattr(analyser, "_BOX_SCALE", 1.0)
    assert doctor(*options, models=unmarked)["parity genderage"].status == "fail"


def test_other_swapper_kinds_are_run_with_their_converter(doctor: Doctor, copied: Path) -> None:
    for name in ("ghost_1_256", "crossface_ghost", "codeformer"):
        model = kinds.KINDS[name]()
        del model.metadata_props[:]
        onnx.save(model, copied / f"{name}.onnx")
    result = doctor("--swapper-model", "ghost_1_256", "--enhancer-model", "codeformer", models=copied)
    assert result.code == SUCCESS
    for name in ("ghost_1_256", "crossface_ghost", "codeformer"):
        assert result[f"model {name}"].figures["cpu_ms"] > 0
    # insightface does not support it.
    assert not [name for name in result.checks if name.startswith("parity ")]
    (copied / "crossface_ghost.onnx").unlink()
    result = doctor("--swapper-model", "ghost_1_256", models=copied)
    assert result.names("fail") == ["model crossface_ghost"]


def test_projection_matrix_of_another_model_fails(
    doctor: Doctor, unmarked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = np.random.default_rng(0).standard_normal((512, 512)).astype(np.float32)
    monkeypatch.setattr(swapper_enhancer, "read_emap", lambda _: other)
    result = doctor("--preset", "light", models=unmarked)
    assert result.code == FAILURE
    assert result.names("fail") == ["parity inswapper_128"]
    assert "fetch it again" in result["parity inswapper_128"].remedy


def test_detector_that_is_off_by_a_pixel_fails(
    doctor: Doctor, unmarked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Detector.detect

    def shifted(self, image, *, size, score):
        boxes, points = real(self, image, size=size, score=score)
        return boxes, points + 1

    monkeypatch.setattr(Detector, "detect", shifted)
    check = doctor("--preset", "light", models=unmarked)["parity det_10g"]
    assert check.status == "fail"
    assert check.figures["difference"] == pytest.approx(1, abs=0.01)


LANDMARKS = np.array([(203, 101), (246, 103), (221, 127), (203, 140), (246, 140)], np.float32)
"""Of the astronaut photograph, placed manually."""


@pytest.mark.parametrize(
    ("found", "status"),
    [
        ([LANDMARKS], "pass"),
        ([LANDMARKS + 25], "fail"),
        ([LANDMARKS[::-1]], "fail"),
        ([LANDMARKS] * 2, "fail"),
        ([LANDMARKS * np.nan], "fail"),
        ([], "fail"),
    ],
    ids=["there", "elsewhere", "upside down", "two", "no numbers", "nobody"],
)
def test_detector_is_checked_on_a_real_photograph(
    standins: Path, monkeypatch: pytest.MonkeyPatch, found: list[np.ndarray], status: str
) -> None:
    def detect(_: Detector, image: np.ndarray, **given: Any) -> tuple[np.ndarray, np.ndarray]:
        assert image[120, 220].tolist() == [152, 182, 219], "BGR"
        return np.zeros((len(found), 5), np.float32), np.reshape(found, (-1, 5, 2))

    network = Runtime("cpu").open(standins / "buffalo_l" / "det_10g.onnx")
    monkeypatch.setattr(Detector, "detect", detect)
    assert reference.photograph(network, load_settings()).status == status


def test_photograph_check_needs_a_published_detector(
    doctor: Doctor, unmarked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doctor = replace(doctor, models=unmarked)
    assert "photograph" not in doctor.run("models").checks, "the abilities of unknown weights are unknown"
    monkeypatch.setattr(networks, "_file_problem", lambda *_: ())
    assert doctor.run("models")["photograph"].status == "fail"
