"""Results compared with insightface's own classes, on stand-ins and on networks of the real shapes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from insightface.app import FaceAnalysis
from insightface.app.common import Face as InsightfaceFace
from insightface.model_zoo.attribute import Attribute
from insightface.model_zoo.inswapper import INSwapper

from colab_helpers.faces.analyser import FaceAnalyser
from colab_helpers.faces.assignment import Treatment
from colab_helpers.faces.changer import FaceJob
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.geometry import arcface_template, similarity_transform
from colab_helpers.faces.types import Face
from colab_helpers.media.affine import Matrix
from colab_helpers.media.picture import BgrPicture
from colab_helpers.settings import load_settings

pytestmark = pytest.mark.filterwarnings("ignore:.*estimate.*:FutureWarning")
Image = npt.NDArray[np.uint8]


class InsightfaceCrops(BgrPicture):
    """Crops as insightface makes them: black beyond the border, bilinear without averaging."""

    def crop(self, matrix: Matrix, size: int, *, coarse: bool = False) -> Image:
        return np.asarray(cv2.warpAffine(self.image, matrix, (size, size), borderValue=0), np.uint8)


def texture(width: int, height: int) -> Image:
    rng = np.random.default_rng(width)
    image = cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3), np.uint8), (0, 0), 3)
    return np.asarray(cv2.convertScaleAbs(image, alpha=4, beta=-380), np.uint8)


def people(width: int, height: int) -> Image:
    from tests.people.scene import Scene

    return np.asarray(Scene(seed=5, size=(width, height), people=2).render(10)[0], np.uint8)


def reference(models: Path, folder: Path, score: float) -> FaceAnalysis:
    (folder / "models").mkdir()
    (folder / "models" / "buffalo_l").symlink_to(models / "buffalo_l", target_is_directory=True)
    app = FaceAnalysis(
        name="buffalo_l", root=str(folder), allowed_modules=["detection", "recognition"],
        providers=["CPUExecutionProvider"],
    )  # fmt: skip
    app.prepare(ctx_id=-1, det_size=(640, 640), det_thresh=score)
    return app


# With random weights the scores are close together; this threshold leaves three faces.
@pytest.mark.parametrize(
    ("kind", "picture", "score", "size"),
    [
        ("real_shapes", texture, 0.912, (480, 640)),
        ("standins", people, 0.5, (640, 360)),
        ("standins", people, 0.5, (1280, 720)),
        ("standins", people, 0.5, (480, 640)),
    ],
)
def test_faces_and_embeddings_equal_insightface(
    kind: str,
    picture: Callable[[int, int], Image],
    score: float,
    size: tuple[int, int],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    models: Path = request.getfixturevalue(kind)
    image = picture(*size)
    expected = reference(models, tmp_path, score).get(image)
    settings = load_settings(face_detector_score=score, execution_provider="cpu")
    analyser, view = FaceAnalyser(settings, models_dir=models), InsightfaceCrops(image)
    faces = analyser.embed(view, analyser.detect(view))
    assert len(faces) == len(expected) > 0
    for face, expected_face in zip(faces, expected, strict=True):
        np.testing.assert_allclose(face.box, expected_face.bbox, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(face.kps, expected_face.kps, rtol=1e-4, atol=1e-3)
        assert face.score == pytest.approx(float(expected_face.det_score), abs=1e-5)
        assert face.embedding is not None
        # Some crop pixels differ by one level: alignments agree to float32 only.
        np.testing.assert_allclose(face.embedding, expected_face.normed_embedding, atol=1e-3)
        assert float(face.embedding @ expected_face.normed_embedding) > 1 - 1e-4


@pytest.mark.parametrize("size", [(640, 360), (1280, 720), (480, 640)])
def test_sex_and_age_equal_insightface(size: tuple[int, int], standins: Path) -> None:
    settings = load_settings(execution_provider="cpu", face_selector_gender="female")
    analyser, image = FaceAnalyser(settings, models_dir=standins), people(*size)
    oracle = Attribute(str(analyser.networks[2].path), session=analyser.networks[2].session)
    picture = InsightfaceCrops(image)
    faces = analyser.describe(picture, analyser.detect(picture))
    assert len(faces) > 1
    for face in faces:
        expected_face = InsightfaceFace(bbox=face.box)
        oracle.get(image, expected_face)
        assert face.attributes[0] == expected_face.gender
        oracle.taskname = "raw"  # the network's output, not rounded to years
        assert face.attributes[1] / 100 == pytest.approx(oracle.get(image, expected_face)[2], abs=1e-4)
        oracle.taskname = "genderage"
    assert len({*(one.attributes[0] for one in faces)}) == 2


@pytest.mark.parametrize("kind", ["real_shapes", "standins"])
def test_swapped_crops_equal_insightface(kind: str, request: pytest.FixtureRequest) -> None:
    models: Path = request.getfixturevalue(kind)
    settings = load_settings(execution_provider="cpu", frame_processors="face_swapper")
    engine = Engine.open(settings, models_dir=models)
    assert engine.swapper is not None
    image = people(640, 360)
    embedding = np.random.default_rng(1).normal(size=512).astype(np.float32)
    embedding /= np.linalg.norm(embedding)
    transforms = [(1.3, 40), (0.8, 300)][: 1 if kind == "real_shapes" else 2]  # these are slow
    points = [arcface_template(128) * scale + (x, 40) for scale, x in transforms]
    oracle = INSwapper(str(models / "inswapper_128.onnx"), session=engine.swapper.network.session)
    picture = BgrPicture(image)
    crops = [picture.crop(similarity_transform(kps, arcface_template(128)), 128) for kps in points]
    latent = engine.swapper.latent(embedding)
    swapped = engine.swapper.swap(crops, np.stack([latent] * len(crops)))
    for crop, kps in zip(swapped, points, strict=True):
        face = SimpleNamespace(kps=kps, normed_embedding=embedding)
        expected, _ = oracle.get(image, face, face, paste_back=False)
        # Some pixels may differ by one level: insightface aligns in float32.
        assert np.abs(crop.astype(int) - expected).max() <= 1


def test_batched_swaps_equal_single_swaps(standins: Path) -> None:
    engine = Engine.open(load_settings(execution_provider="cpu"), models_dir=standins)
    image = people(640, 360)
    faces = engine.analyser.find(image)
    batched, single = BgrPicture(image.copy()), BgrPicture(image.copy())
    changer = engine.changer(Treatment(source=faces[0].embedding))
    changer.change([FaceJob(batched, face) for face in faces])
    for face in faces:
        changer.change([FaceJob(single, face)])
    assert len(faces) == 2
    np.testing.assert_array_equal(batched.image, single.image)


def test_empty_and_faceless_pictures_have_no_faces(standins: Path) -> None:
    analyser = FaceAnalyser(load_settings(execution_provider="cpu"), models_dir=standins)
    assert analyser.find(np.zeros((100, 100, 3), np.uint8)) == []
    assert analyser.find(np.zeros((1, 1, 3), np.uint8)) == []
    assert analyser.embed(BgrPicture(np.zeros((9, 9, 3), np.uint8)), []) == []


def test_area_and_centre_of_a_face() -> None:
    face = Face(np.array([10, 20, 30, 60], np.float32), np.zeros((5, 2), np.float32), 0.9)
    assert face.area == 800
    assert face.centre == (20, 40)
