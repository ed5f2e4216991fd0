from __future__ import annotations

from pathlib import Path

import pytest

from colab_helpers.files import absolute, natural_key, numbered, same_file, write_atomically


def test_failed_atomic_write_keeps_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "small.json"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"

    def full(*_: object) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"half of it")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("names", "ordered"),
    [
        (["clip10", "clip2", "Clip1"], ["Clip1", "clip2", "clip10"]),
        (["b", "10", "9", "a"], ["a", "b", "9", "10"]),
        # Digits for str.isdigit but not for int, or of other scripts.
        (["1²3", "1²2", "10①2", "٣"], ["٣", "1²2", "1²3", "10①2"]),
        (["caf\udce9", "caf"], ["caf", "caf\udce9"]),
    ],
)
def test_natural_order_of_names(names: list[str], ordered: list[str]) -> None:
    assert sorted(names, key=natural_key) == ordered


def test_absolute_expands_home_and_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert absolute("~/clips") == tmp_path / "clips"
    assert absolute("clips") == tmp_path / "clips"
    assert absolute("~nobody-of-that-name/x") == tmp_path / "~nobody-of-that-name" / "x"


def test_same_file_and_numbered(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    clip = tmp_path / "clip.mp4"
    clip.touch()
    linked = tmp_path / "link"
    linked.symlink_to(tmp_path)
    assert same_file(clip, tmp_path / "dir" / ".." / "clip.mp4")
    assert same_file(clip, linked / "clip.mp4")
    assert not same_file(clip, tmp_path / "other.mp4")
    assert not same_file(tmp_path / "other.mp4", tmp_path / "other.mp4")
    assert numbered(clip, 2) == tmp_path / "clip (2).mp4"
