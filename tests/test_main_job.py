"""The whole job on rendered people, end to end, against the exact truth."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from benchmarks.main_job import (
    LEAST_GAIN,
    LEAST_PSNR,
    LEAST_TO_SOURCE,
    MOST_OUTSIDE,
    MOST_TO_ORIGINAL,
    Outcome,
    describe,
    images,
    measure_seed,
)
from colab_helpers.__main__ import SUCCESS, main
from colab_helpers.api import swap_video
from colab_helpers.media.images import read_image
from colab_helpers.settings import load_settings
from colab_helpers.trust.consent import DEMO_CONSENT
from tests.people.clip import make_demo

SEED = 4711
pytestmark = pytest.mark.xdist_group("main_job")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    """One seed, so that a run can be repeated; ``benchmarks.main_job`` draws others at random."""
    found = measure_seed(tmp_path_factory.mktemp("job"), SEED, seconds=2.4, size=(1280, 720), every=6)
    print(*(describe(outcome) for outcome in found), sep="\n")
    return found


def test_faces_become_the_source_as_in_the_true_swap_and_nothing_else_changes(
    outcomes: list[Outcome],
) -> None:
    def mean(figure: str) -> float:
        values = [value for outcome in outcomes for value in getattr(outcome, figure)]
        assert len(values) >= 5
        return float(np.mean(values))

    assert mean("to_source") >= LEAST_TO_SOURCE
    assert mean("to_original") <= MOST_TO_ORIGINAL
    assert mean("inside") >= LEAST_PSNR
    assert mean("gain") >= LEAST_GAIN
    for outcome in outcomes:  # outside the faces it is a plain re-encode
        assert abs(outcome.outside - outcome.outside_plain) <= MOST_OUTSIDE


def test_frames_times_and_sound_are_the_targets(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        assert outcome.frames_in == outcome.frames_out == 60
        assert outcome.same_times
        assert outcome.same_sound
        assert len(outcome.flash_offsets) >= 2
        assert max(map(abs, outcome.flash_offsets)) <= 0.5


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    make_demo(folder, seed=3, seconds=0.8, clips=1, people=2, true_swaps=False)
    return folder


def test_command_line_and_python_give_the_same_video(demo: Path, tmp_path: Path) -> None:
    source, target = demo / "source" / "bruno.png", demo / "targets" / "clip1.mp4"
    common = ["-s", str(source), "--models-dir", str(demo / "models"), "--consent", DEMO_CONSENT]
    swap = ["swap", *common, "-t", str(target), "-o", str(tmp_path / "swap.mp4")]
    batch = ["batch", *common, "-t", str(demo / "targets"), "-o", str(tmp_path / "batch")]
    assert main(swap) == SUCCESS
    assert main(batch) == SUCCESS
    options = {"consent": DEMO_CONSENT, "models_dir": demo / "models"}
    report = swap_video(source, target, tmp_path / "api.mp4", settings=load_settings(), **options)  # type: ignore[arg-type]
    assert report.faces_swapped > 20
    results = [tmp_path / "swap.mp4", tmp_path / "batch" / "clip1.mp4", tmp_path / "api.mp4"]
    for frames in zip(*map(images, results), strict=True):
        np.testing.assert_array_equal(frames[0], frames[1])
        np.testing.assert_array_equal(frames[0], frames[2])


def test_the_reference_person_alone_is_changed(demo: Path, tmp_path: Path) -> None:
    """Two people in the picture; only the left one of the first frame is followed."""
    target = demo / "targets" / "clip1.mp4"
    settings = load_settings(
        many_faces=False, face_selector="reference", face_order="left-right", output_video_quality=0
    )
    report = swap_video(
        demo / "source" / "bruno.png", target, tmp_path / "one.mp4",
        consent=DEMO_CONSENT, models_dir=demo / "models", settings=settings,
    )  # fmt: skip
    assert 0 < report.faces_swapped <= report.frames_in
    old, new = next(images(target)), next(images(tmp_path / "one.mp4"))
    changed = np.abs(old.astype(int) - new).sum(axis=(0, 2))
    middle = old.shape[1] // 2
    assert changed[:middle].sum() > 20 * max(1, changed[middle:].sum())


def test_an_animated_gif_becomes_a_gif_or_a_video(demo: Path, tmp_path: Path) -> None:
    gif = tmp_path / "clip.gif"
    _write_gif(gif, list(images(demo / "targets" / "clip1.mp4"))[:6])
    for suffix in (".gif", ".mp4"):
        report = swap_video(
            demo / "source" / "bruno.png", gif, tmp_path / f"out{suffix}",
            consent="rendered people: synthetic", models_dir=demo / "models",
        )  # fmt: skip
        assert report.frames_out == 6
        assert len(list(images(tmp_path / f"out{suffix}"))) == 6
        assert report.faces_swapped >= 6


def _write_gif(path: Path, pictures: list[np.ndarray]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("gif", rate=Fraction(10))
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "rgb8"
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24").reformat(format="rgb8")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_an_image_can_be_the_target(demo: Path, tmp_path: Path) -> None:
    common = ["--models-dir", str(demo / "models"), "--consent", DEMO_CONSENT]
    arguments = ["-s", str(demo / "source" / "bruno.png"), "-t", str(demo / "source" / "hanna.png")]
    assert main(["swap", *common, *arguments, "-o", str(tmp_path / "out.jpg")]) == SUCCESS
    old, new = read_image(demo / "source" / "hanna.png"), read_image(tmp_path / "out.jpg")
    assert new.shape == old.shape
    change = np.abs(old.astype(int) - new)
    assert change[200:320, 200:320].mean() > 3
    assert change[:60, :60].mean() < 1
