"""Animated pictures: frames, durations, transparency, losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from colab_helpers.errors import MediaError
from colab_helpers.media.animation import ANIMATION_KINDS, Animation, AnimationWriter, picture_suffix
from colab_helpers.media.blending import over_white

KINDS = ["GIF", "WEBP", "PNG"]
DURATIONS = [100, 200, 50, 70, 300]


def animated(path: Path, kind: str, **options: Any) -> Path:
    """Five frames with a moving hole and, except for GIF, a half-transparent stripe."""
    frames = []
    for number in range(5):
        rgba = np.zeros((60, 80, 4), np.uint8)
        rgba[..., 0], rgba[..., 1] = 40 * number, np.arange(60)[:, None] // 8 * 30
        rgba[..., 2], rgba[..., 3] = np.arange(80)[None] // 16 * 50, 255
        rgba[10:30, 5 + 7 * number : 25 + 7 * number, 3] = 0
        rgba[40:50, :, 3] = 255 if kind == "GIF" else 128
        frames.append(Image.fromarray(rgba))
    extra = {"GIF": {"disposal": 2}, "WEBP": {"lossless": True, "exact": True}}.get(kind, {})
    given = {"save_all": True, "append_images": frames[1:], "duration": DURATIONS, **extra, **options}
    frames[0].save(path, kind, **given)
    return path


def read(path: Path) -> Animation:
    animation = Animation.of(path)
    assert animation is not None
    return animation


def rewrite(animation: Animation, path: Path) -> Animation:
    with AnimationWriter(ANIMATION_KINDS[path.suffix], animation, quality=90) as writer:
        for still in animation.frames():
            writer.write(still)
        path.write_bytes(writer.finish().read())
    return read(path)


def frames_over_white(animation: Animation) -> list[Any]:
    return [
        still.bgr if still.alpha is None else over_white(still.bgr, still.alpha)
        for still in animation.frames()
    ]


# GIF stores repetitions: without a count it plays once, the others forever.
PLAYS = [("GIF", None, 1), ("GIF", 0, 0), ("GIF", 3, 4), ("WEBP", None, 0), ("WEBP", 3, 3), ("PNG", 3, 3)]


@pytest.mark.parametrize(("kind", "loop", "plays"), PLAYS)
@pytest.mark.parametrize("result", KINDS)
def test_frames_durations_transparency_and_loop_count_are_kept(
    tmp_path: Path, kind: str, loop: int | None, plays: int, result: str
) -> None:
    path = animated(tmp_path / f"a.{kind.lower()}", kind, **({} if loop is None else {"loop": loop}))
    animation = read(path)
    again = rewrite(animation, tmp_path / f"b.{result.lower()}")
    assert list(animation.durations) == list(again.durations) == DURATIONS
    assert again.plays == animation.plays == plays
    assert animation.opacity == ("masked" if kind == "GIF" else "partial")
    if result != "GIF" or kind == "GIF":
        assert again.opacity == animation.opacity
        for before, after in zip(frames_over_white(animation), frames_over_white(again), strict=True):
            assert np.abs(before.astype(int) - after).max() <= (1 if result == "GIF" else 0)
    assert (animation.losses_as(result) == []) == (result != "GIF" or kind == "GIF")


def test_losses_of_gif_are_reported(tmp_path: Path) -> None:
    path = animated(tmp_path / "a.webp", "WEBP", duration=33, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0")
    animation = read(path)
    assert animation.losses == ("an animation keeps no EXIF data, XMP data or colour profile",)
    assert animation.losses_as("GIF") == [
        "GIF has 256 colours per frame: others were approximated",
        "GIF has no partial transparency: such pixels became opaque or invisible",
        "GIF stores times in hundredths of a second: durations were rounded",
    ]
    again = rewrite(animation, tmp_path / "b.gif")
    assert (again.opacity, again.durations) == ("masked", (30, 40, 30, 30, 30))  # 3, 7, 10, 13 and 16


def test_default_image_of_animated_png_is_not_a_frame(tmp_path: Path) -> None:
    animation = read(animated(tmp_path / "a.png", "PNG", default_image=True, duration=DURATIONS[1:]))
    assert list(animation.durations) == DURATIONS[1:]
    assert animation.losses == ("the still picture for viewers without animation was left out",)


@pytest.mark.parametrize(("name", "kind"), [("a.tif", "TIFF"), ("a.avif", "AVIF")])
def test_multi_image_tiff_and_avif_are_not_animations(tmp_path: Path, name: str, kind: str) -> None:
    path = animated(tmp_path / name, kind)
    assert (Animation.of(path), picture_suffix(path)) == (None, path.suffix)


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_animation_is_refused(tmp_path: Path, kind: str) -> None:
    path = animated(tmp_path / f"a.{kind.lower()}", kind)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(MediaError, match="not a picture"):
        Animation.of(path)
