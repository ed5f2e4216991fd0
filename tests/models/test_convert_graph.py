"""Rewritten graphs: what becomes symbolic, what becomes half, and what must not."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from colab_helpers.demo.standins import load_weights
from colab_helpers.demo.standins import swapper as standin_swapper
from colab_helpers.errors import ModelError
from colab_helpers.models import convert_graph
from colab_helpers.models.convert_graph import (
    KEPT_OPERATORS,
    computes_in_half,
    dynamic_batch,
    takes_any_batch,
    to_half,
)
from tests.models.graphs import SIZE, build, net, node, random, small_inswapper

SWAPPERS = {"real shapes": small_inswapper, "stand-in": lambda: standin_swapper(load_weights())}
PICTURE = (1, 3, SIZE, SIZE)


def run(model: onnx.ModelProto, *values: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = dict(zip([item.name for item in session.get_inputs()], values, strict=True))
    return np.asarray(session.run(None, feed)[0])


def run_truly(model: onnx.ModelProto, picture: np.ndarray) -> np.ndarray:
    """Run with numpy's float16: ONNX Runtime may compute in float32 on a CPU."""
    return np.asarray(ReferenceEvaluator(model).run(None, {"input": picture})[0])


def assert_batch_is_free(model: onnx.ModelProto, count: int = 3) -> onnx.ModelProto:
    """Run batch 1 and any batch on the same samples."""
    free = dynamic_batch(model)
    onnx.checker.check_model(free, full_check=True)
    pictures = random(
        count, *(item.dim_value for item in model.graph.input[0].type.tensor_type.shape.dim[1:4])
    )
    alone = np.concatenate([run(model, pictures[i : i + 1]) for i in range(count)])
    np.testing.assert_allclose(run(free, pictures), alone, atol=1e-6)
    return free


def dims(value: onnx.ValueInfoProto) -> list[Any]:
    return [item.dim_param or item.dim_value for item in value.type.tensor_type.shape.dim]


# --- any batch ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SWAPPERS)
def test_swapper_takes_any_batch(name: str) -> None:
    model = onnx.shape_inference.infer_shapes(SWAPPERS[name]())
    before = model.SerializeToString(deterministic=True)
    free = dynamic_batch(model)
    assert model.SerializeToString(deterministic=True) == before
    assert not takes_any_batch(model)
    assert takes_any_batch(free)
    assert [dims(item) for item in free.graph.input] == [["N", 3, 128, 128], ["N", 512]]
    assert dims(free.graph.output[0]) == ["N", 3, 128, 128]
    inferred = onnx.shape_inference.infer_shapes(free, strict_mode=True, data_prop=True)
    leading = {dims(item)[0] for item in inferred.graph.value_info if len(dims(item)) == 4}
    assert "N" in leading
    assert 1 not in leading
    assert [item.name for item in free.graph.initializer] == [item.name for item in model.graph.initializer]
    assert free.graph.initializer[-1].name == "buff2fs"
    assert [(item.key, item.value) for item in free.metadata_props] == [
        (item.key, item.value) for item in model.metadata_props
    ]


