"""The charts of machine and run, read back from their HTML, and the same in words."""

from __future__ import annotations

import os
import socket
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from colab_helpers.batch.status import BatchStatus, FileStatus
from colab_helpers.machine import GIB
from colab_helpers.resources.samples import GpuSample, Sample
from colab_helpers.svg import ALARM, BLUE, GREEN
from colab_helpers.ui.charts import (
    FIGURES,
    GO_ON,
    MOST_FILES,
    NO_GPU,
    NO_SAMPLES,
    OLD_NEWS,
    POINTS,
    WINDOW,
    charts_html,
    charts_text,
    warnings,
)

START = 1_700_000_000.0
NASTY = """<a href="x">&'.mp4"""
GPU = {
    "utilisation": 91.0,
    "memory_used": 6 * GIB,
    "memory_total": 15 * GIB,
    "process_memory": 5 * GIB,
    "encoder": 22.0,
    "decoder": 7.0,
    "temperature": 66.0,
    "power": 61.5,
}


def sample(number: int = 0, *, gpu: dict[str, Any] | None = GPU, **values: Any) -> Sample:
    given = {
        "time": START + 2 * number,
        "cpu_percent": 35.0,
        "ram_used": 5 * GIB,
        "ram_total": 12 * GIB,
        "process_memory": 3 * GIB,
        "disk_free": 50_000_000_000,
        "file": "a.mp4",
        "frame": 48 * number,
        "fps": 24.0,
        "queues": {"decode": 8, "find faces": 6, "change faces": 0},
        "stage": "frames",
    }
    return Sample(**{**given, **values}, gpu=GpuSample(**gpu) if gpu is not None else None)


def status(*files: FileStatus, **values: Any) -> BatchStatus:
    given = {"pid": os.getpid(), "host": socket.gethostname(), "started": START, "updated": START + 60}
    return BatchStatus(**{**given, **values}, files=list(files))


RUNNING = FileStatus(
    target="/in/a.mp4", state="running", frame=120, frames=480, fps=24.04, eta=75.0, stage="frames"
)


def page_of(samples: list[Sample], found: BatchStatus | None = None, **options: Any) -> ET.Element:
    """The page as a tree: what is not well-formed does not get past here."""
    return ET.fromstring(charts_html(samples, found, now=options.pop("now", START + 61), **options))


def text_of(element: ET.Element) -> str:
    return " ".join(" ".join(element.itertext()).split())


def tiles(page: ET.Element) -> dict[str, ET.Element]:
    """The element of each figure, by its title."""
    return {
        box.find("div/b").text: box for box in page.iter("div") if box.find("svg") is not None
    }  # fmt: skip


def colours(tile: ET.Element) -> set[str]:
    """Of the lines in a figure's chart."""
    return {path.get("stroke") for path in tile.iter("path")} - {"none"}


def test_every_figure_has_its_chart_with_the_newest_value():
    found = tiles(page_of([sample(number) for number in range(20)]))
    assert set(found) == {figure.title for figure in FIGURES} | {
        "After decode",
        "After find faces",
        "After change faces",
    }
    values = {title: tile.find("svg").get("aria-label").split(": ")[1] for title, tile in found.items()}
    assert values["GPU"] == "91 %"
    assert values["VRAM"] == "6 GiB"
    assert values["VRAM of this run"] == "5 GiB"
    assert values["Video encoder"] == "22 %"
    assert values["GPU temperature"] == "66 °C"
    assert values["GPU power"] == "61.5 W"
    assert values["Disk free"] == "50 GB"
    assert values["Speed"] == "24 frames/s"
    assert values["After find faces"] == "6 waiting"
    assert "of 15 GiB, 40 %" in text_of(found["VRAM"])
    assert "of 12 GiB, 42 %" in text_of(found["RAM"])


def test_without_a_gpu_one_sentence_says_so_and_the_rest_is_shown():
    page = page_of([sample(number, gpu=None) for number in range(5)])
    assert text_of(page).count(NO_GPU) == 1
    assert {"CPU", "RAM", "Disk free", "Speed"} <= set(tiles(page))
    assert not any("GPU" in title or "VRAM" in title or "Video" in title for title in tiles(page))
    assert NO_GPU not in text_of(page_of([sample()]))


def test_nothing_measured_is_no_statement_about_the_gpu():
    page = page_of([])
    assert NO_SAMPLES in text_of(page)
    assert NO_GPU not in text_of(page)
    assert charts_text([], None, now=START) == [NO_SAMPLES]


