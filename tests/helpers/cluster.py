"""A real cluster on the loopback interface, with its own home, and fake workers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.conftest import TIMEOUT, until
from tests.helpers.processes import run_at_worker_start

NODE = "127.0.0.{}"
"""Address of a node by its number, from 2."""
FAKE = """
import os
if "colab_helpers.batch.pool_worker" in sys.orig_argv and os.path.exists(os.environ["FAKE"]):
    from pathlib import Path
    from colab_helpers.batch.task_runner import TaskRunner
    from colab_helpers.batch.worker_handles import WorkerInfo
    from colab_helpers.batch.scheduler import FilePlan
    from colab_helpers.batch.journal import FileDone, SegmentDone
    from colab_helpers.batch.report import FileReport
    from colab_helpers.faces.quality import FrameStats
    from colab_helpers.media.segments import Segment
    from colab_helpers.pipeline import FinishedSegment
    class Fake:
        loaded = WorkerInfo()
        def __init__(self, context, journal):
            self.context, self.journal = context, journal
        def prepare(self, index, *, deaths):
            return FilePlan(3, 10, "libx264")
        def make_segment(self, index, number, **given):
            segment = Segment(Path(f"{number:06d}.nut"), number, 10 * number, 10, 0, 9, 10, 1, "0" * 64)
            part = FinishedSegment(segment, 10, FrameStats(), "libx264", "cpu", "0" * 64)
            self.journal.append(SegmentDone(key=str(index), part=part))
        def process_file(self, index, *, encoder="", deaths):
            for number in () if encoder else range(3):
                self.make_segment(index, number)
            target = str(self.context.job.tasks[index].target)
            report = FileReport(target=target, status="done", output=target, segments=3)
            self.journal.append(FileDone(key=str(index), sha256="0" * 64, report=report))
            return report
    TaskRunner.open = classmethod(lambda cls, context, own, journal, announce=print: Fake(context, journal))
"""
"""Replaces the workers' work by a fake while the file ``FAKE`` exists."""


def cluster(*words: str, code: int = 0) -> str:
    """Run ``colab_helpers cluster``, which must end with an exit code; returns its output."""
    done = subprocess.run(
        [sys.executable, "-m", "colab_helpers", "cluster", *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout
    return done.stdout


@contextmanager
def first_node(code: str = "") -> Iterator[Path]:
    """Start a cluster whose processes run code at their start; yields its folder.

    The folder's name is short, since socket paths are limited.
    """
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as name, pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLAB_HELPERS_HOME", f"{name}/home")
        patch.setenv("TMPDIR", name)
        patch.setenv("FAKE", f"{name}/fake")
        run_at_worker_start(patch, Path(name), code + FAKE)
        with socket.create_server((NODE.format(2), 0)) as free:
            port = free.getsockname()[1]
        try:
            cluster("start", "--host", NODE.format(2), "--port", str(port))
            yield Path(name)
        finally:
            cluster("stop")
            until(lambda: not processes(Path(name), "raylet"))


def join(number: int) -> None:
    """Have another node join the cluster."""
    cluster("join", address(), "--host", NODE.format(number))


def address() -> str:
    """The address of this machine's cluster."""
    found = json.loads(Path(os.environ["COLAB_HELPERS_HOME"], "cluster.json").read_text())
    return str(found["address"])


def processes(place: Path, *words: str) -> list[psutil.Process]:
    """Processes of this cluster whose command line contains all these words."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or [])
        if all(word in line for word in words) and process.info["status"] != psutil.STATUS_ZOMBIE:
            with suppress(psutil.Error):
                lines = [line, *(" ".join(parent.cmdline()) for parent in process.parents())]
                found += [process] if any(str(place) in each for each in lines) else []
    return found


@contextmanager
def watched_memory(place: Path) -> Iterator[list[int]]:
    """Sample the coordinator's resident memory in bytes."""
    sizes, over = [0], threading.Event()

    def look() -> None:
        while not over.wait(0.2):
            for coordinator in processes(place, "ray::Coordinator"):
                with suppress(psutil.Error):
                    sizes.append(coordinator.memory_info().rss)

    thread = threading.Thread(target=look)
    thread.start()
    yield sizes
    over.set()
    thread.join()


def thousand(place: Path) -> Path:
    """Create a folder of a thousand targets, which are never read."""
    (targets := place / "thousand").mkdir()
    for number in range(1000):
        (targets / f"{number:04d}.mp4").write_bytes(b"never read" + b"." * number)
    return targets
