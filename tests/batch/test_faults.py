"""Faults at any point: finished work is kept, unfinished work is removed, and a later run completes."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from colab_helpers.batch.batch_runner import BatchRunner
from colab_helpers.batch.drive import WORK_NAME
from colab_helpers.batch.report import JOURNAL_NAME, BatchReport
from colab_helpers.batch.stop import STATUS_NAME
from colab_helpers.errors import OutputError
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.frame_enhancer import FrameEnhancer
from colab_helpers.media.truncation import TruncationCheck
from colab_helpers.models import session as sessions
from colab_helpers.pipeline import report_progress
from tests.helpers.networks import with_enlarger
from tests.helpers.processes import (
    Content,
    contents,
    draw_photo,
    journal_entries,
    leftover_files,
    number_of,
    repeated_segments,
    run_at_worker_start,
    run_here,
    stop_at,
)
from tests.media.make import Sound, Spec, make

NO_WAIT = {"output_wait": 0.0}
# At three frames a second a segment of one second has three frames.
FRAMES, SEGMENTS = 11, 4
pytestmark = pytest.mark.xdist_group("faults")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults_in")
    options = {"preset": "ultrafast", "crf": "16", "g": "5"}
    return make(folder / "a.mp4", Spec(frames=FRAMES, rate=Fraction(3), options=options, sounds=(Sound(),)))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_photo(tmp_path_factory.mktemp("faults_source"))


@pytest.fixture(scope="module")
def plain(
    target: Path, source: Path, constant_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Content]:
    """Results of an uninterrupted batch."""
    out = tmp_path_factory.mktemp("faults_plain") / "out"
    assert run_here(source, target, out, constant_models, overrides=NO_WAIT).ok
    assert len(contents(out)["a.mp4"][0]) == FRAMES
    return contents(out)


@pytest.fixture
def batch(
    source: Path, target: Path, constant_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., BatchReport]:
    monkeypatch.setattr(report_progress, "PROGRESS_INTERVAL", 0.0)  # every frame is reported

    def run(
        out: str = "out", *, target: Path = target, models: Path = constant_models, **given: Any
    ) -> BatchReport:
        return run_here(source, target, tmp_path / out, models, overrides=NO_WAIT, **given)

    return run


@pytest.fixture(scope="module")
def stopped_run(
    target: Path, source: Path, constant_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run stopped after three segments."""
    out = tmp_path_factory.mktemp("faults_stopped_run") / "out"
    with pytest.MonkeyPatch.context() as patching:
        patching.setattr(report_progress, "PROGRESS_INTERVAL", 0.0)
        run_here(source, target, out, constant_models, overrides=NO_WAIT, on_progress=stop_at(10))
    return out


@pytest.fixture
def short(tmp_path: Path) -> Path:
    """A target of two segments."""
    return make(tmp_path / "a.mp4", Spec(frames=5, rate=Fraction(3), sounds=(Sound(seconds=0.5),)))


def kept(report: BatchReport) -> int:
    return report.files[0].segments_kept


def assert_complete(report: BatchReport, out: Path, plain: dict[str, Content]) -> None:
    assert report.ok, report.files[0].error
    assert contents(out) == plain
    assert leftover_files(out, "a.mp4") == set()


