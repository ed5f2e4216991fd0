"""The panel of batch_swap in a browser: choose, preview, start, stop, resume, view results."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from colab_helpers.media.segments import SEGMENT_SUFFIX
from tests.browser.fronts import SLOW, Lab, Shot, Voila

CONSENT = "Rendered people of the demo, used in a test: synthetic."
DESCRIPTION = re.compile("Swapper only|Best picture")
"""Matches the descriptions of two presets."""
TIMES = 6
"""Repetitions of the demo's clip in a video whose run takes a while."""


@dataclass(frozen=True)
class UserFiles:
    """The user's photo and video, and the output folder."""

    photo: Path
    clip: Path
    out: Path


@pytest.fixture
def files(site, tmp_path) -> UserFiles:
    clip = site.long_clip(tmp_path / "holiday.mp4", 1)
    out = site.notebooks / f"results-{1 + len(list(site.notebooks.glob('results-*')))}"
    out.mkdir()
    return UserFiles(site.demo / "source" / "hanna.jpg", clip, out)


def form_values(files: UserFiles, site) -> dict[str, object]:
    return {
        "sources": [str(files.photo)], "targets": [str(files.clip)], "consent": CONSENT, "preset": "light",
        "output_dir": files.out.name,  # relative to the notebook
        "models_dir": str(site.demo / "models"), "overrides": {"segment_seconds": 1},
    }  # fmt: skip


def segments(out: Path) -> list[Path]:
    return sorted(out.glob(f".work/*/[0-9]*{SEGMENT_SUFFIX}"))  # not the partial one


def drag(front: Lab | Voila, label: str, share: float) -> None:
    """Move a slider's handle to a position on its track, from 0 to 1."""
    slider = front.field(label)
    handle = slider.locator(".noUi-handle, .ui-slider-handle").first
    handle.scroll_into_view_if_needed()
    track = slider.locator(".noUi-target, .ui-slider").first.bounding_box()
    grip = handle.bounding_box()
    mouse = front.page.mouse
    mouse.move(grip["x"] + grip["width"] / 2, grip["y"] + grip["height"] / 2)
    mouse.down()
    mouse.move(track["x"] + share * track["width"], grip["y"] + grip["height"] / 2, steps=5)
    mouse.up()


def choose(voila: Voila, shot: Shot) -> None:
    page = voila.page
    page.locator(".widget-tab").wait_for()
    shot(page, "panel-photos")

    description = page.locator(".widget-html-content:visible").filter(has_text=DESCRIPTION)
    before = description.first.text_content()
    voila.field("Preset").locator("select").select_option("quality")
    after = voila.changes(description, before)
    assert "Best picture" in after
    voila.field("Preset").locator("select").select_option("light")
    voila.changes(description, after)
    overrides = voila.field("Overrides").locator("textarea")
    overrides.fill("segment_second: 1")
    overrides.blur()
    voila.sees("Did you mean segment_seconds instead of segment_second?")
    overrides.fill("segment_seconds: 1")
    overrides.blur()
    page.get_by_text("Did you mean").wait_for(state="detached")
    voila.tab("Videos")
    voila.sees("holiday.mp4")
    shot(page, "panel-videos")


def preview(voila: Voila, shot: Shot) -> None:
    page = voila.page
    voila.tab("Preview")
    picture = page.locator('img[alt="after"]:visible')
    picture.wait_for()
    first = [page.locator(f'img[alt="{side}"]:visible').get_attribute("src") for side in ("before", "after")]
    assert first[0] != first[1]
    drag(voila, "Frame", 0.53)
    moved = time.monotonic()
    voila.changes(picture, first[1], attribute="src")
    print(f"\n[measured] preview of another frame: {time.monotonic() - moved:.2f} s")
    assert page.locator('img[alt="before"]:visible').get_attribute("src") != first[0]
    shot(page, "panel-preview")


def start(voila: Voila, shot: Shot) -> None:
    page = voila.page
    voila.tab("Run")
    voila.sees("1 file(s), preset light")
    voila.press("Start")
    bar = page.locator('[role="progressbar"]:visible')
    share = voila.changes(bar, "0", attribute="aria-valuenow")
    voila.changes(bar, share, attribute="aria-valuenow")
    last = page.locator('img[alt="last frame"]:visible')
    shown = voila.changes(last, "", attribute="src")
    voila.changes(last, shown, attribute="src")
    assert page.locator("svg:visible").count() >= 3
    shot(page.locator(".widget-tab"), "panel-run")


