"""The panel as a whole: the request it builds, uploads and downloads."""

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
from colab_helpers.ui import panel as panel_module
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
    """The widgets shown in a notebook."""
    found = []
    monkeypatch.setattr(panel_module, "widget_library", lambda: ipywidgets)
    monkeypatch.setattr(panel_module, "show_widget", found.append)
    return found


def test_panel_starts_with_values_of_form(make_panel, demo_request):
    request = demo_request.with_values(
        preset="speed+ram_8", overrides={"keep_fps": False, "frame_processors": ["face_swapper"]},
        video_range="1", output_dir="/tmp/out", session_minutes=30.0, shortest_first=True,
    )  # fmt: skip
    panel = make_panel(request)
    assert panel.form_state.request() == request
    titles = [panel.tabs.get_title(number) for number in range(5)]
    assert titles == ["Photos", "Videos", "People", "Preview", "Run"]
    assert panel.tabs.selected_index == 0


def test_run_uses_values_chosen_in_panel(make_panel, demo_request, demo, tmp_path, monkeypatch):
    panel = make_panel(demo_request)
    panel.settings.preset.value = "light"
    panel.videos.range.value = "1-1"
    panel.videos.minutes.value = 12.0
    panel.videos.shortest.value = True
    panel.videos.output.value = str(tmp_path / "elsewhere")
    panel.consent.value = CONSENT
    panel.photos.path.value = str(demo / "source" / "bruno.png")
    panel.photos.add_button.click()
    chosen = panel.form_state.request()
    assert (chosen.preset, chosen.video_range, chosen.consent) == ("light", "1-1", CONSENT)
    assert (chosen.session_minutes, chosen.shortest_first) == (12.0, True)
    assert chosen.output_dir == tmp_path / "elsewhere"
    assert [Path(path).name for path in chosen.sources] == ["alma.png", "bruno.png"]
    panel.photos.cards.children[1].children[1].click()
    released = []
    monkeypatch.setattr(panel.form_state.networks, "close", lambda: released.append(panel))
    done = run_batch_swap(panel.form_state)
    assert released == [panel]  # frees memory for the run
    assert done.report.ok
    assert done.report.settings["frame_processors"] == ["face_swapper"]
    assert (tmp_path / "elsewhere" / "clip1.mp4").is_file()


def test_headless_and_shell_use_form_values_without_widgets(monkeypatch, demo_request):
    def refuse(*_, **__):
        raise AssertionError("a widget was created")

    monkeypatch.setattr(ipywidgets.Widget, "__init__", refuse)
    assert show_panel(demo_request).request() == demo_request
    monkeypatch.setattr(panel_module, "widget_library", lambda: ipywidgets)
    request = demo_request.with_values(headless=True)
    assert show_panel(request).request() == request


def test_second_panel_closes_networks_of_first(shown, demo_request, monkeypatch):
    first = show_panel(demo_request)
    assert isinstance(shown[0], ipywidgets.VBox)
    released = []
    monkeypatch.setattr(first.networks, "close", lambda: released.append(first))
    second = show_panel(demo_request, first)
    assert released == [first]
    assert second.request() == first.request() == demo_request
    assert second.runs is first.runs


def test_empty_form_uses_demo(make_panel, demo, monkeypatch, text_of):
    alma, bruno = (demo / "source" / f"{name}.png" for name in ("alma", "bruno"))
    small_demo = Demo(bruno, (demo / "targets" / "clip1.mp4",), demo / "models")
    monkeypatch.setattr(panel_module, "copy_demo", lambda folder: small_demo)
    panel = make_panel(BatchRequest(consent=DEMO_CONSENT))
    assert "the demo with rendered people" in text_of(panel.status)
    assert "The demo is used" in text_of(panel.photos.summary)
    assert "bruno.png" in text_of(panel.photos.cards.children[0].children[0])
    assert "clip1.mp4" in text_of(panel.videos.table)
    expected = BatchRequest(sources=[bruno], targets=small_demo.targets, models_dir=small_demo.models)
    assert panel.form_state.request() == expected.with_values(consent=DEMO_CONSENT)
    panel.photos.path.value = str(alma)
    panel.photos.add_button.click()
    assert panel.form_state.request() == BatchRequest(sources=[alma], consent=DEMO_CONSENT)
    assert text_of(panel.status) == ""


def test_consent_hint_follows_input(make_panel, demo_request, tmp_path, demo, text_of):
    panel = make_panel(demo_request)
    assert "Recorded in the report" in text_of(panel.consent_hint)
    panel.consent.value = ""
    assert "no statement of consent" in text_of(panel.consent_hint)
    with pytest.raises(ConsentError):
        run_batch_swap(panel.form_state)
    panel.consent.value = DEMO_CONSENT
    other = tmp_path / "holiday.mp4"
    other.write_bytes((demo / "targets" / "clip1.mp4").read_bytes())
    panel.videos.paths.value = str(other)
    assert "covers its rendered people only" in text_of(panel.consent_hint)


def test_uploaded_photos_are_sources_and_videos_targets(monkeypatch, runs):
    browser = Browser(uploads=("me.JPG", "a.mp4", "b.mov"))
    monkeypatch.setattr(panel_module, "this_host", lambda headless: browser)
    request = BatchRequest(sources=["/other.png"], targets=["/c.mp4"], upload=True)
    combined, uploads = show_panel(request).request(), runs / UPLOADS
    assert combined.sources == ("/other.png", str(uploads / "me.JPG"))
    assert combined.targets == ("/c.mp4", str(uploads / "a.mp4"), str(uploads / "b.mov"))
    assert show_panel(BatchRequest(download=True)).request().sources == ()  # no upload requested


@pytest.mark.parametrize(
    ("host", "reason"), [(Browser(), r"no file was chosen.*untick"), (Host(), r"Colab only.*What to do")]
)
def test_missing_upload_does_not_fall_back_to_demo(monkeypatch, host, reason):
    monkeypatch.setattr(panel_module, "this_host", lambda headless: host)
    with pytest.raises(UsageError, match=reason):
        show_panel(BatchRequest(upload=True))


@pytest.mark.parametrize(
    ("names", "download", "expected"),
    [
        (["a.mp4"], True, ["a.mp4"]),
        (["a.mp4", "b.mp4"], True, ["results.zip"]),
        (["a.mp4"], False, []),
        ([], True, []),
    ],
    ids=["single file", "several as zip", "not requested", "no result"],
)
def test_results_are_downloaded(tmp_path, names, download, expected):
    host = Browser()
    run = Run(BatchRequest(download=download, output_dir=tmp_path), host)
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    run.report = a_report(*(a_file(tmp_path / "in" / name, tmp_path / name) for name in names))
    show_results(run)
    assert [path.name for path in host.downloaded] == expected
    if expected == ["results.zip"]:
        with zipfile.ZipFile(host.downloaded[0]) as archive:
            assert {name: archive.read(name).decode() for name in names} == {name: name for name in names}


def test_sidecar_manifest_is_downloaded_with_result(tmp_path):
    host, names = Browser(), ["a.mkv", "a.mkv.c2pa"]
    run = Run(BatchRequest(download=True, output_dir=tmp_path), host)
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    run.report = a_report(a_file(tmp_path / "in" / "a.mkv", tmp_path / "a.mkv", manifest="0"))
    show_results(run)
    with zipfile.ZipFile(host.downloaded[0]) as archive:
        assert archive.namelist() == names


def test_failed_zip_leaves_no_files(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(OutputError):
        pack_results([tmp_path / "gone.mp4"])
    assert list(tmp_path.iterdir()) == []
    assert show_results(None) is None
