"""Killed at any moment, whatever was killed: the batch ends as if nothing had happened."""

from __future__ import annotations

import random
import subprocess
import time
from fractions import Fraction
from pathlib import Path

import pytest

from colab_helpers.batch.report import REPORT_NAME, BatchReport, Quality
from colab_helpers.trust.verify import verify
from tests.helpers.processes import Content, reference_contents, run_here, shared_clips
from tests.media.make import Sound, Spec, variable_pts

RATE = Fraction(5)
SPECS = {
    "a.mp4": Spec(size=(160, 90), frames=14, rate=RATE, sounds=(Sound(),)),
    "b.mp4": Spec(size=(160, 90), frames=22, rate=RATE, options={"preset": "medium", "bf": "3", "crf": "20"}),
    "c.mp4": Spec(frames=16, pts=variable_pts(16, step=200), sounds=(Sound(), Sound(language="spa"))),
}
CHAINS = 2
"""Of five kills each."""
LATEST = 3.0
"""Seconds after a start until when it is killed: from its first import to its report."""

_expected: dict[str, Content] = {}
_measured: dict[str, Quality | None] = {}


@pytest.fixture(scope="session")
def targets(shared_dir: Path) -> Path:
    return shared_clips(shared_dir / "kill_targets", SPECS)


@pytest.fixture
def expected(targets: Path, photo: Path, constant_models: Path, tmp_path: Path) -> dict[str, Content]:
    """What an uninterrupted run gives."""
    if not _expected:
        out = tmp_path / "undisturbed"
        run_here(photo, targets, out, constant_models)
        _expected.update(reference_contents(out, SPECS))
        _measured.update(measured(out))
    return _expected


def measured(out: Path) -> dict[str, Quality | None]:
    """What the report of a folder tells of each result, and of each person in it."""
    report = BatchReport.model_validate_json((out / REPORT_NAME).read_bytes())
    return {Path(file.target).name: file.quality for file in report.files}


@pytest.mark.xdist_group("kill")
@pytest.mark.usefixtures("no_pages")
@pytest.mark.parametrize("seed", range(CHAINS))
def test_killed_at_random_moments(seed, shell, expected, tmp_path) -> None:
    chance = random.Random(seed)
    # Never three workers in one run: that would be the file's fault, as far as anyone can tell.
    kinds = ["worker", "worker", "parent", "both", "both"]
    chance.shuffle(kinds)
    batches = 0
    batch = shell(f"out{batches}")
    process = batch.start()
    for kind in kinds:
        if process.poll() is not None:
            batch.finish(expected, process)
            assert measured(batch.out) == _measured
            batches += 1
            batch = shell(f"out{batches}")
            process = batch.start()
        wait(process, chance.uniform(0.0, LATEST))
        if kind != "worker":
            process.kill()
            process.communicate()
        if kind != "parent":
            batch.kill_workers()
        assert {verify(path, anchors=b"").state for path in batch.out.glob("[!.]*.mp4")} <= {"valid"}
        if kind != "worker":
            process = batch.start()
    batch.finish(expected, process)
    assert measured(batch.out) == _measured
    assert all(quality and quality.people for quality in _measured.values())


def wait(process: subprocess.Popen[str], seconds: float) -> None:
    """Wait, but not beyond the process's end."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
