"""The Run tab: buttons are clicked, and the idle kernel's actions are run by the test."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import ipywidgets
import psutil
import pytest

from colab_helpers.errors import MissingFileError, UsageError
from colab_helpers.ui.batch_swap import run_batch_swap
from colab_helpers.ui.form_state import prepare_request
from colab_helpers.ui.host import ColabHost, Host
from colab_helpers.ui.run import _outcome_html
from tests.conftest import TIMEOUT, until
from tests.helpers.processes import hold
from tests.helpers.reports import a_file, a_report

CONSENT = "Rendered people of the demo, used in a test: synthetic."


@dataclass
class BlockingRun:
    """A run that ends when ``may_end`` is set, with an error if one is given."""

    error: Exception | None = None

    def __post_init__(self) -> None:
        self.may_end = threading.Event()

    def __call__(self, *_: object, **__: object) -> None:
        assert self.may_end.wait(TIMEOUT)
        if self.error:
            raise self.error


@pytest.fixture
def blocking_run(monkeypatch):
    run = BlockingRun(MissingFileError("it has gone", where="clip1.mp4"))
    monkeypatch.setattr("colab_helpers.api.run_batch_request", run)
    yield run
    run.may_end.set()


@pytest.fixture
def light_request(demo_request, tmp_path):
    return demo_request.with_values(preset="light", output_dir=tmp_path / "out")


def results(panel):
    return panel.run.results.children[0]


def buttons(panel):
    return not panel.run.start_button.disabled, not panel.run.stop_button.disabled


def test_stopped_after_the_last_file() -> None:
    """As while the page is written: then nothing has failed, nor been skipped."""
    text = _outcome_html(a_report(a_file("a.mp4", "/out/a.mp4"), stopped=True))
    assert "Stopped: 1 of 1 files are done." in text


def test_start_button_runs_batch(make_panel, light_request, idle, text_of):
    panel, out = make_panel(light_request), light_request.output_dir
    assert f"1 file(s), preset light; output folder {out}." in text_of(panel.run.plan)
    assert "No results yet" in text_of(results(panel))
    assert buttons(panel) == (True, False)
    panel.run.start_button.click()
    assert buttons(panel) == (False, True)
    panel.run.start_button.click()  # a second click changes nothing
    idle.run_actions()
    assert (out / "clip1.mp4").is_file()
    assert text_of(panel.run.message) == ""
    assert buttons(panel) == (True, False)
    assert "1 of 1 files finished (1 done)" in text_of(panel.run.view)
    for text in ("1 of 1 files", "clip1.mp4", "stand-in networks", str(out / "report.html")):
        assert text in text_of(results(panel)), (out / "status.json").read_text()
    assert results(panel).value.count("data:image/jpeg;base64,") == 4  # source, before, after, person
    assert results(panel).value.count("data:video/mp4;base64,") == 1


def test_cell_and_button_share_folder_and_results(make_panel, demo_request, idle, text_of, runs):
    panel = make_panel(demo_request.with_values(preset="light"))
    folder = runs / demo_request.run_name
    assert str(folder) in text_of(panel.run.plan)
    panel.run.start_button.click()
    idle.run_actions()
    assert (folder / "report.json").exists()
    assert run_batch_swap(panel.form_state).folder == folder
    assert "kept from an earlier run" in text_of(results(panel))
    # Other settings do not change the folder.
    panel.settings.preset.value, panel.videos.minutes.value = "stable", 30.0
    assert str(folder) in text_of(panel.run.plan)
    assert prepare_request(panel.form_state.request(), Host()).output_dir == folder


def test_refusal_message_is_shown(make_panel, demo_request, idle, text_of):
    panel = make_panel(demo_request.with_values(consent=""))
    panel.run.start_button.click()
    assert "no statement of consent" in text_of(panel.run.message)
    panel.consent.value = demo_request.consent
    panel.videos.paths.value = "/nowhere/clip.mp4"
    panel.run.start_button.click()
    idle.run_actions()
    assert "/nowhere/clip.mp4" in text_of(panel.run.message)
    assert buttons(panel) == (True, False)


def test_stop_and_resume(make_panel, light_request, idle, tmp_path, text_of, monkeypatch):
    hold(monkeypatch, tmp_path, file=1, frame=1)
    clips = [tmp_path / f"clip{number}.mp4" for number in range(3)]
    for path in clips:
        path.write_bytes(Path(light_request.targets[0]).read_bytes())
    panel = make_panel(light_request.with_values(targets=tuple(map(str, clips)), consent=CONSENT))
    panel.run.start_button.click()
    idle.run_actions(until=(tmp_path / "held").exists)
    panel.run.stop_button.click()
    assert buttons(panel) == (False, False)
    stopped = psutil.STATUS_STOPPED
    until(lambda: [each for each in psutil.Process().children() if each.status() == stopped])[0].resume()
    idle.run_actions()
    assert "Stopped: " in text_of(panel.run.message)
    # The worker looks for a stop once a second: the file at work may still be finished.
    kept = sorted(path.name for path in light_request.output_dir.glob("clip*.mp4"))
    assert kept in (["clip0.mp4"], ["clip0.mp4", "clip1.mp4"])
    panel.run.start_button.click()
    idle.run_actions()
    assert "3 of 3 files" in text_of(results(panel))
    assert text_of(results(panel)).count("kept from an earlier run") == len(kept)


def test_second_batch_is_refused_while_one_runs(make_panel, demo_request, blocking_run, tmp_path):
    panel = make_panel(demo_request.with_values(output_dir=tmp_path / "one"))
    panel.run.start_button.click()
    panel.videos.output.value = str(tmp_path / "two")
    with pytest.raises(UsageError, match=r"one: another batch of this notebook is still running.*Stop"):
        run_batch_swap(panel.form_state)
    assert not (tmp_path / "two" / "clip1.mp4").exists()


def test_later_panel_takes_over_run(make_panel, demo_request, idle, blocking_run, text_of):
    first = make_panel(demo_request)
    first.run.start_button.click()
    second = make_panel(demo_request, earlier=first.form_state)
    assert buttons(second) == (False, True)
    idle.run_actions(until=lambda: len(idle.actions) == 1)
    blocking_run.may_end.set()
    idle.run_actions()
    assert "clip1.mp4: it has gone" in text_of(second.run.message)
    assert buttons(second) == (True, False)


def test_colab_runs_by_cell_and_voila_by_button(make_panel, light_request, text_of, monkeypatch):
    monkeypatch.setenv("SERVER_SOFTWARE", "voila/0.5.0")
    assert run_batch_swap(make_panel(light_request).form_state) is None
    monkeypatch.delenv("SERVER_SOFTWARE")
    panel = make_panel(light_request, host=ColabHost())
    assert isinstance(panel.run.box.children[1], ipywidgets.HTML)
    assert 'run the next cell, "3. Run"' in text_of(panel.run.box.children[1])
    run_batch_swap(panel.form_state)
    assert "1 of 1 files" in text_of(results(panel))
