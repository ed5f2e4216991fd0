"""The Videos tab: a table of the targets."""

from __future__ import annotations

import re

import numpy as np
import pytest

from colab_helpers.media.images import write_image
from colab_helpers.ui.videos import NOT_EXAMINED
from tests.people.actors import portrait


@pytest.fixture
def folder(tmp_path, demo):
    """A video, an image of two people, and a text file named as a video."""
    place = tmp_path / "targets"
    place.mkdir()
    (place / "a2.mp4").write_bytes((demo / "targets" / "clip1.mp4").read_bytes())
    (place / "a10.mp4").write_text("not a video")
    write_image(place / "b.png", np.hstack([portrait("alma"), portrait("bruno")]))
    return place


def rows(widget) -> dict[str, list[str]]:
    """Text of each cell, by file name."""
    found = {}
    for row in re.findall(r"<tr>(.*?)</tr>", widget.value):
        cells = [re.sub(r"<[^>]*>", "", cell).strip() for cell in re.findall(r"<td.*?</td>", row)]
        if cells:
            found[cells[2]] = cells
    return found


def test_table_describes_each_target(make_panel, demo_request, folder, pictures_of, text_of):
    panel = make_panel(demo_request.with_values(targets=(str(folder),)))
    found = rows(panel.videos.table)
    assert list(found) == ["a2.mp4", "a10.mp4", "b.png"]
    size = (folder / "a2.mp4").stat().st_size / 1e6
    assert found["a2.mp4"] == ["1", "", "a2.mp4", "0:00", f"{size:.1f} MB", "10", "480 x 270", "1"]
    assert found["b.png"][5:] == ["1", "1024 x 512", "2"]
    assert "a10.mp4" in found["a10.mp4"][3]
    assert "not a video" in found["a10.mp4"][3] or "cannot" in found["a10.mp4"][3]
    assert [picture.shape[0] for picture in pictures_of(panel.videos.table)] == [90, 80]
    assert "3 file(s)." in text_of(panel.videos.table)


def test_range_selects_targets(make_panel, demo_request, folder, text_of):
    panel = make_panel(demo_request.with_values(targets=(str(folder),)))
    panel.videos.range.value = "3"
    assert list(rows(panel.videos.table)) == ["b.png"]
    panel.videos.range.value = "7-9"
    assert "selects none of the 3 target(s)" in text_of(panel.videos.table)
    assert panel.videos.files == []
    panel.videos.range.value = "x"
    assert "is not a range" in text_of(panel.videos.table)


def test_typed_paths_are_targets_and_missing_file_is_reported(make_panel, demo_request, folder, text_of):
    panel = make_panel(demo_request)
    panel.videos.paths.value = f"\n  {folder / 'b.png'}  \n\n{folder / 'gone.mp4'}\n"
    assert panel.form_state.request().targets == (str(folder / "b.png"), str(folder / "gone.mp4"))
    assert "there is no such file" in rows(panel.videos.table)["gone.mp4"][3]
    panel.videos.paths.value = ""
    assert "No video or image yet" in text_of(panel.videos.table)


def test_without_models_only_people_are_unknown(make_panel, demo_request, tmp_path):
    panel = make_panel(demo_request.with_values(models_dir=str(tmp_path / "none")))
    row = rows(panel.videos.table)["clip1.mp4"]
    assert row[6] == "480 x 270"
    assert row[7].startswith("unknown: ")


def test_first_examination_is_limited_in_time(make_panel, demo_request, folder):
    panel = make_panel(demo_request)
    panel.videos.paths.value = str(folder)
    panel.videos._examined.clear()
    panel.videos.refresh(limit=-1)
    assert rows(panel.videos.table)["a2.mp4"][3] == NOT_EXAMINED
    panel.videos.examine_button.click()
    assert rows(panel.videos.table)["a2.mp4"][6] == "480 x 270"
