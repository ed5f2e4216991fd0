"""The tab "Run": buttons are clicked, and the kernel's idle time is played by hand."""

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
class Slow:
    """Work that is done when it is told so; ends with an error where there is one."""

    error: Exception | None = None

    def __post_init__(self) -> None:
        self.may_end = threading.Event()

    def __call__(self, *_: object, **__: object) -> None:
        assert self.may_end.wait(TIMEOUT)
        if self.error:
            raise self.error


@pytest.fixture
def slow(monkeypatch):
    work = Slow(MissingFileError("it has gone", where="clip1.mp4"))
    monkeypatch.setattr("colab_helpers.api.run_batch_request", work)
    yield work
    work.may_end.set()


@pytest.fixture
def light(on_demo, tmp_path):
    return on_demo.with_values(preset="light", output_dir=tmp_path / "out")


def results(panel):
    return panel.run.results.children[0]


def buttons(panel):
    return not panel.run.start_button.disabled, not panel.run.stop_button.disabled


def test_stopped_after_the_last_file() -> None:
    """As while the page is written: then nothing has failed, nor been skipped."""
    text = _outcome_html(a_report(a_file("a.mp4", "/out/a.mp4"), stopped=True))
    assert "Stopped: 1 of 1 files are done." in text


def test_a_run_by_button(make_panel, light, idle, text_of):
    made, out = make_panel(light), light.output_dir
    assert f"1 file(s), preset light; output folder {out}." in text_of(made.run.plan)
    assert "No results yet" in text_of(results(made))
    assert buttons(made) == (True, False)
    made.run.start_button.click()
    assert buttons(made) == (False, True)
    made.run.start_button.click()  # a second click changes nothing
    idle.pass_by()
    assert (out / "clip1.mp4").is_file()
    assert text_of(made.run.message) == ""
    assert buttons(made) == (True, False)
    assert "1 of 1 files finished (1 done)" in text_of(made.run.view)
    for told in ("1 of 1 files", "clip1.mp4", "stand-in networks", str(out / "report.html")):
        assert told in text_of(results(made)), (out / "status.json").read_text()
    assert results(made).value.count("data:image/jpeg;base64,") == 4  # source, before, after; who is seen
    assert results(made).value.count("data:video/mp4;base64,") == 1


def test_the_cell_and_the_button_share_folder_and_results(make_panel, on_demo, idle, text_of, runs):
    made = make_panel(on_demo.with_values(preset="light"))
    folder = runs / on_demo.run_name
    assert str(folder) in text_of(made.run.plan)
    made.run.start_button.click()
    idle.pass_by()
    assert (folder / "report.json").exists()
    assert run_batch_swap(made.form_state).folder == folder
    assert "kept from an earlier run" in text_of(results(made))
    # Whatever else changes, the run goes on there.
    made.settings.preset.value, made.videos.minutes.value = "stable", 30.0
    assert str(folder) in text_of(made.run.plan)
    assert prepare_request(made.form_state.request(), Host()).output_dir == folder


def test_a_refusal_is_shown_in_its_own_words(make_panel, on_demo, idle, text_of):
    made = make_panel(on_demo.with_values(consent=""))
    made.run.start_button.click()
    assert "no statement of consent" in text_of(made.run.message)
    made.consent.value = on_demo.consent
    made.videos.paths.value = "/nowhere/clip.mp4"
    made.run.start_button.click()
    idle.pass_by()
    assert "/nowhere/clip.mp4" in text_of(made.run.message)
    assert buttons(made) == (True, False)


def test_stopped_and_gone_on_with(make_panel, light, idle, tmp_path, text_of, monkeypatch):
    hold(monkeypatch, tmp_path, file=1, frame=1)
    many = [tmp_path / f"clip{number}.mp4" for number in range(3)]
    for path in many:
        path.write_bytes(Path(light.targets[0]).read_bytes())
    made = make_panel(light.with_values(targets=tuple(map(str, many)), consent=CONSENT))
    made.run.start_button.click()
    idle.pass_by(until=(tmp_path / "held").exists)
    made.run.stop_button.click()
    assert buttons(made) == (False, False)
    stopped = psutil.STATUS_STOPPED
    until(lambda: [each for each in psutil.Process().children() if each.status() == stopped])[0].resume()
    idle.pass_by()
    assert "Stopped: " in text_of(made.run.message)
    # The worker looks for a stop once a second: the file at work may still be finished.
    kept = sorted(path.name for path in light.output_dir.glob("clip*.mp4"))
    assert kept in (["clip0.mp4"], ["clip0.mp4", "clip1.mp4"])
    made.run.start_button.click()
    idle.pass_by()
    assert "3 of 3 files" in text_of(results(made))
    assert text_of(results(made)).count("kept from an earlier run") == len(kept)


def test_another_batch_is_refused_while_one_is_at_work(make_panel, on_demo, slow, tmp_path):
    made = make_panel(on_demo.with_values(output_dir=tmp_path / "one"))
    made.run.start_button.click()
    made.videos.output.value = str(tmp_path / "two")
    with pytest.raises(UsageError, match=r"one: another batch of this notebook is still running.*Stop"):
        run_batch_swap(made.form_state)
    assert not (tmp_path / "two" / "clip1.mp4").exists()


def test_a_later_panel_takes_over_the_run(make_panel, on_demo, idle, slow, text_of):
    first = make_panel(on_demo)
    first.run.start_button.click()
    second = make_panel(on_demo, earlier=first.form_state)
    assert buttons(second) == (False, True)
    idle.pass_by(until=lambda: len(idle.actions) == 1)
    slow.may_end.set()
    idle.pass_by()
    assert "clip1.mp4: it has gone" in text_of(second.run.message)
    assert buttons(second) == (True, False)


def test_the_cell_runs_on_colab_and_the_button_without_cells(make_panel, light, text_of, monkeypatch):
    monkeypatch.setenv("SERVER_SOFTWARE", "voila/0.5.0")
    assert run_batch_swap(make_panel(light).form_state) is None
    monkeypatch.delenv("SERVER_SOFTWARE")
    made = make_panel(light, host=ColabHost())
    assert isinstance(made.run.box.children[1], ipywidgets.HTML)
    assert 'run the next cell, "3. Run"' in text_of(made.run.box.children[1])
    run_batch_swap(made.form_state)
    assert "1 of 1 files" in text_of(results(made))
