"""Which file is loaded: only one that was accepted here, of the model as it is now."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from colab_helpers.demo.standins import load_weights
from colab_helpers.demo.standins import swapper as standin_swapper
from colab_helpers.errors import ModelError
from colab_helpers.models import choice, conversions, convert
from colab_helpers.models.choice import Choice, choose, wants_half
from colab_helpers.models.conversions import Conversion
from colab_helpers.models.convert import prepared
from colab_helpers.models.session import Runtime
from tests.models.graphs import half_graph, net, small_inswapper
from tests.models.pretend import PretendedGpu, pretend_gpu

CPU = Runtime("cpu", threads=1)
NAME = "inswapper_128"


def ask(
    root: Path, name: str = NAME, *, half: bool | str = "auto", runtime: Runtime = CPU, make: bool = True
):
    return choose(root, name, half=half, runtime=runtime, make=make)  # type: ignore[arg-type]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / f"{NAME}.onnx"
    onnx.save(small_inswapper(), path)
    return path


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> PretendedGpu:
    return pretend_gpu(monkeypatch)


def test_when_float16_is_wanted() -> None:
    assert [wants_half(setting, "cuda") for setting in ("auto", True, False)] == [True, True, False]
    assert [wants_half(setting, "cpu") for setting in ("auto", True, False)] == [False, True, False]


# --- on the CPU ---------------------------------------------------------------------------------------


def test_nothing_was_made(model: Path) -> None:
    assert ask(model.parent) == Choice(NAME, model, model, unmade=("batch",))
    assert not (model.parent / "converted").exists()


def test_an_accepted_copy_is_used_without_reading_it(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = prepared(model, batch=True, half=False, runtime=CPU)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("read a model")

    with monkeypatch.context() as patch:
        for name in ("load_model", "sha256_of", "prepared"):
            patch.setattr(convert, name, never)
        patch.setattr(Runtime, "open", never)
        found = ask(model.parent)
    assert found == Choice(NAME, made.path, model, any_batch=True)
    network = found.open(CPU)
    assert (network.name, network.path, network.fixed_batch) == (NAME, made.path, None)


def test_asking_does_not_import_onnx() -> None:
    code = "import sys, colab_helpers.models.choice; sys.exit('onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_half_on_the_cpu_only_as_asked(model: Path) -> None:
    asked = ask(model.parent, half=True)
    (note,) = asked.notes
    assert note == (
        f"{NAME}: float16 was asked for but nothing was made yet; run 'python -m colab_helpers convert "
        f"--execution-provider cpu --half '{model}''"
    )
    made = prepared(model, batch=True, half=True, runtime=CPU)
    asked = ask(model.parent, half=True)
    assert (asked.path, asked.half) == (made.path, True)
    assert asked.notes == (f"{NAME}: computes in float16 as asked; on the CPU that is no faster",)
    for setting in ("auto", False):
        found = ask(model.parent, half=setting)
        assert "-batch-" in found.path.name
        assert (found.half, found.notes) == (False, ())


def test_a_refused_copy_is_not_used_and_its_reason_is_told(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(net("mixing"), path)
    made = prepared(path, batch=True, half=False, runtime=CPU)
    found = ask(tmp_path, "net")
    assert (found.path, found.any_batch, found.unmade) == (path, False, ())
    assert found.notes == made.notes
    assert "differs by" in found.notes[0]


def test_refused_half_leaves_the_batch(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(half_graph("overflowing"), path)
    made = prepared(path, batch=True, half=True, runtime=CPU)
    found = ask(tmp_path, "net", half=True)
    assert (found.path, found.any_batch, found.half, found.notes) == (made.path, True, False, made.notes)


def test_any_batch_already(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(net("dynamic"), path)
    prepared(path, batch=True, half=False, runtime=CPU)
    assert ask(tmp_path, "net") == Choice("net", path, path, any_batch=True)


def test_accepted_elsewhere_does_not_count(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(convert, "place_of", lambda _: "cuda, Tesla T4, onnxruntime 1.26.0")
        prepared(model, batch=True, half=False, runtime=CPU)
    assert ask(model.parent) == Choice(NAME, model, model, unmade=("batch",))


def test_a_newer_onnxruntime_compares_anew(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(model, batch=True, half=False, runtime=CPU)
    monkeypatch.setattr(conversions.onnxruntime, "__version__", "99.0")
    assert ask(model.parent).unmade == ("batch",)


def test_a_changed_original_makes_the_copy_stale(model: Path) -> None:
    prepared(model, batch=True, half=False, runtime=CPU)
    onnx.save(small_inswapper(5), model)
    assert ask(model.parent) == Choice(NAME, model, model, unmade=("batch",))


def test_a_newer_converter_makes_the_copy_stale(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(model, batch=True, half=False, runtime=CPU)
    monkeypatch.setattr(choice, "CONVERTER", conversions.CONVERTER + 1)
    assert ask(model.parent).path == model


@pytest.mark.parametrize("harm", ["touched", "cut", "gone", "no record"])
def test_a_copy_that_is_not_the_recorded_one_is_not_used(model: Path, harm: str) -> None:
    made = prepared(model, batch=True, half=False, runtime=CPU)
    if harm == "touched":
        os.utime(made.path, ns=(1, 1))
    elif harm == "cut":
        made.path.write_bytes(made.path.read_bytes()[:100])
    elif harm == "gone":
        made.path.unlink()
    else:
        made.records[0].write_text("{")
    assert ask(model.parent) == Choice(NAME, model, model, unmade=("batch",))


def test_a_missing_model_is_an_error_only_when_it_is_opened(tmp_path: Path) -> None:
    found = ask(tmp_path)
    with pytest.raises(ModelError, match="missing"):
        found.open(CPU)


# --- weights ------------------------------------------------------------------------------------------


def exported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """GFPGAN's weights and what was made of them, without torch."""
    weights = folder / "GFPGANv1.4.pth"
    weights.write_bytes(b"weights")

    def export(_: Path, out: Path) -> conversions.Parity:
        onnx.save(net("dynamic"), out)
        return conversions.Parity(mean=0.0, max=0.0, spread=9.0, samples=2, limits=convert.SAME)

    monkeypatch.setattr(convert, "_export", export)
    return prepared(weights, batch=True, half=False, runtime=CPU).path


