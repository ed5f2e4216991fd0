"""Grain of a changed face is restored to that of the shot."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest

from colab_helpers.faces.assignment import Assignment
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.grain import Grain
from colab_helpers.media.picture import BgrPicture, Picture, VideoPicture
from colab_helpers.pipeline.image import process_image
from colab_helpers.settings import load_settings
from tests.helpers.faces import face
from tests.people.actors import portrait
from tests.people.scene import Scene

WHOLE = (0, 0, 320, 320)
FACE = face(160, 160, size=2)


def picture(kind: str, levels: npt.NDArray[Any]) -> Picture:
    """A grey picture ``(320, 320)`` with the given levels, 0 to 255."""
    if kind == "bgr":
        return BgrPicture(cv2.merge([levels.astype(np.uint8)] * 3))
    frame = av.VideoFrame(320, 320, "yuv420p" if kind == "yuv420p" else "p010le")
    for number, plane in enumerate(frame.planes):
        ten_bit = kind == "p010le"
        samples = np.frombuffer(plane, np.uint16 if ten_bit else np.uint8).reshape(plane.height, -1)
        grey = levels if number == 0 else np.full((1, 1), 128)
        samples[...] = 0
        samples[:, :320] = (grey * 256 if ten_bit else grey).astype(samples.dtype)
    return VideoPicture(frame)


def high_frequencies(image: Picture) -> npt.NDArray[np.float32]:
    luma = image.luma(WHOLE)
    return luma - cv2.GaussianBlur(luma, (0, 0), 1.0)


@pytest.mark.parametrize("kind", ["bgr", "yuv420p", "p010le"])
@pytest.mark.parametrize("share_left", [0.0, 0.5])
def test_grain_is_restored_inside_the_face_only(kind: str, share_left: float) -> None:
    noise = np.random.default_rng(0).normal(0, 3, (320, 320))
    image = picture(kind, 120 + noise)
    before = high_frequencies(image)
    grain = Grain.of(image, FACE)
    assert grain is not None
    output = (120 + share_left * noise).astype(np.float32)
    image.add_luma(WHOLE, output - image.luma(WHOLE))
    changed = image.luma(WHOLE)
    grain.restore()
    inside = np.s_[110:210, 110:210]
    assert high_frequencies(image)[inside].std() == pytest.approx(before[inside].std(), rel=0.15)
    np.testing.assert_array_equal(image.luma(WHOLE)[:40], changed[:40])


def test_face_with_enough_grain_is_unchanged() -> None:
    for levels in (np.full((320, 320), 120.0), 120 + np.random.default_rng(0).normal(0, 3, (320, 320))):
        image = picture("bgr", levels)
        grain = Grain.of(image, FACE)
        assert grain is not None
        before = image.luma(WHOLE)
        grain.restore()
        np.testing.assert_array_equal(image.luma(WHOLE), before)


def test_line_is_not_taken_for_grain() -> None:
    levels = 120 + np.random.default_rng(0).normal(0, 1, (320, 320))
    levels[150:153, :] = 20
    image = picture("bgr", levels)
    grain = Grain.of(image, FACE)
    assert grain is not None
    image.add_luma(WHOLE, 120 - image.luma(WHOLE))
    grain.restore()
    assert np.abs(image.luma(WHOLE) - 120).max() <= 5


def test_face_outside_the_frame_has_no_grain() -> None:
    assert Grain.of(picture("bgr", np.full((320, 320), 120.0)), face(-300, 160)) is None


def test_grain_makes_large_face_as_sharp_as_shot_and_more_accurate(
    standins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine.open(load_settings(execution_provider="cpu"), models_dir=standins)
    source = engine.analyser.find(portrait("hanna"))[0].embedding
    scene = Scene(301, (2560, 1440), Fraction(25), 4.0, 1)
    frame, truth = scene.render(12)[0], scene.render(12, swap_to="hanna")[0]
    inside = cv2.erode((scene.render_all(12).mask > 0.5).astype(np.uint8), np.ones((9, 9))) > 0

    def sharpness(image: npt.NDArray[np.uint8]) -> float:
        return float(cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.CV_32F)[inside].std())

    def error(image: npt.NDArray[np.uint8]) -> float:
        return float(np.square(image.astype(np.float64) - truth)[inside].mean())

    result = process_image(engine, Assignment.of(source), frame)[0]
    with monkeypatch.context() as patch:
        patch.setattr(Grain, "restore", lambda _self: None)
        without_grain = process_image(engine, Assignment.of(source), frame)[0]
    assert sharpness(without_grain) < 0.4 * sharpness(truth)
    assert 0.7 * sharpness(truth) < sharpness(result) < 1.1 * sharpness(truth)
    assert error(result) < error(without_grain)
