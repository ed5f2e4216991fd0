"""Batches in subprocesses, to be killed, stopped and resumed."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import psutil
import pytest
from filelock import FileLock

import colab_helpers
from colab_helpers.api import run_batch
from colab_helpers.batch.report import JOURNAL_NAME, BatchReport
from colab_helpers.batch.stop import STATUS_NAME
from colab_helpers.settings import load_settings
from tests.conftest import CONSENT, TIMEOUT, until
from tests.media.make import Spec, make, packets_of

Content = tuple[list[str], list[Fraction], object]
UNLABELLED: dict[str, Any] = {"visible_label": "off", "disclosure": "test"}
"""Settings for runs whose pixels are compared."""
CPU = load_settings("balanced", output_video_encoder="libx264", execution_provider="cpu", **UNLABELLED)
SECONDS = CPU.with_overrides(segment_seconds=1.0)
"""The same, with segments of one second."""


def draw_photo(folder: Path) -> Path:
    """Write a grey image; the constant detector finds a face in any."""
    path = folder / "photo.png"
    cv2.imwrite(str(path), np.full((256, 256, 3), 120, np.uint8))
    return path


def run_here(photo: Path, targets: Path, out: Path, models: Path, **options: Any) -> BatchReport:
    """Run a batch in this process, with segments of one second; ``overrides`` are settings."""
    settings = SECONDS.with_overrides(**options.pop("overrides", {}))
    defaults = {"consent": CONSENT, "settings": settings, "models_dir": models, "in_process": True}
    return run_batch([photo], [targets], out, **(defaults | options))


def stop_at(frame: int, *, file: int = 0) -> Callable[[Any], None]:
    """Return a progress callback that stops the batch at a frame of one of its files."""

    def stop(progress: Any) -> None:
        if progress.file_index == file and progress.frame >= frame:
            raise KeyboardInterrupt

    return stop


def wait_for_exit(process: subprocess.Popen[str], code: int = 0, *, timeout: float = TIMEOUT) -> str:
    """Wait until a process ends with an exit code; returns its output."""
    text, _ = process.communicate(timeout=timeout)
    assert process.returncode == code, text
    return text


class BatchCommand:
    """Runs the same batch repeatedly by command line."""

    def __init__(
        self, targets: Path, photo: Path, models: Path, consent: str, out: Path, *options: str
    ) -> None:
        self.out = out
        self.command = [
            sys.executable, "-m", "colab_helpers", "batch", "-s", str(photo), "-t", str(targets),
            "-o", str(out), "--models-dir", str(models), "--consent", consent,
            "--segment-seconds", "1", "--output-video-encoder", "libx264", "--execution-provider", "cpu",
            "--visible-label", "off", "--disclosure", "test",
            *options,
        ]  # fmt: skip
        self.started: list[subprocess.Popen[str]] = []
        self.near = out
        """The folder with the newest status."""

    def start(self, *options: str, **keywords: Any) -> subprocess.Popen[str]:
        """Start or resume the batch."""
        process = subprocess.Popen(
            [*self.command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **keywords
        )
        self.started.append(process)
        return process

    def run(self, *options: str) -> tuple[int, str]:
        """Run the batch to its end; returns exit code and output."""
        process = self.start(*options)
        text, _ = process.communicate(timeout=TIMEOUT)
        return process.returncode, text

    def finish(self, expected: Mapping[str, Content], process: subprocess.Popen[str] | None = None) -> None:
        """Wait for its end and compare the results with the expected ones."""
        wait_for_exit(process or self.start())
        assert contents(self.out) == expected
        assert repeated_segments(self.out) == {}, "a finished segment was repeated"
        assert leftover_files(self.out, *expected) == set()
        assert self.workers() == []

    def workers(self) -> list[psutil.Process]:
        """All running worker processes of this folder."""
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            words = process.info["cmdline"] or []
            is_zombie = process.info["status"] == psutil.STATUS_ZOMBIE
            job = words[-1 - 2 * ("--cause" in words)] if "colab_helpers.batch.worker" in words else ""
            if not is_zombie and (str(self.out) in job or str(self.near) in job):
                found.append(process)
        return found

    def held(self) -> psutil.Process:
        """Wait for the worker suspended by ``hold``, and return it."""
        stopped = psutil.STATUS_STOPPED
        return until(lambda: [each for each in self.workers() if each.info["status"] == stopped])[0]

    def kill_workers(self) -> None:
        """Send SIGKILL to all workers and wait for their end."""
        workers = self.workers()
        for worker in workers:
            worker.kill()
        psutil.wait_procs(workers, timeout=TIMEOUT)

    def clean(self) -> None:
        """Kill all processes left."""
        for process in self.started:
            process.kill()
            process.wait()
        self.kill_workers()

    def status(self) -> dict[str, Any]:
        """The newest ``status.json``; empty while there is none."""
        try:
            (path,) = self.near.rglob(STATUS_NAME)
            found: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError):
            return {}
        return found

    def until(self, reached: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Wait until a status meets a condition, and return it."""

        def look() -> dict[str, Any] | None:
            status = self.status()
            return status if status and reached(status) else None

        return until(look, describe=self.status)


