"""Live page of a machine and a batch, parsed from its HTML, and the same as text."""

from __future__ import annotations

import re
from typing import Any

import pytest

from colab_helpers.batch.plan import Task
from colab_helpers.batch.report import KEPT, FileReport
from colab_helpers.batch.status import BatchStatus, StatusWriter, read_status
from colab_helpers.batch.worker_handles import READY, WorkerStatus
from colab_helpers.machine import GIB
from colab_helpers.pages.live import (
    MAX_FILES,
    MAX_WORKERS,
    NO_GPU,
    NO_SAMPLES,
    RESUME_REMEDY,
    live_html,
    live_text,
    time_left,
)
from colab_helpers.pages.metrics import METRICS, active_timeline, warnings
from colab_helpers.pages.svg import ALARM, BLUE
from colab_helpers.progress import FINDING, PROCESSING
from colab_helpers.resources.samples import GpuSample, Sample
from colab_helpers.ui.form_state import REFRESH, RunView
from tests.helpers.reports import GPU, START, Page, a_progress, a_status, sample

UNSAFE = """<a href="x">&'.mp4"""
PICTURE = "data:image/jpeg;base64,AAAA"
RUNNING = FileReport(target="/in/a.mp4", status="running", frames_in=480, frames_out=120)
PROGRESS = a_progress()


def page_of(samples: list[Sample], found: BatchStatus | None = None, **options: Any) -> Page:
    page = Page(live_html(samples, found, now=options.pop("now", START + 61), **options))
    page.safe()
    return page


def queued(name: str) -> FileReport:
    return FileReport(target=f"/in/{name}.mp4", status="queued")


def latest_values(page: Page) -> dict[str, str]:
    """The newest value of each metric, from its chart's accessible label."""
    labels = (tag["aria-label"] or "" for tag in page.all("svg"))
    return dict(label.split(": ") for label in labels)


# --- the machine ------------------------------------------------------------------------------------------


def test_each_metric_has_chart_with_newest_value() -> None:
    page = page_of([sample(number) for number in range(20)])
    assert list(latest_values(page).items()) == [
        ("GPU", "91 %"), ("VRAM", "6 GiB"), ("VRAM of this run", "5 GiB"), ("Video encoder", "22 %"),
        ("Video decoder", "7 %"), ("GPU temperature", "66 °C"), ("GPU power", "61.5 W"), ("CPU", "35 %"),
        ("RAM", "5 GiB"), ("Process memory", "3 GiB"), ("Disk free", "50 GB"), ("Speed", "24 frames/s"),
        ("After decode", "8 waiting"), ("After find faces", "6 waiting"),
        ("After change faces", "0 waiting"),
    ]  # fmt: skip
    assert len(latest_values(page)) == len(METRICS) + 3
    assert "VRAM of 15 GiB, 40 %" in page.text
    (line,) = live_text([sample()], None, now=START)[:1]
    for part in ("GPU 91 %", "VRAM 6 of 15 GiB (40 %)", "Disk free 50 GB", "After decode 8 waiting"):
        assert part in line
    newer = a_status(RUNNING, progress=PROGRESS, sample=sample(9, cpu_percent=77.0))
    # Drive may sync the status before the samples.
    assert latest_values(page_of([sample(0), sample(1)], newer))["CPU"] == "77 %"


@pytest.mark.parametrize("gpu", [None, {}, {"memory_used": 3 * GIB}, {"memory_total": 0, "memory_used": 0}])
def test_unknown_values_are_omitted(gpu) -> None:
    bare = {"cpu_percent": None, "process_memory": None, "disk_free": None, "file": None, "queues": {}}
    samples = [sample(number, gpu=gpu, **bare) for number in range(3)]
    page = page_of(samples)
    assert set(latest_values(page)) == {"RAM"} | ({"VRAM"} if gpu and "memory_used" in gpu else set())
    assert "None" not in page.text + " ".join(live_text(samples, None, now=START))
    assert page.text.count(NO_GPU) == (gpu is None)
    assert NO_SAMPLES in page_of([]).text
    assert live_text([], None, now=START) == [NO_SAMPLES]


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
def test_alarm_threshold(title, below, above) -> None:
    normal = [sample(number, **below) for number in range(4)]
    alarmed = [*normal, sample(4, **above)]
    assert f'stroke="{BLUE}"' in page_of(normal).charts()[title]
    assert f'stroke="{ALARM}" stroke-dasharray="none"' in page_of(alarmed).charts()[title]
    assert warnings(normal) == page_of(normal).all("span", class_="bad") == []
    (warning,) = warnings(alarmed)
    assert warning.startswith(f"{title} ")
    assert f"Warning. {warning}" in page_of(alarmed).text
    assert f"warning: {warning}" in live_text(alarmed, None, now=START)
    assert len(page_of(alarmed).all("span", class_="bad")) == 1


