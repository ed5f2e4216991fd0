"""Memory, threads and open files do not grow over 65 videos, nor over an hour of video."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from colab_helpers.batch.report import BatchReport
from tests.conftest import TIMEOUT
from tests.helpers.processes import BatchCommand, leftover_files, run_at_worker_start, wait_for_exit
from tests.media.make import Sound, Spec, make

VIDEOS = 65
RATE = Fraction(1, 10)
"""A low frame rate: few frames, but as many segments as any video of that length."""


@pytest.fixture
def own_temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A separate folder for temporary files."""
    folder = tmp_path / "temp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield folder
    monkeypatch.setattr(tempfile, "tempdir", None)


def run(shell: BatchCommand) -> BatchReport:
    wait_for_exit(shell.start(), timeout=3 * TIMEOUT)
    return BatchReport.model_validate_json((shell.out / "report.json").read_bytes())


COUNTING = """
    import json, os, psutil
    from pathlib import Path
    from colab_helpers.batch.status import StatusWriter
    original = StatusWriter.file
    def file(self, index, report):
        original(self, index, report)
        process = psutil.Process()
        counts = {"threads": process.num_threads(), "open_files": process.num_fds()}
        with Path(os.environ["COUNTED"]).open("a") as out:
            print(json.dumps(counts), file=out)
    StatusWriter.file = file
"""
"""Counts what a worker has open after each file, when no other work is running."""


def test_memory_after_65_videos_is_that_after_two(
    photo, constant_models, consent, tmp_path, own_temp, monkeypatch
) -> None:
    run_at_worker_start(monkeypatch, tmp_path, COUNTING)
    monkeypatch.setenv("COUNTED", str(tmp_path / "counted"))
    targets = tmp_path / "in"
    targets.mkdir()
    first = make(targets / "clip1.mp4", Spec(size=(640, 360), frames=3, sounds=(Sound(),))).read_bytes()
    for number in range(2, VIDEOS + 1):
        # A box that players skip: the same video, but another file.
        (targets / f"clip{number}.mp4").write_bytes(first + b"\0\0\0\x0cfree%04d" % number)
    report = run(BatchCommand(targets, photo, constant_models, consent, tmp_path / "out"))
    assert report.summary.succeeded == VIDEOS
    assert report.summary.restarts == 0
    memory = [file.memory_after for file in report.files]
    assert memory[-1] <= 1.02 * memory[1], [size >> 20 for size in memory]
    assert all(file.memory_before > 0 for file in report.files)
    counted = [json.loads(line) for line in (tmp_path / "counted").read_text().splitlines()]
    assert len(counted) == VIDEOS
    for figure in ("threads", "open_files"):
        counts = [count[figure] for count in counted]
        assert counts[-1] <= counts[1], (figure, counts)
    # ONNX Runtime leaves one small file of its own.
    assert {path.name for path in own_temp.iterdir()} <= {".ses"}
    assert leftover_files(tmp_path / "out", *(path.name for path in targets.iterdir())) == set()


MEASURING = """
    import os, psutil
    from pathlib import Path
    from colab_helpers.batch.journal import Journal
    original = Journal.append
    def append(self, entry):
        original(self, entry)
        if entry.event == "segment":
            with Path(os.environ["MEASURED"]).open("a") as out:
                print(psutil.Process().memory_info().rss, file=out)
    Journal.append = append
"""
"""Measures the memory of a worker after each segment."""


def test_hour_needs_the_memory_of_a_minute(photo, constant_models, consent, tmp_path, monkeypatch) -> None:
    run_at_worker_start(monkeypatch, tmp_path, MEASURING)
    after = {}
    for name, seconds in (("minute", 60), ("hour", 3600)):
        targets = tmp_path / name
        targets.mkdir()
        make(targets / "a.mp4", Spec(size=(192, 128), rate=RATE, frames=int(RATE * seconds)))
        shell = BatchCommand(
            targets, photo, constant_models, consent, tmp_path / f"out-{name}", "--segment-seconds", "20",
            "--frame-processors", "face_swapper", "--face-detector-size", "320",
        )  # fmt: skip
        monkeypatch.setenv("MEASURED", str(tmp_path / f"measured-{name}"))
        report = run(shell)
        assert report.files[0].frames_out == RATE * seconds
        assert report.files[0].segments == seconds // 20
        after[name] = report.files[0].memory_after
    assert after["hour"] <= 1.05 * after["minute"], {name: size >> 20 for name, size in after.items()}
    sizes = [int(line) for line in (tmp_path / "measured-hour").read_text().split()]
    assert len(sizes) == 180
    assert max(sizes) <= 1.05 * max(sizes[:18]), [size >> 20 for size in sizes]
    assert (tmp_path / "out-hour" / "status.json").stat().st_size < 10_000