class Faults:
    """Makes the n-th write in a folder fail, or all from the n-th on.

    Opening for writing, journal writes, syncing, renaming and making folders count. Only the working
    thread is affected, unless ``all_threads``, since the other one writes at varying times.
    """

    def __init__(
        self, folder: Path, number: int, *, lasting: bool, code: int = errno.ENOSPC, all_threads: bool = False
    ) -> None:
        self.folder, self.number, self.lasting, self.code = folder, number, lasting, code
        self.all_threads = all_threads
        self.calls: list[str] = []
        self.thread = threading.current_thread()

    @property
    def reached(self) -> bool:
        return len(self.calls) > self.number

    @property
    def affected(self) -> bool:
        return self.all_threads or threading.current_thread() is self.thread

    def check(self, what: str) -> None:
        if not self.affected:
            return
        self.calls.append(what)
        number = len(self.calls) - 1
        if number == self.number or (self.lasting and number > self.number):
            raise OSError(self.code, os.strerror(self.code))

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        opened, replace, sync, mkdir = Path.open, Path.replace, os.fsync, Path.mkdir

        def inside(path: Path) -> bool:
            return self.folder in Path(path).absolute().parents

        def bad_open(path: Path, mode: str = "r", *given: Any, **named: Any) -> Any:
            writes = bool(set("wax+") & set(mode)) and inside(path)
            if writes:
                self.check(f"open {path.name} {mode}")
            file = opened(path, mode, *given, **named)
            return Torn(file, self) if writes and "a" in mode and self.affected else file

        def bad_replace(path: Path, new: Path) -> Path:
            if inside(path):
                self.check(f"replace {path.name}")
            return replace(path, new)

        def bad_sync(number: int) -> None:
            self.check("sync")
            sync(number)

        def bad_mkdir(path: Path, *given: Any, **named: Any) -> None:
            if inside(path) and not path.exists():
                self.check(f"mkdir {path.name}")
            mkdir(path, *given, **named)

        monkeypatch.setattr(Path, "open", bad_open)
        monkeypatch.setattr(Path, "replace", bad_replace)
        monkeypatch.setattr(os, "fsync", bad_sync)
        monkeypatch.setattr(Path, "mkdir", bad_mkdir)


class Torn:
    """A file whose failing write still writes the first half."""

    def __init__(self, file: Any, faults: Faults) -> None:
        self._file, self._faults = file, faults

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, data: bytes) -> int:
        try:
            self._faults.check("write")
        except OSError:
            self._file.write(data[: len(data) // 2])
            raise
        return int(self._file.write(data))


@pytest.fixture
def one_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are loaded once for many batches."""
    original, engines = Engine.open, {}

    def opened(settings: Any, *, models_dir: Any = None) -> Engine:
        key = settings.model_dump_json()
        if key not in engines:
            engines[key] = original(settings, models_dir=models_dir)
        return engines[key]

    monkeypatch.setattr(Engine, "open", opened)


@pytest.mark.parametrize(
    ("lasting", "away", "first", "step"),  # each file is opened, synced and renamed
    [(False, False, 0, 3), (True, False, 1, 8), (False, True, 1, 7), (True, True, 1, 10)],
    ids=["once, beside", "for good, beside", "once, mirrored", "for good, mirrored"],
)
@pytest.mark.usefixtures("one_engine")
def test_disk_full_at_any_write(batch, tmp_path, short, lasting, away, first, step) -> None:
    assert batch("plain", target=short).ok
    plain, outcomes = contents(tmp_path / "plain"), set()
    for number in range(first, 600, step):
        out = tmp_path / f"out{number}"
        given: dict[str, Any] = {"target": short} | ({"work_dir": tmp_path / "local"} if away else {})
        faults = Faults(out, number, lasting=lasting)
        with pytest.MonkeyPatch.context() as patching:
            faults.install(patching)
            outcomes.add(attempt(partial(batch, out.name, **given), out))
        journal = list(all_entries(out))
        done = {number_of(entry) for entry in journal if entry["event"] == "segment"}
        noted = not (out / "a.mp4").exists() or any(entry["event"] == "done" for entry in journal)
        report = batch(out.name, **given)
        assert_complete(report, out, plain)
        where = f"{number}: {faults.calls[number : number + 1]}"
        if noted:  # without a journal entry for a result, its segments are lost
            assert repeated_segments(out) == {}, where
            assert "kept from an earlier run" in report.files[0].fallbacks or kept(report) == len(done), where
        if not faults.reached:
            break
    assert not faults.reached, "a batch of two segments does not write that often"
    assert number > 30
    # If the report cannot be written either, that is the error.
    assert outcomes >= ({"done", "refused"} if lasting else {"done", "failed", "refused"})


def all_entries(out: Path) -> Iterator[dict[str, Any]]:
    if (out / JOURNAL_NAME).exists():
        for event in ("segment", "done"):
            yield from journal_entries(out, event)


def attempt(run: Callable[[], BatchReport], out: Path) -> str:
    """The outcome of a batch with faults; never an unexpected error."""
    try:
        report = run()
    except OutputError as error:
        message = str(error)
        file = None
    else:
        file = report.files[0]
        message = file.error or ""
    if file is not None and file.status == "done":
        assert (out / "a.mp4").exists()
        return "done"
    assert "No space left on device" in message
    assert "What to do" in message
    assert "unexpected" not in message
    assert not [path for path in out.rglob(".*") if path.suffix in (".nut", ".mp4")]
    if file is None:
        return "refused"
    assert not (out / "a.mp4").exists()
    return "failed"


FULL_DISK = """
    import os, resource, signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(os.environ["LIMIT"]),) * 2)
