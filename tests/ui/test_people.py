"""The People tab: a card for each person; choices are saved to the people map immediately."""

from __future__ import annotations

from fractions import Fraction
from functools import partial

import cv2
import numpy as np
import pytest

from colab_helpers.batch.people_edits import list_people
from colab_helpers.batch.people_map import PeopleMap
from colab_helpers.media.images import read_image
from colab_helpers.ui import people
from colab_helpers.ui.preview_networks import read_target_frame
from tests.conftest import CONSENT
from tests.helpers.known_people import unit_embedding, write_people
from tests.people.actors import portrait
from tests.people.clip import write_target
from tests.people.scene import Scene

PREVIEW = 3

PEOPLE = {
    "a.mp4": [("alma", unit_embedding(1, 2)), ("bruno", unit_embedding(2, 3, 4, 5))],
    "b.mp4": [("alma", unit_embedding(1, 2)), ("chidi", unit_embedding(9))],
}


@pytest.fixture
def out(tmp_path):
    write_people(tmp_path / "out", PEOPLE)
    return tmp_path / "out"


@pytest.fixture
def panel(make_panel, demo_request, out):
    return make_panel(demo_request.with_values(output_dir=out))


def cards(panel):
    """By name: HTML, source selector, merge selector and buttons of each card."""
    found = [card.children for card in panel.people.cards.children]
    return {
        name.value: (page, source, same, *buttons.children) for page, name, source, same, buttons in found
    }


def name_field(panel, name):
    return next(card.children[1] for card in panel.people.cards.children if card.children[1].value == name)


def saved_map(out):
    found = PeopleMap.load(out)
    return found and {name: (person.faces, person.source) for name, person in found.people.items()}


def test_each_person_has_card_with_pictures_and_hints(panel, text_of, pictures_of):
    shown = cards(panel)
    assert list(shown) == ["p1", "p2", "p3"]  # longest on screen first
    page = shown["p1"][0]
    assert text_of(page) == "4.0 s in a.mp4 (2.0 s), b.mp4 (2.0 s) looks similar to p2"
    expected = cv2.resize(portrait("alma", size=160), (84, 84), interpolation=cv2.INTER_AREA)
    assert len(pictures_of(page)) == 2
    for picture in pictures_of(page):
        assert np.mean(cv2.absdiff(picture, expected)) < 4
    assert [label for label, _ in shown["p1"][2].options][1:] == ["same person as p2", "same person as p3"]


def test_choices_are_saved_to_map_and_invalidate_preview(panel, out, tmp_path, monkeypatch):
    stale = []
    monkeypatch.setattr(panel.preview, "mark_stale", lambda: stale.append(1))
    panel.people._changed = panel.preview.mark_stale
    assert saved_map(out) is None
    (tmp_path / "library" / "ana").mkdir(parents=True)
    panel.photos.library.value = str(tmp_path / "library")
    before, untouched = panel.people.cards.children[0], panel.people.cards.children[2]
    assert ("ana",) in [value for _, value in cards(panel)["p1"][1].options]
    stale.clear()
    cards(panel)["p1"][1].value = ("ana",)
    assert saved_map(out) == {"p1": (("p1",), ("ana",))}
    assert stale == [1]
    assert cards(panel)["p1"][1].value == ("ana",)
    assert panel.people.cards.children[0] is not before
    assert panel.people.cards.children[2] is untouched
    name_field(panel, "p1").value = "Ana <b>"
    assert saved_map(out) == {"Ana <b>": (("p1",), ("ana",))}
    assert "looks similar to Ana &lt;b&gt;" in cards(panel)["p2"][0].value
    assert "<b>" not in cards(panel)["Ana <b>"][0].value
    cards(panel)["p3"][2].value = "Ana <b>"
    assert saved_map(out) == {"Ana <b>": (("p1", "p3"), ("ana",))}
    assert list(cards(panel)) == ["Ana <b>", "p2"]
    cards(panel)["Ana <b>"][4].click()  # split
    assert sorted(cards(panel)) == ["Ana <b>", "p2", "p3"]
    cards(panel)["p2"][3].click()  # swap only this person
    assert {name: source for name, (_, source) in saved_map(out).items()} == {
        "Ana <b>": ("leave",), "p2": ("photos",), "p3": ("leave",),
    }  # fmt: skip
    others = panel.people.others.children[1]
    assert others.value == ("leave",)
    others.value = ("portraits",)
    assert PeopleMap.load(out).default == ("portraits",)
    assert "a portrait of their own" in [label for label, _ in others.options]
    panel.people.mode.value = "everybody"
    assert panel.form_state.request(overrides={}).people == "everybody"


