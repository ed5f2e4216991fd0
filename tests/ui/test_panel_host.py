"""Where saved people and presets are kept."""

from __future__ import annotations

from pathlib import Path

from colab_helpers import machine
from colab_helpers.ui.host import ColabHost, LocalHost, widget_library


def test_the_home_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.delenv("COLAB_HELPERS_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert LocalHost().home == tmp_path / ".colab_helpers"
    monkeypatch.setenv("COLAB_HELPERS_HOME", "~/mine")
    assert LocalHost().home == tmp_path / "mine"
    assert ColabHost().home == tmp_path / "mine"


def test_on_colab_it_is_on_drive_where_that_is_mounted(monkeypatch):
    monkeypatch.delenv("COLAB_HELPERS_HOME", raising=False)
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release")
    assert ColabHost().home == Path("/content/colab_helpers_home")
    monkeypatch.setattr(machine, "mounts", lambda: {Path("/content/drive"): "fuse.drive"})
    assert ColabHost().home == Path("/content/drive/MyDrive/colab_helpers")


def test_outside_notebooks_there_are_no_widgets():
    assert widget_library() is None
