"""batch_swap.ipynb run as papermill runs it, and what its cells call."""

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
    """A form on the demo."""
    clips = [str(path) for path in sorted((demo / "targets").glob("*.mp4"))]
    source = str(demo / "source" / "alma.png")
    return {"sources": [source], "targets": clips, "models_dir": str(demo / "models")}


def build_report(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def shown(folder: Path) -> dict[str, str]:
    """All that the executed notebook shows, by kind."""
    found: dict[str, str] = {}
    for cell in nbformat.read(folder / "batch_swap.ipynb", as_version=4).cells:
        for output in cell.get("outputs", []):
            for kind, text in output.get("data", {}).items():
                found[kind] = found.get(kind, "") + "".join(text)
    return found


def frame_count(path: Path) -> int:
    with av.open(path) as container:
        return sum(1 for _ in container.decode(video=0))


def test_a_run_on_demo_files(run, values, demo, tmp_path, capfd):
    assert run(tmp_path, **values, preset="speed", overrides={"output_video_quality": 20}) == 0
    report = build_report(tmp_path)
    assert report["summary"]["succeeded"] == 1
    assert report["consent"] == {"statement": DEMO_CONSENT, "people": []}
    assert report["settings"]["output_video_quality"] == 20
    output = Path(report["files"][0]["output"])
    assert output == tmp_path / "clip1.mp4"
    assert frame_count(output) == frame_count(demo / "targets" / "clip1.mp4") == 10
    assert report["files"][0]["faces_swapped"] > 0
    page = shown(tmp_path)
    assert page["text/html"].count("data:image/jpeg;base64,") == 4
    assert "stand-in networks" in page["text/html"]
    assert not [kind for kind in page if "widget" in kind]
    printed = capfd.readouterr().out
    for line in (f"result:   {output}", f"report:   {tmp_path / 'report.json'}", "frames/s"):
        assert line in printed


def test_plain_papermill_reaches_every_value_of_both_cells(papermill, demo, tmp_path):
    """It hands over texts and numbers as it guesses them, and knows nothing of the form's types."""
    given = {
        "sources": demo / "source" / "alma.png",
        "targets": f"[{demo / 'targets' / 'clip1.mp4'}]",
        "output_dir": 2024,
        "preset": "light",
        "consent": CONSENT,
        "overrides": "{output_video_quality: 20}",
        "target_person": "",
        "never": "[]",
        "people": "auto",
        "library": "",
        "instead_of_label": "in the credits",
        "video_range": 1,
        "models_dir": demo / "models",
        "session_minutes": 0,
        "shortest_first": "false",
        "upload": "no",
        "download": "false",
        "language": "en",
        "headless": "yes",
        "gpus": "",
        "cluster": "",
        "gpus_per_worker": 1,
        "priority": 0,
        "map_paths": "",
    }
    assert {*given} == {*BatchRequest.form()}
    done = papermill(**given)
    assert done.returncode == 0, done.stderr
    unknown = re.findall(r"unknown parameter: (\w+)", done.stderr)
    assert {*unknown} == {"gpus", "cluster", "gpus_per_worker", "priority", "map_paths"}, "in a cell before"
    assert build_report(tmp_path / "2024")["settings"]["gpus"] == ""
    report = build_report(tmp_path / "2024")
    assert report["consent"]["statement"] == CONSENT
    assert report["settings"]["output_video_quality"] == 20
    assert (report["settings"]["visible_label"], report["files"][0]["mark"]["disclosure"]) == (
        "off", "in the credits",
    )  # fmt: skip
    assert frame_count(tmp_path / "2024" / "clip1.mp4") == 10


def test_a_failing_file_is_reported_and_ends_the_run_with_1(run, values, tmp_path, capfd):
    bad, folder = tmp_path / "text.mp4", tmp_path / "run"
    bad.write_text("not a video")
    assert run(folder, **{**values, "targets": [str(bad), *values["targets"]], "consent": CONSENT}) == 1
    assert [file["status"] for file in build_report(folder)["files"]] == ["failed", "done"]
    assert not (folder / "text.mp4").exists()
    assert frame_count(folder / "clip1.mp4") == 10
    page = shown(folder)["text/html"]
    assert page.count("data:image/jpeg;base64,") == 4
    assert "text.mp4" in page
    assert "BatchError: " in capfd.readouterr().err


def test_an_empty_form_runs_the_demo(demo, tmp_path, monkeypatch, capsys):
    made = []

    def small(folder: Path) -> Demo:
        made.append(folder)
        return Demo(demo / "source" / "alma.png", (demo / "targets" / "clip1.mp4",), demo / "models")

    monkeypatch.setattr(form_state, "copy_demo", small)
    done = run_batch_swap(BatchRequest(output_dir=tmp_path, consent=DEMO_CONSENT, headless=True))
    assert made == [tmp_path / "demo"]
    assert done.report.ok
    show_results(done)
    printed = capsys.readouterr().out
    for told in ("1 of 1 files", "stand-in networks", "done    clip1.mp4: 10 frames"):
        assert told in printed
