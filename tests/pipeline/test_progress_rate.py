"""A worker's frame rate does not depend on which segments of a video it makes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from colab_helpers.pipeline import report_progress
from colab_helpers.pipeline.report_progress import ProgressReporter
from colab_helpers.progress import PROCESSING, Progress


def reporter(reports: list[Progress]) -> ProgressReporter:
    settings = SimpleNamespace(execution_threads=1, batch_size=1)
    engine: Any = SimpleNamespace(provider="cpu", settings=settings)
    return ProgressReporter(reports.append, engine, "a.mp4", 0, 1, 1000)


def test_frame_rate_is_kept_when_jumping_to_another_segment(monkeypatch) -> None:
    now, reports = [0.0], list[Progress]()
    monkeypatch.setattr(report_progress.time, "monotonic", lambda: now[0])
    progress = reporter(reports)
    for seconds in range(100):  # finding faces, slower than all that follows
        now[0] = 10.0 * seconds
        progress.finding(seconds)
    for start in (0, 500, 500):  # ten frames per second, counted from each start
        for written in range(1, 101):
            now[0] += 0.1
            progress.frame(written, start=start)
    assert all(abs(one.fps - 10) < 0.01 for one in reports if one.stage == PROCESSING)
    assert reports[-1].frame in range(598, 601)
    assert abs(reports[-1].eta - (1000 - reports[-1].frame) / 10) < 0.1


def test_joining_segments_of_other_workers_reports_all_frames() -> None:
    reports = list[Progress]()
    progress = reporter(reports)
    progress._last = float("-inf")
    progress.joining(1)
    assert [(one.stage, one.frame) for one in reports] == [("joining", 1000)]
