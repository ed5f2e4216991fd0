"""Tiny ONNX models with the tensor contracts of the real ones, for the rendered people only.

They replace downloads: names, order, shapes and ranges are those of buffalo_l (det_10g, w600k_r50,
genderage), inswapper_128, GFPGANv1.4, nsfw_2, xseg_1 and bisenet_resnet_34 (the last two are in
:mod:`tests.people.masking`). Six are small networks trained by :mod:`tests.people.train`; embedding head,
latent map and enhancer are constructed. The metadata of every file marks it as a stand-in; on photographs
they are useless.

The recogniser estimates the sixteen parameters p of a :class:`~tests.people.looks.Face` and outputs
[alpha p, cos(Wp + b), sin(Wp + b)] with fixed random W. The Fourier part has constant norm, so equal faces
have cosine near 1 and different ones near 0; from the linear part relative to that norm the swapper
recovers p.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import numpy_helper
from scipy.linalg import hadamard

from tests.people.graph import ATTRIBUTES, F32, RECOGNISER, REFINER, Graph, Value
from tests.people.looks import FACE_FIELDS, KEPT
from tests.people.masking import occluder, parser

WEIGHTS = Path(__file__).with_name("weights.npz")
CONTENT_FILE = "nsfw_2.onnx"
# Sizes of the two anchors of each stride, in pixels of the detector's input.
ANCHORS: dict[int, tuple[float, float]] = {8: (20.0, 40.0), 16: (80.0, 160.0), 32: (320.0, 520.0)}
# Refinement: number of refined proposals, crop size in pixels, and crop side over the longer side of the box.
REFINED, CROP_SIZE, CROP_REACH = 16, 64, 1.15
# Subtracted from the refiner's logit: false faces in backgrounds reach 4, whole faces more than 10.
LOGIT_MARGIN = 6.0
# Factor of the scores of proposals that are not refined: keeps them below any usual threshold.
UNREFINED_FACTOR = 0.4
LOOK_MEAN = np.float32(0.5)
LOOK_SPREAD = np.float32(0.3)

# Layers of the swapper that are conditioned on the source's look, and their channels.
SWAP_BLOCKS = {"r1": 96, "r2": 96, "m1": 64, "m2": 64, "m3": 64, "m4": 64}

LINEAR_GAIN = 1.1  # alpha: large enough to recover p, small relative to the Fourier part
EMBEDDING_NORM = 20.0
MIX_SEED = 3  # seed of the matrix that mixes an embedding
DIMENSIONS, WAVES = 16, 248
# Standard deviation of W's rows times the swapper's measured error in each parameter.
RESOLUTION = 0.155


@lru_cache(maxsize=1)
def load_weights() -> dict[str, F32]:
    """Read the trained weights, from ``python -m tests.people.train``, as float32."""
    with np.load(WEIGHTS) as archive:
        return {name: archive[name].astype(np.float32) for name in archive.files}


def orthonormal(seed: int) -> F32:
    """Orthonormal (512, 512): a permuted Hadamard matrix, whose few distinct values compress well."""
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1.0, 1.0], 512)
    return np.asarray(hadamard(512)[:, rng.permutation(512)] * signs / np.sqrt(512), np.float32)


def _waves(errors: F32) -> tuple[F32, F32]:
    """Directions (16, 248) and phases (248,) of the Fourier part."""
    rng = np.random.default_rng(2)
    directions = rng.standard_normal((DIMENSIONS, WAVES)) * (RESOLUTION / errors)[:, None]
    return directions.astype(np.float32), rng.uniform(0, 2 * np.pi, WAVES).astype(np.float32)


def detector(weights: Mapping[str, F32]) -> onnx.ModelProto:
    """Build det_10g's stand-in: SCRFD heads at strides 8, 16 and 32, two anchors per cell.

    A proposal network runs on the whole picture; a refiner classifies and measures the best proposals in
    crops of their own. Only refined proposals score above ``UNREFINED_FACTOR``.
    """
    g = Graph(weights, "det")
    proposals = _propose(g)
    best = _best_proposals(g, proposals)
    g.use("fine")
    scores, places = _refine(g, proposals, best)
    names = ("448", "471", "494"), ("451", "474", "497"), ("454", "477", "500")
    for rows, outputs in zip((scores, *places), names, strict=True):
        g.split(rows, proposals.counts, outputs)
    contract: list[Value] = [
        (name, (f"cells_{s}", width))
        for part, width in zip(names, (1, 4, 10), strict=True)
        for name, s in zip(part, ANCHORS, strict=True)
    ]
    return g.model("det_10g", [_PICTURE], contract)


def proposer(weights: Mapping[str, F32]) -> onnx.ModelProto:
    """Build the proposal network: ``scores`` (REFINED,) in 0..1 and ``boxes`` (REFINED, 4) in pixels."""
    g = Graph(weights, "det")
    chosen = _best_proposals(g, _propose(g))
    g.add("Identity", chosen.scores, out="scores")
    g.add("Identity", chosen.boxes, out="boxes")
    return g.model("proposer", [_PICTURE], [("scores", (REFINED,)), ("boxes", (REFINED, 4))])


_PICTURE = ("input.1", (1, 3, "?", "?"))


class _Proposals(NamedTuple):
    """Names of the proposals' tensors, one row for each cell and anchor of all levels."""

    scores: str  # (N, 1), 0..1
    peaks: str  # the same, 0 where a neighbouring cell scores higher
    sides: str  # (N, 4), left, top, right, bottom of the centre, pixels
    centres: str  # (N, 2), pixels
    strides: str  # (N, 1), pixels
    counts: str  # (3,) int64, rows of each level


