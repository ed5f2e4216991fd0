from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from colab_helpers.media.encoders import encoder_for
from colab_helpers.media.probe import VideoInfo, probe
from colab_helpers.media.reader import read_frames
from colab_helpers.media.writer import VideoWriter, output_suffix
from tests.media.conftest import Clip
from tests.media.make import Sound, decoded
from tests.media.roundtrip import trip

GIF: dict[str, Any] = {"codec": "gif", "pix_fmt": "rgb8", "options": {}}
UNEVEN = [0, 10, 15, 40, 41, 100]


def test_gif_stays_gif_with_its_timing(clip: Clip) -> None:
    there = trip(clip("a.gif", frames=6, time_base=Fraction(1, 100), pts=UNEVEN, **GIF))
    there.assert_same_frames()
    assert (there.result.width, there.result.height) == (96, 64)
    assert decoded(there.result.path)[1] == [Fraction(stamp, 100) for stamp in UNEVEN]
    assert there.notes == ["bgra is worked on as yuv444p (transparency is dropped)"]


def test_length_of_the_last_frame_is_kept(clip: Clip) -> None:
    there = trip(clip("a.gif", frames=5, rate=Fraction(5), **GIF))
    assert there.result.duration == there.source.duration == 1


def test_gif_becomes_mp4_on_demand(clip: Clip) -> None:
    there = trip(clip("a.gif", frames=6, time_base=Fraction(1, 100), pts=UNEVEN, **GIF), suffix=".mp4")
    there.assert_same_frames()
    assert there.result.codec == "h264"


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_video_becomes_gif_upright_and_silent(clip: Clip, rotation: int) -> None:
    source = clip("a.mp4", frames=10, rotation=rotation, sounds=(Sound(),))
    info = probe(source)
    assert output_suffix(info, ".gif") == (".gif", None)
    there = trip(source, suffix=".gif")
    assert (there.result.width, there.result.height) == info.display_size
    assert there.result.frames == 10
    assert any("no sound" in note for note in there.notes)
    turned = np.rot90(first_picture(info), -rotation // 90)
    assert np.abs(first_picture(there.result).astype(int) - turned).mean() < 6


def first_picture(info: VideoInfo) -> np.ndarray[Any, Any]:
    with read_frames(info) as reader:
        return next(reader).video.to_ndarray(format="gray")


def test_too_fast_for_gif_is_rounded_and_said(clip: Clip) -> None:
    source = clip("a.mp4", frames=24, rate=Fraction(240))
    there = trip(source, suffix=".gif")
    stamps = decoded(there.result.path)[1]
    assert stamps == [Fraction(number, 100) for number in range(24)]
    assert any("hundredths" in note for note in there.notes)


def test_a_given_palette_is_per_frame(clip: Clip) -> None:
    info = probe(clip("a.gif", frames=4, **GIF))
    target = info.path.parent / "again.gif"
    choice = encoder_for(info, wanted="libx264", quality=20)
    with read_frames(info) as reader, VideoWriter(target, info, choice=choice) as writer:
        for frame in reader:
            writer.write(frame.video, pts=frame.pts, duration=frame.duration)
    assert writer.summary.frames == 4
    with read_frames(info) as before, read_frames(probe(target)) as after:
        for one, two in zip(before, after, strict=True):
            first, second = one.video.to_ndarray(format="rgb24"), two.video.to_ndarray(format="rgb24")
            assert np.abs(first.astype(int) - second).mean() < 5
