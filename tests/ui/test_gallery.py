"""Pictures of results, from media made here."""

from __future__ import annotations

import base64
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from colab_helpers.batch.report import BatchReport, FileReport, summarize
from colab_helpers.errors import MediaError
from colab_helpers.ui.gallery import HEIGHT, data_url, frame_at, gallery_html, telling_pair

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


def file_report(target: Path, output: Path, source: list[str], status: str = "done") -> FileReport:
    return FileReport(source=source, target=str(target), output=str(output), status=status)


def report(*files: FileReport) -> BatchReport:
    summary = summarize(list(files), seconds=1.0, memory_warnings=0)
    return BatchReport(consent="self", settings={}, machine={}, summary=summary, files=list(files))


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


def test_each_finished_file_has_a_row(tmp_path):
    face = tmp_path / "face.png"
    cv2.imwrite(str(face), np.zeros((50, 40, 3), np.uint8))
    clip = grey_ramp(tmp_path / "a<b>.mp4")
    out = grey_ramp(tmp_path / "out.mp4", marked=range(FRAMES))
    failed = file_report(tmp_path / "bad.mp4", tmp_path / "none.mp4", [str(face)], status="failed")
    page = gallery_html(report(file_report(clip, out, [str(face)]), failed))
    assert page.count("<img ") == 3
    assert "a&lt;b&gt;.mp4" in page
    assert "bad.mp4" not in page


def test_images_are_shown_too(tmp_path):
    before, after = tmp_path / "photo.png", tmp_path / "result.png"
    for path, grey in ((before, 10), (after, 200)):
        cv2.imwrite(str(path), np.full((30, 40, 3), grey, np.uint8))
    page = gallery_html(report(file_report(before, after, ["data:image/png;base64,AAAA"])))
    assert page.count("<img ") == 2
    assert "given in memory" in page


def test_a_long_list_is_cut(tmp_path):
    clip = grey_ramp(tmp_path / "clip.mp4")
    page = gallery_html(report(*[file_report(clip, clip, [])] * 3), rows=2)
    assert page.count("<img ") == 4
    assert "and 1 more" in page


def test_what_cannot_be_read_is_said(tmp_path):
    clip = grey_ramp(tmp_path / "clip.mp4")
    page = gallery_html(report(file_report(clip, tmp_path / "gone.mp4", [])))
    assert "no picture" in page
    with pytest.raises(MediaError):
        frame_at(tmp_path / "gone.mp4", 0)


def test_no_results_no_gallery():
    assert gallery_html(report()) == ""
