"""Small networks for tests, also ones whose conversion fails."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.real_shapes import inswapper

SIZE = 32


@cache
def _inswapper(seed: int) -> bytes:
    return inswapper(seed, width=32).SerializeToString()


def small_inswapper(seed: int = 0) -> onnx.ModelProto:
    """inswapper's layers with few channels; cached, since computing its matrix is slow."""
    return onnx.load_from_string(_inswapper(seed))


def build(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str],
    *,
    weights: dict[str, Any] | None = None,
    out: Sequence[int | str] | None = None,
) -> onnx.ModelProto:
    """Build a model from ``input`` to ``output``."""
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, list(shape if out is None else out))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])
    onnx.checker.check_model(model)
    return model


def node(kind: str, inputs: str, out: str, **attributes: Any) -> onnx.NodeProto:
    """Make a node with space-separated input names; ``-`` omits one."""
    return helper.make_node(kind, [name.strip("-") for name in inputs.split()], [out], **attributes)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32) / np.float32(
        np.prod(shape[1:]) ** 0.5
    )


def net(kind: str) -> onnx.ModelProto:
    """An enhancer-like network.

    Args:
        kind: ``plain`` takes one picture; ``dynamic`` any number of them; ``constant`` ignores its input;
            ``rank 3`` takes no pictures.
    """
    if kind == "rank 3":
        return build([node("Identity", "input", "output")], (1, SIZE, SIZE))
    shape = ("N" if kind == "dynamic" else 1, 3, SIZE, SIZE)
    if kind == "constant":
        return build([node("Mul", "input zero", "output")], shape, weights={"zero": np.float32(0)})
    return build([node("Conv", "input w", "output", pads=[1] * 4)], shape, weights={"w": random(3, 3, 3, 3)})


def half_graph(kind: str) -> onnx.ModelProto:
    """An enhancer-like network whose values overflow in half precision."""
    assert kind == "overflowing"
    nodes = [
        node("Mul", "input large", "big"),
        node("Conv", "big w", "mixed", pads=[1] * 4),
        node("Mul", "mixed small", "output"),
    ]
    weights = {"large": np.float32(1e6), "small": np.float32(1e-6), "w": random(3, 3, 3, 3)}
    return build(nodes, (1, 3, SIZE, SIZE), weights=weights)


def enlarger(scale: int, *, edge: int | None = None, reach: int = 34, mode: str = "cubic") -> onnx.ModelProto:
    """A resize with Real-ESRGAN's contract, after a blur with realesr-general-x4v3's receptive field."""
    kernel = np.zeros((3, 1, 3, 3), np.float32)
    kernel[:, 0, 1, 1], kernel[:, 0, 0, 0], kernel[:, 0, 1, 2], kernel[:, 0, 2, 1] = 0.7, 0.2, 0.15, -0.05
    # RealESRGAN_x2plus starts with blocks of 2 x 2, so odd sizes are errors.
    nodes = [
        node("SpaceToDepth", "input", "blocks", blocksize=2),
        node("DepthToSpace", "blocks", "even", blocksize=2),
        node("Conv", "even kernel", "seen", group=3, dilations=[reach] * 2, pads=[reach] * 4),
        node("Resize", "seen - scales", "output", mode=mode),
    ]
    weights = {"kernel": kernel, "scales": np.array([1, 1, scale, scale], np.float32)}
    if edge:
        return build(nodes, (1, 3, edge, edge), weights=weights, out=(1, 3, scale * edge, scale * edge))
    return build(nodes, (1, 3, "h", "w"), weights=weights, out=(1, 3, "H", "W"))


def with_enlarger(models: Path, folder: Path) -> Path:
    """Copy a models folder, and add a small network for `frame_enhancer`."""
    shutil.copytree(models, folder, dirs_exist_ok=True)
    onnx.save(enlarger(2, reach=1, mode="linear"), folder / "RealESRGAN_x2plus.onnx")
    return folder
