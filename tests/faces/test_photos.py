"""Source photos: quality measures, hints and merging."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from colab_helpers.errors import MediaError, UsageError
from colab_helpers.faces.analyser import FaceAnalyser
from colab_helpers.faces.analyser import unit as unit_of
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.photos import (
    BLURRED,
    DARK,
    SMALLEST,
    TURNED,
    examine,
    find_outliers,
    merge_identity,
    yaw_degrees,
)
from colab_helpers.faces.types import FloatArray
from colab_helpers.settings import Settings
from tests.people.actors import Pose, landmarks, portrait
from tests.people.looks import IDENTITIES, look_of
from tests.people.paint import Expression

PEOPLE = list(IDENTITIES)
for_each_person = pytest.mark.parametrize("who", PEOPLE)


@pytest.fixture(scope="module")
def analyser(standins: Path) -> FaceAnalyser:
    return FaceAnalyser(Settings(), models_dir=standins)


def blurred(image: np.ndarray, pixels: float) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), pixels)


def scaled(image: np.ndarray, size: int) -> np.ndarray:
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)


@for_each_person
def test_good_portrait_has_no_hints(analyser, who):
    report = examine(analyser, portrait(who))
    assert report.hints == ()
    assert report.size == (512, 512)
    assert len(report.faces) == 1
    assert report.face_width > SMALLEST
    assert np.linalg.norm(report.embedding) == pytest.approx(1, abs=1e-4)
    assert abs(report.yaw) < 12
    assert report.highlights > 2 * DARK


@for_each_person
def test_sharpness_threshold_separates_sharp_from_blurred(analyser, who):
    """Blur of one pixel is accepted, of two is not; the measure falls with each step."""
    image = portrait(who)
    values = [examine(analyser, blurred(image, pixels)).sharpness for pixels in (0.5, 1, 2, 3)]
    assert values == sorted(values, reverse=True)
    assert values[1] > 1.2 * BLURRED
    assert values[2] < BLURRED / 1.2
    assert examine(analyser, blurred(image, 1)).hints == ()
    assert [hint for hint in examine(analyser, blurred(image, 2)).hints if "blurred" in hint]


def test_dark_photo_is_not_reported_as_blurred(analyser):
    image = portrait("alma")
    report = examine(analyser, (image * 0.2).astype(np.uint8))
    (hint,) = report.hints
    assert "too dark" in hint
    assert report.sharpness == pytest.approx(examine(analyser, image).sharpness, rel=0.2)


def test_overexposed_photo_has_a_hint(analyser):
    report = examine(analyser, cv2.add(cv2.convertScaleAbs(portrait("bruno"), alpha=1.9), (60, 60, 60, 0)))
    assert any("too bright" in hint for hint in report.hints)
    assert report.overexposed > 0.2


def test_small_face_has_a_hint(analyser):
    report = examine(analyser, scaled(portrait("chidi"), 256))
    assert report.face_width < SMALLEST
    (hint,) = report.hints
    assert f"small: {report.face_width:.0f} pixels" in hint


def test_photo_without_face_has_a_hint(analyser):
    report = examine(analyser, np.full((300, 400, 3), 120, np.uint8))
    assert report.face is None
    assert report.embedding is None
    assert report.face_width == 0
    assert report.size == (400, 300)
    assert "No face" in report.hints[0]


def test_largest_of_several_faces_is_used(analyser):
    image = np.full((512, 900, 3), 120, np.uint8)
    image[:, :512] = portrait("alma")
    image[:350, 540:890] = scaled(portrait("bruno"), 350)
    report = examine(analyser, image)
    assert len(report.faces) == 2
    assert "2 faces were found: the one that most photos show is used, else the largest." in report.hints
    assert report.face.centre[0] < 512
    assert float(report.embedding @ examine(analyser, portrait("alma")).embedding) > 0.8


@pytest.mark.parametrize("yaw", [-45, -30, -15, 0, 15, 30, 45])
@pytest.mark.parametrize("roll", [-20, 0, 20])
def test_yaw_from_exact_landmarks(yaw, roll):
    for who in PEOPLE:
        pose = Pose(x=256, y=256, scale=120, yaw=yaw, pitch=0, roll=roll)
        assert yaw_degrees(landmarks(look_of(who).body, pose, Expression())) == pytest.approx(yaw, abs=4)


def test_coincident_points_count_as_turned_away():
    assert yaw_degrees(np.zeros((5, 2), np.float32)) > TURNED


def test_no_outliers_with_fewer_than_two_photos(analyser):
    assert find_outliers([]) == []
    assert find_outliers([examine(analyser, portrait("alma")).embedding]) == [False]


def unit(*places: int) -> FloatArray:
    vector = np.zeros(512, np.float32)
    vector[list(places)] = 1
    return vector / np.linalg.norm(vector)


BROKEN = MediaError("it is no picture", where="a.png", remedy="name another")


@pytest.mark.parametrize(
    ("found", "used", "messages"),
    [
        ([[unit(1)]], (0,), []),
        ([[unit(1)], [unit(1, 2)]], (0, 1), []),
        (
            [[unit(1)], [unit(2)], [unit(1, 3)]],
            (0, 2),
            ["b.png is left out: it seems to show a different person"],
        ),
        ([BROKEN, [unit(1)], BROKEN], (1,), ["a.png is left out: it is no picture", "c.png is left out"]),
        (
            [BROKEN, [unit(1)], [unit(1)], [unit(2)]],
            (1, 2),
            ["a.png is left out", "d.png is left out: it seems"],
        ),
        ([[unit(1), unit(2)]], (0,), ["a.png shows 2 faces: the largest is used"]),
    ],
)
def test_outlier_and_unreadable_photos_are_left_out(found, used, messages):
    identity = merge_identity(["a.png", "b.png", "c.png", "d.png"][: len(found)], found)
    assert identity.used == used
    expected = np.mean([found[n][0] for n in used], axis=0)
    np.testing.assert_allclose(identity.embedding, expected / np.linalg.norm(expected), atol=1e-6)
    for text, note in zip(messages, identity.notes, strict=True):
        assert text in note


def test_face_that_other_photos_show_is_chosen_among_several():
    found = [[unit(2), unit(3), unit(1)], [unit(1, 2)], [unit(4), unit(1, 3)]]
    identity = merge_identity(["a.png", "b.png", "c.png"], found)
    assert identity.used == (0, 1, 2)
    expected = np.mean([unit(1), unit(1, 2), unit(1, 3)], axis=0)
    np.testing.assert_allclose(identity.embedding, expected / np.linalg.norm(expected), atol=1e-6)
    assert ["number 3 by size" in identity.notes[0], "number 2 by size" in identity.notes[1]] == [True, True]


def test_poor_photo_has_less_weight(standins):
    """A small, blurred, dark photo beside two good ones is weighted by its quality."""
    engine = Engine.open(Settings(frame_processors=["face_swapper"]), models_dir=standins)
    good = portrait("alma")
    poor = (cv2.resize(blurred(good, 3), (200, 200)) * 0.5).astype(np.uint8)
    images = {"a.png": good, "b.png": good[:, ::-1].copy(), "poor.png": poor}
    quality = [examine(engine.analyser, image).quality for image in images.values()]
    assert quality[:2] == [1, 1]
    assert 0 < quality[2] < 0.4
    found = {name: engine.embeddings(name, image) for name, image in images.items()}
    unweighted = merge_identity(list(images), list(found.values()))
    weighted = engine.identity([(name, lambda name=name: images[name]) for name in images])
    assert weighted.used == unweighted.used == (0, 1, 2)
    good_only = engine.identity([(name, lambda name=name: images[name]) for name in ("a.png", "b.png")])
    distances = [1 - unit_of(one.embedding) @ unit_of(good_only.embedding) for one in (weighted, unweighted)]
    assert distances[0] < 0.3 * distances[1]


@pytest.mark.parametrize(
    ("found", "error", "text"),
    [
        ([BROKEN], MediaError, "no picture"),
        ([BROKEN, BROKEN], MediaError, "no picture"),
        ([[unit(1)], [unit(2)]], UsageError, r"a\.png, b\.png: .*one and the same person.*What to do"),
        ([BROKEN, [unit(1)], [unit(2)]], UsageError, r"b\.png, c\.png: "),
    ],
)
def test_photos_without_a_consistent_person_are_refused(found, error, text):
    with pytest.raises(error, match=text):
        merge_identity(["a.png", "b.png", "c.png"][: len(found)], found)


def test_outlier_among_photos_is_found(analyser):
    names = ["alma", "bruno", "alma", "alma"]
    images = [portrait(name) for name in names]
    images[2] = blurred(images[2], 1)
    images[3] = scaled(images[3], 400)
    embeddings = [examine(analyser, image).embedding for image in images]
    assert find_outliers(embeddings) == [False, True, False, False]
    assert find_outliers(embeddings[:3]) == [False, True, False]
    assert find_outliers(embeddings[:2]) == [True, True]
    assert find_outliers(embeddings[2:]) == [False, False]
