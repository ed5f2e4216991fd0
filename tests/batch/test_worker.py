"""The worker process: started, watched, killed, hung, stopped, resumed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest

from colab_helpers.api import run_batch
from colab_helpers.batch import processes, run_watcher, supervisor
from colab_helpers.batch import status as status_module
from colab_helpers.batch.job import Job
from colab_helpers.batch.journal import Journal, WorkStarted
from colab_helpers.batch.processes import STOPPED
from colab_helpers.batch.report import JOURNAL_NAME, KEPT
from colab_helpers.batch.stop import STOP_NAME
from colab_helpers.batch.supervisor import BatchStopped
from colab_helpers.errors import MissingFileError, ModelError, UsageError, WorkerError
from colab_helpers.files import write_atomically
from colab_helpers.language import LanguageChoice, use_language
from colab_helpers.request import BatchRequest
from tests.conftest import TIMEOUT, until
from tests.helpers.processes import (
    SECONDS,
    UNLABELLED,
    contents,
    has_signal_pending,
    hold,
    interrupt,
    journal_entries,
    leftover_files,
    repeated_segments,
    run_at_worker_start,
    wait_for_exit,
)
from tests.media.make import Sound, Spec, make

NAMES = ("a.mp4", "b.mp4", "c.mp4")
pytestmark = pytest.mark.usefixtures("no_pages")


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("targets")
    for k, name in enumerate(NAMES):
        make(folder / name, Spec(frames=12 + 6 * k, rate=Fraction(5), sounds=(Sound(),)))
    return folder


def assert_tidy(out: Path) -> None:
    """No finished segment was repeated, and only results and records are left."""
    assert repeated_segments(out) == {}
    assert leftover_files(out, *NAMES) == set()


@pytest.fixture
def batch(targets: Path, photo: Path, constant_models: Path, consent: str, tmp_path: Path) -> Any:
    def run(*files: Path, **options: Any) -> Any:
        given = {"consent": consent, "settings": SECONDS, "models_dir": constant_models, **options}
        return run_batch([photo], files or [targets], tmp_path / "out", **given)

    return run


def test_worker_gives_the_same_results_as_in_process_work(batch, tmp_path) -> None:
    progress: list[Any] = []
    notes: list[str] = []
    report = batch(on_progress=progress.append, on_status=lambda status: notes.extend(status.remarks))
    assert report.ok
    assert {Path(update.file).name for update in progress} <= set(NAMES)
    assert any("files are processed one at a time" in note for note in notes)
    assert report.run
    assert [file.segments for file in report.files] == [3, 4, 5]
    assert all(file.times_kept for file in report.files)
    assert leftover_files(tmp_path / "out", *NAMES) == set()
    found = contents(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    assert batch(in_process=True).ok
    assert contents(tmp_path / "out") == found


def test_start_error_of_the_worker_is_raised_here(batch, targets, constant_models, tmp_path, consent) -> None:
    with pytest.raises(ModelError, match=r"det_10g\.onnx.*missing.*What to do"):
        batch(models_dir=tmp_path / "none")
    status = json.loads((tmp_path / "out" / "status.json").read_text())
    assert status["state"] == "failed"
    assert "missing" in status["notes"][-1]
    assert not (tmp_path / "out" / ".work").exists()
    with pytest.raises(MissingFileError, match="no such file"):
        run_batch(
            [tmp_path / "none.png"], [targets], tmp_path / "out",
            consent=consent, settings=SECONDS, models_dir=constant_models,
        )  # fmt: skip


@pytest.fixture
def memory_group(tmp_path: Path) -> Iterator[Callable[[int], None]]:
    """Puts a process into a memory group with two megabytes left; the kernel kills it beyond that."""
    root = Path("/sys/fs/cgroup")
    old = root / "memory" / "memory.limit_in_bytes"
    name = f"colab_helpers-{tmp_path.parent.name}-{os.getpid()}"
    group = old.with_name(name) if old.exists() else root / name
    limit = "memory.limit_in_bytes" if old.exists() else "memory.max"
    try:
        group.mkdir()
        (group / limit).write_text(str(2 << 20))
    except OSError as error:
        pytest.skip(f"no memory group can be made here: {error}")

    def put(pid: int) -> None:
        (group / "cgroup.procs").write_text(str(pid))

    yield put

    def removed() -> bool:
        with suppress(OSError):
            group.rmdir()
        return not group.exists()

    until(removed)


def test_worker_killed_for_lack_of_memory_is_replaced(shell, tmp_path, memory_group, monkeypatch) -> None:
    hold(monkeypatch, tmp_path, file=1, frame=8)
    killed = shell()
    process = killed.start()
    worker = killed.held()
    memory_group(worker.pid)
    worker.resume()
    text = wait_for_exit(process)
    assert "was killed, as the system does when memory runs out" in text
    assert repeated_segments(tmp_path / "out") == {}
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["summary"]["restarts"] == 1
    assert not any(KEPT in file["fallbacks"] for file in report["files"])
    with_less_memory = [
        file for file in report["files"] if any("max_memory lowered" in n for n in file["fallbacks"])
    ]
    assert len(with_less_memory) <= 1
    assert leftover_files(tmp_path / "out", *NAMES) == set()


def test_file_that_kills_three_workers_is_given_up(batch, monkeypatch, tmp_path) -> None:
    run_at_worker_start(monkeypatch, tmp_path, DEADLY)
    report = batch()
    assert [file.status for file in report.files] == ["done", "failed", "done"]
    assert "died 3 times on this file, last: was killed" in (report.files[1].error or "")
    assert "What to do" in (report.files[1].error or "")
    assert report.summary.restarts == 3
    assert [Path(e["target"]).name for e in journal_entries(tmp_path / "out", "started")] == [
        "a.mp4", "b.mp4", "b.mp4", "b.mp4", "c.mp4",
    ]  # fmt: skip
    assert leftover_files(tmp_path / "out", *NAMES) == set()
    # Another run tries the file again.
    assert batch(in_process=True).ok


DEADLY = """
    import os, signal
    from colab_helpers.batch.run_file import FileRun
    original = FileRun.run
    def run(self):
        if self.index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self)
    FileRun.run = run
