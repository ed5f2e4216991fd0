"""Access to Colab and IPython, with a fake ``google.colab``."""

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
from colab_helpers.ui.host import ColabHost, Host, VoilaHost, this_host


class FakeColab:
    """``google.colab`` with a user who allows or denies access, or with a mount error."""

    def __init__(self, mounts: dict[str, str]) -> None:
        self.allowed, self.fault = True, None
        self.mounts = mounts
        self.mounted: list[str] = []
        self.chosen: dict[str, bytes] = {}
        self.saved: list[str] = []
        self.secrets: dict[str, str] = {}
        self.requested_secrets: list[str] = []

    def mount(self, mountpoint: str) -> None:
        self.mounted.append(mountpoint)
        if self.fault is not None:
            raise self.fault
        if self.allowed:
            Path(mountpoint, "MyDrive").mkdir(parents=True)
            self.mounts[mountpoint] = "fuse.drive"

    def upload(self, target_dir: str = "") -> dict[str, bytes]:
        """Like Colab's: returns the bytes and renames duplicates."""
        kept = {}
        for name, content in self.chosen.items():
            path = Path(target_dir, name)
            path = path.with_stem(f"{path.stem} (1)") if path.exists() else path
            path.write_bytes(content)
            kept[str(path)] = content
        return kept

    def get(self, key: str) -> str:
        self.requested_secrets.append(key)
        return self.secrets[key]


@pytest.fixture
def mounts(monkeypatch, tmp_path) -> dict[str, str]:
    """File systems mounted beside the local disks; Google Drive's mount point is ``drive``."""
    found: dict[str, str] = {}
    monkeypatch.setattr(machine, "DRIVES", (tmp_path / "drive", tmp_path / "gdrive"))
    monkeypatch.setattr(machine, "mounts", lambda: {Path(place): kind for place, kind in found.items()})
    monkeypatch.setattr(host, "DRIVES", (tmp_path / "drive",))
    return found


@pytest.fixture
def colab(monkeypatch, mounts) -> FakeColab:
    fake, package = FakeColab(mounts), ModuleType("google.colab")
    package.drive = SimpleNamespace(mount=fake.mount)
    package.files = SimpleNamespace(upload=fake.upload, download=fake.saved.append)
    package.userdata = SimpleNamespace(get=fake.get)
    monkeypatch.setitem(sys.modules, "google.colab", package)
    return fake


def test_host_detection_and_run_folders(request, monkeypatch, tmp_path):
    monkeypatch.delenv("COLAB_HELPERS_RUNS", raising=False)
    assert type(this_host()) is Host
    assert Host().runs == Path(host.__file__).parents[2] / "runs"
    monkeypatch.setenv("SERVER_SOFTWARE", "voila/0.5.13")
    assert isinstance(this_host(), VoilaHost)
    colab = request.getfixturevalue("colab")
    assert isinstance(this_host(headless=True), ColabHost)
    assert this_host(headless=True).headless
    assert this_host().runs == Path("/content/runs")
    colab.mounts[str(tmp_path / "drive")] = "fuse.drive"
    assert this_host().runs == tmp_path / "drive" / "MyDrive" / "colab_helpers" / "runs"
    monkeypatch.setenv("COLAB_HELPERS_RUNS", "~/runs")
    assert this_host().runs == Host().runs == Path.home() / "runs"
    monkeypatch.setenv("COLAB_HELPERS_RUNS", str(tmp_path))
    first = Host().new_run_folder()
    first.mkdir(parents=True)
    assert Host().new_run_folder() != first
    found = [(kind.has_cells, kind.has_buttons) for kind in (Host, VoilaHost, ColabHost)]
    assert found == [(True, True), (False, True), (True, False)]


