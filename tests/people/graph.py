"""Builder of ONNX graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

F32 = npt.NDArray[np.float32]
# A stack of convolutions: channels, kernel size and stride of each.
ConvStack = tuple[tuple[int, int, int], ...]
REFINER: ConvStack = ((24, 3, 2), (40, 3, 2), (40, 3, 1), (64, 3, 2), (64, 3, 1), (20, 1, 1))
RECOGNISER: ConvStack = (
    (16, 3, 2), (32, 3, 2), (32, 3, 1), (64, 3, 2), (64, 3, 1), (96, 3, 2), (96, 3, 1), (32, 1, 1)
)  # fmt: skip
ATTRIBUTES: ConvStack = ((16, 3, 2), (32, 3, 2), (48, 3, 2), (64, 3, 2), (24, 1, 1))
Value = tuple[str, Sequence[int | str]]  # a name and its shape
_NOTE = "stand-in for tests and the demo; knows rendered people only and is not the real model"


class Graph:
    """Collects nodes and initializers of one model; trained layers are looked up by name."""

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

    def use(self, prefix: str) -> None:
        """Use the layers of another trained network from now on."""
        self._prefix = prefix

    def top(self, values: str, count: int) -> tuple[str, str]:
        """Add a TopK of (N,) values; return the names of values and indices, both (count,)."""
        names = f"top_{len(self.nodes)}", f"top_at_{len(self.nodes)}"
        inputs = [values, self.constant([count], integers=True)]
        self.nodes.append(helper.make_node("TopK", inputs, names, name=f"TopK_{len(self.nodes)}"))
        return names

    def split(self, x: str, sizes: str, outs: Sequence[str], *, axis: int = 0) -> None:
        """Add a split of ``x`` into named parts."""
        name = f"Split_{len(self.nodes)}"
        self.nodes.append(helper.make_node("Split", [x, sizes], list(outs), name=name, axis=axis))

    def split_columns(self, x: str, widths: Sequence[int]) -> list[str]:
        """Add a split of (K, sum of widths) by columns; return the parts' names."""
        names = [f"cut_{len(self.nodes)}_{k}" for k in range(len(widths))]
        self.split(x, self.constant(widths, integers=True), names, axis=1)
        return names

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
        steps = {"pads": [pad] * 4, "strides": [stride] * 2, "dilations": [dilation] * 2}
        shape = list(weight.shape[2:])
        y = self.add("Conv", x, self.constant(weight), self.constant(bias), kernel_shape=shape, **steps)
        return self.add("LeakyRelu", y, alpha=0.1) if act else y

    def dense(self, x: str, layer: str, *, act: bool = True) -> str:
        """Add a trained fully connected layer, stored as a 1 x 1 convolution."""
        weight, bias = self.weight(layer)
        y = self.add("Gemm", x, self.constant(weight[:, :, 0, 0]), self.constant(bias), transB=1)
        return self.add("LeakyRelu", y, alpha=0.1) if act else y

    def conv_stack(self, x: str, stack: ConvStack) -> str:
        """Add a stack of convolutions c1, c2, … and the fully connected f1."""
        for number, (_, _, stride) in enumerate(stack, 1):
            x = self.conv(x, f"c{number}", stride=stride)
        return self.dense(self.add("Flatten", x), "f1")

    def upsample(self, x: str) -> str:
        """Add a nearest-neighbour upsampling by two."""
        modes = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self.add("Resize", x, "", self.constant([1, 1, 2, 2]), mode="nearest", **modes)

    def model(self, name: str, inputs: Sequence[Value], outputs: Sequence[Value]) -> onnx.ModelProto:
        """Build and check the model, marked as a stand-in."""
        ins, outs = (
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(shape)) for n, shape in values]
            for values in (inputs, outputs)
        )
        graph = helper.make_graph(self.nodes, name, ins, outs, self.initializers)
        opset = [helper.make_opsetid("", 17)]
        model = helper.make_model(graph, opset_imports=opset, producer_name="colab_helpers")
        model.ir_version = 10
        model.doc_string = _NOTE
        helper.set_model_props(model, {"colab_helpers.standin": "true", "description": f"{name}: {_NOTE}"})
        onnx.checker.check_model(model)
        return model
