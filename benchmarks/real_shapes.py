"""Networks with the layer shapes of the real ones and random weights.

They have the same cost, inputs and outputs, so loading, parity and speed can be tested without the real
weights. Architectures: SCRFD-10GF with landmarks (ResNet with 56-88-88-224 channels, PAFPN, group-normalised
heads shared over the strides), IResNet-50 of ArcFace, inswapper's style-transfer network (six AdaIN blocks of
1024 channels), and GFPGAN (a U-Net whose features modulate a style-based decoder). Batch norms are folded
into the convolutions, as in the exported models.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from colab_helpers.diagnosis.bench_networks import DETECTOR_OUTPUTS, IR_VERSION, OPSET

_Array = npt.NDArray[np.float32]


class Builder:
    """Build a graph of nodes with random weights; methods that add one return its output's name."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._count = 0

    def constant(self, value: npt.NDArray[np.generic]) -> str:
        """Add an initializer."""
        self._count += 1
        name = f"w{self._count}"
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def node(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add an operator."""
        self._count += 1
        name = output or f"t{self._count}"
        # insightface assumes built-in normalisation if early nodes are named Sub or Mul, hence the prefix.
        self._nodes.append(
            helper.make_node(kind, list(inputs), [name], name=f"node_{kind}_{self._count}", **attributes)
        )
        return name

    def random(self, *shape: int, scale: float) -> _Array:
        """Return normally distributed float32 values."""
        return (self._rng.standard_normal(shape, np.float32) * np.float32(scale)).astype(np.float32)

    def conv(
        self,
        x: str,
        ins: int,
        outs: int,
        size: int = 3,
        *,
        stride: int = 1,
        pad: int | None = None,
        gain: float = 2.0,
    ) -> str:
        """Add a He-initialised convolution with a small bias."""
        weight = self.random(outs, ins, size, size, scale=(gain / (ins * size * size)) ** 0.5)
        edge = size // 2 if pad is None else pad
        return self.node(
            "Conv",
            x,
            self.constant(weight),
            self.constant(self.random(outs, scale=0.02)),
            kernel_shape=[size, size],
            strides=[stride, stride],
            pads=[edge] * 4,
        )

    def linear(self, x: str, ins: int, outs: int) -> str:
        """Add a fully connected layer."""
        weight = self.random(outs, ins, scale=ins**-0.5)
        return self.node(
            "Gemm", x, self.constant(weight), self.constant(self.random(outs, scale=0.02)), transB=1
        )

    def model(
        self, name: str, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        """Return the finished model."""
        graph = helper.make_graph(self._nodes, name, list(inputs), list(outputs), self.initializers)
        return helper.make_model(graph, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)])


def _value(name: str, shape: Sequence[int | str | None]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def scrfd_10g(seed: int = 0) -> onnx.ModelProto:
    """Return a detector like det_10g: ``input.1 (1, 3, ?, ?)`` to nine outputs of rank 2."""
    build = Builder(seed)
    x = "input.1"
    for ins, outs, stride in ((3, 28, 2), (28, 28, 1), (28, 56, 1)):
        x = build.node("Relu", build.conv(x, ins, outs, stride=stride))
    x = build.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    levels, channels = [], 56
    for stage, (blocks, planes) in enumerate(zip((3, 4, 2, 3), (56, 88, 88, 224), strict=True)):
        for block in range(blocks):
            x = _basic_block(build, x, channels, planes, stride=2 if stage and not block else 1)
            channels = planes
        levels.append((x, planes))
    features = _pafpn(build, levels[1:])
    for number, feature in enumerate(features):
        _scrfd_head(build, feature, number)
    widths = np.repeat((1, 4, 10), 3).tolist()
    outputs = [_value(name, [None, width]) for name, width in zip(DETECTOR_OUTPUTS, widths, strict=True)]
    return build.model("scrfd_10g", [_value("input.1", [1, 3, "?", "?"])], outputs)


def _basic_block(build: Builder, x: str, ins: int, outs: int, *, stride: int) -> str:
    y = build.node("Relu", build.conv(x, ins, outs, stride=stride))
    y = build.conv(y, outs, outs, gain=0.3)
    if stride != 1 or ins != outs:
        if stride != 1:
            x = build.node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
        x = build.conv(x, ins, outs, 1, gain=1.0)
    return build.node("Relu", build.node("Add", x, y))


def _pafpn(build: Builder, levels: Sequence[tuple[str, int]]) -> list[str]:
    """Add a path aggregation network: top-down, then bottom-up, 56 channels each."""
    width = 56
    lateral = [build.conv(x, planes, width, 1, gain=1.0) for x, planes in levels]
    double = build.constant(np.array([1, 1, 2, 2], np.float32))
    for upper in (2, 1):
        up = build.node("Resize", lateral[upper], "", double, mode="nearest")
        lateral[upper - 1] = build.node("Add", lateral[upper - 1], up)
    outs = [build.conv(x, width, width, gain=1.0) for x in lateral]
    for lower in (0, 1):
        down = build.conv(outs[lower], width, width, stride=2, gain=1.0)
        outs[lower + 1] = build.node("Add", outs[lower + 1], down)
    return [outs[0], *(build.conv(x, width, width, gain=1.0) for x in outs[1:])]


def _scrfd_head(build: Builder, x: str, level: int) -> None:
    ins = 56
    for _ in range(3):
        x = build.node("Relu", _group_norm(build, build.conv(x, ins, 80), 80))
        ins = 80
    for component, (width, active) in enumerate(((1, True), (4, False), (10, False))):
        y = build.conv(x, 80, 2 * width, gain=0.5)
        y = build.node("Transpose", y, perm=[2, 3, 0, 1])
        name = DETECTOR_OUTPUTS[component * 3 + level]
        shape = build.constant(np.array([-1, width], np.int64))
        y = build.node("Reshape", y, shape, output=None if active else name)
        if active:
            build.node("Sigmoid", y, output=name)


def _group_norm(build: Builder, x: str, channels: int, groups: int = 16) -> str:
    """Add a group norm as old exporters wrote it: instance norm over groups."""
    grouped = build.node("Reshape", x, build.constant(np.array([0, groups, -1], np.int64)))
    ones, zeros = np.ones(groups, np.float32), np.zeros(groups, np.float32)
    normed = build.node("InstanceNormalization", grouped, build.constant(ones), build.constant(zeros))
    back = build.node("Reshape", normed, build.node("Shape", x))
    scale = build.constant(np.ones((1, channels, 1, 1), np.float32))
    return build.node("Mul", back, scale)


def iresnet50(seed: int = 0) -> onnx.ModelProto:
    """Return a recogniser like w600k_r50: ``input.1 (N, 3, 112, 112)`` to ``683 (N, 512)``."""
    build = Builder(seed)
    x = _prelu(build, build.conv("input.1", 3, 64), 64)
    channels = 64
    for blocks, planes in zip((3, 4, 14, 3), (64, 128, 256, 512), strict=True):
        for block in range(blocks):
            stride = 1 if block else 2
            y = _prelu(build, build.conv(x, channels, planes), planes)
            y = build.conv(y, planes, planes, stride=stride, gain=0.2)
            if stride != 1 or channels != planes:
                x = build.conv(x, channels, planes, 1, stride=stride, gain=1.0)
            x = build.node("Add", x, y)
            channels = planes
    flat = build.node("Flatten", x)
    feature = build.linear(flat, 512 * 7 * 7, 512)
    build.node("Identity", feature, output="683")
    return build.model(
        "iresnet50", [_value("input.1", ["None", 3, 112, 112])], [_value("683", ["None", 512])]
    )


def _prelu(build: Builder, x: str, channels: int) -> str:
    return build.node("PRelu", x, build.constant(np.full((channels, 1, 1), 0.25, np.float32)))


def inswapper(seed: int = 0, *, width: int = 1024) -> onnx.ModelProto:
    """Return a swapper like inswapper_128: ``target (1, 3, 128, 128)``, ``source (1, 512)`` to ``output``.

    The emap is the last initializer. ``width`` is the number of channels of the style blocks: 1024 in the
    real network, fewer for quick tests.
    """
    build = Builder(seed)
    quarter = width // 4
    x = _reflect_conv(build, "target", 3, width // 8, 7)
    for ins, outs, stride in ((width // 8, quarter, 1), (quarter, width // 2, 2), (width // 2, width, 2)):
        x = build.node("LeakyRelu", x, alpha=0.2)
        x = build.conv(x, ins, outs, stride=stride)
    x = build.node("LeakyRelu", x, alpha=0.2)
    for _ in range(6):
        y = build.node("Relu", _adain(build, _reflect_conv(build, x, width, width, 3), width))
        y = _adain(build, _reflect_conv(build, y, width, width, 3), width)
        x = build.node("Add", x, y)
    double = build.constant(np.array([1, 1, 2, 2], np.float32))
    for ins, outs, grow in (
        (width, width // 2, True),
        (width // 2, quarter, True),
        (quarter, width // 8, False),
    ):
        x = build.node("Resize", x, "", double, mode="linear") if grow else x
        x = build.node("LeakyRelu", build.conv(x, ins, outs, gain=1.0), alpha=0.2)
    x = build.node("Tanh", _reflect_conv(build, x, width // 8, 3, 7))
    half = build.constant(np.array(0.5, np.float32))
    build.node("Add", build.node("Mul", x, half), half, output="output")
    rotation, _ = np.linalg.qr(np.random.default_rng(seed + 1).standard_normal((512, 512)))
    build.initializers.append(numpy_helper.from_array(rotation.astype(np.float32), "buff2fs"))
    picture = [1, 3, 128, 128]
    return build.model(
        "inswapper", [_value("target", picture), _value("source", [1, 512])], [_value("output", picture)]
    )


def _reflect_conv(build: Builder, x: str, ins: int, outs: int, size: int) -> str:
    edge = size // 2
    pads = build.constant(np.array([0, 0, edge, edge, 0, 0, edge, edge], np.int64))
    return build.conv(build.node("Pad", x, pads, mode="reflect"), ins, outs, size, pad=0)


def _adain(build: Builder, x: str, channels: int) -> str:
    """Add an adaptive instance norm: normalise each map, then scale and shift it by the source embedding."""
    centred = build.node("Sub", x, build.node("ReduceMean", x, axes=[2, 3]))
    variance = build.node("ReduceMean", build.node("Mul", centred, centred), axes=[2, 3])
    floor = build.constant(np.array(1e-8, np.float32))
    normed = build.node("Div", centred, build.node("Sqrt", build.node("Add", variance, floor)))
    style = _as_map(build, build.linear("source", 512, 2 * channels))
    scale, shift = _halves(build, style, channels)
    return build.node("Add", build.node("Mul", normed, scale), shift)


def _halves(build: Builder, x: str, channels: int) -> list[str]:
    """Split ``2 * channels`` channels into two halves."""
    axis, *edges = (build.constant(np.array([n], np.int64)) for n in (1, 0, channels, 2 * channels))
    return [build.node("Slice", x, edges[half], edges[half + 1], axis) for half in (0, 1)]


def gfpgan(seed: int = 0, *, width: int = 64, size: int = 512) -> onnx.ModelProto:
    """Return an enhancer like GFPGAN v1.4: ``input (N, 3, size, size)`` to ``output``, with any batch size.

    A final Tanh, which the real network lacks, limits outputs to the valid range. ``width`` is the decoder's
    number of channels at full size; ``size`` is a power of two.
    """
    build = Builder(seed)
    steps = [2**k for k in range(3, size.bit_length())]  # 8, 16, … size
    planes = {edge: min(8 * width, width * size // edge) for edge in (4, *steps)}
    x = build.node("LeakyRelu", build.conv("input", 3, planes[size] // 2, 1), alpha=0.2)
    skips = {}
    for edge in reversed(steps):
        skips[edge] = x
        x = _scaled_block(build, x, planes[edge] // 2, planes[edge // 2] // 2, scale=0.5)
    bottom = planes[4] // 2
    x = build.node("LeakyRelu", build.conv(x, bottom, bottom), alpha=0.2)
    flat = build.node("Flatten", x)
    styles = iter([build.linear(flat, 16 * bottom, 512) for _ in range(2 * len(steps) + 2)])
    zeros = build.constant(np.zeros((1, planes[4], 4, 4), np.float32))
    constant = build.constant(build.random(1, planes[4], 4, 4, scale=1.0))
    first = next(styles)
    batch = build.node("Mul", _as_map(build, build.linear(first, 512, planes[4])), zeros)
    image = _style_conv(build, build.node("Add", batch, constant), planes[4], planes[4], first, edge=4)
    picture = _to_rgb(build, image, planes[4], next(styles))
    for edge in steps:
        ins, outs, half = planes[edge // 2], planes[edge], planes[edge] // 2
        x = _scaled_block(build, x, ins // 2, half, scale=2.0, skip=skips[edge // 2] if edge > 8 else None)
        image = _style_conv(build, _resized(build, image, 2.0), ins, outs, next(styles), edge=edge)
        image = _modulated(build, image, x, half)
        image = _style_conv(build, image, outs, outs, style := next(styles), edge=edge)
        rgb = _to_rgb(build, image, outs, style)
        picture = build.node("Add", _resized(build, picture, 2.0), rgb)
    build.node("Tanh", picture, output="output")
    shape: list[int | str | None] = ["N", 3, size, size]
    return build.model("gfpgan", [_value("input", shape)], [_value("output", shape)])


def _resized(build: Builder, x: str, scale: float) -> str:
    factors = build.constant(np.array([1, 1, scale, scale], np.float32))
    return build.node("Resize", x, "", factors, mode="linear")


def _scaled_block(
    build: Builder, x: str, ins: int, outs: int, *, scale: float, skip: str | None = None
) -> str:
    """Add a residual block of the U-Net that halves or doubles the size."""
    x = x if skip is None else build.node("Add", x, skip)
    y = build.node("LeakyRelu", build.conv(x, ins, ins), alpha=0.2)
    y = build.node("LeakyRelu", build.conv(_resized(build, y, scale), ins, outs, gain=1.0), alpha=0.2)
    return build.node("Add", y, build.conv(_resized(build, x, scale), ins, outs, 1, gain=1.0))


def _as_map(build: Builder, vector: str) -> str:
    return build.node("Unsqueeze", vector, build.constant(np.array([2, 3], np.int64)))


def _style_conv(build: Builder, x: str, ins: int, outs: int, style: str, *, edge: int) -> str:
    """Add a convolution with style-modulated input channels and output demodulated to unit variance."""
    weight = build.random(outs, ins, 3, 3, scale=(9 * ins) ** -0.5)
    scale = build.node("Add", build.linear(style, 512, ins), build.constant(np.ones(ins, np.float32)))
    power = build.constant(np.square(weight).sum((2, 3)).T.copy())
    total = build.node("MatMul", build.node("Mul", scale, scale), power)
    total = build.node("Add", total, build.constant(np.array(1e-8, np.float32)))
    level = build.node("Reciprocal", build.node("Sqrt", total))
    x = build.node("Mul", x, _as_map(build, scale))
    x = build.node("Conv", x, build.constant(weight), kernel_shape=[3, 3], pads=[1] * 4)
    x = build.node("Mul", x, _as_map(build, level))
    noise = build.constant(build.random(1, 1, edge, edge, scale=0.1))
    bias = build.constant(build.random(1, outs, 1, 1, scale=0.02))
    return build.node("LeakyRelu", build.node("Add", build.node("Add", x, noise), bias), alpha=0.2)


def _modulated(build: Builder, image: str, features: str, half: int) -> str:
    """Scale and shift the second half of the channels by the U-Net's features."""
    maps = []
    for _ in range(2):
        y = build.node("LeakyRelu", build.conv(features, half, half), alpha=0.2)
        maps.append(build.conv(y, half, half, gain=0.1))
    kept, rest = _halves(build, image, half)
    steered = build.node("Mul", rest, maps[0])
    return build.node("Concat", kept, build.node("Add", steered, maps[1]), axis=1)


def _to_rgb(build: Builder, x: str, ins: int, style: str) -> str:
    scaled = build.node("Mul", x, _as_map(build, build.linear(style, 512, ins)))
    return build.conv(scaled, ins, 3, 1, gain=0.1)


def write_real_shapes(folder: Path, *, seed: int = 0) -> Path:
    """Write detector, recogniser and swapper in the layout of ``--models-dir`` (about 800 MB)."""
    (folder / "buffalo_l").mkdir(parents=True, exist_ok=True)
    onnx.save(scrfd_10g(seed), folder / "buffalo_l" / "det_10g.onnx")
    onnx.save(iresnet50(seed), folder / "buffalo_l" / "w600k_r50.onnx")
    onnx.save(inswapper(seed), folder / "inswapper_128.onnx")
    return folder
