"""The report page: parsed as a browser would, its pictures decoded, its figures compared."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from colab_helpers.batch.html_files import MAX_PICTURES, PICTURE_SECONDS
from colab_helpers.batch.html_report import html_report, write_html_report
from colab_helpers.batch.report import BatchReport, FileReport, ModelReport, Quality, Status, summarize
from colab_helpers.errors import OutputError
from colab_helpers.machine import GIB
from colab_helpers.resources.samples import GpuSample, Sample
from colab_helpers.settings import Settings
from tests.media.make import Spec, make, picture

VOID = {"meta", "img", "br"}
EVIL = "<script>alert(\"1\")</script>&'x' 日本 ü"
MACHINE = {
    "cpus": 4,
    "memory_total": 13 * GIB,
    "gpu": {"name": "Test Card", "memory_total": 15 * GIB, "driver": "1.2"},
    "python": "3.11.7",
    "system": "Linux",
    "on_colab": True,
}


class Page(HTMLParser):
    """Text, tags with attributes, and rows of tables; refuses what is not nested well."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.words.append(data)
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        found = (attributes for name, attributes in self.tags if name == tag)
        return [each for each in found if all(each.get(k.rstrip("_")) == v for k, v in wanted.items())]

    def fact(self, name: str) -> str:
        """The value beside a name; of several files the first."""
        return next(row[1] for row in self.rows if len(row) == 2 and row[0] == name)

    def images(self) -> list[np.ndarray]:
        return [decoded(tag["src"] or "") for tag in self.all("img")]


