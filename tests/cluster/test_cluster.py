"""A real cluster of two nodes on this machine: whatever is killed, nothing is lost and nothing done twice."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path

import psutil
import pytest

from colab_helpers.batch.status import read_status
from colab_helpers.pages.live import live_text
from tests.conftest import CONSENT, PATIENCE, until
from tests.helpers.processes import (
    Shell,
    at_start,
    contents,
    draw_photo,
    ended,
    entries,
    litter,
    repeated,
    run_here,
)
from tests.media.make import Sound, Spec, make, variable_pts

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None,
        reason="Ray is not installed: bash setup.sh install cluster",
    ),
    pytest.mark.xdist_group("cluster"),
]
HEAD, NODE = "127.0.0.2", "127.0.0.3"
SPECS = {
    "cfr.mp4": Spec(size=(160, 90), frames=64, rate=Fraction(10), sounds=(Sound(),)),
    "vfr.mp4": Spec(size=(160, 90), frames=50, pts=variable_pts(50, step=120)),
    "long_groups.mp4": Spec(
        size=(160, 90), frames=54, rate=Fraction(10), options={"preset": "medium", "bf": "3", "g": "300"}
    ),
    "short.mp4": Spec(size=(160, 90), frames=5, rate=Fraction(10)),
}
SLOW = """
if "colab_helpers.batch.member" in sys.orig_argv:
    import time
    from colab_helpers.media.segments import SegmentWriter
    write = SegmentWriter.write
    def slow(self, *given, **more):
        time.sleep(0.1)
        return write(self, *given, **more)
    SegmentWriter.write = slow
"""
"""Frames take as long as they do on a small GPU: there is time to kill somebody."""


def cluster(*words: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "colab_helpers", "cluster", *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout
    return done.stdout


FAKE = """
import os
if "colab_helpers.batch.member" in sys.orig_argv and os.path.exists(os.environ["FAKE"]):
    from pathlib import Path
    from colab_helpers.batch.hands import Hands, Loaded, Prepared
    from colab_helpers.batch.journal import FileDone, SegmentDone
    from colab_helpers.batch.report import FileReport
    from colab_helpers.faces.quality import Measured
    from colab_helpers.media.segments import Segment
    from colab_helpers.pipeline import FinishedSegment
    class Fake:
        loaded = Loaded()
        def __init__(self, around, journal):
            self.around, self.journal = around, journal
        def prepare(self, index, *, deaths):
            return Prepared(3, 10, "libx264")
        def segment(self, index, number, **given):
            segment = Segment(Path(f"{number:06d}.nut"), number, 10 * number, 10, 0, 9, 10, 1, "0" * 64)
            part = FinishedSegment(segment, 10, Measured(), "libx264", "cpu", "0" * 64)
            self.journal.append(SegmentDone(key=str(index), part=part))
        def whole(self, index, *, encoder="", deaths):
            for number in () if encoder else range(3):
                self.segment(index, number)
            target = str(self.around.job.tasks[index].target)
            report = FileReport(target=target, status="done", output=target, segments=3)
            self.journal.append(FileDone(key=str(index), sha256="0" * 64, report=report))
            return report
    Hands.open = classmethod(lambda cls, around, own, journal, announce=print: Fake(around, journal))
"""
"""Workers whose work takes no time, as long as a file is there."""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A cluster of two nodes, with a home of its own; the name is short, as those of sockets have to be."""
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as name, pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLAB_HELPERS_HOME", f"{name}/home")
        patch.setenv("TMPDIR", name)
        patch.setenv("FAKE", f"{name}/fake")
        at_start(patch, Path(name), SLOW + FAKE)
        with socket.create_server((HEAD, 0)) as free:
            port = free.getsockname()[1]
        try:
            cluster("start", "--host", HEAD, "--port", str(port))
            cluster("join", f"{HEAD}:{port}", "--host", NODE)
            yield Path(name)
        finally:
            cluster("stop")
            until(lambda: not processes(Path(name), "raylet"))


@pytest.fixture(scope="module")
def shell(place: Path, constant_models: Path) -> Shell:
    targets = place / "targets"
    targets.mkdir()
    for name, spec in SPECS.items():
        make(targets / name, spec)
    return Shell(targets, draw_photo(place), constant_models, CONSENT, place / "out", "--cluster", "auto")