def test_choose_preview_start_stop_and_resume(voila, site, files, shot):
    site.long_clip(files.clip, TIMES)
    voila.open(site.copy("batch_swap.ipynb", "user.ipynb", **form_values(files, site)))
    voila.finish()
    choose(voila, shot)
    preview(voila, shot)
    start(voila, shot)
    page = voila.page
    end = time.monotonic() + SLOW / 1000
    while not segments(files.out):
        assert time.monotonic() < end
        page.wait_for_timeout(100)
    assert voila.button("Start").is_disabled()
    voila.press("Stop")
    voila.sees("Stopped: 0 of 1 files are done.")
    shot(page, "panel-run-stopped")
    kept = len(segments(files.out))
    assert kept >= 1
    assert not (files.out / "holiday.mp4").exists()

    voila.press("Start")
    voila.sees("1 of 1 files in")
    (file,) = json.loads((files.out / "report.json").read_text())["files"]
    assert file["status"] == "done"
    assert file["segments_kept"] == kept
    assert file["frames_out"] == 25 * TIMES
    voila.plays(page.locator("video:visible"))
    shot(page, "panel-results")
    assert voila.errors() == []


def test_button_and_cells_share_run_in_jupyterlab(lab, site, files, shot):
    """The cell follows a batch started by button; its results are also shown in the tab."""
    site.long_clip(files.clip, TIMES)
    lab.open(site.copy("batch_swap.ipynb", "both.ipynb", **form_values(files, site)))
    for title in ("1. What", "Several GPUs", "More options", "Get ready", "2. Choose"):
        lab.run_cell(title)
    panel = lab.cell("2. Choose")
    lab.tab("Run")
    lab.press("Start")
    bar = panel.locator('[role="progressbar"]:visible')
    lab.changes(bar, "0", attribute="aria-valuenow")
    shot(lab.page, "jupyter-run-tab")
    lab.run_cell("3. Run")
    lab.cell("3. Run").locator('[role="progressbar"]').first.wait_for()
    lab.page.wait_for_timeout(500)
    lab.run_cell("4. Results")
    lab.cell("4. Results").locator("video").wait_for()
    assert lab.errors() == []
    lab.plays(panel.locator("video:visible"))
    journal = (files.out / "journal.jsonl").read_text()
    assert len(re.findall('"event":"started"', journal)) == 1


def test_user_video_needs_four_actions(lab, site, files):
    lab.open(site.copy("batch_swap.ipynb", "mine.ipynb"))
    form = site.form("batch_swap.ipynb", form_values(files, site))
    for title, text in zip(("1. What", "More options"), form, strict=True):
        lab.write(title, text)
    lab.run_all()
    lab.finish()
    assert lab.actions == 4
    results = lab.cell("4. Results")
    assert results.get_by_text("1 of 1 files").is_visible()
    lab.plays(results.locator("video"))
    assert (files.out / "holiday.mp4").is_file()


def test_refusal_is_shown_in_run_tab(voila, site, files):
    voila.open(site.copy("batch_swap.ipynb", "refused.ipynb", **{**form_values(files, site), "consent": ""}))
    voila.finish()
    voila.tab("Run")
    voila.press("Start")
    message = voila.page.locator(".widget-html-content:visible").filter(has_text="no statement of consent")
    message.first.wait_for()
    assert not list(files.out.iterdir())


def test_find_name_choose_preview_and_run_people(voila, site, files, shot):
    voila.open(site.copy("batch_swap.ipynb", "people.ipynb", **form_values(files, site)))
    voila.finish()
    page = voila.page
    voila.tab("People")
    voila.sees("Nobody has been found yet")
    voila.press("Find people")
    page.get_by_text("in holiday.mp4").nth(1).wait_for(timeout=SLOW)
    shot(page.locator(".widget-tab"), "panel-people")
    assert not (files.out / "holiday.mp4").exists()
    voila.tab("Preview")
    picture = page.locator('img[alt="after"]:visible')
    picture.wait_for()
    voila.sees("2 face(s) changed")
    both = picture.get_attribute("src")

    voila.tab("People")
    names = page.locator(".widget-text:visible input")
    assert sorted(names.nth(n).input_value() for n in range(names.count()))[-2:] == ["p1", "p2"]
    field = next(names.nth(n) for n in range(names.count()) if names.nth(n).input_value() == "p1")
    field.fill("Ana <b>Ruiz</b>")
    field.blur()
    page.locator('img[alt="Ana <b>Ruiz</b>"]:visible').first.wait_for()
    card = (
        page.locator(".widget-vbox:visible:has(> .widget-html img)")
        .filter(has=page.locator('img[alt="p2"]'))
        .last
    )
    card.locator("select").first.select_option("left alone")
    end = time.monotonic() + SLOW / 1000
    while "source: leave" not in (files.out / "people.yaml").read_text():
        assert time.monotonic() < end
        page.wait_for_timeout(100)
    shot(page.locator(".widget-tab"), "panel-people-chosen")
    voila.tab("Preview")
    voila.changes(picture, both, attribute="src")
    voila.sees("1 face(s) changed")

    voila.tab("Run")
    voila.press("Start")
    voila.sees("1 of 1 files in")
    (file,) = json.loads((files.out / "report.json").read_text())["files"]
    done = {person["name"]: person["action"] for person in file["quality"]["people"]}
    assert done == {"Ana <b>Ruiz</b>": "swap", "p2": None}
    voila.sees("does not name these people who were changed or put in: Ana <b>Ruiz</b>")
    shot(page.locator(".widget-tab"), "panel-people-results")
    assert voila.errors() == []
