"""Single pictures in which the detector's own view shows nothing."""

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


def turned(degrees: int) -> Callable[[Image, Points], tuple[Image, Points]]:
    def turn(image: Image, points: Points) -> tuple[Image, Points]:
        matrix = cv2.getRotationMatrix2D(((SIZE - 1) / 2, (SIZE - 1) / 2), degrees, 1)
        return (
            np.asarray(cv2.warpAffine(image, matrix, (SIZE, SIZE)), np.uint8),
            (points @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32),
        )

    return turn


def tight(image: Image, points: Points) -> tuple[Image, Points]:
    """The face from brow to chin, and nothing else."""
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
    ("change", "least"), [(turned(90), 2), (turned(180), 2), (turned(270), 2), (tight, 2), (dark, 2)]
)
def test_faces_are_found_in_other_views(
    analyser: FaceAnalyser, change: Callable[[Image, Points], tuple[Image, Points]], least: int
) -> None:
    plainly = found = 0
    people = list(IDENTITIES)[::4]
    for who in people:
        image, points = change(portrait(who), points_of(who))
        plainly += bool(analyser.detect(BgrPicture(image)))
        gap = float(np.linalg.norm(points[1] - points[0]))
        faces = analyser.search(BgrPicture(image))
        # Each point where it is, in the order of the person: the eye on their right comes first.
        found += any(np.abs(face.kps - points).max() < 0.25 * gap for face in faces)
    # A video's frame is not turned for each look, but brightened where it is dark.
    assert plainly >= 2 if change is dark else plainly < len(people)
    assert found >= least


def test_a_turned_photo_is_swapped_as_the_upright_one(standins: Path) -> None:
    settings = load_settings(execution_provider="cpu", frame_processors="face_swapper")
    engine = Engine.open(settings, models_dir=standins)
    source = engine.analyser.find(portrait("hanna"))[0].embedding
    upright = process_image(engine, Assignment.of(source), portrait("bruno"))[0]
    turned_back, _, measured, _ = process_image(
        engine, Assignment.of(source), np.ascontiguousarray(np.rot90(portrait("bruno")))
    )
    assert measured.faces == 1
    of_a_video = process_image(engine, Assignment.of(source), turned_back, single=False)[2]
    assert of_a_video.faces == 0  # as a video's run finds them
    apart = np.abs(np.rot90(turned_back, -1).astype(int) - upright)
    assert apart.mean() < 1
    assert np.abs(upright.astype(int) - portrait("bruno")).mean() > 0.5


def test_nothing_is_found_where_nobody_is(analyser: FaceAnalyser) -> None:
    from tests.people.background import random_background

    rng = np.random.default_rng(5)
    assert not any(analyser.search(BgrPicture(random_background(rng, (640, 360)))) for _ in range(5))
