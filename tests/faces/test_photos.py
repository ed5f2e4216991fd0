"""Photos of the person who is put in: what is measured, and what is said."""

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
everybody = pytest.mark.parametrize("who", PEOPLE)


@pytest.fixture(scope="module")
def analyser(standins: Path) -> FaceAnalyser:
    return FaceAnalyser(Settings(), models_dir=standins)


def blurred(image: np.ndarray, pixels: float) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), pixels)


def scaled(image: np.ndarray, size: int) -> np.ndarray:
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)


@everybody
def test_a_good_portrait_has_no_hints(analyser, who):
    report = examine(analyser, portrait(who))
    assert report.hints == ()
    assert report.size == (512, 512)
    assert len(report.faces) == 1
    assert report.face_width > SMALLEST
    assert np.linalg.norm(report.embedding) == pytest.approx(1, abs=1e-4)
    assert abs(report.yaw) < 12
    assert report.highlights > 2 * DARK


@everybody
def test_the_threshold_tells_sharp_from_blurred(analyser, who):
    """One pixel of blur is nothing that anybody notices, two are; the figure falls with every step."""
    image = portrait(who)
    figures = [examine(analyser, blurred(image, pixels)).sharpness for pixels in (0.5, 1, 2, 3)]
    assert figures == sorted(figures, reverse=True)
    assert figures[1] > 1.2 * BLURRED
    assert figures[2] < BLURRED / 1.2
    assert examine(analyser, blurred(image, 1)).hints == ()
    assert [hint for hint in examine(analyser, blurred(image, 2)).hints if "blurred" in hint]


def test_a_dark_photo_is_not_called_blurred(analyser):
    image = portrait("alma")
    report = examine(analyser, (image * 0.2).astype(np.uint8))
    (hint,) = report.hints
    assert "too dark" in hint
    assert report.sharpness == pytest.approx(examine(analyser, image).sharpness, rel=0.2)


def test_a_burnt_photo(analyser):
    report = examine(analyser, cv2.add(cv2.convertScaleAbs(portrait("bruno"), alpha=1.9), (60, 60, 60, 0)))
    assert any("too bright" in hint for hint in report.hints)
    assert report.overexposed > 0.2


def test_a_small_face(analyser):
    report = examine(analyser, scaled(portrait("chidi"), 256))
    assert report.face_width < SMALLEST
    (hint,) = report.hints
    assert f"small: {report.face_width:.0f} pixels" in hint


def test_no_face(analyser):
    report = examine(analyser, np.full((300, 400, 3), 120, np.uint8))
    assert report.face is None
    assert report.embedding is None
    assert report.face_width == 0
    assert report.size == (400, 300)
    assert "No face" in report.hints[0]


def test_of_several_faces_the_largest_counts(analyser):
    image = np.full((512, 900, 3), 120, np.uint8)
    image[:, :512] = portrait("alma")
    image[:350, 540:890] = scaled(portrait("bruno"), 350)
    report = examine(analyser, image)
    assert len(report.faces) == 2
    assert "2 faces were found: the one that most photos show is used, else the largest." in report.hints
    assert report.face.centre[0] < 512
    alone = examine(analyser, portrait("alma"))
    assert float(report.embedding @ alone.embedding) > 0.8


@pytest.mark.parametrize("yaw", [-45, -30, -15, 0, 15, 30, 45])
@pytest.mark.parametrize("roll", [-20, 0, 20])
def test_the_turn_of_a_head_from_its_true_points(yaw, roll):
    for who in PEOPLE:
        pose = Pose(x=256, y=256, scale=120, yaw=yaw, pitch=0, roll=roll)
        points = landmarks(look_of(who).body, pose, Expression())
        assert yaw_degrees(points) == pytest.approx(yaw, abs=4)


def test_points_that_coincide_count_as_turned_away():
    assert yaw_degrees(np.zeros((5, 2), np.float32)) > TURNED