def test_charts_cover_ten_minutes_and_size_is_limited() -> None:
    samples = [sample(number, fps=7.0 + number % 5) for number in range(2000)]
    long, short = live_html(samples, None, now=START), live_html(samples[-301:], None, now=START)
    assert long == short
    assert "last 10:00" in Page(long).text
    assert len(long) < 40_000


@pytest.mark.parametrize(
    ("distances", "gaps", "length"),
    [
        ([2, 2, 90_000, 2, 2], 1, 10),  # the machine slept
        ([2, 19, 2, 2], 0, 25),  # a late sample, but no pause
        ([60, 60, 60], 0, 180),  # a long sampling interval
        ([2, 2, -50, 2], 0, 6),  # the clock was set back
        ([], 0, 0),
    ],
)
def test_pause_is_a_gap_without_length(distances, gaps, length) -> None:
    times = [START]
    for distance in distances:
        times.append(times[-1] + distance)
    timeline = active_timeline([sample(time=time) for time in times])
    assert sum(found is None for _, found in timeline) == gaps
    assert timeline[-1][0] == length
    assert [time for time, _ in timeline] == sorted(time for time, _ in timeline)


# --- the batch --------------------------------------------------------------------------------------------


def test_texts_from_outside_are_escaped() -> None:
    files = [
        FileReport(target=f"/in/{UNSAFE}", status="running"),
        FileReport(target="/in/\udcff.mp4", status="failed", error="<script>alert(1)</script>"),
    ]
    progress = a_progress(1, 2, file=UNSAFE, stage="<frames>", provider="<cuda>")
    remarks = {"notes": ["<img src=x>"], "pause": "<wait>", "picture": "https://a.b/c.png"}
    samples = [sample(file=UNSAFE, queues={"<q>": 1})]
    page = page_of(samples, a_status(*files, progress=progress, **remarks), facts=["<fact>"])
    assert not {tag for tag, _ in page.tags} & {"a", "script", "img", "wait", "cuda", "q", "fact", "frames"}
    scripts = ("<script>alert(1)</script>", "<img src=x>")
    for text in (UNSAFE, *scripts, "waiting: <wait>", "<fact>", r"\xff.mp4"):
        assert text in page.text


def test_running_batch_shows_state_of_each_file() -> None:
    files = [
        FileReport(target="/in/one.mp4", status="done", frames_out=90, fallbacks=["libx264 was used"]),
        FileReport(target="/in/two.mp4", status="failed", error="no face was found"),
        RUNNING,
        queued("last"),
    ]
    found = a_status(*files, notes=["one note"], progress=PROGRESS, restarts=1)
    page = page_of([sample()], found)
    summary = "running: 2 of 4 files finished (1 done, 1 queued, 1 failed, 1 running), elapsed time 1:01"
    work = "[1/2] a.mp4: 120/480 frames, 24.0 frames/s, ETA 1:15, (S: 40%, G: -), cuda, threads 8, batch 4"
    for part in (f"{summary}, last update 1 s ago", work, "worker restarts 1", "Why is it not faster?"):
        assert part in page.text
    bars = {bar["aria-label"]: bar["aria-valuenow"] for bar in page.all("div", role="progressbar")}
    assert bars == {"All files": "56", "a.mp4": "25"}
    assert page.rows[1:] == [
        ["running", "a.mp4", "120/480", ""],
        ["failed", "two.mp4", "", "no face was found"],
        ["queued", "last.mp4", "", ""],
        ["done", "one.mp4", "90", "libx264 was used"],
    ]
    assert len(page.all("td", class_="good")) == len(page.all("td", class_="bad")) == 1
    lines = live_text([sample()], found, now=START)
    for line in (work, "  failed     two.mp4  no face was found", "note: one note"):
        assert line in lines
    assert not any("two.mp4" in line for line in live_text([], found, now=START, files=False))
    unknown = page_of([sample()], a_status(RUNNING, progress=a_progress(frames=None, eta=None)))
    assert len(unknown.all("div", role="progressbar")) == 1
    assert "  running    a.mp4  120/480 frames" in lines


