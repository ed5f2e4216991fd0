from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from colab_helpers.api import swap_image, swap_video
from colab_helpers.batch import drive, task_runner
from colab_helpers.batch.report import KEPT, FileReport
from colab_helpers.errors import (
    ConsentError,
    MediaError,
    MissingFileError,
    ModelError,
    OutputError,
    UsageError,
)
from colab_helpers.media.images import to_data_url
from colab_helpers.media.probe import probe
from colab_helpers.resources.guard import MemoryGuard
from colab_helpers.trust.consent import DEMO_CONSENT
from colab_helpers.trust.marking import COMPOSITE_SOURCE_TYPE, NETWORKS
from tests.helpers.marks import actions, read_mark
from tests.helpers.networks import enlarger, with_enlarger
from tests.helpers.processes import CPU, SECONDS, leftover_files, stop_at
from tests.media.make import Sound, Spec, decoded, make


@pytest.fixture
def swap(photo: Path, constant_models: Path, consent: str) -> Callable[..., FileReport]:
    return partial(swap_video, photo, consent=consent, models_dir=constant_models, settings=CPU)


def test_report_has_the_documented_fields(batch, tmp_path) -> None:
    target = make(tmp_path / "a.mp4", Spec(frames=25, sounds=(Sound(),)))
    batch(target)
    data = json.loads((tmp_path / "out" / "report.json").read_text())
    assert data["schema"] == 1
    assert data["consent"]
    assert data["machine"]["cpus"] > 0
    file = data["files"][0]
    assert (file["frames_in"], file["frames_out"], file["faces_swapped"]) == (25, 25, 25)
    assert (file["encoder"], file["provider"], file["error"]) == ("libx264", "cpu", None)
    assert file["bytes_out"] == (tmp_path / "out" / "a.mp4").stat().st_size == data["summary"]["bytes"]
    assert file["video_seconds"] == pytest.approx(1.0)
    assert file["audio_seconds"] == pytest.approx(1.0, abs=0.1)
    assert file["memory_before"] > 10**7
    assert all(model["standin"] for model in data["models"])
    assert data["settings"]["output_video_quality"] == 25
    assert data["settings"]["batch_size"] != "auto"


def test_excluded_files_of_a_folder_are_noted(batch, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # not installed
    folder = tmp_path / "in"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), np.full((300, 400, 3), 90, np.uint8))
    for name in ("b.heic", "c.HEIC", "notes.txt", ".hidden.txt", "README"):
        (folder / name).write_bytes(b"x")
    report = batch(folder)
    assert report.summary.total == 1
    assert (
        f"4 file(s) in {folder} were left out because of their kind: 2 .heic, 1 .txt, 1 no suffix"
        in report.notes
    )
    assert "to include .heic files, run: pip install pillow-heif" in report.notes
    # A file options by itself does not include its folder.
    assert not any("left out" in note for note in batch(folder / "a.png").notes)
    for lonely in folder.glob("a.*"):
        lonely.unlink()
    with pytest.raises(MissingFileError, match=r"2 \.heic.*pip install pillow-heif"):
        batch(folder)


@pytest.mark.parametrize(
    ("name", "brand", "kind"),
    [("x.heic", b"heic", "a HEIC"), ("x.mp4", b"heic", "a HEIC"), ("y.mp4", b"avif", "an AVIF")],
)
def test_unreadable_picture_format_is_named(swap, tmp_path, monkeypatch, name, brand, kind) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # not installed
    monkeypatch.setattr("colab_helpers.media.images.readable_formats", lambda: ("JPEG", "PNG"))
    (tmp_path / name).write_bytes(b"\0\0\0\x1cftyp" + brand + b"\0\0\0\0mif1" + brand + bytes(80))
    with pytest.raises(MediaError, match=f"it is {kind} picture") as caught:
        swap(tmp_path / name, tmp_path / "out" / name)
    assert ("pip install pillow-heif" in str(caught.value)) == (brand == b"heic")
    assert "moov" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        *(({"consent": text}, ConsentError, "written consent") for text in ("", "   ", "ok", "I agree")),
        ({"consent": DEMO_CONSENT}, ConsentError, "rendered people only"),
        ({"models_dir": Path("/nowhere")}, ModelError, "missing"),
        ({"sources": ["/nowhere/nobody.png"]}, MissingFileError, "nobody"),
        ({"sources": []}, UsageError, "sources is empty"),
        ({"out": Path(__file__)}, UsageError, "this is the name of a file"),
    ],
)
def test_invalid_request_is_refused_before_any_work(batch, tmp_path, options, error, message) -> None:
    with pytest.raises(error, match=message):
        batch(make(tmp_path / "a.mp4", Spec(frames=5)), **options)
    assert not (tmp_path / "out" / "a.mp4").exists()


