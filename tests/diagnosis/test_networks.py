"""Networks on CPU and GPU, damaged ones, and insightface as the yardstick of unmarked weights."""

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
from tests.diagnosis.conftest import Doctor, Pretend
from tests.helpers.networks import small_inswapper
from tests.people import kinds

NAMES = ["det_10g", "w600k_r50", "inswapper_128", "GFPGANv1.4"]
CONTENT = ["nsfw_2", "genderage"]


@pytest.fixture
def copied(standins: Path, tmp_path: Path) -> Path:
    """Stand-ins to damage."""
    return Path(shutil.copytree(standins, tmp_path / "models"))


def write_enhancer(path: Path, factor: float, *, root: bool = False) -> Path:
    """An enhancer that multiplies by a number, and with ``root`` takes the root (of negative values, too)."""
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


def test_each_network_of_the_preset_is_run_and_timed(doctor: Doctor) -> None:
    answer = doctor()
    assert [name for name in answer.checks if name.startswith("model ")] == [
        f"model {name}" for name in (*NAMES, "xseg_1", *CONTENT)
    ]
    for name in (*NAMES, "xseg_1", *CONTENT):
        check = answer[f"model {name}"]
        assert check.status == "warn"
        assert "a stand-in, not the real network" in check.detail
        assert check.figures["cpu_ms"] > 0
    assert not [name for name in answer.checks if name.startswith("parity ")]
    answer = doctor("--preset", "light")
    assert "model GFPGANv1.4" not in answer.checks
    assert "model inswapper_128" in answer.checks


def test_missing_models(doctor: Doctor, tmp_path: Path) -> None:
    answer = doctor(models=tmp_path)
    assert answer.code == FAILURE
    assert answer.names("fail") == [f"model {name}" for name in NAMES + CONTENT]
    assert "preload --accept-licences" in answer["model det_10g"].remedy


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("short", "ONNX Runtime cannot load"),
        ("empty", "ONNX Runtime cannot load"),
        ("text", "ONNX Runtime cannot load"),
        ("other", "no known kind of swapper has these inputs: input [1, 3, 512, 512]"),
    ],
)
def test_a_damaged_file(doctor: Doctor, copied: Path, damage: str, words: str) -> None:
    path = copied / "inswapper_128.onnx"
    whole, other = path.read_bytes(), (copied / "GFPGANv1.4.onnx").read_bytes()
    damaged = {"short": whole[: len(whole) // 2], "empty": b"", "text": b"<html>", "other": other}
    path.write_bytes(damaged[damage])
    answer = doctor("--preset", "light", models=copied)
    assert answer.names("fail") == ["model inswapper_128"]
    check = answer["model inswapper_128"]
    assert str(path) in check.detail
    assert words in check.detail
    assert damage == "other" or "fetch it again" in check.remedy


def test_values_that_are_not_numbers(doctor: Doctor, copied: Path) -> None:
    write_enhancer(copied / "GFPGANv1.4.onnx", 1.0, root=True)
    answer = doctor(models=copied)
    assert answer.names("fail") == ["model GFPGANv1.4"]
    assert "on the CPU its output contains NaN or infinity" in answer["model GFPGANv1.4"].detail
    assert "half precision" in answer["model GFPGANv1.4"].remedy


def test_a_file_that_changed_since_it_was_verified(doctor: Doctor, copied: Path) -> None:
    path = write_enhancer(copied / "GFPGANv1.4.onnx", 1.0)
    found = path.stat()
    facts = {"bytes": found.st_size, "mtime_ns": found.st_mtime_ns, "source": "present", "licence": "own"}
    record = ModelRecord(sha256=sha256_of(path), **facts)
    write_record(path, record)
    write_enhancer(path, 1.0 + 2**-10)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))  # as a failing disk leaves it
    assert record.still_describes(path)
    check = doctor(models=copied)["model GFPGANv1.4"]
    assert check.status == "fail"
    assert "its content has changed since it was verified" in check.detail


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch, pretend: Pretend, copied: Path) -> Path:
    """A GPU on which every network runs, but the enhancer from a file of its own."""
    pretend.gpu(Cuda(12, frozenset({12})), problem=None)
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
def test_results_of_gpu_and_cpu_are_compared(
    doctor: Doctor, copied: Path, second: Path, factor: float, root: bool, what: str
) -> None:
    write_enhancer(second, factor, root=root)
    answer = doctor(models=copied)
    assert answer.names("fail") == (["model GFPGANv1.4"] if what else [])
    check = answer["model GFPGANv1.4"]
    assert what in check.detail
    assert "no float16 copy was compared here yet" in check.detail
    assert "sampling and blending of faces: on the CPU, because" in check.detail
    assert check.figures["cuda_ms"] > 0
    assert answer["gpu"].status == answer["cuda"].status == "pass"
    if not root:
        assert check.figures["difference"] == pytest.approx(factor - 1, rel=0.01)
        assert ("execution_provider=cpu" in check.remedy) == bool(what)
        assert (
            "cuda_ms" not in doctor("--execution-provider", "cpu", models=copied)["model GFPGANv1.4"].figures
        )