class _Best(NamedTuple):
    """Names of the best proposals' rows (REFINED,), scores (REFINED,) and boxes (REFINED, 4) in pixels."""

    rows: str
    scores: str
    boxes: str


def _propose(g: Graph) -> _Proposals:
    x = "input.1"
    for layer in ("c1", "c2", "c3"):
        x = g.conv(x, layer, stride=2)
    p8 = g.conv(x, "c4")
    p16 = g.conv(g.conv(p8, "c5", stride=2), "c6")
    deep = g.conv(g.conv(g.conv(p16, "c7", stride=2), "c8"), "c9", dilation=2)
    p32 = g.conv(deep, "l32", act=False)
    p16 = g.add("Add", g.conv(p16, "l16", act=False), g.upsample(p32))
    p8 = g.add("Add", g.conv(p8, "l8", act=False), g.conv(g.upsample(p16), "d8", act=False))
    levels = [
        _head(g, g.conv(g.add("LeakyRelu", level, alpha=0.1), f"h{stride}"), stride)
        for stride, level in ((8, p8), (16, p16), (32, p32))
    ]
    scores, peaks, sides, centres, strides = (
        g.add("Concat", *parts, axis=0) for parts in zip(*levels, strict=True)
    )
    counts = g.add("Concat", *(g.add("Shape", level[0], start=0, end=1) for level in levels), axis=0)
    return _Proposals(scores, peaks, sides, centres, strides, counts)


def _head(g: Graph, x: str, stride: int) -> list[str]:
    """Rows of one level: scores, peaks, sides, centres, strides."""
    weight, bias = g.weight(f"o{stride}")
    channels = np.arange(10).reshape(2, 5)
    scores, sides = channels[:, 0], channels[:, 1:].ravel()
    sizes = np.repeat(np.asarray(ANCHORS[stride], np.float32), 4)
    score = g.add("Sigmoid", g.conv_with(x, weight[scores], bias[scores]))
    side = g.conv_with(x, weight[sides] * sizes[:, None, None, None], bias[sides] * sizes)
    highest = g.add("MaxPool", score, kernel_shape=[3, 3], pads=[1] * 4)
    peak = g.add("Where", g.add("Less", score, highest), g.constant(0.0), score)
    nothing = g.add("Mul", score, g.constant(0.0))
    steps = g.add("Add", nothing, g.constant(float(stride)))
    x_of, y_of = (g.add("CumSum", steps, g.constant(axis, integers=True), exclusive=1) for axis in (3, 2))
    order = g.constant([0, 2, 1, 3], integers=True)
    centre = g.add("Gather", g.add("Concat", x_of, y_of, axis=1), order, axis=1)
    parts = ((score, 1), (peak, 1), (side, 4), (centre, 2), (steps, 1))
    return [_rows(g, part, width) for part, width in parts]


def _rows(g: Graph, x: str, width: int) -> str:
    """Reshape to one row for each cell and anchor, without a batch axis."""
    return g.add("Reshape", g.add("Transpose", x, perm=[0, 2, 3, 1]), g.constant([-1, width], integers=True))


def _best_proposals(g: Graph, proposals: _Proposals) -> _Best:
    flat = g.add("Reshape", proposals.peaks, g.constant([-1], integers=True))
    scores, rows = g.top(flat, REFINED)
    centres, sides = (g.add("Gather", part, rows, axis=0) for part in (proposals.centres, proposals.sides))
    signs = g.constant([-1, -1, 1, 1])
    boxes = g.add("Add", g.add("Concat", centres, centres, axis=1), g.add("Mul", sides, signs))
    return _Best(rows, scores, boxes)


