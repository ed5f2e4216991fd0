"""A run's page and its results in a notebook: parsed as a browser would, their figures compared."""

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

EVIL = "<script>alert(\"1\")</script>&'x' 日本 ü"


def samples(count: int = 60, **values: Any) -> list[Sample]:
    gpu = values.pop("gpu", {"utilisation": 50, "memory_used": 6 * GIB})
    taken = [
        sample(number, gpu=gpu, cpu_percent=40.0 if number else None, **values) for number in range(count)
    ]
    if gpu and count > 30:
        taken[30] = sample(30, gpu={**gpu, "utilisation": 99}, **values)
    return taken


def page_of(report: BatchReport, taken: list[Sample] | None = None) -> Page:
    page = Page(report_html(report, taken or []))
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


@pytest.mark.parametrize("render", [page_of, results_of])
def test_the_pictures_are_the_right_frame_before_and_after(clips, render, tmp_path: Path) -> None:
    (tmp_path / "report.json").touch()
    options = {"folder": tmp_path} if render is results_of else {}
    page = render(a_report(a_file(*clips), notes=["one note"]), **options)
    before, after = images(page)
    assert number_of(before) == number_of(after) == 4
    assert np.abs(before[40:].astype(int) - after[40:]).mean() > 40
    assert [tag["alt"] for tag in page.all("img")] == ["clip.mp4, before", "clip.mp4, after"]
    assert "one note" in page.text
    if render is results_of:  # a fragment with a player and the places of the reports
        assert not page.all("body")
        assert len(page.all("video")) == 1
        for text in ("1 of 1 files", "out.avi (the first 4", str(tmp_path / "report.json")):
            assert text in page.text
        assert "report.html" not in page.text  # a run that was stopped has none


def test_what_the_run_was_is_at_the_top(monkeypatch) -> None:
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


def test_everything_known_of_a_file_is_in_its_table() -> None:
    file = a_full_file("in/a.mp4", "out/a.mp4")
    page = page_of(a_report(file))
    expected = {
        "Frames in / out": "250 / 250",
        "Timestamps kept": "yes",
        "Length of video / audio": "10.000 s / 10.020 s",
        "Faces changed": "240",
        "Frames without a face": "35",
        "Similarity to the source": "mean 0.712, 95 % of 11 are at least 0.641",
        "Flicker": "0.42 grey levels",
        "Speed": "24 frames/s, 10.4 s",
        "Networks ran on": "cuda",
        "Encoder": "h264_nvenc",
        "Segments": "5, 3 of them kept from an earlier run",
        "Memory before / after": "1 GiB / 1.05 GiB (+50 MiB)",
        "Size in / out": "2 MB / 1 MB",
        "Fallbacks": "sound was converted",
        "Marked": "in the file, signed by Ana Ruiz",
        "Source": "face.pngother.png",
        "Target": "in/a.mp4",
        "Output": "out/a.mp4",
    }
    assert {name: page.fact(name) for name in expected} == expected
    # A rate of 25 frames a second.
    assert page.fact("Spans without a changed face").startswith(
        "0–9 (0:00.0–0:00.4), 225–249 (0:09.0–0:10.0)"
    )
    row = ["a.mp4", "done", "250 / 250", "24", "240", "0.71", "0.42", "10.4 s"]
    assert row in page.rows
    assert [*row, "in the file, signed by Ana Ruiz", "sound was converted"] in results_of(
        a_report(file), with_players=False
    ).rows


def test_what_matters_most_is_said_first() -> None:
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
    said = re.findall(r"<li>(.*?)</li>", top.group().replace("&#39;", "'"))
    ends = [
        "Failed (1 of 13): bad.mp4",
        "Skipped (7): late0.mp4, late1.mp4, late2.mp4, late3.mp4, late4.mp4, and 2 more",
        "a trial run", "in use) 1 time(s)", "restarted 1 time(s)", "frame: empty.mp4", "target's: lost.mp4",
        "target's: times.mp4", "0.1 s: sound.mp4", "CPU: cpu.mp4",
    ]  # fmt: skip
    assert [line[-len(end) :] for line, end in zip(said, ends, strict=True)] == ends
    assert "stand-in: knows" in Page(page).fact("inswapper_128")
    retimed = a_report(a_file("a.mp4", "b", times_kept=False, frames_out=30), settings={"keep_fps": False})
    for quiet in (a_report(a_file("a.mp4", "b")), retimed):
        assert not page_of(quiet).all("ul", class_="warnings")