def test_one_photo_is_nobodys_stranger(analyser):
    assert find_outliers([]) == []
    assert find_outliers([examine(analyser, portrait("alma")).embedding]) == [False]


def unit(*places: int) -> FloatArray:
    vector = np.zeros(512, np.float32)
    vector[list(places)] = 1
    return vector / np.linalg.norm(vector)


BROKEN = MediaError("it is no picture", where="a.png", remedy="name another")


@pytest.mark.parametrize(
    ("found", "used", "said"),
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
def test_photos_that_disagree_or_cannot_be_read_are_left_out(found, used, said):
    identity = merge_identity(["a.png", "b.png", "c.png", "d.png"][: len(found)], found)
    assert identity.used == used
    expected = np.mean([found[n][0] for n in used], axis=0)
    np.testing.assert_allclose(identity.embedding, expected / np.linalg.norm(expected), atol=1e-6)
    for words, note in zip(said, identity.notes, strict=True):
        assert words in note


def test_of_several_faces_the_one_that_the_other_photos_show_counts():
    found = [[unit(2), unit(3), unit(1)], [unit(1, 2)], [unit(4), unit(1, 3)]]
    identity = merge_identity(["a.png", "b.png", "c.png"], found)
    assert identity.used == (0, 1, 2)
    expected = np.mean([unit(1), unit(1, 2), unit(1, 3)], axis=0)
    np.testing.assert_allclose(identity.embedding, expected / np.linalg.norm(expected), atol=1e-6)
    assert ["number 3 by size" in identity.notes[0], "number 2 by size" in identity.notes[1]] == [True, True]


def test_a_poor_photo_moves_a_person_less(standins):
    """Beside two good ones, one that is small, blurred and darker counts by what it reaches."""
    engine = Engine.open(Settings(frame_processors=["face_swapper"]), models_dir=standins)
    good = portrait("alma")
    poor = (cv2.resize(blurred(good, 3), (200, 200)) * 0.5).astype(np.uint8)
    images = {"a.png": good, "b.png": good[:, ::-1].copy(), "poor.png": poor}
    quality = [examine(engine.analyser, image).quality for image in images.values()]
    assert quality[:2] == [1, 1]
    assert 0 < quality[2] < 0.4
    found = {name: engine.embeddings(name, image) for name, image in images.items()}
    even = merge_identity(list(images), list(found.values()))
    weighed = engine.identity([(name, lambda name=name: images[name]) for name in images])
    assert weighed.used == even.used == (0, 1, 2)
    clean = engine.identity([(name, lambda name=name: images[name]) for name in ("a.png", "b.png")])
    apart = [1 - unit_of(one.embedding) @ unit_of(clean.embedding) for one in (weighed, even)]
    assert apart[0] < 0.3 * apart[1]


@pytest.mark.parametrize(
    ("found", "error", "words"),
    [
        ([BROKEN], MediaError, "no picture"),
        ([BROKEN, BROKEN], MediaError, "no picture"),
        ([[unit(1)], [unit(2)]], UsageError, r"a\.png, b\.png: .*one and the same person.*What to do"),
        ([BROKEN, [unit(1)], [unit(2)]], UsageError, r"b\.png, c\.png: "),
    ],
)
def test_photos_from_which_nobody_can_be_told_are_refused(found, error, words):
    with pytest.raises(error, match=words):
        merge_identity(["a.png", "b.png", "c.png"][: len(found)], found)


def test_the_odd_one_out(analyser):
    names = ["alma", "bruno", "alma", "alma"]
    images = [portrait(name) for name in names]
    images[2] = blurred(images[2], 1)
    images[3] = scaled(images[3], 400)
    embeddings = [examine(analyser, image).embedding for image in images]
    assert find_outliers(embeddings) == [False, True, False, False]
    assert find_outliers(embeddings[:3]) == [False, True, False]
    assert find_outliers(embeddings[:2]) == [True, True]
    assert find_outliers(embeddings[2:]) == [False, False]
