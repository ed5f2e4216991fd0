"""The door to Colab and IPython, with a made-up ``google.colab``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from colab_helpers import machine
from colab_helpers.errors import UsageError
from colab_helpers.files import absolute
from colab_helpers.ui import host
from colab_helpers.ui.host import ColabHost, LocalHost, this_host

MOUNTS: dict[str, str] = {}
"""What is mounted beside this machine's own disks."""


@pytest.fixture(autouse=True)
def drive(monkeypatch, tmp_path) -> Path:
    """Where Google Drive is mounted, or not, in these tests."""
    place = tmp_path / "drive"
    MOUNTS.clear()
    monkeypatch.setattr(machine, "DRIVES", (place, tmp_path / "gdrive"))
    monkeypatch.setattr(machine, "mounts", lambda: {Path(place): kind for place, kind in MOUNTS.items()})
    monkeypatch.setattr(host, "DRIVES", (place,))
    return place


class FakeDrive(ModuleType):
    """``google.colab.drive`` whose browser says yes or no, or does not answer."""

    def __init__(self, *, allowed: bool, fault: Exception | None = None) -> None:
        super().__init__("google.colab.drive")
        self.allowed, self.fault = allowed, fault
        self.mounted: list[str] = []

    def mount(self, mountpoint: str) -> None:
        self.mounted.append(mountpoint)
        if self.fault is not None:
            raise self.fault
        if self.allowed:
            Path(mountpoint, "MyDrive").mkdir(parents=True)
            MOUNTS[mountpoint] = "fuse.drive"


class FakeFiles(ModuleType):
    """``google.colab.files`` with somebody who chooses files; Colab keeps their bytes and renames doubles."""

    def __init__(self) -> None:
        super().__init__("google.colab.files")
        self.chosen: dict[str, bytes] = {}
        self.saved: list[str] = []

    def upload(self, target_dir: str = "") -> dict[str, bytes]:
        kept = {}
        for name, content in self.chosen.items():
            path = Path(target_dir, name)
            if path.exists():
                path = path.with_stem(f"{path.stem} (1)")
            path.write_bytes(content)
            kept[str(path)] = content
        return kept

    def download(self, filename: str) -> None:
        assert Path(filename).is_file()
        self.saved.append(filename)


class SecretNotFoundError(Exception):
    """As Colab calls it."""


class FakeSecrets(ModuleType):
    """``google.colab.userdata``."""

    def __init__(self) -> None:
        super().__init__("google.colab.userdata")
        self.kept: dict[str, str] = {}
        self.asked: list[str] = []

    def get(self, key: str) -> str:
        self.asked.append(key)
        if key not in self.kept:
            raise SecretNotFoundError(key)
        return self.kept[key]


@pytest.fixture
def colab(monkeypatch):
    def pretend(*, allowed: bool = True, fault: Exception | None = None) -> FakeDrive:
        package = ModuleType("google.colab")
        parts = (FakeDrive(allowed=allowed, fault=fault), FakeFiles(), FakeSecrets())
        package.drive, package.files, package.userdata = parts
        monkeypatch.setitem(sys.modules, "google.colab", package)
        for part in parts:
            monkeypatch.setitem(sys.modules, part.__name__, part)
        return package.drive

    return pretend


def test_the_host_is_found_by_the_loaded_module(colab, drive):
    assert isinstance(this_host(), LocalHost)
    colab()
    assert isinstance(this_host(), ColabHost)
    assert this_host(headless=True).headless
    assert this_host().runs == Path("/content/runs")
    MOUNTS[str(drive)] = "fuse.drive"
    assert this_host().runs == drive / "MyDrive" / "colab_helpers" / "runs"


def test_drive_is_mounted_once_and_only_when_asked_for(colab, tmp_path):
    drive = colab()
    place = ColabHost()
    place.reach([tmp_path / "elsewhere.mp4"])
    assert drive.mounted == []
    place.reach([tmp_path / "drive" / "MyDrive" / "clips"])
    place.reach([tmp_path / "drive" / "MyDrive" / "clips"])
    assert drive.mounted == [str(tmp_path / "drive")]


def test_a_headless_session_never_asks_for_drive(colab, tmp_path):
    drive = colab()
    place = ColabHost(headless=True)
    with pytest.raises(UsageError, match=r"clip\.mp4.*headless.*What to do"):
        place.reach([tmp_path / "drive" / "clip.mp4"])
    assert drive.mounted == []


def test_a_mounted_drive_is_used_headless_too(colab, tmp_path):
    drive = colab()
    (tmp_path / "drive" / "MyDrive").mkdir(parents=True)
    MOUNTS[str(tmp_path / "drive")] = "fuse.drive"
    ColabHost(headless=True).reach([tmp_path / "drive" / "clip.mp4"])
    assert drive.mounted == []


def test_a_refused_drive_is_said(colab, tmp_path):
    colab(allowed=False)
    with pytest.raises(UsageError, match="was not mounted"):
        ColabHost().reach([tmp_path / "drive" / "clip.mp4"])


@pytest.mark.parametrize(
    "fault", [ValueError("mount failed: invalid oauth code"), TimeoutError("no answer"), RuntimeError()]
)
def test_a_drive_that_fails_says_why(colab, tmp_path, fault):
    colab(fault=fault)
    with pytest.raises(UsageError, match=r"clip\.mp4.*not mounted \(.*What to do") as caught:
        ColabHost().reach([tmp_path / "drive" / "clip.mp4"])
    assert (str(fault) or "RuntimeError") in str(caught.value)