def test_home_is_in_user_home_or_on_drive(monkeypatch, tmp_path):
    monkeypatch.delenv("COLAB_HELPERS_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert machine.home() == tmp_path / ".colab_helpers"
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release")
    assert machine.home() == Path("/content/colab_helpers_home")
    monkeypatch.setattr(machine, "mounts", lambda: {Path("/content/drive"): "fuse.drive"})
    assert machine.home() == Path("/content/drive/MyDrive/colab_helpers")
    monkeypatch.setenv("COLAB_HELPERS_HOME", "~/mine")
    assert machine.home() == tmp_path / "mine"


def test_drive_is_mounted_once_and_only_if_needed(colab, tmp_path):
    place = ColabHost()
    place.ensure_reachable(tmp_path / "elsewhere.mp4")
    assert colab.mounted == []
    place.ensure_reachable(
        tmp_path / "drive" / "MyDrive" / "clips", tmp_path / "drive" / "MyDrive" / "me.jpg"
    )
    place.ensure_reachable(tmp_path / "drive" / "MyDrive" / "clips")
    assert colab.mounted == [str(tmp_path / "drive")]
    ColabHost(headless=True).ensure_reachable(tmp_path / "drive" / "clip.mp4")  # already mounted


@pytest.mark.parametrize(
    ("headless", "fault", "reason"),
    [
        (True, None, "a headless session has no user to allow access"),
        (False, None, r"not mounted \(access was not allowed"),
        (False, ValueError("mount failed: invalid oauth code"), r"not mounted \(.*invalid oauth code"),
        (False, RuntimeError(), r"not mounted \(RuntimeError"),
    ],
)
def test_drive_mount_failure_is_explained(colab, tmp_path, headless, fault, reason):
    colab.allowed, colab.fault = False, fault
    with pytest.raises(UsageError, match=rf"clip\.mp4.*{reason}.*What to do"):
        ColabHost(headless=headless).ensure_reachable(tmp_path / "drive" / "clip.mp4")
    assert colab.mounted == ([] if headless else [str(tmp_path / "drive")])


def test_upload_and_download_on_colab(colab, tmp_path):
    folder = tmp_path / "uploads"
    assert ColabHost().upload(folder) == []  # cancelled
    colab.chosen = {"me.jpg": b"1", "clip.mp4": b"2"}
    assert ColabHost().upload(folder) == [folder / "me.jpg", folder / "clip.mp4"]
    again = ColabHost().upload(folder)
    assert [path.name for path in again] == ["me (1).jpg", "clip (1).mp4"]
    assert all(path.is_file() for path in again)
    ColabHost().download(folder / "me.jpg")
    assert colab.saved == [str(folder / "me.jpg")]


@pytest.mark.parametrize("place", [ColabHost(headless=True), Host(), Host(headless=True)])
def test_upload_and_download_without_user_are_refused(colab, tmp_path, place):
    colab.chosen = {"me.jpg": b"1"}
    with pytest.raises(UsageError, match="What to do"):
        place.upload(tmp_path / "uploads")
    with pytest.raises(UsageError, match="What to do"):
        place.download(tmp_path / "out.mp4")
    assert not (tmp_path / "uploads").exists()


def test_environment_takes_precedence_for_secrets(colab, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert [place.secret("HF_TOKEN") for place in (ColabHost(), Host())] == [None, None]
    colab.secrets = {"HF_TOKEN": "kept"}
    assert ColabHost().secret("HF_TOKEN") == "kept"
    assert ColabHost(headless=True).secret("HF_TOKEN") is None
    monkeypatch.setenv("HF_TOKEN", "set")
    assert [place.secret("HF_TOKEN") for place in (ColabHost(), Host())] == ["set", "set"]
    assert colab.requested_secrets == ["HF_TOKEN"] * 2


def test_retention_note_depends_on_output_folder(colab, mounts, tmp_path, monkeypatch):
    results = tmp_path / "drive" / "MyDrive" / "out"
    results.mkdir(parents=True)
    assert Host().retention_note(Path("/tmp/out")) == ""
    # Drive is not mounted: its folder is on the VM's disk.
    for lost in (Path("/content/runs/1"), results):
        assert "deleted with the session" in ColabHost().retention_note(lost)
    drives = {str(tmp_path / name): "fuse.drive" for name in ("drive", "gdrive")}
    mounts.update({**drives, "/mnt/nas": "nfs4"})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "drive" / "MyDrive")
    others = (absolute("drive/MyDrive/out"), tmp_path / "link" / "out", tmp_path / "gdrive" / "MyDrive")
    for kept in (results, *others):
        assert "Google Drive and stay there" in ColabHost().retention_note(kept)
    assert "mounted drive and stay there" in ColabHost().retention_note(Path("/mnt/nas/out"))


def test_action_is_repeated_until_it_returns_false():
    left = [3]

    def action() -> bool:
        left[0] -= 1
        return left[0] > 0

    async def kernel() -> None:
        Host().call_repeatedly(action, 0.01)
        assert left == [3]  # not while the cell runs
        while left[0] > 0:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)

    asyncio.run(kernel())
    assert left == [0]


@pytest.fixture
def notebook(monkeypatch):
    """What a notebook's kernel displays."""
    shown: list[object] = []
    display, widgets, ipython = ModuleType("IPython.display"), ModuleType("ipywidgets"), ModuleType("IPython")
    display.publish_display_data = display.display = shown.append
    widgets.HTML = SimpleNamespace
    ipython.get_ipython = lambda: SimpleNamespace(kernel=object())
    for module in (display, widgets, ipython):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return shown


def test_shell_shows_text_without_widgets(capsys):
    ColabHost().show("<b>bold</b>", "plain")
    assert capsys.readouterr().out == "plain\n"
    assert host.open_html_area() is host.widget_library() is None


def test_notebook_shows_html_and_headless_log_shows_text(notebook, monkeypatch, capsys):
    both = {"text/html": "<b>bold</b>", "text/plain": "plain"}
    Host().show("<b>bold</b>", "plain")
    Host(headless=True).show("<b>bold</b>", "plain", kept=True)
    assert notebook == [both, both]
    assert capsys.readouterr().out == ""
    Host(headless=True).show("<b>bold</b>", "plain")
    assert capsys.readouterr().out == "plain\n"
    replace = host.open_html_area()
    replace("<b>1</b>")
    replace("<b>2</b>")
    assert [page.value for page in notebook[2:]] == ["<b>2</b>"]
    # None in sys.modules makes the import fail.
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert host.open_html_area() is None


@pytest.mark.parametrize(
    ("kernel", "on_colab", "expected"),
    [
        (None, False, True),
        (SimpleNamespace(_allow_stdin=False), False, False),
        (SimpleNamespace(_allow_stdin=False), True, True),
    ],
    ids=["shell", "papermill", "Colab"],
)
def test_front_end_is_detected_by_stdin_or_colab(monkeypatch, kernel, on_colab, expected):
    ipython = ModuleType("IPython")
    ipython.get_ipython = lambda: kernel and SimpleNamespace(kernel=kernel)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    if on_colab:
        monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    assert host.has_frontend() is expected
