"""How many files fit the session: estimated from finished work, and stated as a remark."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from colab_helpers.batch.estimate import Estimate, shortest_first, workload_of
from colab_helpers.batch.plan import Task
from colab_helpers.batch.report import FileReport
from colab_helpers.batch.status import StatusWriter
from tests.helpers.reports import a_progress
from tests.media.make import Spec, make


def test_shortest_files_come_first_and_unreadable_ones_last(tmp_path) -> None:
    make(tmp_path / "long.mp4", Spec(frames=200))
    make(tmp_path / "short.mp4", Spec(frames=40))
    make(tmp_path / "large.mp4", Spec(size=(320, 180), frames=20))
    (tmp_path / "text.mp4").write_text("no video")
    cv2.imwrite(str(tmp_path / "still.png"), np.zeros((64, 64, 3), np.uint8))
    names = ["text.mp4", "long.mp4", "large.mp4", "short.mp4", "still.png"]
    order = shortest_first([workload_of(tmp_path / name) for name in names])
    assert [names[n] for n in order] == ["still.png", "short.mp4", "large.mp4", "long.mp4", "text.mp4"]


@pytest.fixture
def status(tmp_path: Path) -> StatusWriter:
    tasks = [Task(tmp_path / "x", tmp_path / "y")] * 4
    return StatusWriter(tmp_path / "status.json", tasks, session_minutes=10.0)


def test_estimate_without_workload_or_with_another_frame_count(status) -> None:
    animated = Estimate([(0, 0), None, None, None], range(4), status)
    status.progress(a_progress(50, 100, fps=50.0))
    animated.update()
    assert status.status.remarks == []
    # 60 frames a second become 30: half of the work is done, not a quarter.
    halved = Estimate([(200, 10), (200, 10), None, None], range(4), status, clock=lambda: started)
    started = status.status.started
    status.progress(a_progress(50, 100, fps=0.1))
    halved.update()
    assert status.status.remarks == ["at this rate 1 of 4 file(s) fit the 10 minutes of the session"]


def test_remark_states_what_fits_from_the_first_frames_on(status) -> None:
    now = [status.status.started]
    estimate = Estimate([(100, 10), None, (200, 10), (300, 10)], range(4), status, clock=lambda: now[0])
    estimate.update()
    assert status.status.remarks == []
    status.progress(a_progress(50, 100, fps=50 / 60))
    now[0] += 60
    estimate.update()  # 500 a minute: 500 + 2000 more are done after six minutes, 3000 after twelve
    assert status.status.remarks == ["at this rate 3 of 4 file(s) fit the 10 minutes of the session"]
    status.progress(a_progress(90, 100, fps=90 / 75))
    estimate.update()  # 720 a minute
    assert status.status.remarks == ["at this rate 4 of 4 file(s) fit the 10 minutes of the session"]
    for index, state in ((0, "done"), (1, "failed")):
        status.file(index, FileReport(target="x", status=state))
    status.progress(a_progress(100, 200, file_index=2, fps=100 / 300))
    now[0] += 315
    for _ in range(2):
        estimate.update()
    assert status.status.remarks == [
        "the session ends in about 4 minute(s); the next run continues from there",
        "at this rate 2 of 4 file(s) fit the 10 minutes of the session",
    ]
