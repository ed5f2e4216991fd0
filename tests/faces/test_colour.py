"""Colour matching corrects a swapper's colour cast and keeps intended changes."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from colab_helpers.faces.assignment import Treatment
from colab_helpers.faces.changer import FaceChanger, FaceJob
from colab_helpers.faces.colour import match_colours
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.masks import face_mask
from colab_helpers.faces.types import Face
from colab_helpers.media.picture import BgrPicture
from colab_helpers.settings import load_settings
from tests.people.actors import portrait
from tests.people.scene import Scene

Image = npt.NDArray[np.uint8]
GAIN, SHIFT = 0.85, np.array([12.0, -6.0, 9.0])


def colour_cast(images: Any) -> Any:
    return np.clip(np.rint(np.asarray(images) * GAIN + SHIFT), 0, 255).astype(np.uint8)


def test_gain_and_shift_are_removed_and_beard_is_kept() -> None:
    noise = np.random.default_rng(0).integers(60, 190, (128, 128, 3), np.uint8)
    before = np.asarray(cv2.GaussianBlur(noise, (0, 0), 4), np.uint8)
    before = np.asarray(cv2.convertScaleAbs(before, alpha=3, beta=-250), np.uint8)
    bearded = before.copy()
    bearded[80:110, 40:90] //= 3
    matched = match_colours(colour_cast(bearded), before, face_mask(128)).astype(int)
    assert np.abs(matched - bearded).mean() < 2.5
    assert np.abs(colour_cast(bearded).astype(int) - bearded).mean() > 8


def test_uniform_or_fully_masked_crop_is_unchanged() -> None:
    crop = np.full((128, 128, 3), 90, np.uint8)
    np.testing.assert_array_equal(match_colours(crop, crop, np.zeros((128, 128), np.float32)), crop)
    assert np.abs(match_colours(crop, crop, face_mask(128)).astype(int) - 90).max() <= 1


def test_wrong_colours_of_rendered_people_are_corrected_others_kept(standins: Path) -> None:
    engine = Engine.open(load_settings(execution_provider="cpu", colour_match=True), models_dir=standins)
    assert engine.swapper is not None
    source = engine.analyser.find(portrait("hanna"))[0].embedding
    assert source is not None
    assert engine.changer(Treatment(source=source)).colour_match
    swapper, latent = engine.swapper, engine.swapper.latent(source)
    miscoloured: Any = SimpleNamespace(
        size=128,
        template=swapper.template,
        swap=lambda crops, latents: colour_cast(swapper.swap(crops, latents)),
    )

    def quality(swapper_used: Any, *, match: bool) -> tuple[float, float]:
        """PSNR inside the face; standard deviation over frames of the change in brightness."""
        psnrs, brightness = [], []
        for seed in (301, 304):
            scene = Scene(seed, (640, 360), Fraction(1000), 0.004, 1)
            for i in range(scene.frames):
                shot = scene.render_all(i, ["hanna"])
                inside = shot.mask > 0.5
                picture = BgrPicture(shot.frame.copy())
                face = Face(shot.faces[0].box, shot.faces[0].kps, 0.9)
                FaceChanger(swapper_used, latent, None, 100, match).change([FaceJob(picture, face)])
                error = np.square(picture.image.astype(float) - shot.swapped["hanna"])[inside].mean()
                psnrs.append(10 * np.log10(255**2 / error))
                brightness.append(picture.image[inside].mean() - shot.frame[inside].mean())
        return float(np.mean(psnrs)), float(np.std(np.reshape(brightness, (2, -1)), axis=1).mean())

    baseline, flicker = quality(swapper, match=False)
    matched, matched_flicker = quality(swapper, match=True)
    assert matched == pytest.approx(baseline, abs=0.2)
    assert matched_flicker < flicker + 0.1
    assert quality(miscoloured, match=False)[0] < baseline - 6
    assert quality(miscoloured, match=True)[0] > baseline - 2
