"""ONNX graphs that sample a face before its network and blend the result afterwards, on the same device.

They exchange data with the network in device memory; its file, weights and CUDA graph are not changed. The
arithmetic is that of ``media.picture``, ``media.blending`` and ``faces.sharpness``, whose matrices, weights
and limits are passed as numbers. Only operators that ONNX Runtime supports on CUDA in opset 17 are used.
Bounds that are not constant use Min and Max, because Clip reads its bounds on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from colab_helpers.faces.masks import VISIBILITY_SIZE, mask_edge
from colab_helpers.faces.sharpness import MAX_PIXELS, REACH, edges_kernel

OPSET, _IR_VERSION = 17, 8
VERSION = 1
"""Increased whenever results or speed of the graphs change, which invalidates recorded verdicts."""
NO_LIMIT = 1e30
_EDGE = MAX_PIXELS + 2 * REACH  # of the square in which sharpness is measured
# OpenCV's weights of red, green and blue for grey (ITU-R BT.601).
_GREY = np.array([0.299, 0.587, 0.114], np.float32)
# The numbers passed to a graph in one vector: names, in order, and lengths. "a to b" is a matrix (2, 3) from
# pixels of the picture to be filled to pixels of the one read; "end" is the last valid pixel, (x, y).
HEAD: Mapping[str, int] = {
    "crop to luma": 6, "luma end": 2, "crop to chroma": 6, "chroma end": 2, "chroma doubled": 1,
    "to rgb": 12,
}  # fmt: skip
_TAIL = {
    "luma to crop": 6, "luma cubic": 1, "chroma to crop": 6, "chroma cubic": 1, "cover": 6, "to yuv": 12,
    "share": 1, "weight": 1,
}  # fmt: skip
_SHARP = {"x": _EDGE, "y": _EDGE, "inside": MAX_PIXELS, "count": 1, "most": 1}


@dataclass(frozen=True)
class Area:
    """Buffer size for a face's part of an 8 bit 4:2:0 frame: ``edge`` luma samples each way."""

    edge: int

    @cached_property
    def shapes(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Planes, rows and columns of luma and chroma."""
        return (1, self.edge, self.edge), (2, self.edge // 2, self.edge // 2)

    @cached_property
    def sizes(self) -> list[int]:
        """Number of luma samples and of chroma samples."""
        return [math.prod(shape) for shape in self.shapes]


def tail_numbers(area: Area, *, sharp: bool) -> dict[str, int]:
    """Return names, in order, and lengths of the numbers that the graph after a network takes."""
    ramps = {
        f"{name} {axis}": length
        for name, (_, *shape) in zip(("luma", "chroma"), area.shapes, strict=True)
        for axis, length in zip(("down", "across"), shape, strict=True)
    }
    return {**_TAIL, **ramps, **(_SHARP if sharp else {})}


class _Graph:
    """Builds a graph node by node; inputs that are not names become constants."""

    def __init__(self, numbers: Mapping[str, int]) -> None:
        from onnx import helper, numpy_helper  # slow to import, and only needed on a GPU

        self._helper, self._to_tensor = helper, numpy_helper.from_array
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self.numbers = dict(zip(numbers, self.cut("numbers", list(numbers.values())), strict=True))

    def constant(self, value: Any) -> str:
        array = np.asarray(value)
        kind = np.int64 if array.dtype.kind == "i" else np.float32
        self._constants.append(self._to_tensor(array.astype(kind), f"constant_{len(self._constants)}"))
        return str(self._constants[-1].name)

    def add(self, op: str, *inputs: Any, out: Sequence[str] = (), **attributes: Any) -> str:
        names = [name if isinstance(name, str) else self.constant(name) for name in inputs]
        outputs = list(out) or [f"{op}_{len(self._nodes)}"]
        node = self._helper.make_node(op, names, outputs, f"{op}_{len(self._nodes)}", **attributes)
        self._nodes.append(node)
        return outputs[0]

    def cut(self, value: str, sizes: Sequence[int], *, axis: int = 0) -> list[str]:
        outputs = [f"{value}_{len(self._nodes)}_{number}" for number in range(len(sizes))]
        self.add("Split", value, list(sizes), out=outputs, axis=axis)
        return outputs

    def round(self, value: str) -> str:
        return self.add("Clip", self.add("Round", value), 0.0, 255.0)

    def convert_colours(self, value: str, matrix: str, size: int) -> str:
        """Convert the colours of a picture ``(1, 3, size, size)`` by a matrix, and round."""
        parts = [f"{matrix} {part}" for part in ("scale", "black")]
        self.add("Split", self.add("Reshape", self.numbers[matrix], [3, 4]), [3, 1], out=parts, axis=1)
        mixed = self.add("MatMul", parts[0], self.add("Reshape", value, [3, -1]))
        return self.add("Reshape", self.round(self.add("Add", mixed, parts[1])), [1, 3, size, size])

    def grid(
        self, matrix: str, to: Sequence[int], source: Sequence[int], *, end: str = "", step: int = 1
    ) -> str:
        """Return the GridSample grid that fills a picture of size ``to`` from one of size ``source``.

        Sizes are ``(rows, columns)``. ``matrix`` names the matrix from the former's pixels, each ``step`` of
        its units wide, to the latter's, and ``end`` the latter's last valid pixel, if any are invalid.
        """
        (rows, columns), number = to, self.cut(self.numbers[matrix], [1] * 6)
        ys, xs = (np.arange(count, dtype=np.float32) * step + (step - 1) / 2 for count in to)
        ends = self.cut(self.numbers[end], [1, 1]) if end else ()
        axes = []
        for axis, length in enumerate(reversed(source)):
            across = self.add("Mul", xs, number[3 * axis])
            down = self.add("Mul", ys[:, None], number[3 * axis + 1])
            at = self.add("Add", self.add("Add", across, down), number[3 * axis + 2])
            if ends:
                at = self.add("Max", self.add("Min", at, ends[axis]), 0.0)
            at = self.add("Add", self.add("Mul", at, 2 / (length - 1)), -1.0)
            axes.append(self.add("Reshape", at, [1, rows, columns, 1]))
        return self.add("Concat", *axes, axis=3)

    def sample(self, value: str, grid: str, mode: str = "bilinear") -> str:
        # Beyond the border, bicubic sampling differs from OpenCV, but no mask shows that.
        return self.add("GridSample", value, grid, mode=mode, padding_mode="border", align_corners=1)

    def planes(self, area: Area) -> list[str]:
        """Return luma and chroma of the frame as floats."""
        parts = self.cut("pixels", area.sizes)
        return [
            self.add("Cast", self.add("Reshape", part, [1, *shape]), to=1)
            for part, shape in zip(parts, area.shapes, strict=True)
        ]

    def model(self, inputs: Mapping[str, tuple[Any, Sequence[int]]], outputs: Mapping[str, Any]) -> bytes:
        helper = self._helper
        ins, outs = (
            [
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), shape)
                for name, (kind, shape) in values.items()
            ]
            for values in (inputs, outputs)
        )
        graph = helper.make_graph(self._nodes, "pixels", ins, outs, self._constants)
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION)
        serialized: bytes = model.SerializeToString()
        return serialized


def head(area: Area, size: int, black: float) -> bytes:
    """Serialize the graph before a network, from planes to its input ``picture`` and the 8 bit ``crop``.

    Args:
        area: Buffer size of the planes.
        size: Edge of the network's crop, in pixels.
        black: Value of black in the network's input; white is 1.
    """
    g, (luma, chroma) = _Graph(HEAD), area.shapes
    planes = g.planes(area)

    def read(plane: str, name: str, shape: Sequence[int], step: int = 1) -> str:
        to = size // step, size // step
        grid = g.grid(f"crop to {name}", to, shape[1:], end=f"{name} end", step=step)
        return g.round(g.sample(plane, grid))

    colours, half = (read(planes[1], "chroma", chroma, step) for step in (1, 2))
    double = g.add("Resize", half, "", np.array([1, 1, 2, 2], np.float32), mode="linear")
    # One value in sixteen lies halfway between two integers; OpenCV mostly rounds these down.
    double = g.add("Ceil", g.add("Sub", double, 0.5))
    more = g.add("Mul", g.add("Sub", double, colours), g.numbers["chroma doubled"])
    grey = read(planes[0], "luma", luma)
    crop = g.convert_colours(g.add("Concat", grey, g.add("Add", colours, more), axis=1), "to rgb", size)
    g.add("Identity", crop, out=["crop"])
    g.add("Add", g.add("Mul", crop, (1 - black) / 255), black, out=["picture"])
    picture = np.float32, [1, 3, size, size]
    return g.model(
        {"pixels": (np.uint8, [sum(area.sizes)]), "numbers": (np.float32, [sum(HEAD.values())])},
        {"picture": picture, "crop": picture},
    )


def tail(area: Area, size: int, levels: tuple[float, float], *, sharp: bool) -> bytes:
    """Serialize the graph after a network, which blends the network's output ``picture`` into planes.

    Args:
        area: Buffer size of the planes.
        size: Edge of the network's crop, in pixels.
        levels: Factor and offset that turn the output's values into grey levels.
        sharp: Limit the face's sharpness, by comparison with the ``crop`` before the network.
    """
    numbers, edge = tail_numbers(area, sharp=sharp), mask_edge(size)
    g = _Graph(numbers)
    new = g.round(g.add("Add", g.add("Mul", "picture", levels[0]), levels[1]))
    share = g.add("Mul", _sharp_share(g, new) if sharp else g.numbers["share"], g.numbers["weight"])
    cover = g.add("Cast", g.add("Reshape", "cover", [1, 1, VISIBILITY_SIZE, VISIBILITY_SIZE]), to=1)
    visible = g.round(g.sample(cover, g.grid("cover", (edge, edge), (VISIBILITY_SIZE, VISIBILITY_SIZE))))
    limit = g.add("Reshape", "mask", [1, 1, edge, edge])
    mask = g.add("Mul", g.add("Min", g.add("Mul", visible, 1 / 255), limit), share)
    crops = g.cut(g.convert_colours(new, "to yuv", size), [1, 2], axis=1)
    blended = [
        _blend(g, name, (*shape[1:], size), old, crop, mask)
        for name, shape, old, crop in zip(("luma", "chroma"), area.shapes, g.planes(area), crops, strict=True)
    ]
    packed = g.add("Concat", *(g.add("Reshape", plane, [-1]) for plane in blended), axis=0)
    g.add("Cast", packed, out=["blended"], to=2)  # TensorProto.UINT8
    shape, pixels = [1, 3, size, size], (np.uint8, [sum(area.sizes)])
    inputs = {
        "picture": (np.float32, shape),
        "pixels": pixels,
        "numbers": (np.float32, [sum(numbers.values())]),
        "mask": (np.float32, [edge, edge]),
        "cover": (np.uint8, [VISIBILITY_SIZE, VISIBILITY_SIZE]),
    }
    return g.model({**inputs, **({"crop": (np.float32, shape)} if sharp else {})}, {"blended": pixels})


def _blend(g: _Graph, name: str, shape: tuple[int, int, int], old: str, crop: str, mask: str) -> str:
    """Blend a crop into planes as ``media.blending.blend_plane`` does."""
    rows, columns, size = shape
    grid = g.grid(f"{name} to crop", (rows, columns), (size, size))
    smooth, sharp = (g.round(g.sample(crop, grid, mode)) for mode in ("bilinear", "bicubic"))
    new = g.add("Add", smooth, g.add("Mul", g.add("Sub", sharp, smooth), g.numbers[f"{name} cubic"]))
    if (edge := mask_edge(size)) != size:  # from grid coordinates in the crop to those in a smaller mask
        ratio = edge / size
        scale = ratio * (size - 1) / (edge - 1)
        grid = g.add("Add", g.add("Mul", grid, scale), scale + (ratio - 1) / (edge - 1) - 1)
    weight = g.add("Mul", g.sample(mask, grid), g.numbers[f"{name} across"])
    weight = g.add("Mul", weight, g.add("Reshape", g.numbers[f"{name} down"], [rows, 1]))
    return g.round(g.add("Add", old, g.add("Mul", g.add("Sub", new, old), weight)))


def _sharp_share(g: _Graph, new: str) -> str:
    """Compute the opacity of the enhanced crop as ``sharpness.Sharpness.share`` does."""
    axes = [
        g.add("Mul", g.add("Reshape", g.numbers[axis], shape), np.ones((_EDGE, _EDGE), np.float32))
        for axis, shape in (("x", [1, _EDGE]), ("y", [_EDGE, 1]))
    ]
    grid = g.add("Concat", *(g.add("Reshape", axis, [1, _EDGE, _EDGE, 1]) for axis in axes), axis=3)
    both = g.add("Mul", g.add("Concat", "crop", new, axis=0), _GREY[:, None, None])
    grey = g.round(g.add("ReduceSum", both, [1], keepdims=1))
    scaled = g.round(g.sample(grey, g.add("Concat", grid, grid, axis=0)))
    edges = g.add("Conv", scaled, edges_kernel()[None, None])
    inside = g.numbers["inside"]
    edges = g.add("Mul", g.add("Mul", edges, inside), g.add("Reshape", inside, [MAX_PIXELS, 1]))
    plain, enhanced = g.cut(edges, [1, 1], axis=0)
    added = g.add("Sub", enhanced, plain)

    def product(one: str, other: str) -> str:
        return g.add("Div", g.add("ReduceSum", g.add("Mul", one, other), keepdims=0), g.numbers["count"])

    square, linear = product(added, added), product(plain, added)
    spare = g.add("Sub", g.numbers["most"], product(plain, plain))
    most = g.numbers["share"]
    power = g.add("Mul", g.add("Add", g.add("Mul", square, most), g.add("Mul", linear, 2.0)), most)
    radicand = g.add("Max", g.add("Add", g.add("Mul", linear, linear), g.add("Mul", square, spare)), 0.0)
    root = g.add("Div", g.add("Sub", g.add("Sqrt", radicand), linear), g.add("Max", square, 1e-9))
    limited = g.add("Min", g.add("Max", root, 0.0), most)
    return g.add("Where", g.add("LessOrEqual", power, spare), most, limited)