def test_how_far_outputs_lie_apart() -> None:
    ones = np.ones((1, 4), np.float32)
    assert difference([ones], [ones]) == 0
    assert difference([ones, ones], [ones, ones * np.float32(1.5)]) == pytest.approx(0.5)
    assert difference([ones], [np.ones((2, 4), np.float32)]) == np.inf
    assert np.isnan(difference([ones, ones], [ones * np.nan, ones]))
    assert difference([0 * ones], [ones]) == pytest.approx(2.0)


def test_the_file_that_a_run_loads_is_shown_and_compared(doctor: Doctor, copied: Path) -> None:
    onnx.save(small_inswapper(), copied / "inswapper_128.onnx")
    made = convert(copied / "inswapper_128.onnx", half=True, runtime=Runtime("cpu"))
    plain = doctor("--preset", "light", models=copied)["model inswapper_128"]
    assert plain.detail.startswith("CPU ")
    half = doctor("--preset", "light", "--half-precision", "true", models=copied)["model inswapper_128"]
    assert f"a run loads {made.path.name}" in half.detail
    assert 1e-6 < half.figures["difference"] < 0.01


def test_a_made_file_that_gives_something_else_is_found_out(doctor: Doctor, copied: Path) -> None:
    path = write_enhancer(copied / "GFPGANv1.4.onnx", 1.0)
    made = convert(path, half=True, runtime=Runtime("cpu"))
    assert made.half
    found = made.path.stat()
    model = onnx.load(made.path)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.float16(1.05), "factor"))
    onnx.save(model, made.path)
    os.utime(made.path, ns=(found.st_atime_ns, found.st_mtime_ns))  # as a failing disk leaves it
    check = doctor("--half-precision", "true", models=copied)["model GFPGANv1.4"]
    assert check.status == "fail"
    assert "the converted file gives different results (1% is allowed)" in check.detail
    assert str(made.path.parent) in check.remedy
    assert check.figures["difference"] == pytest.approx(0.05, abs=0.001)


def test_weights_that_were_not_exported_are_told(doctor: Doctor, copied: Path) -> None:
    (copied / "GFPGANv1.4.onnx").rename(copied / "GFPGANv1.4.pth")
    check = doctor(models=copied)["model GFPGANv1.4"]
    assert check.status == "fail"
    assert "colab_helpers convert" in check.remedy


