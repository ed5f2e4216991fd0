"""setup.ipynb run as papermill runs it, and what its cells call."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest

from colab_helpers.diagnosis import Check, Diagnosis
from colab_helpers.errors import UsageError
from colab_helpers.language import tr, use_language
from colab_helpers.request import MonitorRequest, PreloadRequest, SetupRequest
from colab_helpers.ui import headless, setup
from colab_helpers.ui.host import Host
from colab_helpers.ui.monitor import watch
from colab_helpers.ui.preload import show_models
from colab_helpers.ui.setup import SetupError, SetupResult, run_setup, show_setup

NOTEBOOK = "setup"
SPANISH = Path(__file__).resolve().parents[2] / "notebooks" / "es" / "setup.ipynb"


def build_report(folder: Path) -> Diagnosis:
    return Diagnosis.model_validate_json((folder / "doctor.json").read_bytes())


def test_an_empty_form_examines_the_demos_networks(run, tmp_path, capfd):
    assert run(tmp_path) == 0
    found = build_report(tmp_path)
    assert found.ok
    models = [check for check in found.checks if check.name.startswith("model ")]
    assert len(models) == 7
    assert all("a stand-in" in check.detail for check in models)
    printed = capfd.readouterr().out
    assert found.lines()[-1] in printed
    for line in (f"report:   {tmp_path / 'doctor.json'}", f"notebook: {tmp_path / 'setup.ipynb'}"):
        assert line in printed
    executed = nbformat.read(tmp_path / "setup.ipynb", as_version=4)
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    assert not any("text/html" in output.get("data", {}) for output in outputs)


def test_the_spanish_notebook_speaks_spanish(tmp_path, capfd):
    assert headless.main([str(SPANISH), str(tmp_path / "setup.ipynb")]) == 0
    printed = capfd.readouterr().out
    with use_language("es"):
        assert build_report(tmp_path).summary() in printed
        assert tr("report:   {path}", path=tmp_path / "doctor.json") in printed
    assert "report:" not in printed


def test_which_models_are_examined(tmp_path, monkeypatch):
    asked = []

    def noted(settings, *, models_dir, folder, drive):
        asked.append(models_dir)
        return Diagnosis.of([Check(name="python", status="pass", detail="3")])

    monkeypatch.setattr(setup, "diagnose", noted)
    monkeypatch.setattr(setup, "copy_models", lambda folder: folder)
    values = {"output_dir": str(tmp_path / "run"), "headless": True}
    run_setup(SetupRequest(**values))
    run_setup(SetupRequest(demo=False, **values))
    run_setup(SetupRequest(models_dir=tmp_path, **values))
    assert asked == [tmp_path / "run" / "demo" / "models", None, tmp_path]
    assert json.loads((tmp_path / "run" / "doctor.json").read_text())["ok"]


class Page(Host):
    """A front end that keeps what it shows."""

    shown: list[str] = []  # noqa: RUF012

    def show(self, html: str, text: str, *, kept: bool = False) -> None:
        self.shown.append(html)


def test_where_there_is_a_front_end_the_table_is_html(tmp_path, capsys):
    bad = Check(name="disk & folder", status="fail", detail="<none>", remedy="free 2 > 1")
    good = Check(name="python", status="pass", detail="3.12")
    with pytest.raises(SetupError, match="1 check"):
        show_setup(SetupResult(Diagnosis.of([good, bad]), tmp_path / "doctor.json", Page()))
    (page,) = Page.shown
    assert capsys.readouterr().out == ""
    assert page.count("<tr>") == 3
    for text in ("disk &amp; folder", "&lt;none&gt;", "free 2 &gt; 1", "1 passed, 0 warning(s), 1 failed"):
        assert text in page
    assert "<none>" not in page


@pytest.mark.parametrize(
    ("name", "verb", "request_type"),
    [
        ("doctor.json", run_setup, SetupRequest),
        ("preload.json", show_models, PreloadRequest),
        ("monitor.json", watch, MonitorRequest),
    ],
)
def test_a_report_replaces_no_file_of_the_users(tmp_path, name, verb, request_type):
    own = tmp_path / name
    own.write_text('{"mine": 1}')
    with pytest.raises(UsageError, match=f"{name}: a file or folder with this name already exists"):
        verb(request_type(output_dir=tmp_path, headless=True))
    assert own.read_text() == '{"mine": 1}'
