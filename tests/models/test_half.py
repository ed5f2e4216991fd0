"""Files made to fit this machine: compared before they are used, and used only where they were accepted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from colab_helpers.__main__ import main
from colab_helpers.errors import ModelError, OutputError
from colab_helpers.models import converted, gfpgan
from colab_helpers.models import half as room
from colab_helpers.models.converted import Conversion, place_of
from colab_helpers.models.emap import read_emap
from colab_helpers.models.half import ModelChoice, choose, computes_in_half, convert, wants_half
from colab_helpers.models.parity import NEARLY_SAME, SAME, Parity, compare, sample_inputs
from colab_helpers.models.session import Runtime
from tests.helpers.gpu import PretendedGpu, pretend_gpu
from tests.helpers.networks import half_graph, net, small_inswapper
from tests.people.standins import enhancer, load_weights
from tests.people.standins import swapper as standin_swapper

CPU = Runtime("cpu", threads=1)
PLACE = place_of(CPU)
NAME = "inswapper_128"
ROOT = Path(__file__).resolve().parents[2]


def save(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(small_inswapper(), tmp_path / f"{NAME}.onnx")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> PretendedGpu:
    return pretend_gpu(monkeypatch)


@pytest.fixture
def works(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done: files that were ``made`` in float16, and outputs that were ``compared``."""
    calls: list[str] = []
    for name, told in (("write_half", "made"), ("compare", "compared")):
        original = getattr(room, name)

        def watched(*given: object, told: str = told, original: Callable = original) -> object:
            calls.append(told)
            return original(*given)

        monkeypatch.setattr(room, name, watched)
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


def test_half(model: Path) -> None:
    made = make(model)
    folder = model.parent / "converted"
    assert (made.half, made.notes, made.original, made.path.parent) == (True, (), model, folder)
    parity = record_of(made).verdicts[PLACE]
    assert isinstance(parity, Parity)
    assert parity.allowed == NEARLY_SAME
    assert 0.001 < parity.mean < 0.2  # half precision it is, and good
    reference, network = CPU.open(model), CPU.open(made.path)
    inputs = sample_inputs(network.session, 4, seed=9).values()
    assert 255 * np.abs(network.run_stack(*inputs) - reference.run_stack(*inputs)).max() < 1.0
    graph = onnx.load(made.path).graph
    kinds = {item.name: item.type.tensor_type.elem_type for item in (*graph.input, *graph.output)}
    assert kinds == dict.fromkeys(("target", "source", "output"), TensorProto.FLOAT)
    np.testing.assert_array_equal(read_emap(made.path), read_emap(model))
    assert made.path.stat().st_size < 0.8 * model.stat().st_size  # the matrix stays as it is


def without_names() -> onnx.ModelProto:
    model = small_inswapper()
    for each in model.graph.node:
        each.name = ""
    return model


@pytest.mark.parametrize("build", [enhancer, lambda: standin_swapper(load_weights()), without_names])
def test_other_networks_in_half(tmp_path: Path, build: Callable[[], onnx.ModelProto]) -> None:
    before = list(sys.path)
    made = make(save(build(), tmp_path / "net.onnx"))
    assert (made.half, made.notes) == (True, ())
    assert sys.path == before  # the converter's import adds to it


def test_half_already(model: Path, works: list[str]) -> None:
    path = make(model).path.rename(model.with_name("net.onnx"))
    for _ in range(2):
        again = make(path)
        assert (again.path, again.half, again.notes) == (path, True, ())
    assert (ask(path.parent, "net").path, ask(path.parent, "net").half) == (path, True)
    assert works == ["made", "compared", "made"]


def test_a_matrix_in_half_precision_counts_for_nothing() -> None:
    model = small_inswapper()
    model.graph.initializer[-1].CopyFrom(numpy_helper.from_array(np.eye(512, dtype=np.float16), "buff2fs"))
    assert not computes_in_half(model)


def test_nothing_asked_for(model: Path) -> None:
    made = make(model, half=False)
    assert (made.path, made.half) == (model, False)
    assert made.notes == (
        f"{NAME}.onnx: used as it is; a float16 copy is made where half precision is asked for",
    )


