"""The door to Colab and IPython, with a made-up ``google.colab``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from colab_helpers.errors import UsageError
from colab_helpers.ui import host
from colab_helpers.ui.host import ColabHost, LocalHost, this_host


class FakeDrive(ModuleType):
    """``google.colab.drive`` whose browser says yes or no."""

    def __init__(self, *, allowed: bool) -> None:
        super().__init__("google.colab.drive")
        self.allowed = allowed
        self.mounted: list[str] = []

    def mount(self, mountpoint: str) -> None:
        self.mounted.append(mountpoint)
        if self.allowed:
            Path(mountpoint, "MyDrive").mkdir(parents=True)


@pytest.fixture
def colab(monkeypatch):
    def pretend(*, allowed: bool = True) -> FakeDrive:
        package, drive = ModuleType("google.colab"), FakeDrive(allowed=allowed)
        package.drive = drive
        monkeypatch.setitem(sys.modules, "google.colab", package)
        monkeypatch.setitem(sys.modules, "google.colab.drive", drive)
        return drive

    return pretend


def test_the_host_is_found_by_the_loaded_module(colab):
    assert isinstance(this_host(), LocalHost)
    colab()
    assert isinstance(this_host(), ColabHost)
    assert this_host(headless=True).headless
    assert this_host().runs == Path("/content/runs")


def test_drive_is_mounted_once_and_only_when_asked_for(colab, tmp_path):
    drive = colab()
    place = ColabHost(drive=tmp_path / "drive")
    place.reach([tmp_path / "elsewhere.mp4"])
    assert drive.mounted == []
    place.reach([tmp_path / "drive" / "MyDrive" / "clips"])
    place.reach([tmp_path / "drive" / "MyDrive" / "clips"])
    assert drive.mounted == [str(tmp_path / "drive")]


def test_a_headless_session_never_asks_for_drive(colab, tmp_path):
    drive = colab()
    place = ColabHost(headless=True, drive=tmp_path / "drive")
    with pytest.raises(UsageError, match=r"clip\.mp4.*headless.*What to do"):
        place.reach([tmp_path / "drive" / "clip.mp4"])
    assert drive.mounted == []


def test_a_mounted_drive_is_used_headless_too(colab, tmp_path):
    drive = colab()
    (tmp_path / "drive" / "MyDrive").mkdir(parents=True)
    ColabHost(headless=True, drive=tmp_path / "drive").reach([tmp_path / "drive" / "clip.mp4"])
    assert drive.mounted == []


def test_a_refused_drive_is_said(colab, tmp_path):
    colab(allowed=False)
    with pytest.raises(UsageError, match="was not mounted"):
        ColabHost(drive=tmp_path / "drive").reach([tmp_path / "drive" / "clip.mp4"])


def test_local_runs_lie_in_the_checkout():
    assert LocalHost().runs == Path(host.__file__).parents[2] / "runs"
    LocalHost().reach([Path("/content/drive/MyDrive/clip.mp4")])


def test_runs_go_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("COLAB_HELPERS_RUNS", str(tmp_path))
    assert LocalHost().runs == tmp_path


def test_voila_has_buttons_and_colab_has_cells(colab, monkeypatch):
    assert (this_host().has_cells, this_host().has_buttons) == (True, True)
    monkeypatch.setenv("SERVER_SOFTWARE", "voila/0.5.13")
    assert (this_host().has_cells, this_host().has_buttons) == (False, True)
    colab()
    assert (this_host().has_cells, this_host().has_buttons) == (True, False)


def test_how_results_are_kept_is_said_where_they_would_go():
    assert LocalHost().keeping(Path("/tmp/out")) == ""
    assert "ends with the session" in ColabHost().keeping(Path("/content/runs/1"))
    assert "stay there" in ColabHost().keeping(Path("/content/drive/MyDrive/out"))


def test_repeated_between_cells_until_it_says_no():
    left = [3]

    def action() -> bool:
        left[0] -= 1
        return left[0] > 0

    async def kernel() -> None:
        host.repeat(action, 0.01)
        assert left == [3]  # not while the cell is at work
        await asyncio.sleep(0.2)

    asyncio.run(kernel())
    assert left == [0]


@pytest.mark.parametrize("place", [LocalHost(), ColabHost()])
def test_a_shell_gets_text(place, capsys):
    place.show_html("<b>bold</b>", text="plain")
    assert capsys.readouterr().out == "plain\n"


@pytest.mark.parametrize("place", [LocalHost(), ColabHost()])
def test_a_notebook_gets_html_and_text(place, monkeypatch, capsys):
    shown = []
    display = ModuleType("IPython.display")
    display.publish_display_data = shown.append
    ipython = ModuleType("IPython")
    ipython.display = display
    ipython.get_ipython = lambda: SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    place.show_html("<b>bold</b>", text="plain")
    assert shown == [{"text/html": "<b>bold</b>", "text/plain": "plain"}]
    assert capsys.readouterr().out == ""


class Kernel:
    """What IPython's shell is inside a notebook."""

    kernel = object()


def test_a_panel_is_shown_once_and_replaced(monkeypatch):
    shown: list[object] = []
    display, widgets, ipython = ModuleType("IPython.display"), ModuleType("ipywidgets"), ModuleType("IPython")
    display.display = shown.append
    widgets.HTML = SimpleNamespace
    ipython.get_ipython = Kernel
    for module in (display, widgets, ipython):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    replace = host.open_panel()
    replace("<b>1</b>")
    replace("<b>2</b>")
    (panel,) = shown
    assert panel.value == "<b>2</b>"
    # Without widgets there is no panel; None in sys.modules stands for what cannot be imported.
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert host.open_panel() is None


def test_outside_a_notebook_there_is_no_panel(monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert host.open_panel() is None
