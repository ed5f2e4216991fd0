"""Pictures and players of results, from generated media."""

from __future__ import annotations

import base64
import io
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from colab_helpers.batch.report import Quality
from colab_helpers.errors import MediaError
from colab_helpers.media.images import read_image
from colab_helpers.pages.pictures import (
    MAX_PLAYER_BYTES,
    MAX_PLAYERS,
    frame_at,
    pair_of,
    pictures_of,
    players_of,
)
from tests.helpers.reports import a_file
from tests.media.make import Spec, make

FRAMES, FPS, SIZE = 36, 20, (96, 64)


def grey_ramp(path: Path, *, marked: range = range(0)) -> Path:
    """Write a video whose frame i is grey 6·i + 20; marked frames have a white square."""
    images = np.stack([np.full((SIZE[1], SIZE[0], 3), 6 * i + 20, np.uint8) for i in range(FRAMES)])
    for i in marked:
        images[i, 16:48, 32:64] = 255
    return write_video(path, images, rate=FPS)


def write_video(path: Path, images: np.ndarray, *, rate: int = 10) -> Path:
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "10", "g": "12"})
        stream.height, stream.width = images.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts, frame.time_base = number, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def number_of(image: np.ndarray) -> int:
    return round((float(image.mean()) - 20) / 6)


@pytest.mark.parametrize("index", [0, 11, 13, 30, 35])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_frame_at_timestamp(tmp_path, index, suffix) -> None:
    image = frame_at(grey_ramp(tmp_path / f"clip.{suffix}"), index / FPS)
    assert image.shape == (64, 96, 3)
    assert number_of(image) == index


@pytest.mark.parametrize(
    ("quality", "number"),
    [
        (None, 27),  # the sampled frame that changed most
        (Quality(missed_spans=[(0, 25), (30, 36)]), 25),  # the only span with a face has no key frame
        (Quality(missed_spans=[(0, 20)]), 24),  # the key frame before the middle of the span
        (Quality(missed_spans=[(0, 36)]), 27),  # no face at all
    ],
)
def test_before_and_after_show_a_changed_frame(tmp_path, quality, number) -> None:
    target = grey_ramp(tmp_path / "clip.mp4")
    output = grey_ramp(tmp_path / "out.mp4", marked=range(25, 30))
    before, after = pair_of(a_file(target, output, frames_out=FRAMES, quality=quality))
    found = number_of(before)
    assert found == number if number != 25 else 25 <= found < 30
    np.testing.assert_allclose(after[:10].mean(), before[:10].mean(), atol=2)


def test_image_has_source_before_and_after_pictures(tmp_path) -> None:
    for name, grey in (("face.png", 60), ("photo.png", 10), ("result.png", 200)):
        cv2.imwrite(str(tmp_path / name), np.full((30, 40, 3), grey, np.uint8))
    file = a_file(tmp_path / "photo.png", tmp_path / "result.png", source=[str(tmp_path / "face.png")])
    shown = pictures_of(file)
    assert [picture.caption for picture in shown] == ["source", "before", "after"]
    assert [round(read_image(picture.url).mean()) for picture in shown] == [60, 10, 200]
    (tmp_path / "bad.png").write_text("no picture")
    for source, reason in (
        ("data:image/png;base64,AAAA", "given in memory"),
        (tmp_path / "bad.png", "no pict"),
    ):
        first, *others = pictures_of(file.model_copy(update={"source": [str(source)]}))
        assert reason in first.caption
        assert [bool(picture.url) for picture in (first, *others)] == [False, True, True]


def test_missing_file_or_non_video_is_an_error(tmp_path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(MediaError):
        frame_at(tmp_path / "gone.mp4", 0)
    with pytest.raises(MediaError):
        pair_of(a_file(tmp_path / "text.mp4", tmp_path / "text.mp4"))


def videos_in(paths: list[Path], **options) -> list[bytes]:
    return [base64.b64decode(player.url.split(",")[1]) for player in players_of(paths, **options)[0]]


def frames_of(content: bytes) -> list[av.VideoFrame]:
    with av.open(io.BytesIO(content)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        return list(container.decode(video=0))


@pytest.mark.parametrize(("name", "rotation", "size"), [("a.mkv", 0, (480, 270)), ("a.mp4", 90, (270, 480))])
def test_unplayable_video_becomes_upright_clip(tmp_path, name, rotation, size) -> None:
    spec = Spec(frames=60, rate=Fraction(10), size=(960, 540), codec="mpeg4", options={}, rotation=rotation)
    (player,), _ = players_of([make(tmp_path / name, spec)])
    assert "4" in player.note
    frames = frames_of(base64.b64decode(player.url.split(",")[1]))
    assert len(frames) == 40  # four seconds
    assert (frames[0].width, frames[0].height) == size
    assert frames[-1].time == pytest.approx(3.9, abs=0.01)


def test_players_share_size_limit(tmp_path) -> None:
    images = np.random.default_rng(1).integers(0, 255, (15, 270, 480, 3), np.uint8)
    noise, small = write_video(tmp_path / "noise.mp4", images), make(tmp_path / "small.mp4", Spec())
    clip, whole = videos_in([noise, small])
    assert noise.stat().st_size > MAX_PLAYER_BYTES // 2 >= len(clip)
    assert whole == small.read_bytes()
    players, left_out = players_of([noise, small], max_bytes=2 * small.stat().st_size)
    assert [player.path for player in players] == [small]
    assert left_out == ["noise.mp4"]


def test_number_of_players_is_limited_and_damage_reported(tmp_path) -> None:
    players, left_out = players_of([make(tmp_path / f"{n}.mp4", Spec()) for n in range(MAX_PLAYERS + 2)])
    assert len(players) == MAX_PLAYERS
    assert left_out == ["6.mp4", "7.mp4"]
    assert players_of([tmp_path / "a.png", tmp_path / "b.gif"]) == ([], [])
    (tmp_path / "bad.mp4").write_text("no video")
    players, (line,) = players_of([tmp_path / "bad.mp4"])
    assert players == []
    assert line.startswith("bad.mp4 (")
