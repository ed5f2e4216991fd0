"""The tab of the settings: presets, single fields, complaints, presets of one's own."""

from __future__ import annotations

import ipywidgets
import pytest

from colab_helpers.errors import SettingsError
from colab_helpers.presets import all_presets, load_presets
from colab_helpers.request import BatchRequest
from colab_helpers.settings import Settings, field_help, load_settings
from colab_helpers.ui.panel_desk import Desk
from colab_helpers.ui.panel_fields import complaint
from colab_helpers.ui.panel_presets import meaning, save_preset
from colab_helpers.ui.panel_settings import NO_PROFILE, SettingsTab


@pytest.fixture
def tab(desk):
    return SettingsTab(desk, BatchRequest())


def value(tab, name):
    return tab.editors[name].widget.value


def test_every_field_has_a_widget_with_its_help(tab, text_of):
    assert list(tab.editors) == list(Settings.model_fields)
    kinds = {name: type(editor.widget).__name__ for name, editor in tab.editors.items()}
    assert {kinds[name] for name in ("keep_fps", "many_faces", "cuda_graphs")} == {"Checkbox"}
    assert {kinds[name] for name in ("half_precision", "face_order", "face_detector_size")} == {"Dropdown"}
    assert {kinds[name] for name in ("output_video_quality", "enhancer_blend")} == {"IntSlider"}
    assert {kinds[name] for name in ("max_memory", "stall_timeout", "swapper_model")} == {"Text"}
    for name, editor in tab.editors.items():
        assert text_of(editor.help) == " ".join(field_help(name).split())
        assert editor.widget.description == name
    boxes = [box for part in tab.advanced.children for box in part.children]
    assert len(boxes) == len(tab.editors)


@pytest.mark.parametrize("preset", [*load_presets().presets, "speed+ram_8", "quality+cpu"])
def test_every_preset_is_shown_as_it_is(desk, preset):
    tab = SettingsTab(desk, BatchRequest(preset=preset))
    assert tab.preset_text == preset
    assert tab.overrides == {}
    base = load_settings(preset)
    for name, editor in tab.editors.items():
        assert complaint(name, editor.value) == ""
        assert Settings.model_validate({name: editor.value}).model_dump()[name] == getattr(base, name), name


def test_another_preset_changes_everything_shown(tab, text_of):
    assert "the default" in text_of(tab.description)
    assert "then restored in detail" in text_of(tab.description)
    tab.preset.value = "light"
    assert "Swapper only" in text_of(tab.description)
    assert "Every face is swapped." in text_of(tab.description)
    assert "left out" in text_of(tab.description)
    assert value(tab, "output_video_encoder") == "libx264"
    assert value(tab, "frame_processors") == ("face_swapper",)
    assert text_of(tab.changes) == "Nothing differs from light."
    tab.profile.value = "ram_8"
    assert tab.preset_text == "light+ram_8"
    assert value(tab, "max_memory") == "6"
    assert value(tab, "batch_size") == 1
    assert "8 GB of RAM" in text_of(tab.description)


def test_what_differs_is_listed_and_outlives_another_preset(tab, text_of):
    told = []
    tab._desk.listeners.append(told.append)
    tab.editors["output_video_quality"].widget.value = 20
    tab.editors["keep_fps"].widget.value = False
    assert told == ["settings", "settings"]
    assert tab.overrides == {"output_video_quality": 20, "keep_fps": False}
    assert "output_video_quality: 20 instead of 25" in text_of(tab.changes)
    assert "keep_fps: no instead of yes" in text_of(tab.changes)
    assert "1.8 times larger" in text_of(tab.description)
    tab.preset.value = "speed"
    assert "output_video_quality: 20 instead of 28" in text_of(tab.changes)
    tab.editors["output_video_quality"].widget.value = 28
    assert tab.overrides == {"keep_fps": False}
    tab.reset_button.click()
    assert tab.overrides == {}
    assert value(tab, "keep_fps") is True
    assert text_of(tab.changes) == "Nothing differs from speed."


@pytest.mark.parametrize(
    ("name", "written", "said"),
    [
        (
            "execution_threads",
            "99",
            "execution_threads = 99 is not allowed; allowed: a whole number from 1 to 64",
        ),
        (
            "max_memory",
            "much",
            "max_memory = 'much' is not allowed; allowed: a number from 0.5 to 1024 or auto",
        ),
        ("stall_timeout", "1", "stall_timeout = 1 is not allowed; allowed: a number from 10.0"),
        ("output_video_preset", "very fast!", "output_video_preset = 'very fast!' is not allowed"),
    ],
)
def test_a_bad_value_is_told_beside_its_field(tab, text_of, name, written, said):
    editor = tab.editors[name]
    editor.widget.value = written
    assert said in text_of(editor.error)
    assert "The run would refuse these settings" in text_of(tab.changes)
    assert editor.widget.value == written
    assert all(text_of(other.error) == "" for other in tab.editors.values() if other is not editor)
    with pytest.raises(SettingsError):
        load_settings(tab.preset_text, **tab.overrides)
    editor.widget.value = "5" if name != "stall_timeout" and name != "output_video_preset" else "50"
    assert text_of(editor.error) == ""
    assert "refuse" not in text_of(tab.changes)


def test_values_that_exclude_each_other_are_told(tab, text_of):
    tab.editors["face_selector"].widget.value = "reference"
    assert "set many_faces to false" in text_of(tab.changes)
    assert "set many_faces to false" in text_of(tab.editors["face_selector"].error)
    tab.editors["many_faces"].widget.value = False
    assert "refuse" not in text_of(tab.changes)
    assert text_of(tab.editors["face_selector"].error) == ""
    assert "One person's face is swapped" in text_of(tab.description)