NO_PAGE = """
import sys
if "colab_helpers.batch.worker" in sys.orig_argv:
    from colab_helpers.batch import processes
    processes.make_page = lambda folder, report, beat: beat() or ""
"""
"""Skips the report page, which takes another process."""


def run_at_worker_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    """Have every worker process run code before it starts, and write no report page."""
    site = tmp_path / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(NO_PAGE + code)
    monkeypatch.setenv("PYTHONPATH", f"{site}:{Path(colab_helpers.__file__).parents[1]}")


HOLD = """
    import os, signal
    from pathlib import Path
    from colab_helpers.batch.status import StatusWriter
    from colab_helpers.pipeline import report_progress
    report_progress.PROGRESS_INTERVAL = 0.0
    file, frame, held = os.environ["HOLD"].split(" ", 2)
    genuine = StatusWriter.progress
    def progress(self, found):
        genuine(self, found)
        if (found.file_index, found.frame) >= (int(file), int(frame)) and not Path(held).exists():
            Path(held).touch()
            os.kill(os.getpid(), signal.SIGSTOP)
    StatusWriter.progress = progress
"""


def hold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, file: int, frame: int) -> None:
    """Suspend the first worker that reaches a frame, until it is resumed or killed."""
    run_at_worker_start(monkeypatch, tmp_path, HOLD)
    monkeypatch.setenv("HOLD", f"{file} {frame} {tmp_path / 'held'}")


def has_signal_pending(pid: int) -> bool:
    """Whether a suspended process has a pending signal."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return any(line.startswith(("SigPnd", "ShdPnd")) and int(line.split()[1], 16) for line in lines)


def resume_once_signalled() -> None:
    """Resume this process's worker, suspended by ``hold``, as soon as it has a pending signal."""
    stopped = psutil.STATUS_STOPPED
    worker = until(lambda: [each for each in psutil.Process().children() if each.status() == stopped])[0]
    until(lambda: has_signal_pending(worker.pid))
    worker.resume()


def interrupt(process: subprocess.Popen[str]) -> None:
    """Send SIGINT, as Ctrl-C does."""
    os.kill(process.pid, signal.SIGINT)


def content(path: Path) -> Content:
    """A hash of each decoded frame, its timestamp, and the audio packets."""
    pictures, times = [], []
    with av.open(str(path)) as container:
        has_sound = bool(container.streams.audio)
        for frame in container.decode(video=0):
            assert frame.pts is not None
            assert frame.time_base is not None
            planes = b"".join(bytes(plane) for plane in frame.planes)
            pictures.append(hashlib.sha256(planes).hexdigest())
            times.append(frame.pts * frame.time_base)
    return pictures, times, packets_of(path) if has_sound else None


def contents(out: Path) -> dict[str, Content]:
    """The content of each result in a folder."""
    return {path.name: content(path) for path in sorted(out.glob("*.mp4"))}


def journal_entries(out: Path, event: str) -> Iterator[dict[str, Any]]:
    """The journal's entries of one event type."""
    for line in (out / JOURNAL_NAME).read_bytes().split(b"\n"):
        try:
            entry = json.loads(line)["entry"]
        except ValueError:
            continue  # cut off by a kill
        if entry["event"] == event:
            yield entry


def number_of(entry: Mapping[str, Any]) -> int:
    """The number of an entry's segment."""
    return int(entry["part"]["segment"]["number"])


def repeated_segments(out: Path) -> dict[tuple[str, int], int]:
    """Segments recorded more than once, with their counts."""
    counts = Counter((entry["key"], number_of(entry)) for entry in journal_entries(out, "segment"))
    return {which: count for which, count in counts.items() if count > 1}


KEPT = {JOURNAL_NAME, STATUS_NAME, "report.json", "report.html", "samples.jsonl", ".faces"}


def leftover_files(out: Path, *results: str) -> set[str]:
    """Files in the folder other than results and records."""
    return {path.name for path in out.iterdir()} - KEPT - set(results)


def shared_clips(folder: Path, specs: Mapping[str, Spec]) -> Path:
    """A folder of clips, created by the first xdist worker that needs it."""
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            folder.mkdir()
            for name, spec in specs.items():
                make(folder / name, spec)
    return folder


def reference_contents(out: Path, specs: Mapping[str, Spec]) -> dict[str, Content]:
    """The contents of an uninterrupted run."""
    found = contents(out)
    assert {name: len(each[0]) for name, each in found.items()} == {n: s.frames for n, s in specs.items()}
    return found


def makers(out: Path, report: BatchReport) -> set[str]:
    """Names of the workers that made segments; asserts that report and journal agree on them."""
    segments = journal_entries(out, "segment")
    recorded = {(entry["key"], number_of(entry)): entry["worker"] for entry in segments}
    reported = {file.target: file.made_by for file in report.files}
    for done in journal_entries(out, "done"):
        count, spans = done["report"]["segments"], reported[done["report"]["target"]]
        expected = {number: recorded[done["key"], number] for number in range(count)}
        actual = {n: name for name, found in spans.items() for first, end in found for n in range(first, end)}
        assert actual == (expected if any(expected.values()) else {})
        assert all(one[1] < other[0] for found in spans.values() for one, other in pairwise(found))
    return {name for spans in reported.values() for name in spans}
