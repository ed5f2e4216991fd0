"""Stopped at any moment, by whatever means: a clean end, nothing left behind, and the next run goes on."""

from __future__ import annotations

import os
import random
import signal
import time
from fractions import Fraction
from pathlib import Path

import pytest

from colab_helpers.batch.stop import STOP_NAME
from tests.conftest import TIMEOUT, until
from tests.helpers.processes import KEPT, BatchCommand, Content, reference_contents, run_here, shared_clips
from tests.media.make import Sound, Spec, variable_pts

SPECS = {
    "a.mp4": Spec(frames=24, rate=Fraction(10), sounds=(Sound(),)),
    "b.mp4": Spec(frames=30, rate=Fraction(10), options={"preset": "medium", "bf": "3", "crf": "20"}),
    "c.mp4": Spec(frames=24, pts=variable_pts(24, step=100), sounds=(Sound(seconds=1.0),)),
}
PHASES = {
    "start": 0, "lock": 0, "load": 0, "embed": 0, "hash": 2, "copy": 1, "frames": 18, "segment": 1,
    "joining": 20, "noting": 0, "report": 0, "page": 0, "end": 0,
}  # fmt: skip
"""Where a run may be when it is stopped, in their order, and the last time of all that it is held there."""
EARLY_AND_LATE = {"start", "lock", "page", "end"}
"""Where a signal and the file differ: nobody looks for the file yet, or any more, or for a child alone."""
SIGNALS = ("SIGINT", "SIGTERM")
CHAINS = 3
pytestmark = pytest.mark.xdist_group("stop")

_expected: dict[str, Content] = {}