def _squares(g: Graph, boxes: str) -> tuple[str, str]:
    """Names of corners (K, 2) and sides (K, 1) of squares around boxes (K, 4), in pixels."""
    low, high = (
        g.add("Slice", boxes, *(g.constant([number], integers=True) for number in (k, k + 2, 1)))
        for k in (0, 2)
    )
    longer = g.add("ReduceMax", g.add("Sub", high, low), axes=[1], keepdims=1)
    side = g.add("Max", g.add("Mul", longer, g.constant(CROP_REACH)), g.constant(4.0))
    middle = g.add("Mul", g.add("Add", low, high), g.constant(0.5))
    return g.add("Sub", middle, g.add("Mul", side, g.constant(0.5))), side


def _refine(g: Graph, proposals: _Proposals, best: _Best) -> tuple[str, tuple[str, str]]:
    """Rows of all levels: scores, then sides and landmarks, in units of strides as in det_10g."""
    corner, side = _squares(g, best.boxes)
    crops = g.add(
        "RoiAlign",
        "input.1",
        g.add("Concat", corner, g.add("Add", corner, side), axis=1),
        g.constant(np.zeros(REFINED), integers=True),
        coordinate_transformation_mode="half_pixel",
        output_height=CROP_SIZE,
        output_width=CROP_SIZE,
        sampling_ratio=2,
    )
    out = g.dense(g.conv_stack(crops, REFINER), "f2", act=False)
    score, places = g.split_columns(out, (1, 14))
    # With a proposal score near zero the refiner is unreliable: it was not trained on such crops.
    column = g.constant([1], integers=True)
    seen = g.add("Clip", g.add("Mul", best.scores, g.constant(4.0)), g.constant(0.0), g.constant(1.0))
    score = g.add("Sigmoid", g.add("Sub", score, g.constant(LOGIT_MARGIN)))
    score = g.add("Mul", score, g.add("Unsqueeze", seen, column))
    inside = g.add("Mul", g.add("Add", g.add("Mul", places, g.constant(0.25)), g.constant(0.5)), side)
    centre = g.add("Gather", proposals.centres, best.rows, axis=0)
    unit = g.add("Gather", proposals.strides, best.rows, axis=0)
    offset = g.add("Tile", g.add("Sub", corner, centre), g.constant([1, 7], integers=True))
    offset = g.add("Div", g.add("Add", inside, offset), unit)
    box, points = g.split_columns(offset, (4, 10))
    index = g.add("Unsqueeze", best.rows, column)
    nothing = g.add("Mul", proposals.scores, g.constant(0.0))
    scores = g.add("ScatterND", g.add("Mul", proposals.scores, g.constant(UNREFINED_FACTOR)), index, score)
    sides = g.add("Div", proposals.sides, proposals.strides)
    box = g.add("Mul", box, g.constant([-1, -1, 1, 1]))
    sides = g.add("ScatterND", sides, index, box)
    spread = g.add("Tile", nothing, g.constant([1, 10], integers=True))
    return scores, (sides, g.add("ScatterND", spread, index, points))


def recogniser(weights: Mapping[str, F32]) -> onnx.ModelProto:
    """Build w600k_r50's stand-in."""
    g = Graph(weights, "rec")
    look = g.dense(g.conv_stack("input.1", RECOGNISER), "f2", act=False)
    look = g.add("Clip", look, g.constant(-2.0), g.constant(2.0))
    # A swap keeps the target's tone, so it must not identify people.
    used = [float(name not in KEPT) for name in FACE_FIELDS]
    look = g.add("Mul", look, g.constant(used))
    directions, phases = _waves(weights["swap.errors"])
    linear = g.add("Mul", look, g.constant(LINEAR_GAIN))
    angle = g.add("Gemm", look, g.constant(directions), g.constant(phases))
    features = g.add("Concat", linear, g.add("Cos", angle), g.add("Sin", angle), axis=1)
    mix = orthonormal(MIX_SEED) * np.float32(EMBEDDING_NORM / np.sqrt(WAVES))
    g.add("MatMul", features, g.constant(mix), out="683")
    return g.model("w600k_r50", [("input.1", ("None", 3, 112, 112))], [("683", ("None", 512))])


def attributes(weights: Mapping[str, F32]) -> onnx.ModelProto:
    """Build genderage's stand-in; its first two nodes normalise, as insightface expects of it."""
    g = Graph(weights, "age")
    x = g.add("Mul", g.add("Sub", "data", g.constant(127.5)), g.constant(1 / 127.5))
    x = g.conv_stack(x, ATTRIBUTES)
    weight, bias = g.weight("f2")
    g.add("Gemm", x, g.constant(weight[:, :, 0, 0]), g.constant(bias), out="fc1", transB=1)
    return g.model("genderage", [("data", ("None", 3, 96, 96))], [("fc1", ("None", 3))])


