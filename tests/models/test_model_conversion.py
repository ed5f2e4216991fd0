"""Converted models: compared with the original before use, and used only if accepted."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from colab_helpers.__main__ import main
from colab_helpers.errors import ModelError, OutputError
from colab_helpers.models import gfpgan_export, model_conversion
from colab_helpers.models.emap import read_emap
from colab_helpers.models.model_conversion import (
    Conversion,
    ModelChoice,
    choose,
    comparison_key,
    computes_in_half,
    convert,
    wants_half,
)
from colab_helpers.models.parity import EXACT_TOLERANCE, HALF_TOLERANCE, Verdict, compare, sample_inputs
from colab_helpers.models.session import Runtime
from tests.helpers.gpu import FakeGpu
from tests.helpers.networks import half_graph, net, small_inswapper
from tests.people import kinds
from tests.people.standins import enhancer, load_weights, swapper

CPU = Runtime("cpu", threads=1)
KEY = comparison_key(CPU)
NAME = "inswapper_128"


def save(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(small_inswapper(), tmp_path / f"{NAME}.onnx")


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Records each float16 conversion (``made``) and comparison (``compared``)."""
    calls: list[str] = []
    for name, step in (("write_half", "made"), ("compare", "compared")):
        original = getattr(model_conversion, name)

        def recorded(*given: object, step: str = step, original: Callable = original) -> object:
            calls.append(step)
            return original(*given)

        monkeypatch.setattr(model_conversion, name, recorded)
    return calls


def make(path: Path, *, half: bool = True) -> ModelChoice:
    return convert(path, half=half, runtime=CPU)


def ask(
    root: Path, name: str = NAME, *, half: bool | str = True, runtime: Runtime = CPU, make: bool = True
) -> ModelChoice:
    return choose(root, name, half=half, runtime=runtime, make=make)  # type: ignore[arg-type]


def record_of(choice: ModelChoice) -> Conversion:
    return Conversion.model_validate_json(choice.path.with_name(choice.path.name + ".json").read_bytes())


# --- float16 ------------------------------------------------------------------------------------------


def test_float16_copy_is_close_to_the_original(model: Path) -> None:
    made = make(model)
    folder = model.parent / "converted"
    assert (made.half, made.notes, made.original, made.path.parent) == (True, (), model, folder)
    parity = record_of(made).verdicts[KEY]
    assert (parity.mean_limit, parity.max_limit) == HALF_TOLERANCE
    assert 0.001 < parity.mean < 0.2  # float16, and accurate
    reference, network = CPU.open(model), CPU.open(made.path)
    inputs = sample_inputs(network.session, 4, seed=9).values()
    assert 255 * np.abs(network.run_stack(*inputs) - reference.run_stack(*inputs)).max() < 1.0
    graph = onnx.load(made.path).graph
    kinds = {item.name: item.type.tensor_type.elem_type for item in (*graph.input, *graph.output)}
    assert kinds == dict.fromkeys(("target", "source", "output"), TensorProto.FLOAT)
    np.testing.assert_array_equal(read_emap(made.path), read_emap(model))
    assert made.path.stat().st_size < 0.8 * model.stat().st_size  # the matrix is not converted


def without_names() -> onnx.ModelProto:
    model = small_inswapper()
    for each in model.graph.node:
        each.name = ""
    return model


@pytest.mark.parametrize(
    "build",
    [
        enhancer,
        lambda: swapper(load_weights()),
        without_names,
        kinds.hyperswap,
        kinds.codeformer,
        lambda: kinds.restoreformer(first=False),
    ],
)
def test_all_network_kinds_can_be_converted(tmp_path: Path, build: Callable[[], onnx.ModelProto]) -> None:
    before = list(sys.path)
    made = make(save(build(), tmp_path / "net.onnx"))
    assert (made.half, made.notes) == (True, ())
    assert sys.path == before  # the converter's import changes it


def test_float16_model_is_not_converted_again(model: Path, work: list[str]) -> None:
    path = make(model).path.rename(model.with_name("net.onnx"))
    for _ in range(2):
        again = make(path)
        assert (again.path, again.half, again.notes) == (path, True, ())
    assert (ask(path.parent, "net").path, ask(path.parent, "net").half) == (path, True)
    assert work == ["made", "compared", "made"]
    plain = small_inswapper()  # its matrix, which no node uses, is ignored
    plain.graph.initializer[-1].CopyFrom(numpy_helper.from_array(np.eye(512, dtype=np.float16), "buff2fs"))
    assert not computes_in_half(plain)


