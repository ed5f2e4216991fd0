from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from tests.people import actors
from tests.people.actors import portrait
from tests.people.background import random_background
from tests.people.looks import IDENTITIES, look_of
from tests.people.measure import Figures, Tools, measure_detection, measure_identity, measure_swap
from tests.people.paint import Expression
from tests.people.samples import crop_face
from tests.people.scene import Scene
from tests.people.standins import WEIGHTS, write_standins

CONTRACTS = {
    "buffalo_l/det_10g.onnx": (
        [("input.1", [1, 3, "?", "?"])],
        ["448", "471", "494", "451", "474", "497", "454", "477", "500"],
    ),
    "buffalo_l/w600k_r50.onnx": ([("input.1", ["None", 3, 112, 112])], ["683"]),
    "buffalo_l/genderage.onnx": ([("data", ["None", 3, 96, 96])], ["fc1"]),
    "inswapper_128.onnx": ([("target", [1, 3, 128, 128]), ("source", [1, 512])], ["output"]),
    "GFPGANv1.4.onnx": ([("input", [1, 3, 512, 512])], ["output"]),
    "xseg_1.onnx": ([("input", ["batch", 256, 256, 3])], ["output"]),
    "bisenet_resnet_34.onnx": ([("input", ["batch", 3, 512, 512])], ["output"]),
}


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", CONTRACTS)
def test_contracts_match_real_models_and_metadata_names_standin(models: Path, name: str) -> None:
    session = _session(models / name)
    inputs, outputs = CONTRACTS[name]
    assert [(i.name, i.shape) for i in session.get_inputs()] == inputs
    assert [o.name for o in session.get_outputs()] == outputs
    assert all(v.type == "tensor(float)" for v in (*session.get_inputs(), *session.get_outputs()))
    properties = {p.key: p.value for p in onnx.load(str(models / name)).metadata_props}
    assert properties["colab_helpers.standin"] == "true"
    assert "stand-in" in properties["description"]


def test_written_models_are_reproducible_and_small(models: Path, tmp_path: Path) -> None:
    write_standins(tmp_path)
    for name in CONTRACTS:
        assert (tmp_path / name).read_bytes() == (models / name).read_bytes()
    assert WEIGHTS.stat().st_size < 3_400_000


