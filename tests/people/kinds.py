"""Stand-ins for the other kinds of face networks, see ``colab_helpers.models.contracts``.

Names, order, shapes, types and value ranges match the published files. The swappers reuse inswapper's
trained weights behind the other kind's alignment, value range and latent, so that the swapped face must be
recognised as the source; the enhancers sharpen.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.people.graph import F32, Graph
from tests.people.standins import (
    DIMENSIONS,
    EMBEDDING_NORM,
    LINEAR_GAIN,
    MIX_SEED,
    WAVES,
    decode_look,
    enhancer,
    load_weights,
    orthonormal,
    swapped_crop,
)

# FaceFusion's templates, relative to the crop's size.
ARCFACE_128 = np.array(
    [[0.36167656, 0.40387734], [0.63696719, 0.40235469], [0.50019687, 0.56044219], [0.38710391, 0.72160547],
     [0.61507734, 0.72034453]]
)  # fmt: skip
ARCFACE_112_V1 = np.array(
    [[0.35473214, 0.45658929], [0.64526786, 0.45658929], [0.5, 0.61154464], [0.37913393, 0.776875],
     [0.62086607, 0.776875]]
)  # fmt: skip
SIZE, INSIDE = 256, 128
_CROP = (1, 3, SIZE, SIZE)


def similarity(points: F32, template: F32) -> F32:
    """Least-squares similarity ``(2, 3)`` that maps points ``(5, 2)`` to a template."""
    rows, values = [], []
    for (x, y), goal in zip(points, template, strict=True):
        rows += [[x, -y, 1, 0], [y, x, 0, 1]]
        values += list(goal)
    a, b, right, down = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    return np.array([[a, -b, right], [b, a, down]])


def hyperswap() -> onnx.ModelProto:
    """hyperswap_1a_256: unit embedding, values from -1 to 1, and a mask (here the crop's brightness)."""
    weights = load_weights()
    g = Graph(weights, "swap")
    target = _from_signed(g, "target")
    small = g.add("AveragePool", target, kernel_shape=[2, 2], strides=[2, 2])
    changed = swapped_crop(g, weights, small, decode_look(g, orthonormal(MIX_SEED).T))
    _to_signed(g, g.add("Resize", changed, "", g.constant([1, 1, 2, 2]), mode="linear"))
    g.add("ReduceMean", target, axes=[1], keepdims=1, out="mask")
    outputs = [("output", _CROP), ("mask", (1, 1, SIZE, SIZE))]
    return g.model("hyperswap_1a_256", [("source", (1, 512)), ("target", _CROP)], outputs)


def ghost() -> onnx.ModelProto:
    """ghost_1_256: converted embedding that is not normalised, and crops of another template."""
    weights = load_weights()
    g = Graph(weights, "swap")
    # Warped to inswapper's template, for which the weights were trained.
    inwards = similarity(ARCFACE_112_V1 * SIZE, ARCFACE_128 * INSIDE)
    small = _warped(g, _from_signed(g, "target"), _inverse(inwards), SIZE, INSIDE)
    unmixed = (orthonormal(MIX_SEED) @ orthonormal(5)).T[:, :DIMENSIONS]
    back = unmixed * np.sqrt(WAVES) / EMBEDDING_NORM / LINEAR_GAIN
    look = g.add("Clip", g.add("MatMul", "source", g.constant(back)), g.constant(-2.0), g.constant(2.0))
    _to_signed(g, _warped(g, swapped_crop(g, weights, small, look), inwards, INSIDE, SIZE))
    return g.model("ghost_1_256", [("source", (1, 512)), ("target", _CROP)], [("output", _CROP)])


def crossface() -> onnx.ModelProto:
    """crossface_ghost: maps a recogniser's embedding to another of the same norm."""
    g = Graph({}, "")
    g.add("MatMul", "input", g.constant(orthonormal(5)), out="output")
    return g.model("crossface_ghost", [("input", (1, 512))], [("output", (1, 512))])


def codeformer() -> onnx.ModelProto:
    """codeformer: a second input, in double precision, sets how much of the crop is kept."""
    model = enhancer()
    graph = model.graph
    (edges,) = [node for node in graph.node if node.op_type == "Mul"]
    gain, edges.input[1] = edges.input[1], "restored"
    graph.node.insert(0, helper.make_node("Sub", [gain, "kept"], ["restored"]))
    graph.node.insert(0, helper.make_node("Cast", ["weight"], ["kept"], to=TensorProto.FLOAT))
    graph.input.append(helper.make_tensor_value_info("weight", TensorProto.DOUBLE, [1]))
    return model


def gpen_256() -> onnx.ModelProto:
    """gpen_bfr_256: GFPGAN's stand-in at half the size."""
    model = enhancer()
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim[2:]:
            dim.dim_value = SIZE
    return model


def restoreformer(*, first: bool = True) -> onnx.ModelProto:
    """restoreformer_plus_plus: further outputs, in some files before the image."""
    model = enhancer()
    graph = model.graph
    graph.node.append(helper.make_node("ReduceMean", ["output"], ["codes"], axes=[1], keepdims=1))
    codes = helper.make_tensor_value_info("codes", TensorProto.FLOAT, [1, 1, 512, 512])
    graph.output.insert(1 if first else 0, codes)
    return model


def _from_signed(g: Graph, x: str) -> str:
    return g.add("Mul", g.add("Add", x, g.constant(1.0)), g.constant(0.5))


def _to_signed(g: Graph, x: str) -> str:
    signed = g.add("Sub", g.add("Mul", x, g.constant(2.0)), g.constant(1.0))
    return g.add("Clip", signed, g.constant(-1.0), g.constant(1.0), out="output")


def _warped(g: Graph, x: str, matrix: F32, size: int, edge: int) -> str:
    """Warp from ``size`` to ``edge`` pixels; the matrix ``(2, 3)`` maps output to input pixels."""
    pixels = np.stack([*np.meshgrid(np.arange(edge), np.arange(edge)), np.ones((edge, edge))], axis=-1)
    grid = (2 * (pixels @ matrix.T) + 1) / size - 1
    return g.add("GridSample", x, g.constant(grid[None]), mode="bilinear", padding_mode="border")


def _inverse(matrix: F32) -> F32:
    return np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]


KINDS: dict[str, Callable[[], onnx.ModelProto]] = {
    "hyperswap_1a_256": hyperswap,
    "ghost_1_256": ghost,
    "crossface_ghost": crossface,
    "codeformer": codeformer,
    "gpen_bfr_256": gpen_256,
    "gpen_bfr_512": enhancer,
    "restoreformer_plus_plus": restoreformer,
}


def write_kinds(folder: Path) -> None:
    """Write all of them into a models folder."""
    for name, build in KINDS.items():
        model = build()
        onnx.checker.check_model(model, full_check=True)
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))
