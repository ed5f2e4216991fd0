"""Several workers on one machine give the results of one, also after deaths, stops and resumes."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from colab_helpers.batch import pool_worker
from colab_helpers.batch.context import NO_DEATHS, WorkerContext
from colab_helpers.batch.drive import WorkDirs
from colab_helpers.batch.job import Job
from colab_helpers.batch.journal import History, SegmentDone, WorkStarted
from colab_helpers.batch.plan import Task
from colab_helpers.batch.report import BatchReport, FileReport
from colab_helpers.batch.scheduler import Call, FilePlan
from colab_helpers.batch.status import StatusWriter, read_status
from colab_helpers.batch.stop import StopToken
from colab_helpers.batch.task_runner import TaskRunner
from colab_helpers.batch.worker_handles import FileInProgress, WorkerHandle, WorkerInfo
from colab_helpers.batch.worker_pool import WorkerPool, devices_of
from colab_helpers.errors import UsageError, WorkerError
from colab_helpers.faces.engine import resolve
from colab_helpers.machine import GIB, SHARED_BY_ENV, SYSTEM_RESERVE, Machine
from colab_helpers.media.encoders import default_encoder
from colab_helpers.progress import FINDING
from colab_helpers.request import BatchRequest
from colab_helpers.settings import load_settings
from tests.batch.films import SETTINGS
from tests.helpers.marks import media
from tests.helpers.processes import (
    journal_entries,
    leftover_files,
    makers,
    number_of,
    repeated_segments,
    run_at_worker_start,
    run_here,
    shared_clips,
)
from tests.helpers.reports import a_progress
from tests.media.make import Sound, Spec, variable_pts

TWO = {"gpus": "cpu,cpu"}
SMALL: dict[str, Any] = {"size": (160, 90), "rate": Fraction(10)}
B_FRAMES = {"preset": "medium", "bf": "3"}
SHORT = Spec(**SMALL, frames=5)  # processed whole, as the first of three
SPECS = {
    "clips": {
        "a.mp4": SHORT,
        "cfr.mp4": Spec(**SMALL, frames=44, sounds=(Sound(),)),
        "vfr.mp4": Spec(
            size=(160, 90), frames=34, time_base=Fraction(1, 1000), pts=variable_pts(34, step=100)
        ),
    },
    "groups": {
        "a.mp4": SHORT,
        "by_seven.mp4": Spec(**SMALL, frames=30, options=B_FRAMES | {"g": "7", "x264-params": "open-gop=1"}),
        "long.mp4": Spec(**SMALL, frames=34, options=B_FRAMES | {"g": "300"}),
    },
}


@pytest.fixture
def clips(photo: Path, shared_dir: Path, constant_models: Path, tmp_path: Path) -> Callable[..., BatchReport]:
    """Runs a batch of some clips, of which the last two have several segments."""

    def run(out: str = "out", *, which: str = "clips", **given: Any) -> BatchReport:
        targets = shared_clips(shared_dir / f"pool_{which}", SPECS[which])
        return run_here(photo, targets, tmp_path / out, constant_models, **given)

    return run


_alone: dict[str, tuple[Path, BatchReport]] = {}


@pytest.fixture
def single(clips: Callable[..., BatchReport], tmp_path: Path) -> Callable[..., tuple[Path, BatchReport]]:
    """Results of one worker: folder and report."""

    def done(which: str = "clips") -> tuple[Path, BatchReport]:
        if which not in _alone:
            _alone[which] = tmp_path / "single", clips("single", which=which)
        return _alone[which]

    return done


def digests(out: Path) -> dict[tuple[str, int], str]:
    """SHA-256 of every segment by its target's key and number."""
    return {
        (entry["key"], number_of(entry)): entry["part"]["segment"]["sha256"]
        for entry in journal_entries(out, "segment")
    }


def assert_same(one: Path, other: Path, *, which: str = "clips") -> None:
    for name in SPECS[which]:
        assert media(one / name) == media(other / name)
    assert digests(one) == digests(other)
    assert repeated_segments(other) == {}
    assert leftover_files(other, *SPECS[which]) == set()


def comparable(report: BatchReport) -> list[dict[str, Any]]:
    """The file entries of a report, without timing, memory and paths."""
    names = "seconds fps output bytes_out memory_before memory_after manifest made_by"
    return [file.model_dump(exclude={*names.split()}) for file in report.files]


