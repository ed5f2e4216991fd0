"""Swappers and enhancers against independent implementations of their published arithmetic."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from colab_helpers.errors import ModelError
from colab_helpers.faces import engine as engine_module
from colab_helpers.faces.assignment import Treatment
from colab_helpers.faces.changer import FaceJob
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.geometry import similarity_transform
from colab_helpers.faces.swapper_enhancer import Enhancer, Swapper
from colab_helpers.media.picture import BgrPicture
from colab_helpers.models.session import Runtime
from colab_helpers.settings import load_settings
from tests.helpers.gpu import install_fake_gpu
from tests.people import kinds
from tests.people.actors import portrait
from tests.people.kinds import ARCFACE_112_V1, ARCFACE_128, similarity
from tests.people.measure import must_be_found
from tests.people.scene import Scene

Image = npt.NDArray[np.uint8]
CPU = Runtime("cpu", threads=1)
FFHQ_512 = np.array(
    [[0.37691676, 0.46864664], [0.62285697, 0.46912813], [0.50123859, 0.61331904], [0.39308822, 0.725411],
     [0.61150205, 0.72490465]]
)  # fmt: skip
POINTS = np.array(
    [[210.0, 120.0], [262.0, 131.0], [230.0, 160.0], [204.0, 181.0], [247.0, 191.0]], np.float32
)


class Spec(NamedTuple):
    """Alignment and normalisation of a model in FaceFusion."""

    template: npt.NDArray[np.float64]
    size: int
    mean: float
    std: float


SWAPPERS = {
    "inswapper_128": Spec(ARCFACE_128, 128, 0.0, 1.0),
    "hyperswap_1a_256": Spec(ARCFACE_128, 256, 0.5, 0.5),
    "ghost_1_256": Spec(ARCFACE_112_V1, 256, 0.5, 0.5),
}
ENHANCERS = {
    "GFPGANv1.4": Spec(FFHQ_512, 512, 0.5, 0.5),
    "codeformer": Spec(FFHQ_512, 512, 0.5, 0.5),
    "gpen_bfr_256": Spec(ARCFACE_128, 256, 0.5, 0.5),
    "gpen_bfr_512": Spec(FFHQ_512, 512, 0.5, 0.5),
    "restoreformer_plus_plus": Spec(FFHQ_512, 512, 0.5, 0.5),
}


@pytest.fixture(scope="module")
def models(standins: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(standins, tmp_path_factory.mktemp("kinds") / "models"))
    kinds.write_kinds(folder)
    return folder


@pytest.fixture(scope="module")
def raw() -> npt.NDArray[np.float32]:
    """An unnormalised embedding."""
    vector = np.random.default_rng(1).standard_normal(512)
    return (21.5 * vector / np.linalg.norm(vector)).astype(np.float32)


def session_of(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def expected_output(session: Any, spec: Spec, crop: Image, **inputs: Any) -> npt.NDArray[np.float64]:
    """Expected output crop, BGR from 0 to 255."""
    blob = ((crop[:, :, ::-1] / 255.0 - spec.mean) / spec.std).transpose(2, 0, 1)[None]
    name = "target" if "source" in inputs else "input"
    output = session.run(None, {name: blob.astype(np.float32), **inputs})[0][0].transpose(1, 2, 0)
    return np.asarray((output * spec.std + spec.mean).clip(0, 1)[:, :, ::-1] * 255)


def expected_source(models: Path, name: str, raw: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Expected source input, ``(1, 512)``."""
    if name.startswith("ghost"):
        return np.asarray(session_of(models / "crossface_ghost.onnx").run(None, {"input": raw[None]})[0])
    if name.startswith("hyperswap"):
        return raw[None] / np.linalg.norm(raw)
    emap = numpy_helper.to_array(onnx.load(models / f"{name}.onnx").graph.initializer[-1])
    return np.dot(raw[None], emap) / np.linalg.norm(raw)


def frame() -> Image:
    return np.asarray(Scene(5, (480, 270), Fraction(25), 4.0, 1).render(10)[0], np.uint8)


def crops_of(network: Swapper | Enhancer, spec: Spec, size: int) -> Image:
    """Crops of two faces, their alignment compared with the reference."""
    found = []
    for points in (POINTS, 0.7 * POINTS + 20):
        matrix = similarity_transform(points, network.template)
        np.testing.assert_allclose(matrix, similarity(points, spec.template * size), atol=2e-3)
        found.append(BgrPicture(frame()).crop(matrix, size))
    return np.stack(found)


def opened(models: Path, **settings: Any) -> Engine:
    return Engine.open(load_settings(**{"execution_provider": "cpu", **settings}), models_dir=models)


