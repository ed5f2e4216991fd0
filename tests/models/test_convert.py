"""Converted models: any batch, half precision, what is kept and what is refused."""

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
from onnx import TensorProto, helper, numpy_helper

from colab_helpers.__main__ import main
from colab_helpers.demo.standins import enhancer, load_weights
from colab_helpers.demo.standins import swapper as standin_swapper
from colab_helpers.errors import ModelError, OutputError
from colab_helpers.models import convert
from colab_helpers.models.conversions import Conversion, Limits, Parity, place_of
from colab_helpers.models.convert import NEARLY_SAME, SAME, Prepared, compare, prepared, sample_inputs
from colab_helpers.models.emap import emap_path
from colab_helpers.models.session import Network, Runtime
from tests.models.graphs import half_graph, net, small_inswapper

CPU = Runtime("cpu", threads=1)
PLACE = place_of(CPU)
ROOT = Path(__file__).resolve().parents[2]
GOOD = Parity(mean=0.001, max=0.01, spread=30.0, samples=2, limits=SAME)


def save(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


@pytest.fixture
def swapper(tmp_path: Path) -> Path:
    return save(small_inswapper(), tmp_path / "inswapper_128.onnx")


def record_of(result: Prepared, index: int = -1) -> Conversion:
    return Conversion.model_validate_json(result.records[index].read_bytes())


def make(path: Path, *, batch: bool = True, half: bool = False, runtime: Runtime = CPU) -> Prepared:
    return prepared(path, batch=batch, half=half, runtime=runtime)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was made and checked, in order."""
    calls: list[str] = []
    for name in ("make", "check"):
        original = getattr(convert._Graph, name)

        def watched(step: convert._Graph, source: Path, target: Path, name: str = name, run=original):  # type: ignore[no-untyped-def]
            calls.append(f"{name} {step.kind}")
            return run(step, source, target)

        monkeypatch.setattr(convert._Graph, name, watched)
    return calls


# --- accepted -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [small_inswapper, lambda: standin_swapper(load_weights())])
def test_any_batch(tmp_path: Path, build: Callable[[], onnx.ModelProto]) -> None:
    path = save(build(), tmp_path / "inswapper_128.onnx")
    result = make(path)
    assert (result.any_batch, result.half, result.notes) == (True, False, ())
    assert result.path.parent == tmp_path / "converted"
    reference, network = CPU.open(path), CPU.open(result.path)
    assert (reference.fixed_batch, network.fixed_batch) == (1, None)
    for count in (1, 4, 5):
        inputs = sample_inputs(network, count, seed=count)
        together = network.run(*inputs)[0]
        alone = [reference.run(*(value[i : i + 1] for value in inputs))[0] for i in range(count)]
        assert np.abs(together - np.concatenate(alone)).max() < 1e-5
    parity = record_of(result).verdicts[PLACE].parity
    assert parity is not None
    assert parity.max < 0.01
    assert parity.spread > 5
    emap = numpy_helper.to_array(onnx.load(path).graph.initializer[-1])
    assert result.emap == emap_path(result.path)
    for place in (result.emap, emap_path(path)):
        np.testing.assert_array_equal(np.load(place), emap)


def test_half(swapper: Path) -> None:
    result = make(swapper, half=True)
    assert (result.any_batch, result.half, result.notes) == (True, True, ())
    assert [record_of(result, i).kind for i in (0, 1)] == ["batch", "half"]
    parity = record_of(result).verdicts[PLACE].parity
    assert parity is not None
    assert parity.limits == NEARLY_SAME
    assert 0.001 < parity.mean < 0.2  # half precision it is, and good
    assert parity.max < 1.0
    reference, network = CPU.open(swapper), CPU.open(result.path)
    inputs = sample_inputs(network, 4, seed=9)
    difference = 255 * np.abs(network.run(*inputs)[0] - reference.run_stack(*inputs))
    assert difference.max() < 1.0
    assert result.path.stat().st_size < 0.8 * swapper.stat().st_size  # the matrix stays as it is
    assert result.emap == emap_path(result.path)


def test_half_without_batch(swapper: Path) -> None:
    result = make(swapper, batch=False, half=True)
    assert (result.any_batch, result.half) == (False, True)
    assert CPU.open(result.path).fixed_batch == 1


def test_nothing_asked_for(swapper: Path, made: list[str]) -> None:
    result = make(swapper, batch=False)
    assert result == Prepared(swapper, emap_path(swapper), False, False, (), ())
    assert made == []


def test_enhancer(tmp_path: Path) -> None:
    path = save(enhancer(), tmp_path / "GFPGANv1.4.onnx")
    result = make(path, half=True)
    assert (result.any_batch, result.half, result.emap, result.notes) == (True, True, None, ())


def test_enhancer_with_a_matrix_of_that_size_is_no_swapper(tmp_path: Path) -> None:
    model = net("dynamic")
    model.graph.initializer.append(numpy_helper.from_array(np.eye(512, dtype=np.float32), "style"))
    assert make(save(model, tmp_path / "net.onnx")).emap is None
    assert list(tmp_path.rglob("*.npy")) == []


def test_batch_of_any_size_already(tmp_path: Path, made: list[str]) -> None:
    path = save(net("dynamic"), tmp_path / "net.onnx")
    result = make(path)
    assert (result.path, result.any_batch, result.notes) == (path, True, ())
    assert record_of(result).verdicts[PLACE].outcome == "needless"
    assert make(path) == result
    assert made == ["make batch"]


def test_half_already(swapper: Path) -> None:
    path = make(swapper, half=True).path
    again = make(path, half=True)
    assert (again.path, again.any_batch, again.half, again.notes) == (path, True, True, ())
    assert record_of(again).verdicts[PLACE].outcome == "needless"


# --- refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("mixing", "differs by"),
        ("grouped", "does not run"),
        ("constant", "proves nothing"),
        ("four", "insists on batches of 4"),
    ],
)
def test_batch_refused(tmp_path: Path, made: list[str], kind: str, reason: str) -> None:
    path = save(net(kind), tmp_path / "net.onnx")
    result = make(path)
    assert (result.path, result.any_batch) == (path, False)
    [note] = result.notes
    assert note.startswith("net.onnx: a batch axis of any size is not used, because")
    assert reason in note
    verdict = record_of(result).verdicts[PLACE]
    assert verdict.outcome == "refused"
    assert verdict.reason in note
    assert "What to do" not in note
    assert list((tmp_path / "converted").glob("net-*")) == [result.records[0]]
    before = list(made)
    assert make(path) == result
    assert made == before


def test_half_refused(tmp_path: Path) -> None:
    path = save(half_graph("overflowing"), tmp_path / "net.onnx")
    result = make(path, half=True)
    assert (result.any_batch, result.half) == (True, False)
    assert "net-batch-" in result.path.name
    [note] = result.notes
    assert note.startswith("net.onnx: half precision is not used, because the output differs by")
    parity = record_of(result).verdicts[PLACE].parity
    assert parity is not None
    assert not parity.max <= NEARLY_SAME.max


def test_half_with_subgraphs_is_refused(tmp_path: Path) -> None:
    result = make(save(half_graph("branching"), tmp_path / "net.onnx"), batch=False, half=True)
    assert not result.half
    assert "subgraphs" in result.notes[0]


# --- kept ---------------------------------------------------------------------------------------------


def test_second_call_does_no_work(swapper: Path, made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    result = make(swapper, half=True)
    assert made == ["make batch", "check batch", "make half", "check half"]

    def never(*_: object) -> None:
        raise AssertionError("read a model")

    for name in ("load_model", "sha256_of", "read_emap"):
        monkeypatch.setattr(convert, name, never)
    assert make(swapper, half=True) == result
    assert len(made) == 4


def test_name_and_record(swapper: Path) -> None:
    result = make(swapper)
    record = record_of(result)
    assert record.source == "inswapper_128.onnx"
    assert record.source_sha256 == convert.sha256_of(swapper)
    assert record.sha256 == convert.sha256_of(result.path)
    assert record.bytes == result.path.stat().st_size
    assert record.converter == convert.CONVERTER
    assert result.records == (result.path.with_name(result.path.name + ".json"),)
    assert json.loads(result.records[0].read_text())["verdicts"][PLACE]["parity"]["limits"] == {
        "mean": 0.1,
        "max": 1.0,
    }


def test_newer_converter_starts_anew(swapper: Path, made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    old = make(swapper)
    monkeypatch.setattr(convert, "CONVERTER", convert.CONVERTER + 1)
    new = make(swapper)
    assert old.path != new.path
    assert made == ["make batch", "check batch"] * 2
    assert not old.path.exists()
    assert not old.records[0].exists()


def test_changed_model_is_converted_anew(swapper: Path) -> None:
    old = make(swapper)
    save(small_inswapper(5), swapper)
    new = make(swapper)
    assert old.path != new.path
    assert not old.path.exists()
    assert new.emap is not None
    assert old.emap is not None
    assert not old.emap.exists()
    np.testing.assert_array_equal(
        np.load(new.emap), numpy_helper.to_array(small_inswapper(5).graph.initializer[-1])
    )
    inputs = sample_inputs(CPU.open(swapper))
    np.testing.assert_allclose(
        CPU.open(new.path).run(*inputs)[0], CPU.open(swapper).run_stack(*inputs), atol=1e-5
    )


def test_other_place_checks_the_same_file(
    swapper: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = make(swapper)
    monkeypatch.setattr(convert, "place_of", lambda _: "cuda, Tesla T4, onnxruntime 1.26")
    there = make(swapper)
    assert there == here
    assert made == ["make batch", "check batch", "check batch"]
    assert set(record_of(there).verdicts) == {PLACE, "cuda, Tesla T4, onnxruntime 1.26"}


def test_damaged_result_is_made_anew(swapper: Path, made: list[str]) -> None:
    result = make(swapper)
    good, found = result.path.read_bytes(), result.path.stat()
    result.path.write_bytes(good[:1000])
    os.utime(result.path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert make(swapper).path == result.path
    assert result.path.read_bytes() == good
    result.path.unlink()
    assert make(swapper).path.read_bytes() == good
    assert made == ["make batch", "check batch"] * 3


def test_touched_result_is_hashed_and_used(swapper: Path, made: list[str]) -> None:
    result = make(swapper)
    os.utime(result.path, ns=(1, 1))
    assert make(swapper).path == result.path
    assert made == ["make batch", "check batch"]
    changed = bytearray(result.path.read_bytes())
    changed[-40] ^= 1
    result.path.write_bytes(changed)
    make(swapper)
    assert made == ["make batch", "check batch"] * 2


def test_interrupted_conversion_leaves_nothing(swapper: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> Parity:
        raise KeyboardInterrupt

    (swapper.parent / "converted").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(convert._Graph, "check", interrupt)
        with pytest.raises(KeyboardInterrupt):
            make(swapper)
    assert list((swapper.parent / "converted").glob("*batch*")) == []
    assert make(swapper).any_batch


def test_rest_of_a_killed_process_does_not_matter(swapper: Path) -> None:
    result = make(swapper)
    good = result.path.read_bytes()
    for path in (result.path, *result.records):
        path.unlink()
    rest = result.path.with_name(result.path.name + ".part")
    rest.write_bytes(good[:5000])
    assert make(swapper).path.read_bytes() == good
    assert not rest.exists()


SCRIPT = """
import sys
from pathlib import Path
from colab_helpers.models import convert
from colab_helpers.models.session import Runtime

make = convert._Graph.make
def watched(*arguments):
    print("made", flush=True)
    make(*arguments)
convert._Graph.make = watched
print("ready", flush=True)
sys.stdin.readline()
runtime = Runtime("cpu", threads=1)
print(convert.prepared(Path(sys.argv[1]), batch=True, half=False, runtime=runtime).path.name)
"""


def test_two_processes_convert_once(swapper: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(swapper)],
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
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=300)[0].split() for process in processes]
    assert sum(output.count("made") for output in outputs) == 1
    assert outputs[0][-1] == outputs[1][-1] == make(swapper).path.name


# --- errors -------------------------------------------------------------------------------------------


def test_missing_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="missing"):
        make(tmp_path / "no.onnx")


@pytest.mark.parametrize("content", [b"no model at all" * 10, b"\x08\x0a", b""])
def test_not_a_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"net\.onnx"):
        make(path)


def test_neither_swapper_nor_enhancer(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="neither pictures nor vectors"):
        make(save(net("rank 3"), tmp_path / "net.onnx"))


def test_unwritable_cache(swapper: Path) -> None:
    (swapper.parent / "converted").write_text("a file where a folder should be")
    with pytest.raises(OutputError, match="converted"):
        make(swapper)


def test_memory_shortage_is_no_verdict(swapper: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: object) -> None:
        raise RuntimeError("Failed to allocate memory for requested buffer of size 12345")

    with monkeypatch.context() as patch:
        patch.setattr(convert._Graph, "_outputs", short)
        with pytest.raises(ModelError, match="memory ran out"):
            make(swapper)
    assert make(swapper).any_batch


def test_matrix_that_cannot_be_saved_beside_the_model(swapper: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = convert.save_emap

    def refuse(path: Path, emap: np.ndarray) -> Path:
        if path == swapper:
            raise OSError(30, "Read-only file system")
        return original(path, emap)

    monkeypatch.setattr(convert, "save_emap", refuse)
    result = make(swapper)
    assert "Read-only" in result.notes[0]
    assert result.emap == emap_path(result.path)
    assert result.emap.is_file()


# --- comparing ----------------------------------------------------------------------------------------


def test_compare() -> None:
    reference = np.random.default_rng(0).random((3, 3, 16, 16), np.float32)
    same = compare(reference, reference, SAME, value_range=1)
    assert (same.mean, same.max, same.problem) == (0, 0, "")
    assert same.spread == pytest.approx(255 / 3, rel=0.1)
    off = compare(reference, reference + np.float32(2 / 255), SAME, value_range=1)
    assert off.mean == pytest.approx(2, rel=1e-3)
    assert "2 grey levels on average" in off.problem
    assert not compare(
        reference, reference + np.float32(2 / 255), Limits(mean=3, max=3), value_range=1
    ).problem
    assert compare(reference, reference[::-1].copy(), Limits(mean=255, max=255), value_range=1).problem
    assert compare(reference, reference * np.float32(np.nan), SAME, value_range=1).problem
    assert compare(reference, reference[:1], SAME, value_range=1).problem
    peak = reference.copy()
    peak[0, 0, 0, 0] += 2 / 255
    assert "2 at most" in compare(reference, peak, SAME, value_range=1).problem
    assert compare(reference, peak, SAME, value_range=2).problem == ""


def test_parity_that_is_no_number_is_recorded() -> None:
    parity = Parity(mean=float("nan"), max=float("inf"), spread=1, samples=2, limits=SAME)
    verdict = convert.Verdict(outcome="refused", reason=parity.problem, parity=parity, checked_at="now")
    again = convert.Verdict.model_validate_json(json.dumps(verdict.model_dump()))
    assert again.parity is not None
    assert np.isnan(again.parity.mean)
    assert np.isinf(again.parity.max)


def test_sample_inputs(swapper: Path) -> None:
    def ranges(network: Network) -> list[tuple[float, float]]:
        return [(float(value.min()), float(value.max())) for value in sample_inputs(network)]

    pictures, latents = sample_inputs(CPU.open(swapper))
    assert (pictures.shape, pictures.dtype) == ((3, 3, 128, 128), np.float32)
    assert ranges(CPU.open(swapper))[0] == (0, 1)
    np.testing.assert_allclose(np.linalg.norm(latents, axis=1), 1, rtol=1e-6)
    assert ranges(CPU.open(save(enhancer(), swapper.with_name("e.onnx")))) == [(-1, 1)]


# --- GFPGAN's weights, without torch --------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "GFPGANv1.4.pth"
    path.write_bytes(b"weights")
    return path


def fake_export(parity: Parity, calls: list[Path]) -> Callable[..., Parity]:
    def export(source: Path, out: Path, _: object = None) -> Parity:
        calls.append(source)
        onnx.save(net("dynamic"), out)
        return parity

    return export


def test_weights_are_exported_once(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []
    monkeypatch.setattr(convert, "_export", fake_export(GOOD, calls))
    result = make(weights, half=True)
    assert (result.any_batch, result.half, result.emap, result.notes) == (True, True, None, ())
    assert record_of(result, 0).verdicts == {
        "torch": convert.Verdict(
            outcome="accepted", parity=GOOD, checked_at=record_of(result, 0).verdicts["torch"].checked_at
        )
    }
    assert make(weights, half=True) == result
    assert calls == [weights]


def test_wrong_export_is_an_error(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []
    monkeypatch.setattr(convert, "_export", fake_export(GOOD.model_copy(update={"max": 7.0}), calls))
    for _ in range(2):
        with pytest.raises(ModelError, match="7 at most"):
            make(weights)
    assert calls == [weights]
    assert list((weights.parent / "converted").glob("*.onnx")) == []
    with pytest.raises(ModelError, match="7 at most"):
        convert.gfpgan_to_onnx(weights, weights.with_suffix(".onnx"))
    assert sorted(path.name for path in weights.parent.iterdir()) == ["GFPGANv1.4.pth", "converted"]


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
    monkeypatch.setattr(convert.importlib.util, "find_spec", lambda name: object() if name in there else None)
    with pytest.raises(ModelError) as caught:
        make(weights)
    assert f"run {command}, or" in str(caught.value)
    assert list((weights.parent / "converted").glob("*.onnx*")) == []


# --- command line -------------------------------------------------------------------------------------


def test_command(swapper: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixing = save(net("mixing"), swapper.with_name("mixing.onnx"))
    command = ["convert", str(swapper), str(mixing), "--half", "--execution-provider", "cpu"]
    assert main(command) == 0
    first, second, *notes = capsys.readouterr().out.splitlines()
    assert first == str(make(swapper, half=True).path)
    assert second == str(make(mixing, half=True).path)
    assert [note.split(" because")[0] for note in notes] == [
        "note: mixing.onnx: a batch axis of any size is not used,"
    ]
    assert main(["convert", str(swapper.with_name("no.onnx"))]) == 1
    assert "no.onnx" in capsys.readouterr().err


def test_types_are_those_of_the_contract(swapper: Path) -> None:
    graph = onnx.load(make(swapper, half=True).path).graph
    kinds = {item.name: item.type.tensor_type.elem_type for item in (*graph.input, *graph.output)}
    assert kinds == dict.fromkeys(("target", "source", "output"), TensorProto.FLOAT)
    assert helper.tensor_dtype_to_np_dtype(graph.initializer[-1].data_type) == np.float32