"""

LARGE = {"overrides": {"output_video_quality": 1, **NO_WAIT, "frame_processors": ["face_swapper"]}}


@pytest.fixture(scope="module")
def large(source: Path, constant_models: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A target whose segments are larger than all records, and its expected results."""
    folder = tmp_path_factory.mktemp("faults_large")
    target = make(folder / "a.mp4", Spec(frames=25, rate=Fraction(10), size=(1280, 720), sounds=(Sound(),)))
    assert run_here(source, target, folder / "plain", constant_models, **LARGE).ok
    return target, folder / "plain"


@pytest.mark.parametrize("place", ["segment", "result"])
def test_disk_full_while_writing_video(source, large, constant_models, tmp_path, monkeypatch, place) -> None:
    """A file size limit makes the encoder's own writes fail: of segments, or of the result."""
    target, plain = large
    out = tmp_path / "out"
    sizes = [entry["part"]["segment"]["bytes"] for entry in journal_entries(plain, "segment")]
    # Journal, status and report are smaller than any segment, and the result is larger than each.
    assert max(sizes) > 30_000
    with monkeypatch.context() as patching:
        run_at_worker_start(patching, tmp_path, FULL_DISK)
        patching.setenv("LIMIT", str(max(sizes) * 6 // 10 if place == "segment" else max(sizes) + 1000))
        report = run_here(source, target, out, constant_models, in_process=False, **LARGE)
    error = report.files[0].error or ""
    assert "cannot be written (File too large)" in error
    assert "What to do: choose a disk that supports larger files" in error
    assert not list(out.glob("*.mp4")) + list(out.glob(".*.mp4")) + list(out.rglob(".*.nut"))
    finished = len(list(journal_entries(out, "segment")))
    assert finished == (3 if place == "result" else 0)
    report = run_here(source, target, out, constant_models, **LARGE)
    assert report.files[0].segments_kept == finished
    assert_complete(report, out, contents(plain))
    assert repeated_segments(out) == {}


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_unwritable_folder_is_refused_before_any_work(batch, tmp_path, code) -> None:
    def refuse(*_given: Any, **_named: Any) -> Any:
        raise OSError(code, os.strerror(code))

    with pytest.MonkeyPatch.context() as patching:
        Faults(tmp_path / "out", 0, lasting=True, code=code, all_threads=True).install(patching)
        patching.setattr(BatchRunner, "run", refuse)
        with pytest.raises(
            OutputError, match=rf"{os.strerror(code)}.*What to do: (choose another (output )?folder|free)"
        ):
            batch()
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EIO])
def test_folder_that_becomes_unwritable_keeps_finished_segments(batch, tmp_path, plain, code) -> None:
    out, faults = tmp_path / "out", None

    def inject_fault(progress: Any) -> None:
        nonlocal faults
        if faults is None and progress.frame > 7:
            faults = Faults(out, 0, lasting=True, code=code)
            faults.install(patching)

    with (
        pytest.MonkeyPatch.context() as patching,
        pytest.raises(OutputError, match=rf"{os.strerror(code)}.*What to do"),
    ):
        batch(on_progress=inject_fault)
    assert not [path for path in out.rglob(".*") if path.suffix in (".nut", ".mp4")]
    assert not list(out.glob("*.mp4"))
    report = batch()
    assert kept(report) == 2
    assert_complete(report, out, plain)


