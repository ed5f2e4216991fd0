from __future__ import annotations

import errno
import os
from collections.abc import Iterator
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


def test_a_folder_stands_for_its_videos_and_images_in_natural_order(tmp_path) -> None:
    touch(tmp_path / "in", "clip10.mp4", "clip2.MP4", "clip1.mov", "photo.jpg", "notes.txt", ".hidden.mp4")
    tasks = plan_batch([tmp_path / "in"], tmp_path / "out")
    assert [task.target.name for task in tasks] == ["clip1.mov", "clip2.MP4", "clip10.mp4", "photo.jpg"]
    assert tasks[1].output == tmp_path / "out" / "clip2.MP4"
    assert plan_batch([tmp_path / "in"], tmp_path / "out", video_range="2, 4-") == [tasks[1], tasks[3]]


@pytest.mark.parametrize("text", ["a", "3-1", "0", "1-2-3", "1;2", "-", "1,,2", "-0"])
def test_what_is_no_range_is_refused(text) -> None:
    with pytest.raises(UsageError):
        parse_range(text, 10)


def test_a_range_beyond_the_targets_is_refused() -> None:
    with pytest.raises(UsageError, match="from 1 to 3"):
        parse_range("7-9", 3)
    assert (parse_range("2-99", 3), parse_range("-2", 3)) == ([2, 3], [1, 2])


@given(st.sets(st.integers(1, 200), min_size=1))
def test_any_set_of_numbers_can_be_written_as_a_range(numbers) -> None:
    text = ",".join(str(number) for number in sorted(numbers, reverse=True))
    assert parse_range(text, 200) == sorted(numbers)


def test_a_target_named_twice_is_done_once(tmp_path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "link.mp4").symlink_to(tmp_path / "a.mp4")
    twice = [tmp_path / "b.mp4", tmp_path, tmp_path / "." / "b.mp4"]
    tasks = plan_batch(twice, tmp_path / "out")
    assert [(task.target.name, task.repeated) for task in tasks] == [("b.mp4", True), ("a.mp4", True)]
    assert tasks[0].notes == ["it was given more than once and is processed once"]


@pytest.mark.parametrize(
    ("targets", "results"),
    [
        (["x/a.mp4", "y/b.mp4"], ["a.mp4", "b.mp4"]),
        (["x/a.mp4", "y/a.mp4", "z/A.MP4"], ["a.mp4", "a (2).mp4", "A (3).MP4"]),
        # A file that has the number by itself keeps it.
        (["x/a.mp4", "y/a.mp4", "y/a (2).mp4"], ["a.mp4", "a (3).mp4", "a (2).mp4"]),
        (["x/v.avi", "x/v.avi.mp4"], ["v.avi", "v.avi (2).mp4"]),
        (["x/v.avi.mp4", "y/v.avi"], ["v.avi.mp4", "v (2).avi"]),
        (["x/v.mov", "x/v.mp4"], ["v.mov", "v.mp4"]),
        (["x/\u00e9.png", "y/e\u0301.png"], ["\u00e9.png", "e\u0301 (2).png"]),
        (["x/caf\udce9.mp4", "y/caf\udce9.mp4"], ["caf\udce9.mp4", "caf\udce9 (2).mp4"]),
    ],
)
def test_every_result_has_a_name_of_its_own_whatever_the_range(tmp_path, targets, results) -> None:
    paths = [tmp_path / name for name in targets]
    tasks = plan_batch(paths, tmp_path / "out")
    assert [task.output.name for task in tasks] == results
    assert [bool(task.notes) for task in tasks] == [
        Path(target).name != result for target, result in zip(targets, results, strict=True)
    ]
    for number, task in enumerate(tasks, 1):
        assert plan_batch(paths, tmp_path / "out", video_range=str(number)) == [task]


@pytest.mark.parametrize("out", [".", "sub/..", "linked"])
@pytest.mark.parametrize("reads", ["its own target", "another target", "a photo"])
def test_a_result_over_what_the_run_reads_is_refused(tmp_path, out, reads) -> None:
    touch(tmp_path / "in", "a.png")
    touch(tmp_path / "other", "a.png", "b.png")
    (tmp_path / "other" / "sub").mkdir()
    (tmp_path / "other" / "linked").symlink_to(tmp_path / "other")
    own, other = tmp_path / "other" / "a.png", tmp_path / "in" / "a.png"
    targets = {"its own target": [own], "another target": [other, own], "a photo": [other]}[reads]
    # Where two targets have one name, the second result is numbered, and the first is the other's place.
    with pytest.raises(UsageError, match=r"own target|an input of the run"):
        plan_batch(targets, tmp_path / "other" / out, sources=[own])


def test_what_is_no_file_or_cannot_be_listed_is_that_targets_affair(tmp_path, monkeypatch) -> None:
    touch(tmp_path / "in", "a.mp4")
    (tmp_path / "in" / "folder.mp4").mkdir()
    (tmp_path / "in" / "loop.mp4").symlink_to("loop.mp4")
    os.mkfifo(tmp_path / "in" / "pipe.mp4")
    for name in ("closed", "empty"):
        (tmp_path / name).mkdir()
    genuine = Path.iterdir

    def iterdir(path: Path) -> Iterator[Path]:
        if path.name == "closed":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return genuine(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    places = [tmp_path / name for name in ("closed", "in", "empty", "gone.mp4")]
    tasks = plan_batch(places, tmp_path / "out")
    assert [task.target.name for task in tasks] == [
        "closed", "a.mp4", "folder.mp4", "loop.mp4", "pipe.mp4", "empty", "gone.mp4"
    ]  # fmt: skip
    with pytest.raises(MissingFileError, match=r"cannot be listed .Permission denied.*What to do"):
        plan_batch([tmp_path / "closed"], tmp_path / "out")


def test_empty_folders_and_no_targets_are_refused(tmp_path) -> None:
    touch(tmp_path / "in", "notes.txt")
    with pytest.raises(MissingFileError, match="no video"):
        plan_batch([tmp_path / "in"], tmp_path / "out")
    with pytest.raises(UsageError, match="no target"):
        plan_batch([], tmp_path / "out")
