"""batch_swap.ipynb run as papermill runs it, and what its cells call."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import av
import nbformat
import numpy as np
import pytest

from benchmarks.main_job import images
from colab_helpers.batch.earlier import KEPT
from colab_helpers.errors import ConsentError, SettingsError
from colab_helpers.request import BatchRequest
from colab_helpers.trust.consent import DEMO_CONSENT
from colab_helpers.ui import headless
from colab_helpers.ui import notebook as cells
from colab_helpers.ui.notebook import BatchError, run_batch_swap, show_results
from tests.helpers.processes import entries

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "batch_swap.ipynb"
WIDGET = "application/vnd.jupyter.widget-view+json"
CONSENT = "Rendered people of the demo, used in a test: synthetic."


def run(folder: Path, **values: object) -> int:
    """Run the notebook as ``setup.sh run`` does; its results go to ``folder``."""
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
    words = [f"{name}={text}" for name, text in texts.items()]
    return headless.main([str(NOTEBOOK), str(folder / "batch_swap.ipynb"), *words])


def on_demo(demo: Path, **values: object) -> dict[str, object]:
    clips = [str(path) for path in sorted((demo / "targets").glob("*.mp4"))]
    source = str(demo / "source" / "alma.png")
    return {"sources": [source], "targets": clips, "models_dir": str(demo / "models"), **values}


def report_of(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def pages(folder: Path) -> str:
    """All HTML that the executed notebook shows."""
    executed = nbformat.read(folder / "batch_swap.ipynb", as_version=4)
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    return "".join("".join(output.get("data", {}).get("text/html", "")) for output in outputs)


def shown_types(folder: Path) -> set[str]:
    """Kinds of output of the executed notebook."""
    executed = nbformat.read(folder / "batch_swap.ipynb", as_version=4)
    return {
        kind
        for cell in executed.cells
        for output in cell.get("outputs", [])
        for kind in output.get("data", {})
    }


def frame_count(path: Path) -> int:
    with av.open(path) as container:
        return sum(1 for _ in container.decode(video=0))


def test_a_run_on_demo_files(demo, tmp_path, capfd):
    assert run(tmp_path, **on_demo(demo, preset="speed", overrides={"output_video_quality": 20})) == 0
    report = report_of(tmp_path)
    assert report["summary"]["succeeded"] == 1
    assert report["consent"] == DEMO_CONSENT
    assert report["settings"]["output_video_quality"] == 20
    output = Path(report["files"][0]["output"])
    assert output == tmp_path / "clip1.mp4"
    assert frame_count(output) == frame_count(demo / "targets" / "clip1.mp4") == 10
    assert report["files"][0]["faces_swapped"] > 0
    page = pages(tmp_path)
    assert page.count("data:image/jpeg;base64,") == 3
    assert "stand-in networks" in page
    assert shown_types(tmp_path).isdisjoint({WIDGET, "application/vnd.jupyter.widget-state+json"})
    printed = capfd.readouterr().out
    for line in (f"result:   {output}", f"report:   {tmp_path / 'report.json'}", "frames/s"):
        assert line in printed


def test_plain_papermill_reaches_every_value_of_both_cells(demo, tmp_path):
    """It hands over texts and numbers as it guesses them, and knows nothing of the form's types."""
    given = {
        "sources": demo / "source" / "alma.png",
        "targets": f"[{demo / 'targets' / 'clip1.mp4'}]",
        "output_dir": 2024,
        "preset": "light",
        "consent": CONSENT,
        "overrides": "{output_video_quality: 20}",
        "video_range": 1,
        "models_dir": demo / "models",
        "session_minutes": 0,
        "shortest_first": "false",
        "upload": "no",
        "download": "false",
        "language": "en",
        "headless": "yes",
    }
    assert {*given} == {*BatchRequest.form()}
    words = [word for name, value in given.items() for word in ("-p", name, str(value))]
    command = [sys.executable, "-m", "papermill", str(NOTEBOOK), "out.ipynb", *words, "-k", "python3"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "unknown parameter" not in done.stderr
    report = report_of(tmp_path / "2024")
    assert report["consent"] == CONSENT
    assert report["settings"]["output_video_quality"] == 20
    assert frame_count(tmp_path / "2024" / "clip1.mp4") == 10


def test_the_same_notebook_again_skips_what_is_done(demo, tmp_path):
    values = on_demo(demo, preset="light")
    assert run(tmp_path, **values) == 0
    (first,) = report_of(tmp_path)["files"]
    written = Path(first["output"]).stat().st_mtime_ns
    assert run(tmp_path, **values) == 0
    (again,) = report_of(tmp_path)["files"]
    assert (again["status"], KEPT in again["fallbacks"]) == ("done", True)
    assert Path(again["output"]).stat().st_mtime_ns == written
    assert pages(tmp_path).count("data:image/jpeg;base64,") == 3
    assert len(list(entries(tmp_path, "started"))) == 1
    # Another preset is another result: that is made.
    assert run(tmp_path, **on_demo(demo, preset="light", overrides={"output_video_quality": 30})) == 0
    assert KEPT not in report_of(tmp_path)["files"][0]["fallbacks"]
    assert len(list(entries(tmp_path, "started"))) == 2


def test_notebook_and_command_line_give_the_same_video(demo, tmp_path):
    assert run(tmp_path / "notebook", **on_demo(demo)) == 0
    target, source = demo / "targets" / "clip1.mp4", demo / "source" / "alma.png"
    words = ["-s", str(source), "-t", str(target), "-o", str(tmp_path / "clip1.mp4"), "--consent", CONSENT]
    command = [sys.executable, "-m", "colab_helpers", "swap", *words, "--models-dir", str(demo / "models")]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    pairs = zip(images(tmp_path / "notebook" / "clip1.mp4"), images(tmp_path / "clip1.mp4"), strict=True)
    assert all(np.array_equal(ours, theirs) for ours, theirs in pairs)


def test_a_failing_file_is_reported_and_ends_the_run_with_1(demo, tmp_path, capfd):
    bad = tmp_path / "text.mp4"
    bad.write_text("not a video")
    values = on_demo(demo, consent=CONSENT)
    values["targets"] = [str(bad), *values["targets"]]
    folder = tmp_path / "run"
    assert run(folder, **values) == 1
    report = report_of(folder)
    assert [file["status"] for file in report["files"]] == ["failed", "done"]
    assert not (folder / "text.mp4").exists()
    assert frame_count(folder / "clip1.mp4") == 10
    page = pages(folder)
    assert page.count("data:image/jpeg;base64,") == 3
    assert "text.mp4" in page
    assert "BatchError" in capfd.readouterr().err


def test_without_consent_nothing_is_done(demo, tmp_path, capfd):
    assert run(tmp_path, **on_demo(demo, consent="")) == headless.EXIT_USAGE
    assert "ConsentError" in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["batch_swap.ipynb"]


def test_the_demos_consent_does_not_cover_other_files(demo, tmp_path, capfd):
    other = tmp_path / "holiday.mp4"
    other.write_bytes((demo / "targets" / "clip1.mp4").read_bytes())
    folder = tmp_path / "run"
    assert run(folder, **on_demo(demo, targets=[str(other)])) == headless.EXIT_USAGE
    printed = capfd.readouterr().err
    assert "ConsentError" in printed
    assert "holiday.mp4" in printed
    assert not list(folder.glob("*.mp4"))


def test_an_unknown_parameter_is_refused_before_any_work(tmp_path, capsys):
    folder = tmp_path / "run"
    assert run(folder, presets="speed") == headless.EXIT_USAGE
    assert "no parameter 'presets'" in capsys.readouterr().err
    assert not folder.exists()


def test_an_empty_form_runs_the_demo(demo, tmp_path, monkeypatch, capsys):
    made = []

    def small(folder):
        """The demo of the fixture, in the run's own folder."""
        made.append(folder)
        targets = [demo / "targets" / "clip1.mp4"]
        return {"sources": [demo / "source" / "alma.png"], "targets": targets, "models_dir": demo / "models"}

    monkeypatch.setattr(cells, "_make_demo", lambda folder, models: small(folder))
    done = run_batch_swap(BatchRequest(output_dir=tmp_path, consent=DEMO_CONSENT, headless=True))
    assert made == [tmp_path / "demo"]
    assert done.report.ok
    assert done.uses_standins
    show_results(done)
    printed = capsys.readouterr().out
    assert "1 of 1 files" in printed
    assert "stand-in networks" in printed
    assert "done    clip1.mp4: 10 frames" in printed


def test_results_are_shown_before_a_failure_is_raised(demo, tmp_path, capsys):
    bad = tmp_path / "empty.mp4"
    bad.touch()
    values = {**on_demo(demo), "targets": [str(bad)], "consent": CONSENT, "headless": True}
    done = run_batch_swap(BatchRequest(output_dir=tmp_path / "run", **values))
    with pytest.raises(BatchError, match=r"1 of 1 files did not succeed: empty\.mp4: ") as caught:
        show_results(done)
    assert caught.value.where == str(tmp_path / "run" / "report.json")
    assert "failed  empty.mp4" in capsys.readouterr().out


def test_nothing_happens_without_consent():
    with pytest.raises(ConsentError):
        run_batch_swap(BatchRequest())


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"preset": "fastest"}, "there is no preset 'fastest'"),
        ({"overrides": {"batchsize": 2}}, "unknown key 'batchsize'"),
    ],
)
def test_wrong_settings_are_refused_before_the_demo_is_made(tmp_path, values, complaint):
    with pytest.raises(SettingsError, match=complaint):
        run_batch_swap(BatchRequest(consent=DEMO_CONSENT, output_dir=tmp_path, **values))
    assert list(tmp_path.iterdir()) == []


def test_runs_of_the_same_second_do_not_meet(tmp_path):
    class Place:
        runs = tmp_path

    first = cells.new_run_folder(Place())
    first.mkdir()
    assert cells.new_run_folder(Place()) != first