def test_the_export_of_weights_is_used_where_only_they_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = exported(tmp_path, monkeypatch)
    found = ask(tmp_path, "GFPGANv1.4")
    assert (found.path, found.any_batch, found.notes) == (path, True, ())
    assert found.open(CPU).name == "GFPGANv1.4"
    network = tmp_path / "GFPGANv1.4.onnx"
    onnx.save(net("dynamic"), network)
    assert ask(tmp_path, "GFPGANv1.4").path == network


def test_weights_alone_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "GFPGANv1.4.pth").write_bytes(b"weights")
    with pytest.raises(ModelError, match=r"convert --execution-provider cpu '.*GFPGANv1\.4\.pth'"):
        ask(tmp_path, "GFPGANv1.4")


# --- on a GPU -----------------------------------------------------------------------------------------


def test_the_first_run_on_a_gpu_makes_what_is_missing(model: Path, gpu: PretendedGpu) -> None:
    runtime = Runtime("cuda")
    first = ask(model.parent, runtime=runtime)
    assert (first.any_batch, first.half, first.unmade) == (True, True, ())
    (note,) = first.notes
    assert note.startswith(f"{NAME}: compared on this GPU, once, in ")
    assert note.endswith(f"used is {first.path.name} (any batch, float16)")
    record = Conversion.model_validate_json(first.path.with_name(first.path.name + ".json").read_bytes())
    assert [place.split(", onnx")[0] for place in record.verdicts] == ["cuda, Tesla T4"]
    second = ask(model.parent, runtime=runtime)
    assert (second.path, second.notes) == (first.path, ())


def test_float16_switched_off(model: Path, gpu: PretendedGpu) -> None:
    found = ask(model.parent, half=False, runtime=Runtime("cuda"))
    assert (found.any_batch, found.half) == (True, False)
    assert not list((model.parent / "converted").glob("*half*"))


def test_what_the_cpu_accepted_is_compared_on_the_gpu(model: Path, gpu: PretendedGpu) -> None:
    made = prepared(model, batch=True, half=False, runtime=CPU)
    runtime = Runtime("cuda")
    asked = ask(model.parent, half=False, runtime=runtime, make=False)
    assert (asked.path, asked.unmade) == (model, ("batch",))
    assert (
        "the first run does it, or 'python -m colab_helpers convert --execution-provider cuda '"
        in (asked.notes[0])
    )
    assert ask(model.parent, half=False, runtime=runtime).path == made.path


def test_a_copy_that_cannot_be_made_leaves_the_original(
    model: Path, gpu: PretendedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, words in ((ModelError("no room"), "no room"), (ValueError("odd"), "ValueError: odd")):

        def fail(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(convert, "prepared", fail)
        found = ask(model.parent, runtime=Runtime("cuda"))
        assert found.path == model
        assert found.notes == (f"{NAME}: it cannot be made to fit this GPU ({words}); used is {NAME}.onnx",)


def test_stand_ins_stay_as_they_are(tmp_path: Path, gpu: PretendedGpu) -> None:
    path = tmp_path / f"{NAME}.onnx"
    onnx.save(standin_swapper(load_weights()), path)
    found = ask(tmp_path, runtime=Runtime("cuda"))
    assert (found.path, found.notes) == (path, ())
    assert not (tmp_path / "converted").exists()