def test_an_order_that_makes_no_sense_is_told_and_not_offered(desk, text_of):
    tab = SettingsTab(desk, BatchRequest(overrides={"frame_processors": ["face_enhancer", "face_swapper"]}))
    assert "enhances before it swaps" in text_of(tab.editors["frame_processors"].error)
    assert [choice for _, choice in tab.editors["frame_processors"].widget.options] == [
        ("face_swapper", "face_enhancer"),
        ("face_swapper",),
        ("face_enhancer",),
    ]


def test_wrong_answers_of_the_form_stand_until_they_are_corrected(desk, text_of):
    tab = SettingsTab(desk, BatchRequest(overrides={"output_video_quality": 99, "batchsize": 2}))
    assert "output_video_quality = 99 is not allowed" in text_of(tab.editors["output_video_quality"].error)
    assert "unknown key 'batchsize' = 2" in text_of(tab.changes)
    assert tab.overrides == {"output_video_quality": 99, "batchsize": 2}
    tab.editors["output_video_quality"].widget.value = 30
    assert tab.overrides == {"output_video_quality": 30, "batchsize": 2}
    assert text_of(tab.editors["output_video_quality"].error) == ""


def test_what_is_right_is_listed_beside_what_is_wrong(desk, text_of):
    tab = SettingsTab(desk, BatchRequest(overrides={"output_video_quality": 20, "max_memory": "much"}))
    assert "max_memory = 'much' is not allowed" in text_of(tab.changes)
    assert "output_video_quality: 20 instead of 25" in text_of(tab.changes)
    assert "1.8 times larger" in text_of(tab.description)


def test_an_unknown_preset_is_told(desk, text_of):
    tab = SettingsTab(desk, BatchRequest(preset="fastest"))
    assert "there is no preset 'fastest'" in text_of(tab.description)
    assert tab.preset_text == "fastest"
    tab.preset.value = "speed"
    assert "Fastest with enhancement" in text_of(tab.description)


def test_a_saved_preset_can_be_chosen_and_found_again(tab, place, text_of):
    tab.preset.value, tab.profile.value = "speed", "ram_8"
    tab.editors["output_video_quality"].widget.value = 21
    tab.editors["max_memory"].widget.value = "5.5"
    tab.name.value = "mine"
    tab.save_button.click()
    assert text_of(tab.message) == "Saved as the preset mine."
    assert (tab.preset.value, tab.profile.value, tab.overrides) == ("mine", NO_PROFILE, {})
    expected = load_settings("speed+ram_8", output_video_quality=21, max_memory=5.5)
    assert load_settings("mine") == expected
    again = SettingsTab(Desk(ipywidgets, place), BatchRequest(preset="mine"))
    assert "mine" in again.preset.options
    assert "From speed+ram_8." in text_of(again.description)
    assert again.editors["output_video_quality"].widget.value == 21
    again.preset.value = "quality"
    assert again.editors["output_video_quality"].widget.value == 18


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("speed", "comes with the program"),
        ("ram_8", "comes with the program"),
        ("a+b", "is no name for a preset"),
        ("", "is no name for a preset"),
        ("../x", "is no name for a preset"),
    ],
)
def test_names_that_no_preset_may_have(tab, place, text_of, name, said):
    tab.name.value = name
    tab.save_button.click()
    assert said in text_of(tab.message)
    assert not place.home.exists()


def test_wrong_settings_are_not_saved(tab, place, text_of):
    tab.editors["max_memory"].widget.value = "much"
    tab.name.value = "mine"
    tab.save_button.click()
    assert "max_memory = 'much' is not allowed" in text_of(tab.message)
    assert not place.home.exists()


def test_a_damaged_file_of_presets_is_told_and_left_alone(desk, place, text_of):
    place.home.mkdir()
    (place.home / "presets.yaml").write_text("presets: [")
    tab = SettingsTab(desk, BatchRequest())
    assert "is not valid YAML" in text_of(tab.message)
    assert tab.preset.value == "balanced"
    tab.name.value = "mine"
    tab.save_button.click()
    assert "is not valid YAML" in text_of(tab.message)
    assert (place.home / "presets.yaml").read_text() == "presets: ["


def test_presets_of_ones_own_stand_beside_the_shipped_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("COLAB_HELPERS_HOME", str(tmp_path))
    shipped = load_presets()
    assert all_presets(tmp_path) == shipped
    save_preset(tmp_path, "one", load_settings("light"))
    save_preset(tmp_path, "two", Settings())
    found = all_presets(tmp_path)
    assert list(found.presets) == [*shipped.presets, "one", "two"]
    assert found.presets["two"].settings == {}
    assert load_settings("one") == load_settings("light")


def test_the_words_follow_from_the_settings():
    work, speed, memory, size = meaning(
        load_settings("quality", batch_size=3, output_video_encoder="libx264")
    )
    assert work == "Work: Every face is swapped, then restored in detail."
    assert "the CPU encodes" in speed
    assert "at most 10 GB of RAM; 3 frames at once" in memory
    # Seven steps of CRF: 2 ** (7 / 6).
    assert "2.2 times larger" in size
    assert "smaller" in meaning(replace_quality(31))[3]


def replace_quality(quality):
    return load_settings("balanced", output_video_quality=quality)


def test_answers_are_not_changed(desk):
    answers = BatchRequest(overrides={"keep_fps": False})
    SettingsTab(desk, answers).editors["skip_audio"].widget.value = True
    assert answers.overrides == {"keep_fps": False}
