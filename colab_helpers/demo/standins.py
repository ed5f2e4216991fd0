"""Tiny ONNX models with the tensor contracts of the real ones, for the rendered people only.

They let everything run and be measured without a download: names, order, ranks, shapes and ranges are
those of buffalo_l (det_10g, w600k_r50, genderage), inswapper_128 and GFPGANv1.4. Four are small networks
trained by :mod:`colab_helpers.demo.train`; embedding head, latent map and enhancer are constructed.
Every file says in its metadata that it is a stand-in. They are useless on photographs.

How the embedding and the swapper fit together: the recogniser measures the sixteen numbers p of a
:class:`~colab_helpers.demo.looks.Face` and writes [alpha p, cos(Wp + b), sin(Wp + b)] with fixed random W.
The Fourier part has constant length, so equal faces have cosine near 1 and different ones near 0,
while the linear part lets the swapper read p back from the unit vector: p is proportional to the
linear part over the length of the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from colab_helpers.errors import ModelError, OutputError

F32 = npt.NDArray[np.float32]

WEIGHTS = Path(__file__).with_name("weights.npz")
# Sizes of the two anchors of each stride, in pixels of the detector's input.
ANCHORS: dict[int, tuple[float, float]] = {8: (20.0, 40.0), 16: (80.0, 160.0), 32: (320.0, 520.0)}
# Half sides of the windows, in cells of 8 pixels, in which the two anchors of stride 16 seek their points.
HEAT_REACH = (7, 13)
# The trained network's score that becomes 0.5: faces lie well above it, look-alikes well below.
SCORE_CUT = 0.77
LOOK_MEAN = np.float32(0.5)
LOOK_SPREAD = np.float32(0.3)

# Layers of the swapper that are steered by the source's look, and their channels.
SWAP_BLOCKS = {"r1": 96, "r2": 96, "m1": 64, "m2": 64, "m3": 64, "m4": 64}

LINEAR_GAIN = 1.1  # alpha: large enough to read p back, small beside the Fourier part
EMBEDDING_NORM = 20.0
_DIMENSIONS, _WAVES = 16, 248
# How finely each number tells faces apart (deviation of W's rows): 0.11 over the trunk's error in it.
BANDWIDTH = np.array(
    [0.47, 0.47, 0.25, 0.23, 0.39, 0.25, 0.43, 0.28, 0.34, 0.41, 0.30, 0.17, 0.29, 0.39, 0.36, 0.32],
    np.float32,
)


class Graph:
    """Collects nodes and initializers of one model."""

    def __init__(self, weights: Mapping[str, F32], prefix: str) -> None:
        self._weights, self._prefix = weights, prefix
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, value: npt.ArrayLike, *, integers: bool = False) -> str:
        """Add an initializer; return its name."""
        name = f"const_{len(self.initializers)}"
        array = np.asarray(value, np.int64 if integers else np.float32)
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(self, op: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """Add a node with one output; return the output's name."""
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [out or f"{name}_out"], name=name, **attributes))
        return out or f"{name}_out"

    def weight(self, layer: str) -> tuple[F32, F32]:
        """Return a trained layer's weight and bias."""
        return self._weights[f"{self._prefix}.{layer}.w"], self._weights[f"{self._prefix}.{layer}.b"]

    def conv(self, x: str, layer: str, *, stride: int = 1, dilation: int = 1, act: bool = True) -> str:
        """Add a trained convolution."""
        return self.conv_with(x, *self.weight(layer), stride=stride, dilation=dilation, act=act)

    def conv_with(
        self, x: str, weight: F32, bias: F32, *, stride: int = 1, dilation: int = 1, act: bool = False
    ) -> str:
        """Add a convolution with given weights, padded to keep the size."""
        pad = dilation * (weight.shape[2] // 2)
        y = self.add(
            "Conv",
            x,
            self.constant(weight),
            self.constant(bias),
            kernel_shape=list(weight.shape[2:]),
            pads=[pad] * 4,
            strides=[stride] * 2,
            dilations=[dilation] * 2,
        )
        return self.add("LeakyRelu", y, alpha=0.1) if act else y

    def dense(self, x: str, layer: str, *, act: bool = True) -> str:
        """Add a trained fully connected layer, stored as a 1 x 1 convolution."""
        weight, bias = self.weight(layer)
        y = self.add("Gemm", x, self.constant(weight[:, :, 0, 0]), self.constant(bias), transB=1)
        return self.add("LeakyRelu", y, alpha=0.1) if act else y

    def double(self, x: str) -> str:
        """Add an enlargement by two, nearest neighbour."""
        scales = self.constant([1, 1, 2, 2])
        return self.add(
            "Resize",
            x,
            "",
            scales,
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )

    def model(
        self,
        name: str,
        inputs: Sequence[tuple[str, Sequence[int | str]]],
        outputs: Sequence[tuple[str, Sequence[int | str]]],
    ) -> onnx.ModelProto:
        """Finish the model: check it and mark it as a stand-in."""
        ins = [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(s)) for n, s in inputs]
        outs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(s)) for n, s in outputs]
        graph = helper.make_graph(self.nodes, name, ins, outs, self.initializers)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="colab_helpers"
        )
        model.ir_version = 10
        model.doc_string = _NOTE
        helper.set_model_props(model, {"colab_helpers.standin": "true", "description": f"{name}: {_NOTE}"})
        onnx.checker.check_model(model)
        return model