"""


def test_worker_that_dies_at_start_is_not_restarted_for_ever(batch, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(supervisor.sys, "executable", "/bin/false")
    with pytest.raises(WorkerError, match="3 worker processes in a row"):
        batch()


def test_hung_worker_is_killed_and_replaced(shell, tmp_path, monkeypatch) -> None:
    hold(monkeypatch, tmp_path, file=1, frame=1)
    hung = shell("out", "--stall-timeout", "10", "--gpu-memory-wait", "0")
    process = hung.start()
    text = wait_for_exit(process)
    assert "made no progress for 10 seconds" in text
    assert repeated_segments(tmp_path / "out") == {}
    assert hung.workers() == []


def test_second_start_watches_the_batch_and_another_batch_is_refused(shell, tmp_path, monkeypatch) -> None:
    hold(monkeypatch, tmp_path, file=0, frame=1)
    watched = shell()
    first = watched.start()
    worker = watched.held()
    second = watched.start()
    assert second.stdout is not None
    assert "files are processed one at a time" in second.stdout.readline()  # it watches
    code, text = shell("out", "--output-video-quality", "30").run()
    assert code == 2
    assert f"process {worker.pid} on" in text
    assert "What to do" in text
    worker.resume()
    results = [wait_for_exit(process) for process in (first, second)]
    assert len({entry["pid"] for entry in journal_entries(tmp_path / "out", "started")}) == 1
    assert "3 of 3 files" in results[1]


def test_job_digest_depends_on_the_language_of_the_label(tmp_path) -> None:
    def digest(language: LanguageChoice, **settings: object) -> str:
        request = BatchRequest(targets=["a.mp4"], output_dir=tmp_path, overrides=settings)
        with use_language(language):
            return Job.of(request, [], [], tmp_path).digest

    assert digest("en") != digest("es")
    for settings in ({"visible_label_text": "AI"}, UNLABELLED):
        assert digest("en", **settings) == digest("es", **settings)


def test_worker_continues_after_its_shell_is_killed(shell, tmp_path, monkeypatch) -> None:
    hold(monkeypatch, tmp_path, file=0, frame=1)
    batch = shell()
    process = batch.start()
    worker = batch.held()
    process.kill()
    process.communicate()
    assert batch.workers() == [worker]
    worker.resume()
    batch.until(lambda status: status["state"] == "done")
    psutil.wait_procs(batch.workers(), timeout=TIMEOUT)
    text = wait_for_exit(batch.start())
    assert text.count(KEPT) == 3
    assert leftover_files(tmp_path / "out", *NAMES) == set()


DIES_REPORTING = """
    import os, signal, time
    from pathlib import Path
    from colab_helpers.batch.report import BatchReport
    original = BatchReport.save
    def save(report, path):
        go = path.parents[1] / "go"
        if not go.exists():
            (path.parents[1] / "reporting").touch()
            while not go.exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        original(report, path)
    BatchReport.save = save
