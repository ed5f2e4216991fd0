from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from colab_helpers.errors import MediaError
from colab_helpers.media.animation import ANIMATION_KINDS, Animation, picture_suffix
from colab_helpers.media.animation_writer import AnimationWriter
from colab_helpers.media.blending import over_white
from colab_helpers.media.containers import output_suffix
from colab_helpers.media.probe import VideoInfo, probe
from colab_helpers.media.reader import read_frames
from tests.media.conftest import Clip
from tests.media.make import Sound, decoded
from tests.media.roundtrip import gif_trip, trip

GIF: dict[str, Any] = {"codec": "gif", "pix_fmt": "rgb8", "options": {}}
UNEVEN = [0, 10, 15, 40, 41, 100]


def test_a_gif_becomes_a_video_on_demand(clip: Clip) -> None:
    there = trip(clip("a.gif", frames=6, time_base=Fraction(1, 100), pts=UNEVEN, **GIF), suffix=".mp4")
    there.assert_same_frames()
    assert there.result.codec == "h264"


def test_a_gif_of_a_gif_has_its_times_and_a_palette_of_each_frame(clip: Clip) -> None:
    info = probe(clip("a.gif", frames=6, time_base=Fraction(1, 100), pts=UNEVEN, **GIF))
    result, notes = gif_trip(info.path)
    assert (result.width, result.height, result.duration) == (96, 64, info.duration)
    assert decoded(result.path) == (list(range(6)), [Fraction(one, 100) for one in UNEVEN])
    assert notes == ["bgra is worked on as yuv444p (transparency is dropped)"]
    with read_frames(info) as before, read_frames(result) as after:
        for one, two in zip(before, after, strict=True):
            first, second = one.video.to_ndarray(format="rgb24"), two.video.to_ndarray(format="rgb24")
            assert np.abs(first.astype(int) - second).mean() < 5


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_a_video_becomes_a_gif_upright_and_silent(clip: Clip, rotation: int) -> None:
    source = clip("a.mp4", frames=10, rotation=rotation, sounds=(Sound(),))
    info = probe(source)
    assert output_suffix(info, ".gif") == (".gif", None)
    result, notes = gif_trip(source)
    assert (result.width, result.height) == info.display_size
    assert result.frames == 10
    assert any("no sound" in note for note in notes)
    turned = np.rot90(first_picture(info), -rotation // 90)
    assert np.abs(first_picture(result).astype(int) - turned).mean() < 6


def first_picture(info: VideoInfo) -> np.ndarray[Any, Any]:
    with read_frames(info) as reader:
        return next(reader).video.to_ndarray(format="gray")


def test_too_fast_for_gif_is_rounded_and_said(clip: Clip) -> None:
    result, notes = gif_trip(clip("a.mp4", frames=24, rate=Fraction(240)))
    assert decoded(result.path)[1] == [Fraction(number, 100) for number in range(24)]
    assert any("hundredths" in note for note in notes)


DURATIONS = [100, 200, 50, 70, 300]


def moving(kind: str) -> list[Image.Image]:
    """Five frames with a hole that moves; all but GIF's with a stripe that is half seen."""
    frames = []
    for number in range(5):
        rgba = np.zeros((60, 80, 4), np.uint8)
        rgba[..., 0], rgba[..., 1] = 40 * number, np.arange(60)[:, None] // 8 * 30
        rgba[..., 2], rgba[..., 3] = np.arange(80)[None] // 16 * 50, 255
        rgba[10:30, 5 + 7 * number : 25 + 7 * number, 3] = 0
        rgba[40:50, :, 3] = 255 if kind == "GIF" else 128
        frames.append(Image.fromarray(rgba))
    return frames


def animated(path: Path, kind: str, **options: Any) -> Path:
    frames = moving(kind)
    extra = {"GIF": {"disposal": 2}, "WEBP": {"lossless": True, "exact": True}}.get(kind, {})
    given = {"save_all": True, "append_images": frames[1:], "duration": DURATIONS, **extra, **options}
    frames[0].save(path, kind, **given)
    return path


def rewritten(animation: Animation, path: Path) -> Animation:
    kind = ANIMATION_KINDS[path.suffix]
    with AnimationWriter(kind, animation, quality=90) as writer:
        for still in animation.frames():
            writer.write(still)
        path.write_bytes(writer.finish().read())
    again = Animation.of(path)
    assert again is not None
    return again


def seen(animation: Animation) -> list[Any]:
    """Every frame over white."""
    return [
        still.bgr if still.alpha is None else over_white(still.bgr, still.alpha)
        for still in animation.frames()
    ]


@pytest.mark.parametrize("loop", [None, 0, 1, 3])
@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_keeps_frames_times_transparency_and_plays(
    tmp_path: Path, kind: str, loop: int | None
) -> None:
    suffix = f".{kind.lower()}"
    path = animated(tmp_path / f"a{suffix}", kind, **({} if loop is None else {"loop": loop}))
    animation = Animation.of(path)
    assert animation is not None
    again = rewritten(animation, tmp_path / f"b{suffix}")
    assert list(animation.durations) == list(again.durations) == DURATIONS
    assert animation.opacity == again.opacity == ("masked" if kind == "GIF" else "partial")
    for before, after in zip(seen(animation), seen(again), strict=True):
        assert np.abs(before.astype(int) - after).max() <= (1 if kind == "GIF" else 0)
    with Image.open(path) as one, Image.open(tmp_path / f"b{suffix}") as other:
        assert one.info.get("loop") == other.info.get("loop")
    assert animation.losses_as(kind) == []
    assert picture_suffix(path) == suffix


@pytest.mark.parametrize(
    ("loop", "plays"), [(None, 1), (0, 0), (2, 3)], ids=["without a count", "for ever", "twice again"]
)
def test_a_gif_in_another_format_plays_as_often(tmp_path: Path, loop: int | None, plays: int) -> None:
    path = animated(tmp_path / "a.gif", "GIF", **({} if loop is None else {"loop": loop}))
    animation = Animation.of(path)
    assert animation is not None
    for name in ("b.webp", "b.png"):
        again = rewritten(animation, tmp_path / name)
        assert again.plays == plays
        assert again.durations == animation.durations
        assert all(map(np.array_equal, seen(animation), seen(again)))


def test_what_gif_cannot_hold_is_said(tmp_path: Path) -> None:
    path = animated(tmp_path / "a.webp", "WEBP", duration=33, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0")
    animation = Animation.of(path)
    assert animation is not None
    assert animation.losses == ("an animation keeps no EXIF data, XMP data or colour profile",)
    assert animation.losses_as("GIF") == [
        "GIF holds 256 colours a frame: others were approached",
        "GIF holds no half transparency: such pixels became opaque or invisible",
        "GIF stores times in hundredths of a second: time stamps were rounded to them",
    ]
    assert rewritten(animation, tmp_path / "b.gif").opacity == "masked"


def test_the_still_before_an_animated_png_is_no_frame_of_it(tmp_path: Path) -> None:
    path = animated(tmp_path / "a.png", "PNG", default_image=True, duration=DURATIONS[1:])
    animation = Animation.of(path)
    assert animation is not None
    assert list(animation.durations) == DURATIONS[1:]
    assert animation.losses == ("the still picture for viewers without animation was left out",)


def test_pages_are_no_animation(tmp_path: Path) -> None:
    animated(tmp_path / "a.tif", "TIFF")
    assert Animation.of(tmp_path / "a.tif") is None


def test_an_animated_avif_becomes_a_webp(tmp_path: Path) -> None:
    assert picture_suffix(animated(tmp_path / "a.avif", "AVIF")) == ".webp"


def test_an_animation_cut_off_is_damaged(tmp_path: Path) -> None:
    for kind in ("GIF", "WEBP", "PNG"):
        path = animated(tmp_path / f"a.{kind.lower()}", kind)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(MediaError, match="not a picture"):
            Animation.of(path)
