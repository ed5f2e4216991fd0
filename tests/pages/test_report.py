"""Report page of a run and its results in a notebook: parsed HTML against the report's figures."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from colab_helpers.batch.report import BatchReport, FileReport, ModelReport, Quality
from colab_helpers.errors import MissingFileError, UsageError
from colab_helpers.language import use_language
from colab_helpers.machine import GIB
from colab_helpers.media.images import read_image
from colab_helpers.pages.__main__ import main
from colab_helpers.pages.report import (
    MAX_PICTURES,
    MAX_ROWS,
    PICTURE_SECONDS,
    failure_text,
    report_html,
    results_html,
    write_page,
)
from colab_helpers.pages.units import results_text
from colab_helpers.resources.samples import SAMPLES_NAME, Sample
from colab_helpers.settings import Settings
from tests.helpers.reports import START, Page, a_file, a_full_file, a_report, sample
from tests.media.make import Spec, make, picture

UNSAFE = "<script>alert(\"1\")</script>&'x' 日本 ü"


def samples(count: int = 60, **values: Any) -> list[Sample]:
    gpu = values.pop("gpu", {"utilisation": 50, "memory_used": 6 * GIB})
    result = [
        sample(number, gpu=gpu, cpu_percent=40.0 if number else None, **values) for number in range(count)
    ]
    if gpu and count > 30:
        result[30] = sample(30, gpu={**gpu, "utilisation": 99}, **values)
    return result


def page_of(report: BatchReport, history: list[Sample] | None = None) -> Page:
    page = Page(report_html(report, history or []))
    page.safe()
    return page


def results_of(report: BatchReport, folder: Path = Path("/out"), **options: Any) -> Page:
    page = Page(results_html(report, folder, **options))
    page.safe()
    return page


def images(page: Page) -> list[np.ndarray]:
    return [read_image(tag["src"] or "") for tag in page.all("img")]


def number_of(image: np.ndarray) -> int:
    """The bar code of ``tests.media.make``."""
    cell = image.shape[1] // 8
    row = image[image.shape[0] // 8 : image.shape[0] // 3].mean(axis=(0, 2))
    return sum(1 << bit for bit in range(8) if row[bit * cell + 2 : (bit + 1) * cell - 2].mean() > 128)


@pytest.fixture
def clips(tmp_path: Path) -> tuple[Path, Path]:
    """A target and its result, which differ only in the middle frame."""
    target = make(tmp_path / "clip.mp4", Spec(frames=8))
    result = cv2.VideoWriter(str(tmp_path / "out.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (96, 64))
    for number in range(8):
        image = cv2.cvtColor(picture(number, 96, 64), cv2.COLOR_GRAY2BGR)
        if number == 4:
            image[32:] = 255 - image[32:]
        result.write(image)
    result.release()
    return target, tmp_path / "out.avi"


@pytest.mark.parametrize("render", [page_of, results_of])
def test_pictures_show_changed_frame_before_and_after(clips, render, tmp_path: Path) -> None:
    (tmp_path / "report.json").touch()
    options = {"folder": tmp_path} if render is results_of else {}
    page = render(a_report(a_file(*clips), notes=["one note"]), **options)
    before, after = images(page)
    assert number_of(before) == number_of(after) == 4
    assert np.abs(before[40:].astype(int) - after[40:]).mean() > 40
    assert [tag["alt"] for tag in page.all("img")] == ["clip.mp4, before", "clip.mp4, after"]
    assert "one note" in page.text
    if render is results_of:  # a fragment with a player and the reports' paths
        assert not page.all("body")
        assert len(page.all("video")) == 1
        for text in ("1 of 1 files", "out.avi (the first 4", str(tmp_path / "report.json")):
            assert text in page.text
        assert "report.html" not in page.text  # a stopped run has none


def test_page_starts_with_summary_of_run(monkeypatch) -> None:
    files = [a_file("a.mp4", "a", bytes_out=1_500_000), a_file("b.mp4", "b", bytes_out=500_000), a_file("c")]
    report = a_report(*files, notes=["FP16 was off"], memory_warnings=3, restarts=2)
    monkeypatch.setattr("colab_helpers.pages.report.time", lambda: START + 500)
    page = page_of(report, samples())
    assert page.text.startswith("Batch report: 2 of 3 done")
    expected = {
        "Run": "run-7",
        "Consent": "The person shown has agreed.",
        "Machine": "4 processor cores, 13 GiB RAM",
        "GPU": "Test Card, 15 GiB, driver 1.2",
        "Software": "Linux, Python 3.11.7, on Google Colab",
    }
    assert {name: page.fact(name) for name in expected} == expected
    assert re.fullmatch(r"2026-09-2\d \d\d:\d\d:\d\d \S+", page.fact("Started"))
    assert page.fact("Started") < page.fact("Last sample") < page.fact("Report written")
    assert "FP16 was off" in page.text
    assert page.fact("inswapper_128").startswith("network as published")
    numbers = (
        "files3 succeeded2 (67 %) failed1 skipped0 size of all results2 MB time12:34 frames/s overall0.032 "
        "memory warnings3 restarts2"
    )
    assert numbers.replace(" ", "") in page.text.replace(" ", "")
    assert list(page.charts()) == ["GPU load", "GPU memory", "CPU", "Memory", "Disk free", "Speed"]
    for line in (
        "GPU: min. 50, mean 50.8, max. 99 %",
        "RAM: min. 5, mean 5, max. 5 GiB; Process memory: min. 3, mean 3, max. 3 GiB",
    ):
        assert line in page.text
    assert list(page_of(report, samples(gpu=None)).charts()) == ["CPU", "Memory", "Disk free", "Speed"]
    assert "No samples over time" in page_of(report).text


def test_file_table_has_all_known_values() -> None:
    file = a_full_file("in/a.mp4", "out/a.mp4")
    page = page_of(a_report(file))
    expected = {
        "Frames in / out": "250 / 250", "Timestamps kept": "yes",
        "Length of video / audio": "10.000 s / 10.020 s", "Faces changed": "240",
        "Frames without a face": "35",
        "Similarity to the source": "mean 0.712, 95 % of 11 are at least 0.641",
        "Flicker": "0.42 grey levels", "Speed": "24 frames/s, 10.4 s", "Networks ran on": "cuda",
        "Encoder": "h264_nvenc", "Segments": "5, 3 of them kept from an earlier run",
        "Memory before / after": "1 GiB / 1.05 GiB (+50 MiB)", "Size in / out": "2 MB / 1 MB",
        "Fallbacks": "sound was converted", "Marked": "in the file, signed by Ana Ruiz",
        "Source": "face.pngother.png", "Target": "in/a.mp4", "Output": "out/a.mp4",
    }  # fmt: skip
    assert {name: page.fact(name) for name in expected} == expected
    # At 25 frames per second.
    assert page.fact("Spans without a changed face").startswith(
        "0–9 (0:00.0–0:00.4), 225–249 (0:09.0–0:10.0)"
    )
    row = ["a.mp4", "done", "250 / 250", "24", "240", "0.71", "0.42", "10.4 s"]
    assert row in page.rows
    assert [*row, "in the file, signed by Ana Ruiz", "sound was converted"] in results_of(
        a_report(file), with_players=False
    ).rows


def test_warnings_are_ordered_by_importance() -> None:
    files = [
        a_file("lost.mp4", "o", frames_out=7),
        a_file("times.mp4", "o", times_kept=False),
        a_file("sound.mp4", "o", video_seconds=10.0, audio_seconds=9.5),
        a_file("empty.mp4", "o", faces_swapped=0),
        a_file("cpu.mp4", "o", provider="cpu"),
        a_file("bad.mp4", error="cannot be read"),
        *(a_file(f"late{number}.mp4", status="skipped") for number in range(7)),
    ]
    model = ModelReport(name="inswapper_128", path="m", standin=True)
    page = report_html(a_report(*files, models=[model], memory_warnings=1, restarts=1), [])
    top = re.search(r'<ul class="warnings">.*?</ul>', page, re.DOTALL)
    lines = re.findall(r"<li>(.*?)</li>", top.group().replace("&#39;", "'"))
    ends = [
        "Failed (1 of 13): bad.mp4",
        "Skipped (7): late0.mp4, late1.mp4, late2.mp4, late3.mp4, late4.mp4, and 2 more",
        "a trial run", "in use) 1 time(s)", "restarted 1 time(s)", "frame: empty.mp4", "target's: lost.mp4",
        "target's: times.mp4", "0.1 s: sound.mp4", "CPU: cpu.mp4",
    ]  # fmt: skip
    assert [line[-len(end) :] for line, end in zip(lines, ends, strict=True)] == ends
    assert "stand-in: knows" in Page(page).fact("inswapper_128")
    retimed = a_report(a_file("a.mp4", "b", times_kept=False, frames_out=30), settings={"keep_fps": False})
    for report in (a_report(a_file("a.mp4", "b")), retimed):
        assert not page_of(report).all("ul", class_="warnings")


@pytest.mark.parametrize("render", [page_of, results_of])
def test_unsafe_names_are_escaped(render, tmp_path) -> None:
    name = f"in/{UNSAFE.replace('/', '-')}"
    values = dict.fromkeys(("encoder", "provider", "error"), UNSAFE)
    file = a_file(name, "out", source=[UNSAFE], fallbacks=[UNSAFE], **values)
    undecodable = a_file("in/\udcff.mp4")  # not UTF-8, which Linux allows
    machine = {"gpu": {"name": UNSAFE}, "system": UNSAFE}
    report = a_report(
        file, undecodable, consent=UNSAFE, run=UNSAFE, notes=[UNSAFE], machine=machine,
        settings={"enhancer_model": UNSAFE, UNSAFE: UNSAFE},
        models=[ModelReport(name=UNSAFE, path=UNSAFE, standin=True)],
    )  # fmt: skip
    page = render(report)
    page.source.encode("utf-8")
    assert page.all("script") == []
    assert r"\xff.mp4" in page.text
    assert page.text.count("日本 ü") >= (12 if render is page_of else 5)
    if render is page_of:
        assert page.fact("Consent") == page.fact("Encoder") == UNSAFE


def test_changed_settings_are_listed_first() -> None:
    settings = Settings(output_video_quality=18, keep_frames=True).model_dump(mode="json")
    page = page_of(a_report(settings=settings))
    rows = [row for row in page.rows if len(row) == 4]
    assert [row[:3] for row in rows[1:3]] == [
        ["keep_frames", "true", "false"],
        ["output_video_quality", "18", "25"],
    ]
    assert "CRF" in rows[2][3]
    assert {row[0] for row in rows[1:]} == set(Settings.model_fields)
    assert f"2 of {len(settings)} differ" in page.text


@pytest.mark.parametrize("render", [page_of, results_of])
def test_missing_media_is_reported_and_picture_time_is_limited(clips, tmp_path, render, monkeypatch) -> None:
    target, output = clips
    (tmp_path / "text.mp4").write_text("no video")
    broken = [
        (tmp_path / "gone.mp4", output),
        (target, tmp_path / "gone.mp4"),
        (tmp_path / "text.mp4", output),
    ]
    page = render(a_report(*(a_file(*each) for each in broken), a_file("", "x")))
    assert images(page) == []
    assert page.text.count("No picture: ") == 4
    ticks = iter([0.0, 1.0, PICTURE_SECONDS + 1, PICTURE_SECONDS + 2])
    monkeypatch.setattr("colab_helpers.pages.report.monotonic", lambda: next(ticks))
    page = render(a_report(*[a_file(*clips)] * 3))
    assert len(images(page)) == 2
    assert page.text.count("took too long") == 2


def test_reports_of_failures_only_and_without_files() -> None:
    failed = a_report(a_file("a.mp4", error="is damaged"), a_file("b.mp4", error="is empty"))
    page = page_of(failed, samples())
    assert page.text.startswith("Batch report: 0 of 2 done")
    assert page.fact("Error") == "is damaged"
    assert len(page.all("span", class_="badge bad")) == 1
    assert page_of(a_report(settings={}, machine={}, models=[])).text.startswith("Batch report: no files")
    assert results_of(a_report()).all("img") == []
    assert failure_text(failed) == "2 of 2 files did not succeed: a.mp4: is damaged; b.mp4: is empty"
    assert failure_text(a_report(a_file("a.mp4", "/out/a.mp4"), stopped=True)) == "stopped by the user"
    lines = results_text(failed).splitlines()
    assert lines[0].startswith("0 of 2 files in 754.2 s")
    assert lines[1] == "  failed  a.mp4: 8 frames, 8 faces, is damaged"
    good = a_report(a_file("a.mp4", "/out/a.mp4", fallbacks=["it was turned"]))
    lines = ["  done    a.mp4: 8 frames, 8 faces, /out/a.mp4", "          note: it was turned"]
    assert results_text(good).splitlines()[1:] == lines


def test_page_of_hundreds_of_files_is_limited(monkeypatch) -> None:
    requested: list[str] = []

    def pair_of(file: FileReport) -> None:
        requested.append(file.target)
        raise OSError("not read")

    monkeypatch.setattr("colab_helpers.pages.pictures.pair_of", pair_of)
    quality = Quality(missed_spans=[(10 * i, 10 * i + 2) for i in range(400)])
    files = [a_file(f"{number:03d}.mp4", "o", quality=quality) for number in range(300)]
    files.append(a_file("bad.mp4", error="no"))
    page = page_of(a_report(*files), samples())
    assert len(requested) == MAX_PICTURES
    assert "Only the first 24 finished files" in page.text
    assert len(page.source) < 1_500_000
    parts = page.all("details")[:-1]
    assert len(parts) == 301
    assert [part.get("id") for part in parts if "open" in part] == ["file-301"]
    assert [tag["href"] for tag in page.all("a")] == [f"#{part['id']}" for part in parts]
    requested.clear()
    assert f"and {300 - MAX_ROWS} more in the output folder" in results_of(a_report(*files)).text
    assert len(requested) == MAX_ROWS


def test_page_is_written_by_separate_process(tmp_path, clips) -> None:
    out = tmp_path / "out"
    out.mkdir()
    result = clips[1].rename(out / clips[1].name)
    report = a_report(a_file(clips[0], "/where/it/was/mounted" / Path(result.name)), a_file("ü.mp4"))
    report.save(tmp_path / "elsewhere" / "r.json")
    (out / SAMPLES_NAME).write_text("".join(one.model_dump_json() + "\n" for one in samples()))
    words = ["out", "--report", "elsewhere/r.json", "--language", "es"]
    command = [sys.executable, "-m", "colab_helpers.pages", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == str(tmp_path / "elsewhere" / "r.html")
    assert {path.name for path in out.iterdir()} == {SAMPLES_NAME, result.name}
    page = Page((tmp_path / "elsewhere" / "r.html").read_text(encoding="utf-8"))
    assert page.all("html") == [{"lang": "es"}]
    assert len(page.all("img")) == 2
    assert len(page.all("svg")) == 6
    assert "ü.mp4" in page.text


@pytest.mark.parametrize(
    ("content", "error"), [(None, MissingFileError), ("{}", UsageError), ("nonsense", UsageError)]
)
def test_no_page_without_valid_report(tmp_path, capsys, content, error) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with pytest.raises(error):
        write_page(tmp_path)
    assert main([str(tmp_path), "--language", "en"]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "report.html").exists()


def test_page_does_not_overwrite_user_file(tmp_path) -> None:
    a_report(a_file("a.mp4")).save(tmp_path / "report.json")
    own = tmp_path / "report.html"
    own.write_text("<p>mine</p>")
    with use_language("en"), pytest.raises(UsageError, match="no earlier run made it"):
        write_page(tmp_path)
    assert own.read_text() == "<p>mine</p>"
    own.unlink()
    assert write_page(tmp_path) == own == write_page(tmp_path)


def test_segments_by_worker_are_listed_for_several_workers() -> None:
    several, one = (a_full_file("in/a.mp4", "out/a.mp4") for _ in range(2))
    assert "Segments by worker" not in page_of(a_report(one)).text
    one.made_by = {"box GPU 0": [(0, 5)]}
    assert "Segments by worker" not in page_of(a_report(one)).text
    several.made_by = {"": [(0, 1)], "box GPU 0": [(1, 3), (4, 5)]}
    assert page_of(a_report(several)).fact("Segments by worker") == "single worker: 0box GPU 0: 1–2, 4"
    several.made_by = {f"box CPU ({n})": [(2 * m, 2 * m + 1) for m in range(20)] for n in range(64)}
    text = page_of(a_report(several)).fact("Segments by worker")
    assert (text.count("box CPU"), text[-11:]) == (16, "and 48 more")
    assert "box CPU (0): 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, and 8 more" in text
