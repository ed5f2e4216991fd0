"""The progress line in its two forms."""

from __future__ import annotations

import dataclasses

import pytest

from colab_helpers.progress import Progress
from colab_helpers.ui.progress import ProgressLine, progress_text

START = Progress(
    file="clip.mp4",
    file_index=1,
    file_count=5,
    frame=0,
    frames=400,
    fps=23.44,
    eta=12.4,
    ram_percent=41.2,
    gpu_percent=63.0,
    provider="cuda",
    threads=8,
    batch_size=4,
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def at(frame: int, **changes: object) -> Progress:
    return dataclasses.replace(START, frame=frame, **changes)


def test_the_line_says_everything():
    assert progress_text(at(120)) == (
        "[2/5] clip.mp4: 120/400 frames, 23.4 frames/s, ETA 0:12, (S: 41%, G: 63%), cuda, threads 8, batch 4"
    )


def test_what_is_unknown_is_left_out():
    text = progress_text(at(7, frames=None, eta=None, gpu_percent=None, provider="cpu"))
    assert text == "[2/5] clip.mp4: 7 frames, 23.4 frames/s, (S: 41%, G: -), cpu, threads 8, batch 4"


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0:00"), (59.6, "1:00"), (3601, "1:00:01")])
def test_time_left(seconds, text):
    assert f"ETA {text}," in progress_text(at(1, eta=seconds))


def test_headless_lines_come_every_five_seconds_and_at_the_end(capsys):
    clock = Clock()
    with ProgressLine(headless=True, clock=clock) as line:
        for frame in range(13):
            line(at(frame))
            clock.now += 1.0
    lines = capsys.readouterr().out.splitlines()
    assert [text.split(": ")[1].split("/")[0] for text in lines] == ["0", "5", "10", "12"]


def test_nothing_is_printed_where_nothing_happened(capsys):
    with ProgressLine(headless=True):
        pass
    assert capsys.readouterr().out == ""


def test_a_bar_for_each_file(capsys):
    with ProgressLine() as line:
        line(at(10))
        line(at(400))
        line(at(3, file="next.mp4", file_index=2, frames=None))
    drawn = capsys.readouterr().err
    assert "[2/5] clip.mp4: 100%" in drawn
    assert "400/400" in drawn
    assert "(S: 41%, G: 63%), cuda, threads 8, batch 4" in drawn
    assert "[3/5] next.mp4: 3 frames" in drawn


def test_the_bar_is_closed_when_a_run_fails(capsys):
    def fail() -> None:
        with ProgressLine() as line:
            line(at(10))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert capsys.readouterr().err.endswith("\n")
