"""One person is changed in every video of a batch, or never is, whoever else is seen."""

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


def test_the_person_on_the_photo_alone_is_changed_wherever_she_is(run, films, tmp_path, looks) -> None:
    report = run(*NAMES, "still.png", target_person=[films / "alma.jpg"])
    assert report.ok
    assert any("alma.jpg" in note for note in report.notes)
    found = [changed(films, tmp_path / "out", name) for name in CASTS]
    assert found == [{"alma"}, {"alma"}, set()]
    assert [file.faces_swapped > 5 for file in report.files] == [True, True, False, False]
    assert report.files[3].faces_swapped == 1
    assert any("the file is copied as it is" in note for note in report.files[2].fallbacks)
    assert filecmp.cmp(films / "third.mp4", tmp_path / "out" / "third.mp4", shallow=False)

    looks.clear()
    asked = {"target_person": [films / "alma.jpg"], "never": [films / "chidi.jpg"]}
    again = run(*NAMES, **asked)
    assert not any(KEPT in file.fallbacks for file in again.files)
    assert not looks
    assert [KEPT in file.fallbacks for file in run(*NAMES, **asked).files] == [True] * 3


def test_one_file_from_a_shell_comes_out_as_in_a_batch(run, films, standins, consent, tmp_path) -> None:
    run("first.mp4", target_person=[films / "alma.jpg"])
    photos = ["-s", str(films / "hanna.jpg"), "--target-person", str(films / "alma.jpg")]
    places = ["-t", str(films / "first.mp4"), "-o", str(tmp_path / "one.mp4"), "--models-dir", str(standins)]
    chosen = [
        "--frame-processors",
        "face_swapper",
        "--output-video-quality",
        "4",
        "--execution-provider",
        "cpu",
        "--visible-label",
        "off",
        "--disclosure",
        "test",
    ]
    assert main(["swap", *photos, *places, *chosen, "--consent", consent]) == SUCCESS
    for one, other in zip(images(tmp_path / "one.mp4"), images(tmp_path / "out" / "first.mp4"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_whoever_is_on_a_photo_is_never_changed(run, films, tmp_path) -> None:
    assert run(*NAMES, never=[films / "alma.jpg"]).ok
    found = [changed(films, tmp_path / "out", name) for name in CASTS]
    assert found == [{"bruno"}, {"chidi"}, {"chidi", "bruno"}]


def test_a_photo_of_nobody_is_refused_before_any_work(run, films, tmp_path) -> None:
    cv2.imwrite(str(tmp_path / "wall.png"), np.full((200, 200, 3), 127, np.uint8))
    for option in ("target_person", "never"):
        with pytest.raises(NoFaceError, match="wall"):
            run(*NAMES, **{option: [tmp_path / "wall.png"]})
        assert not list((tmp_path / "out").glob("*.mp4"))
