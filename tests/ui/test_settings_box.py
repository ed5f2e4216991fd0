"""The settings above the tabs: preset, overrides, errors and help."""

from __future__ import annotations

import pytest

from colab_helpers.errors import SettingsError
from colab_helpers.presets import all_presets, load_presets
from colab_helpers.settings import Settings, field_help, load_settings
from colab_helpers.ui.settings import NO_PROFILE, help_html


def test_help_lists_every_setting_with_its_value(panel, text_of):
    shown = text_of(panel.settings.help)
    for name in Settings.model_fields:
        assert " ".join(field_help(name).split()) in shown
        assert name in shown
    assert help_html(load_settings("light")).count("<tr>") == len(Settings.model_fields) + 1


@pytest.mark.parametrize("preset", ["stable", "speed+ram_8"])
def test_preset_is_passed_to_request_unchanged(make_panel, demo_request, preset):
    panel = make_panel(demo_request.with_values(preset=preset))
    assert panel.form_state.request().settings == load_settings(preset)
    assert panel.form_state.preset == preset


def test_changing_preset_updates_description_and_help(panel, text_of):
    box = panel.settings
    assert "the default" in text_of(box.description)
    box.preset.value, box.profile.value = "light", "ram_8"
    assert "Swapper only" in text_of(box.description)
    assert "8 GB of RAM" in text_of(box.description)
    assert "max_memory 6" in text_of(box.help)
    box.overrides.value = "output_video_quality: 20\nkeep_fps: false"
    assert "output_video_quality 20" in text_of(box.help)
    assert "keep_fps false" in text_of(box.help)
    box.preset.value, box.profile.value = "speed", NO_PROFILE
    assert panel.form_state.request().settings == load_settings(
        "speed", output_video_quality=20, keep_fps=False
    )


def test_worker_fields_are_passed_to_request(make_panel, demo_request, text_of):
    panel = make_panel(demo_request.with_values(map_paths=["/a=/b"], priority=2))
    *inputs, workers_help = panel.settings.workers.children
    fields = {each.description: each for each in inputs}
    assert (fields["map_paths"].value, fields["priority"].value) == ("/a=/b", 2)
    assert "HOST:PORT" in text_of(workers_help)
    fields["gpus"].value, fields["cluster"].value = "cpu,cpu", " 10.0.0.2:6379"
    fields["gpus_per_worker"].value, fields["map_paths"].value = 0.5, "/a=/b\n /c=/d\n"
    request = panel.form_state.request()
    assert (request.cluster, request.gpus_per_worker, request.priority) == ("10.0.0.2:6379", 0.5, 2)
    assert (request.map_paths, request.settings.gpus) == (("/a=/b", "/c=/d"), "cpu,cpu")
    fields["gpus"].value = "two"
    assert "gpus = 'two' is not allowed" in text_of(panel.settings.error)


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        ("execution_threads: 99", "execution_threads = 99 is not allowed; allowed: a whole number from 1"),
        ("frame_processors: [face_enhancer, face_swapper]", "allowed order"),
        ("batchsize: 2", "Did you mean batch_size instead of batchsize?"),
        ("batch_size 2", "overrides = 'batch_size 2' is not allowed; allowed: settings such as"),
    ],
)
def test_invalid_overrides_are_reported(panel, text_of, overrides, error):
    panel.settings.overrides.value = overrides
    shown = text_of(panel.settings.error)
    assert shown.startswith("The run would refuse these settings: ")
    assert error in shown
    assert "clip1.mp4" in text_of(panel.videos.table)  # the other tabs still work
    with pytest.raises(ValueError, match=r"\w"):
        assert panel.form_state.request().settings
    panel.settings.overrides.value = ""
    assert text_of(panel.settings.error) == ""


def test_user_presets_are_added_to_shipped_ones(make_panel, demo_request, tmp_path, text_of):
    home = tmp_path / "home"
    home.mkdir()
    assert all_presets(home) == load_presets()
    with pytest.raises(SettingsError, match="there is no preset 'mine'"):
        load_settings("mine")
    mine = "{description: Mine., extends: balanced, settings: {output_video_quality: 28}}"
    (home / "presets.yaml").write_text(f"version: 1\npresets:\n  mine: {mine}\n  speed: {mine}\n")
    found = load_settings("mine+ram_8", keep_fps=False)
    assert (found.output_video_quality, found.batch_size, found.keep_fps) == (28, 1, False)
    panel = make_panel(demo_request)
    assert [*panel.settings.preset.options] == [*load_presets().presets, "mine"]
    panel.settings.preset.value = "mine"
    assert text_of(panel.settings.description) == "Mine."
    assert panel.form_state.request().settings.output_video_quality == 28
    # A damaged file is reported, but shipped presets still load.
    (home / "presets.yaml").write_text("presets: [")
    assert load_settings("speed").output_video_quality == 28
    with pytest.raises(SettingsError, match=r"presets\.yaml"):
        load_settings("mine")
    panel = make_panel(demo_request)
    assert "is not valid YAML" in text_of(panel.settings.box.children[-1])
    assert panel.settings.preset.value == "balanced"
