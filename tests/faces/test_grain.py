"""A changed face has the grain of its shot, and no more."""

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
    """A grey picture ``(320, 320)`` of some levels, 0 to 255."""
    if kind == "bgr":
        return BgrPicture(cv2.merge([levels.astype(np.uint8)] * 3))
    frame = av.VideoFrame(320, 320, "yuv420p" if kind == "yuv420p" else "p010le")
    for number, plane in enumerate(frame.planes):
        ten = kind == "p010le"
        samples = np.frombuffer(plane, np.uint16 if ten else np.uint8).reshape(plane.height, -1)
        grey = levels if number == 0 else np.full((1, 1), 128)
        samples[...] = 0
        samples[:, :320] = (grey * 256 if ten else grey).astype(samples.dtype)
    return VideoPicture(frame)


def fineness(shown: Picture) -> npt.NDArray[np.float32]:
    luma = shown.luma(WHOLE)
    return luma - cv2.GaussianBlur(luma, (0, 0), 1.0)


@pytest.mark.parametrize("kind", ["bgr", "yuv420p", "p010le"])
@pytest.mark.parametrize("left", [0.0, 0.5])
def test_grain_comes_back_as_it_was_inside_the_face_and_nowhere_else(kind: str, left: float) -> None:
    noise = np.random.default_rng(0).normal(0, 3, (320, 320))
    shown = picture(kind, 120 + noise)
    before = fineness(shown)
    grain = Grain.of(shown, FACE)
    assert grain is not None
    levels = (120 + left * noise).astype(np.float32)  # what a network leaves
    shown.add_luma(WHOLE, levels - shown.luma(WHOLE))
    changed = shown.luma(WHOLE)
    grain.restore()
    inside = np.s_[110:210, 110:210]
    assert fineness(shown)[inside].std() == pytest.approx(before[inside].std(), rel=0.15)
    np.testing.assert_array_equal(shown.luma(WHOLE)[:40], changed[:40])


def test_a_face_that_has_as_much_is_left_alone() -> None:
    for levels in (np.full((320, 320), 120.0), 120 + np.random.default_rng(0).normal(0, 3, (320, 320))):
        shown = picture("bgr", levels)
        grain = Grain.of(shown, FACE)
        assert grain is not None
        before = shown.luma(WHOLE)
        grain.restore()
        np.testing.assert_array_equal(shown.luma(WHOLE), before)


def test_a_line_is_not_grain() -> None:
    levels = 120 + np.random.default_rng(0).normal(0, 1, (320, 320))
    levels[150:153, :] = 20
    shown = picture("bgr", levels)
    grain = Grain.of(shown, FACE)
    assert grain is not None
    shown.add_luma(WHOLE, 120 - shown.luma(WHOLE))
    grain.restore()
    assert np.abs(shown.luma(WHOLE) - 120).max() <= 5


def test_a_face_outside_the_frame_has_none() -> None:
    assert Grain.of(picture("bgr", np.full((320, 320), 120.0)), face(-300, 160)) is None


def test_a_large_face_is_as_sharp_as_its_shot_and_nearer_to_the_truth(
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
        smooth = process_image(engine, Assignment.of(source), frame)[0]
    assert sharpness(smooth) < 0.4 * sharpness(truth)
    assert 0.7 * sharpness(truth) < sharpness(result) < 1.1 * sharpness(truth)
    assert error(result) < error(smooth)
