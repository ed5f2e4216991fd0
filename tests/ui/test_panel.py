"""The panel as a whole: what it leaves to the run."""

from __future__ import annotations

from pathlib import Path

import ipywidgets
import pytest

from colab_helpers.errors import ConsentError, SettingsError, UsageError
from colab_helpers.request import BatchRequest
from colab_helpers.settings import load_settings
from colab_helpers.trust.consent import DEMO_CONSENT
from colab_helpers.ui import panel
from colab_helpers.ui.notebook import run_batch_swap
from colab_helpers.ui.panel import Demo, show_panel

CONSENT = "Rendered people of the demo, used in a test: synthetic."


@pytest.fixture
def in_notebook(monkeypatch, place):
    """As in a notebook; returns what was shown."""
    shown = []
    monkeypatch.setattr(panel, "widget_library", lambda: ipywidgets)
    monkeypatch.setattr(panel, "show_widget", shown.append)
    monkeypatch.setattr(panel, "this_host", lambda: place)
    return shown


def test_the_panel_begins_with_the_answers_of_the_form(make_panel, on_demo):
    answers = on_demo.replaced(
        preset="speed+ram_8",
        overrides={"keep_fps": False},
        video_range="1",
        output_dir="/tmp/out",
        session_minutes=30.0,
        shortest_first=True,
    )
    made = make_panel(answers)
    assert made.choice.request == answers
    assert [made.tabs.get_title(number) for number in range(4)] == [
        "Sources",
        "Targets",
        "Settings",
        "Preview",
    ]
    assert made.tabs.selected_index == 0


def test_the_run_gets_what_is_chosen_when_it_begins(make_panel, on_demo, demo):
    made = make_panel(on_demo)
    made.settings.preset.value = "light"
    made.targets.range.value = "1-1"
    made.targets.minutes.value = 12.0
    made.targets.shortest.value = True
    made.targets.output.value = "/tmp/elsewhere"
    made.consent.value = CONSENT
    made.sources.path.value = str(demo / "source" / "bruno.png")
    made.sources.add_button.click()
    chosen = made.choice.request
    assert (chosen.preset, chosen.video_range, chosen.consent) == ("light", "1-1", CONSENT)
    assert (chosen.session_minutes, chosen.shortest_first) == (12.0, True)
    assert chosen.output_dir == Path("/tmp/elsewhere")
    assert [Path(path).name for path in chosen.sources] == ["alma.png", "bruno.png"]


def test_headless_makes_no_widgets(monkeypatch, on_demo):
    def refuse(*_, **__):
        raise AssertionError("a widget was made")

    monkeypatch.setattr(ipywidgets.Widget, "__init__", refuse)
    monkeypatch.setattr(panel, "show_widget", refuse)
    request = on_demo.replaced(headless=True)
    choice = show_panel(request)
    assert choice.request == request
    choice.close()


def test_outside_notebooks_the_answers_stand():
    request = BatchRequest(sources="me.jpg", targets=["a.mp4"], preset="speed", consent=CONSENT)
    assert show_panel(request).request == request


def test_in_a_notebook_it_is_shown(in_notebook, on_demo):
    choice = show_panel(on_demo)
    assert len(in_notebook) == 1
    assert isinstance(in_notebook[0], ipywidgets.VBox)
    assert choice.request == on_demo


def test_a_second_panel_takes_the_networks_of_the_first(in_notebook, on_demo):
    first = show_panel(on_demo)
    released = []
    first._release = lambda: released.append(first)
    second = show_panel(on_demo)
    assert released == [first]
    assert second.request == on_demo


def test_nothing_named_shows_the_demo(make_panel, demo, monkeypatch, text_of):
    small = Demo(demo / "source" / "bruno.png", (demo / "targets" / "clip1.mp4",), demo / "models")
    monkeypatch.setattr(panel, "copy_demo", lambda folder: small)
    made = make_panel(BatchRequest(consent=DEMO_CONSENT))
    assert "the demo with rendered people" in text_of(made.status)
    assert "The demo is used" in text_of(made.sources.summary)
    assert "bruno.png" in text_of(made.sources.cards.children[0].children[0])
    assert "clip1.mp4" in text_of(made.targets.table)
    chosen = made.choice.request
    assert (chosen.sources, chosen.targets, chosen.models_dir) == (
        (str(small.source),),
        tuple(map(str, small.targets)),
        small.models,
    )
    made.sources.path.value = str(demo / "source" / "alma.png")
    made.sources.add_button.click()
    chosen = made.choice.request
    assert (chosen.sources, chosen.targets, chosen.models_dir) == (
        (str(demo / "source" / "alma.png"),),
        (),
        None,
    )
    assert text_of(made.status) == ""


def test_consent_is_checked_while_it_is_written(make_panel, on_demo, tmp_path, demo, text_of):
    made = make_panel(on_demo)
    assert "Noted in the report" in text_of(made.consent_hint)
    made.consent.value = ""
    assert "no statement of consent" in text_of(made.consent_hint)
    with pytest.raises(ConsentError):
        run_batch_swap(made.choice)
    made.consent.value = DEMO_CONSENT
    other = tmp_path / "holiday.mp4"
    other.write_bytes((demo / "targets" / "clip1.mp4").read_bytes())
    made.targets.paths.value = str(other)
    assert "covers its rendered people only" in text_of(made.consent_hint)


def test_the_run_refuses_what_the_panel_calls_wrong(make_panel, on_demo):
    made = make_panel(on_demo)
    made.settings.editors["batch_size"].widget.value = 5
    made.settings.editors["execution_threads"].widget.value = "99"
    with pytest.raises(SettingsError, match="execution_threads = 99 is not allowed"):
        run_batch_swap(made.choice)


def test_the_run_releases_the_previews_networks(make_panel, on_demo, monkeypatch):
    made = make_panel(on_demo)
    made.tabs.selected_index = 3
    assert made.preview.shown is not None
    assert made._desk.studio.is_loaded
    seen = []

    def do_batch(request, **values):
        seen.append((request.sources, request.targets, made._desk.studio.is_loaded))
        raise UsageError("far enough")

    monkeypatch.setattr("colab_helpers.api.do_batch", do_batch)
    with pytest.raises(UsageError, match="far enough"):
        run_batch_swap(made.choice)
    assert seen == [(on_demo.sources, on_demo.targets, False)]


def test_a_run_of_the_panels_choice(make_panel, on_demo, tmp_path):
    made = make_panel(on_demo.replaced(output_dir=str(tmp_path / "out"), headless=False))
    made.settings.preset.value = "light"
    done = run_batch_swap(made.choice)
    assert done.report.ok
    assert done.report.settings["frame_processors"] == ["face_swapper"]
    assert (tmp_path / "out" / "clip1.mp4").is_file()


def test_a_preset_of_ones_own_runs_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv("COLAB_HELPERS_HOME", str(tmp_path))
    mine = "{description: Mine., extends: balanced, settings: {output_video_quality: 28}}"
    with pytest.raises(SettingsError, match="there is no preset 'mine'"):
        load_settings("mine")
    (tmp_path / "presets.yaml").write_text(f"version: 1\npresets:\n  mine: {mine}\n")
    found = load_settings("mine+ram_8", keep_fps=False)
    assert (found.output_video_quality, found.batch_size, found.max_memory, found.keep_fps) == (
        28,
        1,
        6,
        False,
    )
    (tmp_path / "presets.yaml").write_text("version: 2")
    assert load_settings("speed").output_video_quality == 28
    with pytest.raises(SettingsError, match=r"presets\.yaml"):
        load_settings("mine")