_NOTE = "stand-in for tests and the demo; knows rendered people only and is not the real model"


@lru_cache(maxsize=1)
def load_weights(path: Path = WEIGHTS) -> dict[str, F32]:
    """Read the trained weights as float32.

    Raises:
        ModelError: If the file is missing.
    """
    if not path.is_file():
        raise ModelError(
            "the stand-in weights are missing",
            where=str(path),
            remedy="run python -m colab_helpers.demo.train",
        )
    with np.load(path) as archive:
        return {name: archive[name].astype(np.float32) for name in archive.files}


def _orthonormal(seed: int) -> F32:
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((512, 512)))
    return np.asarray(q * np.sign(np.diag(r)), np.float32)


def _waves() -> tuple[F32, F32]:
    """Directions (16, 248) and phases (248,) of the Fourier part."""
    rng = np.random.default_rng(2)
    directions = rng.standard_normal((_DIMENSIONS, _WAVES)) * BANDWIDTH[:, None]
    return directions.astype(np.float32), rng.uniform(0, 2 * np.pi, _WAVES).astype(np.float32)


def detector(weights: Mapping[str, F32]) -> onnx.ModelProto:
    """Build det_10g's stand-in: SCRFD heads at strides 8, 16 and 32, two anchors a cell."""
    g = Graph(weights, "det")
    x = "input.1"
    for layer in ("c1", "c2", "c3"):
        x = g.conv(x, layer, stride=2)
    p8 = g.conv(x, "c4")
    p16 = g.conv(g.conv(p8, "c5", stride=2), "c6")
    deep = g.conv(g.conv(g.conv(p16, "c7", stride=2), "c8"), "c9", dilation=2)
    p32 = g.conv(deep, "l32", act=False)
    p16 = g.add("Add", g.conv(p16, "l16", act=False), g.double(p32))
    p8 = g.add("Add", g.conv(p8, "l8", act=False), g.conv(g.double(p16), "d8", act=False))
    names = {8: ("448", "451", "454"), 16: ("471", "474", "477"), 32: ("494", "497", "500")}
    fine = g.conv(g.add("LeakyRelu", p8, alpha=0.1), "h8")
    _heads(g, fine, 8, names[8])
    for stride, level in ((16, p16), (32, p32)):
        end = g.conv(g.conv(g.add("LeakyRelu", level, alpha=0.1), f"h{stride}"), f"k{stride}")
        _heads(g, end, stride, names[stride], _heat_points(g, fine) if stride == 16 else "")
    order = [names[s][k] for k in range(3) for s in (8, 16, 32)]
    widths = {name: width for parts in names.values() for name, width in zip(parts, (1, 4, 10), strict=True)}
    outputs = [(name, (f"cells_{name}", widths[name])) for name in order]
    return g.model("det_10g", [("input.1", (1, 3, "?", "?"))], outputs)


def heat_window(reach: int) -> tuple[F32, F32]:
    """Return kernels that weigh a heat map around a cell, for five maps as channel groups.

    Args:
        reach: Half side in cells of 8 pixels.

    Returns:
        float32 (10, 1, n, n) each: offsets x and y in cells of 16 pixels times the window, and the window.
    """
    offset = np.arange(-reach, reach + 1)
    x, y = np.meshgrid(offset, offset)
    window = np.exp(-((np.hypot(x, y) / (0.85 * reach)) ** 4))
    arm = np.stack([x / 2 * window, y / 2 * window])[:, None]
    ones = np.stack([window, window])[:, None]
    return np.tile(arm, (5, 1, 1, 1)).astype(np.float32), np.tile(ones, (5, 1, 1, 1)).astype(np.float32)


def _heat_points(g: Graph, fine: str) -> str:
    """Five points for both anchors as centres of gravity of heat maps, (N, 20, H/16, W/16)."""
    warm = g.add("Exp", g.add("Clip", g.conv(fine, "heat", act=False), g.constant(-10.0), g.constant(10.0)))
    both = []
    for reach in HEAT_REACH:
        moment, mass = (
            g.add("Conv", warm, g.constant(part), group=5, strides=[2, 2], pads=[reach] * 4)
            for part in heat_window(reach)
        )
        both.append(g.add("Div", moment, g.add("Add", mass, g.constant(1e-6))))
    return g.add("Concat", *both, axis=1)


