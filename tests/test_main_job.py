"""End-to-end runs on rendered people, compared with the ground truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.main_job import (
    MAX_OUTSIDE,
    MAX_TO_ORIGINAL,
    MIN_GAIN,
    MIN_PSNR,
    MIN_TO_SOURCE,
    describe,
    images,
    measure_seed,
)
from colab_helpers.__main__ import main
from colab_helpers.api import swap_video
from colab_helpers.command_line import SUCCESS
from colab_helpers.settings import load_settings
from colab_helpers.trust.consent import DEMO_CONSENT
from tests.people.clip import make_demo

SEED = 4711


@pytest.mark.xdist_group("main_job")
def test_faces_match_source_and_everything_else_target(tmp_path: Path) -> None:
    """With a fixed seed; ``benchmarks.main_job`` uses random ones."""
    outcomes = measure_seed(tmp_path, SEED, seconds=1.6, size=(800, 450), every=8)
    print(*(describe(outcome) for outcome in outcomes), sep="\n")

    def mean(name: str) -> float:
        values = [value for outcome in outcomes for value in getattr(outcome, name)]
        assert len(values) >= 5
        return float(np.mean(values))

    assert mean("to_source") >= MIN_TO_SOURCE
    assert mean("to_original") <= MAX_TO_ORIGINAL
    assert mean("inside") >= MIN_PSNR  # against the rendered swap
    assert mean("gain") >= MIN_GAIN
    for outcome in outcomes:
        assert abs(outcome.outside - outcome.outside_plain) <= MAX_OUTSIDE  # against a plain re-encode
        assert outcome.frames_in == outcome.frames_out == 40
        assert outcome.same_times
        assert outcome.same_sound
        assert len(outcome.flash_offsets) >= 2
        assert max(map(abs, outcome.flash_offsets)) <= 0.5


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    make_demo(folder, seed=3, seconds=0.4, clips=1, people=2, true_swaps=False)
    return folder


@pytest.mark.xdist_group("main_job")
def test_command_line_and_python_give_same_video(demo: Path, tmp_path: Path, capsys) -> None:
    source, target = demo / "source" / "bruno.png", demo / "targets" / "clip1.mp4"
    common = ["-s", str(source), "--models-dir", str(demo / "models"), "--consent", DEMO_CONSENT]
    swap = ["swap", *common, "-t", str(target), "-o", str(tmp_path / "swap.mp4")]
    batch = ["batch", *common, "-t", str(demo / "targets"), "-o", str(tmp_path / "batch")]
    assert main(swap) == SUCCESS
    assert main(batch) == SUCCESS
    assert f"report:   {tmp_path / 'batch' / 'report.html'}" in capsys.readouterr().out
    options = {"consent": DEMO_CONSENT, "models_dir": demo / "models"}
    report = swap_video(source, target, tmp_path / "api.mp4", settings=load_settings(), **options)  # type: ignore[arg-type]
    assert report.faces_swapped > 10
    results = [tmp_path / "swap.mp4", tmp_path / "batch" / "clip1.mp4", tmp_path / "api.mp4"]
    for frames in zip(*map(images, results), strict=True):
        np.testing.assert_array_equal(frames[0], frames[1])
        np.testing.assert_array_equal(frames[0], frames[2])


@pytest.mark.xdist_group("main_job")
def test_only_reference_person_is_swapped(demo: Path, tmp_path: Path) -> None:
    """Of two people only the left one of the first frame is tracked."""
    target = demo / "targets" / "clip1.mp4"
    settings = load_settings(
        many_faces=False, face_selector="reference", face_order="left-right", output_video_quality=0,
        visible_label="off", disclosure="test",
    )  # fmt: skip
    report = swap_video(
        demo / "source" / "bruno.png", target, tmp_path / "one.mp4",
        consent=DEMO_CONSENT, models_dir=demo / "models", settings=settings,
    )  # fmt: skip
    assert 0 < report.faces_swapped <= report.frames_in
    old, new = next(images(target)), next(images(tmp_path / "one.mp4"))
    changed = np.abs(old.astype(int) - new).sum(axis=(0, 2))
    middle = old.shape[1] // 2
    assert changed[:middle].sum() > 20 * max(1, changed[middle:].sum())
