"""Batches stopped at any moment by any means: a clean end, no leftovers, and the next run resumes."""

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
"""Phases in which a run is stopped, in order, and how many calls at most pass before it is held there."""
EARLY_AND_LATE = {"start", "lock", "page", "end"}
"""Phases in which signal and file act differently: the file is not watched, or a child is running."""
SIGNALS = ("SIGINT", "SIGTERM")
CHAINS = 3
pytestmark = pytest.mark.xdist_group("stop")

_expected: dict[str, Content] = {}


def moments(seed: int) -> list[tuple[str, str]]:
    """The stops of one chain, each a phase and a means; all chains cover all phases.

    Both signals share one handler, which the stop file triggers too: file and signal alternate.
    """
    every = []
    for n, phase in enumerate(PHASES):
        both = ("file", SIGNALS[n // 2 % 2])
        every += [(phase, means) for means in (both if phase in EARLY_AND_LATE else both[n % 2 :][:1])]
    random.Random(0).shuffle(every)
    return sorted(every[seed::CHAINS], key=lambda moment: list(PHASES).index(moment[0]))


def test_all_phases_are_covered() -> None:
    covered = [moment for seed in range(CHAINS) for moment in moments(seed)]
    assert len(covered) == len(set(covered)) == len(PHASES) + len(EARLY_AND_LATE) == 17
    assert {phase for phase, _ in covered} == set(PHASES)
    assert {means for _, means in covered} == {"file", *SIGNALS}


# Runs at the start of workers and page processes: both wait in the phase under test.
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
    original = getattr(owner, method)
    @functools.wraps(original)
    def waiting(*args, **named):
        hold(name)
        return original(*args, **named)
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
    def handled(number, handler):
        def handle(*given):
            (place / "handled").touch()
            return handler(*given)
        return set_signal(number, handle)
    signal.signal = handled
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
    """Workers and page processes wait in the phase that ``HOLD_PHASE`` names."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(HOLD)
    monkeypatch.setenv("PYTHONPATH", f"{site}:{Path(__file__).parents[2]}")


@pytest.fixture
def expected(targets: Path, photo: Path, constant_models: Path, tmp_path: Path) -> dict[str, Content]:
    """Results of an uninterrupted run."""
    if not _expected:
        out = tmp_path / "uninterrupted"
        run_here(photo, targets, out, constant_models)
        _expected.update(reference_contents(out, SPECS))
    return _expected


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize("seed", range(CHAINS))
def test_stopped_at_random_moments(seed, shell, expected, tmp_path, monkeypatch) -> None:
    rng = random.Random(seed)
    # Files are copied only if the work folder is not the output folder.
    batch = shell("out", "--work-dir", str(tmp_path / "local"))
    batch.near = tmp_path / "local"
    for number, (phase, means) in enumerate(moments(seed)):
        place = tmp_path / f"moment{number}"
        place.mkdir()
        monkeypatch.setenv("HOLD_IN", str(place))
        monkeypatch.setenv("HOLD_PHASE", phase)
        monkeypatch.setenv("HOLD_TIMES", str(rng.randint(0, PHASES[phase])))
        stop_once(batch, place, phase, means, rng)
    monkeypatch.delenv("HOLD_PHASE")
    batch.finish(expected)
    assert not list((tmp_path / "local").rglob("*.*"))


def test_stopped_at_an_uncontrolled_moment(shell, expected) -> None:
    batch = shell("out")
    process = batch.start()
    batch.until(lambda status: status["state"] == "running")
    time.sleep(random.Random(0).uniform(0.0, 2.0))
    stop(batch, "SIGINT", watcher=process.pid)
    text, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == (0 if batch.status()["state"] == "done" else 130), text
    assert leftovers(batch) == set()
    batch.finish(expected)


def stop_once(batch: BatchCommand, place: Path, phase: str, means: str, rng: random.Random) -> None:
    """Stop the batch in a phase, and check how it ends and what it leaves behind."""
    process = batch.start()
    until(lambda: (place / "reached").exists() or process.poll() is not None)
    assert process.poll() is None, f"{phase} was never reached: {process.communicate()[0]}"
    time.sleep(rng.uniform(0.0, 0.1))
    stop(batch, means, watcher=process.pid if rng.random() < 0.5 else 0)
    # Before the work no handler runs yet, but the request is kept; at the end the file is ignored.
    if phase not in ("start", "lock") and (phase, means) != ("end", "file"):
        until(lambda: (place / "handled").exists())
    time.sleep(rng.uniform(0.0, 0.1))
    (place / "go").touch()
    text, _ = process.communicate(timeout=TIMEOUT)
    state = batch.status().get("state") or status_of(batch)
    where = f"{phase} by {means}: {state}: {text}"
    assert state == ("done" if phase == "end" else "cancelled"), where
    assert process.returncode == (0 if phase == "end" else 130), where
    assert "a new one continues" not in text, where
    assert batch.workers() == [], where
    assert leftovers(batch) == set(), where


def status_of(batch: BatchCommand) -> object:
    """The state in the output folder, once the local copy is removed."""
    near, batch.near = batch.near, batch.out
    state = batch.status().get("state")
    batch.near = near
    return state


def stop(batch: BatchCommand, means: str, *, watcher: int) -> None:
    """Request a stop by the file, or by a signal to the watching process or else to the workers."""
    if means == "file":
        (batch.out / STOP_NAME).touch()
        return
    for pid in [watcher] if watcher else [worker.pid for worker in batch.workers()]:
        os.kill(pid, signal.Signals[means])


def leftovers(batch: BatchCommand) -> set[str]:
    """Files that a stop must not leave: all but results, records and unfinished work."""
    here = {path.name for path in batch.out.iterdir()} - KEPT - set(SPECS) - {".work"}
    inside = [path for place in (batch.out, batch.near) for path in place.rglob("*") if path.is_file()]
    torn = {path.name for path in inside if ".part" in path.name or path.name.startswith(("job-", ".colab"))}
    return here | torn