@pytest.mark.parametrize("name", SWAPPERS)
def test_swapped_crops_match_reference(models: Path, raw: Any, name: str) -> None:
    swapper, spec = opened(models, swapper_model=name).swapper, SWAPPERS[name]
    assert swapper is not None
    crops, latent = crops_of(swapper, spec, spec.size), swapper.latent(raw)
    source, session = expected_source(models, name, raw), session_of(models / f"{name}.onnx")
    found = swapper.swap(crops, np.stack([latent, latent]))
    for actual, crop in zip(found, crops, strict=True):
        expected = expected_output(session, spec, crop, source=source)
        assert np.abs(expected - crop).mean() > 2
        assert np.abs(actual - expected).max() < 1.01


@pytest.mark.parametrize("name", ENHANCERS)
def test_enhanced_crops_match_reference(models: Path, name: str) -> None:
    options = {"frame_processors": "face_enhancer", "enhancer_model": name, "enhancer_weight": 0.3}
    enhancer, spec = opened(models, **options).enhancer, ENHANCERS[name]
    assert enhancer is not None
    crops, session = crops_of(enhancer, spec, spec.size), session_of(models / f"{name}.onnx")
    inputs = {"weight": np.array([0.3])} if name == "codeformer" else {}
    for actual, crop in zip(enhancer.enhance(crops), crops, strict=True):
        expected = expected_output(session, spec, crop, **inputs)
        assert np.abs(expected - crop).max() > 2
        assert np.abs(actual - expected).max() < 1.01


@pytest.mark.parametrize("name", ["inswapper_128", "hyperswap_1a_256"])
def test_pixel_boost_matches_reference(models: Path, raw: Any, name: str) -> None:
    spec = SWAPPERS[name]
    swapper = opened(models, swapper_model=name, face_swapper_pixel_boost=512).swapper
    assert swapper is not None
    size, tiles = spec.size, 512 // spec.size
    crops, latent = crops_of(swapper, spec, 512), swapper.latent(raw)
    source, session = expected_source(models, name, raw), session_of(models / f"{name}.onnx")
    for actual, crop in zip(swapper.swap(crops, np.stack([latent, latent])), crops, strict=True):
        parts = crop.reshape(size, tiles, size, tiles, 3).transpose(1, 3, 0, 2, 4).reshape(-1, size, size, 3)
        done = np.stack([expected_output(session, spec, part, source=source) for part in parts])
        expected = done.reshape(tiles, tiles, size, size, 3).transpose(2, 0, 3, 1, 4).reshape(512, 512, 3)
        assert np.abs(actual - expected).max() < 1.01


@pytest.mark.parametrize(
    ("name", "boost"), [("inswapper_128", 256), ("hyperswap_1a_256", 128), ("ghost_1_256", 128)]
)
def test_swapped_face_is_recognised_as_source(models: Path, name: str, boost: int) -> None:
    engine = opened(
        models, swapper_model=name, face_swapper_pixel_boost=boost, frame_processors="face_swapper"
    )
    scene = Scene(71, (640, 360), Fraction(25), 4.0, 1)
    (before,) = scene.cast
    source = next(who for who in ("alma", "gustav") if who != before)
    who, target = (engine.identity([(name, lambda name=name: portrait(name))]) for name in (source, before))
    changer, to_source, to_target = engine.changer(Treatment(source=who.embedding)), [], []
    for number in range(0, scene.frames, 11):
        image, truths = scene.render(number)
        if not any(map(must_be_found, truths)):
            continue
        picture = BgrPicture(np.asarray(image, np.uint8))
        (face,) = engine.analyser.detect(picture)
        changer.change([FaceJob(picture, face)])
        (after,) = engine.analyser.embed(picture, [face])
        assert after.embedding is not None
        to_source.append(after.embedding @ who.embedding / np.linalg.norm(who.embedding))
        to_target.append(after.embedding @ target.embedding / np.linalg.norm(target.embedding))
    assert np.linalg.norm(who.embedding) > 19  # not normalised
    assert len(to_source) > 3
    assert min(to_source) > 0.8
    assert max(to_target) < 0.2


def test_pixel_boost_improves_large_face(models: Path) -> None:
    """By more than 1.5 dB with this network, which adds to the target's own pixels."""
    scene, errors = Scene(71, (1280, 720), Fraction(25), 4.0, 1), []
    truth = scene.render_all(22, ["hanna"])
    for boost in (128, 256):
        engine = opened(models, face_swapper_pixel_boost=boost, frame_processors="face_swapper")
        who = engine.identity([("hanna", lambda: portrait("hanna"))])
        picture = BgrPicture(np.array(truth.frame, np.uint8))
        (face,) = engine.analyser.detect(picture)
        engine.changer(Treatment(source=who.embedding)).change([FaceJob(picture, face)])
        off = picture.image.astype(np.float64) - truth.swapped["hanna"]
        errors.append(float(np.square(off[truth.mask > 0.5]).mean()))
    assert 10 * np.log10(errors[0] / errors[1]) > 1.5


