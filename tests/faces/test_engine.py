"""The networks of a run: files, names, notes, and equal output on each device."""

from __future__ import annotations

import shutil
from pathlib import Path

import av
import cv2
import numpy as np
import onnx
import pytest

from colab_helpers.batch.resume import model_digest
from colab_helpers.faces import engine
from colab_helpers.faces.assignment import Treatment
from colab_helpers.faces.changer import FaceJob
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.geometry import FFHQ_512
from colab_helpers.faces.types import Face
from colab_helpers.files import sha256_of
from colab_helpers.media.picture import VideoPicture
from colab_helpers.models import inventory
from colab_helpers.models.model_conversion import convert
from colab_helpers.models.session import Runtime
from colab_helpers.settings import Settings, load_settings
from tests.helpers.gpu import CUDA, FakeGpu, install_fake_gpu
from tests.helpers.networks import half_graph, small_inswapper

CPU = Runtime("cpu", threads=1)
DETECTOR, SWAPPER = "det_10g.onnx", "inswapper_128.onnx"


@pytest.fixture
def copied(constant_models: Path, tmp_path: Path) -> Path:
    """A writable copy of the constant networks."""
    return Path(shutil.copytree(constant_models, tmp_path / "models"))


@pytest.fixture
def models(copied: Path) -> Path:
    """The constant networks with a swapper that is no stand-in, and without an enhancer."""
    onnx.save(small_inswapper(), copied / SWAPPER)
    (copied / "GFPGANv1.4.onnx").unlink()
    return copied


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    monkeypatch.setattr(engine, "gpu_memory", lambda: (1 << 30, 15 << 30))
    return install_fake_gpu(monkeypatch)


def settings(**overrides: object) -> Settings:
    return load_settings(**{"frame_processors": ["face_swapper"], "execution_provider": "cpu", **overrides})


def swapped(opened: Engine, count: int = 5) -> np.ndarray:
    """Random crops, swapped."""
    rng = np.random.default_rng(7)
    crops = rng.integers(0, 256, (count, 128, 128, 3), np.uint8)
    identity = rng.standard_normal(512).astype(np.float32)
    assert opened.swapper is not None
    latent = opened.swapper.latent(identity / np.linalg.norm(identity))
    return opened.swapper.swap(crops, np.stack([latent] * count))


def swapper_network(opened: Engine):  # type: ignore[no-untyped-def]
    return next(network for network in opened.networks if network.name == "inswapper_128")


def test_half_precision_copy_is_used_and_close(models: Path) -> None:
    plain = Engine.open(settings(), models_dir=models)
    assert swapper_network(plain).path == models / SWAPPER
    assert plain.settings.half_precision is False
    made = convert(models / SWAPPER, half=True, runtime=CPU)
    half = Engine.open(settings(half_precision=True), models_dir=models)
    assert swapper_network(half).path == made.path
    expected, found = swapped(plain), swapped(half)
    assert expected.std() > 10
    difference = np.abs(expected.astype(int) - found)
    assert difference.max() <= 4 + 1  # limit for accepting a copy, and one for truncation
    assert difference.mean() < 1
    # Work done with one file is not resumed with the other.
    assert model_digest(made.path) != model_digest(models / SWAPPER)