def test_refused_edit_is_reported_and_card_unchanged(panel, out, text_of):
    name_field(panel, "p1").value = "p2"
    assert "cannot use the name 'p2'" in text_of(panel.people.message)
    assert list(cards(panel)) == ["p1", "p2", "p3"]
    cards(panel)["p1"][4].click()
    assert "nothing in it looks like two people" in text_of(panel.people.message)
    (out / "people.yaml").write_text("people: [")
    panel.people.refresh()
    assert "line 1" in text_of(panel.people.message)
    assert panel.people.cards.children == ()
    (out / "people.yaml").write_text("people:\n  Bob: {faces: p1, source: leave}\n")
    panel.tabs.selected_index = 2  # the map was edited outside the panel
    assert list(cards(panel)) == ["Bob", "p2", "p3"]
    assert cards(panel)["Bob"][1].value == ("leave",)


def test_number_of_cards_is_limited(panel, monkeypatch, text_of):
    monkeypatch.setattr(people, "MAX_PEOPLE_ROWS", 2)
    panel.people._shown_state = None
    panel.people.refresh()
    assert list(cards(panel)) == ["p1", "p2"]
    assert "Not shown: 1 who" in text_of(panel.people.message)


def test_videos_table_lists_people_by_current_names(make_panel, demo_request, tmp_path, text_of):
    write_people(tmp_path / "out", {"clip1.mp4": PEOPLE["a.mp4"]})
    panel = make_panel(demo_request.with_values(output_dir=tmp_path / "out"))
    assert "p1 2.0 s, p2 2.0 s faces in 100% of the frames" in text_of(panel.videos.table)
    name_field(panel, "p1").value = "<i>Ana"
    panel.tabs.selected_index = 1
    assert "<i>Ana 2.0 s, p2 2.0 s" in text_of(panel.videos.table)
    assert "<i>" not in panel.videos.table.value


def test_find_choose_preview_and_run(make_panel, idle, demo_request, tmp_path, text_of):
    """The preview equals the run's result, and only the chosen person is swapped."""
    scene = Scene(7, (480, 270), Fraction(12), 0.75, 2, cast=("alma", "bruno"))
    target = tmp_path / "two.mp4"
    write_target(target, scene, crf=4, preset="ultrafast")
    request = demo_request.with_values(
        targets=(str(target),), consent=CONSENT, output_dir=tmp_path / "out",
        overrides={"frame_processors": "face_swapper", "output_video_quality": 0},
    )  # fmt: skip
    panel = make_panel(request)
    panel.people.find_button.click()
    assert "A run is in progress" in text_of(panel.people.message)
    idle.run_actions()
    assert not (tmp_path / "out" / "two.mp4").exists()
    assert len(cards(panel)) == 2
    panel.tabs.selected_index = PREVIEW
    assert panel.preview.shown.known
    assert panel.preview.shown.faces == 2
    cards(panel)["p1"][3].click()  # swap only this person
    assert panel.preview.shown.faces == 1
    name_field(panel, "p1").value = "Ana"
    panel.run.start_button.click()
    idle.run_actions()
    report, number = panel.form_state.runs.latest.report, panel.preview.frame.value
    assert report.ok
    assert report.not_in_consent == ["Ana"]
    before, result = panel.preview.shown.before, read_target_frame(tmp_path / "out" / "two.mp4", number)
    assert np.array_equal(result, panel.preview.shown.after)
    differences = {face.who: difference(before, result, face.box) for face in scene.render(number)[1]}
    (who,) = [who for who, mean in differences.items() if mean > 2]
    assert min(differences.values()) == 0
    examine = partial(panel.form_state.networks.examine, *panel.form_state.detection_inputs())
    known = next(row for row in list_people(tmp_path / "out") if row.name == "Ana")
    crop = read_image(tmp_path / "out" / "people" / known.crops[0])
    assert float(examine(crop).embedding @ examine(portrait(who)).embedding) > 0.5


def difference(before, after, box):
    left, top, right, bottom = np.clip(box.astype(int), 0, None)
    return float(np.mean(cv2.absdiff(before, after)[top:bottom, left:right]))
