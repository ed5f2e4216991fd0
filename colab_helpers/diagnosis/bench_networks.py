"""Networks with the real contracts that cost almost nothing, so that a benchmark measures the pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from colab_helpers.diagnosis.bench_clip import make_clip
from colab_helpers.models.model_conversion import CONVERTED_FOLDER
from colab_helpers.models.session import is_standin

FACE = 300 / 1080
"""Size of a synthetic face, relative to the picture's height."""
OPSET, IR_VERSION = 17, 10
_STRIDES = (8, 16, 32)
_ANCHORS = 2
DETECTOR_OUTPUTS = ("448", "471", "494", "451", "474", "497", "454", "477", "500")
"""det_10g's output names: scores, boxes and landmarks of the three strides."""
_WIDTHS = (1, 4, 10)
# The five landmarks of a frontal face, relative to its bounding box.
_LANDMARKS = np.array([[0.32, 0.40], [0.68, 0.40], [0.50, 0.58], [0.35, 0.76], [0.65, 0.76]])
Shape = Sequence[int | str | None]
Array = npt.NDArray[np.float32]


def make(folder: str, height: str, faces: str, seconds: str, models: str) -> None:
    """Make a case's clip, source photo and networks in a folder; use networks of ``models`` if not empty."""
    path, count = Path(folder), int(faces)
    make_clip(path / "clip.mp4", seconds=float(seconds), height=int(height))
    cv2.imwrite(str(path / "source.png"), np.full((512, 512, 3), 128, np.uint8))
    # The detector's picture is 640 x 360; the faces are side by side.
    half, centres = FACE * 180, [640 * (n + 1) / (count + 1) for n in range(count)]
    box = [side for x in centres for side in (x - half, 180 - half, x + half, 180 + half)]
    write_constant_models(path / "models", box=box)
    if models:
        link_networks(Path(models), path / "models")


def write_constant_models(folder: Path, *, box: Sequence[float]) -> Path:
    """Write a models folder in which swapper and enhancer copy their input and the others are constant.

    ``box`` has the bounding boxes of all faces (xyxy), concatenated, in pixels of the detector's picture.
    """
    crop, large = [1, 3, 128, 128], [1, 3, 512, 512]
    feature = np.random.default_rng(0).normal(size=(1, 512)).astype(np.float32)
    emap = numpy_helper.from_array(np.eye(512, dtype=np.float32), "buff2fs")
    unoccluded, adult = np.ones((1, 256, 256, 1), np.float32), np.array([[1, 0, 0.4]], np.float32)
    swapper = constant_graph({"target": crop, "source": [1, 512]}, {"output": "target"})
    swapper.initializer.append(emap)
    answers = detector_outputs(box, 640)
    graphs = {
        "buffalo_l/det_10g": constant_graph({"input.1": [1, 3, "?", "?"]}, answers),
        "buffalo_l/w600k_r50": constant_graph({"input.1": ["None", 3, 112, 112]}, {"683": feature}),
        "inswapper_128": swapper,
        "GFPGANv1.4": constant_graph({"input": large}, {"output": "input"}),
        "xseg_1": constant_graph({"input": ["batch", 256, 256, 3]}, {"output": unoccluded}),
        "nsfw_2": constant_graph({"input": [1, 3, 384, 384]}, {"output": np.zeros((1, 2), np.float32)}),
        "buffalo_l/genderage": constant_graph({"data": ["None", 3, 96, 96]}, {"fc1": adult}),
    }
    return write_networks(folder, graphs)


def write_networks(folder: Path, graphs: Mapping[str, onnx.GraphProto]) -> Path:
    """Write named networks, marked as stand-ins, into a models folder."""
    (folder / "buffalo_l").mkdir(parents=True, exist_ok=True)
    for name, graph in graphs.items():
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, ir_version=IR_VERSION, opset_imports=[opset])
        entry = model.metadata_props.add()
        entry.key, entry.value = "colab_helpers.standin", "true"
        onnx.save(model, folder / f"{name}.onnx")
    return folder


def link_networks(models: Path, folder: Path) -> None:
    """Replace the constant networks in ``folder`` by links to the networks in ``models``.

    Detectors and content classifiers are replaced only by stand-ins: real ones find nothing in made-up clips.
    """
    for path in folder.rglob("*.onnx"):
        other = models / path.relative_to(folder)
        if other.is_file() and (path.stem not in ("det_10g", "nsfw_2") or is_standin(other)):
            path.unlink()
            path.symlink_to(other)
    if (models / CONVERTED_FOLDER).is_dir():
        (folder / CONVERTED_FOLDER).symlink_to(models / CONVERTED_FOLDER)


def constant_graph(inputs: Mapping[str, Shape], outputs: Mapping[str, Any]) -> onnx.GraphProto:
    """Return a graph whose outputs are constant arrays, or copies of the inputs with these names."""
    nodes, results = [], []
    for name, value in outputs.items():
        shape: Shape = inputs[value] if isinstance(value, str) else [None, *value.shape[1:]]
        results.append(_tensor(name, shape))
        if isinstance(value, str):
            nodes.append(helper.make_node("Identity", [value], [name]))
        else:
            constant = numpy_helper.from_array(value, name)
            nodes.append(helper.make_node("Constant", [], [name], value=constant))
    return helper.make_graph(nodes, "constant", [_tensor(*item) for item in inputs.items()], results)


def _tensor(name: str, shape: Shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def detector_outputs(box: Sequence[float], size: int) -> dict[str, Array]:
    """Return det_10g's outputs by name for these boxes (xyxy) in a picture of edge ``size``."""
    outputs = {}
    for component, width in enumerate(_WIDTHS):
        for number, stride in enumerate(_STRIDES):
            values = np.zeros(((size // stride) ** 2 * _ANCHORS, width), np.float32)
            if stride == _STRIDES[-1]:
                for one in np.reshape(np.asarray(box, np.float64), (-1, 4)):
                    _fill_anchor(values, one, stride, size // stride)
            outputs[DETECTOR_OUTPUTS[component * 3 + number]] = values
    return outputs


def _fill_anchor(values: Array, box: npt.NDArray[np.float64], stride: int, cells: int) -> None:
    """Fill in the anchor nearest to the box's centre."""
    column, row = ((box[:2] + box[2:]) / 2 // stride).astype(int)
    anchor = np.array([column * stride, row * stride], np.float64)
    landmarks = box[:2] + _LANDMARKS * (box[2:] - box[:2])
    components: dict[int, list[float]] = {
        1: [0.9],
        4: [*(anchor - box[:2]) / stride, *(box[2:] - anchor) / stride],
        10: ((landmarks - anchor) / stride).ravel().tolist(),
    }
    values[(row * cells + column) * _ANCHORS] = components[values.shape[1]]
