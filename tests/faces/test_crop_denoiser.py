"""Temporal denoising of the swapper's input crop: still pixels are denoised, moving ones kept."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from colab_helpers.faces.assignment import Treatment
from colab_helpers.faces.changer import FaceChanger, FaceJob
from colab_helpers.faces.crop_denoiser import CropDenoiser
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.types import Face
from colab_helpers.media.picture import BgrPicture
from colab_helpers.settings import load_settings
from tests.helpers.faces import face
from tests.people.actors import portrait
from tests.people.scene import Scene

FACE = replace(face(160, 160, size=1.0), track=3)


class WholePictureChanger:
    """A changer whose crop is the whole picture."""

    @staticmethod
    def crop(picture: Any, _face: Face) -> Any:
        return picture.image


def crops(frames: list[Any], *, starts: tuple[int, ...] = (0,), one: Face = FACE) -> list[Any]:
    denoiser = CropDenoiser(WholePictureChanger.crop)
    return [
        denoiser.crops(BgrPicture(image), [one], first=i in starts)[one.track]
        for i, image in enumerate(frames)
    ]


def noisy(seed: int, levels: Any) -> npt.NDArray[np.uint8]:
    noise = np.random.default_rng(seed).normal(0, 3, (64, 64, 1))
    return np.clip(np.rint(levels + noise), 0, 255).astype(np.uint8)


def test_still_pixels_are_denoised_and_moving_pixels_unchanged() -> None:
    still, moved = np.full((64, 64, 3), 120.0), np.full((64, 64, 3), 120.0)
    moved[:, 32:] = 160
    frames = [noisy(1, still), noisy(2, moved)]
    first, second = crops(frames)
    np.testing.assert_array_equal(first, frames[0])
    np.testing.assert_array_equal(second[:, 40:], frames[1][:, 40:])
    assert (second[:, :24] - 120.0).std() < 0.88 * (frames[1][:, :24] - 120.0).std()


def test_only_previous_frame_is_used_and_none_at_segment_start() -> None:
    frames = [noisy(seed, np.full((64, 64, 3), 120.0)) for seed in range(5)]
    whole = crops(frames, starts=(0, 2))
    np.testing.assert_array_equal(whole[2], frames[2])
    np.testing.assert_array_equal(whole[2:], crops(frames[2:]))
    np.testing.assert_array_equal(whole[4], crops(frames[3:])[1])
    assert (whole[1] != frames[1]).any()


def test_other_track_is_not_used_for_denoising() -> None:
    frames = [noisy(seed, np.full((64, 64, 3), 120.0)) for seed in range(2)]
    denoiser = CropDenoiser(WholePictureChanger.crop)
    denoiser.crops(BgrPicture(frames[0]), [FACE], first=True)
    found = denoiser.crops(BgrPicture(frames[1]), [replace(FACE, track=4)], first=False)
    np.testing.assert_array_equal(found[4], frames[1])


def test_no_crop_without_swapper() -> None:
    picture = BgrPicture(np.zeros((9, 9, 3), np.uint8))
    assert not CropDenoiser(FaceChanger(None, None, None).crop).crops(picture, [FACE], first=True)


def test_still_face_flickers_no_more_than_its_shot(standins: Path) -> None:
    settings = load_settings(execution_provider="cpu", frame_processors="face_swapper")
    engine = Engine.open(settings, models_dir=standins)
    changer = engine.changer(Treatment(source=engine.analyser.find(portrait("hanna"))[0].embedding))
    scene = Scene(109, (640, 360), Fraction(1000), 0.012, 1)
    shots = [scene.render_all(i) for i in range(scene.frames)]
    inside = shots[0].mask > 0.5

    def flicker(images: list[Any]) -> float:
        smooth = [cv2.GaussianBlur(image, (0, 0), 4).astype(np.float32)[inside] for image in images]
        return float(np.sqrt(np.mean([np.square(b - a).mean() for a, b in pairwise(smooth)])))

    def changed(*, denoised: bool) -> list[Any]:
        denoiser, pictures = CropDenoiser(changer.crop), [BgrPicture(shot.frame.copy()) for shot in shots]
        for i, (picture, shot) in enumerate(zip(pictures, shots, strict=True)):
            one = Face(shot.faces[0].box, shot.faces[0].kps, 0.9, track=0)
            crop = denoiser.crops(picture, [one], first=i == 0)[0]
            changer.change([FaceJob(picture, one, crop=crop if denoised else None)])
        return [picture.image for picture in pictures]

    original = flicker([shot.frame for shot in shots])
    assert flicker(changed(denoised=True)) < 1.05 * original < flicker(changed(denoised=False))