"""


def test_worker_that_dies_before_its_report_is_replaced(shell, tmp_path, monkeypatch) -> None:
    run_at_worker_start(monkeypatch, tmp_path, DIES_REPORTING)
    batch = shell()
    first = batch.start()
    batch.until(lambda _: (tmp_path / "reporting").exists())
    assert batch.status()["state"] == "running"
    first.kill()
    first.communicate()
    second = batch.start()
    assert second.stdout is not None
    assert "files are processed one at a time" in second.stdout.readline()  # it watches
    (tmp_path / "go").touch()
    text = wait_for_exit(second)
    assert "ended without a final status" in text
    assert json.loads((tmp_path / "out" / "report.json").read_text())["summary"]["succeeded"] == len(NAMES)
    assert batch.status()["state"] == "done"
    assert leftover_files(tmp_path / "out", *NAMES) == set()


class Elsewhere:
    """Another machine that processes the same batch; only its files in the folder are visible."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.status = json.loads((out / "status.json").read_text())
        self.report = json.loads((out / "report.json").read_text())
        # The PID also exists on this machine, for an unrelated process.
        self.changes = {"host": "elsewhere", "run": "other", "pid": os.getpid(), "notes": []}
        self.running = {"target": "a.mp4", "status": "running"}
        self.write_status("running", 0)

    def write_status(self, state: str, frame: int) -> None:
        status = {**self.status, **self.changes, "state": state, "updated": time.time()}
        status["files"] = [self.running, *self.status["files"][1:]]
        status["progress"] = {**self.status["progress"], "file_index": 0, "frame": frame}
        write_atomically(self.out / "status.json", json.dumps(status).encode())

    def work(self, end: str) -> None:
        """Make progress until the batch is done, stopped or switched off."""
        frame = 0
        while frame < 10 if end != "cancelled" else not (self.out / STOP_NAME).exists():
            frame += 1
            self.write_status("running", frame)
            time.sleep(0.02)
        if end == "lost":
            return
        report = {**self.report, "run": "other", "stopped": end == "cancelled"}
        write_atomically(self.out / "report.json", json.dumps(report).encode())
        (self.out / STOP_NAME).unlink(missing_ok=True)
        self.write_status(end, frame)


SHORT_TIMEOUT = """
    import colab_helpers.batch.status
    colab_helpers.batch.status.HEARTBEAT_TIMEOUT = 3.0
"""


@pytest.mark.parametrize("end", ["done", "cancelled", "lost"])
def test_batch_running_on_another_machine_is_watched(batch, tmp_path, monkeypatch, end) -> None:
    assert batch(in_process=True).ok
    other = Elsewhere(tmp_path / "out")
    monkeypatch.setattr(run_watcher, "REMOTE_POLL_INTERVAL", 0.01)
    statuses: list[Any] = []

    def watch(status: Any) -> None:
        statuses.append(status)
        if end == "cancelled" and len(statuses) == 2:
            raise KeyboardInterrupt

    machine = threading.Thread(target=other.work, args=(end,))
    machine.start()
    try:
        if end == "lost":
            monkeypatch.setattr(supervisor, "HEARTBEAT_TIMEOUT", 3.0)
            monkeypatch.setattr(status_module, "HEARTBEAT_TIMEOUT", 3.0)
            run_at_worker_start(monkeypatch, tmp_path, SHORT_TIMEOUT)  # for the worker that takes over
            report = batch(on_status=watch)
            assert report.ok
            assert report.run != "other"
            assert any("ended without a final status" in note for note in report.notes)
            assert all(KEPT in file.fallbacks for file in report.files)
        else:
            monkeypatch.setattr(supervisor.subprocess, "Popen", None)  # no process is started here
            with pytest.raises(BatchStopped) if end == "cancelled" else nullcontext() as stopped:
                report = batch(on_status=watch)
            report = stopped.value.report if stopped else report
            assert (report.run, report.stopped) == ("other", end == "cancelled")
    finally:
        machine.join(TIMEOUT)
    assert {status.run for status in statuses[:2]} == {"other"}
    assert statuses[1].running.frame >= statuses[0].running.frame
    assert not (tmp_path / "out" / STOP_NAME).exists()
    assert leftover_files(tmp_path / "out", *NAMES) == set()


