"""The panel as a whole: what it leaves to the run, and what comes from and goes to one's own computer."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

import ipywidgets
import pytest

from colab_helpers.demo import Demo
from colab_helpers.errors import ConsentError, OutputError, UsageError
from colab_helpers.request import BatchRequest
from colab_helpers.trust.consent import DEMO_CONSENT
from colab_helpers.ui import batch_swap, panel
from colab_helpers.ui.batch_swap import pack_results, run_batch_swap, show_results
from colab_helpers.ui.form_state import Run
from colab_helpers.ui.host import Host
from colab_helpers.ui.panel import show_panel
from colab_helpers.ui.photos import UPLOADS
from tests.helpers.reports import a_file, a_report
from tests.ui.conftest import Browser

CONSENT = "Rendered people of the demo, used in a test: synthetic."


@pytest.fixture
def shown(monkeypatch, runs):
    """What is shown in a notebook."""
    found = []
    monkeypatch.setattr(panel, "widget_library", lambda: ipywidgets)
    monkeypatch.setattr(panel, "show_widget", found.append)
    return found


def test_the_panel_begins_with_the_answers_of_the_form(make_panel, on_demo):
    answers = on_demo.with_values(
        preset="speed+ram_8",
        overrides={"keep_fps": False, "frame_processors": ["face_swapper"]},
        video_range="1",
        output_dir="/tmp/out",
        session_minutes=30.0,
        shortest_first=True,
    )
    made = make_panel(answers)
    assert made.form_state.request() == answers
    titles = [made.tabs.get_title(number) for number in range(5)]
    assert titles == ["Photos", "Videos", "People", "Preview", "Run"]
    assert made.tabs.selected_index == 0


def test_the_run_gets_what_is_chosen_when_it_begins(make_panel, on_demo, demo, tmp_path, monkeypatch):
    made = make_panel(on_demo)
    made.settings.preset.value = "light"
    made.videos.range.value = "1-1"
    made.videos.minutes.value = 12.0
    made.videos.shortest.value = True
    made.videos.output.value = str(tmp_path / "elsewhere")
    made.consent.value = CONSENT
    made.photos.path.value = str(demo / "source" / "bruno.png")
    made.photos.add_button.click()
    chosen = made.form_state.request()
    assert (chosen.preset, chosen.video_range, chosen.consent) == ("light", "1-1", CONSENT)
    assert (chosen.session_minutes, chosen.shortest_first) == (12.0, True)
    assert chosen.output_dir == tmp_path / "elsewhere"
    assert [Path(path).name for path in chosen.sources] == ["alma.png", "bruno.png"]
    made.photos.cards.children[1].children[1].click()
    released = []
    monkeypatch.setattr(made.form_state.networks, "close", lambda: released.append(made))
    done = run_batch_swap(made.form_state)
    assert released == [made]  # their memory is the run's
    assert done.report.ok
    assert done.report.settings["frame_processors"] == ["face_swapper"]
    assert (tmp_path / "elsewhere" / "clip1.mp4").is_file()


def test_headless_and_outside_notebooks_the_answers_stand(monkeypatch, on_demo):
    def refuse(*_, **__):
        raise AssertionError("a widget was made")

    monkeypatch.setattr(ipywidgets.Widget, "__init__", refuse)
    assert show_panel(on_demo).request() == on_demo
    monkeypatch.setattr(panel, "widget_library", lambda: ipywidgets)
    request = on_demo.with_values(headless=True)
    assert show_panel(request).request() == request


def test_a_second_panel_takes_the_networks_of_the_first(shown, on_demo, monkeypatch):
    first = show_panel(on_demo)
    assert isinstance(shown[0], ipywidgets.VBox)
    released = []
    monkeypatch.setattr(first.networks, "close", lambda: released.append(first))
    second = show_panel(on_demo, first)
    assert released == [first]
    assert second.request() == first.request() == on_demo
    assert second.runs is first.runs


def test_nothing_named_shows_the_demo(make_panel, demo, monkeypatch, text_of):
    alma, bruno = (demo / "source" / f"{name}.png" for name in ("alma", "bruno"))
    small = Demo(bruno, (demo / "targets" / "clip1.mp4",), demo / "models")
    monkeypatch.setattr(panel, "copy_demo", lambda folder: small)
    made = make_panel(BatchRequest(consent=DEMO_CONSENT))
    assert "the demo with rendered people" in text_of(made.status)
    assert "The demo is used" in text_of(made.photos.summary)
    assert "bruno.png" in text_of(made.photos.cards.children[0].children[0])
    assert "clip1.mp4" in text_of(made.videos.table)
    expected = BatchRequest(sources=[bruno], targets=small.targets, models_dir=small.models)
    assert made.form_state.request() == expected.with_values(consent=DEMO_CONSENT)
    made.photos.path.value = str(alma)
    made.photos.add_button.click()
    assert made.form_state.request() == BatchRequest(sources=[alma], consent=DEMO_CONSENT)
    assert text_of(made.status) == ""


def test_consent_is_checked_while_it_is_written(make_panel, on_demo, tmp_path, demo, text_of):
    made = make_panel(on_demo)
    assert "Recorded in the report" in text_of(made.consent_hint)
    made.consent.value = ""
    assert "no statement of consent" in text_of(made.consent_hint)
    with pytest.raises(ConsentError):
        run_batch_swap(made.form_state)
    made.consent.value = DEMO_CONSENT
    other = tmp_path / "holiday.mp4"
    other.write_bytes((demo / "targets" / "clip1.mp4").read_bytes())
    made.videos.paths.value = str(other)
    assert "covers its rendered people only" in text_of(made.consent_hint)


# --- files of the user's own computer ---------------------------------------------------------------------


def test_photos_are_sources_and_videos_targets(monkeypatch, runs):
    browser = Browser(chosen=("me.JPG", "a.mp4", "b.mov"))
    monkeypatch.setattr(panel, "this_host", lambda headless: browser)
    asked = BatchRequest(sources=["/other.png"], targets=["/c.mp4"], upload=True)
    chosen, uploads = show_panel(asked).request(), runs / UPLOADS
    assert chosen.sources == ("/other.png", str(uploads / "me.JPG"))
    assert chosen.targets == ("/c.mp4", str(uploads / "a.mp4"), str(uploads / "b.mov"))
    assert show_panel(BatchRequest(download=True)).request().sources == ()  # nobody is asked


@pytest.mark.parametrize(
    ("host", "said"), [(Browser(), r"no file was chosen.*untick"), (Host(), r"Colab only.*What to do")]
)
def test_without_files_there_is_no_demo_instead(monkeypatch, host, said):
    monkeypatch.setattr(panel, "this_host", lambda headless: host)
    with pytest.raises(UsageError, match=said):
        show_panel(BatchRequest(upload=True))


@pytest.mark.parametrize(
    ("names", "asked", "taken"),
    [
        (["a.mp4"], True, ["a.mp4"]),
        (["a.mp4", "b.mp4"], True, ["results.zip"]),
        (["a.mp4"], False, []),
        ([], True, []),
    ],
    ids=["one as it is", "several as one", "unasked", "nothing"],
)
def test_results_are_handed_over(tmp_path, names, asked, taken):
    host = Browser()
    run = Run(BatchRequest(download=asked, output_dir=tmp_path), host)
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    run.report = a_report(*(a_file(tmp_path / "in" / name, tmp_path / name) for name in names))
    show_results(run)
    assert [path.name for path in host.taken] == taken
    if taken == ["results.zip"]:
        with zipfile.ZipFile(host.taken[0]) as archive:
            assert {name: archive.read(name).decode() for name in names} == {name: name for name in names}


def test_a_manifest_beside_a_result_is_handed_over_with_it(tmp_path):
    host, names = Browser(), ["a.mkv", "a.mkv.c2pa"]
    run = Run(BatchRequest(download=True, output_dir=tmp_path), host)
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    run.report = a_report(a_file(tmp_path / "in" / "a.mkv", tmp_path / "a.mkv", manifest="0"))
    show_results(run)
    with zipfile.ZipFile(host.taken[0]) as archive:
        assert archive.namelist() == names


def test_a_zip_that_cannot_be_written_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(OutputError):
        pack_results([tmp_path / "gone.mp4"])
    assert list(tmp_path.iterdir()) == []
    assert batch_swap.show_results(None) is None
