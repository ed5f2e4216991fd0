from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from colab_helpers.media.blending import over_white
from colab_helpers.pipeline import process_picture
from tests.pipeline.swapping import FACE, SOURCE, engine


def face_area(shape: tuple[int, int]) -> tuple[slice, slice]:
    """Area of the constant detector's face in a picture, edges included."""
    height, width = shape
    left, top, right, bottom = (value * max(width, height) // 640 for value in FACE)
    return slice(top, bottom + 1), slice(left, right + 1)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_picture_keeps_alpha_and_pixels_outside_the_face(
    tmp_path: Path, inverting_models: Path, suffix: str
) -> None:
    rgba = np.full((180, 320, 4), 255, np.uint8)
    rgba[..., 0], rgba[..., 1], rgba[..., 2] = 60, np.arange(180)[:, None], 90
    rgba[..., 3] = np.arange(320)[None] // 2 + 90
    target, output = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    Image.fromarray(rgba).save(target, **({"lossless": True, "exact": True} if suffix == ".webp" else {}))
    networks = engine(inverting_models, frame_processors="face_swapper")
    result = process_picture(networks, SOURCE, target, output)
    assert (result.faces_swapped, result.notes) == (1, ())
    new = np.asarray(Image.open(output))
    assert np.array_equal(new[..., 3], rgba[..., 3])
    face = face_area((180, 320))
    outside = np.ones((180, 320), bool)
    outside[face] = False
    assert np.array_equal(new[outside], rgba[outside])
    # Composited over white, the face is inverted as far as its alpha allows.
    middle = (slice(80, 100), slice(150, 170))
    before, after = (over_white(one[..., :3], one[..., 3])[middle].astype(int) for one in (rgba, new))
    lightest = np.asarray(over_white(np.zeros_like(rgba[..., :3]), rgba[..., 3]), int)[middle]
    assert np.abs(after - np.maximum(255 - before, lightest)).mean() < 6


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_every_frame_of_an_animation_is_changed(tmp_path: Path, inverting_models: Path, kind: str) -> None:
    frames, durations = [], [100, 250, 40]
    for number in range(3):
        rgba = np.full((180, 320, 4), 255, np.uint8)
        rgba[..., :3] = 40 + 30 * number
        rgba[:20, 20 * number : 20 * number + 20, 3] = 0
        frames.append(Image.fromarray(rgba))
    target, output = tmp_path / f"in.{kind.lower()}", tmp_path / f"out.{kind.lower()}"
    extra = {"disposal": 2} if kind == "GIF" else {}
    frames[0].save(target, save_all=True, append_images=frames[1:], duration=durations, loop=2, **extra)
    progress: list[tuple[int, int]] = []
    result = process_picture(
        engine(inverting_models, frame_processors="face_swapper"), SOURCE, target, output,
        on_frame=lambda number, total, *_: progress.append((number, total)),
    )  # fmt: skip
    assert (result.frames_in, result.frames_out, result.faces_swapped) == (3, 3, 3)
    assert (result.notes, progress) == ((), [(0, 3), (1, 3), (2, 3)])
    assert result.measured.flicker_rms is not None
    with Image.open(output) as image:
        assert (image.n_frames, image.info["loop"]) == (3, 2)
        for number, duration in enumerate(durations):
            image.seek(number)
            shown = np.asarray(image.convert("RGBA")).astype(int)
            assert image.info["duration"] == duration
            assert abs(int(shown[90, 160, 0]) - (215 - 30 * number)) < 6
            assert abs(int(shown[170, 10, 0]) - (40 + 30 * number)) < 3
            assert np.array_equal(shown[..., 3], np.asarray(frames[number])[..., 3])


@pytest.mark.parametrize("name", ["in.png", "in.jpg", "in.gif", "in.webp", "in.tif"])
def test_picture_without_face_is_copied(tmp_path: Path, faceless_models: Path, name: str) -> None:
    target, copied = tmp_path / name, tmp_path / "out" / name
    picture = Image.fromarray(np.full((64, 64, 4), 99, np.uint8))
    if name == "in.jpg":
        picture = picture.convert("CMYK")
    others = [Image.fromarray(np.full((64, 64, 4), 199, np.uint8))] if name in ("in.gif", "in.webp") else []
    picture.save(target, **({"save_all": True, "append_images": others, "duration": 100} if others else {}))
    result = process_picture(engine(faceless_models), SOURCE, target, copied)
    assert copied.read_bytes() == target.read_bytes()
    frames = "in any frame: " if others else ": "
    assert result.notes == (
        f"no face to change was found {frames}the picture is unchanged".replace(" :", ":"),
    )
    other = tmp_path / "out" / ("a.png" if name != "in.png" else "a.jpg")
    notes = process_picture(engine(faceless_models), SOURCE, target, other).notes
    assert (
        notes[0] == f"no face to change was found: the picture is unchanged, but converted to {other.suffix}"
    )
    lost = {"in.png": "JPEG has no transparency: it was filled with white", "in.jpg": "CMYK became RGB"}
    assert notes[1:] == ((lost[name],) if name in lost else ())
