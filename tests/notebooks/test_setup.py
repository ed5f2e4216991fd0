"""setup.ipynb run with papermill, and the functions that its cells call."""

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


def read_diagnosis(folder: Path) -> Diagnosis:
    return Diagnosis.model_validate_json((folder / "doctor.json").read_bytes())


def test_empty_form_checks_demo_networks(run, tmp_path, capfd):
    assert run(tmp_path) == 0
    found = read_diagnosis(tmp_path)
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


def test_spanish_notebook_prints_spanish(tmp_path, capfd):
    assert headless.main([str(SPANISH), str(tmp_path / "setup.ipynb")]) == 0
    printed = capfd.readouterr().out
    with use_language("es"):
        assert read_diagnosis(tmp_path).summary() in printed
        assert tr("report:   {path}", path=tmp_path / "doctor.json") in printed
    assert "report:" not in printed


def test_models_dir_is_chosen_by_form(tmp_path, monkeypatch):
    folders = []

    def fake_diagnose(settings, *, models_dir, folder, drive):
        folders.append(models_dir)
        return Diagnosis.of([Check(name="python", status="pass", detail="3")])

    monkeypatch.setattr(setup, "diagnose", fake_diagnose)
    monkeypatch.setattr(setup, "copy_models", lambda folder: folder)
    values = {"output_dir": str(tmp_path / "run"), "headless": True}
    run_setup(SetupRequest(**values))
    run_setup(SetupRequest(demo=False, **values))
    run_setup(SetupRequest(models_dir=tmp_path, **values))
    assert folders == [tmp_path / "run" / "demo" / "models", None, tmp_path]
    assert json.loads((tmp_path / "run" / "doctor.json").read_text())["ok"]


class FrontEnd(Host):
    """A host that records the HTML shown."""

    shown: list[str] = []  # noqa: RUF012

    def show(self, html: str, text: str, *, kept: bool = False) -> None:
        self.shown.append(html)


def test_front_end_gets_html_table(tmp_path, capsys):
    bad = Check(name="disk & folder", status="fail", detail="<none>", remedy="free 2 > 1")
    good = Check(name="python", status="pass", detail="3.12")
    with pytest.raises(SetupError, match="1 check"):
        show_setup(SetupResult(Diagnosis.of([good, bad]), tmp_path / "doctor.json", FrontEnd()))
    (page,) = FrontEnd.shown
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
def test_report_does_not_overwrite_user_file(tmp_path, name, verb, request_type):
    own = tmp_path / name
    own.write_text('{"mine": 1}')
    with pytest.raises(UsageError, match=f"{name}: a file or folder with this name already exists"):
        verb(request_type(output_dir=tmp_path, headless=True))
    assert own.read_text() == '{"mine": 1}'