@pytest.mark.parametrize("which", SPECS)
def test_two_workers_give_the_results_of_one(clips, single, tmp_path, which) -> None:
    one, two = single(which), clips("two", which=which, overrides=TWO)
    assert two.ok
    assert_same(one[0], tmp_path / "two", which=which)
    assert comparable(one[1]) == comparable(two)
    names = {f"{socket.gethostname()} CPU", f"{socket.gethostname()} CPU (2)"}
    assert (makers(*one), makers(tmp_path / "two", two)) == (set(), names)
    for entry in journal_entries(tmp_path / "two", "done"):
        assert (entry["report"]["segments_kept"], entry["report"]["fps"] < 500) == (0, True)
    started = [*journal_entries(tmp_path / "two", "started")]
    in_segments = {entry["key"] for entry in started if entry["number"] is not None}
    assert (len(in_segments), len({entry["pid"] for entry in started})) == (2, 2)


IN_WORKER = """
if "colab_helpers.batch.pool_worker" in sys.orig_argv:
    import os, signal, time
    from pathlib import Path
    from colab_helpers.batch.task_runner import TaskRunner
    from colab_helpers.media.segments import SegmentWriter
    place = Path(os.environ["PLACE"])
    at = [None, 0]
    make_segment, write = TaskRunner.make_segment, SegmentWriter.write
    def watched(self, index, number, **given):
        at[:] = [(Path(self.tasks[index].target).name, number), 0]
        return make_segment(self, index, number, **given)
    def write_frame(self, video, **given):
        write(self, video, **given)
        at[1] += 1
        if at[0] is not None and at[1] == 4:
            within_segment(*at[0])
    TaskRunner.make_segment, SegmentWriter.write = watched, write_frame
"""
"""Calls a test's ``within_segment(name, number)`` in workers after four frames of a segment."""
DIES_ONCE = """
    def within_segment(name, number):
        if (name, number) == ("cfr.mp4", 2) and not (place / "died").exists():
            (place / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""
DIES = """
    def within_segment(name, number):
        if name == "vfr.mp4":
            os.kill(os.getpid(), signal.SIGKILL)
"""
FAILS = """
    def within_segment(name, number):
        if name == "cfr.mp4":
            (place / f"at{bool(number)}").touch()
            while not (place / f"at{not number}").exists():
                time.sleep(0.05)
            if number == 0:
                raise RuntimeError("no")
            time.sleep(0.5)  # meanwhile the error is reported
"""
STOPS = """
    def within_segment(name, number):
        if number > 0:
            (place / "out" / "STOP").touch()
            time.sleep(1.5)
"""


@pytest.fixture
def in_workers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Makes workers run code within segments."""
    monkeypatch.setenv("PLACE", str(tmp_path))
    return lambda code: run_at_worker_start(monkeypatch, tmp_path, IN_WORKER + code)


def test_worker_that_dies_within_a_segment_is_replaced(clips, single, in_workers, tmp_path) -> None:
    one, _ = single()
    in_workers(DIES_ONCE)
    report = clips("two", overrides=TWO)
    assert (tmp_path / "died").exists()
    assert report.ok
    assert report.summary.restarts == 1
    assert_same(one, tmp_path / "two")
    assert any("died of SIGKILL" in note or "killed" in note for note in report.notes)


def test_segment_that_kills_three_workers_fails_only_its_file(clips, in_workers) -> None:
    in_workers(DIES)
    report = clips(overrides=TWO)
    failed = {Path(file.target).name: file for file in report.files if file.status == "failed"}
    assert list(failed) == ["vfr.mp4"]
    assert "died 3 times on this file" in (failed["vfr.mp4"].error or "")
    assert sum(file.status == "done" for file in report.files) == 2
    assert 3 <= report.summary.restarts <= 6  # on up to two segments at a time


def test_segment_error_fails_file_once_with_two_workers(clips, in_workers, monkeypatch, tmp_path) -> None:
    assert clips().ok
    with (tmp_path / "out" / "cfr.mp4").open("ab") as file:
        file.write(b"changed")
    in_workers(FAILS)
    report = clips(overrides=TWO | {"output_video_quality": 20})
    failed = {Path(file.target).name: file for file in report.files if file.status == "failed"}
    assert list(failed) == ["cfr.mp4"]
    assert "no" in (failed["cfr.mp4"].error or "")
    assert any("it is kept as" in note for note in failed["cfr.mp4"].fallbacks), "earlier notes are kept"
    assert [file.status for file in report.files].count("done") == 2


