"""Batches killed at any moment, worker or shell, give the results of an uninterrupted run."""

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
"""Each of five kills."""
LATEST = 3.0
"""Most seconds between a start and a kill: from the first import to the report."""

_expected: dict[str, Content] = {}
_qualities: dict[str, Quality | None] = {}


@pytest.fixture(scope="session")
def targets(shared_dir: Path) -> Path:
    return shared_clips(shared_dir / "kill_targets", SPECS)


@pytest.fixture
def expected(targets: Path, photo: Path, constant_models: Path, tmp_path: Path) -> dict[str, Content]:
    """Results of an uninterrupted run."""
    if not _expected:
        out = tmp_path / "uninterrupted"
        run_here(photo, targets, out, constant_models)
        _expected.update(reference_contents(out, SPECS))
        _qualities.update(qualities(out))
    return _expected


def qualities(out: Path) -> dict[str, Quality | None]:
    """The quality that a folder's report states for each result."""
    report = BatchReport.model_validate_json((out / REPORT_NAME).read_bytes())
    return {Path(file.target).name: file.quality for file in report.files}


@pytest.mark.xdist_group("kill")
@pytest.mark.usefixtures("no_pages")
@pytest.mark.parametrize("seed", range(CHAINS))
def test_killed_at_random_moments(seed, shell, expected, tmp_path) -> None:
    rng = random.Random(seed)
    # Never three workers in one run: the file would be given up.
    kinds = ["worker", "worker", "parent", "both", "both"]
    rng.shuffle(kinds)
    batches = 0
    batch = shell(f"out{batches}")
    process = batch.start()
    for kind in kinds:
        if process.poll() is not None:
            batch.finish(expected, process)
            assert qualities(batch.out) == _qualities
            batches += 1
            batch = shell(f"out{batches}")
            process = batch.start()
        wait(process, rng.uniform(0.0, LATEST))
        if kind != "worker":
            process.kill()
            process.communicate()
        if kind != "parent":
            batch.kill_workers()
        assert {verify(path, anchors=b"").state for path in batch.out.glob("[!.]*.mp4")} <= {"valid"}
        if kind != "worker":
            process = batch.start()
    batch.finish(expected, process)
    assert qualities(batch.out) == _qualities
    assert all(quality and quality.people for quality in _qualities.values())


def wait(process: subprocess.Popen[str], seconds: float) -> None:
    """Wait, at most until the process ends."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
