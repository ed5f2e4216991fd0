"""Rewriting ONNX graphs: a batch axis of any size, and half precision.

Neither rewriting can know whether a graph still computes the same afterwards; ``models.convert`` measures it.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from graphlib import TopologicalSorter
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from colab_helpers.errors import ModelError
from colab_helpers.language import tr

BATCH_AXIS = "N"

# --- any batch ----------------------------------------------------------------------------------------


def takes_any_batch(model: onnx.ModelProto) -> bool:
    """Whether no input insists on a batch size."""
    return not any(_leading(item) for item in fed_inputs(model.graph))


def dynamic_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a batch-1 model whose first axis is symbolic.

    Inputs and outputs get the axis ``N``. Shapes with a leading 1 that are baked into ``Reshape`` are
    freed, ``Resize`` to fixed sizes becomes ``Resize`` by factors. Initializers stay as they are and
    where they are: insightface takes inswapper's last one for its projection matrix.

    Args:
        model: Every input that is no initializer has 1 as its first dimension, or a symbolic one.

    Raises:
        ModelError: An input insists on another batch than 1.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    for item in fed_inputs(graph):
        if _leading(item) not in (None, 1):
            raise ModelError(
                tr(
                    "the input {name!r} insists on batches of {size}, not of 1",
                    name=item.name,
                    size=_leading(item),
                ),
                where=graph.name,
                remedy=tr("use an export with a batch of 1 or of any size"),
            )
    known = _Shapes(model)
    for item in (*fed_inputs(graph), *graph.output):
        if _leading(item) == 1:
            item.type.tensor_type.shape.dim[0].dim_param = BATCH_AXIS
    nodes = [part for node in graph.node for part in _freed(node, known)]
    del graph.node[:]
    graph.node.extend(nodes)
    # Whether a 1 in there is the batch or a real 1 cannot be told; ONNX Runtime infers them anew.
    del graph.value_info[:]
    return changed


def fed_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs a caller has to feed: old files list initializers, too."""
    constants = {item.name for item in graph.initializer}
    return [item for item in graph.input if item.name not in constants]


def _leading(value: onnx.ValueInfoProto) -> int | None:
    """The first dimension; None if it is symbolic or there is none."""
    dims = value.type.tensor_type.shape.dim
    return dims[0].dim_value if dims and dims[0].HasField("dim_value") else None


