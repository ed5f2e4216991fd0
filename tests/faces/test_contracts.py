"""Each kind of swapper and enhancer against the arithmetic that its makers publish, written out anew."""

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
from colab_helpers.faces import engine as engine_room
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


class Field(NamedTuple):
    """What FaceFusion knows of a model."""

    template: npt.NDArray[np.float64]
    size: int
    mean: float
    deviation: float


SWAPPERS = {
    "inswapper_128": Field(ARCFACE_128, 128, 0.0, 1.0),
    "hyperswap_1a_256": Field(ARCFACE_128, 256, 0.5, 0.5),
    "ghost_1_256": Field(ARCFACE_112_V1, 256, 0.5, 0.5),
}
ENHANCERS = {
    "GFPGANv1.4": Field(FFHQ_512, 512, 0.5, 0.5),
    "codeformer": Field(FFHQ_512, 512, 0.5, 0.5),
    "gpen_bfr_256": Field(ARCFACE_128, 256, 0.5, 0.5),
    "gpen_bfr_512": Field(FFHQ_512, 512, 0.5, 0.5),
    "restoreformer_plus_plus": Field(FFHQ_512, 512, 0.5, 0.5),
}


@pytest.fixture(scope="module")
def models(standins: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(standins, tmp_path_factory.mktemp("kinds") / "models"))
    kinds.write_kinds(folder)
    return folder


@pytest.fixture(scope="module")
def raw() -> npt.NDArray[np.float32]:
    """An embedding as a recogniser gives it."""
    vector = np.random.default_rng(1).standard_normal(512)
    return (21.5 * vector / np.linalg.norm(vector)).astype(np.float32)


