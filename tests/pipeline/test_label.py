"""The visible label in results: once in every frame that needs it, in no other."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from colab_helpers.faces.assignment import Assignment, Treatment
from colab_helpers.pipeline import (
    FinishedSegment,
    frames_folder,
    process_image,
    process_picture,
    process_video,
)
from tests.media.make import Sound, Spec, make, packets_of
from tests.pipeline.swapping import SOURCE, Marks, Store, assert_same_pictures, interrupted, planes, segmented

BLUR = Assignment(Treatment("blur"))
SIZE = (320, 180)


OFF = {"visible_label": "off", "disclosure": "test"}


def labelled(output: Path, plain: Path) -> list[bool]:
    """Frames with a label, by comparison with a run without; all else must be equal."""
    found = []
    for marked, unmarked in zip(planes(output), planes(plain), strict=True):
        difference = np.abs(marked[0].astype(int) - unmarked[0])
        found.append(bool(difference.max() > 60))
        difference[-40:, SIZE[0] // 4 :] = 0
        assert not difference.any()
    return found


@pytest.mark.parametrize(
    ("form", "rate", "keep_fps"), [("always", Fraction(25), True), ("start", Fraction(25, 3), False)]
)
def test_labelled_frames_are_the_same_after_interruption(
    form: str, rate: Fraction, keep_fps: bool, tmp_path: Path, constant_models: Path
) -> None:
    target = make(tmp_path / "in.mp4", Spec(size=SIZE, rate=rate, frames=int(3 * rate)))
    models = segmented(constant_models, keep_fps=keep_fps, frame_processors="face_swapper")
    plain, whole, joined = (tmp_path / f"{name}.mp4" for name in ("plain", "whole", "joined"))
    process_video(models, SOURCE, target, plain, marks=Marks(**OFF))
    process_video(models, SOURCE, target, whole, marks=Marks(visible_label=form))
    seen = labelled(whole, plain)
    per_second = 25 if keep_fps else 30
    last = seen.index(False) if False in seen else len(seen)
    assert not any(seen[last:])
    assert last == len(seen) if form == "always" else 2 * per_second < last < 2 * per_second + 4
    interrupted(models, target, joined, [10, 2 * per_second + 1], marks=Marks(visible_label=form))
    assert_same_pictures(whole, joined)


def test_label_off_changes_nothing_and_audio_never_changes(tmp_path: Path, inverting_models: Path) -> None:
    target = make(tmp_path / "in.mp4", Spec(size=SIZE, frames=20, sounds=(Sound(),)))
    models = segmented(inverting_models)
    for name, marks in (("none", None), ("off", Marks(**OFF)), ("on", Marks())):
        process_video(models, SOURCE, target, tmp_path / f"{name}.mp4", marks=marks)
    none, off, on = (tmp_path / f"{name}.mp4" for name in ("none", "off", "on"))
    assert packets_of(none, "video") == packets_of(off, "video") != packets_of(on, "video")
    assert packets_of(none) == packets_of(off) == packets_of(on) == packets_of(target)


@pytest.mark.parametrize(("assignment", "models"), [(BLUR, "constant_models"), (SOURCE, "faceless_models")])
def test_no_label_without_ai_changes(
    assignment: Assignment, models: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    target = make(tmp_path / "in.mp4", Spec(size=SIZE, frames=30))
    networks = segmented(request.getfixturevalue(models), keep_frames=True)
    process_video(networks, assignment, target, tmp_path / "plain.mp4")
    process_video(networks, assignment, target, tmp_path / "marked.mp4", marks=Marks())
    assert packets_of(tmp_path / "plain.mp4", "video") == packets_of(tmp_path / "marked.mp4", "video")
    kept = [frames_folder(tmp_path / f"{name}.mp4") for name in ("plain", "marked")]
    assert len({(folder / "000029.png").read_bytes() for folder in kept}) == 1
    for suffix in (".png", ".gif"):  # converted, not copied
        picture = tmp_path / f"in{'.bmp' if suffix == '.png' else '.webp'}"
        images = [Image.new("RGB", SIZE, (9 * number, 90, 90)) for number in (1, 9)]
        images[0].save(
            picture, **({"save_all": True, "append_images": images[1:]} if suffix == ".gif" else {})
        )
        made = [tmp_path / f"{name}{suffix}" for name in ("plain", "marked")]
        for output, marks in zip(made, (None, Marks()), strict=True):
            process_picture(networks, assignment, picture, output, marks=marks)
        assert made[0].read_bytes() == made[1].read_bytes()


class InterruptingStore(Store):
    """Interrupts after the first segment without label; redone segments replace earlier ones."""

    interrupted = False

    def finished(self) -> list[FinishedSegment]:
        return list({part.segment.number: part for part in self.parts}.values())

    def keep(self, done: FinishedSegment) -> None:
        super().keep(done)
        if not self.interrupted and not done.encoder.endswith(" label"):
            self.interrupted = True
            raise KeyboardInterrupt


@pytest.mark.parametrize("has_people_map", [True, False])
def test_interrupted_run_without_ai_keeps_finished_segments(
    has_people_map: bool, tmp_path: Path, constant_models: Path
) -> None:
    target, output = make(tmp_path / "in.mp4", Spec(size=SIZE, frames=75)), tmp_path / "out.mp4"
    networks, store = segmented(constant_models), InterruptingStore(tmp_path / "work")
    assignment = replace(BLUR, has_people_map=has_people_map)
    with pytest.raises(KeyboardInterrupt):
        process_video(networks, assignment, target, output, store=store, marks=Marks())
    result = process_video(networks, assignment, target, output, store=store, marks=Marks())
    assert (result.segments, result.segments_kept) == (3, 1)
    made = [part.encoder.endswith(" label") for part in store.parts]
    # With a people map it is known beforehand that there is no label.
    assert made == ([] if has_people_map else [True] * 3) + [False] * 3
    process_video(networks, assignment, target, tmp_path / "plain.mp4")
    assert packets_of(output, "video") == packets_of(tmp_path / "plain.mp4", "video")


@pytest.mark.parametrize("suffix", [".mkv", ".png", ".webp"])
def test_label_that_does_not_fit_is_not_claimed(suffix: str, tmp_path: Path, constant_models: Path) -> None:
    target, output = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    images = [Image.new("RGB", (16, 16), (9 * number, 90, 90)) for number in (1, 9)]
    if suffix == ".mkv":
        make(target, Spec(size=(16, 16), frames=3))
    else:
        images[0].save(
            target, **({"save_all": True, "append_images": images[1:]} if suffix == ".webp" else {})
        )
    process = process_video if suffix == ".mkv" else process_picture
    marks = Marks()
    result = process(segmented(constant_models), SOURCE, target, output, marks=marks)
    assert result.measured.by_ai
    assert marks.label is None
    assert "does not fit into 16x16 pixels" in " ".join(result.notes)


def test_label_is_upright_in_kept_frames(tmp_path: Path, constant_models: Path) -> None:
    target = make(tmp_path / "in.mp4", Spec(size=SIZE, frames=2, rotation=90))
    models = segmented(constant_models, keep_frames=True)
    images = []
    for name, marks in (("plain", None), ("marked", Marks())):
        process_video(models, SOURCE, target, tmp_path / f"{name}.mp4", marks=marks)
        images.append(cv2.imread(str(frames_folder(tmp_path / f"{name}.mp4") / "000001.png")))
    truth = images[0].copy()
    marks.label.draw_on(truth)
    assert np.abs(images[1].astype(int) - truth).mean() < np.abs(images[0].astype(int) - truth).mean() / 4
    rows, columns = np.nonzero(np.abs(images[1].astype(int) - images[0]).max(axis=2) > 40)
    assert rows.min() > SIZE[0] * 0.8
    assert columns.min() > 10


@pytest.mark.parametrize("suffix", [".png", ".gif", ".webp"])
def test_label_in_pictures_and_animations(suffix: str, tmp_path: Path, constant_models: Path) -> None:
    frames = []
    for number in range(3):
        rgba = np.full((SIZE[1], SIZE[0], 4), (120, 120, 120, 255), np.uint8)
        rgba[:20, :, 0], rgba[-40:, :, 3] = 90 * number, 0
        frames.append(Image.fromarray(rgba))
    target, output = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    frames[0].save(
        target, save_all=True, append_images=frames[1:], duration=[900, 1200, 300], lossless=True, disposal=2
    )
    seen: list[Any] = []
    process_picture(
        segmented(constant_models),
        SOURCE,
        target,
        output,
        marks=Marks(visible_label="start"),
        on_frame=lambda number, total, still, actions: seen.append(still),
    )
    with Image.open(output) as image:
        for number, labelled_frame in enumerate([True, True, False]):
            image.seek(number)
            rgba = np.asarray(image.convert("RGBA"), int)[-40:]
            assert (rgba[..., 3] == 255).any() == labelled_frame
            assert ((rgba[..., :3] > 240).all(axis=2) & (rgba[..., 3] == 255)).any() == labelled_frame
            assert (seen[number].bgr[-40:] > 240).any() == labelled_frame


def test_picture_in_memory_has_label_if_a_face_changed(constant_models: Path, faceless_models: Path) -> None:
    image = np.full((180, 320, 3), 120, np.uint8)
    label = Marks().label
    for models, faces in ((constant_models, 1), (faceless_models, 0)):
        networks = segmented(models)
        plain = process_image(networks, SOURCE, image)[0]
        changed, _, measured, _ = process_image(networks, SOURCE, image, label=label)
        assert measured.faces == faces
        assert (changed[-30:, 160:] > 240).any() == bool(faces)
        assert np.array_equal(plain[:120], changed[:120])