def test_session_length_gives_an_estimate_and_keeps_the_job_digest(batch, tmp_path) -> None:
    notes: list[str] = []
    assert batch(
        session_minutes=60, shortest_first=True, on_status=lambda status: notes.extend(status.remarks)
    ).ok
    assert any("3 of 3 file(s) fit the 60 minutes" in note for note in notes)
    assert [Path(e["target"]).name for e in journal_entries(tmp_path / "out", "started")] == list(NAMES)
    first = json.loads((tmp_path / "out" / "status.json").read_text())["job"]
    assert batch().ok
    assert json.loads((tmp_path / "out" / "status.json").read_text())["job"] == first


PAGE_CRASHES = """
import os, signal, sys
if "colab_helpers.pages" in sys.orig_argv:
    os.kill(os.getpid(), signal.SIGSEGV)
"""


@pytest.mark.usefixtures("pages")
def test_crashing_decoder_affects_only_the_page(batch, tmp_path) -> None:
    assert batch(in_process=True).ok
    assert "Batch report" in (tmp_path / "out" / "report.html").read_text()
    (tmp_path / "site" / "sitecustomize.py").write_text(PAGE_CRASHES)
    report = batch()
    assert report.ok
    assert report.summary.restarts == 0
    assert "report.html was not written: died of SIGSEGV" in report.notes[-1]
    assert not (tmp_path / "out" / "report.html").exists(), "the page of an earlier run is removed"
    status = json.loads((tmp_path / "out" / "status.json").read_text())
    assert (status["state"], status["notes"][-1]) == ("done", report.notes[-1])


def test_page_that_takes_too_long_is_given_up(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(processes, "PAGE_TIMEOUT", 0.2)
    monkeypatch.setattr(processes, "PAGE_POLL_INTERVAL", 0.05)
    hangs = tmp_path / "hangs"
    hangs.write_text("#!/bin/sh\nexec sleep 600\n")
    hangs.chmod(0o755)
    monkeypatch.setattr(processes.sys, "executable", str(hangs))
    heartbeats: list[None] = []
    problem = processes.make_page(tmp_path, tmp_path / "r", lambda: heartbeats.append(None))
    assert problem.startswith("it took longer than")
    assert heartbeats


HANGS = """
import os, signal, sys, time
from pathlib import Path
from colab_helpers.batch import processes, stop
stop.STOP_TIMEOUT, stop.POLL_INTERVAL = 0.2, 0.05
token = stop.StopToken(owns_process=True)
with token.watching_file(Path(sys.argv[1]), on_late=lambda: os._exit(processes.STOPPED)):
    Path(sys.argv[1]).touch()
    time.sleep(600)
"""


def test_hung_work_is_ended_after_a_stop_request(tmp_path) -> None:
    command = [sys.executable, "-c", HANGS, str(tmp_path / "STOP")]
    assert subprocess.run(command, timeout=TIMEOUT, check=False).returncode == STOPPED


HANGING_DRIVE = """
    import time
    import colab_helpers.batch.status as status
    original, status.REMOTE_STATUS_TIMEOUT = status.write_text, 0.2
    def write(path, text):
        if path.parent.name == "out":
            time.sleep(600)
        original(path, text)
    status.write_text = write
"""


def test_unwritable_status_does_not_kill_a_healthy_worker(batch, tmp_path, monkeypatch) -> None:
    run_at_worker_start(monkeypatch, tmp_path, HANGING_DRIVE)
    settings = SECONDS.with_overrides(stall_timeout=10.0, gpu_memory_wait=0.0)
    report = batch(work_dir=tmp_path / "local", settings=settings)
    assert report.ok
    assert report.summary.restarts == 0


def test_stop_ends_cleanly_and_the_next_run_resumes(shell, tmp_path, monkeypatch) -> None:
    hold(monkeypatch, tmp_path, file=1, frame=6)
    stopped = shell()
    process = stopped.start()
    worker = stopped.held()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGINT):  # sent to the worker itself
        worker.send_signal(number)
    until(lambda: has_signal_pending(worker.pid))
    worker.resume()
    text = wait_for_exit(process, 130)
    assert " of 3 files" in text
    assert "a new one continues" not in text
    assert stopped.workers() == []
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["stopped"]
    assert (report["files"][0]["status"], report["files"][2]["status"]) == ("done", "skipped")
    status = stopped.status()
    assert (status["state"], status["files"][0]["status"]) == ("cancelled", "done")
    assert leftover_files(tmp_path / "out", *NAMES) <= {".work"}
    assert not list((tmp_path / "out").rglob(".*.part*"))
    wait_for_exit(stopped.start())
    assert repeated_segments(tmp_path / "out") == {}
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["files"][1]["segments_kept"] >= 1 or KEPT in report["files"][1]["fallbacks"]
    assert leftover_files(tmp_path / "out", *NAMES) == set()