def test_files_of_ones_own_computer_are_put_where_they_are_wanted(colab, tmp_path):
    colab()
    files = sys.modules["google.colab.files"]
    files.chosen = {"me.jpg": b"1", "clip.mp4": b"2"}
    folder = tmp_path / "uploads"
    assert ColabHost().upload(folder) == [folder / "me.jpg", folder / "clip.mp4"]
    again = ColabHost().upload(folder)
    assert [path.name for path in again] == ["me (1).jpg", "clip (1).mp4"]
    assert all(path.is_file() for path in again)


def test_an_upload_that_is_cancelled_brings_nothing(colab, tmp_path):
    colab()
    assert ColabHost().upload(tmp_path) == []


def test_a_result_goes_to_the_browser(colab, tmp_path):
    colab()
    result = tmp_path / "out.mp4"
    result.write_bytes(b"x")
    ColabHost().download(result)
    assert sys.modules["google.colab.files"].saved == [str(result)]


@pytest.mark.parametrize("place", [ColabHost(headless=True), LocalHost(), LocalHost(headless=True)])
def test_nobody_is_asked_where_nobody_can_answer(colab, tmp_path, place):
    colab()
    sys.modules["google.colab.files"].chosen = {"me.jpg": b"1"}
    with pytest.raises(UsageError, match="What to do"):
        place.upload(tmp_path / "uploads")
    with pytest.raises(UsageError, match="What to do"):
        place.download(tmp_path / "out.mp4")
    assert not (tmp_path / "uploads").exists()


def test_secrets_come_from_the_environment_first(colab, monkeypatch):
    colab()
    secrets = sys.modules["google.colab.userdata"]
    secrets.kept = {"HF_TOKEN": "kept"}
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert ColabHost().secret("HF_TOKEN") == "kept"
    assert ColabHost(headless=True).secret("HF_TOKEN") is None
    monkeypatch.setenv("HF_TOKEN", "set")
    assert [place.secret("HF_TOKEN") for place in (ColabHost(), LocalHost())] == ["set", "set"]
    assert secrets.asked == ["HF_TOKEN"]


def test_a_missing_secret_is_none(colab, monkeypatch):
    colab()
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert ColabHost().secret("HF_TOKEN") is None
    assert LocalHost().secret("HF_TOKEN") is None


def test_local_runs_lie_in_the_checkout():
    assert LocalHost().runs == Path(host.__file__).parents[2] / "runs"


def test_runs_go_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("COLAB_HELPERS_RUNS", str(tmp_path))
    assert LocalHost().runs == tmp_path
    monkeypatch.setenv("COLAB_HELPERS_RUNS", "~/runs")
    assert LocalHost().runs == Path.home() / "runs"


def test_voila_has_buttons_and_colab_has_cells(colab, monkeypatch):
    assert (this_host().has_cells, this_host().has_buttons) == (True, True)
    monkeypatch.setenv("SERVER_SOFTWARE", "voila/0.5.13")
    assert (this_host().has_cells, this_host().has_buttons) == (False, True)
    colab()
    assert (this_host().has_cells, this_host().has_buttons) == (True, False)


def test_how_results_are_kept_is_said_where_they_would_go(colab, drive, tmp_path, monkeypatch):
    colab()
    results = drive / "MyDrive" / "out"
    results.mkdir(parents=True)
    assert LocalHost().keeping(Path("/tmp/out")) == ""
    for lost in (
        Path("/content/runs/1"),
        results,
    ):  # nothing is mounted: a folder of that name is on the VM's disk
        assert "ends with the session" in ColabHost().keeping(lost)
    MOUNTS.update({str(drive): "fuse.drive", str(tmp_path / "gdrive"): "fuse.drive", "/mnt/nas": "nfs4"})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(drive / "MyDrive")
    for kept in (
        results,
        absolute("drive/MyDrive/out"),
        tmp_path / "link" / "out",
        tmp_path / "gdrive" / "MyDrive",
    ):
        assert "Google Drive and stay there" in ColabHost().keeping(kept)
    assert "mounted drive and stay there" in ColabHost().keeping(Path("/mnt/nas/out"))


def test_repeated_between_cells_until_it_says_no():
    left = [3]

    def action() -> bool:
        left[0] -= 1
        return left[0] > 0

    async def kernel() -> None:
        host.repeat(action, 0.01)
        assert left == [3]  # not while the cell is at work
        while left[0] > 0:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)

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


@pytest.mark.parametrize(
    ("kernel", "colab", "expected"),
    [
        (None, False, True),
        (SimpleNamespace(), False, True),
        (SimpleNamespace(_allow_stdin=True), False, True),
        (SimpleNamespace(_allow_stdin=False), False, False),
        (SimpleNamespace(_allow_stdin=False), True, True),
    ],
    ids=["shell", "some kernel", "Jupyter", "papermill", "Colab"],
)
def test_a_front_end_is_one_that_can_answer(monkeypatch, kernel, colab, expected):
    ipython = ModuleType("IPython")
    ipython.get_ipython = lambda: kernel and SimpleNamespace(kernel=kernel)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    if colab:
        monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    assert host.has_front_end() is expected


def test_outside_a_notebook_there_is_no_panel(monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert host.open_panel() is None
