from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from colab_helpers.diagnosis.bench_networks import IR_VERSION, OPSET, write_constant_models
from tests.pipeline.swapping import FACE


@pytest.fixture(scope="session")
def faceless_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The constant models with a detector whose only face is below the minimum score."""
    folder = write_constant_models(tmp_path_factory.mktemp("faceless"), box=FACE)
    model = onnx.load(folder / "buffalo_l" / "det_10g.onnx")
    for node in model.graph.node:
        value = node.attribute[0].t
        if list(value.dims)[1] == 1:
            value.CopyFrom(numpy_helper.from_array(np.zeros(list(value.dims), np.float32)))
    onnx.save(model, folder / "buffalo_l" / "det_10g.onnx")
    return folder


@pytest.fixture(scope="session")
def inverting_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The constant models with a swapper that inverts a crop."""
    folder = write_constant_models(tmp_path_factory.mktemp("inverting"), box=FACE)
    shape = [1, 3, 128, 128]
    one = numpy_helper.from_array(np.array(1, np.float32), "one")
    emap = numpy_helper.from_array(np.eye(512, dtype=np.float32), "buff2fs")
    graph = helper.make_graph(
        [helper.make_node("Sub", ["one", "target"], ["output"])],
        "inverting",
        [
            helper.make_tensor_value_info("target", TensorProto.FLOAT, shape),
            helper.make_tensor_value_info("source", TensorProto.FLOAT, [1, 512]),
        ],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        [one, emap],
    )
    model = helper.make_model(graph, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)])
    onnx.save(model, folder / "inswapper_128.onnx")
    return folder


@pytest.fixture(autouse=True)
def report_every_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("colab_helpers.pipeline.report_progress.PROGRESS_INTERVAL", 0.0)
