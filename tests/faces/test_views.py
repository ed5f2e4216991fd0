"""Detection in rotated, tightly cropped and dark pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from colab_helpers.faces.analyser import FaceAnalyser
from colab_helpers.faces.assignment import Assignment
from colab_helpers.faces.engine import Engine
from colab_helpers.media.picture import BgrPicture
from colab_helpers.pipeline.image import process_image
from colab_helpers.settings import load_settings
from tests.people import actors
from tests.people.actors import portrait
from tests.people.looks import IDENTITIES, look_of
from tests.people.paint import Expression

Image = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float32]
SIZE = 512


def points_of(who: str) -> Points:
    pose = actors.portrait_pose(SIZE)
    return np.asarray(actors.landmarks(look_of(who).body, pose, Expression(smile=0.7)), np.float32)


def rotated(degrees: int) -> Callable[[Image, Points], tuple[Image, Points]]:
    def rotate(image: Image, points: Points) -> tuple[Image, Points]:
        matrix = cv2.getRotationMatrix2D(((SIZE - 1) / 2, (SIZE - 1) / 2), degrees, 1)
        return (
            np.asarray(cv2.warpAffine(image, matrix, (SIZE, SIZE)), np.uint8),
            (points @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32),
        )

    return rotate


def tight(image: Image, points: Points) -> tuple[Image, Points]:
    """Crop to the face from brow to chin."""
    gap = float(np.linalg.norm(points[1] - points[0]))
    left, top = np.maximum(points.mean(0) - 1.15 * gap, 0).astype(int)
    side = int(2.3 * gap)
    return image[top : top + side, left : left + side].copy(), points - np.array([left, top], np.float32)


def dark(image: Image, points: Points) -> tuple[Image, Points]:
    return (image * 0.08).astype(np.uint8), points


@pytest.fixture(scope="module")
def analyser(standins: Path) -> FaceAnalyser:
    return FaceAnalyser(load_settings(execution_provider="cpu"), models_dir=standins)


@pytest.mark.parametrize(
    ("change", "minimum"), [(rotated(90), 2), (rotated(180), 2), (rotated(270), 2), (tight, 2), (dark, 2)]
)
def test_faces_are_found_in_other_views(
    analyser: FaceAnalyser, change: Callable[[Image, Points], tuple[Image, Points]], minimum: int
) -> None:
    detected = found = 0
    people = list(IDENTITIES)[::4]
    for who in people:
        image, points = change(portrait(who), points_of(who))
        detected += bool(analyser.detect(BgrPicture(image)))
        gap = float(np.linalg.norm(points[1] - points[0]))
        faces = analyser.search(BgrPicture(image))
        # Points in anatomical order: the person's right eye first.
        found += any(np.abs(face.kps - points).max() < 0.25 * gap for face in faces)
    # A video frame is brightened if dark, but not rotated.
    assert detected >= 2 if change is dark else detected < len(people)
    assert found >= minimum


def test_rotated_photo_is_swapped_like_the_upright_one(standins: Path) -> None:
    settings = load_settings(execution_provider="cpu", frame_processors="face_swapper")
    engine = Engine.open(settings, models_dir=standins)
    source = engine.analyser.find(portrait("hanna"))[0].embedding
    upright = process_image(engine, Assignment.of(source), portrait("bruno"))[0]
    result, _, measured, _ = process_image(
        engine, Assignment.of(source), np.ascontiguousarray(np.rot90(portrait("bruno")))
    )
    assert measured.faces == 1
    assert process_image(engine, Assignment.of(source), result, single=False)[2].faces == 0
    assert np.abs(np.rot90(result, -1).astype(int) - upright).mean() < 1
    assert np.abs(upright.astype(int) - portrait("bruno")).mean() > 0.5


def test_no_face_is_found_in_backgrounds(analyser: FaceAnalyser) -> None:
    from tests.people.background import random_background

    rng = np.random.default_rng(5)
    assert not any(analyser.search(BgrPicture(random_background(rng, (640, 360)))) for _ in range(5))