class _Shapes:
    """What is known about the tensors of a batch-1 graph.

    Attributes:
        constants: Values of initializers and ``Constant`` nodes that may be shapes.
        fed: Names of the tensors that depend on an input: only they can have a batch.
        shapes: Dimensions of each tensor; None for one that is not known.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        small = _without_weights(model)
        graph = onnx.shape_inference.infer_shapes(small).graph
        self.shapes = {item.name: _dims(item) for item in (*graph.value_info, *graph.input, *graph.output)}
        self.constants = {
            item.name: numpy_helper.to_array(item)
            for item in model.graph.initializer
            if item.data_type == TensorProto.INT64
        }
        self.fed = {item.name for item in fed_inputs(model.graph)}
        for node in model.graph.node:
            if node.op_type == "Constant":
                self._note_constant(node)
            elif node.op_type != "Shape" and self.fed.intersection(node.input):
                self.fed.update(node.output)

    def _note_constant(self, node: onnx.NodeProto) -> None:
        for attribute in node.attribute:
            if attribute.name == "value" and attribute.t.data_type == TensorProto.INT64:
                self.constants[node.output[0]] = numpy_helper.to_array(attribute.t)
            elif attribute.name == "value_ints":
                self.constants[node.output[0]] = np.array(attribute.ints, np.int64)

    def vector(self, node: onnx.NodeProto, position: int) -> npt.NDArray[np.int64] | None:
        """A node's input where it is a constant list of whole numbers."""
        if len(node.input) <= position:
            return None
        value = self.constants.get(node.input[position])
        return None if value is None or value.ndim != 1 else np.asarray(value, np.int64)


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose float initializers are inputs: shape inference serialises what it is given, twice."""
    small = onnx.ModelProto()
    small.ir_version = model.ir_version
    small.opset_import.extend(model.opset_import)
    graph = small.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.output.extend(model.graph.output)
    graph.input.extend(fed_inputs(model.graph))
    for item in model.graph.initializer:
        if item.data_type == TensorProto.INT64:
            graph.initializer.append(item)
        else:
            graph.input.append(helper.make_tensor_value_info(item.name, item.data_type, list(item.dims)))
    return small


def _dims(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    return tuple(
        dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim
    )


def _freed(node: onnx.NodeProto, known: _Shapes) -> Iterator[onnx.NodeProto]:
    """A node without a baked batch of 1, after the constants it newly needs."""
    if node.input and node.input[0] in known.fed:
        if node.op_type == "Reshape":
            yield from _freed_reshape(node, known)
            return
        if node.op_type == "Resize":
            yield from _freed_resize(node, known)
            return
    yield node


def _freed_reshape(node: onnx.NodeProto, known: _Shapes) -> Iterator[onnx.NodeProto]:
    shape = known.vector(node, 1)
    if shape is not None and len(shape) and shape[0] == 1:
        shape = shape.copy()
        if -1 in shape[1:]:
            shape[0] = 0  # "as in the input"; with allowzero it would mean an empty axis
            kept = [item for item in node.attribute if item.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)
        else:
            shape[0] = -1
        yield _constant(f"{node.output[0]}_any_batch", shape)
        node.input[1] = f"{node.output[0]}_any_batch"
    yield node


def _freed_resize(node: onnx.NodeProto, known: _Shapes) -> Iterator[onnx.NodeProto]:
    sizes, before = known.vector(node, 3), known.shapes.get(node.input[0], ())
    if sizes is not None and len(sizes) == len(before) and sizes[0] == 1 and None not in before:
        factors = np.array([after / (old or 1) for after, old in zip(sizes, before, strict=True)], np.float32)
        yield _constant(f"{node.output[0]}_factors", factors)
        del node.input[3]
        node.input[2] = f"{node.output[0]}_factors"
    yield node


def _constant(name: str, value: npt.NDArray[Any]) -> onnx.NodeProto:
    """A constant as a node: an initializer would change which one is the last."""
    return helper.make_node("Constant", [], [name], name=name, value=numpy_helper.from_array(value, name))


# --- half precision -----------------------------------------------------------------------------------

KEPT_OPERATORS = frozenset(
    {
        *("InstanceNormalization", "LayerNormalization", "GroupNormalization", "LpNormalization"),
        *("BatchNormalization", "MeanVarianceNormalization", "Softmax"),
        *("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceProd"),
        *("Sqrt", "Pow", "Div", "Reciprocal", "Exp", "Log"),
    }
)
"""Operators that stay in float32: sums over thousands of pixels overflow, small variances vanish."""
_FEEDERS = frozenset({"Add", "Sub", "Mul", "Neg", "Abs", "Clip", "MatMul", "Gemm", "Cast", "Constant"})


def computes_in_half(model: onnx.ModelProto) -> bool:
    """Whether a model has float16 weights (a matrix that no node uses does not count)."""
    used = {name for node in model.graph.node for name in node.input}
    return any(
        item.data_type == TensorProto.FLOAT16 and item.name in used for item in model.graph.initializer
    )


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with float16 weights and arithmetic.

    Normalisation and reduction stay in float32 (``KEPT_OPERATORS``, and arithmetic that feeds nothing
    else: centring, squaring, the epsilon); so do inputs, outputs and unused initializers such as
    inswapper's projection matrix.

    Args:
        model: A float32 model without subgraphs.

    Raises:
        ModelError: It has subgraphs, float16 weights, or no node that could compute in half precision.
    """
    if computes_in_half(model):
        raise ModelError(
            tr("the network has float16 weights already"),
            where=model.graph.name,
            remedy=tr("use it as it is"),
        )
    if any(
        attribute.HasField("g") or attribute.graphs
        for node in model.graph.node
        for attribute in node.attribute
    ):
        raise ModelError(
            tr("the network has subgraphs, whose types cannot be followed"),
            where=model.graph.name,
            remedy=tr("use it in float32"),
        )
    convert, unsupported = _half_converter()
    named = onnx.ModelProto()
    named.CopyFrom(model)
    _unlist_weights(named)
    for index, node in enumerate(named.graph.node):
        node.name = f"{index}_{node.op_type}"  # kept nodes are told to the converter by name
    kept = _kept(named.graph, {*KEPT_OPERATORS, *unsupported})
    if len(kept) == len(named.graph.node):
        raise ModelError(
            tr("the network has no operator that could compute in half precision"),
            where=model.graph.name,
            remedy=tr("use it in float32"),
        )
    half: onnx.ModelProto = convert(
        named, keep_io_types=True, op_block_list=list(unsupported), node_block_list=sorted(kept)
    )
    _tidy(half.graph)
    del half.graph.value_info[:]
    return half