def test_second_ctrl_c_ends_at_once_and_keeps_finished_work(shell, tmp_path, monkeypatch) -> None:
    hold(monkeypatch, tmp_path, file=1, frame=6)
    stopped = shell()
    process = stopped.start()
    worker = stopped.held()  # it cannot clean up
    interrupt(process)
    until(lambda: has_signal_pending(worker.pid))
    assert process.poll() is None
    interrupt(process)
    wait_for_exit(process, 130)
    assert stopped.workers() == []
    wait_for_exit(stopped.start())
    assert_tidy(tmp_path / "out")


def test_worker_with_grown_memory_replaces_itself(batch, monkeypatch, tmp_path) -> None:
    codes: list[int] = []
    original = supervisor.Supervisor.start_worker

    def started(self: Any, cause: str) -> Any:
        end = original(self, cause)
        codes.append(end.code)
        return end

    monkeypatch.setattr(supervisor.Supervisor, "start_worker", started)
    run_at_worker_start(monkeypatch, tmp_path, GROWING)
    pids: set[int] = set()
    report = batch(on_status=lambda status: pids.add(status.pid))
    assert report.ok
    assert report.summary.seconds >= sum(file.seconds for file in report.files)
    # It replaces itself after each file, without the supervisor.
    assert (tmp_path / "processes").read_text() == "xxx"
    assert (codes, len(pids)) == ([0], 1)
    assert report.summary.restarts == 0
    assert not any(KEPT in file.fallbacks for file in report.files)


GROWING = """
    from pathlib import Path
    place = Path(__file__).parents[1] / "processes"
    place.write_text((place.read_text() if place.exists() else "") + "x")
    from colab_helpers.batch import memory_growth
    memory_growth.GROWTH, memory_growth.GROWTH_BYTES = 0.0, 0
"""


def test_traces_of_other_runs_and_dead_processes_are_ignored(batch, tmp_path) -> None:
    assert batch().ok
    (done, *_) = journal_entries(tmp_path / "out", "done")
    (tmp_path / "out" / "a.mp4").unlink()
    with Journal(tmp_path / "out" / JOURNAL_NAME) as journal:
        for _ in range(5):
            journal.append(WorkStarted(key=done["key"], run="another", target="a.mp4", pid=1))
    path = tmp_path / "out" / "status.json"
    status = json.loads(path.read_text())
    # A later process has that PID now, and the heartbeat is too old.
    updated = time.time() - 2 * status_module.HEARTBEAT_TIMEOUT
    path.write_text(json.dumps({**status, "state": "running", "pid": os.getpid(), "updated": updated}))
    assert batch().ok


def test_sources_in_memory_reach_the_worker(targets, constant_models, consent, tmp_path) -> None:
    image = np.full((64, 64, 3), 90, np.uint8)
    report = run_batch(
        [image, cv2.imencode(".jpg", image)[1].tobytes()], [targets / "a.mp4"], tmp_path / "out",
        consent=consent, settings=SECONDS, models_dir=constant_models,
    )  # fmt: skip
    assert report.ok
    assert report.files[0].source == ["image in memory (ndarray)", "image in memory (bytes)"]


def test_usage_errors_are_raised_before_any_process_starts(batch, monkeypatch, targets, tmp_path) -> None:
    monkeypatch.setattr(supervisor.subprocess, "Popen", None)
    with pytest.raises(UsageError, match="selects none"):
        batch(video_range="9-12")
    assert not (tmp_path / "out").exists()