def session_of(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def stated(session: Any, field: Field, crop: Image, **beside: Any) -> npt.NDArray[np.float64]:
    """The changed crop, BGR from 0 to 255, by the published arithmetic."""
    blob = ((crop[:, :, ::-1] / 255.0 - field.mean) / field.deviation).transpose(2, 0, 1)[None]
    name = "target" if "source" in beside else "input"
    output = session.run(None, {name: blob.astype(np.float32), **beside})[0][0].transpose(1, 2, 0)
    return np.asarray((output * field.deviation + field.mean).clip(0, 1)[:, :, ::-1] * 255)


def stated_source(models: Path, name: str, raw: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """What stands for the source, ``(1, 512)``."""
    if name.startswith("ghost"):
        return np.asarray(session_of(models / "crossface_ghost.onnx").run(None, {"input": raw[None]})[0])
    if name.startswith("hyperswap"):
        return raw[None] / np.linalg.norm(raw)
    emap = numpy_helper.to_array(onnx.load(models / f"{name}.onnx").graph.initializer[-1])
    return np.dot(raw[None], emap) / np.linalg.norm(raw)


def frame() -> Image:
    return np.asarray(Scene(5, (480, 270), Fraction(25), 4.0, 1).render(10)[0], np.uint8)


def crops_of(part: Swapper | Enhancer, field: Field, size: int) -> Image:
    """Crops of two faces; where they lie is compared with what is published."""
    found = []
    for points in (POINTS, 0.7 * POINTS + 20):
        matrix = similarity_transform(points, part.template)
        np.testing.assert_allclose(matrix, similarity(points, field.template * size), atol=2e-3)
        found.append(BgrPicture(frame()).crop(matrix, size))
    return np.stack(found)


def opened(models: Path, **settings: Any) -> Engine:
    return Engine.open(load_settings(**{"execution_provider": "cpu", **settings}), models_dir=models)


@pytest.mark.parametrize("name", SWAPPERS)
def test_swapped_crops_are_those_of_the_field(models: Path, raw: Any, name: str) -> None:
    swapper, field = opened(models, swapper_model=name).swapper, SWAPPERS[name]
    assert swapper is not None
    crops, latent = crops_of(swapper, field, field.size), swapper.latent(raw)
    source, session = stated_source(models, name, raw), session_of(models / f"{name}.onnx")
    found = swapper.swap(crops, np.stack([latent, latent]))
    for ours, crop in zip(found, crops, strict=True):
        theirs = stated(session, field, crop, source=source)
        assert np.abs(theirs - crop).mean() > 2
        assert np.abs(ours - theirs).max() < 1.01


@pytest.mark.parametrize("name", ENHANCERS)
def test_enhanced_crops_are_those_of_the_field(models: Path, name: str) -> None:
    steps = {"frame_processors": "face_enhancer", "enhancer_model": name, "enhancer_weight": 0.3}
    enhancer, field = opened(models, **steps).enhancer, ENHANCERS[name]
    assert enhancer is not None
    crops, session = crops_of(enhancer, field, field.size), session_of(models / f"{name}.onnx")
    beside = {"weight": np.array([0.3])} if name == "codeformer" else {}
    for ours, crop in zip(enhancer.enhance(crops), crops, strict=True):
        theirs = stated(session, field, crop, **beside)
        assert np.abs(theirs - crop).max() > 2
        assert np.abs(ours - theirs).max() < 1.01


@pytest.mark.parametrize("name", ["inswapper_128", "hyperswap_1a_256"])
def test_pixel_boost_is_that_of_the_field(models: Path, raw: Any, name: str) -> None:
    field = SWAPPERS[name]
    swapper = opened(models, swapper_model=name, face_swapper_pixel_boost=512).swapper
    assert swapper is not None
    size, tiles = field.size, 512 // field.size
    crops, latent = crops_of(swapper, field, 512), swapper.latent(raw)
    source, session = stated_source(models, name, raw), session_of(models / f"{name}.onnx")
    for ours, crop in zip(swapper.swap(crops, np.stack([latent, latent])), crops, strict=True):
        parts = crop.reshape(size, tiles, size, tiles, 3).transpose(1, 3, 0, 2, 4).reshape(-1, size, size, 3)
        done = np.stack([stated(session, field, part, source=source) for part in parts])
        theirs = done.reshape(tiles, tiles, size, size, 3).transpose(2, 0, 3, 1, 4).reshape(512, 512, 3)
        assert np.abs(ours - theirs).max() < 1.01


@pytest.mark.parametrize(
    ("name", "boost"), [("inswapper_128", 256), ("hyperswap_1a_256", 128), ("ghost_1_256", 128)]
)
def test_a_face_comes_out_as_the_right_person(models: Path, name: str, boost: int) -> None:
    engine = opened(
        models, swapper_model=name, face_swapper_pixel_boost=boost, frame_processors="face_swapper"
    )
    scene = Scene(71, (640, 360), Fraction(25), 4.0, 1)
    (before,) = scene.cast
    source = next(who for who in ("alma", "gustav") if who != before)
    who, old = (engine.identity([(name, lambda name=name: portrait(name))]) for name in (source, before))
    changer, to_source, to_old = engine.changer(Treatment(source=who.embedding)), [], []
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
        to_old.append(after.embedding @ old.embedding / np.linalg.norm(old.embedding))
    assert np.linalg.norm(who.embedding) > 19  # the recogniser's own length
    assert len(to_source) > 3
    assert min(to_source) > 0.8
    assert max(to_old) < 0.2


def test_pixel_boost_comes_closer_to_the_true_swap_of_a_large_face(models: Path) -> None:
    """By more than one and a half decibels on this network, which adds to the target's own pixels."""
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


def test_the_picture_is_found_among_the_outputs(tmp_path: Path) -> None:
    onnx.save(kinds.restoreformer(), tmp_path / "first.onnx")
    onnx.save(kinds.restoreformer(first=False), tmp_path / "last.onnx")
    crops = np.random.default_rng(0).integers(0, 256, (2, 512, 512, 3), np.uint8)
    first, last = (Enhancer(CPU.open(tmp_path / f"{name}.onnx")).enhance(crops) for name in ("first", "last"))
    np.testing.assert_array_equal(first, last)


def test_on_a_gpu_every_kind_is_captured_and_gives_the_same(
    models: Path, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = {"swapper_model": "ghost_1_256", "enhancer_model": "codeformer"}
    plain = opened(models, **steps)
    monkeypatch.setattr(engine_room, "gpu_memory", lambda: (1 << 30, 15 << 30))
    install_fake_gpu(monkeypatch)
    there = opened(models, execution_provider="cuda", **steps)
    assert [network.name for network in there.networks] == [
        "det_10g", "w600k_r50", "ghost_1_256", "crossface_ghost", "codeformer", "xseg_1"
    ]  # fmt: skip
    assert all(network.session.captured for network in there.networks)
    crops = np.random.default_rng(0).integers(0, 256, (2, 512, 512, 3), np.uint8)
    small = np.ascontiguousarray(crops[:, :256, :256])
    results = []
    for engine in (plain, there):
        assert engine.swapper is not None
        assert engine.enhancer is not None
        latents = np.stack([engine.swapper.latent(raw)] * 2)
        results.append((engine.swapper.swap(small, latents), engine.enhancer.enhance(crops)))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_setting_without_effect_is_said(models: Path) -> None:
    given = {"face_swapper_pixel_boost": 256, "enhancer_weight": 0.7}
    assert opened(models, swapper_model="hyperswap_1a_256", **given).notes == (
        "face_swapper_pixel_boost has no effect: hyperswap_1a_256 already works at 256 pixels",
        "enhancer_weight has no effect: GFPGANv1.4 takes no weight",
    )
    assert opened(models, enhancer_model="codeformer", **given).notes == ()
    assert opened(models, swapper_model="hyperswap_1a_256").notes == ()


def saved(path: Path, inputs: Sequence[tuple[str, int, list[int]]]) -> Path:
    """A network with these inputs, which gives the first."""
    values = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs]
    out = helper.make_tensor_value_info("output", inputs[0][1], inputs[0][2])
    graph = helper.make_graph(
        [helper.make_node("Identity", [inputs[0][0]], ["output"])], "net", values, [out]
    )
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


PICTURE = ("target", TensorProto.FLOAT, [1, 3, 256, 256])


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([PICTURE, ("source", TensorProto.FLOAT, [1, 3, 256, 256])], "source [1, 3, 256, 256] tensor(float)"),
        ([PICTURE, ("source", TensorProto.FLOAT16, [1, 512])], "source [1, 512] tensor(float16)"),
        (
            [("target", TensorProto.FLOAT, [1, 3, 100, 100]), ("source", TensorProto.FLOAT, [1, 512])],
            "100, 100",
        ),
        (
            [PICTURE, ("source", TensorProto.FLOAT, [1, 512])],
            "projection matrix 'buff2fs' (512x512) is missing",
        ),
    ],
)
def test_a_swapper_that_is_not_understood(tmp_path: Path, inputs: Any, said: str) -> None:
    path = saved(tmp_path / "uniface_256.onnx", inputs)
    with pytest.raises(ModelError) as caught:
        Swapper(CPU.open(path))
    assert said in caught.value.what
    assert caught.value.where == str(path)
    assert "docs/settings.md" in caught.value.remedy
    with pytest.raises(ModelError, match="no known kind of enhancer"):
        Enhancer(CPU.open(path))


def test_a_converter_that_is_none(models: Path, tmp_path: Path) -> None:
    for name in ("w600k_r50", "det_10g"):
        (tmp_path / "buffalo_l").mkdir(exist_ok=True)
        shutil.copy(models / "buffalo_l" / f"{name}.onnx", tmp_path / "buffalo_l")
    shutil.copy(models / "ghost_1_256.onnx", tmp_path)
    steps = {"swapper_model": "ghost_1_256", "frame_processors": "face_swapper"}
    with pytest.raises(ModelError, match=r"crossface_ghost\.onnx: the model file is missing"):
        opened(tmp_path, **steps)
    shutil.copy(models / "GFPGANv1.4.onnx", tmp_path / "crossface_ghost.onnx")
    with pytest.raises(ModelError, match="no known kind of converter has these inputs"):
        opened(tmp_path, **steps)