def moments(seed: int) -> list[tuple[str, str]]:
    """The stops of one chain, each a phase and a means; over all chains each phase is met.

    Both signals have one handler, and whoever finds the file sends one: file and signal alternate.
    """
    every = []
    for n, phase in enumerate(PHASES):
        both = ("file", SIGNALS[n // 2 % 2])
        every += [(phase, means) for means in (both if phase in EARLY_AND_LATE else both[n % 2 :][:1])]
    random.Random(0).shuffle(every)
    return sorted(every[seed::CHAINS], key=lambda moment: list(PHASES).index(moment[0]))


def test_every_phase_is_met() -> None:
    met = [moment for seed in range(CHAINS) for moment in moments(seed)]
    assert len(met) == len(set(met)) == len(PHASES) + len(EARLY_AND_LATE) == 17
    assert {phase for phase, _ in met} == set(PHASES)
    assert {means for _, means in met} == {"file", *SIGNALS}


# Runs before a worker, and before what makes the page: both wait in the phase that is to be met.
HOLD = """
import functools, os, signal, sys, time
from pathlib import Path
WORKER, PAGE = "colab_helpers.batch.worker", "colab_helpers.pages"
place, phase = Path(os.environ.get("HOLD_IN", "/nowhere")), os.environ.get("HOLD_PHASE")
left = int(os.environ.get("HOLD_TIMES", "0"))
def hold(name):
    global left
    if name != phase or (place / "reached").exists():
        return
    left -= 1
    if left < 0:
        (place / "reached").touch()
        until = time.monotonic() + 60
        while not (place / "go").exists() and time.monotonic() < until:
            time.sleep(0.005)
def held(owner, method, name):
    genuine = getattr(owner, method)
    @functools.wraps(genuine)
    def waiting(*args, **named):
        hold(name)
        return genuine(*args, **named)
    setattr(owner, method, waiting)
if phase and PAGE in sys.orig_argv:
    hold("page")
if phase and WORKER in sys.orig_argv:
    hold("start")
    from colab_helpers.batch import drive, resume, journal, lock, processes, report, status
    from colab_helpers.faces.engine import Engine
    from colab_helpers.pipeline import report_progress
    report_progress.PROGRESS_INTERVAL, set_signal = 0.0, signal.signal
    if phase not in ("report", "page"):
        processes.make_page = lambda folder, report, beat: beat() or ""
    def heard(number, handler):
        def told(*given):
            (place / "heard").touch()
            return handler(*given)
        return set_signal(number, told)
    signal.signal = heard
    held(lock, "folder_lock", "lock")
    real_open = Engine.open.__func__
    def opened(cls, *given, **named):
        hold("load")
        return real_open(cls, *given, **named)
    Engine.open = classmethod(opened)
    held(Engine, "identity", "embed")
    held(resume, "file_digest", "hash")
    held(drive, "copy_bytes", "copy")
    held(report_progress.ProgressReporter, "frame", "frames")
    held(report_progress.ProgressReporter, "joining", "joining")
    held(resume.JournaledSegmentStore, "keep", "segment")
    real_append = journal.Journal.append
    def append(self, entry):
        if entry.event == "done":
            hold("noting")
        real_append(self, entry)
    journal.Journal.append = append
    held(report.BatchReport, "save", "report")
    held(status.StatusWriter, "end", "end")
"""


@pytest.fixture(scope="session")
def targets(shared_dir: Path) -> Path:
    return shared_clips(shared_dir / "stop_targets", SPECS)


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers, and what makes the page, wait in the phase that ``HOLD_PHASE`` names."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(HOLD)
    monkeypatch.setenv("PYTHONPATH", f"{site}:{Path(__file__).parents[2]}")


@pytest.fixture
def expected(targets: Path, photo: Path, constant_models: Path, tmp_path: Path) -> dict[str, Content]:
    """What an uninterrupted run gives."""
    if not _expected:
        out = tmp_path / "undisturbed"
        run_here(photo, targets, out, constant_models)
        _expected.update(reference_contents(out, SPECS))
    return _expected


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize("seed", range(CHAINS))
def test_stopped_at_random_moments(seed, shell, expected, tmp_path, monkeypatch) -> None:
    chance = random.Random(seed)
    # Copies are made only where work is away from its results.
    batch = shell("out", "--work-dir", str(tmp_path / "local"))
    batch.near = tmp_path / "local"
    for number, (phase, means) in enumerate(moments(seed)):
        place = tmp_path / f"moment{number}"
        place.mkdir()
        monkeypatch.setenv("HOLD_IN", str(place))
        monkeypatch.setenv("HOLD_PHASE", phase)
        monkeypatch.setenv("HOLD_TIMES", str(chance.randint(0, PHASES[phase])))
        stop_once(batch, place, phase, means, chance)
    monkeypatch.delenv("HOLD_PHASE")
    batch.finish(expected)
    assert not list((tmp_path / "local").rglob("*.*"))


def test_stopped_wherever_it_may_be(shell, expected) -> None:
    """One moment more: nothing says where that one falls."""
    batch = shell("out")
    process = batch.start()
    batch.until(lambda status: status["state"] == "running")
    time.sleep(random.Random(0).uniform(0.0, 2.0))
    stop(batch, "SIGINT", watcher=process.pid)
    text, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == (0 if batch.status()["state"] == "done" else 130), text
    assert left_behind(batch) == set()
    batch.finish(expected)


def stop_once(batch: BatchCommand, place: Path, phase: str, means: str, chance: random.Random) -> None:
    """Stop the batch in a phase; look at how it ends, and at what it leaves."""
    process = batch.start()
    until(lambda: (place / "reached").exists() or process.poll() is not None)
    assert process.poll() is None, f"{phase} was never reached: {process.communicate()[0]}"
    time.sleep(chance.uniform(0.0, 0.1))
    stop(batch, means, watcher=process.pid if chance.random() < 0.5 else 0)
    # Before the work begins nobody hears yet, but it is not forgotten; at its end the file does not matter.
    if phase not in ("start", "lock") and (phase, means) != ("end", "file"):
        until(lambda: (place / "heard").exists())
    time.sleep(chance.uniform(0.0, 0.1))
    (place / "go").touch()
    text, _ = process.communicate(timeout=TIMEOUT)
    state = batch.status().get("state") or status_of(batch)
    where = f"{phase} by {means}: {state}: {text}"
    assert state == ("done" if phase == "end" else "cancelled"), where
    assert process.returncode == (0 if phase == "end" else 130), where
    assert "a new one continues" not in text, where
    assert batch.workers() == [], where
    assert left_behind(batch) == set(), where


def status_of(batch: BatchCommand) -> object:
    """The state beside the results, where the local copy has gone with the work."""
    near, batch.near = batch.near, batch.out
    state = batch.status().get("state")
    batch.near = near
    return state


def stop(batch: BatchCommand, means: str, *, watcher: int) -> None:
    """Ask to stop: by the file, or by a signal to the process that watches, or else to the one that works."""
    if means == "file":
        (batch.out / STOP_NAME).touch()
        return
    for pid in [watcher] if watcher else [worker.pid for worker in batch.workers()]:
        os.kill(pid, signal.Signals[means])


def left_behind(batch: BatchCommand) -> set[str]:
    """What should not be there after a stop: anything but results, records, and unfinished work."""
    here = {path.name for path in batch.out.iterdir()} - KEPT - set(SPECS) - {".work"}
    inside = [path for place in (batch.out, batch.near) for path in place.rglob("*") if path.is_file()]
    torn = {path.name for path in inside if ".part" in path.name or path.name.startswith(("job-", ".colab"))}
    return here | torn
