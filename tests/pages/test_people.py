"""People of a file on the report page and in a notebook: figures, portraits and presence strips."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from colab_helpers.batch.file_report import build_report
from colab_helpers.batch.report import BatchReport, PersonReport, Quality
from colab_helpers.errors import MediaError
from colab_helpers.faces.quality import portrait_url
from colab_helpers.faces.types import Face
from colab_helpers.files import from_json, to_json
from colab_helpers.media.images import read_image
from colab_helpers.media.picture import BgrPicture
from colab_helpers.media.probe import probe
from colab_helpers.pages.pictures import portrait_of
from colab_helpers.pages.report import report_html, results_html
from colab_helpers.pages.svg import ALARM, BLUE, strip
from colab_helpers.trust.records import Consent
from tests.helpers.reports import Page, a_file, a_full_file, a_report
from tests.media.make import Spec, make

FIRST = PersonReport(
    seen=250, changed=180, filled=9, hidden=62, unselected=8, lost=5, samples=10, likeness_swap=0.714,
    likeness_mask=0.702, likeness_final=0.689, flicker=0.42, flicker_target=1.31,
    present_spans=[(0, 250)], missed_spans=[(4 * n, 4 * n + 1) for n in range(20)],
)  # fmt: skip
SECOND = PersonReport(seen=40, present_spans=[(100, 140)], unselected=40)
OTHERS = PersonReport(people=3, seen=7, changed=7)
ROWS = [
    ["Person 1", "250", "180", "9", "62 occluded, 8 not selected, 5 lost", "0.71 → 0.70 → 0.69",
     "0.42 / 1.31"],
    ["Person 2", "40", "0", "0", "40 not selected", "–", "–"],
    ["Others", "7", "7", "0", "–", "–", "–"],
]  # fmt: skip


def with_people(*people: PersonReport, **values: Any) -> BatchReport:
    file = a_full_file("in/a.mp4", "out/a.mp4")
    return a_report(file.model_copy(update={"quality": Quality(people=list(people)), **values}))


def page_of(report: BatchReport) -> Page:
    page = Page(report_html(report, []))
    page.safe()
    return page


def notebook_of(report: BatchReport) -> Page:
    page = Page(results_html(report, Path("/out"), with_players=False))
    page.safe()
    return page


@pytest.mark.parametrize("render", [page_of, notebook_of])
def test_each_person_has_a_row(render: Any) -> None:
    page = render(with_people(FIRST, SECOND, OTHERS))
    start = next(number for number, row in enumerate(page.rows) if row[:1] == ["Person"])
    rows = page.rows[start + 1 : start + 4]
    assert [row[:7] for row in rows] == ROWS
    label = "Person 1: missed in 20 spans"
    assert rows[0][7].startswith(f"{label}0–0 (0:00.0–0:00.0), 4–4 (0:00.2–0:00.2)")  # includes SVG titles
    assert rows[0][7].endswith("and 16 more")
    assert rows[2][7] == ""
    assert len(page.all("svg")) == 2
    assert "Person 1" not in render(with_people()).text


def test_report_without_people_can_be_read() -> None:
    report = with_people(FIRST)
    old = json.loads(to_json(report))
    del old["files"][0]["quality"]["people"]
    assert from_json(BatchReport, json.dumps(old)).files[0].quality == Quality()
    assert from_json(BatchReport, to_json(report)) == report


def test_strip_shows_single_missed_frame_of_an_hour() -> None:
    drawn = strip([(0, 45_000)], [(9_000, 9_001), (89_999, 90_000)], 90_000, label="<a> & b")
    (present,) = re.findall(rf'd="([^"]*)" fill="{BLUE}"', drawn)
    (missed,) = re.findall(rf'd="([^"]*)" fill="{ALARM}"', drawn)
    assert present == "M0.0 0h500.0v10h-500.0z"
    assert missed == "M100.0 0h2.5v10h-2.5z M1000.0 0h2.5v10h-2.5z"
    assert drawn.count("&lt;a&gt; &amp; b") == 2


@pytest.mark.parametrize("rotation", [0, 90, 180])
def test_portrait_is_upright_crop_of_box(tmp_path: Path, rotation: int) -> None:
    spec = Spec(frames=30, size=(320, 200), rotation=rotation, options={"preset": "ultrafast", "g": "30"})
    plain = make(tmp_path / "plain.mp4", replace(spec, rotation=0))
    video = cv2.VideoCapture(str(plain))
    stored = [video.read()[1] for _ in range(30)][17]
    expected = np.rot90(stored[10:70, 130:190], -rotation // 90)
    path = make(tmp_path / "in.mp4", spec)
    found = read_image(portrait_of(path, 17 / 25, (140, 20, 180, 60)))
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < 6
    assert np.abs(found.astype(int) - np.rot90(expected)).mean() > 12
    face = Face(np.float32([140, 20, 180, 60]), np.zeros((5, 2), np.float32), 1.0)
    live = read_image(portrait_url(BgrPicture(stored), face, probe(path).upright))
    assert live.shape == (72, 72, 3)
    assert np.abs(cv2.resize(live, (60, 60)).astype(int) - expected).mean() < 6
    with pytest.raises(MediaError):
        portrait_of(path, 0.0, (500, 500, 600, 600))


def test_portrait_stored_in_report_is_shown_without_target() -> None:
    url = "data:image/jpeg;base64,AA=="
    page = page_of(with_people(FIRST.model_copy(update={"portrait": url})))
    assert [tag["src"] for tag in page.all("img") if tag["alt"] == "Person 1"] == [url]


def test_portrait_is_omitted_if_target_is_gone(tmp_path: Path) -> None:
    target = make(tmp_path / "a.mp4", Spec(frames=10))
    shown = FIRST.model_copy(update={"portrait_seconds": 0.2, "portrait_box": (10.0, 10.0, 40.0, 40.0)})
    for path, count in ((target, 1), (tmp_path / "gone.mp4", 0)):
        file = a_file(path, target, quality=Quality(people=[shown]))
        page = page_of(a_report(file))
        assert len([tag for tag in page.all("img") if tag["alt"] == "Person 1"]) == count
        assert any(row[0] == "Person 1" for row in page.rows if row)


NAMED = PersonReport(name="Ana <b>", action="swap", source="ben", seen=9, changed=9, present_spans=[(0, 9)])
BLURRED = PersonReport(name="p2", action="blur", seen=9, changed=9, present_spans=[(0, 9)])
UNCHANGED = PersonReport(name="p3", seen=9, present_spans=[(0, 9)])


@pytest.mark.parametrize("render", [page_of, notebook_of])
def test_named_people_have_name_and_action(render: Any) -> None:
    page = render(with_people(NAMED, BLURRED, UNCHANGED, SECOND))
    start = next(number for number, row in enumerate(page.rows) if row[:1] == ["Person"])
    names = [row[0] for row in page.rows[start + 1 : start + 5]]
    assert names == ["Ana <b>replaced by ben", "p2blurred", "p3", "Person 4"]


def test_changed_people_not_named_in_consent_are_listed() -> None:
    first = with_people(NAMED, BLURRED, UNCHANGED)
    other = with_people(NAMED.model_copy(update={"source": "a/b.jpg, cleo"}))
    files = [*first.files, *other.files]
    report = build_report(files, consent=Consent(statement="Ben Lee: self"), settings={}, seconds=1.0)
    assert report.not_in_consent == ["Ana <b>", "cleo"]  # blurring needs no consent; a path is no name
    assert [note for note in report.notes if "Ana <b>, cleo" in note]
    page = page_of(report)
    rows = {row[0]: row[1] for row in page.rows if len(row) > 1}
    assert rows["People changed"] == "Ana <b>: replaced by ben, replaced by a/b.jpg, cleop2: blurred"
    assert rows["Not named in the statement"] == "Ana <b>, cleo"
    everybody = Consent(statement="Ana B, Ben and Cleo: self")
    assert build_report(files, consent=everybody, settings={}, seconds=1.0).not_in_consent == []
    nobody = build_report(
        with_people(FIRST).files, consent=Consent(statement="x y z"), settings={}, seconds=1.0
    )
    assert (nobody.not_in_consent, nobody.notes) == ([], [])
