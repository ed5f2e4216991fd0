from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from colab_helpers.batch.plan import parse_range, plan_batch
from colab_helpers.errors import MissingFileError, UsageError


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def test_a_folder_stands_for_its_videos_and_images_in_natural_order(tmp_path: Path) -> None:
    touch(tmp_path / "in", "clip10.mp4", "clip2.MP4", "clip1.mov", "photo.jpg", "notes.txt", ".hidden.mp4")
    tasks = plan_batch([tmp_path / "in"], tmp_path / "out")
    assert [task.target.name for task in tasks] == ["clip1.mov", "clip2.MP4", "clip10.mp4", "photo.jpg"]
    assert tasks[1].output == tmp_path / "out" / "clip2.MP4"


def test_a_range_counts_from_one_over_all_targets(tmp_path: Path) -> None:
    touch(tmp_path / "in", *(f"v{number}.mp4" for number in range(1, 66)))
    tasks = plan_batch([tmp_path / "in"], tmp_path / "out", video_range="1-30")
    assert [task.target.stem for task in tasks] == [f"v{number}" for number in range(1, 31)]
    tasks = plan_batch([tmp_path / "in"], tmp_path / "out", video_range="2, 60-")
    assert [task.target.stem for task in tasks] == ["v2", *(f"v{number}" for number in range(60, 66))]


@pytest.mark.parametrize("text", ["a", "3-1", "0", "1-2-3", "1;2", "-", "1,,2", "-0"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_range(text, 10)


def test_a_range_beyond_the_targets_is_refused() -> None:
    with pytest.raises(UsageError, match="from 1 to 3"):
        parse_range("7-9", 3)
    assert parse_range("2-99", 3) == [2, 3]
    assert parse_range("-2", 3) == [1, 2]


@given(st.sets(st.integers(1, 200), min_size=1))
def test_any_set_of_numbers_can_be_written_as_a_range(numbers: set[int]) -> None:
    text = ",".join(str(number) for number in sorted(numbers, reverse=True))
    assert parse_range(text, 200) == sorted(numbers)


def test_a_target_named_twice_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    for twice in ([tmp_path / "b.mp4", tmp_path], [tmp_path / "b.mp4", tmp_path / "." / "b.mp4"]):
        with pytest.raises(UsageError, match=r"named twice.*b\.mp4.*name each file once"):
            plan_batch(twice, tmp_path / "out")
    (tmp_path / "link.mp4").symlink_to(tmp_path / "a.mp4")
    with pytest.raises(UsageError, match=r"a\.mp4 and as .*link\.mp4"):
        plan_batch([tmp_path], tmp_path / "out")


def test_two_results_of_one_name_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "x", "a.mp4")
    touch(tmp_path / "y", "A.mp4")
    with pytest.raises(UsageError, match="both be written"):
        plan_batch([tmp_path / "x", tmp_path / "y"], tmp_path / "out")


def test_a_result_over_its_own_target_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    with pytest.raises(UsageError, match="own target"):
        plan_batch([tmp_path / "a.mp4"], tmp_path)


def test_empty_folders_and_no_targets_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "in", "notes.txt")
    with pytest.raises(MissingFileError, match="no video"):
        plan_batch([tmp_path / "in"], tmp_path / "out")
    with pytest.raises(UsageError, match="no target"):
        plan_batch([], tmp_path / "out")
