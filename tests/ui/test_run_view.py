"""What batch_swap shows while it runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from colab_helpers.batch.plan import Task
from colab_helpers.batch.report import FileReport
from colab_helpers.batch.results import KEPT
from colab_helpers.batch.status import StatusWriter
from colab_helpers.progress import Progress
from colab_helpers.resources.samples import SAMPLES_NAME, Sample
from colab_helpers.ui.run_view import REFRESH, RunView, overall_html, time_left

PICTURE = "data:image/jpeg;base64,AAAA"


def progress(frame: int) -> Progress:
    return Progress(
        file="a<b.mp4", file_index=0, file_count=1, frame=frame, frames=100, fps=25.0, eta=3.0,
        ram_percent=40.0, gpu_percent=None, provider="cpu", threads=1, batch_size=2,
    )  # fmt: skip


def test_it_is_painted_once_a_second_and_at_the_end(tmp_path: Path) -> None:
    pages: list[str] = []
    now = [0.0]
    writer = StatusWriter(tmp_path / "status.json", [Task(tmp_path / "a<b.mp4", tmp_path / "out.mp4")])
    view = RunView(tmp_path, pages.append, clock=lambda: now[0])
    for frame in range(20):
        writer.progress(progress(frame))
        view(writer.status)
        now[0] += REFRESH / 4
    assert len(pages) == 5
    assert "a&lt;b.mp4" in pages[-1]
    assert "a<b" not in pages[-1]
    assert PICTURE not in pages[-1]
    writer.picture(PICTURE)
    now[0] += REFRESH
    view(writer.status)
    assert f'src="{PICTURE}"' in pages[-1]
    writer.file(0, FileReport(source=[], target="a<b.mp4", status="done"))
    writer.end()
    view(writer.status)
    assert len(pages) == 7
    assert "<img" not in pages[-1]


def test_samples_that_came_since_are_drawn_and_those_of_earlier_runs_are_not(tmp_path: Path) -> None:
    pages: list[str] = []
    writer = StatusWriter(tmp_path / "status.json", [Task(tmp_path / "a.mp4", tmp_path / "out.mp4")])
    samples = tmp_path / SAMPLES_NAME
    old = Sample(time=1.0, ram_used=1, ram_total=100, cpu_percent=11.0)
    samples.write_text(old.model_dump_json() + "\n")
    view = RunView(tmp_path, pages.append)
    new = [
        Sample(time=writer.status.updated + k, ram_used=1, ram_total=100, cpu_percent=33.0) for k in (1, 3)
    ]
    with samples.open("a") as file:
        file.writelines(sample.model_dump_json() + "\n" for sample in new)
    view(writer.status)
    assert "33" in pages[0]
    assert "<svg" in pages[0]
    assert "11.0" not in pages[0]


def test_the_whole_batch_in_one_line(tmp_path: Path) -> None:
    tasks = [Task(tmp_path / f"{name}.mp4", tmp_path / "out" / f"{name}.mp4") for name in "abcd"]
    writer = StatusWriter(tmp_path / "status.json", tasks)
    status = writer.status
    assert "All files: 0 %" in overall_html(status)
    assert time_left(status, 0.0) is None
    # One file was there already, one is done, one is half done: half of the work took ten seconds.
    writer.file(0, FileReport(source=[], target="a", status="done", fallbacks=[KEPT]))
    writer.file(1, FileReport(source=[], target="b", status="done"))
    writer.progress(replace(progress(50), file_index=2, file_count=4))
    status.started = status.updated - 10.0
    assert time_left(status, 2.5 / 4) == pytest.approx(10 * 1.5 / 1.5)
    page = overall_html(status)
    assert "All files: 62 %, about 0:10 left, memory S 40 % (system), G - (GPU)" in page
    assert 'aria-valuenow="62"' in page
    writer.end()
    assert overall_html(status) == ""


def test_the_last_file_tells_for_itself_how_long_it_takes(tmp_path: Path) -> None:
    writer = StatusWriter(tmp_path / "status.json", [Task(tmp_path / "a.mp4", tmp_path / "out.mp4")])
    writer.progress(progress(1))
    assert time_left(writer.status, 0.01) == 3.0
