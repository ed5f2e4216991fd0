"""The tabs "Run" and "Results": buttons are clicked, and the kernel's idle time is played by hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import ipywidgets
import psutil
import pytest

from colab_helpers.errors import MissingFileError, UsageError
from colab_helpers.ui.ledger import WatchedRun
from colab_helpers.ui.notebook import prepared, run_batch_swap
from colab_helpers.ui.panel import Panel
from tests.conftest import PATIENCE, until
from tests.helpers.processes import hold

RUN, RESULTS = 4, 5


class Idle:
    """The kernel between cells: calls what asked for it, until it says False."""

    def __init__(self) -> None:
        self.actions: list[Callable[[], bool]] = []

    def repeat(self, action: Callable[[], bool], seconds: float) -> None:
        self.actions.append(action)

    def pass_by(self, *, until: Callable[[], bool] = lambda: False) -> None:
        """Let callbacks through, until nothing is left to do or something has come about."""
        end = time.monotonic() + PATIENCE
        while self.actions and not until():
            self.actions = [action for action in self.actions if action()]
            time.sleep(0.05)
            assert time.monotonic() < end


@pytest.fixture
def idle(desk) -> Idle:
    made = Idle()
    desk.repeat = made.repeat
    return made


@dataclass
class Slow:
    """Work that is done when it is told so; ends with an error where there is one."""

    error: Exception | None = None

    def __post_init__(self) -> None:
        self.may_end = threading.Event()

    def __call__(self, on_status: object) -> None:
        assert self.may_end.wait(PATIENCE)
        if self.error:
            raise self.error


def start(made: Panel, idle: Idle) -> None:
    made.tabs.selected_index = RUN
    made.run.start_button.click()
    idle.pass_by()


def test_a_run_by_button(make_panel, on_demo, idle, tmp_path, text_of):
    made = make_panel(on_demo.replaced(preset="light", output_dir=str(tmp_path / "out")))
    assert f"1 file(s), preset light; results go to {tmp_path / 'out'}." in text_of(made.run.plan)
    assert (made.run.start_button.disabled, made.run.stop_button.disabled) == (False, True)
    assert "Nothing has been made yet" in text_of(made.results.box.children[0])
    made.tabs.selected_index = RUN
    made.run.start_button.click()
    assert (made.run.start_button.disabled, made.run.stop_button.disabled) == (True, False)
    made.run.start_button.click()  # a second click changes nothing
    idle.pass_by()
    assert (tmp_path / "out" / "clip1.mp4").is_file()
    assert "1 of 1 files" in text_of(made.run.message)
    assert (made.run.start_button.disabled, made.run.stop_button.disabled) == (False, True)
    assert "1 of 1 files ended (1 done)" in text_of(made.run.view)
    assert made.tabs.selected_index == RESULTS
    shown = made.results.box.children[0]
    for told in ("1 of 1 files", "clip1.mp4", "stand-in networks", str(tmp_path / "out" / "report.html")):
        assert told in text_of(shown)
    assert shown.value.count("data:image/jpeg;base64,") == 3  # source, before, after
    assert shown.value.count("data:video/mp4;base64,") == 1


def test_the_cell_and_the_button_share_folder_and_results(make_panel, on_demo, idle, text_of, place):
    made = make_panel(on_demo.replaced(preset="light"))
    folder = place.runs / on_demo.run_name
    assert str(folder) in text_of(made.run.plan)
    start(made, idle)
    assert (folder / "report.json").exists()
    done = run_batch_swap(made.choice)
    assert done.folder == folder
    assert made.results.shown is done
    assert "kept from an earlier run" in text_of(made.results.box.children[0])
    # Whatever else changes, the run goes on there.
    made.settings.preset.value, made.targets.minutes.value = "stable", 30.0
    assert str(folder) in text_of(made.run.plan)
    assert prepared(made.choice.request, place).output_dir == folder


def test_a_refusal_is_shown_in_its_own_words(make_panel, on_demo, idle, text_of):
    made = make_panel(on_demo.replaced(consent=""))
    made.run.start_button.click()
    assert "no statement of consent" in text_of(made.run.message)
    made.consent.value = on_demo.consent
    made.targets.paths.value = "/nowhere/clip.mp4"
    made.run.start_button.click()
    idle.pass_by()
    assert "/nowhere/clip.mp4" in text_of(made.run.message)
    assert not made.run.start_button.disabled


def test_a_failed_file_is_named_and_start_goes_on(make_panel, on_demo, idle, tmp_path, text_of):
    bad = tmp_path / "text.mp4"
    bad.write_text("no video")
    answers = on_demo.replaced(preset="light", output_dir=str(tmp_path / "out"))
    consent = "Rendered people of the demo, used in a test: synthetic."
    made = make_panel(answers.replaced(targets=(str(bad), *answers.targets), consent=consent))
    start(made, idle)
    assert "1 of 2 files did not succeed: text.mp4" in text_of(made.run.message)
    assert "Start goes on with it" in text_of(made.run.message)
    assert made.tabs.selected_index == RUN
    assert "text.mp4" in text_of(made.results.box.children[0])


def test_stopped_and_gone_on_with(make_panel, on_demo, idle, tmp_path, text_of, monkeypatch):
    hold(monkeypatch, tmp_path, file=1, frame=1)
    out = tmp_path / "out"
    many = [tmp_path / f"clip{number}.mp4" for number in range(6)]
    for path in many:
        path.write_bytes(Path(on_demo.targets[0]).read_bytes())
    consent = "Rendered people of the demo, used in a test: synthetic."
    targets = tuple(map(str, many))
    made = make_panel(on_demo.replaced(preset="light", output_dir=str(out), targets=targets, consent=consent))
    made.run.start_button.click()
    idle.pass_by(until=(tmp_path / "held").exists)
    made.run.stop_button.click()
    assert made.run.stop_button.disabled
    stopped = psutil.STATUS_STOPPED
    until(lambda: [each for each in psutil.Process().children() if each.status() == stopped])[0].resume()
    idle.pass_by()
    assert "Stopped: " in text_of(made.run.message)
    # The worker looks for a stop once a second: the file at work may still be finished.
    kept = sorted(path.name for path in out.glob("clip*.mp4"))
    assert kept in (["clip0.mp4"], ["clip0.mp4", "clip1.mp4"])
    start(made, idle)
    assert "6 of 6 files" in text_of(made.run.message)
    assert text_of(made.results.box.children[0]).count("kept from an earlier run") == len(kept)


def test_another_batch_is_refused_while_one_is_at_work(make_panel, on_demo, idle, desk, tmp_path, text_of):
    made = make_panel(on_demo.replaced(output_dir=str(tmp_path / "one")))
    slow = Slow()
    desk.ledger.start(made.choice.request, slow)
    made.targets.output.value = str(tmp_path / "two")
    with pytest.raises(UsageError, match=r"one: another batch of this notebook is still at work.*Stop"):
        run_batch_swap(made.choice)
    assert not (tmp_path / "two" / "clip1.mp4").exists()
    slow.may_end.set()


def test_a_later_panel_takes_over_the_run(make_panel, on_demo, idle, desk, tmp_path, text_of):
    first = make_panel(on_demo)
    slow = Slow(MissingFileError("it has gone", where="clip1.mp4"))
    desk.ledger.start(first.choice.request.replaced(output_dir=tmp_path), slow)
    first.run.take_over()
    desk.ledger.listeners.clear()
    second = make_panel(on_demo)
    assert second.run.start_button.disabled
    idle.pass_by(until=lambda: len(idle.actions) == 1)
    slow.may_end.set()
    idle.pass_by()
    assert "clip1.mp4: it has gone" in text_of(second.run.message)
    assert not second.run.start_button.disabled


def test_on_colab_the_cell_runs(make_panel, on_demo, desk, place, tmp_path, text_of):
    desk.host = replace(place, has_buttons=False)
    made = make_panel(on_demo.replaced(preset="light", output_dir=str(tmp_path / "out")))
    assert isinstance(made.run.box.children[1], ipywidgets.HTML)
    assert 'Run the next cell, "3. Run"' in text_of(made.run.box.children[1])
    run_batch_swap(made.choice)
    assert "1 of 1 files" in text_of(made.run.message)
    assert "clip1.mp4" in text_of(made.results.box.children[0])


def test_where_nobody_runs_cells_the_run_is_left_to_the_button(make_panel, on_demo, monkeypatch):
    monkeypatch.setenv("SERVER_SOFTWARE", "voila/0.5.0")
    assert run_batch_swap(make_panel(on_demo).choice) is None


def test_an_error_in_the_thread_is_kept():
    slow = Slow(RuntimeError("odd"))
    slow.may_end.set()
    run = WatchedRun(slow)
    run.join(PATIENCE)
    assert run.ended
    assert str(run.error) == "odd"
