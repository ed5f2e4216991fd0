"""monitor.ipynb run with papermill, and the functions that its cells call."""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest

from colab_helpers.batch.plan import Task
from colab_helpers.batch.report import FileReport
from colab_helpers.batch.status import BatchStatus, StatusWriter, read_status
from colab_helpers.batch.stop import STATUS_NAME
from colab_helpers.diagnosis import Check, Diagnosis
from colab_helpers.errors import MissingFileError, UsageError
from colab_helpers.pages.live import RESUME_REMEDY, RETRY_REMEDY
from colab_helpers.request import MonitorRequest
from colab_helpers.resources.samples import SAMPLES_NAME, Sample
from colab_helpers.ui import monitor
from colab_helpers.ui.monitor import MonitorSummary, show_result, watch
from tests.conftest import TIMEOUT, until
from tests.helpers.reports import a_progress
from tests.helpers.reports import bare_sample as sample

NOTEBOOK = "monitor"
NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
NO_PROCESS = 2**22 + 1
"""Above the greatest process id of Linux."""


def append(folder: Path, *samples: Sample) -> None:
    with (folder / SAMPLES_NAME).open("a") as file:
        file.writelines(item.model_dump_json() + "\n" for item in samples)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def writer(folder: Path) -> StatusWriter:
    """The status of a run of two files, started by this process."""
    tasks = [Task(Path("/in") / name, folder / name) for name in ("a.mp4", "b.mp4")]
    return StatusWriter(folder / STATUS_NAME, tasks, run="r")


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refreshes follow each other immediately, and each is printed."""
    monkeypatch.setattr(monitor, "FASTEST", 0.02)
    monkeypatch.setattr(monitor, "TEXT_INTERVAL", 0.0)


def rewrite(folder: Path, **values: Any) -> BatchStatus:
    """Change values of the status file, as another machine would."""
    changed = read_status(folder).model_copy(update=values)
    (folder / STATUS_NAME).write_text(changed.model_dump_json(by_alias=True))
    return changed


def monitor_headless(folder: Path, **options: Any) -> monitor.MonitorResult:
    return watch(
        MonitorRequest(folder=folder, refresh=0, headless=True, output_dir=folder.parent / "seen", **options)
    )


def test_run_is_monitored_to_its_end(folder, writer, monkeypatch, capsys):
    numbers = iter(range(1, 12))

    def advance(_: float) -> None:
        """Advance the run between two refreshes."""
        number = next(numbers)
        if number <= 10:
            append(folder, sample(time.time(), frame=10 * number, ram_used=40 + number))
            writer.progress(a_progress(10 * number, 100))
            writer.heartbeat()
            return
        writer.file(0, FileReport(target="/in/a.mp4", status="done", frames_out=100))
        writer.file(1, FileReport(target="/in/b.mp4", status="failed", error="no face was found"))
        writer.end()

    monkeypatch.setattr(monitor.time, "sleep", advance)
    result = monitor_headless(folder)
    found = result.summary
    assert (found.state, found.ended_by, found.samples) == ("failed", "end of run", 10)
    assert found.seconds < TIMEOUT
    assert found.failures == {"b.mp4": "no face was found"}
    assert found.advice == RETRY_REMEDY
    assert found.host == socket.gethostname()
    assert MonitorSummary.model_validate_json(result.report.read_bytes()) == found
    printed = capsys.readouterr().out
    assert "a.mp4: 10/100 frames" in printed
    assert "a.mp4: 100/100 frames" in printed
    assert "  failed     b.mp4  no face was found" in printed
    show_result(result)
    line, remedy = capsys.readouterr().out.splitlines()
    assert line.startswith(f"Monitored the run in {folder} for ")
    assert line.endswith("10 samples: it ended, but not all files succeeded")
    assert remedy == f"What to do: {RETRY_REMEDY}."


@pytest.mark.parametrize(
    ("host", "age", "state"),
    [
        ("", 0.0, "running"),  # a worker that has just died may be restarted
        ("", monitor.HEARTBEAT_TIMEOUT + TIMEOUT, "lost"),
        ("elsewhere", 120.0, "running"),
        ("elsewhere", 181.0, "lost"),
    ],
)
def test_run_is_lost_without_process_or_remote_heartbeat(
    folder, writer, monkeypatch, capsys, host, age, state
):
    monkeypatch.setattr(monitor, "STALE_GRACE_SECONDS", 0.05)
    monkeypatch.setattr(monitor, "HEARTBEAT_TIMEOUT", TIMEOUT)  # this machine may be busy
    monkeypatch.setattr(monitor, "TEXT_INTERVAL", 5.0)
    writer.progress(a_progress(10, 100))
    host = host or socket.gethostname()
    rewrite(folder, host=host, pid=NO_PROCESS, updated=time.time() - age)
    found = monitor_headless(folder, seconds=0.3).summary
    assert (found.state, found.host, found.advice) == (state, host, RESUME_REMEDY if state == "lost" else "")
    assert found.ended_by == ("end of run" if state == "lost" else "time")
    heads = [line for line in capsys.readouterr().out.splitlines() if " of 2 files finished (" in line]
    assert len(heads) <= 2  # at the start and at the end
    assert heads[-1].startswith("ended unexpectedly" if state == "lost" else "running")


def test_remote_clock_behind_does_not_make_run_lost(folder, writer, capsys, monkeypatch):
    """Its timestamps are hours old, but they advance."""
    monkeypatch.setattr(monitor, "STALE_GRACE_SECONDS", 0.1)
    behind = [time.time() - 7200]
    rewrite(folder, host="elsewhere", pid=NO_PROCESS, started=behind[0] - 50, updated=behind[0])
    real_sleep, left = time.sleep, iter(range(10))

    def advance(_: float) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        real_sleep(0.02)
        behind[0] += 1
        rewrite(folder, updated=behind[0])

    monkeypatch.setattr(monitor.time, "sleep", advance)
    result = monitor_headless(folder)
    assert (result.summary.state, result.summary.ended_by) == ("running", "interrupt")
    assert result.report.exists()
    lines = [line for line in capsys.readouterr().out.splitlines() if "last update" in line]
    assert re.search(r"last update 2:0\d:", lines[0])
    assert re.search(r"last update \d+ s ago", lines[-1])


def test_remote_clock_ahead_does_not_hide_lost_run(folder, writer, monkeypatch):
    monkeypatch.setattr(monitor, "STALE_GRACE_SECONDS", 0.05)
    monkeypatch.setattr(monitor, "REMOTE_TIMEOUT", 0.1)
    rewrite(folder, host="elsewhere", pid=NO_PROCESS, updated=time.time() + 7200)
    assert monitor_headless(folder, seconds=TIMEOUT).summary.state == "lost"


def test_temporarily_unreadable_status_is_ignored(folder, writer, monkeypatch):
    status = folder / STATUS_NAME
    torn = iter([lambda: status.write_text('{"schema": 1, "st'), status.unlink, writer.end])
    monkeypatch.setattr(monitor.time, "sleep", lambda _: next(torn)())
    assert monitor_headless(folder).summary.state == "failed"
    assert not list(torn)


def test_folder_without_run_is_refused(folder):
    with pytest.raises(MissingFileError, match=r"no batch was started in this folder.*output_dir of"):
        watch(MonitorRequest(folder=folder, headless=True))
    with pytest.raises(MissingFileError, match="there is no such folder"):
        watch(MonitorRequest(folder=folder / "none", headless=True))
    assert list(folder.iterdir()) == []
    (folder / STATUS_NAME).write_text('{"schema": 99}')
    with pytest.raises(UsageError, match="not a status file that this version can read"):
        watch(MonitorRequest(folder=folder, headless=True))


@pytest.fixture
def panel(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pages shown in a notebook's panel, in order."""
    pages: list[str] = []
    monkeypatch.setattr(monitor, "open_html_area", lambda: pages.append)
    return pages


