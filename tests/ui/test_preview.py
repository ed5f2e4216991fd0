"""The Preview tab: one frame before and after the swap."""

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
def loads(monkeypatch):
    """One entry for each time that networks were loaded."""
    calls = []
    original = Engine.open.__func__

    def counting(cls, *args, **values):
        calls.append(values)
        return original(cls, *args, **values)

    monkeypatch.setattr(Engine, "open", classmethod(counting))
    return calls


def box_slices(box, margin, shape):
    left, top, right, bottom = (int(value) for value in box)
    rows = slice(max(0, top - margin), min(shape[0], bottom + margin))
    return rows, slice(max(0, left - margin), min(shape[1], right + margin))


def test_preview_changes_only_face_and_label(panel, pictures_of):
    panel.tabs.selected_index = PREVIEW
    before, after = panel.preview.shown.before, panel.preview.shown.after
    assert before.shape == after.shape == (270, 480, 3)
    changed = np.any(before != after, axis=2)
    (face, *_) = panel.form_state.networks.faces(
        *panel.form_state.detection_inputs(), Path("clip1.mp4"), before
    )
    inside, around = box_slices(face.box, 0, changed.shape), box_slices(face.box, 40, changed.shape)
    assert changed[inside].mean() > 0.4
    assert np.mean(cv2.absdiff(before, after)[inside]) > 2
    changed[around] = False
    label = np.argwhere(changed)
    assert len(label) > 100
    assert tuple(label.min(axis=0)) > (240, 360)
    for picture, image in zip(pictures_of(panel.preview.pair), (before, after), strict=True):
        assert picture.shape == image.shape
        assert np.mean(cv2.absdiff(picture, image)) < 4


def test_slider_position_is_frame_number(panel, demo):
    frames = list(read_frames(probe(demo / "targets" / "clip1.mp4")))
    assert panel.preview.frame.max == len(frames) - 1 == 9
    for number in (0, 4, 9):
        expected = frames[number].video.to_ndarray(format="bgr24")
        assert np.array_equal(read_target_frame(demo / "targets" / "clip1.mp4", number), expected)


def test_networks_are_loaded_once_when_preview_is_opened(panel, loads, demo, text_of):
    assert panel.preview.shown is None
    assert not loads
    panel.tabs.selected_index = PREVIEW
    first = panel.preview.shown
    assert "1 face(s) changed" in text_of(panel.preview.message)
    panel.tabs.selected_index = 1
    panel.settings.overrides.value = "enhancer_blend: 0"
    assert panel.preview.shown is first  # the tab is not open
    panel.tabs.selected_index = PREVIEW
    panel.preview.frame.value = 0
    assert panel.preview.shown is not first
    panel.settings.overrides.value = "enhancer_blend: 10"
    softer = panel.preview.shown
    panel.settings.overrides.value = "enhancer_blend: 100"
    assert not np.array_equal(panel.preview.shown.after, softer.after)
    panel.form_state.sources = (str(demo / "source" / "hanna.png"),)
    assert not np.array_equal(panel.preview.shown.after, softer.after)
    assert len(loads) == 1
    panel.settings.preset.value = "light"
    assert len(loads) == 2
    plain = panel.preview.shown.after
    panel.settings.overrides.value = "face_swapper_pixel_boost: 256"
    assert not np.array_equal(panel.preview.shown.after, plain)
    panel.form_state.close()
    panel.preview.frame.value = 3
    assert panel.preview.shown.faces == 1
    assert len(loads) == 4


def test_preview_of_images_with_and_without_face(make_panel, demo_request, tmp_path, text_of):
    """With the enhancer only, which needs no source."""
    write_image(tmp_path / "a.png", portrait("bruno"))
    write_image(tmp_path / "b.png", np.full((100, 150, 3), 77, np.uint8))
    enhancer_only = {"sources": (), "overrides": {"frame_processors": ["face_enhancer"]}, "consent": CONSENT}
    panel = make_panel(demo_request.with_values(targets=(str(tmp_path),), **enhancer_only))
    panel.tabs.selected_index = PREVIEW
    assert panel.preview.shown.faces == 1
    assert panel.preview.frame.disabled
    assert panel.preview.shown.before.shape == (512, 512, 3)
    panel.preview.target.value = 1
    assert "No face to change in this frame" in text_of(panel.preview.message)
    assert np.array_equal(panel.preview.shown.before, panel.preview.shown.after)


def test_gender_selection_updates_preview(panel, loads):
    panel.tabs.selected_index = PREVIEW
    changed = []
    for sex in ("female", "male", "female"):
        panel.settings.overrides.value = f"face_selector_gender: {sex}"
        changed.append(panel.preview.shown.faces)
    assert changed in ([0, 1, 0], [1, 0, 1])
    assert len(loads) == 2  # without and with the attributes network


@pytest.mark.parametrize(
    ("change", "error"),
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
def test_errors_replace_picture(make_panel, demo_request, text_of, change, error):
    panel = make_panel(demo_request.with_values(**change))
    panel.tabs.selected_index = PREVIEW
    assert error in text_of(panel.preview.message)
    assert (panel.preview.shown, panel.preview.pair.value) == (None, "")


def snapshot(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_preview_uses_faces_of_run_and_writes_nothing(
    make_panel, demo_request, tmp_path, text_of, monkeypatch
):
    out = tmp_path / "out"
    request = demo_request.with_values(
        output_dir=out, overrides={"frame_processors": "face_swapper", "output_video_quality": 0}
    )
    panel = make_panel(request)
    panel.tabs.selected_index = PREVIEW
    assert "Based on this frame only" in text_of(panel.preview.message)
    assert panel.preview.strips.value == ""
    assert not out.exists()
    panel.form_state.close()
    report = run_batch(
        request.sources, request.targets, out, consent=request.consent, settings=request.settings,
        models_dir=request.models_dir, in_process=True,
    )  # fmt: skip
    before = snapshot(out)
    panel = make_panel(request)
    panel.tabs.selected_index = PREVIEW
    assert "A run gives the same result" in text_of(panel.preview.message)
    assert "Based on this frame" not in text_of(panel.preview.message)
    checked = []
    monkeypatch.setattr(content, "check_pictures", lambda _, one: checked.append(one[0][1]))
    monkeypatch.setattr(
        preview_networks, "read_target_frame", lambda *_: np.zeros((8, 8, 3), np.uint8)
    )  # must not be checked: the run's face index has the frame shown
    for number in (9, 0, 4):
        panel.preview.frame.value = number
        result = read_target_frame(Path(report.files[0].output), number)
        assert np.array_equal(panel.preview.shown.after, result)
        assert checked[-1].image is panel.preview.shown.before
    assert text_of(panel.preview.strips) == "Person 1 Person 1: missed in 0 spans"
    assert panel.preview.strips.value.count("<svg") == 1
    panel.settings.overrides.value = "face_detector_size: 320"  # no run has detected faces at this size
    assert "Based on this frame only" in text_of(panel.preview.message)
    assert snapshot(out) == before
