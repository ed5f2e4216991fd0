"""setup.ipynb run as papermill runs it, and what its cells call."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest

from colab_helpers import machine
from colab_helpers.diagnosis import Check, Diagnosis
from colab_helpers.errors import OutputError, SettingsError, UsageError
from colab_helpers.language import spoken, tr
from colab_helpers.request import MonitorRequest, PreloadRequest, SetupRequest
from colab_helpers.ui import doctor, headless
from colab_helpers.ui.doctor import (
    Setup,
    SetupError,
    diagnosis_html,
    prepare_folder,
    run_setup,
    show_setup,
)
from colab_helpers.ui.host import ColabHost, LocalHost
from colab_helpers.ui.models import show_models
from colab_helpers.ui.monitor import watch

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "setup.ipynb"


def run(folder: Path, *words: str) -> int:
    return headless.main([str(NOTEBOOK), str(folder / "setup.ipynb"), *words])


def report_of(folder: Path) -> Diagnosis:
    return Diagnosis.model_validate_json((folder / "doctor.json").read_bytes())


def test_an_empty_form_examines_the_demos_networks(tmp_path, capfd):
    assert run(tmp_path) == 0
    found = report_of(tmp_path)
    assert found.ok
    models = [check for check in found.checks if check.name.startswith("model ")]
    assert len(models) == 4
    assert all("a stand-in" in check.detail for check in models)
    printed = capfd.readouterr().out
    assert found.lines()[-1] in printed
    for line in (f"report:   {tmp_path / 'doctor.json'}", f"notebook: {tmp_path / 'setup.ipynb'}"):
        assert line in printed
    executed = nbformat.read(tmp_path / "setup.ipynb", as_version=4)
    assert not any("text/html" in output.get("data", {}) for cell in executed.cells
                   for output in cell.get("outputs", []))  # fmt: skip


def test_the_spanish_notebook_speaks_spanish(tmp_path, capfd):
    path = NOTEBOOK.parent / "es" / NOTEBOOK.name
    assert headless.main([str(path), str(tmp_path / "setup.ipynb")]) == 0
    printed = capfd.readouterr().out
    with spoken("es"):
        assert report_of(tmp_path).summary() in printed
        assert tr("report:   {path}", path=tmp_path / "doctor.json") in printed
    assert "report:" not in printed
    assert tr("works") == "works"


def test_the_forms_language_wins(tmp_path, capfd):
    path = NOTEBOOK.parent / "es" / NOTEBOOK.name
    assert headless.main([str(path), str(tmp_path / "setup.ipynb"), "language=en"]) == 0
    assert f"report:   {tmp_path / 'doctor.json'}" in capfd.readouterr().out


def test_an_unknown_language_is_refused(tmp_path, capfd):
    assert run(tmp_path, "language=fr") == 2
    assert "allowed: auto, en, es" in capfd.readouterr().err


def test_what_fails_ends_the_run_with_1_after_it_was_shown(tmp_path, capfd):
    empty, folder = tmp_path / "none", tmp_path / "run"
    assert run(folder, f"models_dir={empty}", "preset=light", "overrides={face_detector_size: 320}") == 1
    found = report_of(folder)
    assert [check.name for check in found.failures()] == [
        "model det_10g",
        "model w600k_r50",
        "model inswapper_128",  # light has no enhancer
    ]
    printed = capfd.readouterr()
    assert "FAIL model inswapper_128" in printed.out
    assert "SetupError" in printed.err
    assert "3 finding(s) failed: model det_10g: " in printed.err
    assert "What to do: fetch the models" in printed.err
    assert not empty.exists()


def test_an_unknown_parameter_is_refused_before_any_work(tmp_path, capsys):
    folder = tmp_path / "run"
    assert run(folder, "model_dir=x") == headless.EXIT_USAGE
    assert "no parameter 'model_dir'" in capsys.readouterr().err
    assert not folder.exists()


def test_a_value_of_another_type_is_refused(tmp_path):
    assert run(tmp_path / "run", "demo=perhaps") == headless.EXIT_USAGE


def test_wrong_settings_are_refused(tmp_path):
    with pytest.raises(SettingsError, match="there is no preset 'fastest'"):
        run_setup(SetupRequest(preset="fastest", output_dir=tmp_path / "a"))
    assert not (tmp_path / "a").exists()


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be made"):
        run_setup(SetupRequest(output_dir=tmp_path / "file" / "run"))


def test_a_folder_on_drive_needs_somebody_to_allow_it(tmp_path, monkeypatch):
    monkeypatch.setenv("COLAB_HELPERS_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(machine, "DRIVES", (tmp_path / "drive",))
    models = tmp_path / "drive" / "MyDrive" / "models"
    with pytest.raises(UsageError, match="Google Drive is not mounted"):
        prepare_folder(ColabHost(headless=True), SetupRequest(models_dir=models), "doctor.json")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def places(monkeypatch) -> list[Path | None]:
    """Where the doctor was sent, without a call."""
    asked = []

    def noted(settings, *, models_dir, folder, drive):
        asked.append(models_dir)
        return Diagnosis.of([Check(name="python", status="pass", detail="3")])

    monkeypatch.setattr(doctor, "diagnose", noted)
    return asked


def test_which_models_are_examined(tmp_path, places, monkeypatch):
    values = {"output_dir": str(tmp_path / "run"), "headless": True}
    run_setup(SetupRequest(**values))
    run_setup(SetupRequest(demo=False, **values))
    run_setup(SetupRequest(models_dir=tmp_path, **values))
    assert places == [tmp_path / "run" / "demo" / "models", None, tmp_path]
    assert (tmp_path / "run" / "demo" / "models").is_dir()
    assert json.loads((tmp_path / "run" / "doctor.json").read_text())["ok"]


class Page(LocalHost):
    """A front end that keeps what it shows."""

    shown: list[str] = []  # noqa: RUF012

    def show_html(self, html: str, *, text: str) -> None:
        self.shown.append(html)


def test_where_there_is_a_front_end_the_table_is_html(tmp_path, capsys):
    bad = Check(name="disk & folder", status="fail", detail="<none>", remedy="free 2 > 1")
    good = Check(name="python", status="pass", detail="3.12")
    host = Page()
    with pytest.raises(SetupError, match="1 finding"):
        show_setup(Setup(Diagnosis.of([good, bad]), tmp_path / "doctor.json", host))
    (page,) = host.shown
    assert capsys.readouterr().out == ""
    assert page.count("<tr>") == 3
    for text in ("disk &amp; folder", "&lt;none&gt;", "free 2 &gt; 1", "1 passed, 0 warning(s), 1 failed"):
        assert text in page
    assert "<none>" not in page


def test_the_table_escapes_everything():
    nasty = Check(name="<b>", status="warn", detail="<script>", remedy="<i>")
    page = diagnosis_html(Diagnosis.of([nasty]))
    assert not any(text in page for text in ("<script>", "<i>"))


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
    with pytest.raises(UsageError, match=f"{name}: something of this name is there already"):
        verb(request_type(output_dir=tmp_path, headless=True))
    assert own.read_text() == '{"mine": 1}'
