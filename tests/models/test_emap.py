"""The projection matrix kept beside the swapper."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from colab_helpers.errors import ModelError
from colab_helpers.faces.swapper_enhancer import Swapper
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


def test_the_matrix_is_taken_from_the_model_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = inside(model)
    np.testing.assert_array_equal(read_emap(model), expected)
    assert emap_path(model).is_file()
    monkeypatch.setattr(room, "load_model", lambda _: pytest.fail("parsed the model"))
    found = read_emap(model)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float32


def test_swapper_uses_the_saved_matrix(model: Path) -> None:
    save_emap(model, OTHER)
    embedding = np.eye(512, dtype=np.float32)[3]
    latent = Swapper(Runtime("cpu", threads=1).open(model)).latent(embedding)
    np.testing.assert_allclose(latent, OTHER[3] / np.linalg.norm(OTHER[3]), rtol=1e-6)


@pytest.mark.parametrize("change", ["size", "time"])
def test_stale_matrix_is_not_used(model: Path, change: str) -> None:
    other = model.with_name("inswapper_128.other.onnx")
    other.write_bytes(model.read_bytes())
    kept, saved = save_emap(other, OTHER), save_emap(model, OTHER)
    if change == "size":
        found = model.stat()
        longer = small_inswapper(7)
        longer.doc_string = "one field more"
        onnx.save(longer, model)
        os.utime(model, ns=(found.st_atime_ns, found.st_mtime_ns))
    else:
        os.utime(model, ns=(0, model.stat().st_mtime_ns + 10**9))
    np.testing.assert_array_equal(read_emap(model), inside(model))
    assert not saved.exists()
    assert sorted(model.parent.glob("*.npy")) == sorted([kept, emap_path(model)])  # another model's stays


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"junk", OTHER[:5], OTHER.astype(np.float64)])
def test_a_matrix_that_cannot_be_right_is_not_used(model: Path, content: bytes | np.ndarray) -> None:
    if isinstance(content, bytes):
        emap_path(model).write_bytes(content)
    else:
        np.save(emap_path(model), content)
    np.testing.assert_array_equal(read_emap(model), inside(model))


def test_half_precision_matrix(tmp_path: Path) -> None:
    graph = small_inswapper()
    exact = numpy_helper.to_array(graph.graph.initializer[-1])
    graph.graph.initializer[-1].CopyFrom(numpy_helper.from_array(exact.astype(np.float16), "buff2fs"))
    onnx.save(graph, tmp_path / "net.onnx")
    found = read_emap(tmp_path / "net.onnx")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, exact, atol=1e-4)


def test_model_without_matrix(tmp_path: Path) -> None:
    onnx.save(net("plain"), tmp_path / "net.onnx")
    with pytest.raises(ModelError, match="buff2fs"):
        read_emap(tmp_path / "net.onnx")