@pytest.mark.parametrize(
    ("title", "below", "above"),
    [
        ("RAM", {"ram_used": 8499, "ram_total": 10000}, {"ram_used": 8500, "ram_total": 10000}),
        (
            "VRAM",
            {"gpu": {**GPU, "memory_used": 8999, "memory_total": 10000}},
            {"gpu": {**GPU, "memory_used": 9000, "memory_total": 10000}},
        ),
        ("GPU temperature", {"gpu": {**GPU, "temperature": 82.0}}, {"gpu": {**GPU, "temperature": 83.0}}),
        ("Disk free", {"disk_free": 2_000_000_000}, {"disk_free": 1_999_000_000}),
        ("Disk free", {"disk_free": 2_000_000_001}, {"disk_free": 0}),
    ],
)
def test_a_limit_is_coloured_from_the_right_value_on(title, below, above):
    fine = [sample(number, **below) for number in range(4)]
    bad = [sample(number, **above) for number in range(4)]
    assert colours(tiles(page_of(fine))[title]) == {BLUE}
    assert colours(tiles(page_of(bad))[title]) == {ALARM}
    assert warnings(fine) == []
    assert not any(ALARM in (element.get("style") or "") for element in page_of(fine).iter())
    (warning,) = warnings(bad)
    assert warning.startswith(f"{title} ")
    assert f"Warning. {warning}" in text_of(page_of(bad))
    assert f"warning: {warning}" in charts_text(bad, None, now=START)
    assert len({element.get("style") for element in tiles(page_of(bad))[title].iter("span")}) == 1
    assert ALARM in tiles(page_of(bad))[title].find("div/span").get("style")


def test_a_warning_tells_the_worst_of_several():
    percent = [90, 97, 88]
    found = warnings([sample(n, ram_used=p, ram_total=100) for n, p in enumerate(percent)])
    assert [text.split(" (")[0] for text in found] == ["RAM 97 %"]


@pytest.mark.parametrize("gpu", [{}, {"memory_used": 3 * GIB}, {"memory_total": 0, "memory_used": 0}])
def test_what_a_driver_does_not_tell_is_left_out(gpu):
    bare = {"cpu_percent": None, "process_memory": None, "disk_free": None, "file": None, "queues": {}}
    samples = [sample(number, gpu=gpu, **bare) for number in range(3)]
    found = tiles(page_of(samples))
    assert set(found) == {"RAM"} | ({"VRAM"} if "memory_used" in gpu else set())
    assert "None" not in text_of(page_of(samples))
    assert not any("None" in line for line in charts_text(samples, None, now=START))


def test_a_figure_that_is_unknown_now_keeps_its_past():
    samples = [sample(0), sample(1), sample(2, cpu_percent=None)]
    assert tiles(page_of(samples))["CPU"].find("svg").get("aria-label") == "CPU: –"


def test_the_charts_go_back_ten_minutes_and_stay_small():
    samples = [sample(number, gpu=None, fps=7.0 + number % 5) for number in range(2000)]
    long, short = charts_html(samples, None, now=START), charts_html(samples[-301:], None, now=START)
    assert long == short
    assert "last 10:00" in text_of(ET.fromstring(long))
    assert WINDOW == 600
    line = max(path.get("d").count("L") for path in tiles(ET.fromstring(long))["Speed"].iter("path"))
    assert 20 < line <= POINTS + 2


def test_a_pause_between_samples_is_a_gap():
    samples = [*(sample(n) for n in range(20)), *(sample(n) for n in range(80, 100))]
    lines = [p for p in tiles(page_of(samples))["GPU"].iter("path") if p.get("fill") == "none"]
    assert len(lines) == 2


def test_names_and_reasons_are_escaped():
    files = [
        FileStatus(target=f"/in/{NASTY}", state="running", frame=1, frames=2, stage="<frames>"),
        FileStatus(target="/in/b.mp4", state="failed", error="<script>alert(1)</script>"),
    ]
    found = status(*files, notes=["<img src=x>"], pause="<wait>", provider="<cuda>")
    page = page_of([sample(file=NASTY, queues={"<q>": 1})], found, facts=["<fact>"])
    tags = {element.tag for element in page.iter()}
    assert not tags & {"a", "script", "img", "wait", "cuda", "q", "fact", "frames"}
    for text in (NASTY, "<script>alert(1)</script>", "<img src=x>", "waiting: <wait>", "<fact>"):
        assert text in text_of(page)


def test_the_page_loads_nothing_and_runs_nothing():
    text = charts_html([sample(n) for n in range(9)], status(RUNNING), now=START)
    for word in ("http", "<script", "<style", "<link", "<img", "url(", "onload", "color:black", "#000"):
        assert word not in text


def test_the_running_file_with_its_bar():
    found = status(
        RUNNING, FileStatus(target="/in/b.mp4"), provider="cuda", threads=8, batch_size=4, restarts=1
    )
    page = page_of([sample()], found)
    text = text_of(page)
    for part in (
        "running : 0 of 2 files ended (1 queued, 1 running), at work for 1:01, last news 1 s ago",
        "a.mp4: 120 of 480 frames, 24.0 frames/s, ETA 1:15",
        "networks on cuda, threads 8, batch size 4, worker restarts 1",
        "Why is it not faster?",
    ):
        assert part in text
    (bar,) = [element for element in page.iter("div") if element.get("role") == "progressbar"]
    assert bar.get("aria-valuenow") == "25"
    assert "width:25.0%" in bar.find("div").get("style")


