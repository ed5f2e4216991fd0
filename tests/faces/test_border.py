"""Faces cut by the border of the frame."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from colab_helpers.faces.assignment import Assignment, Treatment
from colab_helpers.faces.changer import FaceJob
from colab_helpers.faces.engine import Engine
from colab_helpers.media.picture import BgrPicture
from colab_helpers.pipeline.image import process_image
from colab_helpers.settings import load_settings
from tests.people.actors import portrait
from tests.people.scene import Scene

Image = npt.NDArray[np.uint8]


def psnr(image: Image, truth: Image, inside: npt.NDArray[np.bool_]) -> float:
    error = np.square(image.astype(np.float64) - truth).mean(2)[inside].mean()
    return float(10 * np.log10(255**2 / error))


@pytest.mark.parametrize("share", [0.15, 0.3])
def test_face_cut_by_border_is_swapped_as_well_as_whole_face(share: float, standins: Path) -> None:
    settings = load_settings(execution_provider="cpu", frame_processors="face_swapper")
    engine = Engine.open(settings, models_dir=standins)
    source = engine.analyser.find(portrait("hanna"))[0].embedding
    whole, cut, clipped, unchanged = [], [], [], []
    for seed in (301, 302, 304, 305):
        scene = Scene(seed, (640, 360), Fraction(25), 4.0, 1)
        frame, (face,) = scene.render(12)
        truth, inside = scene.render(12, swap_to="hanna")[0], scene.render_all(12).mask > 0.5
        left = round(float(face.box[0] + share * (face.box[2] - face.box[0])))
        uncut = process_image(engine, Assignment.of(source), frame)[0]
        uncut, part, truth, inside = (
            np.ascontiguousarray(array[:, left:]) for array in (uncut, frame, truth, inside)
        )
        whole.append(psnr(uncut, truth, inside))
        unchanged.append(psnr(part, truth, inside))
        result, _, measured, _ = process_image(engine, Assignment.of(source), part)
        assert measured.faces == 1
        cut.append(psnr(result, truth, inside))
        # Some detectors clip boxes at the border.
        (found,) = engine.analyser.find(part, embed=False)
        picture = BgrPicture(part.copy())
        box = found.box.clip(0)
        engine.changer(Treatment(source=source)).change([FaceJob(picture, replace(found, box=box))])
        clipped.append(psnr(picture.image, truth, inside))
    assert np.mean(cut) > np.mean(whole) - 1
    assert np.mean(clipped) > np.mean(cut) - 0.05
    assert np.mean(cut) > np.mean(unchanged) + 4
