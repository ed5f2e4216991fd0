"""Enhancement is reduced where the face would become sharper than its shot."""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest

from colab_helpers.faces.changer import FaceChanger, FaceJob
from colab_helpers.faces.geometry import FFHQ_512, arcface_template
from colab_helpers.faces.sharpness import Sharpness
from colab_helpers.faces.types import Face
from colab_helpers.media.picture import BgrPicture, VideoPicture
from tests.people.scene import Scene

Image = npt.NDArray[np.uint8]
COPY_SWAPPER: Any = SimpleNamespace(
    size=128, template=arcface_template(128), swap=lambda crops, _latents: np.stack(crops)
)
LATENT = np.zeros(512, np.float32)


def sharpening(gain: float) -> Any:
    """An enhancer that amplifies detail of up to three pixels, without noise."""

    def sharpened(crop: Image) -> Image:
        smooth = cv2.GaussianBlur(crop, (0, 0), 1.0).astype(np.float32)
        detail = smooth - cv2.GaussianBlur(smooth, (0, 0), 4.0)
        return np.clip(np.rint(smooth + (gain - 1) * detail), 0, 255).astype(np.uint8)

    return SimpleNamespace(
        size=512, template=FFHQ_512, enhance=lambda crops: np.stack([sharpened(crop) for crop in crops])
    )


def high_frequencies(image: Image) -> npt.NDArray[np.float32]:
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.float32)
    return np.asarray(cv2.Laplacian(cv2.GaussianBlur(grey, (5, 5), 1.0), cv2.CV_32F), np.float32)


@pytest.mark.parametrize("size", [(640, 360), (1280, 720), (2560, 1440)])
def test_oversharpening_enhancer_is_blended_less(size: tuple[int, int]) -> None:
    scene = Scene(301, size, Fraction(25), 4.0, 1)
    frame, (truth,) = scene.render(12)
    frame = np.asarray(cv2.GaussianBlur(frame, (0, 0), 1.0), np.uint8)
    inside = cv2.erode((scene.render_all(12).mask > 0.5).astype(np.uint8), np.ones((25, 25))) > 0
    face = Face(truth.box, truth.kps, 0.9)

    def sharpness(swapper: Any, gain: float) -> float:
        picture = BgrPicture(frame.copy())
        FaceChanger(swapper, LATENT, sharpening(gain), 100).change([FaceJob(picture, face)])
        return float(high_frequencies(picture.image)[inside].std() / high_frequencies(frame)[inside].std())

    assert sharpness(None, 6.0) > 1.5  # enhancement alone is not limited
    assert 0.75 < sharpness(COPY_SWAPPER, 6.0) < 1.2


@pytest.mark.parametrize("pixels", [192, 80])
def test_share_is_the_largest_within_the_limit(pixels: int) -> None:
    rng = np.random.default_rng(pixels)
    smooth = cv2.GaussianBlur(rng.integers(0, 256, (512, 512, 3), np.uint8), (0, 0), 3)
    crop = np.asarray(cv2.convertScaleAbs(smooth, alpha=5, beta=-510), np.uint8)
    enhanced = sharpening(6.0).enhance([crop])[0]

    def power(image: Image) -> float:
        part = cv2.resize(image[224:416, 160:352], (pixels, pixels))
        return float(np.square(high_frequencies(np.asarray(part, np.uint8))).mean())

    for factor in (1.0, 1.5, 2.0):
        before = Sharpness(pixels, factor * power(crop))
        share = before.share(crop, enhanced, 1.0)
        assert 0 < share < 1
        mixed = cv2.addWeighted(crop, 1 - share, enhanced, share, 0)
        assert power(np.asarray(mixed, np.uint8)) == pytest.approx(1.21 * before.power, rel=0.03)
    assert Sharpness(pixels, 2 * power(enhanced)).share(crop, enhanced, 0.8) == 0.8
    assert Sharpness(pixels, 0.5 * power(crop)).share(crop, enhanced, 0.8) == 0
    # A network that smooths a too sharp swap is used in full.
    assert Sharpness(pixels, power(crop)).share(enhanced, crop, 1.0) == 1


def test_share_is_stable_over_frames() -> None:
    scene = Scene(301, (640, 360), Fraction(1000), 0.012, 1)
    shares = []
    for i in range(scene.frames):
        picture = BgrPicture(scene.render(i)[0])
        (truth,) = scene.render(i)[1]
        before = Sharpness.of(picture, Face(truth.box, truth.kps, 0.9))
        assert before is not None
        crop = picture.crop(np.array([[3.0, 0, -3.0 * truth.box[0]], [0, 3.0, -3.0 * truth.box[1]]]), 512)
        shares.append(before.share(crop, sharpening(6.0).enhance([crop])[0], 1.0))
    assert 0.05 < np.mean(shares) < 0.95
    assert np.std(shares) < 0.02


def test_tiny_face_has_no_sharpness() -> None:
    kps = np.array([[4, 4], [8, 4], [6, 6], [4, 8], [8, 8]], np.float32)
    face = Face(np.array([0, 0, 12, 12], np.float32), kps, 0.9)
    assert Sharpness.of(BgrPicture(np.zeros((20, 20, 3), np.uint8)), face) is None


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (150, 180, 230)])
def test_sharpness_does_not_depend_on_luma_matrix(colour: tuple[int, int, int]) -> None:
    soft = cv2.GaussianBlur(np.random.default_rng(1).normal(0, 1, (400, 400)), (0, 0), 3)
    brightness = np.clip(0.5 + 0.25 * soft / soft.std(), 0, 1)[..., None]
    image = np.asarray(brightness * np.array(colour, np.float64), np.uint8)
    frame = av.VideoFrame.from_ndarray(image, format="bgr24").reformat(format="yuv444p", dst_colorspace=1)
    frame.colorspace = 1  # BT.709
    face = Face(np.array([50, 50, 350, 350], np.float32), 60 + 280 * (FFHQ_512 / 512), 0.9)
    expected, found = (Sharpness.of(picture, face) for picture in (BgrPicture(image), VideoPicture(frame)))
    assert expected is not None
    assert found is not None
    assert found.power == pytest.approx(expected.power, rel=0.05)
