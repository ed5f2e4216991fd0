"""The tab of the videos: what each is."""

from __future__ import annotations

import re

import numpy as np
import pytest

from colab_helpers.media.images import write_image
from colab_helpers.ui.videos import NOT_EXAMINED
from tests.people.actors import portrait


@pytest.fixture
def folder(tmp_path, demo):
    """A video, an image of two people, and a file that is none."""
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


def test_the_table_tells_what_each_target_is(make_panel, on_demo, folder, pictures_of, text_of):
    made = make_panel(on_demo.with_values(targets=(str(folder),)))
    found = rows(made.videos.table)
    assert list(found) == ["a2.mp4", "a10.mp4", "b.png"]
    size = (folder / "a2.mp4").stat().st_size / 1e6
    assert found["a2.mp4"] == ["1", "", "a2.mp4", "0:00", f"{size:.1f} MB", "10", "480 x 270", "1"]
    assert found["b.png"][5:] == ["1", "1024 x 512", "2"]
    assert "a10.mp4" in found["a10.mp4"][3]
    assert "not a video" in found["a10.mp4"][3] or "cannot" in found["a10.mp4"][3]
    assert [picture.shape[0] for picture in pictures_of(made.videos.table)] == [90, 80]
    assert "3 file(s)." in text_of(made.videos.table)


def test_a_range_takes_some(make_panel, on_demo, folder, text_of):
    made = make_panel(on_demo.with_values(targets=(str(folder),)))
    made.videos.range.value = "3"
    assert list(rows(made.videos.table)) == ["b.png"]
    made.videos.range.value = "7-9"
    assert "selects none of the 3 target(s)" in text_of(made.videos.table)
    assert made.videos.files == []
    made.videos.range.value = "x"
    assert "is not a range" in text_of(made.videos.table)


def test_what_is_written_is_looked_at(make_panel, on_demo, folder, text_of):
    made = make_panel(on_demo)
    made.videos.paths.value = f"\n  {folder / 'b.png'}  \n\n{folder / 'gone.mp4'}\n"
    assert made.form_state.request().targets == (str(folder / "b.png"), str(folder / "gone.mp4"))
    assert "there is no such file" in rows(made.videos.table)["gone.mp4"][3]
    made.videos.paths.value = ""
    assert "No video or image yet" in text_of(made.videos.table)


def test_without_models_the_rest_is_told(make_panel, on_demo, tmp_path):
    made = make_panel(on_demo.with_values(models_dir=str(tmp_path / "none")))
    row = rows(made.videos.table)["clip1.mp4"]
    assert row[6] == "480 x 270"
    assert row[7].startswith("unknown: ")


def test_a_first_look_does_not_take_long(make_panel, on_demo, folder):
    made = make_panel(on_demo)
    made.videos.paths.value = str(folder)
    made.videos._examined.clear()
    made.videos.refresh(limit=-1)
    assert rows(made.videos.table)["a2.mp4"][3] == NOT_EXAMINED
    made.videos.examine_button.click()
    assert rows(made.videos.table)["a2.mp4"][6] == "480 x 270"
