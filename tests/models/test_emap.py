"""The swapper's projection matrix, read where it stands in the file."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper

from colab_helpers.errors import ModelError
from colab_helpers.models import emap as room
from colab_helpers.models.emap import read_emap
from tests.helpers.networks import net, small_inswapper


@cache
def matrix() -> npt.NDArray[np.float32]:
    return np.asarray(numpy_helper.to_array(small_inswapper().graph.initializer[-1]))


def test_it_is_read_without_parsing_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "load_model", lambda _: pytest.fail("parsed the model"))
    onnx.save(small_inswapper(), tmp_path / "net.onnx")
    found = read_emap(tmp_path / "net.onnx")
    np.testing.assert_array_equal(found, matrix())
    assert found.dtype == np.float32


def renamed(model: onnx.ModelProto) -> None:
    model.graph.initializer[-1].name = "renamed"


def halved(model: onnx.ModelProto) -> None:
    model.graph.initializer[-1].CopyFrom(numpy_helper.from_array(matrix().astype(np.float16), "buff2fs"))


def as_numbers(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[-1]
    tensor.ClearField("raw_data")
    tensor.float_data.extend(matrix().ravel())


def named_elsewhere(model: onnx.ModelProto) -> None:
    model.graph.node[0].doc_string = "buff2fs\x4a"


@pytest.mark.parametrize("change", [renamed, halved, as_numbers, named_elsewhere])
def test_it_is_found_however_the_file_is_written(
    tmp_path: Path, change: Callable[[onnx.ModelProto], None]
) -> None:
    model = small_inswapper()
    change(model)
    onnx.save(model, tmp_path / "net.onnx")
    found = read_emap(tmp_path / "net.onnx")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, matrix(), atol=1e-4)


def test_model_without_matrix(tmp_path: Path) -> None:
    onnx.save(net("plain"), tmp_path / "net.onnx")
    with pytest.raises(ModelError, match="buff2fs"):
        read_emap(tmp_path / "net.onnx")
