"""A second run into the same folder keeps what is still valid and redoes the rest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from colab_helpers.batch import resume
from colab_helpers.batch.context import WorkerContext
from colab_helpers.batch.drive import FACES_NAME
from colab_helpers.batch.face_indexes import ABOUT_NAME
from colab_helpers.batch.journal import Journal, OutputsClaimed, SegmentDone
from colab_helpers.batch.keys import index_key
from colab_helpers.batch.report import JOURNAL_NAME, KEPT, BatchReport
from colab_helpers.errors import MediaError, OutputError, UsageError
from colab_helpers.models.catalog import load_catalog, required_models
from colab_helpers.models.inventory import inspect_model
from colab_helpers.trust.content import CONTENT_NAME
from tests.helpers.marks import media
from tests.helpers.processes import CPU, stop_at
from tests.media.make import Spec, make


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
def batch(folder: Path, batch: Callable[..., BatchReport]) -> Callable[..., BatchReport]:
    return lambda **options: batch(folder, **options)


def kept(report: BatchReport) -> list[str]:
    return [Path(file.target).stem for file in report.files if KEPT in file.fallbacks]


def test_finished_files_are_kept(batch, tmp_path) -> None:
    given = {"report_path": tmp_path / "mine.json"}  # the next run knows the files of an earlier run
    first = batch(**given)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("?.*")}
    second, third = batch(**given), batch(**given)
    assert kept(first) == []
    assert kept(second) == kept(third) == ["a", "b", "c"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("?.*")} == times
    assert third.ok
    assert third.summary.bytes == first.summary.bytes
    assert [file.faces_swapped for file in third.files] == [file.faces_swapped for file in first.files]
    assert third.files[0].fallbacks.count(KEPT) == 1


def test_changed_inputs_and_settings_redo_the_file(batch, folder, tmp_path) -> None:
    batch()
    other = tmp_path / "other.png"
    cv2.imwrite(str(other), np.full((256, 256, 3), 60, np.uint8))
    assert kept(batch(settings=CPU.with_overrides(batch_size=1, max_memory=1.0))) == ["a", "b", "c"]
    assert kept(batch(settings=CPU.with_overrides(output_video_quality=30))) == []
    assert kept(batch(sources=[other])) == []
    assert kept(batch(sources=[other])) == ["a", "b", "c"]
    make(folder / "a.mp4", Spec(frames=11))
    assert kept(batch(sources=[other])) == ["b", "c"]


def test_kept_results_keep_their_consent_and_disclosure(batch, consent) -> None:
    note = "its manifest states the consent and disclosure of the run that made it"
    batch()
    for changed in ({"consent": f"{consent} Said again."}, {"settings": CPU.with_overrides(disclosure="x")}):
        report = batch(**changed)
        assert kept(report) == ["a", "b", "c"]
        assert {(file.fallbacks.count(note), file.mark.disclosure) for file in report.files} == {(1, "test")}
    assert not any(note in file.fallbacks for file in batch().files)


@pytest.mark.parametrize(
    "changed",
    [
        {"sources": "other"},
        {"settings": CPU.with_overrides(output_video_quality=30, many_faces=False, face_order="best")},
    ],
    ids=["source", "selection"],
)
def test_another_source_or_selection_reuses_the_face_index(batch, tmp_path, detected_frames, changed) -> None:
    first = batch()
    assert len(detected_frames) >= 4
    detected_frames.clear()
    if "sources" in changed:
        cv2.imwrite(str(tmp_path / "other.png"), np.full((256, 256, 3), 60, np.uint8))
        changed = {"sources": [tmp_path / "other.png"]}
    second = batch(**changed)
    assert kept(second) == []
    assert [file.faces_swapped for file in second.files] == [file.faces_swapped for file in first.files]
    assert not detected_frames
    make(tmp_path / "in" / "a.mp4", Spec(frames=11))  # another file under the same name
    assert batch(**changed).ok
    assert detected_frames


def test_model_record_written_between_two_runs_redoes_nothing(batch, constant_models, tmp_path) -> None:
    models = Path(shutil.copytree(constant_models, tmp_path / "models"))
    for record in models.rglob("*.json"):
        record.unlink()
    assert batch(models_dir=models).ok
    for entry in required_models(CPU, load_catalog()):
        inspect_model(models, entry)
    assert list(models.rglob("*.json"))
    assert kept(batch(models_dir=models)) == ["a", "b", "c"]


def test_missing_or_damaged_result_is_made_again(batch, tmp_path) -> None:
    batch()
    intact, frames = (tmp_path / "out" / "b.mp4").read_bytes(), media(tmp_path / "out" / "b.mp4")
    (tmp_path / "out" / "a.mp4").unlink()
    (tmp_path / "out" / "b.mp4").write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    assert kept(batch()) == ["c"]
    assert media(tmp_path / "out" / "b.mp4") == frames
    assert (tmp_path / "out" / "a.mp4").is_file()


def test_stopped_batch_is_resumed(batch) -> None:
    report = batch(on_progress=stop_at(0, file=1))
    assert [file.status for file in report.files] == ["done", "skipped", "skipped"]
    report = batch()
    assert report.ok
    assert kept(report) == ["a"]


def test_moved_output_folder_keeps_its_results(batch, tmp_path) -> None:
    batch()
    shutil.move(tmp_path / "out", tmp_path / "moved")
    report = batch(out=tmp_path / "moved")
    assert kept(report) == ["a", "b", "c"]
    assert Path(report.files[0].output) == tmp_path / "moved" / "a.mp4"


def test_missing_kept_frames_are_made_again(batch, tmp_path) -> None:
    settings = CPU.with_overrides(keep_frames=True)
    batch(settings=settings)
    shutil.rmtree(tmp_path / "out" / "a.mp4_frames")
    report = batch(settings=settings)
    assert kept(report) == ["b", "c"]
    assert len(list((tmp_path / "out" / "a.mp4_frames").iterdir())) == 8


def test_files_of_the_user_are_kept_and_the_others_are_done(batch, tmp_path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.mp4").write_bytes(b"mine")
    (out / "c.png").symlink_to(tmp_path / "nowhere")
    for _ in range(2):
        report = batch()
        assert [file.status for file in report.files] == ["failed", "done", "failed"]
        error = report.files[0].error or ""
        assert error.startswith(f"{out / 'a.mp4'}: a file or folder with this name already exists")
        assert "choose another output folder or name, move it away, or set overwrite" in error
        assert (out / "a.mp4").read_bytes() == b"mine"
        assert (out / "c.png").is_symlink()
    report = batch(settings=CPU.with_overrides(overwrite=True))
    assert (kept(report), report.ok) == (["b"], True)
    # From then on it counts as a result, and unchanged results are kept.
    assert kept(batch()) == ["a", "b", "c"]


def test_result_changed_by_the_user_is_kept_under_another_name(batch, tmp_path) -> None:
    out = tmp_path / "out"
    results = {file.output: media(Path(file.output)) for file in batch().files}
    (out / "a.mp4").write_bytes(b"cut by me")
    (out / "a (2).mp4").write_bytes(b"mine, too")
    report = batch()
    assert kept(report) == ["b", "c"]
    note = "a.mp4 was changed after an earlier run had made it: it is kept as a (3).mp4"
    assert note in report.files[0].fallbacks
    assert (out / "a (3).mp4").read_bytes() == b"cut by me"
    assert (out / "a (2).mp4").read_bytes() == b"mine, too"
    assert {path: media(Path(path)) for path in results} == results


@pytest.mark.parametrize("end", ["failed", "stopped"])
def test_file_created_after_an_unfinished_run_belongs_to_the_user(batch, folder, tmp_path, end) -> None:
    good = (folder / "a.mp4").read_bytes()

    def stop(progress: Any) -> None:
        raise KeyboardInterrupt if end == "stopped" else RuntimeError("no more")

    assert batch(on_progress=stop).files[0].status == {"failed": "failed", "stopped": "skipped"}[end]
    (tmp_path / "out" / "a.mp4").write_bytes(good)
    assert [file.status for file in batch().files] == ["failed", "done", "done"]
    assert (tmp_path / "out" / "a.mp4").read_bytes() == good


def test_kept_frames_never_replace_files_of_the_user(batch, folder, tmp_path) -> None:
    out, settings = tmp_path / "out", CPU.with_overrides(keep_frames=True)
    make(folder / "a.mov", Spec(frames=5))
    for name in ("a_frames", "b.mp4_frames"):
        (out / name).mkdir(parents=True)
        (out / name / "000001.png").write_bytes(b"mine")
    report = batch(settings=settings)
    assert [file.status for file in report.files] == ["done", "done", "failed", "done"]
    assert str(out / "b.mp4_frames") in (report.files[2].error or "")
    for name in ("a_frames", "b.mp4_frames"):
        assert [path.read_bytes() for path in (out / name).iterdir()] == [b"mine"]
    assert not (out / "b.mp4").exists()
    frames = [Path(file.frames_folder or "") for file in report.files[:2]]
    assert [path.name for path in frames] == ["a.mov_frames", "a.mp4_frames"]
    assert [len(list(path.iterdir())) for path in frames] == [5, 8]
    # Redone with fewer frames: earlier frames are removed, files of the user stay.
    (frames[1] / "notes.txt").write_text("mine")
    make(folder / "a.mp4", Spec(frames=3))
    assert batch(settings=settings).files[1].status == "done"
    assert sorted(path.name for path in frames[1].iterdir()) == [
        "000000.png", "000001.png", "000002.png", "notes.txt"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name", ["report.json", "report.html", "status.json", "samples.jsonl", "journal.jsonl", "mine.json"]
)
def test_reports_and_records_never_replace_files_of_the_user(batch, tmp_path, name) -> None:
    path = tmp_path / "out" / name
    path.parent.mkdir()
    path.write_text('{"mine": 1}')
    given = {"report_path": path} if name == "mine.json" else {}
    with pytest.raises(
        UsageError, match=rf"{name}: a file or folder with this name already exists.*What to do"
    ):
        batch(**given)
    assert path.read_text() == '{"mine": 1}'
    assert [path.name for path in path.parent.iterdir()] == [name]


@pytest.mark.parametrize(
    "name", ["in/a.mp4", "photo.png", "out/a.mp4", "out/journal.jsonl", "out/status.json"]
)
def test_report_path_must_not_name_an_input_result_or_record(batch, tmp_path, name) -> None:
    with pytest.raises(UsageError, match=r"cannot have this name.*choose a name like report\.json"):
        batch(report_path=tmp_path / name, settings=CPU.with_overrides(overwrite=True))


def test_unusable_photos_are_left_out_and_noted(batch, photo, tmp_path) -> None:
    (tmp_path / "bad.png").write_text("no picture")
    report = batch(sources=[tmp_path / "bad.png", photo, tmp_path / "gone.png"])
    assert report.ok
    assert report.files[0].source == [str(photo)]
    left_out = [note for note in report.notes if "is left out" in note]
    assert [note.split(" is left out: ")[0] for note in left_out] == [
        f"the photo {tmp_path / name}" for name in ("bad.png", "gone.png")
    ]
    # The same photos are used, so the results are kept.
    assert kept(batch(sources=[photo])) == ["a", "b", "c"]
    with pytest.raises(MediaError, match=r"bad\.png.*not a picture"):
        batch(sources=[tmp_path / "bad.png", tmp_path / "gone.png"])


def test_damaged_journal_lines_are_noted_and_lose_only_their_entries(batch, tmp_path) -> None:
    batch()
    path = tmp_path / "out" / JOURNAL_NAME
    lines = path.read_bytes().splitlines(keepends=True)
    second = [line for line in lines if b'"event":"done"' in line][1]
    path.write_bytes(b"".join(lines).replace(second, second[:40] + b"\n") + b"torn")
    report = batch()
    assert kept(report) == ["a", "c"]
    assert "2 damaged line(s) of the journal were ignored" in report.notes


def test_result_stays_valid_if_it_cannot_be_journaled(batch, monkeypatch) -> None:
    original = Journal.append

    def full(self: Journal, entry: Any) -> None:
        if not isinstance(entry, SegmentDone | OutputsClaimed):
            raise OutputError("the journal cannot be written to (No space left on device)")
        original(self, entry)

    monkeypatch.setattr(Journal, "append", full)
    report = batch(settings=CPU.with_overrides(output_wait=0.0))
    assert report.ok
    assert "that will not be detected" in report.files[0].fallbacks[0]
    assert all("a later run will redo this file" in file.fallbacks[-1] for file in report.files)
    monkeypatch.undo()
    again = batch()
    assert (kept(again), again.ok) == ([], True)


def test_stop_while_a_result_is_hashed_keeps_the_result(batch, monkeypatch) -> None:
    hashed: list[str] = []
    original, heartbeat = resume.file_digest, WorkerContext.heartbeat

    def hashing(path: Path, *, on_chunk: Callable[[], None]) -> str:
        if path.parent.name == "out" and path.suffix == ".mp4":
            hashed.append(path.name)
            on_chunk()
        return original(path, on_chunk=on_chunk)

    def stopped(run: WorkerContext) -> None:
        if hashed:
            raise KeyboardInterrupt
        heartbeat(run)

    with monkeypatch.context() as patch:
        patch.setattr(resume, "file_digest", hashing)
        patch.setattr(WorkerContext, "heartbeat", stopped)
        report = batch()
    assert hashed == ["a.mp4"]
    assert [file.status for file in report.files] == ["done", "skipped", "skipped"]
    assert kept(batch()) == ["a"]


def indexes(out: Path) -> dict[str, Path]:
    """The folders of all face indexes by target name."""
    found = sorted((out / FACES_NAME).iterdir())
    return {Path(json.loads((folder / ABOUT_NAME).read_text())["target"]).name: folder for folder in found}


def aged(folder: Path, days: float) -> None:
    about = json.loads((folder / ABOUT_NAME).read_text())
    about["used"] -= days * 24 * 3600
    (folder / ABOUT_NAME).write_text(json.dumps(about))


def test_index_is_kept_until_it_is_unused_for_30_days(batch, folder, tmp_path) -> None:
    out = tmp_path / "out"
    batch()
    first = indexes(out)
    assert sorted(first) == ["a.mp4", "b.mp4"]
    assert batch(settings=CPU.with_overrides(face_detector_size=320)).ok
    assert len(list((out / FACES_NAME).iterdir())) == 4  # both settings may be used again
    aged(first["a.mp4"], 31)
    aged(first["b.mp4"], 29)
    batch(settings=CPU.with_overrides(face_detector_size=320, output_video_quality=30))
    assert not first["a.mp4"].exists()
    assert first["b.mp4"].is_dir()
    aged(indexes(out)["b.mp4"], 365)
    aged(first["b.mp4"], 365)
    batch(settings=CPU.with_overrides(output_video_quality=31))
    assert first["b.mp4"].is_dir()  # in use, although old


@pytest.mark.parametrize("gone", ["target", "changed", "unmounted"])
def test_only_the_index_of_a_missing_target_is_removed(batch, folder, tmp_path, gone) -> None:
    out = tmp_path / "out"
    batch()
    stale = indexes(out)["a.mp4"]
    chunks = [path.name for path in stale.glob("*.npz")]
    assert chunks
    others = [
        out / FACES_NAME / "mine" / "a.npz",
        out / FACES_NAME / ("0" * 23) / "00000000.npz",
        stale / "notes.txt",
    ]
    for path in others:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    (stale / f".{chunks[0]}.77.part").write_text("torn")
    (out / FACES_NAME / ("f" * 24)).symlink_to(tmp_path / "in")
    about = json.loads((stale / ABOUT_NAME).read_text())
    if gone == "target":
        (folder / "a.mp4").unlink()
    elif gone == "changed":
        make(folder / "a.mp4", Spec(frames=11))
    else:
        other = {"target": str(tmp_path / "nowhere" / "a.mp4")}
        (stale / ABOUT_NAME).write_text(json.dumps(about | other))
        (folder / "a.mp4").unlink()  # otherwise the run would use it
    batch()
    left = {path.name for path in stale.iterdir()}
    kept = {ABOUT_NAME, CONTENT_NAME, *chunks, f".{chunks[0]}.77.part"} if gone == "unmounted" else set()
    assert left == {"notes.txt", *kept}
    assert all(path.read_text() == "mine" for path in others)
    assert (folder / "b.mp4").is_file()
    assert "b.mp4" in [
        Path(json.loads(path.read_text())["target"]).name
        for path in (out / FACES_NAME).glob(f"*/{ABOUT_NAME}")
    ]


def test_index_key_depends_only_on_the_networks_that_analyse_faces() -> None:
    found = {"det_10g": "d", "w600k_r50": "w"}
    named = [found, found | {"genderage": "g"}, found | {"genderage": "h"}, found | {"inswapper_128": "i"}]
    assert len({index_key(target="a", settings=CPU, models=models) for models in named}) == 3


def test_only_a_finished_run_removes_indexes_also_on_a_drive(batch, folder, tmp_path) -> None:
    out, work = tmp_path / "out", tmp_path / "work"

    def stop(progress: Any) -> None:
        raise KeyboardInterrupt

    batch(work_dir=work)
    stale = indexes(out)["a.mp4"]
    make(folder / "a.mp4", Spec(frames=11))
    report = batch(work_dir=work, on_progress=stop)
    assert (report.stopped, stale.is_dir()) == (True, True)
    assert batch(work_dir=work).ok
    assert not stale.exists()
    assert not work.exists() or not list(work.rglob(FACES_NAME))
    assert sorted(indexes(out)) == ["a.mp4", "b.mp4"]