def test_notebook_panel_is_updated_in_place(folder, writer, panel, monkeypatch, capsys):
    append(folder, sample(time.time()))
    monkeypatch.setattr(monitor.time, "sleep", lambda _: writer.end())
    result = watch(MonitorRequest(folder=folder, refresh=0))
    assert len(panel) == 2
    assert '<b class="busy">running</b>' in panel[0]
    assert '<b class="bad">failed</b>' in panel[-1]
    assert panel[0].count("<svg") >= 1
    assert capsys.readouterr().out == ""
    assert result.report is None
    assert sorted(path.name for path in folder.iterdir()) == [SAMPLES_NAME, STATUS_NAME]


@pytest.fixture
def sample_at_start(monkeypatch):
    """The first sample is taken before monitoring starts, however busy this machine is."""

    class WaitingRecorder(monitor.Recorder):
        def start(self):
            super().start()
            until(lambda: self.latest)
            return self

    monkeypatch.setattr(monitor, "Recorder", WaitingRecorder)


@pytest.mark.parametrize("headless", [False, True])
def test_machine_is_monitored_without_run(tmp_path, panel, sample_at_start, monkeypatch, headless):
    assert monitor.HEADLESS_SECONDS == 10
    monkeypatch.setattr(monitor, "HEADLESS_SECONDS", 0.1)
    seconds = 0.0 if headless else 0.3
    found = watch(MonitorRequest(seconds=seconds, output_dir=tmp_path, headless=headless)).summary
    assert (found.state, found.ended_by, found.folder) == ("no run", "time", "")
    assert found.samples >= 1
    assert headless or "<svg" in panel[-1]
    assert (tmp_path / "monitor.json").exists()


