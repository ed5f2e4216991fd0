"""The projection matrix kept beside the swapper."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from colab_helpers.errors import ModelError
from colab_helpers.faces.swapper import Swapper
from colab_helpers.models import emap as room
from colab_helpers.models.emap import emap_path, read_emap, save_emap
from colab_helpers.models.session import Runtime
from tests.helpers.networks import net, small_inswapper

OTHER = np.arange(512 * 512, dtype=np.float32).reshape(512, 512)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "inswapper_128.onnx"
    onnx.save(small_inswapper(), path)
    return path


def inside(path: Path) -> np.ndarray:
    return np.asarray(numpy_helper.to_array(onnx.load(path).graph.initializer[-1]))


def test_saved_matrix_is_read_without_the_model(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = inside(model)
    np.testing.assert_array_equal(read_emap(model), expected)
    assert save_emap(model, expected) == emap_path(model)

    def never(_: Path) -> onnx.ModelProto:
        raise AssertionError("parsed the model")

    monkeypatch.setattr(room, "load_model", never)
    found = read_emap(model)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float32


def test_swapper_uses_the_saved_matrix(model: Path) -> None:
    save_emap(model, OTHER)
    embedding = np.zeros(512, np.float32)
    embedding[3] = 1
    expected = OTHER[3] / np.linalg.norm(OTHER[3])
    np.testing.assert_allclose(
        Swapper(Runtime("cpu", threads=1).open(model)).latent(embedding), expected, rtol=1e-6
    )


@pytest.mark.parametrize("change", ["size", "time"])
def test_stale_matrix_is_not_used(model: Path, change: str) -> None:
    saved = save_emap(model, OTHER)
    if change == "size":
        found = model.stat()
        longer = small_inswapper(7)
        longer.doc_string = "one field more"
        onnx.save(longer, model)
        os.utime(model, ns=(found.st_atime_ns, found.st_mtime_ns))
    else:
        os.utime(model, ns=(0, model.stat().st_mtime_ns + 10**9))
    np.testing.assert_array_equal(read_emap(model), inside(model))
    current = save_emap(model, inside(model))
    assert not saved.exists()
    assert list(model.parent.glob("*.npy")) == [current]


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"junk"])
def test_damaged_matrix_is_not_used(model: Path, content: bytes) -> None:
    emap_path(model).write_bytes(content)
    np.testing.assert_array_equal(read_emap(model), inside(model))


@pytest.mark.parametrize("wrong", [OTHER[:5], OTHER.astype(np.float64)])
def test_matrix_of_another_kind_is_not_used(model: Path, wrong: np.ndarray) -> None:
    np.save(emap_path(model), wrong)
    np.testing.assert_array_equal(read_emap(model), inside(model))


def test_other_models_keep_theirs(model: Path) -> None:
    other = model.with_name("inswapper_128.other.onnx")
    other.write_bytes(model.read_bytes())
    kept = save_emap(other, OTHER)
    os.utime(model, ns=(0, 5))
    save_emap(model, OTHER)
    assert kept.exists()
    assert len(list(model.parent.glob("*.npy"))) == 2


def test_half_precision_matrix(tmp_path: Path) -> None:
    graph = small_inswapper()
    exact = numpy_helper.to_array(graph.graph.initializer[-1])
    graph.graph.initializer[-1].CopyFrom(numpy_helper.from_array(exact.astype(np.float16), "buff2fs"))
    path = tmp_path / "inswapper_128_fp16.onnx"
    onnx.save(graph, path)
    found = read_emap(path)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, exact, atol=1e-4)


def test_model_without_matrix(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(net("plain"), path)
    with pytest.raises(ModelError, match="buff2fs"):
        read_emap(path)
