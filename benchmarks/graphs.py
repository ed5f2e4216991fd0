"""Networks that cost almost nothing, with the real contracts: what is left is the pipeline itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 17, 10
_STRIDES = (8, 16, 32)
_ANCHORS = 2
DETECTOR_OUTPUTS = ("448", "471", "494", "451", "474", "497", "454", "477", "500")
"""det_10g's output names: scores, boxes and points of the three strides."""
_WIDTHS = (1, 4, 10)
# The five points of a frontal face in its box, as shares of width and height.
_POINTS = np.array([[0.32, 0.40], [0.68, 0.40], [0.50, 0.58], [0.35, 0.76], [0.65, 0.76]])


CONTENT_FILE = "nsfw_2.onnx"


def write_constant_models(folder: Path, *, box: Sequence[float], detector_size: int = 640) -> Path:
    """Write models whose detector always answers one face, which nothing covers, and whose others copy.

    Args:
        folder: Where they go, laid out as ``--models-dir`` wants it.
        box: The face (xyxy) in pixels of the detector's picture.
        detector_size: Edge of the detector's picture.
    """
    (folder / "buffalo_l").mkdir(parents=True, exist_ok=True)
    _save(_detector(box, detector_size), folder / "buffalo_l" / "det_10g.onnx")
    _save(_recogniser(), folder / "buffalo_l" / "w600k_r50.onnx")
    _save(_swapper(), folder / "inswapper_128.onnx")
    _save(_enhancer(), folder / "GFPGANv1.4.onnx")
    _save(_occluder(), folder / "xseg_1.onnx")
    _save(content_graph(), folder / CONTENT_FILE)
    _save(attributes_graph(40.0), folder / "buffalo_l" / "genderage.onnx")
    return folder


def _save(graph: onnx.GraphProto, path: Path) -> None:
    model = helper.make_model(graph, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)])
    entry = model.metadata_props.add()
    entry.key, entry.value = "colab_helpers.standin", "true"
    onnx.save(model, path)


def detector_answers(box: Sequence[float], size: int) -> dict[str, npt.NDArray[np.float32]]:
    """What det_10g's outputs, by name, hold when there is one face (xyxy) in a picture of edge ``size``."""
    answers = {}
    for component, width in enumerate(_WIDTHS):
        for number, stride in enumerate(_STRIDES):
            cells = (size // stride) ** 2 * _ANCHORS
            values = np.zeros((cells, width), np.float32)
            if stride == _STRIDES[-1]:
                _place(values, np.asarray(box), stride, size // stride)
            answers[DETECTOR_OUTPUTS[component * 3 + number]] = values
    return answers


def answering(model: onnx.ModelProto, answers: Mapping[str, npt.NDArray[np.float32]]) -> onnx.ModelProto:
    """The same network at the same cost, whose outputs are these values whatever it computes.

    A detector of random weights finds faces anywhere; one that is to cost what the real one costs, in a run
    that is to change a known face, is made this way. Changes the model in place.
    """
    graph = model.graph
    for node in graph.node:
        for number, name in enumerate(node.output):
            if name in answers:
                node.output[number] = f"{name}_computed"
    graph.initializer.append(numpy_helper.from_array(np.zeros((), np.float32), "nothing"))
    for name, values in answers.items():
        graph.initializer.append(numpy_helper.from_array(values, f"{name}_answer"))
        graph.node.append(helper.make_node("Mul", [f"{name}_computed", "nothing"], [f"{name}_nothing"]))
        graph.node.append(helper.make_node("Add", [f"{name}_nothing", f"{name}_answer"], [name]))
    return model


def _detector(box: Sequence[float], size: int) -> onnx.GraphProto:
    answers = detector_answers(box, size)
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, values.shape[1]])
        for name, values in answers.items()
    ]
    picture = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, "?", "?"])
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(values, name))
        for name, values in answers.items()
    ]
    return helper.make_graph(nodes, "constant_detector", [picture], outputs)