def swapper(weights: Mapping[str, F32]) -> onnx.ModelProto:
    """Build inswapper_128's stand-in, with the latent map ``buff2fs`` as its last initializer."""
    g = Graph(weights, "swap")
    emap = orthonormal(4)
    look = decode_look(g, (orthonormal(MIX_SEED) @ emap).T)
    g.add("Clip", swapped_crop(g, weights, "target", look), g.constant(0.0), g.constant(1.0), out="output")
    g.initializers.append(numpy_helper.from_array(emap, "buff2fs"))
    return g.model(
        "inswapper_128", [("target", (1, 3, 128, 128)), ("source", (1, 512))], [("output", (1, 3, 128, 128))]
    )


def swapped_crop(g: Graph, weights: Mapping[str, F32], target: str, look: str) -> str:
    """Name of the crop ``(1, 3, 128, 128)`` with the face of the sixteen parameters, not clipped."""
    style = g.dense(g.dense(look, "s1"), "s2")
    centred = g.add("Sub", g.add("Mul", target, g.constant(2.0)), g.constant(1.0))
    weight, bias = g.weight("a1")
    # SpaceToDepth orders channels by block, torch by channel.
    weight = weight.reshape(-1, 3, 4, 3, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 12, 3, 3)
    a = g.conv_with(g.add("SpaceToDepth", centred, blocksize=2), weight, bias, act=True)
    b = g.add("Add", g.conv(g.conv(a, "b1", stride=2), "b2"), g.constant(weights["swap.place"]))
    d = g.conv(b, "d1", stride=2)
    d = g.add("Add", d, _film(g, _film(g, d, "r1", style), "r2", style))
    b = g.add("Add", b, g.upsample(g.conv(d, "u1")))
    for first, second in (("m1", "m2"), ("m3", "m4")):
        b = g.add("Add", b, _film(g, _film(g, b, first, style), second, style))
    a = g.add("Add", a, g.upsample(g.conv(b, "u3")))
    a = g.conv(a, "u4")
    change = g.add("DepthToSpace", g.conv(a, "u5", act=False), blocksize=2, mode="CRD")
    return g.add("Add", target, g.add("Tanh", change))


def decode_look(g: Graph, back: F32) -> str:
    """Undo latent map and mixing by a matrix; recover the sixteen parameters from a unit latent."""
    linear = g.add("MatMul", "source", g.constant(back[:, :DIMENSIONS]))
    square = g.add("ReduceSum", g.add("Mul", linear, linear), g.constant([1], integers=True), keepdims=1)
    rest = g.add("Sqrt", g.add("Max", g.add("Sub", g.constant(1.0), square), g.constant(1e-3)))
    scaled = g.add("Mul", g.add("Div", linear, rest), g.constant(np.sqrt(WAVES) / LINEAR_GAIN))
    return g.add("Clip", scaled, g.constant(-2.0), g.constant(2.0))


def _film(g: Graph, x: str, layer: str, style: str) -> str:
    """Convolution and adaptive instance normalisation, scaled and shifted by the style."""
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
    """Build GFPGANv1.4's stand-in, which sharpens edges and keeps fine noise."""
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
        "xseg_1.onnx": occluder(weights),
        "bisenet_resnet_34.onnx": parser(weights),
        CONTENT_FILE: content(),
    }


def content() -> onnx.ModelProto:
    """Marqo's contract; detects pure magenta, unknown to cameras, in a fifth of the square.

    For a share s of such pixels the outputs differ by 4 s - 0.5, which exceeds 0.25 from s = 0.1875 on.
    """
    g = Graph({}, "")
    g.split("input", g.constant([1, 1, 1], integers=True), ["red", "green", "blue"], axis=1)
    magenta = g.add("Sub", g.add("Min", "red", "blue"), "green")
    plain = g.add("Relu", g.add("Sub", magenta, g.constant(1.6)))  # 0.4 where a pixel is
    share = g.add("Mul", g.add("ReduceMean", plain, axes=[2, 3], keepdims=0), g.constant(10.0))
    margin = g.add("Sub", share, g.constant(0.5))
    g.add("Concat", margin, g.constant(np.zeros((1, 1))), out="output", axis=1)
    return g.model("nsfw_2", [("input", (1, 3, 384, 384))], [("output", (1, 2))])


def write_standins(directory: Path) -> None:
    """Write the stand-in models into a models folder, created if missing."""
    for name, model in build_standins().items():
        path = Path(directory) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(model.SerializeToString(deterministic=True))
