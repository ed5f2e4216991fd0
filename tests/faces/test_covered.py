"""What is in front of a face stays, and the face beside it is changed: on rendered people, to the pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, replace
from fractions import Fraction
from pathlib import Path

from benchmarks.occlusion import WAYS, OcclusionCounts, count_occlusion, true_faces
from colab_helpers.faces.engine import Engine
from colab_helpers.settings import load_settings
from tests.people.actors import portrait
from tests.people.covers import COVERS
from tests.people.scene import Rendered, Scene


class Kept(Scene):
    """A scene of which each frame is rendered once, however often somebody looks at it."""

    def render_all(self, i: int, swaps: Sequence[str] = ()) -> Rendered:
        made = vars(self).setdefault("made", {})
        if i not in made:
            made[i] = super().render_all(i, swaps)
        return replace(made[i], frame=made[i].frame.copy())


def test_occlusion_keeps_what_the_box_alone_paints_over(standins: Path) -> None:
    scenes = [Kept(40 + k, (640, 360), Fraction(5), 1.0, 1, cover=cover) for k, cover in enumerate(COVERS)]
    found = [true_faces(scene) for scene in scenes]

    def counted(types: tuple[str, ...]) -> list[OcclusionCounts]:
        settings = load_settings(execution_provider="cpu", face_mask_types=types)
        engine = Engine.open(settings, models_dir=standins)
        source = engine.analyser.find(portrait("hanna"))[0].embedding
        assert source is not None
        return [count_occlusion(engine, source, *clip) for clip in zip(scenes, found, strict=True)]

    boxed, masked = (counted(types) for types in WAYS.values())
    for plain, clean in zip(boxed, masked, strict=True):
        assert clean.cover == plain.cover > 500
        assert clean.shares[0] < 0.3 * plain.shares[0]
    whole, before = (
        OcclusionCounts(*map(sum, zip(*map(astuple, one), strict=True))) for one in (masked, boxed)
    )
    assert before.shares[0] > 0.15
    assert whole.shares[0] <= 0.05
    assert whole.shares[1] >= 0.965