def test_source_without_a_face_is_refused_before_any_work(batch, tmp_path, standins) -> None:
    blank = tmp_path / "blank.png"
    cv2.imwrite(str(blank), np.full((200, 200, 3), 128, np.uint8))
    with pytest.raises(ValueError, match=r"blank\.png.*no face"):
        batch(make(tmp_path / "a.mp4", Spec(frames=5)), sources=[blank], models_dir=standins)


def test_insufficient_disk_space_is_refused_with_figures(batch, tmp_path, monkeypatch) -> None:
    target = make(tmp_path / "a.mp4", Spec(frames=5))
    size = target.stat().st_size
    monkeypatch.setattr(drive, "disk_free", lambda _: 3 * size - 1)
    assert "3 times the target's size" in (batch(target).files[0].error or "")
    monkeypatch.setattr(drive, "disk_free", lambda _: 3 * size)
    assert "4 times the target's size" in (batch(target, work_dir=tmp_path / "work").files[0].error or "")
    assert batch(target).ok


def test_finished_segments_need_no_more_disk_space(batch, tmp_path, monkeypatch) -> None:
    target = make(tmp_path / "a.mp4", Spec(frames=30, rate=Fraction(10)))
    assert batch(target, settings=SECONDS, on_progress=stop_at(25)).stopped
    monkeypatch.setattr(drive, "disk_free", lambda _: 3 * target.stat().st_size - 1)
    assert batch(target, settings=SECONDS).ok


def test_mirrored_segments_survive_a_lost_disk_and_a_failed_start(batch, tmp_path, monkeypatch) -> None:
    target = make(tmp_path / "a.mp4", Spec(frames=30, rate=Fraction(10)))
    options = {"settings": SECONDS, "work_dir": tmp_path / "work"}
    assert batch(target, on_progress=stop_at(25), **options).stopped
    shutil.rmtree(tmp_path / "work")
    with monkeypatch.context() as patch:
        patch.setattr(drive, "disk_free", lambda _: 0)
        assert "are free, but" in (batch(target, **options).files[0].error or "")
    (file,) = batch(target, **options).files
    assert (file.status, file.segments_kept > 1, file.segments) == ("done", True, 3)


def test_enlarged_results_have_disk_check_mark_and_key(batch, tmp_path, constant_models, monkeypatch) -> None:
    models = with_enlarger(constant_models, tmp_path / "models")
    settings = CPU.with_overrides(frame_processors="face_swapper,frame_enhancer")
    target = make(tmp_path / "a.mp4", Spec(frames=5))
    again = partial(batch, target, models_dir=models)
    with monkeypatch.context() as patch:
        patch.setattr(drive, "disk_free", lambda _: 12 * target.stat().st_size - 1)
        assert "12 times the target's size" in (again(settings=settings).files[0].error or "")
    with monkeypatch.context() as patch:
        callers = []
        patch.setattr(
            task_runner.WorkerContext, "heartbeat", lambda _: callers.append(sys._getframe(1).f_code.co_name)
        )
        (file,) = again(settings=settings).files
    assert callers.count("_in_tiles") == 5, "each tile needs a heartbeat, as frames may take minutes"
    assert (probe(file.output).width, probe(file.output).height) == (192, 128)
    assert sum("enlarged 2 times by RealESRGAN_x2plus, to 192x128" in note for note in file.fallbacks) == 1
    *_, resized = actions(read_mark(Path(file.output))[1])
    assert (resized["action"], resized["digitalSourceType"]) == ("c2pa.resized", COMPOSITE_SOURCE_TYPE)
    assert resized["parameters"][NETWORKS] == ["RealESRGAN_x2plus"]
    assert KEPT in again(settings=settings).files[0].fallbacks
    (file,) = again(settings=settings.with_overrides(frame_enhancer_blend=20)).files
    assert KEPT not in file.fallbacks
    (models / "RealESRGAN_x2plus.onnx").write_bytes(enlarger(4, reach=1).SerializeToString())
    (file,) = again(settings=settings.with_overrides(frame_enhancer_blend=20)).files
    assert (KEPT in file.fallbacks, probe(file.output).width) == (False, 384)


def test_memory_warnings_are_counted(batch, tmp_path, monkeypatch) -> None:
    targets = [make(tmp_path / f"{name}.mp4", Spec(frames=3)) for name in "ab"]
    clock = count().__next__
    short = MemoryGuard(read=lambda: 90.0, sleep=lambda _: None, clock=clock)
    monkeypatch.setattr(
        task_runner, "MemoryGuard", lambda on_warning, **_: replace(short, on_warning=on_warning)
    )
    report = batch(*targets)
    assert report.summary.memory_warnings == 2
    assert "RAM in use was 90 %" in report.files[0].fallbacks[-1]
    assert "and 90 % after" in report.files[0].fallbacks[-1]
    assert "RAM is short: max_memory lowered" in report.files[1].fallbacks[0]
    assert report.files[1].frames_out == 3