OWN_DISKS = """
if "colab_helpers.batch.pool_worker" in sys.orig_argv:
    import os, signal
    from pathlib import Path
    from colab_helpers.batch.drive import WorkDirs
    from colab_helpers.batch.resume import JournaledSegmentStore
    keep, of = JournaledSegmentStore.keep, WorkDirs.of
    def placed(folder, work_dir=None):
        return of(folder, Path(os.environ["PLACE"]) / f"disk{os.getpid()}")
    def kept(self, done):
        keep(self, done)
        died = Path(os.environ["PLACE"]) / "died"
        if done.segment.number == 1 and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    JournaledSegmentStore.keep, WorkDirs.of = kept, staticmethod(placed)
"""


def test_workers_on_separate_disks_share_segments_of_dead_ones(clips, single, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PLACE", str(tmp_path))
    run_at_worker_start(monkeypatch, tmp_path, OWN_DISKS)
    report = clips("two", overrides=TWO, work_dir=tmp_path / "disk")
    assert (tmp_path / "died").exists()
    assert report.ok, [file.error for file in report.files]
    assert_same(single()[0], tmp_path / "two")
    assert not any("worker process died" in note for file in report.files for note in file.fallbacks)


@pytest.mark.parametrize("then", [{}, TWO], ids=["one", "two"])
def test_stop_within_a_segment_is_resumed_by_one_or_two_workers(
    clips, single, in_workers, monkeypatch, tmp_path, then
) -> None:
    one, _ = single()
    in_workers(STOPS)
    others = psutil.Process().children()
    stopped = clips(overrides=TWO)
    assert stopped.stopped
    assert {file.status for file in stopped.files} <= {"done", "skipped"}
    workers = [each for each in psutil.Process().children() if each not in others]
    assert not [each for each in workers if each.status() != psutil.STATUS_ZOMBIE]
    before = digests(tmp_path / "out")
    assert 0 < len(before) < len(digests(one))
    monkeypatch.delenv("PYTHONPATH")
    before = {entry["worker"] for entry in journal_entries(tmp_path / "out", "segment")}
    report = clips(overrides=then)
    assert report.ok
    assert_same(one, tmp_path / "out")
    after = makers(tmp_path / "out", report)
    assert ("" in after, before <= after) == (then != TWO, True)


def test_two_workers_resume_the_batch_of_one(clips, single, monkeypatch, tmp_path) -> None:
    # A single worker need not agree with others, so no encoder is tried in advance.
    monkeypatch.setattr("colab_helpers.media.encoders._default_trial", None)

    def stop(progress: Any) -> None:
        if progress.frame >= 25:
            raise KeyboardInterrupt

    assert clips(on_progress=stop).stopped
    assert digests(tmp_path / "out")
    report = clips(overrides=TWO)
    assert report.ok
    assert any(file.segments_kept for file in report.files)
    assert "" in makers(tmp_path / "out", report)
    assert_same(single()[0], tmp_path / "out")


def test_two_workers_give_the_results_of_one_with_a_map(run, tmp_path, films) -> None:
    short = SETTINGS.with_overrides(segment_seconds=1.0)
    for name, how in (("one", {}), ("two", TWO)):
        settings = short.with_overrides(**how)
        assert run("first.mp4", "second.mp4", people="find", out=tmp_path / name, settings=settings).ok
        assert read_status(tmp_path / name).state == "done", "later workers scan all files again"
    for name in ("first.mp4", "second.mp4"):
        assert media(tmp_path / "one" / name) == media(tmp_path / "two" / name)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_worker_with_another_encoder_is_refused(monkeypatch, tmp_path) -> None:
    pool, notes = pool_of(monkeypatch, tmp_path)
    pool._wait_for_first = False
    pool._spawn_missing()
    first, second = pool._workers
    pool._on_opened(first, WorkerInfo(encoder="h264_nvenc"))
    pool._on_opened(second, WorkerInfo(encoder="libx264"))
    pool._spawn_missing()
    assert pool._workers == [first], "no worker replaces it"
    assert ["libx264, but the other workers use h264_nvenc" in text for text in notes] == [True]
    assert default_encoder("auto") in ("libx264", "h264_nvenc")
    assert default_encoder("libx265") == "libx265"


def test_gpus_setting_selects_the_devices(monkeypatch) -> None:
    monkeypatch.setattr("colab_helpers.batch.worker_pool.visible_gpus", lambda: ["GPU-a", "GPU-b", "GPU-c"])
    assert load_settings(gpus=1).gpus == "1"  # as YAML reads it
    assert devices_of(load_settings(gpus="")) == []
    assert devices_of(load_settings()) == ["GPU-a", "GPU-b", "GPU-c"]
    assert devices_of(load_settings(execution_provider="cpu")) == []
    assert devices_of(load_settings(gpus="2,0,2")) == ["GPU-c", "GPU-a"]
    assert devices_of(load_settings(gpus="cpu,cpu")) == ["", ""]
    with pytest.raises(UsageError, match=r"there is no GPU 3; 3 GPU\(s\) found"):
        devices_of(load_settings(gpus="0,3"))
    monkeypatch.setattr("colab_helpers.batch.worker_pool.visible_gpus", lambda: ["GPU-a"])
    assert devices_of(load_settings(gpus="all")) == []


def test_workers_share_the_memory_of_the_machine(monkeypatch) -> None:
    machine = Machine(8, SYSTEM_RESERVE + 12 * GIB, None, "", "", on_colab=False)
    for workers, setting, share in ((1, "auto", 12.0), (4, "auto", 3.0), (4, 8.0, 2.0), (4, 0.5, 0.5)):
        monkeypatch.setenv(SHARED_BY_ENV, str(workers))
        settings, notes = resolve(load_settings(max_memory=setting), machine, cuda=False)
        assert (settings.max_memory, notes) == (share, ())


DIES_BEHIND_A_SEGMENT = """
if "colab_helpers.batch.pool_worker" in sys.orig_argv:
    import os, signal
    from pathlib import Path
    from colab_helpers.batch.resume import JournaledSegmentStore
    from colab_helpers.batch.task_runner import TaskRunner
    keep, process_file, at = JournaledSegmentStore.keep, TaskRunner.process_file, []
    def kept(self, done):
        keep(self, done)
        died = Path(os.environ["PLACE"]) / "died"
        if at and done.segment.number == 1 and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    def watched(self, index, **given):
        at.append(index)
        try:
            return process_file(self, index, **given)
        finally:
            at.pop()
    JournaledSegmentStore.keep, TaskRunner.process_file = kept, watched
"""


def test_worker_that_takes_over_a_whole_file_reads_new_entries(
    photo, shared_dir, constant_models, monkeypatch, tmp_path
) -> None:
    monkeypatch.setenv("PLACE", str(tmp_path))
    run_at_worker_start(monkeypatch, tmp_path, DIES_BEHIND_A_SEGMENT)
    specs = {"a.mp4": Spec(**SMALL, frames=44), "b.mp4": SHORT, "c.mp4": Spec(**SMALL, frames=54)}
    targets = shared_clips(shared_dir / "pool_whole", specs)
    report = run_here(photo, targets, tmp_path / "two", constant_models, overrides=TWO)
    assert report.ok
    assert (tmp_path / "died").exists()
    assert repeated_segments(tmp_path / "two") == {}


def test_copies_of_one_file_are_processed_in_sequence(photo, shared_dir, constant_models, tmp_path) -> None:
    clip = shared_clips(shared_dir / "pool_copies", {"a.mp4": Spec(**SMALL, frames=44)}) / "a.mp4"
    (folder := tmp_path / "in").mkdir()
    for name in ("a.mp4", "b.mp4"):
        shutil.copyfile(clip, folder / name)
    report = run_here(photo, folder, tmp_path / "two", constant_models, overrides=TWO)
    assert report.ok
    assert media(tmp_path / "two" / "a.mp4") == media(tmp_path / "two" / "b.mp4")


def test_started_work_of_other_workers_counts_as_no_death() -> None:
    started = WorkStarted(key="k", run="r", target="/t.mp4", pid=1)
    earlier: Any = SimpleNamespace(history=History([started]), run="r")
    context, appended = SimpleNamespace(cause=None), list[Any]()
    given: Any = context, "engine", Task(Path("/t.mp4"), Path("/o.mp4")), "k", earlier
    journal: Any = SimpleNamespace(append=appended.append)
    assert WorkerContext.begin(*given, journal, deaths=NO_DEATHS) == ("engine", [])
    assert [entry.target for entry in appended] == ["/t.mp4"]
    with pytest.raises(WorkerError, match="died 3 times on this file, last: cold"):
        WorkerContext.begin(*given, journal, deaths=(3, "cold"))


def pool_of(monkeypatch, tmp_path, devices=("", "")) -> tuple[WorkerPool, list[str]]:
    """A pool with fake processes, and the notes of its status."""
    notes = list[str]()
    request = BatchRequest(output_dir=tmp_path, people="find")
    job = Job(request=request, tasks=(Task(Path("/t.mp4"), tmp_path / "t.mp4"),))
    status = SimpleNamespace(note=notes.append, note_restart=notes.append)
    work_dirs, journal = WorkDirs(tmp_path, None), History()
    context: Any = SimpleNamespace(job=job, work_dirs=work_dirs, status=status, read_journal=lambda: journal)
    process = SimpleNamespace(kill=lambda: None)
    monkeypatch.setattr("colab_helpers.batch.worker_pool.WorkerProcess", lambda *given: process)
    nothing: Any = None
    return WorkerPool(context, [0], nothing, nothing, devices, print), notes


def test_worker_that_cannot_start_is_not_restarted_but_a_dead_one_is(monkeypatch, tmp_path) -> None:
    pool, notes = pool_of(monkeypatch, tmp_path)
    pool._spawn_missing()
    assert len(pool._workers) == 1, "the first worker scans all files first"
    pool._on_opened(pool._workers[0], WorkerInfo())
    pool._spawn_missing()
    pool._on_refused(pool._workers[1], ValueError("no networks"))
    pool._spawn_missing()
    (left,) = pool._workers
    assert left.loaded
    pool._on_lost(left, -35)  # a real-time signal, which has no name
    assert "died of Real-time signal 1 (signal 35)" in notes
    pool._spawn_missing()
    assert [member.number - left.number for member in pool._workers] == [2]
    with pytest.raises(ValueError, match="no networks"):
        pool._on_refused(pool._workers[0], ValueError("no networks"))


def test_gpu_that_cannot_start_or_crashes_leaves_the_work_to_the_other(monkeypatch, tmp_path) -> None:
    pool, notes = pool_of(monkeypatch, tmp_path, ["GPU-a", "GPU-b"])
    pool._spawn_missing()
    pool._on_refused(pool._workers[0], ValueError("no memory"))
    pool._spawn_missing()
    assert [each.device for each in pool._workers] == ["GPU-b"], "although the first was to scan first"
    pool, _ = pool_of(monkeypatch, tmp_path, ["GPU-a", "GPU-b"])
    pool._spawn_missing()
    with pytest.raises(UsageError, match="no face in the photo"):  # another GPU cannot find one either
        pool._on_refused(pool._workers[0], UsageError("no face in the photo"))
    pool, notes = pool_of(monkeypatch, tmp_path, ["GPU-a", "GPU-b"])
    pool._wait_for_first = False
    pool._spawn_missing()
    pool._on_opened(pool._workers[1], WorkerInfo())
    for _ in range(3):
        pool._on_lost(pool._workers[0 if pool._workers[0].device == "GPU-a" else 1], -11)
        pool._spawn_missing()
    assert [each.device for each in pool._workers] == ["GPU-b"]
    assert "3 worker processes in a row died" in notes[-1]
    for _ in range(3):  # workers had started successfully
        pool._on_lost(pool._workers[0], -11)
        pool._spawn_missing()
    with pytest.raises(WorkerError, match="3 worker processes in a row died"):
        pool._on_lost(pool._workers[0], -11)


@pytest.fixture
def pool_of_three(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[], tuple[WorkerPool, list[WorkerHandle]]]:
    """A pool of three workers without processes: two on segments of the first file, one on the second."""
    monkeypatch.setattr("colab_helpers.batch.worker_pool._POLL_INTERVAL", 0.0)
    monkeypatch.setattr(WorkerPool, "_spawn_missing", lambda _: None)

    def made() -> tuple[WorkerPool, list[WorkerHandle]]:
        tasks = tuple(Task(tmp_path / f"{name}.mp4", tmp_path / "out" / name) for name in "abc")
        job = Job(request=BatchRequest(output_dir=tmp_path), tasks=tasks)
        nothing: Any = None
        stop: Any = SimpleNamespace(check=lambda: None)
        status = StatusWriter(tmp_path / "status.json", tasks)
        context = WorkerContext(job, WorkDirs(tmp_path, None), status, stop)
        estimate: Any = SimpleNamespace(update=lambda: None)
        pool = WorkerPool(context, [0, 1, 2], estimate, nothing, [""] * 3, print)
        pool._workers = [WorkerHandle(number, nothing, "", "box") for number in range(3)]
        for each in pool._workers:
            pool._on_opened(each, WorkerInfo(device_name="GPU 0"))
        calls = (Call("segment", 0, 2), Call("segment", 0, 4), Call("whole", 1))
        pool._files = {
            0: FileInProgress(plan=FilePlan(segments=6, length=10, finished=(0, 1))),
            1: FileInProgress(),
        }
        for each, call in zip(pool._workers, calls, strict=True):
            each.assign(call)
        return pool, pool._workers

    return made


def test_workers_show_their_name_work_and_speed(pool_of_three) -> None:
    pool, (first, second, third) = pool_of_three()
    status = pool.context.status.status
    pool._show_progress(first, a_progress(25, 60, fps=8.0, gpu_load=90.0, gpu_percent=40.0))
    pool._show_progress(second, a_progress(41, 60, fps=2.0))
    pool._show_progress(third, a_progress(50, 100, file="b.mp4", file_index=1, fps=5.0))
    pool._supervise()
    assert [(one.name, one.file, one.segment, one.fps) for one in status.workers] == [
        ("box GPU 0", "a.mp4", 2, 8.0),
        ("box GPU 0 (2)", "a.mp4", 4, 2.0),
        ("box GPU 0 (3)", "b.mp4", None, 5.0),
    ]
    assert (status.workers[0].gpu_load, status.workers[0].gpu_percent) == (90.0, 40.0)
    assert (status.worker_count, status.idle, status.rate) == (3, 0, 15.0)
    assert (status.progress.file_index, status.progress.frame, status.progress.eta) == (0, 26, 3.4)
    assert [file.share for file in status.files] == [26 / 60, 0.5, 0.0]
    pool._finish_call(third, None, None, False)
    pool._show_progress(second, a_progress(45, 60, stage=FINDING))
    pool._supervise()
    stages = [(one.stage, one.fps) for one in status.workers]
    assert stages == [("frames", 8.0), (FINDING, 0.0), ("ready", 0.0)]
    assert (status.idle, status.rate) == (1, 8.0)


def test_journaled_segment_counts_once_in_the_progress(pool_of_three) -> None:
    pool, (first, second, _) = pool_of_three()
    pool._files[0].frames[2] = 10  # journaled, and its worker is one frame further
    for who, frame in ((first, 31), (second, 45)):
        pool._show_progress(who, a_progress(frame, 58, fps=1.0))
    progress = pool.context.status.status.progress
    assert (progress.frame, progress.eta) == (20 + 10 + 5, (58 - 35) / 2)
    pool._files[0].frames |= {3: 10, 5: 8}
    pool._show_progress(second, a_progress(57, 58))
    assert pool.context.status.status.progress.frame == 58
    pool._show_progress(second, a_progress(58, 58, stage=FINDING))
    assert pool.context.status.status.progress.frame == 48, "scanned frames are not processed frames"


def test_late_worker_changes_no_status_of_done_or_running_files(pool_of_three) -> None:
    pool, (first, _, third) = pool_of_three()
    status, done = pool.context.status.status, FileReport(target="c.mp4", status="done")
    pool.file_ended(2, done)
    pool._show_progress(first, a_progress(25, 60))
    third.assign(None)
    for index in range(3):
        pool._on_status(third, "file", (index, FileReport(target="?", status="queued")))
        pool._show_progress(third, a_progress(1, 60, file_index=index, stage=FINDING))
    assert status.files[2] is done
    assert (status.files[0].status, status.progress.frame) == ("running", 25)
    assert third.status("").stage == FINDING, "the worker shows its own stage"


def test_pause_of_one_worker_is_kept_whatever_others_report(pool_of_three) -> None:
    pool, (first, second, third) = pool_of_three()
    status = pool.context.status.status

    def pauses() -> tuple[str | None, list[str | None]]:
        pool._supervise()
        return status.pause, [one.pause for one in status.workers if one.pause]

    pool._on_status(second, "pause", ("the drive is full",))
    assert pauses() == ("the drive is full", ["the drive is full"])
    ticks = status.ticks
    pool._on_status(first, "pause", (None,))
    assert pauses() == ("the drive is full", ["the drive is full"]), "another worker resumes"
    assert status.ticks == ticks + 1, "a repeated pause is no progress"
    pool._on_status(third, "pause", ("the drive is gone",))
    assert pauses()[0] == "the drive is full, the drive is gone"
    pool._finish_call(second, None, None, False)  # with an error, without reporting the end of its pause
    assert pauses() == ("the drive is gone", ["the drive is gone"])
    pool._workers.remove(third)
    assert pauses() == (None, []), "the paused worker has died"


def test_preview_frame_is_taken_from_the_displayed_file(pool_of_three) -> None:
    pool, (first, _, third) = pool_of_three()
    pool._show_progress(first, a_progress(25, 60))
    pool._on_status(third, "picture", ("data:b",))
    assert pool.context.status.status.picture is None
    pool._on_status(first, "picture", ("data:a",))
    assert pool.context.status.status.picture == "data:a"


def test_worker_does_not_wait_for_memory_within_a_file() -> None:
    waits, made = list[bool](), list[int]()
    runner: Any = SimpleNamespace(
        _segment_key=(0, "libx264", NO_DEATHS),
        _maker=SimpleNamespace(make=lambda number, has_successor: made.append(number)),
        guard=SimpleNamespace(short=False, check=lambda wait: waits.append(wait)),
    )
    TaskRunner.make_segment(runner, 0, 3, encoder="libx264")
    assert (made, waits) == ([3], [False])


def test_memory_growth_is_checked_after_work_with_all_networks(monkeypatch) -> None:
    checks, sent = list[int](), list[Any]()
    monkeypatch.setattr(pool_worker.MemoryGrowth, "check", lambda *_: checks.append(len(sent)))
    runner: Any = SimpleNamespace(prepare=lambda index: "plan", make_segment=lambda index: None)
    calls = iter([("prepare", {"index": 0}), ("make_segment", {"index": 0})])
    process: Any = SimpleNamespace(recv=calls.__next__, send=sent.append)
    with pytest.raises(StopIteration):
        pool_worker._serve(runner, process, StopToken())
    assert sent == [("done", "plan", False), ("done", None, False)]
    assert checks == [1]


def test_journaled_segment_resets_death_counts_of_earlier_pools(pool_of_three) -> None:
    pool, (*_, third) = pool_of_three()
    pool._earlier_deaths = {str(pool.context.job.tasks[1].target): 2}
    pool.journal, third.process = (SimpleNamespace(append=print, send=print) for _ in range(2))
    assert pool._deaths(third.call)[0] == 2
    part = SimpleNamespace(segment=SimpleNamespace(number=0, frames=10))
    pool._on_entry(third, SegmentDone.model_construct(key="k", part=part))
    assert pool._deaths(third.call) == NO_DEATHS


def test_file_is_displayed_until_done_then_a_running_one(pool_of_three) -> None:
    pool, (first, second, third) = pool_of_three()
    status = pool.context.status.status
    pool._show_progress(first, a_progress(25, 60))
    first.assign(Call("prepare", 2))
    pool._files[2] = FileInProgress()
    pool._show_progress(third, a_progress(50, 100, file="b.mp4", file_index=1))
    pool._show_progress(first, a_progress(1, 60, file="c.mp4", file_index=2, stage=FINDING))
    assert status.progress.file_index == 0, "the second worker is still on it"
    pool._finish_call(second, Call("segment", 0, 4), FileReport(target="a.mp4", status="failed"), False)
    pool._show_progress(third, a_progress(51, 100, file="b.mp4", file_index=1))
    assert (status.progress.file_index, status.progress.frame) == (1, 51), "not a finished file"