def decoded(url: str) -> np.ndarray:
    head, data = url.split(",")
    assert head == "data:image/jpeg;base64"
    image = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def number_of(image: np.ndarray) -> int:
    """The bar code of ``tests.media.make``."""
    cell = image.shape[1] // 8
    row = image[image.shape[0] // 8 : image.shape[0] // 3].mean(axis=(0, 2))
    return sum(1 << bit for bit in range(8) if row[bit * cell + 2 : (bit + 1) * cell - 2].mean() > 128)


def a_file(target: Path | str, output: Path | str | None = None, **values: Any) -> FileReport:
    status: Status = "done" if output else "failed"
    given = {"source": ["face.png"], "frames_in": 8, "frames_out": 8, "faces_swapped": 8, **values}
    return FileReport(
        target=str(target),
        output=str(output) if output else None,
        **{"status": status, **given},
    )


def a_report(*files: FileReport, **values: Any) -> BatchReport:
    summary = summarize(list(files), seconds=754.2, memory_warnings=values.pop("memory_warnings", 0))
    summary.restarts = values.pop("restarts", 0)
    given = {
        "consent": "The person shown has agreed.",
        "settings": Settings().model_dump(mode="json"),
        "machine": MACHINE,
        "run": "run-7",
        "models": [ModelReport(name="inswapper_128", path="/m/inswapper_128.onnx", standin=False)],
        **values,
    }
    return BatchReport(summary=summary, files=list(files), **given)


def samples(count: int = 60, *, gpu: bool = True, start: float = 1_790_000_000.0) -> list[Sample]:
    return [
        Sample(
            time=start + 2 * i,
            cpu_percent=40.0 if i else None,
            ram_used=4 * GIB,
            ram_total=13 * GIB,
            process_memory=2 * GIB,
            gpu=GpuSample(utilisation=99 if i == 30 else 50, memory_used=6 * GIB) if gpu else None,
            file="a.mp4",
            fps=24.0,
        )
        for i in range(count)
    ]


def page_of(report: BatchReport, taken: list[Sample] | None = None, **options: Any) -> Page:
    return Page(html_report(report, taken or [], **options))


@pytest.fixture
def clips(tmp_path: Path) -> tuple[Path, Path]:
    """A target and its result, in which only the frame in the middle differs."""
    target = make(tmp_path / "clip.mp4", Spec(frames=8))
    result = cv2.VideoWriter(str(tmp_path / "out.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (96, 64))
    for number in range(8):
        image = cv2.cvtColor(picture(number, 96, 64), cv2.COLOR_GRAY2BGR)
        if number == 4:
            image[32:] = 255 - image[32:]
        result.write(image)
    result.release()
    return target, tmp_path / "out.avi"


def test_the_pictures_are_the_right_frame_before_and_after(clips) -> None:
    target, output = clips
    page = page_of(a_report(a_file(target, output)))
    before, after = page.images()
    assert number_of(before) == number_of(after) == 4
    assert np.abs(before[40:].astype(int) - after[40:]).mean() > 40
    assert [tag["alt"] for tag in page.all("img")] == [
        "a frame of clip.mp4, before",
        "a frame of clip.mp4, after",
    ]


def test_nothing_comes_from_elsewhere_and_nothing_runs(clips) -> None:
    text = html_report(a_report(a_file(*clips)), samples())
    page = Page(text)
    assert not re.search(r"https?:|['(\s=]//|@import|url\(|<link|<script|\son\w+=", text)
    for tag, attributes in page.tags:
        assert attributes.get("src", "data:image/jpeg;base64,").startswith("data:image/jpeg;base64,"), tag
        assert attributes.get("href", "#").startswith("#"), tag
    assert len(page.all("img")) == 2


def test_what_the_run_was_is_at_the_top() -> None:
    report = a_report(a_file("a.mp4", "out/a.mp4"), notes=["FP16 was off"])
    page = page_of(report, samples(), now=1_790_000_500.0)
    assert page.text.startswith("Batch report: all 1 done")
    assert page.fact("Run") == "run-7"
    assert page.fact("Consent") == "The person shown has agreed."
    assert page.fact("Machine") == "4 processor cores, 13 GiB RAM"
    assert page.fact("GPU") == "Test Card, 15 GiB, driver 1.2"
    assert page.fact("Software") == "Linux, Python 3.11.7, on Google Colab"
    assert re.fullmatch(r"2026-09-2\d \d\d:\d\d:\d\d \S+", page.fact("Began"))
    assert page.fact("Began") < page.fact("Last sample") < page.fact("Report written")
    assert "FP16 was off" in page.text
    assert page.fact("inswapper_128").startswith("network as published")


def test_the_numbers_of_the_run() -> None:
    files = [a_file("a.mp4", "a", bytes_out=1_500_000), a_file("b.mp4", "b", bytes_out=500_000), a_file("c")]
    text = page_of(a_report(*files, memory_warnings=3, restarts=2)).text
    for tile in (
        "files3",
        "succeeded2 (67 %)",
        "failed1",
        "skipped0",
        "size of all results2 MB",
        "time12:34",
        "memory warnings3",
        "restarts2",
    ):
        assert tile in text


def test_everything_known_of_a_file_is_in_its_table() -> None:
    file = a_file(
        "in/a.mp4",
        "out/a.mp4",
        frames_in=250,
        frames_out=250,
        faces_swapped=240,
        frames_without_face=35,
        seconds=10.42,
        fps=24.0,
        encoder="h264_nvenc",
        provider="cuda",
        memory_before=1 * GIB,
        memory_after=1 * GIB + (50 << 20),
        bytes_in=2_000_000,
        bytes_out=1_000_000,
        video_seconds=10.0,
        audio_seconds=10.02,
        times_kept=True,
        segments=5,
        segments_kept=3,
        fallbacks=["sound was converted"],
        quality=Quality(
            similarity_mean=0.7123,
            similarity_p5=0.641,
            similarity_samples=11,
            flicker=0.42,
            missed_spans=[(0, 10), (225, 250)],
        ),
    )
    page = page_of(a_report(file))
    expected = {
        "Frames in / out": "250 / 250",
        "Times of frames kept": "yes",
        "Length of picture / sound": "10.000 s / 10.020 s",
        "Faces changed": "240",
        "Frames without a face": "35",
        "Similarity to the source": "mean 0.712, 95 % of 11 reach 0.641",
        "Flicker": "0.42 grey levels",
        "Speed": "24 frames/s, 10.4 s",
        "Networks ran on": "cuda",
        "Encoder": "h264_nvenc",
        "Segments": "5, of which 3 were kept from an earlier run",
        "Memory before / after": "1 GiB / 1.05 GiB (+50 MiB)",
        "Size in / out": "2 MB / 1 MB",
        "Fall-backs": "sound was converted",
        "Source": "face.png",
        "Target": "in/a.mp4",
        "Output": "out/a.mp4",
    }
    assert {name: page.fact(name) for name in expected} == expected
    assert page.fact("Where no face was changed").startswith(
        "0–9 (0:00.0–0:00.4), 225–249 (0:09.0–0:10.0)"  # a rate of 25 frames a second
    )
    assert ["a.mp4", "done", "250 / 250", "24", "240", "0.71", "0.42"] in page.rows


def test_long_lists_of_stretches_are_cut() -> None:
    spans = [(10 * i, 10 * i + 2) for i in range(400)]
    text = page_of(a_report(a_file("a.mp4", "b", quality=Quality(missed_spans=spans)))).text
    assert "0–1, 10–11" in text
    assert "110–111, and 388 more" in text
    assert "120–121" not in text


def test_what_matters_most_is_said_first() -> None:
    files = [
        a_file("lost.mp4", "o", frames_out=7),
        a_file("times.mp4", "o", times_kept=False),
        a_file("sound.mp4", "o", video_seconds=10.0, audio_seconds=9.5),
        a_file("empty.mp4", "o", faces_swapped=0),
        a_file("cpu.mp4", "o", provider="cpu"),
        a_file("bad.mp4", error="cannot be read"),
        a_file("late.mp4", status="skipped"),
    ]
    model = ModelReport(name="inswapper_128", path="m", standin=True)
    page = html_report(a_report(*files, models=[model], memory_warnings=1, restarts=1), [])
    top = Page(re.search(r'<ul class="warnings">.*?</ul>', page, re.S).group())
    said = re.findall(r"<li>(.*?)</li>", page.split("</ul>")[0].replace("&#x27;", "'"))
    assert said[0] == "Failed (1 of 7): bad.mp4"
    assert said[1] == "Skipped (1): late.mp4"
    assert said[2].startswith("Stand-in models were used")
    for sentence in (
        "RAM ran short (more than 85 % in use), 1 time(s)",
        "started again, 1 time(s)",
        "No face was changed in any frame: empty.mp4",
        "Frames went in that did not come out: lost.mp4",
        "exactly when the target's are: times.mp4",
        "more than 0.1 s: sound.mp4",
        "networks ran on the CPU: cpu.mp4",
    ):
        assert sentence in top.text
    assert "stand-in: knows" in Page(page).fact("inswapper_128")


def test_a_good_run_has_no_warnings_and_new_timing_that_was_asked_for_is_none() -> None:
    assert 'class="warnings"' not in html_report(a_report(a_file("a.mp4", "b")), [])
    retimed = a_file("a.mp4", "b", times_kept=False, frames_out=30)
    settings = Settings(keep_fps=False).model_dump(mode="json")
    assert 'class="warnings"' not in html_report(a_report(retimed, settings=settings), [])


def test_names_break_nothing() -> None:
    file = a_file(
        f"in/{EVIL.replace('/', '-')}",
        "out",
        source=[EVIL],
        fallbacks=[EVIL],
        encoder=EVIL,
        provider=EVIL,
        error=EVIL,
    )
    lone = a_file("in/\udcff.mp4")  # a name that is no UTF-8, as Linux allows
    report = a_report(
        file,
        lone,
        consent=EVIL,
        run=EVIL,
        notes=[EVIL],
        machine={"gpu": {"name": EVIL}, "system": EVIL},
        settings={"enhancer_model": EVIL, EVIL: EVIL},
        models=[ModelReport(name=EVIL, path=EVIL, standin=True)],
    )
    text = html_report(report, samples())
    page = Page(text)
    assert page.all("script") == []
    assert page.text.count("日本 ü") >= 12
    assert page.fact("Consent") == EVIL
    assert page.fact("Encoder") == EVIL
    text.encode("utf-8")


def test_settings_that_differ_come_first() -> None:
    settings = Settings(output_video_quality=18, keep_frames=True).model_dump(mode="json")
    rows = [row for row in page_of(a_report(settings=settings)).rows if len(row) == 4]
    assert rows[0] == ["Setting", "Value", "Default", "What it does"]
    assert [row[:3] for row in rows[1:3]] == [
        ["keep_frames", "true", "false"],
        ["output_video_quality", "18", "25"],
    ]
    assert "CRF" in rows[2][3]
    assert {row[0] for row in rows[1:]} == set(Settings.model_fields)
    assert f"2 of {len(settings)} differ" in page_of(a_report(settings=settings)).text


def test_charts_show_the_samples() -> None:
    page = page_of(a_report(a_file("a", "b")), samples())
    titles = [tag["aria-label"] for tag in page.all("svg")]
    assert titles == ["GPU load", "GPU memory", "Memory", "Processors", "Speed"]
    assert "networks: mean 50.8, most 99 %" in page.text
    assert "all programs: mean 6, most 6 GiB" in page.text
    assert "machine: mean 4, most 4 GiB; this run: mean 2, most 2 GiB" in page.text
    assert "frames: mean 24, most 24 frames/s" in page.text
    assert page.text.count("encoder: mean") == 0


def test_without_a_gpu_or_samples_the_rest_is_there() -> None:
    report = a_report(a_file("a", "b"))
    page = page_of(report, samples(gpu=False))
    assert [tag["aria-label"] for tag in page.all("svg")] == ["Memory", "Processors", "Speed"]
    assert "No figures over time" in page_of(report).text
    assert len(page_of(report, samples(1)).all("svg")) == 4  # the first sample knows no load of processors


def test_a_pause_takes_no_room_and_is_a_gap() -> None:
    taken = samples(30) + samples(30, start=1_790_000_000.0 + 90_000)
    text = html_report(a_report(), taken)
    chart = re.search(r'<svg[^>]*aria-label="Memory".*?</svg>', text, re.S).group()
    assert "1:55" not in chart
    assert "2:00" not in chart  # 60 samples, 2 s apart: the axis ends before
    line = re.search(r'<path d="([^"]*)"', chart).group(1)
    assert line.count("M") == 2


def test_media_that_is_gone_or_damaged_is_said(clips, tmp_path) -> None:
    target, output = clips
    (tmp_path / "text.mp4").write_text("no video")
    files = [
        a_file(tmp_path / "gone.mp4", output),
        a_file(target, tmp_path / "gone.mp4"),
        a_file(tmp_path / "text.mp4", output),
        a_file("", "x"),
    ]
    page = page_of(a_report(*files))
    assert page.images() == []
    assert page.text.count("No picture: ") == 4


def test_only_failures() -> None:
    page = page_of(
        a_report(a_file("a.mp4", error="is damaged"), a_file("b.mp4", error="is empty")), samples()
    )
    assert page.text.startswith("Batch report: 0 of 2 done")
    assert page.fact("Error") == "is damaged"
    assert page.images() == []
    assert len(page.all("span", class_="badge bad")) == 1


def test_no_files_at_all() -> None:
    page = page_of(a_report(settings={}, machine={}, models=[]))
    assert page.text.startswith("Batch report: no files")


def test_hundreds_of_files_stay_a_page(clips, monkeypatch) -> None:
    asked: list[str] = []

    def instead(file: FileReport) -> None:
        asked.append(file.target)
        raise OSError("not looked at")

    monkeypatch.setattr("colab_helpers.batch.html_files.pair_of", instead)
    files = [a_file(f"{number:03d}.mp4", "o") for number in range(300)] + [a_file("bad.mp4", error="no")]
    text = html_report(a_report(*files), samples())
    page = Page(text)
    assert len(asked) == MAX_PICTURES
    assert "Only the first 24 finished files" in page.text
    assert len(text) < 1_500_000
    parts = page.all("details")[:-1]
    assert len(parts) == 301
    assert [part.get("id") for part in parts if "open" in part] == ["file-301"]
    links = [tag["href"] for tag in page.all("a")]
    assert links == [f"#{part['id']}" for part in parts]


def test_pictures_take_a_limited_time(clips) -> None:
    ticks = iter([0.0, 1.0, PICTURE_SECONDS + 1, PICTURE_SECONDS + 2])
    page = page_of(a_report(*[a_file(*clips)] * 3), clock=lambda: next(ticks))
    assert len(page.images()) == 2
    assert page.text.count("took too long to find") == 2


def test_it_is_written_whole_or_not_at_all(tmp_path) -> None:
    report = a_report(a_file("ü.mp4", "o"))
    write_html_report(report, samples(), tmp_path / "new" / "report.html")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.html"]
    assert "ü.mp4" in Page((tmp_path / "new" / "report.html").read_text(encoding="utf-8")).text
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        write_html_report(report, [], tmp_path / "file" / "report.html")