def test_file_rows_are_limited_and_the_rest_is_counted() -> None:
    files = [FileReport(target=f"/in/{n}.mp4", status="done" if n < 60 else "queued") for n in range(65)]
    page = page_of([sample()], a_status(*files))
    # The next queued files, then those finished last.
    expected = [f"{n}.mp4" for n in (60, 61, 62, 63, 64, 59, 58, 57, 56, 55, 54, 53)]
    assert [row[1] for row in page.rows[1:]] == expected
    assert f"and {65 - MAX_FILES} more: 53 done" in page.text


def test_ended_or_lost_run_has_no_speed_hint_but_a_remedy() -> None:
    done = a_status(RUNNING.model_copy(update={"status": "done"}), state="done", progress=PROGRESS)
    page = page_of([sample()], done)
    assert page.text.startswith("done: 1 of 1 files finished (1 done), elapsed time 1:00")
    died = a_status(RUNNING, progress=PROGRESS, picture=PICTURE)
    lost = page_of([sample()], died, now=START + 400, lost=True)
    assert f"last update 5:40 ago. What to do: {RESUME_REMEDY}" in lost.text
    assert lost.text.startswith("ended unexpectedly")
    for absent in ("Why is it not faster", "running", "All files"):
        assert absent not in page.text + lost.text
    assert lost.all("img") == []
    for age, old in ((9.9, False), (10.0, True), (-5.0, False)):
        line = live_text([], a_status(RUNNING, progress=PROGRESS), now=START + 60 + age)[0]
        assert ("hangs" in line) is old
        assert "-5" not in line


def test_progress_and_time_left_of_batch() -> None:
    all_queued = [queued(name) for name in "abcd"]
    assert "All files: 0 %" in page_of([], a_status(*all_queued)).text
    assert time_left(a_status(*all_queued), 0.0) is None
    # One file kept, one done, one half done: half of the work took ten seconds.
    kept, done = (FileReport(target="/in/a.mp4", status="done", fallbacks=notes) for notes in ([KEPT], []))
    half = RUNNING.model_copy(update={"frames_out": 240})
    found = a_status(kept, done, half, queued("d"), updated=START + 10, progress=a_progress(240, eta=3.0))
    assert time_left(found, 2.5 / 4) == pytest.approx(10 * 1.5 / 1.5)
    assert "All files: 62 %, about 0:10 left" in page_of([], found).text
    assert time_left(a_status(RUNNING, progress=PROGRESS), 0.01) == 75.0  # the last file's own ETA


def test_run_view_is_refreshed_once_a_second_and_at_end(tmp_path, monkeypatch) -> None:
    pages, now = [], [0.0]
    monkeypatch.setattr("colab_helpers.ui.form_state.monotonic", lambda: now[0])
    view = RunView(tmp_path, pages.append)
    found = a_status(RUNNING, progress=PROGRESS)
    for _ in range(20):
        view(found)
        now[0] += REFRESH / 4
    assert len(pages) == 5
    assert "<img" not in pages[-1]
    now[0] += REFRESH
    view(found.model_copy(update={"picture": PICTURE}))
    assert f'src="{PICTURE}" alt="last frame"' in pages[-1]
    view(found.model_copy(update={"state": "done"}))
    assert len(pages) == 7


