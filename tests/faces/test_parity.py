"""Ours against insightface's own classes on the same graphs: stand-ins and the real layer shapes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

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


class AsInsightface(BgrPicture):
    """Crops that are black beyond the border, and whose pixels are read one by one at any size."""

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


# With random weights the scores lie close together; these leave three faces of the texture.
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
    analyser, picture_of = FaceAnalyser(settings, models_dir=models), AsInsightface(image)
    found = analyser.embed(picture_of, analyser.detect(picture_of))
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.box, theirs.bbox, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(ours.kps, theirs.kps, rtol=1e-4, atol=1e-3)
        assert ours.score == pytest.approx(float(theirs.det_score), abs=1e-5)
        assert ours.embedding is not None
        # A crop differs by a grey level here and there: the alignments agree to float32 only.
        np.testing.assert_allclose(ours.embedding, theirs.normed_embedding, atol=1e-3)
        assert float(ours.embedding @ theirs.normed_embedding) > 1 - 1e-4


@pytest.mark.parametrize("size", [(640, 360), (1280, 720), (480, 640)])
def test_sex_and_age_equal_insightface(size: tuple[int, int], standins: Path) -> None:
    settings = load_settings(execution_provider="cpu", face_selector_gender="female")
    analyser, image = FaceAnalyser(settings, models_dir=standins), people(*size)
    oracle = Attribute(str(analyser.networks[2].path), session=analyser.networks[2].session)
    picture = AsInsightface(image)
    found = analyser.describe(picture, analyser.detect(picture))
    assert len(found) > 1
    for ours in found:
        theirs = InsightfaceFace(bbox=ours.box)
        oracle.get(image, theirs)
        assert ours.attributes[0] == theirs.gender
        oracle.taskname = "raw"  # then it gives what the network said, not rounded to years
        assert ours.attributes[1] / 100 == pytest.approx(oracle.get(image, theirs)[2], abs=1e-4)
        oracle.taskname = "genderage"
    assert len({*(one.attributes[0] for one in found)}) == 2


class _Reference:
    """The two attributes insightface's swapper reads off a face."""

    def __init__(self, kps: Any, embedding: Any) -> None:
        self.kps, self.normed_embedding = kps, embedding


@pytest.mark.parametrize("kind", ["real_shapes", "standins"])
def test_swapped_crops_equal_insightface(kind: str, request: pytest.FixtureRequest) -> None:
    models: Path = request.getfixturevalue(kind)
    settings = load_settings(execution_provider="cpu", frame_processors="face_swapper")
    engine = Engine.open(settings, models_dir=models)
    assert engine.swapper is not None
    image = people(640, 360)
    rng = np.random.default_rng(1)
    embedding = rng.normal(size=512).astype(np.float32)
    embedding /= np.linalg.norm(embedding)
    places = [(1.3, 40), (0.8, 300)][: 1 if kind == "real_shapes" else 2]  # those take their time
    points = [arcface_template(128) * scale + (x, 40) for scale, x in places]
    oracle = INSwapper(str(models / "inswapper_128.onnx"), session=engine.swapper.network.session)
    pictures = BgrPicture(image)
    crops = [pictures.crop(similarity_transform(kps, arcface_template(128)), 128) for kps in points]
    latent = engine.swapper.latent(embedding)
    swapped = engine.swapper.swap(crops, np.stack([latent] * len(crops)))
    for ours, kps in zip(swapped, points, strict=True):
        theirs, _ = oracle.get(
            image, _Reference(kps, embedding), _Reference(kps, embedding), paste_back=False
        )
        # The crops themselves may differ by a level here and there: insightface aligns in float32.
        assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_a_stack_gives_what_single_crops_give(standins: Path) -> None:
    engine = Engine.open(load_settings(execution_provider="cpu"), models_dir=standins)
    image = people(640, 360)
    faces = engine.analyser.find(image)
    together, apart = BgrPicture(image.copy()), BgrPicture(image.copy())
    changer = engine.changer(Treatment(source=faces[0].embedding))
    changer.change([FaceJob(together, face) for face in faces])
    for face in faces:
        changer.change([FaceJob(apart, face)])
    assert len(faces) == 2
    np.testing.assert_array_equal(together.image, apart.image)


def test_empty_and_faceless_pictures_have_no_faces(standins: Path) -> None:
    analyser = FaceAnalyser(load_settings(execution_provider="cpu"), models_dir=standins)
    assert analyser.find(np.zeros((100, 100, 3), np.uint8)) == []
    assert analyser.find(np.zeros((1, 1, 3), np.uint8)) == []
    assert analyser.embed(BgrPicture(np.zeros((9, 9, 3), np.uint8)), []) == []


def test_a_face_knows_its_area_and_centre() -> None:
    face = Face(np.array([10, 20, 30, 60], np.float32), np.zeros((5, 2), np.float32), 0.9)
    assert face.area == 800
    assert face.centre == (20, 40)
