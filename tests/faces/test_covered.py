"""Occluding objects keep their pixels and the visible face is changed, measured on rendered people."""

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


class Cached(Scene):
    """A scene that caches its rendered frames."""

    def render_all(self, i: int, swaps: Sequence[str] = ()) -> Rendered:
        rendered = vars(self).setdefault("rendered", {})
        if i not in rendered:
            rendered[i] = super().render_all(i, swaps)
        return replace(rendered[i], frame=rendered[i].frame.copy())


def test_occlusion_mask_keeps_pixels_that_box_mask_overwrites(standins: Path) -> None:
    scenes = [Cached(40 + k, (640, 360), Fraction(5), 1.0, 1, cover=cover) for k, cover in enumerate(COVERS)]
    truths = [true_faces(scene) for scene in scenes]

    def counts_with(types: tuple[str, ...]) -> list[OcclusionCounts]:
        settings = load_settings(execution_provider="cpu", face_mask_types=types)
        engine = Engine.open(settings, models_dir=standins)
        source = engine.analyser.find(portrait("hanna"))[0].embedding
        assert source is not None
        return [count_occlusion(engine, source, *clip) for clip in zip(scenes, truths, strict=True)]

    boxed, masked = (counts_with(types) for types in WAYS.values())
    for without, with_mask in zip(boxed, masked, strict=True):
        assert with_mask.cover == without.cover > 500
        assert with_mask.shares[0] < 0.3 * without.shares[0]
    masked_sum, boxed_sum = (
        OcclusionCounts(*map(sum, zip(*map(astuple, one), strict=True))) for one in (masked, boxed)
    )
    assert boxed_sum.shares[0] > 0.15
    assert masked_sum.shares[0] <= 0.05
    assert masked_sum.shares[1] >= 0.965
