from __future__ import annotations

import json
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from filelock import FileLock

from colab_helpers.api import run_batch, swap_image, swap_video
from colab_helpers.batch import run_batch as batch_room
from colab_helpers.batch import run_file
from colab_helpers.batch.names import LOCK_NAME
from colab_helpers.batch.report import BatchReport
from colab_helpers.errors import (
    ConsentError,
    MediaError,
    MissingFileError,
    ModelError,
    OutputError,
    UsageError,
)
from colab_helpers.media.images import read_image, to_data_url
from colab_helpers.resources.guard import MemoryGuard
from colab_helpers.settings import load_settings
from colab_helpers.trust.consent import DEMO_CONSENT
from tests.media.make import Sound, Spec, decoded, make, make_song

SETTINGS = load_settings("balanced", output_video_encoder="libx264", execution_provider="cpu")


@pytest.fixture
def batch(photo: Path, tmp_path: Path, constant_models: Path, consent: str) -> Callable[..., BatchReport]:
    """Runs a batch of targets into ``out``."""

    def run(*targets: Path, **options: Any) -> BatchReport:
        given = {"consent": consent, "settings": SETTINGS, "models_dir": constant_models, **options}
        return run_batch([photo], targets, tmp_path / "out", in_process=True, **given)

    return run


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Every way a target can be bad, with a word its message must hold."""
    folder.mkdir()
    good = make(folder / "whole.mp4", Spec(frames=30)).read_bytes()
    (folder / "whole.mp4").unlink()
    files = {
        "missing.mp4": (None, "no such file"),
        "empty.mp4": (b"", "empty"),
        "text.mp4": (b"this is no video at all\n" * 50, "video"),
        "headless.mp4": (good[: len(good) // 2], "cut off|complete|index|truncated|incomplete"),
        "noise.mkv": (np.random.default_rng(0).bytes(5000), "video"),
        "broken.png": (b"\x89PNG\r\n\x1a\n" + b"0" * 100, "picture"),
        "empty.jpg": (b"", "empty|picture"),
    }
    for name, (content, _) in files.items():
        if content is not None:
            (folder / name).write_bytes(content)
    make_song(folder / "song.mp4")
    return {name: (folder / name, words) for name, (_, words) in files.items()} | {
        "song.mp4": (folder / "song.mp4", "sound|audio|picture|video")
    }


def test_bad_files_fail_with_their_own_message_and_the_good_ones_are_done(
    batch: Callable[..., BatchReport], tmp_path: Path
) -> None:
    bad = bad_files(tmp_path / "bad")
    first = make(tmp_path / "first.mp4", Spec(frames=5, sounds=(Sound(),)))
    last = make(tmp_path / "last.mp4", Spec(frames=7))
    report = batch(first, *(path for path, _ in bad.values()), last)
    by_name = {Path(file.target).name: file for file in report.files}
    for name, (_, words) in bad.items():
        file = by_name[name]
        assert file.status == "failed"
        assert file.error is not None
        assert any(word in file.error for word in words.split("|")), file.error
        assert name in file.error
        assert "What to do" in file.error
        assert "unexpected" not in file.error
    assert by_name["first.mp4"].status == by_name["last.mp4"].status == "done"
    assert (report.summary.succeeded, report.summary.failed) == (2, len(bad))
    assert not report.ok
    # Only the two results, journal, report and status: nothing partial is left.
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "first.mp4",
        "journal.jsonl",
        "last.mp4",
        "report.html",
        "report.json",
        "samples.jsonl",
        "status.json",
    ]


def test_the_report_holds_what_is_promised(batch: Callable[..., BatchReport], tmp_path: Path) -> None:
    target = make(tmp_path / "a.mp4", Spec(frames=25, sounds=(Sound(),)))
    batch(target)
    data = json.loads((tmp_path / "out" / "report.json").read_text())
    assert data["schema"] == 1
    assert {"settings", "machine", "summary", "files", "consent", "models"} <= data.keys()
    assert data["summary"].keys() >= {
        "total", "succeeded", "failed", "skipped", "bytes", "seconds", "memory_warnings"
    }  # fmt: skip
    file = data["files"][0]
    assert file.keys() >= {
        "source", "target", "output", "status", "frames_in", "frames_out", "faces_swapped",
        "frames_without_face", "seconds", "fps", "encoder", "provider", "fallbacks", "memory_before",
        "memory_after", "error",
    }  # fmt: skip
    assert (file["frames_in"], file["frames_out"], file["faces_swapped"]) == (25, 25, 25)
    assert (file["encoder"], file["provider"], file["error"]) == ("libx264", "cpu", None)
    assert file["bytes_out"] == (tmp_path / "out" / "a.mp4").stat().st_size == data["summary"]["bytes"]
    assert file["video_seconds"] == pytest.approx(1.0)
    assert file["audio_seconds"] == pytest.approx(1.0, abs=0.1)
    assert file["memory_before"] > 10**7
    assert all(model["standin"] for model in data["models"])
    assert data["settings"]["output_video_quality"] == 25
    assert data["settings"]["batch_size"] != "auto"


def test_images_and_odd_containers_get_a_fitting_suffix(
    batch: Callable[..., BatchReport], tmp_path: Path
) -> None:
    image = np.full((300, 400, 3), 90, np.uint8)
    for name in ("a.png", "b.jpg", "c.webp", "d.bmp"):
        cv2.imwrite(str(tmp_path / name), image)
    clip = make(tmp_path / "e.avi", Spec(frames=5))
    animation = make(tmp_path / "f.gif", Spec(frames=5, codec="gif", pix_fmt="rgb8", options={}))
    targets = [*(tmp_path / name for name in ("a.png", "b.jpg", "c.webp", "d.bmp")), clip, animation]
    report = batch(*targets)
    assert report.ok, [file.error for file in report.files]
    outputs = [Path(file.output or "").name for file in report.files]
    assert outputs[:4] == ["a.png", "b.jpg", "c.webp", "d.bmp"]
    assert outputs[4].startswith("e.avi.")
    assert outputs[5] == "f.gif"
    assert report.files[4].fallbacks
    for file in report.files[:4]:
        assert read_image(file.output or "").shape == (300, 400, 3)


def test_what_a_folder_holds_besides_is_said(
    batch: Callable[..., BatchReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    assert "to have .heic files done, too: pip install pillow-heif" in report.notes
    # Files that were named one by one have no neighbours that were meant.
    assert not any("left out" in note for note in batch(folder / "a.png").notes)
    for lonely in folder.glob("a.*"):
        lonely.unlink()
    with pytest.raises(MissingFileError, match=r"2 \.heic.*pip install pillow-heif"):
        batch(folder)


def test_a_picture_that_nothing_here_reads_is_named(
    tmp_path: Path, photo: Path, constant_models: Path, consent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # not installed
    monkeypatch.setattr("colab_helpers.media.images.readable_formats", lambda: ("JPEG", "PNG"))
    for name, kind in (("x.heic", "a HEIC"), ("x.mp4", "a HEIC"), ("y.mp4", "an AVIF")):
        brand = b"heic" if kind == "a HEIC" else b"avif"
        (tmp_path / name).write_bytes(b"\0\0\0\x1cftyp" + brand + b"\0\0\0\0mif1" + brand + bytes(80))
        with pytest.raises(MediaError, match=f"it is {kind} picture") as caught:
            swap_video(
                photo, tmp_path / name, tmp_path / "out" / name,
                consent=consent, settings=SETTINGS, models_dir=constant_models,
            )  # fmt: skip
        assert ("pip install pillow-heif" in str(caught.value)) == (kind == "a HEIC")
        assert "moov" not in str(caught.value)


def test_a_source_without_a_face_stops_before_any_work(tmp_path: Path, standins: Path, consent: str) -> None:
    blank = tmp_path / "blank.png"
    cv2.imwrite(str(blank), np.full((200, 200, 3), 128, np.uint8))
    target = make(tmp_path / "a.mp4", Spec(frames=5))
    with pytest.raises(ValueError, match=r"blank\.png.*no face"):
        run_batch(
            [blank], [target], tmp_path / "out", consent=consent, settings=SETTINGS, models_dir=standins
        )


@pytest.mark.parametrize("statement", ["", "   ", "ok", "I agree"])
def test_without_a_statement_of_consent_nothing_is_touched(
    statement: str, batch: Callable[..., BatchReport], tmp_path: Path
) -> None:
    target = make(tmp_path / "a.mp4", Spec(frames=5))
    with pytest.raises(ConsentError, match="written consent"):
        batch(target, consent=statement)
    assert not (tmp_path / "out" / "a.mp4").exists()


def test_the_demos_statement_covers_the_demo_only(batch: Callable[..., BatchReport], tmp_path: Path) -> None:
    target = make(tmp_path / "a.mp4", Spec(frames=5))
    with pytest.raises(ConsentError, match="rendered people only"):
        batch(target, consent=DEMO_CONSENT)


def test_missing_models_are_told_before_any_work(batch: Callable[..., BatchReport], tmp_path: Path) -> None:
    target = make(tmp_path / "a.mp4", Spec(frames=5))
    with pytest.raises(ModelError, match="missing"):
        batch(target, models_dir=tmp_path / "nowhere")


def test_a_missing_source_is_told_before_any_work(
    tmp_path: Path, constant_models: Path, consent: str
) -> None:
    target = make(tmp_path / "a.mp4", Spec(frames=5))
    for sources, error in (([tmp_path / "nobody.png"], MissingFileError), ([], UsageError)):
        with pytest.raises(error):
            run_batch(
                sources,
                [target],
                tmp_path / "out",
                consent=consent,
                settings=SETTINGS,
                models_dir=constant_models,
            )


def test_one_batch_per_folder(batch: Callable[..., BatchReport], tmp_path: Path) -> None:
    target = make(tmp_path / "a.mp4", Spec(frames=5))
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / LOCK_NAME), pytest.raises(UsageError, match="another run"):
        batch(target)
    assert batch(target).ok


def test_too_little_disk_is_said_with_figures(
    batch: Callable[..., BatchReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = make(tmp_path / "a.mp4", Spec(frames=5))
    monkeypatch.setattr(run_file, "disk_free", lambda _: target.stat().st_size)
    report = batch(target)
    assert "twice the target's size" in (report.files[0].error or "")


def test_memory_warnings_are_counted(
    batch: Callable[..., BatchReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = [make(tmp_path / f"{name}.mp4", Spec(frames=3)) for name in "ab"]
    clock = count().__next__
    short = MemoryGuard(read=lambda: 90.0, sleep=lambda _: None, clock=clock)
    monkeypatch.setattr(batch_room, "MemoryGuard", lambda **_: short)
    report = batch(*targets)
    assert report.summary.memory_warnings == 2
    assert "RAM in use was 90 %" in report.files[0].fallbacks[-1]
    assert "waiting 90 %" in report.files[0].fallbacks[-1]
    assert "RAM is short: max_memory lowered" in report.files[1].fallbacks[0]
    assert report.files[1].frames_out == 3


def test_stopping_keeps_what_is_done_and_marks_the_rest(
    batch: Callable[..., BatchReport], tmp_path: Path
) -> None:
    targets = [make(tmp_path / f"{name}.mp4", Spec(frames=30)) for name in "abc"]

    def stop(progress: Any) -> None:
        if progress.file_index == 1:
            raise KeyboardInterrupt

    report = batch(*targets, on_progress=stop)
    assert [file.status for file in report.files] == ["done", "skipped", "skipped"]
    assert report.stopped
    assert report.notes[-1] == "report.html was not made: stopped by the user"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a.mp4",
        "journal.jsonl",
        "report.json",
        "samples.jsonl",
        "status.json",
    ]


def test_an_unwritable_output_folder_is_told(batch: Callable[..., BatchReport], tmp_path: Path) -> None:
    target = make(tmp_path / "a.mp4", Spec(frames=5))
    (tmp_path / "out").write_text("a file where the folder should be")
    with pytest.raises(UsageError, match="this is the name of a file"):
        batch(target)


def test_a_page_that_cannot_be_written_costs_nothing_else(
    batch: Callable[..., BatchReport], tmp_path: Path
) -> None:
    (tmp_path / "out" / "report.html").mkdir(parents=True)
    report = batch(make(tmp_path / "a.mp4", Spec(frames=5)))
    assert report.ok
    assert report.notes[-1].startswith("report.html was not made: ended with exit code 1: error: ")
    assert json.loads((tmp_path / "out" / "report.json").read_text())["notes"] == report.notes


def test_kept_frames_of_a_failed_file_are_removed(
    batch: Callable[..., BatchReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = make(tmp_path / "a.mp4", Spec(frames=30))

    def fail(_: Any) -> None:
        raise RuntimeError("no more")

    settings = SETTINGS.with_overrides(keep_frames=True)
    report = batch(target, settings=settings, on_progress=fail)
    assert "no more" in (report.files[0].error or "")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "journal.jsonl",
        "report.html",
        "report.json",
        "samples.jsonl",
        "status.json",
    }
    assert batch(target, settings=settings).ok
    assert len(list((tmp_path / "out" / "a.mp4_frames").iterdir())) == 30


def test_swap_video_returns_its_report_and_raises_its_error(
    photo: Path, tmp_path: Path, constant_models: Path, consent: str
) -> None:
    target = make(tmp_path / "a.mp4", Spec(frames=5))
    options: dict[str, Any] = {"consent": consent, "settings": SETTINGS, "models_dir": constant_models}
    report = swap_video(photo, target, tmp_path / "deep" / "b.mkv", **options)
    assert report.frames_out == 5
    assert len(decoded(tmp_path / "deep" / "b.mkv")[0]) == 5
    with pytest.raises(MissingFileError):
        swap_video(photo, tmp_path / "none.mp4", tmp_path / "c.mp4", **options)
    with pytest.raises(OutputError, match="webm"):
        swap_video(photo, target, tmp_path / "c.webm", **options)


@pytest.mark.parametrize("name", ["dir/../a.mp4", "linked/a.mp4", "photo.png", "hard.mp4", "./a.mp4"])
def test_swap_never_replaces_what_it_reads(
    name: str, photo: Path, tmp_path: Path, constant_models: Path, consent: str
) -> None:
    target = make(tmp_path / "a.mp4", Spec(frames=5))
    (tmp_path / "dir").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path)
    (tmp_path / "hard.mp4").hardlink_to(target)
    before = target.read_bytes(), photo.read_bytes()
    with pytest.raises(UsageError, match=r"read by the run.*What to do"):
        swap_video(
            photo, target, f"{tmp_path}/{name}", consent=consent, models_dir=constant_models,
            settings=SETTINGS.with_overrides(overwrite=True),
        )  # fmt: skip
    assert (target.read_bytes(), photo.read_bytes()) == before


@pytest.mark.parametrize("name", ["b.mp4", "b.png"])
def test_swap_replaces_what_is_there_only_if_asked_to(
    name: str, photo: Path, tmp_path: Path, constant_models: Path, consent: str
) -> None:
    target = photo if name == "b.png" else make(tmp_path / "a.mp4", Spec(frames=5))
    options: dict[str, Any] = {"consent": consent, "models_dir": constant_models}
    source = tmp_path / "me.png"
    source.write_bytes(photo.read_bytes())
    (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match="set overwrite"):
        swap_video(source, target, tmp_path / name, settings=SETTINGS, **options)
    assert (tmp_path / name).read_text() == "mine"
    swap_video(source, target, tmp_path / name, settings=SETTINGS.with_overrides(overwrite=True), **options)
    assert (tmp_path / name).stat().st_size > 4


def test_swap_image_takes_paths_bytes_arrays_and_data_urls(
    photo: Path, tmp_path: Path, constant_models: Path, consent: str
) -> None:
    image = cv2.GaussianBlur(np.random.default_rng(2).integers(0, 256, (120, 160, 3), np.uint8), (0, 0), 5)
    path = tmp_path / "target.png"
    cv2.imwrite(str(path), image)
    original = image.copy()
    results = [
        swap_image(photo, target, consent=consent, settings=SETTINGS, models_dir=constant_models)
        for target in (path, str(path), path.read_bytes(), image, to_data_url(np.asarray(image, np.uint8)))
    ]
    np.testing.assert_array_equal(image, original)
    for result in results:
        assert result.shape == image.shape
        np.testing.assert_array_equal(result, results[0])


def test_a_changed_suffix_does_not_make_two_results_one(
    batch: Callable[..., BatchReport], tmp_path: Path
) -> None:
    first = make(tmp_path / "x.avi", Spec(frames=5, codec="mpeg4", options={}))
    second = make(tmp_path / "x.avi.mp4", Spec(frames=7))
    report = batch(first, second)
    assert [Path(file.output or "").name for file in report.files] == ["x.avi.mp4", "x.avi (2).mp4"]
    assert "this one is called x.avi (2).mp4" in report.files[1].fallbacks[0]
    assert [len(decoded(Path(file.output or ""))[1]) for file in report.files] == [5, 7]
