"""How fast a worker is, wherever in a video the segments are that it makes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from colab_helpers.pipeline import report_progress
from colab_helpers.pipeline.report_progress import ProgressReporter
from colab_helpers.progress import PROCESSING, Progress


def test_who_goes_on_elsewhere_is_as_fast_as_before(monkeypatch) -> None:
    now, told = [0.0], list[Progress]()
    monkeypatch.setattr(report_progress.time, "monotonic", lambda: now[0])
    settings = SimpleNamespace(execution_threads=1, batch_size=1)
    engine: Any = SimpleNamespace(provider="cpu", settings=settings)
    progress = ProgressReporter(told.append, engine, "a.mp4", 0, 1, 1000)
    for seconds in range(100):  # faces are found first, which takes longer than all that follows
        now[0] = 10.0 * seconds
        progress.finding(seconds)
    for start in (0, 500, 500):  # ten frames a second, and counted anew from each start
        for written in range(1, 101):
            now[0] += 0.1
            progress.frame(written, start=start)
    assert all(abs(one.fps - 10) < 0.01 for one in told if one.stage == PROCESSING)
    assert told[-1].frame in range(598, 601)
    assert abs(told[-1].eta - (1000 - told[-1].frame) / 10) < 0.1


def test_whoever_joins_what_others_have_made_does_not_begin_anew() -> None:
    told = list[Progress]()
    settings = SimpleNamespace(execution_threads=1, batch_size=1)
    engine: Any = SimpleNamespace(provider="cpu", settings=settings)
    progress = ProgressReporter(told.append, engine, "a.mp4", 0, 1, 1000)
    progress._last = float("-inf")
    progress.joining(1)
    assert [(one.stage, one.frame) for one in told] == [("joining", 1000)]