def _place(values: npt.NDArray[np.float32], box: npt.NDArray[np.float64], stride: int, cells: int) -> None:
    """Fill in the one anchor nearest to the box's centre."""
    centre = (box[:2] + box[2:]) / 2
    column, row = (centre // stride).astype(int)
    anchor = np.array([column * stride, row * stride], np.float64)
    index = (row * cells + column) * _ANCHORS
    points = box[:2] + _POINTS * (box[2:] - box[:2])
    answers: dict[int, list[float]] = {
        1: [0.9],
        4: [*(anchor - box[:2]) / stride, *(box[2:] - anchor) / stride],
        10: ((points - anchor) / stride).ravel().tolist(),
    }
    values[index] = answers[values.shape[1]]


def _recogniser() -> onnx.GraphProto:
    feature = np.random.default_rng(0).normal(size=(1, 512)).astype(np.float32)
    return helper.make_graph(
        [helper.make_node("Constant", [], ["683"], value=numpy_helper.from_array(feature, "feature"))],
        "constant_recogniser",
        [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, ["None", 3, 112, 112])],
        [helper.make_tensor_value_info("683", TensorProto.FLOAT, [None, 512])],
    )


def _swapper() -> onnx.GraphProto:
    shape = [1, 3, 128, 128]
    return helper.make_graph(
        [helper.make_node("Identity", ["target"], ["output"])],
        "constant_swapper",
        [
            helper.make_tensor_value_info("target", TensorProto.FLOAT, shape),
            helper.make_tensor_value_info("source", TensorProto.FLOAT, [1, 512]),
        ],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.eye(512, dtype=np.float32), "buff2fs")],
    )


def _enhancer() -> onnx.GraphProto:
    shape = [1, 3, 512, 512]
    return helper.make_graph(
        [helper.make_node("Identity", ["input"], ["output"])],
        "constant_enhancer",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
    )


def _occluder() -> onnx.GraphProto:
    seen = np.ones((1, 256, 256, 1), np.float32)
    return helper.make_graph(
        [helper.make_node("Constant", [], ["output"], value=numpy_helper.from_array(seen, "seen"))],
        "constant_occluder",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 256, 256, 3])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 256, 256, 1])],
    )


def content_graph() -> onnx.GraphProto:
    """Marqo's contract; hits where plain magenta, which no camera sees, fills a fifth of the square.

    Of a share s of such pixels the outputs differ by 4 s - 0.5, so that 0.25 is exceeded from 0.1875 on.
    """
    numbers = {"limit": 1.6, "gain": 10.0, "less": 0.5, "none": np.zeros((1, 1))}
    initializers = [numpy_helper.from_array(np.asarray(v, np.float32), name) for name, v in numbers.items()]
    initializers.append(numpy_helper.from_array(np.ones(3, np.int64), "planes"))
    nodes = [
        helper.make_node("Split", ["input", "planes"], ["red", "green", "blue"], axis=1),
        helper.make_node("Min", ["red", "blue"], ["lower"]),
        helper.make_node("Sub", ["lower", "green"], ["magenta"]),
        helper.make_node("Sub", ["magenta", "limit"], ["above"]),
        helper.make_node("Relu", ["above"], ["plain"]),  # 0.4 where a pixel is
        helper.make_node("ReduceMean", ["plain"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Mul", ["mean", "gain"], ["share"]),
        helper.make_node("Sub", ["share", "less"], ["margin"]),
        helper.make_node("Concat", ["margin", "none"], ["output"], axis=1),
    ]
    return helper.make_graph(
        nodes,
        "content",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 384, 384])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 2])],
        initializers,
    )


def attributes_graph(years: float) -> onnx.GraphProto:
    """Genderage's contract; everybody is a woman of an age."""
    told = np.array([[1.0, 0.0, years / 100]], np.float32)
    return helper.make_graph(
        [helper.make_node("Constant", [], ["fc1"], value=numpy_helper.from_array(told, "told"))],
        "constant_attributes",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["None", 3, 96, 96])],
        [helper.make_tensor_value_info("fc1", TensorProto.FLOAT, [1, 3])],
    )
