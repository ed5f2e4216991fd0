"""Pictures of results, from media made here."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from colab_helpers.batch.report import BatchReport, FileReport, summarize
from colab_helpers.ui.gallery import gallery_html
from tests.batch.test_thumbnails import FRAMES, grey_ramp


def file_report(target: Path, output: Path, source: list[str], status: str = "done") -> FileReport:
    return FileReport(source=source, target=str(target), output=str(output), status=status)


def report(*files: FileReport) -> BatchReport:
    summary = summarize(list(files), seconds=1.0, memory_warnings=0)
    return BatchReport(consent="self", settings={}, machine={}, summary=summary, files=list(files))


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


def test_no_results_no_gallery():
    assert gallery_html(report()) == ""