def test_image_output_is_found_at_any_position(tmp_path: Path) -> None:
    onnx.save(kinds.restoreformer(), tmp_path / "first.onnx")
    onnx.save(kinds.restoreformer(first=False), tmp_path / "last.onnx")
    crops = np.random.default_rng(0).integers(0, 256, (2, 512, 512, 3), np.uint8)
    first, last = (Enhancer(CPU.open(tmp_path / f"{name}.onnx")).enhance(crops) for name in ("first", "last"))
    np.testing.assert_array_equal(first, last)


def test_every_kind_is_captured_on_gpu_with_equal_output(
    models: Path, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"swapper_model": "ghost_1_256", "enhancer_model": "codeformer"}
    plain = opened(models, **options)
    monkeypatch.setattr(engine_module, "gpu_memory", lambda: (1 << 30, 15 << 30))
    install_fake_gpu(monkeypatch)
    on_gpu = opened(models, execution_provider="cuda", **options)
    assert [network.name for network in on_gpu.networks] == [
        "det_10g", "w600k_r50", "ghost_1_256", "crossface_ghost", "codeformer", "xseg_1"
    ]  # fmt: skip
    assert all(network.session.captured for network in on_gpu.networks)
    crops = np.random.default_rng(0).integers(0, 256, (2, 512, 512, 3), np.uint8)
    small = np.ascontiguousarray(crops[:, :256, :256])
    results = []
    for engine in (plain, on_gpu):
        assert engine.swapper is not None
        assert engine.enhancer is not None
        latents = np.stack([engine.swapper.latent(raw)] * 2)
        results.append((engine.swapper.swap(small, latents), engine.enhancer.enhance(crops)))
    for actual, expected in zip(*results, strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_settings_without_effect_are_noted(models: Path) -> None:
    given = {"face_swapper_pixel_boost": 256, "enhancer_weight": 0.7}
    assert opened(models, swapper_model="hyperswap_1a_256", **given).notes == (
        "face_swapper_pixel_boost has no effect: hyperswap_1a_256 already works at 256 pixels",
        "enhancer_weight has no effect: GFPGANv1.4 takes no weight",
    )
    assert opened(models, enhancer_model="codeformer", **given).notes == ()
    assert opened(models, swapper_model="hyperswap_1a_256").notes == ()


def saved(path: Path, inputs: Sequence[tuple[str, int, list[int]]]) -> Path:
    """Save a network with these inputs that returns the first."""
    values = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs]
    out = helper.make_tensor_value_info("output", inputs[0][1], inputs[0][2])
    graph = helper.make_graph(
        [helper.make_node("Identity", [inputs[0][0]], ["output"])], "net", values, [out]
    )
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


TARGET = ("target", TensorProto.FLOAT, [1, 3, 256, 256])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([TARGET, ("source", TensorProto.FLOAT, [1, 3, 256, 256])], "source [1, 3, 256, 256] tensor(float)"),
        ([TARGET, ("source", TensorProto.FLOAT16, [1, 512])], "source [1, 512] tensor(float16)"),
        (
            [("target", TensorProto.FLOAT, [1, 3, 100, 100]), ("source", TensorProto.FLOAT, [1, 512])],
            "100, 100",
        ),
        (
            [TARGET, ("source", TensorProto.FLOAT, [1, 512])],
            "projection matrix 'buff2fs' (512x512) is missing",
        ),
    ],
)
def test_unknown_swapper_is_refused(tmp_path: Path, inputs: Any, message: str) -> None:
    path = saved(tmp_path / "uniface_256.onnx", inputs)
    with pytest.raises(ModelError) as caught:
        Swapper(CPU.open(path))
    assert message in caught.value.what
    assert caught.value.where == str(path)
    assert "docs/settings.md" in caught.value.remedy
    with pytest.raises(ModelError, match="no known kind of enhancer"):
        Enhancer(CPU.open(path))


def test_missing_or_wrong_embedding_converter_is_refused(models: Path, tmp_path: Path) -> None:
    for name in ("w600k_r50", "det_10g"):
        (tmp_path / "buffalo_l").mkdir(exist_ok=True)
        shutil.copy(models / "buffalo_l" / f"{name}.onnx", tmp_path / "buffalo_l")
    shutil.copy(models / "ghost_1_256.onnx", tmp_path)
    options = {"swapper_model": "ghost_1_256", "frame_processors": "face_swapper"}
    with pytest.raises(ModelError, match=r"crossface_ghost\.onnx: the model file is missing"):
        opened(tmp_path, **options)
    shutil.copy(models / "GFPGANv1.4.onnx", tmp_path / "crossface_ghost.onnx")
    with pytest.raises(ModelError, match="no known kind of converter has these inputs"):
        opened(tmp_path, **options)
