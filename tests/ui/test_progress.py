"""Progress lines of runs and model downloads."""

from __future__ import annotations

import dataclasses
from contextlib import suppress

import pytest

from colab_helpers.models.fetching import Progress as FetchProgress
from colab_helpers.pages.units import progress_text
from colab_helpers.progress import Progress
from colab_helpers.ui.progress import FetchLine, ProgressLine, fetch_text
from tests.helpers.reports import a_progress

START = a_progress(
    0, 400, file="clip.mp4", file_index=1, file_count=5, fps=23.44, eta=12.4, ram_percent=41.2,
    gpu_percent=63.0,
)  # fmt: skip


def at(frame: int, **changes: object) -> Progress:
    return dataclasses.replace(START, frame=frame, **changes)


def fetched(done: int) -> FetchProgress:
    return FetchProgress(1, 4, done, 2_000_000)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "120/400 frames, 23.4 frames/s, ETA 0:12, (S: 41%, G: 63%), cuda, threads 8, batch 4"),
        ({"frames": None, "eta": None, "gpu_percent": None, "provider": "cpu"},
         "120 frames, 23.4 frames/s, (S: 41%, G: -), cpu, threads 8, batch 4"),
        ({"eta": 3601}, "ETA 1:00:01,"),
    ],
)  # fmt: skip
def test_progress_text_omits_unknown_values(changes, text):
    found = progress_text(at(120, **changes))
    assert found.startswith("[2/5] clip.mp4: ")
    assert text in found


def test_headless_lines_every_five_seconds_and_at_end(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("colab_helpers.ui.progress.monotonic", lambda: now[0])
    with ProgressLine(headless=True) as line:
        for frame in range(13):
            line(at(frame))
            now[0] += 1.0
    lines = capsys.readouterr().out.splitlines()
    assert [text.split(": ")[1].split("/")[0] for text in lines] == ["0", "5", "10", "12"]
    with ProgressLine(headless=True):
        pass
    assert capsys.readouterr().out == ""
    with FetchLine(headless=True) as fetch:
        for done in (0, 500_000, 1_000_000):
            fetch(fetched(done))
            now[0] += 2.5
    assert capsys.readouterr().out.splitlines() == [fetch_text(fetched(done)) for done in (0, 1_000_000)]
    assert fetch_text(fetched(1_000_000)) == "1 of 4 files, 1 of 2 MB"


def test_bar_per_file_is_closed_if_run_fails(capsys):
    with suppress(RuntimeError), ProgressLine() as line:
        line(at(400))
        line(at(3, file="next.mp4", file_index=2, frames=None))
        raise RuntimeError
    drawn = capsys.readouterr().err
    for part in ("[2/5] clip.mp4: 100%", "(S: 41%, G: 63%), cuda", "[3/5] next.mp4: 3 frames"):
        assert part in drawn
    assert drawn.endswith("\n")