@pytest.mark.parametrize("shape", [[1, -1], [1, 3 * SIZE * SIZE], [1, 3, -1], [1, 3, SIZE // 2, -1]])
@pytest.mark.parametrize("constant", ["initializer", "node", "node of ints"])
def test_reshape(shape: list[int], constant: str) -> None:
    value = np.array(shape, np.int64)
    nodes = [node("Relu", "input", "x"), node("Reshape", "x shape", "y"), node("Reshape", "y back", "output")]
    weights = {"back": np.array(PICTURE, np.int64)}
    if constant == "initializer":
        weights["shape"] = value
    elif constant == "node":
        nodes.insert(0, helper.make_node("Constant", [], ["shape"], value=numpy_helper.from_array(value)))
    else:
        nodes.insert(0, helper.make_node("Constant", [], ["shape"], value_ints=shape))
    assert_batch_is_free(build(nodes, PICTURE, weights=weights))


def test_reshape_where_zero_means_zero() -> None:
    nodes = [node("Reshape", "input shape", "y", allowzero=1), node("Reshape", "y back", "output")]
    weights = {"back": np.array(PICTURE), "shape": np.array([1, -1])}
    assert_batch_is_free(build(nodes, PICTURE, weights=weights))


def test_weights_keep_their_leading_one() -> None:
    """One shape for a picture, which has a batch, and for a weight, which has none."""
    nodes = [
        node("Reshape", "w shape", "gain"),
        node("Reshape", "input shape", "x"),
        node("Mul", "x gain", "y"),
        node("Reshape", "y back", "output"),
    ]
    weights = {
        "w": random(3 * SIZE * SIZE),
        "shape": np.array([1, 3, SIZE * SIZE]),
        "back": np.array(PICTURE),
    }
    free = assert_batch_is_free(build(nodes, PICTURE, weights=weights))
    shapes = {item.name: numpy_helper.to_array(item).tolist() for item in free.graph.initializer[1:]}
    assert shapes == {"shape": [1, 3, SIZE * SIZE], "back": list(PICTURE)}


def test_shape_of_weights_alone_stays() -> None:
    nodes = [node("Reshape", "w column", "gain"), node("Mul", "input gain", "output")]
    weights = {"w": random(3) + np.float32(2), "column": np.array([1, -1, 1, 1])}
    free = assert_batch_is_free(build(nodes, PICTURE, weights=weights))
    assert [each.op_type for each in free.graph.node] == ["Reshape", "Mul"]


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize_to_sizes(mode: str) -> None:
    nodes = [node("Resize", "input - - sizes", "output", mode=mode)]
    weights = {"sizes": np.array([1, 3, 2 * SIZE, 3 * SIZE])}
    free = assert_batch_is_free(build(nodes, PICTURE, weights=weights, out=(1, 3, 2 * SIZE, 3 * SIZE)))
    assert len(free.graph.node[-1].input) == 3


def test_shape_taken_from_the_input_stays() -> None:
    nodes = [
        node("Shape", "input", "shape"),
        node("Relu", "input", "x"),
        node("Reshape", "x shape", "output"),
    ]
    assert_batch_is_free(build(nodes, PICTURE))


def test_initializers_listed_as_inputs() -> None:
    """Files of old IR versions list weights among the inputs; their leading 1 is no batch."""
    model = build([node("Mul", "input gain", "output")], PICTURE, weights={"gain": random(1, 3, 1, 1)})
    model.graph.input.append(helper.make_tensor_value_info("gain", TensorProto.FLOAT, [1, 3, 1, 1]))
    free = dynamic_batch(model)
    assert [dims(item)[0] for item in free.graph.input] == ["N", 1]


def test_batch_of_four_is_refused() -> None:
    with pytest.raises(ModelError, match="batches of 4"):
        dynamic_batch(net("four"))


# --- half precision -----------------------------------------------------------------------------------


def types(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    found = {item.name: item.type.tensor_type.elem_type for item in values}
    return found | {item.name: item.data_type for item in inferred.initializer}


@pytest.mark.parametrize("name", SWAPPERS)
def test_what_becomes_half(name: str) -> None:
    model = SWAPPERS[name]()
    half = to_half(dynamic_batch(model))
    onnx.checker.check_model(half, full_check=True)
    kinds = types(half)
    by_kind = {
        kind: [n for n in half.graph.node if n.op_type == kind]
        for kind in {n.op_type for n in half.graph.node}
    }
    for conv in by_kind["Conv"]:
        assert {kinds[item] for item in (*conv.input, *conv.output)} == {TensorProto.FLOAT16}
    kept = [n for kind in KEPT_OPERATORS for n in by_kind.get(kind, [])]
    assert len(kept) > 5
    for item in kept:
        assert kinds[item.input[0]] == kinds[item.output[0]] == TensorProto.FLOAT
    for item in (*half.graph.input, *half.graph.output):
        assert kinds[item.name] == TensorProto.FLOAT
    last = half.graph.initializer[-1]
    np.testing.assert_array_equal(
        numpy_helper.to_array(last), numpy_helper.to_array(model.graph.initializer[-1])
    )
    assert last.name == "buff2fs"
    assert kinds["buff2fs"] == TensorProto.FLOAT


@pytest.mark.parametrize("name", SWAPPERS)
def test_neighbours_hand_on_full_precision(name: str) -> None:
    graph = to_half(dynamic_batch(SWAPPERS[name]())).graph
    outputs = [item for each in graph.node for item in each.output]
    assert len(outputs) == len(set(outputs))
    makers = {each.output[0]: each for each in graph.node}
    casts = [each for each in graph.node if each.op_type == "Cast"]
    assert casts
    assert {makers[each.input[0]].op_type for each in casts if each.input[0] in makers}.isdisjoint({"Cast"})
    squares = [each for each in graph.node if each.op_type == "Mul" and each.input[0] == each.input[1]]
    kinds = types(to_half(dynamic_batch(SWAPPERS[name]())))
    assert squares
    assert {kinds[each.output[0]] for each in squares} == {TensorProto.FLOAT}


def adain_net(*, eps: float, constant_node: bool) -> onnx.ModelProto:
    """Centre and scale each map, as inswapper does."""
    nodes = [
        node("Conv", "input w", "x", pads=[1] * 4),
        node("ReduceMean", "x", "mean", axes=[2, 3]),
        node("Sub", "x mean", "centred"),
        node("Mul", "centred centred", "square"),
        node("ReduceMean", "square", "variance", axes=[2, 3]),
        node("Add", "variance eps", "safe"),
        node("Sqrt", "safe", "deviation"),
        node("Div", "centred deviation", "normed"),
        node("Mul", "normed gain", "output"),
    ]
    weights = {"w": random(3, 3, 3, 3), "gain": np.float32(0.1)}
    if constant_node:
        tensor = numpy_helper.from_array(np.array(eps, np.float32))
        nodes.insert(0, helper.make_node("Constant", [], ["eps"], value=tensor))
    else:
        weights["eps"] = np.float32(eps)
    return build(nodes, PICTURE, weights=weights)


@pytest.mark.parametrize("constant_node", [False, True])
@pytest.mark.parametrize("scale", [3e-5, 1.0, 3000.0])
def test_normalisation_survives_large_and_small_values(
    scale: float, constant_node: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Squares over 65504 overflow in half precision, and those under 6e-8 vanish."""
    model = adain_net(eps=1e-9, constant_node=constant_node)
    picture = random(*PICTURE) * np.float32(scale * SIZE)
    expected = run(model, picture)
    assert np.abs(run(to_half(model), picture) - expected).max() < 2e-3
    assert np.abs(run_truly(to_half(model), picture) - expected).max() < 2e-3
    if scale == 1.0:
        return
    # The same without keeping anything, to show that these values do matter.
    monkeypatch.setattr(convert_graph, "KEPT_OPERATORS", frozenset())
    with np.errstate(all="ignore"):
        assert not np.abs(run_truly(to_half(model), picture) - expected).max() < 2e-2


def test_resize_factors_stay() -> None:
    nodes = [
        node("Conv", "input w", "x", pads=[1] * 4),
        node("Resize", "x - factors", "output", mode="linear"),
    ]
    weights = {"w": random(3, 3, 3, 3), "factors": np.array([1, 1, 2, 2], np.float32)}
    model = build(nodes, PICTURE, weights=weights, out=(1, 3, 2 * SIZE, 2 * SIZE))
    picture = random(*PICTURE)
    np.testing.assert_allclose(run(to_half(model), picture), run(model, picture), atol=1e-3)


def test_weight_shared_by_kept_and_half() -> None:
    nodes = [
        node("Conv", "input w", "x", pads=[1] * 4),
        node("Mul", "x gain", "y"),
        node("Div", "y gain", "z"),
        node("Add", "z gain", "output"),
    ]
    model = build(
        nodes, PICTURE, weights={"w": random(3, 3, 3, 3), "gain": random(1, 3, 1, 1) + np.float32(2)}
    )
    picture = random(*PICTURE)
    np.testing.assert_allclose(run(to_half(model), picture), run(model, picture), atol=5e-3)


def test_node_names_may_be_missing_or_equal() -> None:
    model = small_inswapper()
    for each in model.graph.node:
        each.name = ""
    onnx.checker.check_model(to_half(model), full_check=True)


def test_weights_listed_as_inputs_become_half() -> None:
    model = build(
        [node("Conv", "input w", "output", pads=[1] * 4)], PICTURE, weights={"w": random(3, 3, 3, 3)}
    )
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 3, 3, 3]))
    model.ir_version = 3
    half = to_half(model)
    onnx.checker.check_model(half, full_check=True)
    assert [item.name for item in half.graph.input] == ["input"]
    assert half.graph.initializer[0].data_type == TensorProto.FLOAT16


def test_half_already() -> None:
    half = to_half(adain_net(eps=1e-9, constant_node=False))
    assert computes_in_half(half)
    with pytest.raises(ModelError, match="already"):
        to_half(half)


def test_matrix_in_half_precision_counts_for_nothing() -> None:
    model = small_inswapper()
    model.graph.initializer[-1].CopyFrom(numpy_helper.from_array(np.eye(512, dtype=np.float16), "buff2fs"))
    assert not computes_in_half(model)
    assert computes_in_half(to_half(model))


def test_cast_of_the_model_itself() -> None:
    """A cast to float32 that feeds normalisation stays one."""
    nodes = [
        node("Conv", "input w", "x", pads=[1] * 4),
        node("Cast", "x", "pinned", to=TensorProto.FLOAT),
        node("ReduceMean", "pinned", "mean", axes=[2, 3]),
        node("Add", "x mean", "output"),
    ]
    half = to_half(build(nodes, PICTURE, weights={"w": random(3, 3, 3, 3)}))
    onnx.checker.check_model(half, full_check=True)
    [mean] = [each for each in half.graph.node if each.op_type == "ReduceMean"]
    assert types(half)[mean.input[0]] == TensorProto.FLOAT


def test_import_leaves_the_path_alone() -> None:
    before = list(sys.path)
    to_half(net("dynamic"))
    assert sys.path == before


@pytest.mark.parametrize("kind", ["Sqrt", "Div"])
def test_nothing_to_convert(kind: str) -> None:
    inputs = "input input" if kind == "Div" else "input"
    with pytest.raises(ModelError, match="no operator"):
        to_half(build([node(kind, inputs, "output")], PICTURE))
