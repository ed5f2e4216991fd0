"""Stand-ins of the mask networks: an occluder with XSeg's contract, a face parser with BiSeNet's.

The occluder works on the aligned crop, the parser on a crop downsampled by four.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from tests.people.graph import F32, Graph
from tests.people.regions import PARTS

_SIZE = 256
# Space-to-depth block sizes.
OCCLUDER_FOLD, PARSER_FOLD = 4, 2
_PARSER_SCALE = 4
_CLASSES = 19
# Logit of the classes that the stand-in does not know.
_UNKNOWN = -30.0


def occluder(weights: Mapping[str, F32]) -> onnx.ModelProto:
    """Build xseg_1's stand-in; its input is BGR with channels last."""
    g = Graph(weights, "occ")
    order = g.constant([2, 1, 0], integers=True)
    rgb = g.add("Transpose", g.add("Gather", "input", order, axis=3), perm=[0, 3, 1, 2])
    centred = g.add("Sub", g.add("Mul", rgb, g.constant(2.0)), g.constant(1.0))
    seen = g.add("Sigmoid", _segment(g, centred, OCCLUDER_FOLD, weights["occ.place"]))
    g.add("Transpose", seen, out="output", perm=[0, 2, 3, 1])
    return g.model(
        "xseg_1", [("input", ("batch", _SIZE, _SIZE, 3))], [("output", ("batch", _SIZE, _SIZE, 1))]
    )


def parser(weights: Mapping[str, F32]) -> onnx.ModelProto:
    """Build bisenet_resnet_34's stand-in; it undoes the input normalisation of the real one."""
    g = Graph(weights, "parse")
    mean, spread = (np.array(v).reshape(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    centred = g.add("Add", g.add("Mul", "input", g.constant(2 * spread)), g.constant(2 * mean - 1))
    small = g.add("AveragePool", centred, kernel_shape=[_PARSER_SCALE] * 2, strides=[_PARSER_SCALE] * 2)
    known = _segment(g, small, PARSER_FOLD, weights["parse.place"])
    larger = g.constant([1, 1, _PARSER_SCALE, _PARSER_SCALE])
    half = {"coordinate_transformation_mode": "half_pixel"}
    known = g.add("Resize", known, "", larger, mode="linear", **half)
    unknown = g.add("Add", g.add("Mul", known, g.constant(0.0)), g.constant(_UNKNOWN))
    indices = [PARTS.index(n) if n in PARTS else len(PARTS) for n in range(_CLASSES)]
    both = g.add("Concat", known, unknown, axis=1)
    g.add("Gather", both, g.constant(indices, integers=True), out="output", axis=1)
    size = 2 * _SIZE
    return g.model(
        "bisenet_resnet_34",
        [("input", ("batch", 3, size, size))],
        [("output", ("batch", _CLASSES, size, size))],
    )


def _segment(g: Graph, x: str, fold: int, place: F32) -> str:
    """Logits of each pixel of ``x`` (RGB from -1 to 1); see ``MaskNet``."""
    weight, bias = g.weight("a1")
    # SpaceToDepth orders channels by block, torch by channel.
    cells = weight.reshape(-1, 3, fold**2, 3, 3).transpose(0, 2, 1, 3, 4).reshape(weight.shape)
    a = g.conv_with(g.add("SpaceToDepth", x, blocksize=fold), cells, bias, act=True)
    b = g.conv(g.conv(a, "b1", stride=2), "b2")
    c = g.add("Add", g.conv(b, "c1", stride=2), g.constant(place))
    c = g.conv(g.conv(c, "c2"), "c3", dilation=2)
    b = g.conv(g.add("Add", b, g.upsample(g.conv(c, "u1"))), "u2")
    a = g.conv(g.add("Add", a, g.upsample(g.conv(b, "u3"))), "u4")
    return g.add("DepthToSpace", g.conv(a, "u5", act=False), blocksize=fold, mode="CRD")
