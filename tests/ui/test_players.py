"""Videos inside a page: what a browser can play, and no more than there is room for."""

from __future__ import annotations

import base64
import io
import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from colab_helpers.ui.players import MOST, ROOM, clip_of, players_html
from tests.media.make import Spec, make


def write_video(
    path: Path,
    *,
    frames: int = 20,
    size: tuple[int, int] = (320, 180),
    codec: str = "libx264",
    images: np.ndarray | None = None,
) -> Path:
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=Fraction(10))
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        if images is None:
            levels = [10 * (number % 20) for number in range(frames)]
            images = np.stack([np.full((size[1], size[0], 3), level) for level in levels])
        for image in images.astype(np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        container.mux(stream.encode(None))
    return path


def videos_in(page: str) -> list[bytes]:
    return [base64.b64decode(text) for text in re.findall(r'src="data:video/mp4;base64,([^"]*)"', page)]


def frames_of(content: bytes) -> list[av.VideoFrame]:
    with av.open(io.BytesIO(content)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        return list(container.decode(video=0))


def test_a_small_result_is_embedded_as_it_is(tmp_path):
    path = write_video(tmp_path / "a.mp4")
    page = players_html([path])
    assert videos_in(page) == [path.read_bytes()]
    assert "<figcaption>a.mp4</figcaption>" in page


@pytest.mark.parametrize("name", ["a.mkv", "a.avi", "a.mp4"])
def test_what_browsers_cannot_play_becomes_a_clip(tmp_path, name):
    path = write_video(tmp_path / name, codec="mpeg4", frames=60, size=(960, 540))
    page = players_html([path])
    (clip,) = videos_in(page)
    frames = frames_of(clip)
    assert len(frames) == 40  # four seconds
    assert (frames[0].width, frames[0].height) == (480, 270)
    assert frames[-1].time == pytest.approx(3.9, abs=0.01)
    assert "the first 4 seconds, made smaller" in page


def test_a_turned_video_stands_upright_in_its_clip(tmp_path):
    path = make(tmp_path / "a.mp4", Spec(size=(320, 180), rotation=90))
    frame = frames_of(clip_of(path))[0]
    assert (frame.width, frame.height) == (180, 320)


def test_the_room_is_shared(tmp_path):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 255, (15, 270, 480, 3), np.uint8)
    noise = write_video(tmp_path / "noise.mp4", size=(480, 270), images=images)
    small = write_video(tmp_path / "small.mp4")
    page = players_html([noise, small])
    clip, whole = videos_in(page)
    assert noise.stat().st_size > ROOM // 2 >= len(clip)
    assert whole == small.read_bytes()
    page = players_html([noise, small], room=2 * small.stat().st_size)
    assert videos_in(page) == [whole]
    assert "Not shown here: noise.mp4" in page


def test_no_more_than_a_few_players(tmp_path):
    page = players_html([write_video(tmp_path / f"{number}.mp4") for number in range(MOST + 2)])
    assert len(videos_in(page)) == MOST
    assert "Not shown here: 6.mp4, 7.mp4" in page


def test_images_are_left_to_the_gallery_and_damage_is_named(tmp_path):
    assert players_html([tmp_path / "a.png", tmp_path / "b.gif"]) == ""
    bad = tmp_path / "bad<1>.mp4"
    bad.write_text("no video")
    page = players_html([bad])
    assert "Not shown here: bad&lt;1&gt;.mp4 (" in page
    assert "<video" not in page
