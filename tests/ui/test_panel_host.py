"""Where saved people and presets are kept."""

from __future__ import annotations

from pathlib import Path

from colab_helpers.ui.host import ColabHost, LocalHost, widget_library


def test_the_home_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.delenv("COLAB_HELPERS_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert LocalHost().home == tmp_path / ".colab_helpers"
    monkeypatch.setenv("COLAB_HELPERS_HOME", str(tmp_path / "mine"))
    assert LocalHost().home == tmp_path / "mine"
    assert ColabHost().home == tmp_path / "mine"


def test_on_colab_it_is_on_drive_where_that_is_mounted(monkeypatch, tmp_path):
    monkeypatch.delenv("COLAB_HELPERS_HOME", raising=False)
    host = ColabHost(drive=tmp_path)
    assert host.home == Path("/content/colab_helpers_home")
    (tmp_path / "MyDrive").mkdir()
    assert host.home == tmp_path / "MyDrive" / "colab_helpers"


def test_outside_notebooks_there_are_no_widgets():
    assert widget_library() is None