@pytest.mark.parametrize("at_open", [False, True])
def test_unreadable_target_fails_with_the_cause(batch, target, tmp_path, plain, at_open) -> None:
    original_read, original_open = TruncationCheck.read_packets, Path.open
    lost = errno.EIO, os.strerror(errno.EIO)

    def read_packets(self: Any, container: Any) -> Iterator[Any]:
        yield from islice(original_read(self, container), 7)
        raise av.error.OSError(*lost)

    def opened(path: Path, mode: str = "r", *given: Any, **named: Any) -> Any:
        if path == target:
            raise OSError(*lost)
        return original_open(path, mode, *given, **named)

    with pytest.MonkeyPatch.context() as patching:
        if at_open:
            patching.setattr(Path, "open", opened)
        else:
            patching.setattr(TruncationCheck, "read_packets", read_packets)
        report = batch()
    error = report.files[0].error or ""
    how = "the file cannot" if at_open else "only 7 of 11 frames could"
    assert report.files[0].status == "failed"
    assert str(target) in error
    assert f"{how} be read (Input/output error)" in error
    assert "What to do" in error
    # The fault may be temporary: finished segments are kept for the next run.
    assert leftover_files(tmp_path / "out") <= {WORK_NAME}
    assert_complete(batch(), tmp_path / "out", plain)


def intact_segments(journal: Path) -> set[int]:
    """Segments in intact journal lines, read independently by the documented format."""
    numbers = set()
    for line in journal.read_bytes().split(b"\n"):
        if line.startswith(b'{"crc":"') and b'"entry":' in line and line.endswith(b"}"):
            body = line[line.index(b'"entry":') + 8 : -1]
            if line[8:16] == b"%08x" % zlib.crc32(body) and b'"event":"segment"' in body:
                numbers.add(number_of(json.loads(body)))
    return numbers