@pytest.mark.parametrize("render", [page_of, results_of])
def test_names_break_nothing(render, tmp_path) -> None:
    file = a_file(f"in/{EVIL.replace('/', '-')}", "out", source=[EVIL], fallbacks=[EVIL], encoder=EVIL,
                  provider=EVIL, error=EVIL)  # fmt: skip
    lone = a_file("in/\udcff.mp4")  # a name that is no UTF-8, as Linux allows
    report = a_report(
        file, lone, consent=EVIL, run=EVIL, notes=[EVIL], machine={"gpu": {"name": EVIL}, "system": EVIL},
        settings={"enhancer_model": EVIL, EVIL: EVIL},
        models=[ModelReport(name=EVIL, path=EVIL, standin=True)],
    )  # fmt: skip
    page = render(report)
    page.source.encode("utf-8")
    assert page.all("script") == []
    assert r"\xff.mp4" in page.text
    assert page.text.count("日本 ü") >= (12 if render is page_of else 5)
    if render is page_of:
        assert page.fact("Consent") == page.fact("Encoder") == EVIL


def test_settings_that_differ_come_first() -> None:
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
def test_media_that_is_gone_or_damaged_is_said_and_pictures_take_a_limited_time(
    clips, tmp_path, render, monkeypatch
) -> None:
    target, output = clips
    (tmp_path / "text.mp4").write_text("no video")
    wrong = [
        (tmp_path / "gone.mp4", output),
        (target, tmp_path / "gone.mp4"),
        (tmp_path / "text.mp4", output),
    ]
    page = render(a_report(*(a_file(*each) for each in wrong), a_file("", "x")))
    assert images(page) == []
    assert page.text.count("No picture: ") == 4
    ticks = iter([0.0, 1.0, PICTURE_SECONDS + 1, PICTURE_SECONDS + 2])
    monkeypatch.setattr("colab_helpers.pages.report.monotonic", lambda: next(ticks))
    page = render(a_report(*[a_file(*clips)] * 3))
    assert len(images(page)) == 2
    assert page.text.count("took too long") == 2


def test_only_failures_and_no_files_at_all() -> None:
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
    told = ["  done    a.mp4: 8 frames, 8 faces, /out/a.mp4", "          note: it was turned"]
    assert results_text(good).splitlines()[1:] == told


def test_hundreds_of_files_stay_a_page(monkeypatch) -> None:
    asked: list[str] = []

    def instead(file: FileReport) -> None:
        asked.append(file.target)
        raise OSError("not looked at")

    monkeypatch.setattr("colab_helpers.pages.pictures.pair_of", instead)
    often = Quality(missed_spans=[(10 * i, 10 * i + 2) for i in range(400)])
    files = [a_file(f"{number:03d}.mp4", "o", quality=often) for number in range(300)]
    files.append(a_file("bad.mp4", error="no"))
    page = page_of(a_report(*files), samples())
    assert len(asked) == MAX_PICTURES
    assert "Only the first 24 finished files" in page.text
    assert len(page.source) < 1_500_000
    parts = page.all("details")[:-1]
    assert len(parts) == 301
    assert [part.get("id") for part in parts if "open" in part] == ["file-301"]
    assert [tag["href"] for tag in page.all("a")] == [f"#{part['id']}" for part in parts]
    asked.clear()
    assert f"and {300 - MAX_ROWS} more in the output folder" in results_of(a_report(*files)).text
    assert len(asked) == MAX_ROWS


# --- the file, and the process that writes it ---------------------------------------------------------------


def test_the_page_is_written_by_a_process_of_its_own(tmp_path, clips) -> None:
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
def test_without_a_report_there_is_no_page(tmp_path, capsys, content, error) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with pytest.raises(error):
        write_page(tmp_path)
    assert main([str(tmp_path), "--language", "en"]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "report.html").exists()


def test_a_page_replaces_no_file_of_the_users(tmp_path) -> None:
    a_report(a_file("a.mp4")).save(tmp_path / "report.json")
    own = tmp_path / "report.html"
    own.write_text("<p>mine</p>")
    with use_language("en"), pytest.raises(UsageError, match="no earlier run made it"):
        write_page(tmp_path)
    assert own.read_text() == "<p>mine</p>"
    own.unlink()
    assert write_page(tmp_path) == own == write_page(tmp_path)


def test_who_made_which_segments_is_told_where_more_than_one_did() -> None:
    several, one = (a_full_file("in/a.mp4", "out/a.mp4") for _ in range(2))
    assert "Segments by worker" not in page_of(a_report(one)).text
    one.made_by = {"box GPU 0": [(0, 5)]}
    assert "Segments by worker" not in page_of(a_report(one)).text
    several.made_by = {"": [(0, 1)], "box GPU 0": [(1, 3), (4, 5)]}
    assert page_of(a_report(several)).fact("Segments by worker") == "single worker: 0box GPU 0: 1–2, 4"
    several.made_by = {f"box CPU ({n})": [(2 * m, 2 * m + 1) for m in range(20)] for n in range(64)}
    told = page_of(a_report(several)).fact("Segments by worker")
    assert (told.count("box CPU"), told[-11:]) == (16, "and 48 more")
    assert "box CPU (0): 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, and 8 more" in told
