"""Comparing the outputs of two networks, and the samples used for it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from colab_helpers.language import use_language
from colab_helpers.models.model_conversion import Conversion
from colab_helpers.models.parity import EXACT_TOLERANCE, Verdict, compare, sample_inputs, value_range
from colab_helpers.models.session import Runtime
from tests.helpers.networks import build, node, small_inswapper
from tests.people import kinds
from tests.people.standins import load_weights, swapper

CPU = Runtime("cpu", threads=1)


def save(folder: Path, model: onnx.ModelProto) -> Path:
    onnx.save(model, folder / "net.onnx")
    return folder / "net.onnx"


def test_compare_reports_mean_and_maximum_difference() -> None:
    reference = np.random.default_rng(0).random((3, 3, 16, 16), np.float32)
    off = reference + np.float32(2 / 255)
    same = compare(reference, reference, EXACT_TOLERANCE, 1)
    assert (same.mean, same.max, same.problem) == (0, 0, "")
    assert same.spread == pytest.approx(255 / 3, rel=0.1)
    assert compare(reference, off, EXACT_TOLERANCE, 1).mean == pytest.approx(2, rel=1e-3)
    assert "2 grey levels on average" in compare(reference, off, EXACT_TOLERANCE, 1).problem
    assert not compare(reference, off, (3, 3), 1).problem
    assert compare(reference, reference[::-1].copy(), (255, 255), 1).problem
    assert compare(reference, reference[:1], EXACT_TOLERANCE, 1).problem
    peak = reference.copy()
    peak[0, 0, 0, 0] += 2 / 255
    assert "2 at most" in compare(reference, peak, EXACT_TOLERANCE, 1).problem
    assert compare(reference, peak, EXACT_TOLERANCE, 2).problem == ""
    not_finite = compare(reference, reference * np.float32(np.nan), EXACT_TOLERANCE, 1)
    fails = Verdict(reason="fails", error="no room")
    written = json.dumps(Conversion(verdicts={"here": not_finite, "there": fails}).model_dump())
    again = Conversion.model_validate_json(written).verdicts
    assert again["here"].problem == not_finite.problem != ""
    assert Verdict.model_validate_json(not_finite.model_dump_json()).problem == not_finite.problem
    assert again["there"] == fails
    english = not_finite.problem
    with use_language("es"):  # the text is made from recorded numbers
        assert again["here"].problem not in ("", english)


def test_sample_inputs_match_each_networks_inputs(tmp_path: Path) -> None:
    pictures, latents = sample_inputs(CPU.open(save(tmp_path, small_inswapper())).session, 3).values()
    assert (pictures.shape, pictures.dtype) == ((3, 3, 128, 128), np.float32)
    assert (pictures.min(), pictures.max()) == (0, 1)
    np.testing.assert_allclose(np.linalg.norm(latents, axis=1), 1, rtol=1e-6)
    for build_model, low in (
        (kinds.hyperswap, -1),
        (kinds.codeformer, -1),
        (partial(swapper, load_weights()), 0),
    ):
        session = CPU.open(save(tmp_path, build_model())).session
        given = sample_inputs(session, 2)
        (pictures,) = [values for values in given.values() if values.ndim == 4]
        assert (pictures.min(), pictures.max(), value_range(session)) == (low, 1, 1 - low)
    weight = sample_inputs(CPU.open(save(tmp_path, kinds.codeformer())).session, 2)["weight"]
    assert (weight.tolist(), weight.dtype) == ([0.5, 0.5], np.float64)
    whole = build([node("Identity", "input", "output")], ("N", 3, "?", "?"))
    (pictures,) = sample_inputs(CPU.open(save(tmp_path, whole)).session, edge=64).values()
    assert (pictures.shape, pictures.min(), pictures.max()) == ((1, 3, 64, 64), -1, 1)