@pytest.mark.parametrize(
    ("build", "reason"),
    [(lambda: half_graph("overflowing"), "differs by"), (lambda: net("constant"), "inconclusive")],
    ids=["overflowing", "constant"],
)
def test_inaccurate_copy_is_refused(
    tmp_path: Path, work: list[str], build: Callable[[], onnx.ModelProto], reason: str
) -> None:
    path = save(build(), tmp_path / "net.onnx")
    made = make(path)
    assert (made.path, made.half) == (path, False)
    (note,) = made.notes
    assert note.startswith("net.onnx: half precision is not used, because")
    assert reason in note
    assert list((tmp_path / "converted").glob("*.onnx")) == []
    assert make(path) == made == ask(tmp_path, "net")
    assert work == ["made", "compared"]


def test_each_environment_compares_a_file_once(
    model: Path, work: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = make(model)
    assert make(model) == here
    monkeypatch.setattr(model_conversion.onnxruntime, "__version__", "99.0")
    assert ask(model.parent).path == model
    assert make(model) == make(model) == here
    assert work == ["made", "compared", "compared"]
    assert set(record_of(here).verdicts) == {KEY, comparison_key(CPU)}


@pytest.mark.parametrize("change", ["model", "converter"])
def test_outdated_copy_is_replaced(model: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    old = make(model)
    if change == "model":
        save(small_inswapper(5), model)
    else:
        monkeypatch.setattr(model_conversion, "CONVERTER_VERSION", model_conversion.CONVERTER_VERSION + 1)
    assert ask(model.parent).path == model
    new = make(model)
    assert new.half
    assert list((model.parent / "converted").glob("*.onnx")) == [new.path]
    assert old.path != new.path


@pytest.mark.parametrize("damage", ["cut", "gone", "no record"])
def test_copy_that_differs_from_its_record_is_not_used(model: Path, work: list[str], damage: str) -> None:
    made = make(model)
    good = made.path.read_bytes()
    if damage == "cut":
        made.path.write_bytes(good[:100])
    elif damage == "gone":
        made.path.unlink()
    else:
        made.path.with_name(made.path.name + ".json").write_text("{")
    found = ask(model.parent)
    assert (found.path, found.half) == (model, False)
    assert make(model).path.read_bytes() == good
    assert work == ["made", "compared"] * 2


@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt("asked"), RuntimeError("Failed to allocate memory for buffer of size 12345")],
    ids=["interrupted", "memory"],
)
def test_aborted_conversion_leaves_no_file(
    model: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def abort(*_: object) -> Verdict:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(model_conversion, "compare", abort)
        with pytest.raises(type(error), match=r"^asked|allocate memory"):
            make(model)
    assert list((model.parent / "converted").glob("*half*")) == []
    assert make(model).half
    shutil.rmtree(model.parent / "converted")
    (model.parent / "converted").write_text("a file where a folder should be")
    with pytest.raises(OutputError, match="converted"):
        make(model)


def test_unwritable_record_is_noted(model: Path, work: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(model_conversion, "write_json", denied)
        made = make(model)
    assert made.half
    assert "cannot be written (Permission denied): the comparison will be repeated next time" in made.notes[0]
    assert (make(model).path, make(model).notes) == (made.path, ())
    assert work == ["made", "compared"] * 2


def test_simultaneous_conversions_convert_once(model: Path, work: list[str]) -> None:
    with ThreadPoolExecutor(2) as threads:  # each has its own lock, like processes
        first, second = threads.map(make, [model, model])
    assert first == second
    assert work == ["made", "compared"]


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("content", [None, b"no model at all" * 10, b""])
def test_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes | None, half: bool) -> None:
    if content is not None:
        (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"net\.onnx") as caught:
        make(tmp_path / "net.onnx", half=half)
    assert ("missing" in caught.value.what) == (content is None)
    assert ask(tmp_path, "net", half=False).path == tmp_path / "net.onnx"  # choosing it is no error
    other = save(net("rank 3"), tmp_path / "other.onnx")
    with pytest.raises(ModelError, match=r"other\.onnx.*neither a picture nor a vector"):
        make(other)


# --- the file that a run loads ------------------------------------------------------------------------


def test_float16_on_the_cpu_only_on_request(model: Path) -> None:
    (note,) = ask(model.parent).notes
    assert f"'python -m colab_helpers convert --execution-provider cpu --half '{model}''" in note
    assert not (model.parent / "converted").exists()
    made, chosen = make(model), ask(model.parent)
    assert (chosen.path, chosen.half) == (made.path, True)
    for setting in ("auto", False):
        assert ask(model.parent, half=setting) == ModelChoice(NAME, model, model)
    assert [wants_half(setting, "cuda") for setting in ("auto", True, False)] == [True, True, False]


def test_first_gpu_run_makes_the_float16_copy(model: Path, gpu: FakeGpu) -> None:
    runtime = Runtime("cuda")
    assert ask(model.parent, half=False, runtime=runtime) == ModelChoice(NAME, model, model)
    chosen = ask(model.parent, half="auto", runtime=runtime, make=False)
    assert chosen.path == model
    assert "on a GPU any run" in chosen.notes[0]
    assert not (model.parent / "converted").exists()
    first = ask(model.parent, half="auto", runtime=runtime)
    assert first.half
    (note,) = first.notes
    assert note == f"{NAME}: compared with its float16 copy on this GPU (once); using {first.path.name}"
    assert [key.split(", onnx")[0] for key in record_of(first).verdicts] == ["cuda, Tesla T4"]
    second = ask(model.parent, half="auto", runtime=runtime)
    assert (second.path, second.notes) == (first.path, ())
    assert first.open(CPU).name == NAME


# --- GFPGAN's weights, without torch ------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "GFPGANv1.4.pth"
    path.write_bytes(b"weights")
    return path


def fake_export(monkeypatch: pytest.MonkeyPatch, *, difference: float) -> list[Path]:
    calls: list[Path] = []

    def export(source: Path, out: Path, _: object) -> Verdict:
        calls.append(source)
        save(net("plain"), out)
        pixels = np.arange(8, dtype=np.float32).reshape(2, 4)
        return compare(pixels, pixels + np.eye(2, 4, dtype=np.float32) * difference, EXACT_TOLERANCE, 255)

    monkeypatch.setattr(gfpgan_export.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(gfpgan_export, "_export_in_subprocess", export)
    return calls


def test_weights_are_exported_once_and_used_if_there_is_no_onnx_file(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = fake_export(monkeypatch, difference=0.01)
    with pytest.raises(ModelError, match=r"convert --execution-provider cpu --half '.*GFPGANv1\.4\.pth'"):
        ask(weights.parent, "GFPGANv1.4")
    plain = make(weights, half=False)
    assert (plain.half, plain.notes) == (False, ())
    half = make(weights)
    assert half.half
    assert make(weights) == half
    assert calls == [weights]
    assert ask(weights.parent, "GFPGANv1.4", half=False).path == plain.path
    assert ask(weights.parent, "GFPGANv1.4").path == half.path
    network = save(net("plain"), weights.with_suffix(".onnx"))
    assert ask(weights.parent, "GFPGANv1.4", half=False).path == network


def test_inaccurate_export_is_an_error(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_export(monkeypatch, difference=7.0)
    with pytest.raises(ModelError, match="7 at most"):
        make(weights)
    assert [path.name for path in (weights.parent / "converted").iterdir()] == [".locks"]


def test_export_error_names_the_missing_packages(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gfpgan_export.importlib.util, "find_spec", {"torch": object()}.get)
    with pytest.raises(ModelError, match=r"needs gfpgan, not installed here"):
        make(weights)
    monkeypatch.setattr(gfpgan_export.importlib.util, "find_spec", {}.get)
    with pytest.raises(ModelError, match=r"'python -m pip install torch && .*--no-deps gfpgan==1\.3\.8', or"):
        make(weights)


def test_convert_command(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = save(half_graph("overflowing"), model.with_name("other.onnx"))
    command = ["convert", str(model), str(other), "--execution-provider", "cpu"]
    assert main([*command, "--half"]) == 0
    first, second, *notes = capsys.readouterr().out.splitlines()
    assert (first, second) == (str(make(model).path), str(other))
    assert [note.split(" because")[0] for note in notes] == ["note: other.onnx: half precision is not used,"]
    assert main(command) == 0  # without --half, the files are only checked
    assert capsys.readouterr().out.splitlines() == [str(model), str(other)]
    assert main(["convert", str(model.with_name("no.onnx"))]) != 0
    assert "no.onnx" in capsys.readouterr().err