@pytest.mark.parametrize(("height", "width"), [(640, 640), (320, 416), (96, 32)])
def test_detector_output_shapes_and_range(models: Path, height: int, width: int) -> None:
    outs = _session(models / "buffalo_l/det_10g.onnx").run(
        None, {"input.1": np.zeros((1, 3, height, width), np.float32)}
    )
    cells = [2 * height * width // s**2 for s in (8, 16, 32)]
    assert [o.shape for o in outs] == [(n, w) for w in (1, 4, 10) for n in cells]
    assert all(o.min() >= 0 and o.max() <= 1 for o in outs[:3])


def test_latent_map_is_last_unused_and_orthonormal(models: Path) -> None:
    graph = onnx.load(str(models / "inswapper_128.onnx")).graph
    assert graph.initializer[-1].name == "buff2fs"
    assert "buff2fs" not in {name for node in graph.node for name in node.input}
    emap = numpy_helper.to_array(graph.initializer[-1])
    assert emap.shape == (512, 512)
    assert np.allclose(emap @ emap.T, np.eye(512), atol=1e-4)


def test_insightface_recognises_the_stand_ins(tools: Tools) -> None:
    assert (tools.recogniser.input_mean, tools.recogniser.input_std) == (127.5, 127.5)
    assert (tools.attributes.input_mean, tools.attributes.input_std) == (0.0, 1.0)
    assert tools.attributes.taskname == "genderage"
    assert (tools.detector.use_kps, tools.detector.fmc, tools.detector.batched) == (True, 3, False)
    assert (tools.swapper.emap.shape, tools.swapper.input_size) == ((512, 512), (128, 128))


def test_embedding_is_not_normalised_and_accepts_batches(tools: Tools) -> None:
    pose, act = actors.portrait_pose(512), Expression(smile=0.7)
    crops = [
        crop_face(portrait(who), actors.landmarks(look_of(who).body, pose, act), 112)
        for who in ("alma", "bruno")
    ]
    both = tools.recogniser.get_feat(crops)
    assert both.shape == (2, 512)
    assert np.linalg.norm(both, axis=1) == pytest.approx([20, 20], abs=2)
    assert np.allclose(both[1], tools.recogniser.get_feat(crops[1])[0], atol=1e-3)


@pytest.mark.parametrize(("size", "seed"), [((640, 360), 51), ((1280, 720), 52), ((1920, 1080), 53)])
def test_detector_recall_precision_and_landmark_error(tools: Tools, size: tuple[int, int], seed: int) -> None:
    figures = Figures()
    for people in (1, 2):
        scene = Scene(seed + 10 * people, size, Fraction(25), 4.0, people)
        measure_detection(scene, range(0, scene.frames, 30 if size[0] < 1900 else 50), tools, figures)
    assert figures.asked >= 4
    assert figures.recall >= 0.98
    assert figures.false == 0
    assert np.mean(figures.landmark) <= 0.05


def test_no_face_is_detected_in_backgrounds(tools: Tools) -> None:
    rng = np.random.default_rng(8)
    assert not any(tools.faces(random_background(rng, (640, 360)), embed=False) for _ in range(25))


@pytest.mark.parametrize(("height", "roll"), [(26, 0), (40, 25), (60, -30), (120, -30), (480, 10)])
def test_small_large_and_tilted_faces_are_detected(tools: Tools, height: int, roll: int) -> None:
    rng = np.random.default_rng(height)
    found = 0
    for who in IDENTITIES:
        frame = random_background(rng, (640, 640))
        pose = actors.Pose(x=320, y=320, scale=height / 1.57, yaw=float(rng.uniform(-25, 25)), roll=roll)
        head = actors.Head(look_of(who), pose, Expression(), actors.Light())
        actors.composite_person(frame, head)
        truth = actors.landmarks(look_of(who).body, pose, head.act)
        faces = tools.faces(frame, embed=False)
        found += any(np.linalg.norm(f.kps - truth, axis=1).mean() < 0.12 * height for f in faces)
    assert found >= 7


def test_embedding_distinguishes_people(tools: Tools) -> None:
    portraits = tools.portraits()
    assert set(portraits) == set(IDENTITIES)
    figures = Figures()
    for seed in (61, 62, 63):
        scene = Scene(seed, (640, 360), Fraction(25), 4.0, 2)
        measure_identity(scene, range(0, scene.frames, 20), tools, portraits, figures)
    assert len(figures.same) >= 10
    assert np.mean(figures.different) <= 0.2
    assert np.percentile(figures.different, 95) <= 0.4
    assert np.mean(figures.same) >= 0.85
    assert np.percentile(figures.same, 10) >= 0.7


def test_swapper_approximates_the_true_swap(tools: Tools) -> None:
    portraits, figures = tools.portraits(), Figures()
    for seed, people in ((71, 1), (72, 1), (73, 2)):
        scene = Scene(seed, (640, 360), Fraction(25), 4.0, people)
        others = [who for who in IDENTITIES if who not in scene.cast]
        for k, i in enumerate(range(0, scene.frames, 25)):
            measure_swap(scene, [i], others[k % len(others)], tools, portraits, figures)
    assert len(figures.psnr) >= 6
    assert np.mean(figures.psnr) >= 24
    assert np.mean(figures.gain) >= 4
    assert np.mean(figures.to_original) <= 0.4
    assert np.mean(figures.to_source) >= 0.7


def test_attributes_estimate_age_and_presentation(tools: Tools) -> None:
    correct, errors = 0, []
    for who, face in tools.portraits().items():
        gender, years = tools.attributes.get(portrait(who), face)
        correct += gender == int(look_of(who).male)
        errors.append(abs(years - look_of(who).years))
    assert correct >= 7
    assert np.mean(errors) < 10


def test_enhancer_sharpens_and_preserves_the_picture(models: Path) -> None:
    session = _session(models / "GFPGANv1.4.onnx")
    sharp = portrait("dalia")
    soft = cv2.GaussianBlur(sharp, (0, 0), 3)
    blob = soft[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1
    out = session.run(None, {"input": np.ascontiguousarray(blob)})[0]
    assert out.shape == (1, 3, 512, 512)
    assert out.min() >= -1
    assert out.max() <= 1
    better = ((out[0].transpose(1, 2, 0)[..., ::-1] + 1) * 127.5).round().astype(np.uint8)
    strength = [cv2.Laplacian(image, cv2.CV_32F).var() for image in (soft, better)]
    assert strength[1] > 1.5 * strength[0]
    errors = [float(((image.astype(float) - sharp) ** 2).mean()) for image in (soft, better)]
    assert errors[1] < 1.1 * errors[0]