def test_workers_are_listed_with_file_speed_and_load() -> None:
    workers = [
        WorkerStatus(name="box GPU 0", file="film.mp4", stage=FINDING, gpu_load=93.0, gpu_percent=41.4),
        WorkerStatus(name="box GPU 1", file="film.mp4", segment=7, stage=PROCESSING, fps=24.04),
        WorkerStatus(name="far", stage=READY),
        WorkerStatus(name="far CPU", file="b.mp4", stage=PROCESSING, pause="the drive is full"),
    ]
    totals = {"worker_count": 4, "idle": 1, "rate": 24.04, "progress": PROGRESS}
    status = a_status(RUNNING, queued("b"), workers=workers, **totals)
    page, lines = page_of([sample(gpu=None)], status), live_text([], status, now=START)
    rows = [
        ["box GPU 0", "film.mp4, finding faces", "", "93 %", "41 %"],
        ["box GPU 1", "segment 7 of film.mp4", "24", "", ""],
        ["far", "ready", "", "", ""],
        ["far CPU", "b.mp4, the drive is full", "", "", ""],
    ]
    assert page.rows[1:5] == rows
    assert "  box GPU 1  segment 7 of film.mp4  24 frames/s" in lines
    assert "  box GPU 0  film.mp4, finding faces  GPU 93 %  VRAM 41 %" in lines
    total = "All files: 12 %, 4 workers, 24 frames/s in total, 1 of them idle, about 7:00 left"
    assert (total in page.text, total in lines) == (True, True)
    assert NO_GPU not in page.text, "the workers' GPUs are elsewhere"
    one = a_status(RUNNING, queued("b"), progress=PROGRESS)
    assert "workers" not in page_of([sample()], one).text + " ".join(live_text([], one, now=START))
    assert "box" not in page_of([], status, lost=True).text


def test_paused_workers_are_listed_first_and_the_rest_is_counted(tmp_path) -> None:
    writer = StatusWriter(
        tmp_path / "status.json", [Task(tmp_path / f"{n}", tmp_path / "o") for n in range(1000)]
    )
    workers = [WorkerStatus(name=f"node{n}", file=f"{n}", stage=PROCESSING, fps=20.0) for n in range(100)]
    workers[99].pause = "the drive is full"
    writer.workers(workers)
    found = writer.status
    assert (len(found.workers), found.worker_count, found.rate) == (64, 100, 2000.0)
    assert found.pause == "the drive is full"
    page, lines = page_of([], found), live_text([], found, now=START)
    assert [row[0] for row in page.rows[1 : 1 + MAX_WORKERS]] == ["node99", *(f"node{n}" for n in range(15))]
    assert ("and 84 more" in page.text, "  and 84 more" in lines) == (True, True)
    assert "100 workers, 2000 frames/s in total" in page.text
    assert len(page.rows) == 2 + MAX_WORKERS + MAX_FILES
    assert len(page.source) < 25_000
    assert len(found.text()) < 200 * 1000 + 300 * 64 + 3000, "the status file's size is limited, too"
    assert read_status(tmp_path).files == found.files
    writer.workers([one.model_copy(update={"pause": None}) for one in workers])
    assert found.pause is None


def test_each_gpu_has_a_line_and_the_worst_one_causes_warning() -> None:
    nearly_full = {**GPU, "utilisation": 12.0, "memory_used": 14 * GIB}
    samples = [sample(n, gpus=[GpuSample(**GPU), GpuSample(**nearly_full)]) for n in range(4)]
    page = page_of(samples)
    assert (latest_values(page)["GPU"], latest_values(page)["VRAM"]) == ("12–91 %", "6–14 GiB")
    assert [page.charts()[name].count(' stroke="') for name in ("GPU", "CPU")] == [3, 1]
    assert len(latest_values(page)) == len(METRICS) + 3, "the other figures are the first one's"
    (warning,) = warnings(samples)
    assert warning.startswith("VRAM 93.3 %")
    assert warnings([sample(gpus=[GpuSample(**GPU)])]) == []


@pytest.mark.parametrize(
    ("frame", "width"), [(-5, "width:0.0%"), (120, "width:25.0%"), (10**9, "width:100.0%")]
)
def test_progress_bar_width_is_clamped(frame, width) -> None:
    page = live_html([], a_status(RUNNING, progress=a_progress(frame)), now=START + 61)
    assert page.count(width) >= 1
    assert not re.search(r"width:(-|[0-9]{4})", page)