def processes(place: Path, *words: str) -> list[psutil.Process]:
    """Those of this cluster, and no other's, in whose command line all of these stand."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or [])
        if all(word in line for word in words) and process.info["status"] != psutil.STATUS_ZOMBIE:
            with suppress(psutil.Error):
                lines = [line, *(" ".join(parent.cmdline()) for parent in process.parents())]
                found += [process] if any(str(place) in each for each in lines) else []
    return found


def kill(found: list[psutil.Process]) -> None:
    assert found
    for process in found:
        process.kill()


@contextmanager
def watched_memory(place: Path) -> Iterator[list[int]]:
    """Resident bytes of the coordinator, again and again."""
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


def segments(out: Path) -> int:
    return len([*entries(out, "segment")]) if (out / "journal.jsonl").exists() else 0


def more_than(out: Path, before: int) -> Callable[[], bool]:
    return lambda: segments(out) > before


def test_whatever_is_killed_nothing_is_lost_or_done_twice(place: Path, shell: Shell, tmp_path: Path) -> None:
    out = shell.out
    first = shell.start()
    until(more_than(out, 1))
    first.kill()  # whoever has asked may go
    first.wait()
    stranger = batch_with_another_token(shell, tmp_path)

    seen = segments(out)
    until(more_than(out, seen))
    doomed = processes(place, "ray::Worker")[0]
    kill(
        [each for each in processes(place, "colab_helpers.batch.member") if each.ppid() != doomed.pid]
        + [doomed]
    )
    again = shell.start()  # from a second shell
    seen = segments(out)
    until(more_than(out, seen))

    kill(processes(place, "ray::Coordinator"))
    seen = segments(out)
    until(more_than(out, seen))
    assert again.poll() is None, "it watches on"
    subprocess.run([sys.executable, "-m", "colab_helpers", "stop", str(out)], check=True, timeout=PATIENCE)
    ended(again, 130)
    assert shell.status()["state"] == "cancelled"
    until(lambda: not processes(place, "colab_helpers.batch.member"))
    seen = segments(out)
    assert seen < 18, "it has stopped before its end"

    last = shell.start()
    until(more_than(out, seen))
    kill(processes(place, "raylet", f"--node_ip_address={NODE}"))
    ended(last)
    assert repeated(out) == {}, "a finished segment was done again"
    assert litter(out, *SPECS) == set()
    run_here(draw_photo(tmp_path), shell_targets(shell), tmp_path / "alone", shell_models(shell))
    assert contents(out) == contents(tmp_path / "alone")
    assert {Path(entry["report"]["target"]).name for entry in entries(out, "done")} == {*SPECS}
    assert "does not let this machine in" in ended(stranger, 2)


def batch_with_another_token(shell: Shell, tmp_path: Path) -> subprocess.Popen[str]:
    address = json.loads(Path(os.environ["COLAB_HELPERS_HOME"], "cluster.json").read_text())["address"]
    home = tmp_path / "home"
    home.mkdir()
    (home / "cluster.token").write_text("0" * 64)
    (home / "cluster.token").chmod(0o600)
    given = {**os.environ, "COLAB_HELPERS_HOME": str(home)}
    return shell.start("--cluster", address, env=given)


def shell_targets(shell: Shell) -> Path:
    return Path(shell.command[shell.command.index("-t") + 1])


def shell_models(shell: Shell) -> Path:
    return Path(shell.command[shell.command.index("--models-dir") + 1])


def test_a_thousand_videos_cost_the_coordinator_little(place: Path, shell: Shell) -> None:
    targets, out = place / "thousand", place / "many"
    targets.mkdir()
    for number in range(1000):
        (targets / f"{number:04d}.mp4").write_bytes(b"never read" + b"." * number)
    (place / "fake").touch()
    try:
        many = Shell(targets, draw_photo(place), shell_models(shell), CONSENT, out, "--cluster", "auto")
        with watched_memory(place) as sizes:
            assert "1000 of 1000 files" in ended(many.start())
    finally:
        (place / "fake").unlink()
    most = max(sizes)
    assert 0 < most < 300e6, f"{most / 1e6:.0f} MB"
    assert {entry["key"] for entry in entries(out, "done")} == {str(number) for number in range(1000)}
    assert (segments(out), repeated(out)) == (3000, {})
    text = "\n".join(live_text([], read_status(out), now=time.time()))
    assert len(text) < 4000, "a page that somebody can read"