def _unlist_weights(model: onnx.ModelProto) -> None:
    """Take initializers out of the list of inputs, which the converter leaves in float32."""
    inputs = fed_inputs(model.graph)
    if len(inputs) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(inputs)
        model.ir_version = max(model.ir_version, 4)  # earlier versions insist on the list


def _half_converter() -> tuple[Any, Sequence[str]]:
    """ONNX Runtime's converter and the operators it knows to have no half variant."""
    before = list(sys.path)
    try:
        from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    finally:
        sys.path[:] = before  # the import adds a folder with modules called "benchmark" and the like
    return convert_float_to_float16, DEFAULT_OP_BLOCK_LIST


def _kept(graph: onnx.GraphProto, operators: Iterable[str]) -> set[str]:
    """Names of the nodes that stay in float32."""
    operators = set(operators)
    consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            consumers[name].append(node)
    outputs = {item.name for item in graph.output}
    kept: set[str] = set()
    for node in reversed(graph.node):  # sorted, so every consumer is decided before its producers
        fed = [consumer for name in node.output for consumer in consumers[name]]
        only_feeds_kept = bool(fed) and all(consumer.name in kept for consumer in fed)
        if node.op_type in operators or (
            node.op_type in _FEEDERS and only_feeds_kept and not outputs.intersection(node.output)
        ):
            kept.add(node.name)
    return kept


def _tidy(graph: onnx.GraphProto) -> None:
    """Make a valid graph of the converter's result, and let kept nodes hand on float32 directly.

    The converter writes a cast of the same name for each kept node that reads the same tensor, casts to
    half and back between neighbours, which loses what keeping them was to preserve, and appends its casts
    at the end.
    """
    nodes = list({tuple(node.output): node for node in graph.node}.values())
    makers = {name: node for node in nodes for name in node.output}
    for node in nodes:
        maker = makers.get(node.input[0]) if _is_cast(node) else None
        if maker is not None and _is_cast(maker):
            node.input[0] = maker.input[0]
    needed = {name for node in nodes for name in node.input} | {item.name for item in graph.output}
    live = [node for node in nodes if not _is_cast(node) or node.output[0] in needed]
    ordered = _sorted(live)
    del graph.node[:]
    graph.node.extend(ordered)


def _is_cast(node: onnx.NodeProto) -> bool:
    """Whether a node casts between float32 and float16."""
    floats = (TensorProto.FLOAT, TensorProto.FLOAT16)
    return node.op_type == "Cast" and any(item.name == "to" and item.i in floats for item in node.attribute)


def _sorted(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Producers before consumers."""
    makers = {name: index for index, node in enumerate(nodes) for name in node.output}
    needs = {
        index: {makers[name] for name in node.input if name in makers} for index, node in enumerate(nodes)
    }
    return [nodes[index] for index in TopologicalSorter(needs).static_order()]
