"""The tab of the preview: real pixels of one frame, before and after."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from colab_helpers.api import run_batch
from colab_helpers.faces.engine import Engine
from colab_helpers.media.images import write_image
from colab_helpers.media.probe import probe
from colab_helpers.media.reader import read_frames
from colab_helpers.trust import content
from colab_helpers.ui import preview_networks
from colab_helpers.ui.preview_networks import read_target_frame
from tests.conftest import CONSENT
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


def grown(box, by, shape):
    left, top, right, bottom = (int(value) for value in box)
    rows = slice(max(0, top - by), min(shape[0], bottom + by))
    return rows, slice(max(0, left - by), min(shape[1], right + by))


def test_only_the_face_is_changed_and_the_label_put_in_its_corner_and_shown_as_it_is(panel, pictures_of):
    panel.tabs.selected_index = PREVIEW
    before, after = panel.preview.shown.before, panel.preview.shown.after
    assert before.shape == after.shape == (270, 480, 3)
    changed = np.any(before != after, axis=2)
    (face, *_) = panel.form_state.networks.faces(
        *panel.form_state.detection_inputs(), Path("clip1.mp4"), before
    )
    inside, around = grown(face.box, 0, changed.shape), grown(face.box, 40, changed.shape)
    assert changed[inside].mean() > 0.4
    assert np.mean(cv2.absdiff(before, after)[inside]) > 2
    changed[around] = False
    label = np.argwhere(changed)
    assert len(label) > 100
    assert tuple(label.min(axis=0)) > (240, 360)
    for picture, image in zip(pictures_of(panel.preview.pair), (before, after), strict=True):
        assert picture.shape == image.shape
        assert np.mean(cv2.absdiff(picture, image)) < 4


def test_every_place_of_the_slider_is_that_frame(panel, demo):
    frames = list(read_frames(probe(demo / "targets" / "clip1.mp4")))
    assert panel.preview.frame.max == len(frames) - 1 == 9
    for number in (0, 4, 9):
        expected = frames[number].video.to_ndarray(format="bgr24")
        assert np.array_equal(read_target_frame(demo / "targets" / "clip1.mp4", number), expected)


def test_networks_are_loaded_when_somebody_looks_and_stay(panel, opened, demo, text_of):
    assert panel.preview.shown is None
    assert not opened
    panel.tabs.selected_index = PREVIEW
    first = panel.preview.shown
    assert "1 face(s) changed" in text_of(panel.preview.message)
    panel.tabs.selected_index = 1
    panel.settings.overrides.value = "enhancer_blend: 0"
    assert panel.preview.shown is first  # nobody looks
    panel.tabs.selected_index = PREVIEW
    panel.preview.frame.value = 0
    assert panel.preview.shown is not first
    panel.settings.overrides.value = "enhancer_blend: 10"
    softer = panel.preview.shown
    panel.settings.overrides.value = "enhancer_blend: 100"
    assert not np.array_equal(panel.preview.shown.after, softer.after)
    panel.form_state.sources = (str(demo / "source" / "hanna.png"),)
    assert not np.array_equal(panel.preview.shown.after, softer.after)
    assert len(opened) == 1
    panel.settings.preset.value = "light"
    assert len(opened) == 2
    plain = panel.preview.shown.after
    panel.settings.overrides.value = "face_swapper_pixel_boost: 256"
    assert not np.array_equal(panel.preview.shown.after, plain)
    panel.form_state.close()
    panel.preview.frame.value = 3
    assert panel.preview.shown.faces == 1
    assert len(opened) == 4


def test_images_and_frames_without_a_face(make_panel, on_demo, tmp_path, text_of):
    """Enhancing alone needs no source."""
    write_image(tmp_path / "a.png", portrait("bruno"))
    write_image(tmp_path / "b.png", np.full((100, 150, 3), 77, np.uint8))
    alone = {"sources": (), "overrides": {"frame_processors": ["face_enhancer"]}, "consent": CONSENT}
    made = make_panel(on_demo.with_values(targets=(str(tmp_path),), **alone))
    made.tabs.selected_index = PREVIEW
    assert made.preview.shown.faces == 1
    assert made.preview.frame.disabled
    assert made.preview.shown.before.shape == (512, 512, 3)
    made.preview.target.value = 1
    assert "No face to change in this frame" in text_of(made.preview.message)
    assert np.array_equal(made.preview.shown.before, made.preview.shown.after)


def test_another_sex_is_shown_at_once(panel, opened):
    panel.tabs.selected_index = PREVIEW
    changed = []
    for sex in ("female", "male", "female"):
        panel.settings.overrides.value = f"face_selector_gender: {sex}"
        changed.append(panel.preview.shown.faces)
    assert changed in ([0, 1, 0], [1, 0, 1])
    assert len(opened) == 2  # one without and one with the network that tells it


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"models_dir": "/nowhere"}, "/nowhere"),
        ({"sources": ()}, "no source photo"),
        ({"sources": ("/nowhere/a.png",), "consent": CONSENT}, "there is no such file"),
        ({"consent": ""}, "no statement of consent was given"),
        ({"targets": ("/nowhere/a.mp4",)}, "there is no such file"),
        ({"targets": ()}, "no target to show"),
        ({"overrides": {"batch_size": 77}}, "batch_size = 77 is not allowed"),
    ],
)
def test_errors_stand_in_place_of_the_picture(make_panel, on_demo, text_of, change, said):
    made = make_panel(on_demo.with_values(**change))
    made.tabs.selected_index = PREVIEW
    assert said in text_of(made.preview.message)
    assert (made.preview.shown, made.preview.pair.value) == (None, "")


def snapshot(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_what_a_run_has_found_is_shown_and_nothing_is_written(
    make_panel, on_demo, tmp_path, text_of, monkeypatch
):
    out = tmp_path / "out"
    asked = on_demo.with_values(
        output_dir=out, overrides={"frame_processors": "face_swapper", "output_video_quality": 0}
    )
    made = make_panel(asked)
    made.tabs.selected_index = PREVIEW
    assert "Based on this frame only" in text_of(made.preview.message)
    assert made.preview.strips.value == ""
    assert not out.exists()
    made.form_state.close()
    report = run_batch(
        asked.sources, asked.targets, out, consent=asked.consent, settings=asked.settings,
        models_dir=asked.models_dir, in_process=True,
    )  # fmt: skip
    before = snapshot(out)
    made = make_panel(asked)
    made.tabs.selected_index = PREVIEW
    assert "A run gives the same result" in text_of(made.preview.message)
    assert "Based on this frame" not in text_of(made.preview.message)
    looked_at = []
    monkeypatch.setattr(content, "check_pictures", lambda _, one: looked_at.append(one[0][1]))
    monkeypatch.setattr(
        preview_networks, "read_target_frame", lambda *_: np.zeros((8, 8, 3), np.uint8)
    )  # another one
    for number in (9, 0, 4):
        made.preview.frame.value = number
        result = read_target_frame(Path(report.files[0].output), number)
        assert np.array_equal(made.preview.shown.after, result)
        assert looked_at[-1].image is made.preview.shown.before
    assert text_of(made.preview.strips) == "Person 1 Person 1: missed in 0 spans"
    assert made.preview.strips.value.count("<svg") == 1
    made.settings.overrides.value = "face_detector_size: 320"  # whose faces no run has found
    assert "Based on this frame only" in text_of(made.preview.message)
    assert snapshot(out) == before