def test_a_file_of_unknown_length_has_no_bar():
    page = page_of([sample()], status(RUNNING.model_copy(update={"frames": None, "eta": None})))
    assert not [element for element in page.iter("div") if element.get("role")]
    assert "a.mp4: 120 frames, 24.0 frames/s" in text_of(page)


def test_what_was_done_with_each_file():
    files = [
        FileStatus(target="/in/one.mp4", state="done", frame=90, frames=90, fallbacks=["libx264 was used"]),
        FileStatus(target="/in/two.mp4", state="failed", error="no face was found"),
        RUNNING,
        FileStatus(target="/in/last.mp4"),
    ]
    page = page_of([sample()], status(*files, notes=["one note"]))
    rows = [[text_of(cell) for cell in row.iter("td")] for row in page.iter("tr")][1:]
    assert rows == [
        ["running", "a.mp4", "120/480", ""],
        ["failed", "two.mp4", "", "no face was found"],
        ["queued", "last.mp4", "", ""],
        ["done", "one.mp4", "90/90", "libx264 was used"],
    ]
    styles = {b.text: b.get("style") for b in page.iter("b")}
    assert (styles["done"], styles["failed"]) == (f"color:{GREEN}", f"color:{ALARM}")
    lines = charts_text([sample()], status(*files, notes=["one note"]), now=START)
    assert "  failed     two.mp4  no face was found" in lines
    assert "note: one note" in lines
    assert not any("two.mp4" in line for line in charts_text([], status(*files), now=START, files=False))


def test_of_many_files_the_rest_is_counted():
    files = [FileStatus(target=f"/in/{n}.mp4", state="done" if n < 60 else "queued") for n in range(65)]
    page = page_of([sample()], status(*files))
    names = [text_of(row.findall("td")[1]) for row in page.iter("tr") if row.find("td") is not None]
    # The next in line first, then what was done last.
    assert names == [f"{n}.mp4" for n in (60, 61, 62, 63, 64, 59, 58, 57, 56, 55, 54, 53)]
    assert f"and {65 - MOST_FILES} more: 53 done" in text_of(page)


def test_a_run_that_died_says_what_to_do():
    page = page_of([sample()], status(RUNNING), now=START + 400, lost=True)
    text = text_of(page)
    assert f"last news 5:40 ago. What to do: {GO_ON}" in text
    assert "ended without a word" in text
    assert "stopped" in text
    assert "Why is it not faster" not in text
    assert "running" not in text
    assert charts_text([sample()], status(RUNNING), now=START, lost=True)[0].startswith(
        "ended without a word"
    )


@pytest.mark.parametrize(("age", "old"), [(OLD_NEWS - 0.1, False), (OLD_NEWS, True), (-5.0, False)])
def test_old_news_stand_out(age, old):
    line = charts_text([], status(RUNNING), now=START + 60 + age)[0]
    assert ("hangs" in line) is old
    assert "-5" not in line


def test_a_run_that_ended_is_not_slow():
    done = status(RUNNING.model_copy(update={"state": "done"}), state="done")
    text = text_of(page_of([sample()], done))
    assert text.startswith("done : 1 of 1 files ended (1 done), at work for 1:00")
    assert "Why is it not faster" not in text
    assert "last news" not in text


def test_a_machine_without_a_run_is_not_called_idle():
    alone = sample(file=None, stage="", queues={}, fps=0.0)
    assert not any("Idle" in line for line in charts_text([alone], None, now=START))
    assert any("Idle" in line for line in charts_text([alone], status(), now=START))


def test_the_statuss_own_sample_counts_where_it_is_newer():
    found = status(RUNNING, sample=sample(9, cpu_percent=77.0))
    for samples in ([], [sample(0), sample(1)]):
        tile = tiles(page_of(samples, found))["CPU"]
        assert tile.find("svg").get("aria-label") == "CPU: 77 %"
    newer = tiles(page_of([sample(20, cpu_percent=11.0)], found))["CPU"]
    assert newer.find("svg").get("aria-label") == "CPU: 11 %"


def test_the_words_hold_the_figures():
    lines = charts_text([sample()], status(RUNNING), now=START + 61)
    assert lines[1] == "a.mp4: 120 of 480 frames, 24.0 frames/s, ETA 1:15"
    (machine,) = [line for line in lines if line.startswith("GPU 91 %")]
    for part in (
        "VRAM 6 of 15 GiB (40 %)",
        "RAM 5 of 12 GiB (42 %)",
        "Disk free 50 GB",
        "After decode 8 waiting",
    ):
        assert part in machine


def test_queues_stand_in_the_order_of_the_work():
    queues = {"more": 1, "change faces": 2, "find faces": 3, "decode": 4}
    found = [title for title in tiles(page_of([sample(queues=queues)])) if title.startswith("After")]
    assert found == ["After decode", "After find faces", "After change faces", "After more"]
