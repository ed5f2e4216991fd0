"""The tab of the preview: real pixels of one frame, before and after."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest

from colab_helpers.faces.engine import Engine
from colab_helpers.media.images import write_image
from colab_helpers.media.probe import probe
from colab_helpers.media.reader import read_frames
from colab_helpers.ui.panel_parts import wipe
from colab_helpers.ui.panel_studio import picture_of
from tests.people.actors import portrait

PREVIEW = 3


@pytest.fixture
def opened(monkeypatch):
    """Counts how often networks were loaded."""
    count = []
    original = Engine.open.__func__

    def counting(cls, *args, **values):
        count.append(values)
        return original(cls, *args, **values)

    monkeypatch.setattr(Engine, "open", classmethod(counting))
    return count


@pytest.fixture
def panel(make_panel, on_demo):
    return make_panel(on_demo)


def grown(box, by, shape):
    left, top, right, bottom = (int(value) for value in box)
    return slice(max(0, top - by), min(shape[0], bottom + by)), slice(
        max(0, left - by), min(shape[1], right + by)
    )


def face_box(panel, image):
    desk = panel._desk
    (face, *_) = desk.studio.faces(desk.settings(), desk.models(), image)
    return face.box


def test_nothing_is_loaded_before_somebody_looks(panel, opened, text_of):
    assert panel.preview.shown is None
    assert not opened
    panel.tabs.selected_index = PREVIEW
    assert panel.preview.shown.faces == 1
    assert "1 face(s) changed" in text_of(panel.preview.message)
    assert len(opened) == 1


def test_only_the_face_is_changed(panel):
    panel.tabs.selected_index = PREVIEW
    before, after = panel.preview.shown.before, panel.preview.shown.after
    assert before.shape == after.shape == (270, 480, 3)
    changed = np.any(before != after, axis=2)
    box = face_box(panel, before)
    inside, around = grown(box, 0, changed.shape), grown(box, 40, changed.shape)
    assert changed[inside].mean() > 0.4
    outside = changed.copy()
    outside[around] = False
    assert not outside.any()
    assert np.mean(cv2.absdiff(before, after)[inside]) > 2


def test_the_pictures_shown_are_those(panel, pictures_of):
    panel.tabs.selected_index = PREVIEW
    shown = panel.preview.shown
    before, after = pictures_of(panel.preview.pair)
    for picture, image in ((before, shown.before), (after, shown.after)):
        assert picture.shape == image.shape
        assert np.mean(cv2.absdiff(picture, image)) < 4


@pytest.mark.parametrize("percent", [0, 25, 60, 100])
def test_the_wipe_cuts_where_the_slider_is(panel, pictures_of, percent):
    panel.tabs.selected_index = PREVIEW
    panel.preview.cut.value = percent
    (picture,) = pictures_of(panel.preview.wipe)
    shown = panel.preview.shown
    cut = round(480 * percent / 100)
    left, right = slice(0, max(0, cut - 12)), slice(cut + 12, None)
    assert percent == 100 or np.mean(cv2.absdiff(picture, shown.after)[:, right]) < 4
    assert percent == 0 or np.mean(cv2.absdiff(picture, shown.before)[:, left]) < 4
    if 0 < percent < 100:
        assert picture[:, cut - 1 : cut + 1].mean() > 220


def test_the_wipe_takes_pixels_of_both():
    before, after = np.zeros((4, 100, 3), np.uint8), np.full((4, 100, 3), 100, np.uint8)
    mixed = wipe(before, after, 0.3)
    assert np.all(mixed[:, :29] == 0)
    assert np.all(mixed[:, 29:31] == 255)
    assert np.all(mixed[:, 31:] == 100)
    assert np.array_equal(wipe(before, after, 0), after)
    assert np.array_equal(wipe(before, after, 1), before)


def test_every_place_of_the_slider_is_that_frame(panel, demo):
    frames = list(read_frames(probe(demo / "targets" / "clip1.mp4")))
    assert panel.preview.frame.max == len(frames) - 1 == 9
    for number in (0, 4, 9):
        expected = frames[number].video.to_ndarray(format="bgr24")
        assert np.array_equal(picture_of(demo / "targets" / "clip1.mp4", number), expected)


def test_networks_stay_loaded_from_frame_to_frame(panel, opened):
    panel.tabs.selected_index = PREVIEW
    first = panel.preview.shown
    panel.preview.frame.value = 0
    assert panel.preview.shown is not first
    panel.settings.editors["enhancer_blend"].widget.value = 10
    softer = panel.preview.shown
    assert len(opened) == 1
    panel.settings.editors["enhancer_blend"].widget.value = 100
    assert not np.array_equal(panel.preview.shown.after, softer.after)
    panel.settings.preset.value = "light"
    assert len(opened) == 2
    panel.choice.close()
    assert not panel._desk.studio.is_loaded
    panel.preview.frame.value = 3
    assert panel.preview.shown.faces == 1
    assert len(opened) == 3


def test_it_works_only_while_somebody_looks(panel, opened):
    panel.tabs.selected_index = PREVIEW
    panel.tabs.selected_index = 2
    shown = panel.preview.shown
    panel.settings.editors["enhancer_blend"].widget.value = 0
    assert panel.preview.shown is shown
    panel.tabs.selected_index = PREVIEW
    assert panel.preview.shown is not shown


def test_another_source_gives_another_picture(panel, demo):
    panel.tabs.selected_index = PREVIEW
    first = panel.preview.shown.after
    panel.sources.paths = [str(demo / "source" / "hanna.png")]
    panel._desk.tell("sources")
    assert not np.array_equal(panel.preview.shown.after, first)


def test_it_is_quick(panel):
    panel.tabs.selected_index = PREVIEW
    started = time.process_time()  # of this process alone, whatever else the machine does
    panel.preview.frame.value = 2
    assert time.process_time() - started < 2
    assert panel.preview.shown.seconds > 0


def test_images_and_frames_without_a_face(make_panel, on_demo, tmp_path, text_of):
    write_image(tmp_path / "a.png", portrait("bruno"))
    write_image(tmp_path / "b.png", np.full((100, 150, 3), 77, np.uint8))
    made = make_panel(on_demo.replaced(targets=(str(tmp_path),)))
    made.tabs.selected_index = PREVIEW
    assert made.preview.frame.disabled
    assert made.preview.shown.before.shape == (512, 512, 3)
    made.preview.target.value = 1
    assert "No face to change in this frame" in text_of(made.preview.message)
    assert np.array_equal(made.preview.shown.before, made.preview.shown.after)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"models_dir": "/nowhere"}, "/nowhere"),
        ({"sources": ()}, "no photo of the person"),
        ({"sources": ("/nowhere/a.png",)}, "there is no such file"),
        ({"targets": ("/nowhere/a.mp4",)}, "there is no such file"),
        ({"targets": ()}, "no target to show"),
        ({"overrides": {"batch_size": 77}}, "batch_size = 77 is not allowed"),
    ],
)
def test_errors_stand_in_place_of_the_picture(make_panel, on_demo, text_of, change, said):
    made = make_panel(on_demo.replaced(**change))
    made.tabs.selected_index = PREVIEW
    assert said in text_of(made.preview.message)
    assert (made.preview.shown, made.preview.pair.value, made.preview.wipe.value) == (None, "", "")


def test_enhancing_alone_needs_no_source(make_panel, on_demo):
    made = make_panel(on_demo.replaced(sources=(), overrides={"frame_processors": ["face_enhancer"]}))
    made.tabs.selected_index = PREVIEW
    assert made.preview.shown.faces == 1


def test_following_one_person_is_explained(make_panel, on_demo, text_of):
    overrides = {"many_faces": False, "face_selector": "reference"}
    made = make_panel(on_demo.replaced(overrides=overrides))
    made.tabs.selected_index = PREVIEW
    assert "The person to follow is taken from this frame" in text_of(made.preview.message)


def test_it_begins_with_a_target_that_can_be_read(make_panel, on_demo, tmp_path):
    (tmp_path / "a.mp4").write_text("not a video")
    write_image(tmp_path / "b.png", portrait("bruno"))
    made = make_panel(on_demo.replaced(targets=(str(tmp_path),)))
    made.tabs.selected_index = PREVIEW
    assert made.preview.target.value == 1
    assert made.preview.shown.faces == 1
