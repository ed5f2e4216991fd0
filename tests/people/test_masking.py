"""The stand-ins that mask are fit to test with, and what is before a face is known exactly."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from colab_helpers.faces.occluder import FaceParser, Occluder
from colab_helpers.models.session import Runtime
from tests.people.covers import COVERS, Cover
from tests.people.mask_samples import Masked, draw_masked
from tests.people.regions import HAIR, LEFT_EYE, MOUTH, NOSE, RIGHT_EYE, SKIN, UPPER_LIP
from tests.people.scene import Scene


@pytest.fixture(scope="module")
def samples() -> list[Masked]:
    """Crops of people that nothing was trained on."""
    return list(chain.from_iterable(draw_masked(seed, poses=1, cut=0) for seed in range(9)))


def test_the_occluder_sees_what_is_seen(models: Path, samples: list[Masked]) -> None:
    occluder = Occluder(Runtime("cpu").open(models / "xseg_1.onnx"))
    cut = list(chain.from_iterable(draw_masked(seed, poses=1, cut=1) for seed in range(6)))
    wrong = (occluder.seen([one.image for one in cut]) > 127) != (np.stack([one.seen for one in cut]) > 127)
    assert wrong.mean() < 0.05
    seen = occluder.seen([one.image for one in samples])
    truth = np.stack([one.seen for one in samples])
    assert ((seen > 127) != (truth > 127)).mean() < 0.02
    # Also of each crop for itself: none is missed as a whole.
    shared, either = (np.sum(way(seen > 127, truth > 127), (1, 2)) for way in (np.logical_and, np.logical_or))
    assert (shared / np.maximum(either, 1))[either > 2000].min() > 0.8


def test_the_parser_knows_the_parts(models: Path, samples: list[Masked]) -> None:
    parser = FaceParser(Runtime("cpu").open(models / "bisenet_resnet_34.onnx"))
    parts = np.concatenate(
        [parser.parts([one.image.repeat(2, 0).repeat(2, 1)])[:, 1::4, 1::4] for one in samples]
    )
    truth = np.stack([one.parts for one in samples])
    assert (parts == truth).mean() > 0.94

    def overlap(part: int) -> float:
        return float(((parts == part) & (truth == part)).sum() / ((parts == part) | (truth == part)).sum())

    assert {part: round(overlap(part), 2) for part in (SKIN, NOSE, HAIR) if overlap(part) < 0.8} == {}
    rare = (LEFT_EYE, RIGHT_EYE, MOUTH, UPPER_LIP)
    assert {part: round(overlap(part), 2) for part in rare if overlap(part) < 0.5} == {}


@pytest.mark.parametrize("cover", COVERS)
def test_what_is_held_is_known_to_the_pixel_and_changes_nothing_else(cover: Cover) -> None:
    plain, held = (Scene(3, (320, 180), people=2, cover=one) for one in (None, cover))
    for i in (0, 33):
        bare, shown = plain.render_all(i, ["hanna"]), held.render_all(i, ["hanna"])
        there = shown.covered > bare.covered
        assert there.sum() > 100
        np.testing.assert_array_equal(shown.frame[~there], bare.frame[~there])
        assert (shown.frame[there] != bare.frame[there]).any(1).mean() > 0.9
        assert shown.mask[shown.covered == 1].max() == 0
        np.testing.assert_array_equal(shown.mask[~there], bare.mask[~there])
        np.testing.assert_array_equal(
            *(shown.swapped["hanna"][shown.covered == 1], shown.frame[shown.covered == 1])
        )
