"""Pictures of results, from media made here."""

from __future__ import annotations

import base64
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from colab_helpers.batch.thumbnails import HEIGHT, data_url, frame_at, telling_pair
from colab_helpers.errors import MediaError

FRAMES, FPS, SIZE = 36, 20, (96, 64)


def grey_ramp(path: Path, *, marked: range = range(0)) -> Path:
    """Frame i is grey 6·i + 20; marked frames carry a white square."""
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "10", "g": "12"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for i in range(FRAMES):
            image = np.full((SIZE[1], SIZE[0], 3), 6 * i + 20, np.uint8)
            if i in marked:
                image[16:48, 32:64] = 255
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def number_of(image: np.ndarray) -> int:
    return round((float(image.mean()) - 20) / 6)


@pytest.mark.parametrize("index", [0, 11, 13, 30, 35])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_frame_is_found_by_its_time(tmp_path, index, suffix):
    clip = grey_ramp(tmp_path / f"clip.{suffix}")
    image = frame_at(clip, index / FPS)
    assert image.shape == (64, 96, 3)
    assert number_of(image) == index


def test_beyond_the_end_is_the_last_frame(tmp_path):
    assert number_of(frame_at(grey_ramp(tmp_path / "clip.mp4"), 60)) == FRAMES - 1


def test_the_telling_moment_is_where_most_changed(tmp_path):
    target = grey_ramp(tmp_path / "clip.mp4")
    output = grey_ramp(tmp_path / "out.mp4", marked=range(25, 30))  # around three quarters
    pair = telling_pair(target, output)
    assert number_of(pair.before) == 27
    assert pair.after[32, 48].min() > 240
    assert pair.change > 5


def test_a_picture_is_small_and_in_the_page():
    url = data_url(np.full((1000, 3000, 3), (10, 200, 30), np.uint8))
    head, data = url.split(",")
    assert head == "data:image/jpeg;base64"
    image = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (HEIGHT, 3 * HEIGHT, 3)
    assert np.abs(image.astype(int) - (10, 200, 30)).max() < 6


def test_what_is_gone_or_no_video_is_an_error(tmp_path):
    with pytest.raises(MediaError):
        frame_at(tmp_path / "gone.mp4", 0)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(MediaError):
        telling_pair(tmp_path / "text.mp4", tmp_path / "text.mp4")
