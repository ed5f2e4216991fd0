"""A second run into the same folder: what still stands is kept, everything else is done again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from colab_helpers.api import run_batch
from colab_helpers.batch.journal import Journal, SegmentDone
from colab_helpers.batch.names import JOURNAL_NAME
from colab_helpers.batch.report import BatchReport
from colab_helpers.batch.results import KEPT
from colab_helpers.errors import OutputError
from colab_helpers.settings import load_settings
from tests.media.make import Spec, make

SETTINGS = load_settings("balanced", output_video_encoder="libx264", execution_provider="cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two clips and a picture."""
    folder = tmp_path / "in"
    folder.mkdir()
    for k, name in enumerate("ab"):
        make(folder / f"{name}.mp4", Spec(frames=8 + k))
    cv2.imwrite(str(folder / "c.png"), np.full((300, 300, 3), 90, np.uint8))
    return folder


@pytest.fixture
def batch(
    photo: Path, folder: Path, tmp_path: Path, constant_models: Path, consent: str
) -> Callable[..., Any]:
    def run(**options: Any) -> BatchReport:
        given: dict[str, Any] = {
            "consent": consent, "settings": SETTINGS, "models_dir": constant_models, "in_process": True
        }  # fmt: skip
        out = options.pop("out", tmp_path / "out")
        return run_batch(options.pop("sources", [photo]), [folder], out, **(given | options))

    return run


def kept(report: BatchReport) -> list[str]:
    return [Path(file.target).stem for file in report.files if KEPT in file.fallbacks]


def test_nothing_is_done_twice(batch, tmp_path: Path) -> None:
    first = batch()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("?.*")}
    second, third = batch(), batch()
    assert kept(first) == []
    assert kept(second) == kept(third) == ["a", "b", "c"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("?.*")} == times
    assert third.ok
    assert third.summary.bytes == first.summary.bytes
    assert [file.faces_swapped for file in third.files] == [file.faces_swapped for file in first.files]
    assert third.files[0].fallbacks.count(KEPT) == 1


def test_what_changed_is_done_again(batch, folder: Path, tmp_path: Path) -> None:
    batch()
    other = tmp_path / "other.png"
    cv2.imwrite(str(other), np.full((256, 256, 3), 60, np.uint8))
    assert kept(batch(settings=SETTINGS.with_overrides(output_video_quality=30))) == []
    assert kept(batch(sources=[other])) == []
    assert kept(batch(sources=[other])) == ["a", "b", "c"]
    make(folder / "a.mp4", Spec(frames=11))
    assert kept(batch(sources=[other])) == ["b", "c"]


def test_less_memory_is_no_reason_to_do_it_again(batch) -> None:
    batch()
    assert kept(batch(settings=SETTINGS.with_overrides(batch_size=1, max_memory=1.0))) == ["a", "b", "c"]


def test_a_result_that_is_gone_or_damaged_is_made_again(batch, tmp_path: Path) -> None:
    batch()
    whole = (tmp_path / "out" / "b.mp4").read_bytes()
    (tmp_path / "out" / "a.mp4").unlink()
    (tmp_path / "out" / "b.mp4").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert kept(batch()) == ["c"]
    assert (tmp_path / "out" / "b.mp4").read_bytes() == whole
    assert (tmp_path / "out" / "a.mp4").is_file()


def test_a_stopped_batch_goes_on_where_it_stopped(batch) -> None:
    def stop(progress: Any) -> None:
        if progress.file_index == 1:
            raise KeyboardInterrupt

    assert [file.status for file in batch(on_progress=stop).files] == ["done", "skipped", "skipped"]
    report = batch()
    assert report.ok
    assert kept(report) == ["a"]


def test_the_folder_may_move(batch, tmp_path: Path) -> None:
    batch()
    shutil.move(tmp_path / "out", tmp_path / "elsewhere")
    report = batch(out=tmp_path / "elsewhere")
    assert kept(report) == ["a", "b", "c"]
    assert Path(report.files[0].output) == tmp_path / "elsewhere" / "a.mp4"


def test_kept_frames_that_are_gone_are_made_again(batch, tmp_path: Path) -> None:
    settings = SETTINGS.with_overrides(keep_frames=True)
    batch(settings=settings)
    shutil.rmtree(tmp_path / "out" / "a_frames")
    report = batch(settings=settings)
    assert kept(report) == ["b", "c"]
    assert len(list((tmp_path / "out" / "a_frames").iterdir())) == 8


def test_a_damaged_journal_is_told_and_costs_only_its_lines(batch, tmp_path: Path) -> None:
    batch()
    path = tmp_path / "out" / JOURNAL_NAME
    lines = path.read_bytes().splitlines(keepends=True)
    second = [line for line in lines if b'"event":"done"' in line][1]
    path.write_bytes(b"".join(lines).replace(second, second[:40] + b"\n") + b"torn")
    report = batch()
    assert kept(report) == ["a", "c"]
    assert "2 damaged line(s) of the journal were ignored" in report.notes


def test_a_result_stands_even_if_it_cannot_be_noted(batch, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = Journal.append

    def full(self: Journal, entry: Any) -> None:
        if not isinstance(entry, SegmentDone):
            raise OutputError("the journal cannot be written to (No space left on device)")
        genuine(self, entry)

    monkeypatch.setattr(Journal, "append", full)
    report = batch(settings=SETTINGS.with_overrides(output_wait=0.0))
    assert report.ok
    assert "would go unnoticed" in report.files[0].fallbacks[0]
    assert all("a later run will do this file again" in file.fallbacks[-1] for file in report.files)
