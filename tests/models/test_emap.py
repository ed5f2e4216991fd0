"""Reading the swapper's projection matrix from the file."""

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
from colab_helpers.models import emap
from colab_helpers.models.emap import read_emap
from tests.helpers.networks import net, small_inswapper


@cache
def matrix() -> npt.NDArray[np.float32]:
    return np.asarray(numpy_helper.to_array(small_inswapper().graph.initializer[-1]))


def test_matrix_is_read_without_parsing_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emap, "load_model", lambda _: pytest.fail("parsed the model"))
    onnx.save(small_inswapper(), tmp_path / "net.onnx")
    found = read_emap(tmp_path / "net.onnx")
    np.testing.assert_array_equal(found, matrix())
    assert found.dtype == np.float32


def rename(model: onnx.ModelProto) -> None:
    model.graph.initializer[-1].name = "renamed"


def store_as_float16(model: onnx.ModelProto) -> None:
    model.graph.initializer[-1].CopyFrom(numpy_helper.from_array(matrix().astype(np.float16), "buff2fs"))


def store_as_float_data(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[-1]
    tensor.ClearField("raw_data")
    tensor.float_data.extend(matrix().ravel())


def repeat_the_name(model: onnx.ModelProto) -> None:
    model.graph.node[0].doc_string = "buff2fs\x4a"


@pytest.mark.parametrize("change", [rename, store_as_float16, store_as_float_data, repeat_the_name])
def test_matrix_is_found_in_other_encodings(
    tmp_path: Path, change: Callable[[onnx.ModelProto], None]
) -> None:
    model = small_inswapper()
    change(model)
    onnx.save(model, tmp_path / "net.onnx")
    found = read_emap(tmp_path / "net.onnx")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, matrix(), atol=1e-4)


def test_model_without_matrix_is_refused(tmp_path: Path) -> None:
    onnx.save(net("plain"), tmp_path / "net.onnx")
    with pytest.raises(ModelError, match="buff2fs"):
        read_emap(tmp_path / "net.onnx")
