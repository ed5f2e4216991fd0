from __future__ import annotations

from pathlib import Path

import pytest

from colab_helpers.files import write_atomically


def test_all_of_it_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