@pytest.mark.parametrize(
    ("build", "reason"),
    [(lambda: half_graph("overflowing"), "differs by"), (lambda: net("constant"), "proves nothing")],
    ids=["overflowing", "constant"],
)
def test_refused(tmp_path: Path, works: list[str], build: Callable[[], onnx.ModelProto], reason: str) -> None:
    path = save(build(), tmp_path / "net.onnx")
    made = make(path)
    assert (made.path, made.half) == (path, False)
    (note,) = made.notes
    assert note.startswith("net.onnx: half precision is not used, because")
    assert reason in note
    assert list((tmp_path / "converted").glob("*.onnx")) == []
    assert make(path) == made == ask(tmp_path, "net")
    assert works == ["made", "compared"]


# --- kept ---------------------------------------------------------------------------------------------


def test_each_place_compares_the_same_file_once(
    model: Path, works: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = make(model)
    assert make(model) == here
    there = "cuda, Tesla T4, onnxruntime 1.26"
    monkeypatch.setattr(room, "place_of", lambda _: there)
    assert make(model) == make(model) == here
    assert works == ["made", "compared", "compared"]
    assert set(record_of(here).verdicts) == {PLACE, there}


def test_a_newer_onnxruntime_compares_anew(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(model)
    monkeypatch.setattr(converted.onnxruntime, "__version__", "99.0")
    assert ask(model.parent).path == model


@pytest.mark.parametrize("change", ["model", "converter"])
def test_what_was_made_of_something_else_goes(
    model: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    old = make(model)
    if change == "model":
        save(small_inswapper(5), model)
    else:
        monkeypatch.setattr(converted, "CONVERTER", converted.CONVERTER + 1)
    assert ask(model.parent).path == model
    new = make(model)
    assert new.half
    assert list((model.parent / "converted").glob("*.onnx")) == [new.path]
    assert old.path != new.path


@pytest.mark.parametrize("harm", ["touched", "cut", "gone", "no record"])
def test_a_copy_that_is_not_the_recorded_one_is_not_used(model: Path, works: list[str], harm: str) -> None:
    made = make(model)
    good = made.path.read_bytes()
    if harm == "touched":
        os.utime(made.path, ns=(1, 1))
    elif harm == "cut":
        made.path.write_bytes(good[:100])
    elif harm == "gone":
        made.path.unlink()
    else:
        made.path.with_name(made.path.name + ".json").write_text("{")
    found = ask(model.parent)
    assert (found.path, found.half) == (model, False)
    assert make(model).path.read_bytes() == good
    assert works == ["made", "compared"] * 2


@pytest.mark.parametrize(
    ("error", "raised", "words"),
    [
        (KeyboardInterrupt("asked"), KeyboardInterrupt, "asked"),
        (RuntimeError("Failed to allocate memory for buffer of size 12345"), ModelError, "memory ran out"),
    ],
    ids=["interrupted", "memory"],
)
def test_a_conversion_that_ends_early_leaves_nothing(
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    raised: type[BaseException],
    words: str,
) -> None:
    def end(*_: object) -> Parity:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(room, "compare", end)
        with pytest.raises(raised, match=words):
            make(model)
    assert list((model.parent / "converted").glob("*half*")) == []
    assert make(model).half


SCRIPT = """
import sys
from pathlib import Path
from colab_helpers.models import half
from colab_helpers.models.session import Runtime

work = half.write_half
def watched(*arguments):
    print("made", flush=True)
    return work(*arguments)
half.write_half = watched
assert "onnx" not in sys.modules, "asking must not import it"
print("ready", flush=True)
sys.stdin.readline()
print(half.convert(Path(sys.argv[1]), half=True, runtime=Runtime("cpu", threads=1)).path.name)
"""


def test_two_processes_convert_once(model: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(model)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    outputs = [process.communicate("\n", timeout=300)[0].split() for process in processes]
    assert sum(output.count("made") for output in outputs) == 1
    assert outputs[0][-1] == outputs[1][-1] == make(model).path.name


# --- errors -------------------------------------------------------------------------------------------


def test_missing_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="missing"):
        make(tmp_path / "no.onnx")
    found = ask(tmp_path)
    with pytest.raises(ModelError, match="missing"):
        found.open(CPU)  # asking for it is no error


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("content", [b"no model at all" * 10, b"\x08\x0a", b""])
def test_not_a_model(tmp_path: Path, content: bytes, half: bool) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"net\.onnx"):
        make(path, half=half)


def test_neither_swapper_nor_enhancer(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"net\.onnx.*neither pictures nor vectors"):
        make(save(net("rank 3"), tmp_path / "net.onnx"))


def test_unwritable_cache(model: Path) -> None:
    (model.parent / "converted").write_text("a file where a folder should be")
    with pytest.raises(OutputError, match="converted"):
        make(model)


# --- comparing ----------------------------------------------------------------------------------------


def test_compare() -> None:
    reference = np.random.default_rng(0).random((3, 3, 16, 16), np.float32)
    off = reference + np.float32(2 / 255)
    same = compare(reference, reference, SAME, 1)
    assert (same.mean, same.max, same.problem) == (0, 0, "")
    assert same.spread == pytest.approx(255 / 3, rel=0.1)
    assert compare(reference, off, SAME, 1).mean == pytest.approx(2, rel=1e-3)
    assert "2 grey levels on average" in compare(reference, off, SAME, 1).problem
    assert not compare(reference, off, (3, 3), 1).problem
    assert compare(reference, reference[::-1].copy(), (255, 255), 1).problem
    assert compare(reference, reference * np.float32(np.nan), SAME, 1).problem
    assert compare(reference, reference[:1], SAME, 1).problem
    peak = reference.copy()
    peak[0, 0, 0, 0] += 2 / 255
    assert "2 at most" in compare(reference, peak, SAME, 1).problem
    assert compare(reference, peak, SAME, 2).problem == ""


def test_parity_that_is_no_number_is_recorded() -> None:
    parity = Parity(mean=float("nan"), max=float("inf"), spread=1, allowed=SAME)
    written = json.dumps(Conversion(verdicts={"here": parity, "there": "no room"}).model_dump())
    again = Conversion.model_validate_json(written).verdicts
    assert isinstance(again["here"], Parity)
    assert np.isnan(again["here"].mean)
    assert np.isinf(again["here"].max)
    assert again["there"] == "no room"


def test_sample_inputs(model: Path) -> None:
    pictures, latents = sample_inputs(CPU.open(model).session, 3).values()
    assert (pictures.shape, pictures.dtype) == ((3, 3, 128, 128), np.float32)
    assert (pictures.min(), pictures.max()) == (0, 1)
    np.testing.assert_allclose(np.linalg.norm(latents, axis=1), 1, rtol=1e-6)
    (pictures,) = sample_inputs(CPU.open(save(enhancer(), model.with_name("e.onnx"))).session).values()
    assert (pictures.min(), pictures.max()) == (-1, 1)


# --- what a run loads ---------------------------------------------------------------------------------


def test_when_float16_is_wanted() -> None:
    assert [wants_half(setting, "cuda") for setting in ("auto", True, False)] == [True, True, False]
    assert [wants_half(setting, "cpu") for setting in ("auto", True, False)] == [False, True, False]


def test_half_on_the_cpu_only_as_asked(model: Path) -> None:
    assert ask(model.parent).notes == (
        f"{NAME}: float16 was asked for but nothing was made yet; run 'python -m colab_helpers convert "
        f"--execution-provider cpu --half '{model}''",
    )
    assert not (model.parent / "converted").exists()
    made, asked = make(model), ask(model.parent)
    assert (asked.path, asked.half) == (made.path, True)
    assert asked.notes == (f"{NAME}: computes in float16 as asked; on the CPU that is no faster",)
    for setting in ("auto", False):
        assert ask(model.parent, half=setting) == ModelChoice(NAME, model, model)


def test_the_first_run_on_a_gpu_makes_what_is_missing(model: Path, gpu: PretendedGpu) -> None:
    runtime = Runtime("cuda")
    assert ask(model.parent, half=False, runtime=runtime) == ModelChoice(NAME, model, model)
    asked = ask(model.parent, half="auto", runtime=runtime, make=False)
    assert asked.path == model
    assert (
        "first run does it, or 'python -m colab_helpers convert --execution-provider cuda " in asked.notes[0]
    )
    assert not (model.parent / "converted").exists()
    first = ask(model.parent, half="auto", runtime=runtime)
    assert first.half
    (note,) = first.notes
    assert note.startswith(f"{NAME}: compared on this GPU, once, in ")
    assert note.endswith(f"used is {first.path.name} (float16)")
    assert [place.split(", onnx")[0] for place in record_of(first).verdicts] == ["cuda, Tesla T4"]
    second = ask(model.parent, half="auto", runtime=runtime)
    assert (second.path, second.notes) == (first.path, ())
    assert first.open(CPU).name == NAME


@pytest.mark.parametrize(
    ("error", "words"), [(ModelError("no room"), "no room"), (ValueError("odd"), "ValueError: odd")]
)
def test_a_copy_that_cannot_be_made_leaves_the_original(
    model: Path, gpu: PretendedGpu, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(room, "convert", fail)
    found = ask(model.parent, half="auto", runtime=Runtime("cuda"))
    assert found.path == model
    assert found.notes == (f"{NAME}: it cannot be made to fit this GPU ({words}); used is {NAME}.onnx",)


def test_stand_ins_stay_as_they_are(tmp_path: Path, gpu: PretendedGpu) -> None:
    path = save(standin_swapper(load_weights()), tmp_path / f"{NAME}.onnx")
    found = ask(tmp_path, half="auto", runtime=Runtime("cuda"))
    assert (found.path, found.notes) == (path, ())
    assert not (tmp_path / "converted").exists()


# --- GFPGAN's weights, without torch --------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "GFPGANv1.4.pth"
    path.write_bytes(b"weights")
    return path


def pretend_export(monkeypatch: pytest.MonkeyPatch, parity: Parity) -> list[Path]:
    calls: list[Path] = []

    def export(source: Path, out: Path, _: object) -> Parity:
        calls.append(source)
        save(net("plain"), out)
        return parity

    monkeypatch.setattr(gfpgan.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(gfpgan, "_run", export)
    return calls


def test_weights_are_exported_once_and_used_where_only_they_are_there(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = pretend_export(monkeypatch, Parity(mean=0.001, max=0.01, spread=30.0, allowed=SAME))
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


def test_wrong_export_is_an_error(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_export(monkeypatch, Parity(mean=0.001, max=7.0, spread=30.0, allowed=SAME))
    with pytest.raises(ModelError, match="7 at most"):
        make(weights)
    assert [path.name for path in (weights.parent / "converted").iterdir()] == [".locks"]


@pytest.mark.parametrize(
    ("there", "command"),
    [
        ((), "'python -m pip install torch && python -m pip install --no-deps gfpgan==1.3.8'"),
        (("torch",), "'python -m pip install --no-deps gfpgan==1.3.8'"),
        (("gfpgan",), "'python -m pip install torch'"),
    ],
)
def test_export_says_what_to_install(
    weights: Path, monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...], command: str
) -> None:
    monkeypatch.setattr(gfpgan.importlib.util, "find_spec", lambda name: object() if name in there else None)
    with pytest.raises(ModelError) as caught:
        make(weights)
    assert f"run {command}, or" in str(caught.value)
    assert list((weights.parent / "converted").glob("*.onnx*")) == []


# --- command line -------------------------------------------------------------------------------------


def test_command(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = save(half_graph("overflowing"), model.with_name("other.onnx"))
    command = ["convert", str(model), str(other), "--half", "--execution-provider", "cpu"]
    assert main(command) == 0
    first, second, *notes = capsys.readouterr().out.splitlines()
    assert (first, second) == (str(make(model).path), str(other))
    assert [note.split(" because")[0] for note in notes] == ["note: other.onnx: half precision is not used,"]
    assert main(["convert", str(model.with_name("no.onnx"))]) != 0
    assert "no.onnx" in capsys.readouterr().err