def test_diagnosis_is_shown_with_charts_and_remedy_at_end(folder, writer, capsys):
    checks = [
        Check(name="cuda", status="pass", detail="CUDA 12.8 with cuDNN 9"),
        Check(name="model inswapper_128", status="fail", detail="gone", remedy="fetch it."),
        Check(name="python", status="pass", detail="3.11"),
    ]
    (folder / "doctor.json").write_text(Diagnosis.of(checks).model_dump_json())
    writer.end()
    assert monitor_headless(folder).summary.lines()[1] == "What to do: fetch it."
    printed = capsys.readouterr().out
    assert "cuda: CUDA 12.8 with cuDNN 9 (doctor.json)" in printed
    assert "model inswapper_128: gone (doctor.json)" in printed
    assert "python: 3.11" not in printed


def test_papermill_monitors_for_limited_time(tmp_path):
    """Even though ``headless`` is not set."""
    notebook = nbformat.read(NOTEBOOKS / "monitor.ipynb", as_version=4)
    assert monitor.UNATTENDED_SECONDS == 60
    shorter = "from colab_helpers.ui import monitor\nmonitor.UNATTENDED_SECONDS = 2"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(shorter))
    nbformat.write(notebook, tmp_path / "in.ipynb")
    names, limit = [str(tmp_path / name) for name in ("in.ipynb", "out.ipynb")], int(TIMEOUT)
    done = papermill.execute_notebook(*names, progress_bar=False, execution_timeout=limit)
    shown = done.cells[-4].outputs[0]["data"]["text/plain"]
    assert shown.startswith("Monitored this machine for 0:0")


def test_form_can_name_ended_run(run, tmp_path, folder, writer, capfd):
    started = writer.status.started
    append(folder, *(sample(started + n) for n in (-100, *range(5))))  # the first is from another run
    for number in range(2):
        writer.file(number, FileReport(target="/in/a.mp4", status="done"))
    writer.end()
    assert run(tmp_path / "seen", folder=folder) == 0
    found = MonitorSummary.model_validate_json((tmp_path / "seen" / "monitor.json").read_bytes())
    assert (found.state, found.ended_by, found.samples, found.advice) == ("done", "end of run", 5, "")
    assert (found.schema_version, found.folder) == (1, str(folder))
    assert "it is done" in capfd.readouterr().out
