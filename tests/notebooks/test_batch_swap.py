"""batch_swap.ipynb run with papermill, and the functions that its cells call."""

from __future__ import annotations

import json
import re
from pathlib import Path

import av
import nbformat
import pytest

from colab_helpers.demo import Demo
from colab_helpers.request import BatchRequest
from colab_helpers.trust.consent import DEMO_CONSENT
from colab_helpers.ui import form_state
from colab_helpers.ui.batch_swap import run_batch_swap, show_results

NOTEBOOK = "batch_swap"
CONSENT = "Rendered people of the demo, used in a test: synthetic."


@pytest.fixture
def values(demo: Path) -> dict[str, object]:
    """Form values for the demo."""
    clips = [str(path) for path in sorted((demo / "targets").glob("*.mp4"))]
    source = str(demo / "source" / "alma.png")
    return {"sources": [source], "targets": clips, "models_dir": str(demo / "models")}


def read_report(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def outputs_of(folder: Path) -> dict[str, str]:
    """All outputs of the executed notebook, by MIME type."""
    texts: dict[str, str] = {}
    for cell in nbformat.read(folder / "batch_swap.ipynb", as_version=4).cells:
        for output in cell.get("outputs", []):
            for kind, text in output.get("data", {}).items():
                texts[kind] = texts.get(kind, "") + "".join(text)
    return texts


def frame_count(path: Path) -> int:
    with av.open(path) as container:
        return sum(1 for _ in container.decode(video=0))


def test_run_on_demo_files(run, values, demo, tmp_path, capfd):
    assert run(tmp_path, **values, preset="speed", overrides={"output_video_quality": 20}) == 0
    report = read_report(tmp_path)
    assert report["summary"]["succeeded"] == 1
    assert report["consent"] == {"statement": DEMO_CONSENT, "people": []}
    assert report["settings"]["output_video_quality"] == 20
    output = Path(report["files"][0]["output"])
    assert output == tmp_path / "clip1.mp4"
    assert frame_count(output) == frame_count(demo / "targets" / "clip1.mp4") == 10
    assert report["files"][0]["faces_swapped"] > 0
    page = outputs_of(tmp_path)
    assert page["text/html"].count("data:image/jpeg;base64,") == 4
    assert "stand-in networks" in page["text/html"]
    assert not [kind for kind in page if "widget" in kind]
    printed = capfd.readouterr().out
    for line in (f"result:   {output}", f"report:   {tmp_path / 'report.json'}", "frames/s"):
        assert line in printed


def test_papermill_sets_every_form_value(papermill, demo, tmp_path):
    """Papermill guesses types of values; it does not know those of the form."""
    values = {
        "sources": demo / "source" / "alma.png", "targets": f"[{demo / 'targets' / 'clip1.mp4'}]",
        "output_dir": 2024, "preset": "light", "consent": CONSENT,
        "overrides": "{output_video_quality: 20}", "target_person": "", "never": "[]", "people": "auto",
        "library": "", "instead_of_label": "in the credits", "video_range": 1,
        "models_dir": demo / "models", "session_minutes": 0, "shortest_first": "false", "upload": "no",
        "download": "false", "language": "en", "headless": "yes", "gpus": "", "cluster": "",
        "gpus_per_worker": 1, "priority": 0, "map_paths": "",
    }  # fmt: skip
    assert {*values} == {*BatchRequest.form()}
    done = papermill(**values)
    assert done.returncode == 0, done.stderr
    unknown = re.findall(r"unknown parameter: (\w+)", done.stderr)
    assert {*unknown} == {"gpus", "cluster", "gpus_per_worker", "priority", "map_paths"}, "outside the tag"
    report = read_report(tmp_path / "2024")
    assert report["settings"]["gpus"] == ""
    assert report["consent"]["statement"] == CONSENT
    assert report["settings"]["output_video_quality"] == 20
    assert (report["settings"]["visible_label"], report["files"][0]["mark"]["disclosure"]) == (
        "off", "in the credits",
    )  # fmt: skip
    assert frame_count(tmp_path / "2024" / "clip1.mp4") == 10


def test_failed_file_is_reported_and_exit_code_is_1(run, values, tmp_path, capfd):
    bad, folder = tmp_path / "text.mp4", tmp_path / "run"
    bad.write_text("not a video")
    assert run(folder, **{**values, "targets": [str(bad), *values["targets"]], "consent": CONSENT}) == 1
    assert [file["status"] for file in read_report(folder)["files"]] == ["failed", "done"]
    assert not (folder / "text.mp4").exists()
    assert frame_count(folder / "clip1.mp4") == 10
    page = outputs_of(folder)["text/html"]
    assert page.count("data:image/jpeg;base64,") == 4
    assert "text.mp4" in page
    assert "BatchError: " in capfd.readouterr().err


def test_empty_form_runs_demo(demo, tmp_path, monkeypatch, capsys):
    folders = []

    def small_demo(folder: Path) -> Demo:
        folders.append(folder)
        return Demo(demo / "source" / "alma.png", (demo / "targets" / "clip1.mp4",), demo / "models")

    monkeypatch.setattr(form_state, "copy_demo", small_demo)
    done = run_batch_swap(BatchRequest(output_dir=tmp_path, consent=DEMO_CONSENT, headless=True))
    assert folders == [tmp_path / "demo"]
    assert done.report.ok
    show_results(done)
    printed = capsys.readouterr().out
    for text in ("1 of 1 files", "stand-in networks", "done    clip1.mp4: 10 frames"):
        assert text in printed