@pytest.mark.usefixtures("one_engine")
@pytest.mark.parametrize("damage", ["cut", "flipped", "zeros", "noise"])
def test_damaged_journal_tail_redoes_only_lost_segments(batch, stopped_run, tmp_path, plain, damage) -> None:
    random = np.random.default_rng(list(damage.encode()))
    # Which segment's line, and where in it; line lengths depend on path lengths.
    for number, place in [(0, "middle"), (1, "first"), (1, "last"), (2, "middle"), (2, "break")]:
        name = f"out{number}-{place}"
        journal = shutil.copytree(stopped_run, tmp_path / name) / JOURNAL_NAME
        data = bytearray(journal.read_bytes())
        lines = bytes(data).splitlines(keepends=True)
        line = [n for n, text in enumerate(lines) if b'"event":"segment"' in text][number]
        length = len(lines[line])
        into = {"first": 0, "middle": length // 2, "last": length - 2, "break": length - 1}[place]
        at = sum(map(len, lines[:line])) + into
        if damage == "flipped":
            data[at] ^= 1 << int(random.integers(8))
        else:
            rest = len(data) - at
            del data[at:]
            data += {"cut": b"", "zeros": bytes(rest), "noise": random.bytes(rest)}[damage]
        journal.write_bytes(data)
        expected = intact_segments(journal)
        # A last line that lacks only its line break is intact.
        assert (number in expected) == (place == "break" and damage == "cut")
        assert expected >= set(range(number))
        report = batch(name)
        assert kept(report) == len(expected)
        assert_complete(report, tmp_path / name, plain)
        noted = any("damaged line" in note for note in report.notes)
        assert noted == (damage != "cut" or place not in ("first", "break"))


@pytest.mark.usefixtures("one_engine")
@pytest.mark.parametrize(
    ("damage", "number"),
    [("flipped", 0), ("flipped", 1), ("flipped", 2), ("cut", 1), ("gone", 1), ("empty", 1), ("another", 1)],
)
def test_only_the_damaged_segment_is_redone(batch, stopped_run, tmp_path, plain, damage, number) -> None:
    out = shutil.copytree(stopped_run, tmp_path / "out")
    parts = sorted((out / WORK_NAME).rglob("[!.]*.nut"))
    assert len(parts) == 3
    data = bytearray(parts[number].read_bytes())
    data[len(data) * 2 // 3] ^= 16
    other = parts[(number + 1) % 3].read_bytes()
    damaged = {"flipped": bytes(data), "cut": bytes(data[:-1]), "another": other}
    parts[number].write_bytes(damaged.get(damage, b""))
    if damage == "gone":
        parts[number].unlink()
    report = batch()
    assert kept(report) == 2
    assert_complete(report, out, plain)
    counts = {
        n: sum(number_of(entry) == n for entry in journal_entries(out, "segment")) for n in range(SEGMENTS)
    }
    assert counts == {n: 2 if n == number else 1 for n in range(SEGMENTS)}


@pytest.mark.parametrize("jump", [-3600.0, 86400.0 * 365])
def test_clock_jump_changes_nothing(batch, tmp_path, plain, monkeypatch, jump) -> None:
    original, shift = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: original() + shift[0])

    def stop(progress: Any) -> None:
        shift[0] = jump if progress.frame >= 5 else 0.0
        stop_at(10)(progress)

    assert batch(on_progress=stop).files[0].status == "skipped"
    status = json.loads((tmp_path / "out" / STATUS_NAME).read_text())
    assert abs(status["updated"] - status["started"] - jump) < 60
    shift[0] = jump * 2
    report = batch()
    assert kept(report) == 3
    assert 0 <= report.summary.seconds < 60
    assert_complete(report, tmp_path / "out", plain)
    shift[0] = 0.0
    assert "kept from an earlier run" in batch().files[0].fallbacks


def test_too_little_gpu_memory_fails_the_file_with_a_clear_error(batch, tmp_path, plain) -> None:
    original = sessions.create_session

    class FullGpu:
        """A session without free memory, with the error message of the runtime."""

        def __init__(self, session: Any) -> None:
            self._session = session

        def __getattr__(self, name: str) -> Any:
            return getattr(self._session, name)

        def run(self, names: Any, feed: dict[str, Any]) -> Any:
            raise RuntimeError("CUDA failure 2: out of memory ; GPU=0 ; CUDA out of memory")

    def create(model: str, *given: Any, **named: Any) -> Any:
        session = original(model, *given, **named)
        return FullGpu(session) if "inswapper" in str(model) else session

    with pytest.MonkeyPatch.context() as patching:
        patching.setattr(sessions, "create_session", create)
        report = batch()
    error = report.files[0].error or ""
    assert report.files[0].status == "failed"
    assert "memory ran out" in error
    assert "What to do" in error
    assert "lighter preset" in error
    assert not list((tmp_path / "out").glob("*.mp4"))
    assert_complete(batch(), tmp_path / "out", plain)


def test_reduced_tile_size_of_one_file_is_reset_for_the_next(tmp_path, constant_models, monkeypatch) -> None:
    models, edges = with_enlarger(constant_models, tmp_path / "models"), list[int]()
    enlarge = FrameEnhancer.enlarge

    def reduce_edge(self: FrameEnhancer, image: Any) -> Any:
        edges.append(self.edge)
        self.edge = 192
        return enlarge(self, image)

    monkeypatch.setattr(FrameEnhancer, "enlarge", reduce_edge)
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / "in" / name), np.full((40, 60, 3), 90, np.uint8))
    given = {"overrides": {"frame_processors": "face_swapper,frame_enhancer"}}
    assert run_here(draw_photo(tmp_path), tmp_path / "in", tmp_path / "out", models, **given).ok
    assert edges == [320, 320]
