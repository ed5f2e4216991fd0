"""The status of a batch, during the run and after it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from colab_helpers.__main__ import main
from colab_helpers.batch import status as status_module
from colab_helpers.batch.plan import Task
from colab_helpers.batch.report import FileReport
from colab_helpers.batch.status import BatchStatus, StatusWriter, end_status, read_status
from colab_helpers.batch.stop import HEARTBEAT_TIMEOUT, STATUS_NAME, STOP_NAME
from colab_helpers.command_line import SUCCESS
from colab_helpers.errors import MissingFileError, UsageError
from colab_helpers.progress import Progress
from tests.conftest import TIMEOUT
from tests.helpers.reports import a_progress
from tests.media.make import Spec, make


def progress(frame: int, *, file: int = 0) -> Progress:
    return a_progress(frame, 100, file_index=file, fps=25.0, eta=3.0, provider="cpu")


def tasks(tmp_path: Path) -> list[Task]:
    return [Task(tmp_path / name, tmp_path / "out" / name) for name in ("a.mp4", "b.mp4")]


def test_status_can_be_read_during_a_run(batch, tmp_path) -> None:
    targets = [make(tmp_path / f"{name}.mp4", Spec(frames=20)) for name in "ab"]
    (tmp_path / "text.mp4").write_text("no video")
    statuses: list[BatchStatus] = []

    def look(_: Progress) -> None:
        statuses.append(read_status(tmp_path / "out"))

    batch(targets[0], tmp_path / "text.mp4", targets[1], on_progress=look)
    assert [file.status for file in statuses[0].files] == ["running", "queued", "queued"]
    assert [file.status for file in statuses[-1].files] == ["done", "failed", "running"]
    assert all(status.alive() and status.pid == os.getpid() for status in statuses)
    assert statuses[0].running.ram_percent > 0
    last = read_status(tmp_path / "out")
    assert (last.state, last.alive()) == ("failed", False)
    assert [file.status for file in last.files] == ["done", "failed", "done"]
    assert last.files[0].frames_out == 20
    assert "text.mp4" in last.files[1].error
    assert Path(last.files[2].output) == tmp_path / "out" / "b.mp4"


def test_status_is_written_twice_a_second_and_at_state_changes(tmp_path) -> None:
    now = [0.0]
    writer = StatusWriter(tmp_path / STATUS_NAME, tasks(tmp_path), clock=lambda: now[0])
    frames = []
    for frame in range(50):
        now[0] += 0.1
        writer.progress(progress(frame))
        frames.append(read_status(tmp_path).progress.frame)
    assert 9 <= len(set(frames)) <= 11
    writer.file(0, FileReport(source=[], target="a.mp4", status="done", frames_out=100))
    assert read_status(tmp_path).files[0].status == "done"
    writer.progress(progress(1, file=1))
    assert read_status(tmp_path).progress.frame == 1
    assert json.loads((tmp_path / STATUS_NAME).read_text())["schema"] == 1


def test_status_of_many_files_is_written_twice_a_second(tmp_path) -> None:
    now = [0.0]
    many = [Task(tmp_path / f"{n}.mp4", tmp_path / "out" / f"{n}.mp4") for n in range(101)]
    writer = StatusWriter(tmp_path / STATUS_NAME, many, clock=lambda: now[0])

    def done(*numbers: int) -> int:
        for number in numbers:
            writer.file(number, FileReport(target=str(many[number].target), status="done"))
        return [file.status for file in read_status(tmp_path).files].count("done")

    assert done(0, 1) == 0
    now[0] = 0.5
    assert done(2) == 3
    assert done(3) == 3
    writer.end()
    assert done() == 4, "the final status is always written"


def test_unwritable_status_does_not_stop_the_work(batch, tmp_path) -> None:
    (tmp_path / "out" / STATUS_NAME).mkdir(parents=True)
    report = batch(make(tmp_path / "a.mp4", Spec(frames=5)))
    assert report.ok
    assert any("the status could not always be written" in note for note in report.notes)


def dead_pid() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    return ended.pid


def test_status_command_prints_the_status(tmp_path, capsys) -> None:
    writer = StatusWriter(tmp_path / STATUS_NAME, tasks(tmp_path))
    writer.progress(progress(40))
    assert main(["status", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("running: 0 of 2 files finished (1 queued, 1 running)")
    assert "a.mp4: 40/100 frames, 25.0 frames/s, ETA 0:03" in out
    assert "  queued     b.mp4" in out
    writer.file(0, FileReport(source=[], target="a.mp4", status="failed", error="it broke"))
    writer.status.memory_warnings = 1
    writer.end()
    assert main(["status", str(tmp_path), "--json"]) == 1
    status = json.loads(capsys.readouterr().out)
    assert (status["state"], status["memory_warnings"]) == ("failed", 1)
    assert [file["status"] for file in status["files"]] == ["failed", "cancelled"]


def test_missing_status_and_unknown_schema_are_refused(tmp_path) -> None:
    with pytest.raises(MissingFileError, match="output folder of a batch"):
        read_status(tmp_path)
    (tmp_path / STATUS_NAME).write_text('{"schema": 99}')
    with pytest.raises(UsageError, match="this version"):
        read_status(tmp_path)


def test_mounted_drive_is_updated_less_often_than_the_local_disk(tmp_path) -> None:
    now = [0.0]
    local_path, remote = tmp_path / "local.json", tmp_path / STATUS_NAME
    writer = StatusWriter(remote, tasks(tmp_path), local_path=local_path, clock=lambda: now[0])
    writer.progress(progress(1))
    versions: dict[Path, set[int]] = {local_path: set(), remote: set()}
    for frame in range(2, 102):
        now[0] += 0.1
        writer.progress(progress(frame))
        for path, frames in versions.items():
            if path.exists():  # a thread copies it to the drive
                frames.add((json.loads(path.read_text())["progress"] or {"frame": 0})["frame"])
    assert 18 <= len(versions[local_path]) <= 21
    assert len(versions[remote]) <= 4
    writer.file(0, FileReport(source=[], target="a.mp4", status="done", frames_out=100))
    writer.end()  # waits until the drive has it
    assert read_status(tmp_path).files[0].status == "done"
    assert remote.read_text() == local_path.read_text()


def test_hanging_drive_blocks_neither_work_nor_heartbeat(tmp_path, monkeypatch) -> None:
    local_path, remote = tmp_path / "local.json", tmp_path / STATUS_NAME
    original, resumed, remote_writes = status_module.write_text, threading.Event(), []

    def write(path: Path, text: str) -> None:
        if path == remote:
            remote_writes.append(text)
            resumed.wait(TIMEOUT)
        original(path, text)

    monkeypatch.setattr(status_module, "write_text", write)
    monkeypatch.setattr(status_module, "REMOTE_STATUS_TIMEOUT", 0.2)
    started = time.monotonic()
    writer = StatusWriter(remote, tasks(tmp_path), local_path=local_path, clock=lambda: 0.0)
    for index in (0, 1):
        writer.progress(progress(40, file=index))
        writer.heartbeat()
        writer.file(index, FileReport(source=[], target="x", status="done", frames_out=100))
    writer.end()
    assert time.monotonic() - started < TIMEOUT / 2
    status = BatchStatus.model_validate_json(local_path.read_bytes())
    assert (status.state, [file.status for file in status.files]) == ("done", ["done", "done"])
    assert "the drive does not respond" in status.notes[-1]
    assert not remote.exists()
    resumed.set()
    while not (remote.exists() and read_status(tmp_path).state == "done"):
        assert time.monotonic() - started < TIMEOUT
        time.sleep(0.01)
    assert len(remote_writes) == 2, "outdated versions are not written"


@pytest.mark.parametrize(
    ("host", "worker", "supervisor", "overdue", "alive"),
    [
        ("here", "lives", "gone", True, True),
        ("here", "gone", "lives", False, True),  # it starts a new worker
        ("here", "gone", "lives", True, False),  # alive, as a notebook's kernel, but inactive
        ("here", "gone", "gone", False, False),
        ("here", "gone", "another", False, False),  # another process with its PID
        ("another", "gone", "gone", False, True),  # only its heartbeat is seen
        ("another", "gone", "gone", True, False),
    ],
)
def test_batch_is_alive_while_a_worker_or_active_supervisor_runs(
    tmp_path, capsys, host, worker, supervisor, overdue, alive
) -> None:
    here = psutil.Process()
    pids = {"lives": here.pid, "another": here.pid, "gone": dead_pid()}
    status = BatchStatus(
        pid=pids[worker],
        supervisor=pids[supervisor],
        supervisor_started=here.create_time() + (100 if supervisor == "another" else 0),
        host=socket.gethostname() if host == "here" else host,
        started=0,
        updated=time.time() - (2 * HEARTBEAT_TIMEOUT if overdue else 0),
        files=[],
    )
    (tmp_path / STATUS_NAME).write_text(status.model_dump_json(by_alias=True))
    assert status.alive() is alive
    main(["status", str(tmp_path)])
    assert capsys.readouterr().out.startswith("ended unexpectedly") is not alive
    assert (main(["stop", str(tmp_path)]) == SUCCESS) is alive
    assert (tmp_path / STOP_NAME).exists() is alive


def test_status_of_a_dead_worker_is_ended_for_it(tmp_path) -> None:
    writer = StatusWriter(tmp_path / STATUS_NAME, tasks(tmp_path), run="r")
    writer.file(0, FileReport(source=[], target="a.mp4", status="done"))
    end_status([tmp_path / STATUS_NAME], "another", cancelled=True)
    assert read_status(tmp_path).state == "running"
    end_status([tmp_path / STATUS_NAME, tmp_path / "none"], "r", cancelled=True, note="it hung")
    status = read_status(tmp_path)
    assert (status.state, [file.status for file in status.files]) == ("cancelled", ["done", "cancelled"])
    assert status.notes == ["it hung"]


def test_restarted_worker_continues_the_status_of_its_run(tmp_path) -> None:
    first = StatusWriter(tmp_path / STATUS_NAME, tasks(tmp_path), run="r")
    first.note("something to know")
    first.status.memory_warnings = 2
    first.tick()
    first.heartbeat()
    second = StatusWriter(tmp_path / STATUS_NAME, tasks(tmp_path), run="r")
    second.note_restart("was killed")
    assert second.status.started == first.status.started
    assert second.status.restarts == 1
    assert second.status.memory_warnings == 2
    assert second.status.notes == [
        "something to know",
        "the worker process was killed; a new one continues, finished work is kept",
    ]
    other = StatusWriter(tmp_path / STATUS_NAME, tasks(tmp_path), run="s")
    assert (other.status.restarts, other.status.notes) == (0, [])


def test_pause_is_shown_while_it_lasts(tmp_path) -> None:
    writer = StatusWriter(tmp_path / STATUS_NAME, tasks(tmp_path))
    writer.heartbeat()
    assert read_status(tmp_path).ticks == 0, "ticks come from the work, not from the heartbeat"
    writer.pause("no room")
    assert (read_status(tmp_path).pause, read_status(tmp_path).ticks) == ("no room", 1)
    writer.pause(None)
    assert read_status(tmp_path).pause is None


def test_folder_in_use_by_another_machine_is_refused(batch, tmp_path) -> None:
    target = make(tmp_path / "a.mp4", Spec(frames=5))
    assert batch(target).ok
    path = tmp_path / "out" / STATUS_NAME
    status = {**json.loads(path.read_text()), "state": "running", "host": "elsewhere", "pid": 7}
    path.write_text(json.dumps({**status, "updated": time.time()}))
    with pytest.raises(UsageError, match=r"another machine .*process 7 on elsewhere.*What to do"):
        batch(target)
    path.write_text(json.dumps({**status, "updated": time.time() - 2 * HEARTBEAT_TIMEOUT}))
    assert batch(target).ok


def test_folder_without_its_lock_is_refused_by_its_status(batch, tmp_path) -> None:
    """Mounted drives have no locks, and a batch may have started before the folder was mounted."""
    target = make(tmp_path / "a.mp4", Spec(frames=5))
    assert batch(target).ok
    path, other = tmp_path / "out" / STATUS_NAME, psutil.Process(os.getppid())
    changes = {"state": "running", "pid": other.pid, "pid_started": other.create_time()}
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(UsageError, match=rf"another run .*process {other.pid} on.*What to do"):
        batch(target)