def _heads(g: Graph, x: str, stride: int, names: tuple[str, str, str], addend: str = "") -> None:
    weight, bias = g.weight(f"o{stride}")
    scale = np.repeat(np.asarray(ANCHORS[stride], np.float32) / np.float32(stride), 14)
    parts = np.arange(28).reshape(2, 14)
    sides, points = parts[:, :4].ravel(), parts[:, 4:].ravel()
    score = g.add(
        "Sigmoid", g.conv_with(x, weight[:2], bias[:2] - np.float32(np.log(SCORE_CUT / (1 - SCORE_CUT))))
    )
    _rows(g, score, 1, names[0])
    for pick, width, name in ((sides, 4, names[1]), (points, 10, names[2])):
        chosen = weight[2:][pick] * scale[pick, None, None, None], bias[2:][pick] * scale[pick]
        out = g.conv_with(x, *chosen)
        _rows(g, g.add("Add", out, addend) if addend and width == 10 else out, width, name)


def _rows(g: Graph, x: str, width: int, name: str) -> None:
    """One row for each cell and anchor, without a batch axis."""
    last = g.add("Transpose", x, perm=[0, 2, 3, 1])
    g.add("Reshape", last, g.constant([-1, width], integers=True), out=name)


def recogniser(weights: Mapping[str, F32]) -> onnx.ModelProto:
    """Build w600k_r50's stand-in."""
    g = Graph(weights, "rec")
    x = "input.1"
    for layer, stride in (
        ("c1", 2),
        ("c2", 2),
        ("c3", 1),
        ("c4", 2),
        ("c5", 1),
        ("c6", 2),
        ("c7", 1),
        ("c8", 1),
    ):
        x = g.conv(x, layer, stride=stride)
    look = g.dense(g.dense(g.add("Flatten", x), "f1"), "f2", act=False)
    look = g.add("Clip", look, g.constant(-2.0), g.constant(2.0))
    directions, phases = _waves()
    linear = g.add("Mul", look, g.constant(LINEAR_GAIN))
    angle = g.add("Gemm", look, g.constant(directions), g.constant(phases))
    whole = g.add("Concat", linear, g.add("Cos", angle), g.add("Sin", angle), axis=1)
    mix = _orthonormal(3) * np.float32(EMBEDDING_NORM / np.sqrt(_WAVES))
    g.add("MatMul", whole, g.constant(mix), out="683")
    return g.model("w600k_r50", [("input.1", ("None", 3, 112, 112))], [("683", ("None", 512))])


def attributes(weights: Mapping[str, F32]) -> onnx.ModelProto:
    """Build genderage's stand-in; its first two nodes normalise, as insightface expects of it."""
    g = Graph(weights, "age")
    x = g.add("Mul", g.add("Sub", "data", g.constant(127.5)), g.constant(1 / 127.5))
    for layer in ("c1", "c2", "c3", "c4"):
        x = g.conv(x, layer, stride=2)
    x = g.dense(g.add("Flatten", g.conv(x, "c5")), "f1")
    weight, bias = g.weight("f2")
    g.add("Gemm", x, g.constant(weight[:, :, 0, 0]), g.constant(bias), out="fc1", transB=1)
    return g.model("genderage", [("data", ("None", 3, 96, 96))], [("fc1", ("None", 3))])


def swapper(weights: Mapping[str, F32]) -> onnx.ModelProto:
    """Build inswapper_128's stand-in, with the latent map ``buff2fs`` as its last initializer."""
    g = Graph(weights, "swap")
    emap = _orthonormal(4)
    style = g.dense(g.dense(_read_look(g, emap), "s1"), "s2")
    centred = g.add("Sub", g.add("Mul", "target", g.constant(2.0)), g.constant(1.0))
    weight, bias = g.weight("a1")
    # SpaceToDepth lays channels out block by block, the training framework channel by channel.
    weight = weight.reshape(-1, 3, 4, 3, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 12, 3, 3)
    a = g.conv_with(g.add("SpaceToDepth", centred, blocksize=2), weight, bias, act=True)
    b = g.conv(g.conv(a, "b1", stride=2), "b2")
    d = g.conv(b, "d1", stride=2)
    d = g.add("Add", d, _film(g, _film(g, d, "r1", style), "r2", style))
    b = g.add("Add", b, g.double(g.conv(d, "u1")))
    for first, second in (("m1", "m2"), ("m3", "m4")):
        b = g.add("Add", b, _film(g, _film(g, b, first, style), second, style))
    a = g.add("Add", a, g.double(g.conv(b, "u3")))
    a = g.conv(a, "u4")
    change = g.add("DepthToSpace", g.conv(a, "u5", act=False), blocksize=2, mode="CRD")
    painted = g.add("Add", "target", g.add("Tanh", change))
    g.add("Clip", painted, g.constant(0.0), g.constant(1.0), out="output")
    g.initializers.append(numpy_helper.from_array(emap, "buff2fs"))
    return g.model(
        "inswapper_128", [("target", (1, 3, 128, 128)), ("source", (1, 512))], [("output", (1, 3, 128, 128))]
    )