def test_unknown_model_file_is_noted_and_hashed_once(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = sha256_of(models / SWAPPER)
    shutil.copy(models / SWAPPER, models / "mine.onnx")
    expected = (
        f"{SWAPPER}: not a published file (SHA-256 {digest}); used anyway, origin and licence unknown",
    )
    assert Engine.open(settings(), models_dir=models).notes == expected
    (note,) = Engine.open(settings(swapper_model="mine"), models_dir=models).notes
    assert "mine.onnx: not a published file" in note
    monkeypatch.setattr(inventory, "sha256_of", lambda path: pytest.fail("hashed again"))
    assert Engine.open(settings(), models_dir=models).notes == expected


def test_rejected_half_precision_copy_is_not_used(models: Path) -> None:
    onnx.save(half_graph("overflowing"), models / "GFPGANv1.4.onnx")
    convert(models / "GFPGANv1.4.onnx", half=True, runtime=CPU)
    opened = Engine.open(settings(frame_processors=["face_enhancer"], half_precision=True), models_dir=models)
    assert opened.enhancer is not None
    assert opened.enhancer.network.path == models / "GFPGANv1.4.onnx"
    assert any(
        note.startswith("GFPGANv1.4.onnx: half precision is not used, because the output differs")
        for note in opened.notes
    )


def test_copy_of_changed_model_is_not_used(models: Path) -> None:
    convert(models / SWAPPER, half=True, runtime=CPU)
    onnx.save(small_inswapper(5), models / SWAPPER)
    opened = Engine.open(settings(half_precision=True), models_dir=models)
    assert swapper_network(opened).path == models / SWAPPER


def test_first_gpu_run_converts_and_compares_swapper(models: Path, gpu: FakeGpu) -> None:
    plain = Engine.open(settings(half_precision=False), models_dir=models)
    opened = Engine.open(settings(execution_provider="cuda"), models_dir=models)
    assert swapper_network(opened).path.name.startswith("inswapper_128-half-")
    assert opened.provider == "cuda"
    assert opened.settings.half_precision is True
    assert any("compared with its float16 copy" in note for note in opened.notes)
    assert np.abs(swapped(plain).astype(int) - swapped(opened)).max() <= 5
    assert opened.pool is not None
    # Reported under the model's name, not the copy's file name.
    assert list(opened.pool.loaded)[-1] == "inswapper_128"
    again = Engine.open(settings(execution_provider="cuda"), models_dir=models)
    assert not any("compared" in note for note in again.notes)


def test_gpu_session_options(models: Path, gpu: FakeGpu) -> None:
    opened = Engine.open(settings(execution_provider="cuda"), models_dir=models)
    limit = str((15 << 30) - (512 << 20))
    expected = {
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "gpu_mem_limit": limit,
        "enable_cuda_graph": "1",
    }
    assert gpu.options(DETECTOR, CUDA) == [expected]
    path = swapper_network(opened).path.name
    assert gpu.options(path, CUDA)[-1] == expected
    Engine.open(settings(execution_provider="cuda", cuda_graphs=False), models_dir=models)
    expected.pop("enable_cuda_graph")
    assert gpu.options(DETECTOR, CUDA)[-1] == gpu.options(path, CUDA)[-1] == expected


def test_swapper_that_cannot_be_converted_is_used_unconverted(models: Path, gpu: FakeGpu) -> None:
    (models / "converted").write_text("a file where the folder should be")
    opened = Engine.open(settings(execution_provider="cuda"), models_dir=models)
    assert swapper_network(opened).path == models / SWAPPER
    assert any("cannot be converted for this GPU" in note for note in opened.notes)
    assert gpu.options(SWAPPER, CUDA)[-1]["cudnn_conv_algo_search"] == "EXHAUSTIVE"


def test_reloaded_network_notes_missing_cuda_graph_once(models: Path, gpu: FakeGpu) -> None:
    opened = Engine.open(settings(execution_provider="cuda"), models_dir=models)
    network = swapper_network(opened)
    assert network.session.captured
    expected = swapped(opened, 2)
    assert opened.take_memory_notes() == []
    assert opened.pool is not None
    for _ in range(2):
        opened.pool.unload_idle()
        assert np.array_equal(swapped(opened, 2), expected)
        assert not network.session.captured
    assert opened.take_memory_notes() == [
        "inswapper_128: was reloaded and now runs without its CUDA graph, a little slower"
    ]


def test_video_faces_are_sampled_and_blended_on_gpu(copied: Path, gpu: FakeGpu) -> None:
    options = {"models_dir": copied}
    plain = Engine.open(load_settings(execution_provider="cpu"), **options)
    opened = Engine.open(load_settings(execution_provider="cuda"), **options)
    assert (plain.provider_detail, opened.provider_detail) == (
        "cpu",
        "cuda (pixels: face_swapper, face_enhancer)",
    )

    def changed(engine: Engine) -> np.ndarray:
        image = cv2.resize(np.random.default_rng(0).integers(0, 255, (9, 16, 3), np.uint8), (640, 360))
        picture = VideoPicture(av.VideoFrame.from_ndarray(image, format="bgr24").reformat(format="yuv420p"))
        face = Face(
            np.array([200, 60, 440, 300], np.float32), (0.4 * FFHQ_512 + [215, 60]).astype(np.float32), 0.9
        )
        engine.changer(Treatment("swap", source=np.ones(512, np.float32))).change([FaceJob(picture, face)])
        return picture.frame.to_ndarray().astype(int)

    expected, found = changed(plain), changed(opened)
    assert 0 < np.abs(found - expected).max() <= 3
    assert opened.pool is not None
    opened.pool.unload_idle()  # frees their device buffers, too
    np.testing.assert_array_equal(changed(opened), found)


def test_stand_ins_are_not_converted(copied: Path, gpu: FakeGpu) -> None:
    opened = Engine.open(load_settings(execution_provider="cuda"), models_dir=copied)
    assert [network.name for network in opened.networks] == [
        "det_10g",
        "w600k_r50",
        "inswapper_128",
        "GFPGANv1.4",
        "xseg_1",
    ]
    assert all(network.standin and network.path.parent.name != "converted" for network in opened.networks)
    assert opened.notes == ()