@pytest.mark.usefixtures("pages")
def test_stop_keeps_finished_files_and_marks_the_rest_skipped(batch, tmp_path) -> None:
    targets = [make(tmp_path / f"{name}.mp4", Spec(frames=30)) for name in "abc"]
    report = batch(*targets, on_progress=stop_at(0, file=1))
    assert [file.status for file in report.files] == ["done", "skipped", "skipped"]
    assert report.stopped
    assert report.notes[-1] == "report.html was not written: stopped by the user"
    assert leftover_files(tmp_path / "out", "a.mp4") == set()
    assert not (tmp_path / "out" / "report.html").exists()


@pytest.mark.usefixtures("pages")
def test_unwritable_page_affects_nothing_else(batch, tmp_path) -> None:
    (tmp_path / "out" / "report.html").mkdir(parents=True)
    report = batch(make(tmp_path / "a.mp4", Spec(frames=5)))
    assert report.ok
    assert report.notes[-1].startswith("report.html was not written: exited with code 1: error: ")
    assert json.loads((tmp_path / "out" / "report.json").read_text())["notes"] == report.notes


def test_frames_of_a_failed_file_are_removed(batch, tmp_path, monkeypatch) -> None:
    target = make(tmp_path / "a.mp4", Spec(frames=30))

    def fail(_: Any) -> None:
        raise RuntimeError("no more")

    settings = CPU.with_overrides(keep_frames=True)
    report = batch(target, settings=settings, on_progress=fail)
    assert "no more" in (report.files[0].error or "")
    assert leftover_files(tmp_path / "out") == set()
    assert batch(target, settings=settings).ok
    assert len(list((tmp_path / "out" / "a.mp4_frames").iterdir())) == 30


def test_swap_video_returns_its_report_and_raises_its_error(swap, tmp_path) -> None:
    target = make(tmp_path / "a.mp4", Spec(frames=5))
    assert swap(target, tmp_path / "deep" / "b.mkv").frames_out == 5
    assert len(decoded(tmp_path / "deep" / "b.mkv")[0]) == 5
    with pytest.raises(MissingFileError):
        swap(tmp_path / "none.mp4", tmp_path / "c.mp4")
    with pytest.raises(OutputError, match="webm"):
        swap(target, tmp_path / "c.webm")


@pytest.mark.parametrize("name", ["dir/../a.mp4", "linked/a.mp4", "photo.png", "hard.mp4", "./a.mp4"])
def test_swap_never_replaces_its_inputs(swap, name, photo, tmp_path) -> None:
    target = make(tmp_path / "a.mp4", Spec(frames=5))
    (tmp_path / "dir").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path)
    (tmp_path / "hard.mp4").hardlink_to(target)
    before = target.read_bytes(), photo.read_bytes()
    with pytest.raises(UsageError, match=r"an input of the run.*What to do"):
        swap(target, f"{tmp_path}/{name}", settings=CPU.with_overrides(overwrite=True))
    assert (target.read_bytes(), photo.read_bytes()) == before


@pytest.mark.parametrize("name", ["b.mp4", "b.png"])
def test_swap_replaces_existing_files_only_with_overwrite(swap, name, photo, tmp_path) -> None:
    target = make(tmp_path / "a.mp4", Spec(frames=5))
    if name == "b.png":
        target = photo.with_name("another.png")
        target.write_bytes(photo.read_bytes())
    (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match="set overwrite"):
        swap(target, tmp_path / name)
    assert (tmp_path / name).read_text() == "mine"
    swap(target, tmp_path / name, settings=CPU.with_overrides(overwrite=True))
    assert (tmp_path / name).stat().st_size > 4


def test_swap_image_takes_paths_bytes_arrays_and_data_urls(photo, tmp_path, constant_models, consent) -> None:
    image = cv2.GaussianBlur(np.random.default_rng(2).integers(0, 256, (120, 160, 3), np.uint8), (0, 0), 5)
    path = tmp_path / "target.png"
    cv2.imwrite(str(path), image)
    original = image.copy()
    results = [
        swap_image(photo, target, consent=consent, settings=CPU, models_dir=constant_models)
        for target in (path, str(path), path.read_bytes(), image, to_data_url(np.asarray(image, np.uint8)))
    ]
    np.testing.assert_array_equal(image, original)
    for result in results:
        assert result.shape == image.shape
        np.testing.assert_array_equal(result, results[0])
