"""Accuracy of the mask stand-ins, and ground truth of covers."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from colab_helpers.faces.occluder import FaceParser, Occluder
from colab_helpers.models.session import Runtime
from tests.people.covers import COVERS, Cover
from tests.people.mask_samples import MaskCrop, draw_masks
from tests.people.regions import HAIR, LEFT_EYE, MOUTH, NOSE, RIGHT_EYE, SKIN, UPPER_LIP
from tests.people.scene import Scene


@pytest.fixture(scope="module")
def samples() -> list[MaskCrop]:
    """Crops of people outside the training set."""
    return list(chain.from_iterable(draw_masks(seed, poses=1, cut=0) for seed in range(9)))


def test_occluder_accuracy(models: Path, samples: list[MaskCrop]) -> None:
    occluder = Occluder(Runtime("cpu").open(models / "xseg_1.onnx"))
    cut = list(chain.from_iterable(draw_masks(seed, poses=1, cut=1) for seed in range(6)))
    wrong = (occluder.seen([one.image for one in cut]) > 127) != (np.stack([one.seen for one in cut]) > 127)
    assert wrong.mean() < 0.05
    seen = occluder.seen([one.image for one in samples])
    truth = np.stack([one.seen for one in samples])
    assert ((seen > 127) != (truth > 127)).mean() < 0.02
    # In each single crop, too.
    shared, either = (np.sum(op(seen > 127, truth > 127), (1, 2)) for op in (np.logical_and, np.logical_or))
    assert (shared / np.maximum(either, 1))[either > 2000].min() > 0.8


def test_parser_accuracy(models: Path, samples: list[MaskCrop]) -> None:
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
def test_cover_mask_is_exact_and_other_pixels_are_unchanged(cover: Cover) -> None:
    plain, with_cover = (Scene(3, (320, 180), people=2, cover=one) for one in (None, cover))
    for i in (0, 33):
        bare, result = plain.render_all(i, ["hanna"]), with_cover.render_all(i, ["hanna"])
        covered = result.covered > bare.covered
        assert covered.sum() > 100
        np.testing.assert_array_equal(result.frame[~covered], bare.frame[~covered])
        assert (result.frame[covered] != bare.frame[covered]).any(1).mean() > 0.9
        assert result.mask[result.covered == 1].max() == 0
        np.testing.assert_array_equal(result.mask[~covered], bare.mask[~covered])
        np.testing.assert_array_equal(
            *(result.swapped["hanna"][result.covered == 1], result.frame[result.covered == 1])
        )
