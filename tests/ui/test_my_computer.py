"""Files of the user's own computer: asked for before the run, handed over after it."""

from __future__ import annotations

import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from colab_helpers.errors import OutputError, UsageError
from colab_helpers.request import BatchRequest
from colab_helpers.ui import panel
from colab_helpers.ui.notebook import BatchRun, packed, show_results
from colab_helpers.ui.panel import show_panel
from colab_helpers.ui.panel_sources import UPLOADS
from tests.helpers.reports import a_file, a_report
from tests.ui.conftest import Place


@dataclass(frozen=True)
class Browser(Place):
    """A place whose user chooses and takes files."""

    chosen: tuple[str, ...] = ()
    taken: list[Path] = field(default_factory=list)

    def upload(self, folder: Path) -> list[Path]:
        return [folder / name for name in self.chosen]

    def download(self, path: Path) -> None:
        self.taken.append(path)

    def show_html(self, html: str, *, text: str) -> None:
        """Shown."""

    def keeping(self, folder: Path) -> str:
        return ""


def test_photos_are_sources_and_videos_targets(monkeypatch, tmp_path):
    browser = Browser(tmp_path, tmp_path / "runs", chosen=("me.JPG", "a.mp4", "b.mov"))
    monkeypatch.setattr(panel, "this_host", lambda headless: browser)
    asked = BatchRequest(sources=["/other.png"], targets=["/c.mp4"], upload=True)
    chosen, uploads = show_panel(asked).request, tmp_path / "runs" / UPLOADS
    assert chosen.sources == ("/other.png", str(uploads / "me.JPG"))
    assert chosen.targets == ("/c.mp4", str(uploads / "a.mp4"), str(uploads / "b.mov"))


def test_nobody_is_asked_unless_the_form_says_so(monkeypatch, tmp_path):
    browser = Browser(tmp_path, tmp_path / "runs", chosen=("me.jpg",))
    monkeypatch.setattr(panel, "this_host", lambda headless: browser)
    assert show_panel(BatchRequest(download=True)).request.sources == ()


def test_a_cancelled_upload_makes_no_demo_instead(monkeypatch, tmp_path):
    monkeypatch.setattr(panel, "this_host", lambda headless: Browser(tmp_path, tmp_path / "runs"))
    with pytest.raises(UsageError, match=r"no file was chosen.*untick"):
        show_panel(BatchRequest(upload=True))


def test_elsewhere_it_is_refused():
    with pytest.raises(UsageError, match=r"Colab only.*What to do"):
        show_panel(BatchRequest(upload=True))


def a_run(folder: Path, *names: str, asked: bool = True) -> BatchRun:
    files = []
    for name in names:
        (folder / name).write_bytes(name.encode())
        files.append(a_file(folder / "in" / name, folder / name))
    return BatchRun(a_report(*files), BatchRequest(download=asked), folder, Browser(folder, folder))


def test_one_result_is_handed_over_as_it_is(tmp_path):
    run = a_run(tmp_path, "a.mp4")
    show_results(run)
    assert run.host.taken == [tmp_path / "a.mp4"]


def test_several_results_are_handed_over_as_one(tmp_path):
    run = a_run(tmp_path, "a.mp4", "b.mp4")
    show_results(run)
    (path,) = run.host.taken
    with zipfile.ZipFile(path) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {
            "a.mp4": b"a.mp4", "b.mp4": b"b.mp4",
        }  # fmt: skip


def test_nothing_is_handed_over_unasked_or_where_there_is_nothing(tmp_path):
    for run in (a_run(tmp_path, "a.mp4", asked=False), a_run(tmp_path)):
        show_results(run)
        assert run.host.taken == []


def test_a_zip_that_cannot_be_written_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(OutputError):
        packed([tmp_path / "gone.mp4"])
    assert list(tmp_path.iterdir()) == []
