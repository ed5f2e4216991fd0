"""What is in front of a face stays, and the face beside it is changed: on rendered people, to the pixel."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from benchmarks.covered import Covered, covered, true_faces
from colab_helpers.faces.engine import Engine
from colab_helpers.settings import load_settings
from tests.people.actors import portrait
from tests.people.covers import Cover
from tests.people.scene import Scene


@pytest.mark.parametrize("cover", ["microphone", "glasses"])
def test_occlusion_keeps_what_the_box_alone_paints_over(cover: Cover, standins: Path) -> None:
    scene = Scene(41, (480, 270), Fraction(8), 1.0, 1, cover=cover)
    found = true_faces(scene)

    def counted(*types: str) -> Covered:
        settings = load_settings(execution_provider="cpu", face_mask_types=types)
        engine = Engine.open(settings, models_dir=standins)
        source = engine.analyser.find(portrait("hanna"))[0].embedding
        assert source is not None
        return covered(engine, source, scene, found)

    boxed, masked = counted("box"), counted("box", "occlusion")
    assert masked.cover == boxed.cover > 500
    assert boxed.shares[0] > 0.15
    assert masked.shares[0] <= 0.05
    assert masked.shares[1] >= 0.96