def _read_look(g: Graph, emap: F32) -> str:
    """Undo latent map and mixing; recover the sixteen numbers from a unit latent."""
    back = (_orthonormal(3) @ emap).T[:, :_DIMENSIONS]
    linear = g.add("MatMul", "source", g.constant(back))
    square = g.add("ReduceSum", g.add("Mul", linear, linear), g.constant([1], integers=True), keepdims=1)
    rest = g.add("Sqrt", g.add("Max", g.add("Sub", g.constant(1.0), square), g.constant(1e-3)))
    scaled = g.add("Mul", g.add("Div", linear, rest), g.constant(np.sqrt(_WAVES) / LINEAR_GAIN))
    return g.add("Clip", scaled, g.constant(-2.0), g.constant(2.0))


def _film(g: Graph, x: str, layer: str, style: str) -> str:
    """Apply a convolution, normalise each channel over the picture, scale and shift it by the style."""
    both = g.dense(style, f"film_{layer}", act=False)
    spread = g.add("Unsqueeze", both, g.constant([2, 3], integers=True))
    width = SWAP_BLOCKS[layer]
    axis, steps = g.constant([1], integers=True), [g.constant([k * width], integers=True) for k in range(3)]
    gain = g.add("Add", g.add("Slice", spread, steps[0], steps[1], axis), g.constant(1.0))
    shift = g.add("Slice", spread, steps[1], steps[2], axis)
    one, zero = g.constant(np.ones(width)), g.constant(np.zeros(width))
    even = g.add("InstanceNormalization", g.conv(x, layer), one, zero, epsilon=1e-5)
    return g.add("Add", g.add("Mul", even, gain), shift)


def enhancer() -> onnx.ModelProto:
    """Build GFPGANv1.4's stand-in: edges are sharpened, fine noise is left alone."""
    g = Graph({}, "")
    reach = 6
    line = np.exp(-0.5 * (np.arange(-reach, reach + 1) / 2.4) ** 2)
    line = (line / line.sum()).astype(np.float32)
    padded = g.add("Pad", "input", g.constant([0, 0, reach, reach] * 2, integers=True), mode="edge")
    rows = g.constant(np.broadcast_to(line[None, None, :, None], (3, 1, 2 * reach + 1, 1)))
    cols = g.constant(np.broadcast_to(line[None, None, None, :], (3, 1, 1, 2 * reach + 1)))
    smooth = g.add("Conv", g.add("Conv", padded, rows, group=3), cols, group=3)
    detail = g.add("Sub", "input", smooth)
    fine = g.add("Clip", detail, g.constant(-0.012), g.constant(0.012))
    edges = g.add("Mul", g.add("Sub", detail, fine), g.constant(1.0))
    g.add("Clip", g.add("Add", "input", edges), g.constant(-1.0), g.constant(1.0), out="output")
    shape = (1, 3, 512, 512)
    return g.model("GFPGANv1.4", [("input", shape)], [("output", shape)])


def build_standins() -> dict[str, onnx.ModelProto]:
    """Build all stand-ins, by path below a models folder."""
    weights = load_weights()
    return {
        "buffalo_l/det_10g.onnx": detector(weights),
        "buffalo_l/w600k_r50.onnx": recogniser(weights),
        "buffalo_l/genderage.onnx": attributes(weights),
        "inswapper_128.onnx": swapper(weights),
        "GFPGANv1.4.onnx": enhancer(),
    }


def write_standins(directory: Path) -> None:
    """Write the stand-in models into a models folder.

    Args:
        directory: Made if missing; gets ``buffalo_l/det_10g.onnx``, ``buffalo_l/w600k_r50.onnx``,
            ``buffalo_l/genderage.onnx``, ``inswapper_128.onnx`` and ``GFPGANv1.4.onnx``.

    Raises:
        ModelError: If the trained weights are missing from the package.
        OutputError: If the folder cannot be written.
    """
    for name, model in build_standins().items():
        path = Path(directory) / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(model.SerializeToString(deterministic=True))
        except OSError as error:
            raise OutputError(
                f"a stand-in model cannot be written: {error.strerror}",
                where=str(path),
                remedy="choose a writable folder",
            ) from error
