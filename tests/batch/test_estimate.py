"""How many files fit the session: reckoned from what is done, and said in a sentence."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from colab_helpers.batch.estimate import Estimate, load_of, shortest_first
from colab_helpers.batch.plan import Task
from colab_helpers.batch.status import StatusWriter
from tests.media.make import Spec, make

# Sixty frames within two thirds of a second, then one in a hundred seconds.
BURSTY = [n * 11 for n in range(60)] + [100_000]


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.ts"])
def test_frames_are_counted_not_reckoned_from_a_rate(tmp_path, name) -> None:
    path = make(tmp_path / name, Spec(frames=61, pts=BURSTY, time_base=Fraction(1, 1000)))
    assert load_of(path) == (61, 96 * 64)


def test_the_shortest_come_first_then_what_cannot_be_read(tmp_path) -> None:
    make(tmp_path / "long.mp4", Spec(frames=200))
    make(tmp_path / "short.mp4", Spec(frames=40))
    make(tmp_path / "large.mp4", Spec(size=(320, 180), frames=20))
    (tmp_path / "text.mp4").write_text("no video")
    cv2.imwrite(str(tmp_path / "still.png"), np.zeros((64, 64, 3), np.uint8))
    names = ["text.mp4", "long.mp4", "large.mp4", "short.mp4", "still.png"]
    order = shortest_first([load_of(tmp_path / name) for name in names])
    assert [names[n] for n in order] == ["still.png", "short.mp4", "large.mp4", "long.mp4", "text.mp4"]


@pytest.fixture
def status(tmp_path: Path) -> StatusWriter:
    tasks = [Task(tmp_path / "x", tmp_path / "y")] * 4
    return StatusWriter(tmp_path / "status.json", tasks, session_minutes=10.0)


def test_what_fits_is_told_from_the_first_segment_on(status) -> None:
    now = [status.status.started]
    loads = [(100, 10), None, (200, 10), (300, 10)]
    estimate = Estimate(loads, range(4), status, clock=lambda: now[0])
    estimate.warn()
    assert status.status.remarks == []
    estimate.begin(0)
    now[0] += 60
    estimate.segment(50)  # 500 a minute: 500 + 2000 more are done after six minutes, 3000 after twelve
    assert status.status.remarks == ["at this rate 3 of 4 file(s) fit the 10 minutes of the session"]
    now[0] += 15
    estimate.segment(50)  # 800 a minute
    estimate.end(0, done=True)
    estimate.end(1, done=False)
    assert status.status.remarks == ["at this rate 4 of 4 file(s) fit the 10 minutes of the session"]
    # A worker started again goes on with that.
    again = Estimate(loads, range(4), status, clock=lambda: now[0])
    again.end(0, done=False)  # was done before
    again.begin(2)
    now[0] += 300
    again.segment(100)
    assert status.status.remarks == ["at this rate 2 of 4 file(s) fit the 10 minutes of the session"]
    for _ in range(2):
        again.warn()
    assert status.status.notes == [
        "the session ends in about 4 minute(s): what is not done then is taken up by the next run"
    ]


def test_what_has_no_segments_counts_when_it_is_done(status) -> None:
    now = [status.status.started]
    estimate = Estimate([(100, 10), (100, 10)], [1, 0], status, clock=lambda: now[0])
    estimate.begin(1)
    now[0] += 50
    estimate.end(1, done=True)
    assert status.status.remarks == ["at this rate 2 of 4 file(s) fit the 10 minutes of the session"]
