"""One person is changed, or never changed, in all videos of a batch."""

from __future__ import annotations

import filecmp

import cv2
import numpy as np
import pytest

from benchmarks.main_job import images
from colab_helpers.__main__ import main
from colab_helpers.batch.resume import KEPT
from colab_helpers.command_line import SUCCESS
from colab_helpers.errors import NoFaceError
from tests.batch.films import CASTS, NAMES, changed

pytestmark = pytest.mark.xdist_group("right_person")


def test_only_the_target_person_is_changed_in_every_file(run, films, tmp_path, detected_frames) -> None:
    report = run(*NAMES, "still.png", target_person=[films / "alma.jpg"])
    assert report.ok
    assert any("alma.jpg" in note for note in report.notes)
    found = [changed(films, tmp_path / "out", name) for name in CASTS]
    assert found == [{"alma"}, {"alma"}, set()]
    assert [file.faces_swapped > 5 for file in report.files] == [True, True, False, False]
    assert report.files[3].faces_swapped == 1
    assert any("the file is copied as it is" in note for note in report.files[2].fallbacks)
    assert filecmp.cmp(films / "third.mp4", tmp_path / "out" / "third.mp4", shallow=False)

    detected_frames.clear()
    options = {"target_person": [films / "alma.jpg"], "never": [films / "chidi.jpg"]}
    again = run(*NAMES, **options)
    assert not any(KEPT in file.fallbacks for file in again.files)
    assert not detected_frames
    assert [KEPT in file.fallbacks for file in run(*NAMES, **options).files] == [True] * 3


def test_swap_command_gives_the_result_of_a_batch(run, films, standins, consent, tmp_path) -> None:
    run("first.mp4", target_person=[films / "alma.jpg"])
    photos = ["-s", str(films / "hanna.jpg"), "--target-person", str(films / "alma.jpg")]
    paths = ["-t", str(films / "first.mp4"), "-o", str(tmp_path / "one.mp4"), "--models-dir", str(standins)]
    options = [
        "--frame-processors", "face_swapper", "--output-video-quality", "4",
        "--execution-provider", "cpu", "--visible-label", "off", "--disclosure", "test",
    ]  # fmt: skip
    assert main(["swap", *photos, *paths, *options, "--consent", consent]) == SUCCESS
    for one, other in zip(images(tmp_path / "one.mp4"), images(tmp_path / "out" / "first.mp4"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_person_in_never_is_not_changed(run, films, tmp_path) -> None:
    assert run(*NAMES, never=[films / "alma.jpg"]).ok
    found = [changed(films, tmp_path / "out", name) for name in CASTS]
    assert found == [{"bruno"}, {"chidi"}, {"chidi", "bruno"}]


def test_photo_without_a_face_is_refused_before_any_work(run, films, tmp_path) -> None:
    cv2.imwrite(str(tmp_path / "wall.png"), np.full((200, 200, 3), 127, np.uint8))
    for option in ("target_person", "never"):
        with pytest.raises(NoFaceError, match="wall"):
            run(*NAMES, **{option: [tmp_path / "wall.png"]})
        assert not list((tmp_path / "out").glob("*.mp4"))