def test_unmarked_weights_are_held_against_insightface(
    doctor: Doctor, unmarked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What insightface prints while it loads would keep the answer from being JSON.
    answer = doctor(models=unmarked)
    assert answer.code == SUCCESS
    for name in NAMES[:3]:
        assert answer[f"parity {name}"].status == "pass"
    assert answer["parity det_10g"].figures["difference"] < 0.01
    assert "not a published file (SHA-256 " in answer["model det_10g"].detail
    assert answer["model det_10g"].status == "warn"

    def missing(_: Path) -> None:
        raise ImportError("No module named 'insightface'")

    monkeypatch.setattr(reference, "_insightface", missing)
    answer = doctor("--preset", "light", models=unmarked)
    assert (answer.code, answer["parity det_10g"].status) == (SUCCESS, "warn")


def test_sex_and_age_are_held_against_insightface_where_they_are_asked_for(
    doctor: Doctor, unmarked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("--preset", "light", "--face-selector-age-start", "18")
    check = doctor(*asked, models=unmarked)["parity genderage"]
    assert (check.status, check.figures["difference"] <= 0.6) == ("pass", True)
    monkeypatch.setattr(analyser, "_BOX_SCALE", 1.0)
    assert doctor(*asked, models=unmarked)["parity genderage"].status == "fail"


def test_a_swapper_of_another_kind_is_run_with_its_converter(doctor: Doctor, copied: Path) -> None:
    for name in ("ghost_1_256", "crossface_ghost", "codeformer"):
        model = kinds.KINDS[name]()
        del model.metadata_props[:]
        onnx.save(model, copied / f"{name}.onnx")
    answer = doctor("--swapper-model", "ghost_1_256", "--enhancer-model", "codeformer", models=copied)
    assert answer.code == SUCCESS
    for name in ("ghost_1_256", "crossface_ghost", "codeformer"):
        assert answer[f"model {name}"].figures["cpu_ms"] > 0
    # insightface knows nothing of it.
    assert not [name for name in answer.checks if name.startswith("parity ")]
    (copied / "crossface_ghost.onnx").unlink()
    answer = doctor("--swapper-model", "ghost_1_256", models=copied)
    assert answer.names("fail") == ["model crossface_ghost"]


def test_a_matrix_of_another_model_is_found_out(
    doctor: Doctor, unmarked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = np.random.default_rng(0).standard_normal((512, 512)).astype(np.float32)
    monkeypatch.setattr(swapper_enhancer, "read_emap", lambda _: other)
    answer = doctor("--preset", "light", models=unmarked)
    assert answer.code == FAILURE
    assert answer.names("fail") == ["parity inswapper_128"]
    assert "fetch it again" in answer["parity inswapper_128"].remedy


def test_a_detector_that_is_a_pixel_off_is_found_out(
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


EYES_NOSE_MOUTH = np.array([(203, 101), (246, 103), (221, 127), (203, 140), (246, 140)], np.float32)
"""Of the astronaut, by eye."""


@pytest.mark.parametrize(
    ("found", "status"),
    [
        ([EYES_NOSE_MOUTH], "pass"),
        ([EYES_NOSE_MOUTH + 25], "fail"),
        ([EYES_NOSE_MOUTH[::-1]], "fail"),
        ([EYES_NOSE_MOUTH] * 2, "fail"),
        ([EYES_NOSE_MOUTH * np.nan], "fail"),
        ([], "fail"),
    ],
    ids=["there", "elsewhere", "upside down", "two", "no numbers", "nobody"],
)
def test_a_detector_is_held_against_another_on_a_real_photograph(
    standins: Path, monkeypatch: pytest.MonkeyPatch, found: list[np.ndarray], status: str
) -> None:
    def sees(_: Detector, image: np.ndarray, **given: Any) -> tuple[np.ndarray, np.ndarray]:
        assert image[120, 220].tolist() == [152, 182, 219], "BGR"
        return np.zeros((len(found), 5), np.float32), np.reshape(found, (-1, 5, 2))

    network = Runtime("cpu").open(standins / "buffalo_l" / "det_10g.onnx")
    monkeypatch.setattr(Detector, "detect", sees)
    assert reference.photograph(network, load_settings()).status == status


def test_only_a_published_detector_is_shown_a_photograph(
    doctor: Doctor, unmarked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doctor = replace(doctor, models=unmarked)
    assert "photograph" not in doctor.ask("models").checks, "nobody knows what these can find"
    monkeypatch.setattr(networks, "_file_problem", lambda *_: ())
    assert doctor.ask("models")["photograph"].status == "fail"
