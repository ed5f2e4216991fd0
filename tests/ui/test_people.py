"""The tab of the people: cards of everybody, and each choice in the map at once."""

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
from tests.helpers.known_people import look, write_people
from tests.people.actors import portrait
from tests.people.clip import write_target
from tests.people.scene import Scene

PREVIEW = 3

CAST = {
    "a.mp4": [("alma", look(1, 2)), ("bruno", look(2, 3, 4, 5))],
    "b.mp4": [("alma", look(1, 2)), ("chidi", look(9))],
}


@pytest.fixture
def out(tmp_path):
    write_people(tmp_path / "out", CAST)
    return tmp_path / "out"


@pytest.fixture
def made(make_panel, on_demo, out):
    return make_panel(on_demo.with_values(output_dir=out))


def cards(panel):
    """Picture and facts, name, source, who it is the same as, and buttons of each, by name."""
    found = [card.children for card in panel.people.cards.children]
    return {
        name.value: (page, source, same, *buttons.children) for page, name, source, same, buttons in found
    }


def name_of(panel, name):
    return next(card.children[1] for card in panel.people.cards.children if card.children[1].value == name)


def in_map(out):
    found = PeopleMap.load(out)
    return found and {name: (person.faces, person.source) for name, person in found.people.items()}


def test_everybody_has_a_card_with_pictures_and_what_to_look_at(made, text_of, pictures_of):
    shown = cards(made)
    assert list(shown) == ["p1", "p2", "p3"]  # those seen longest first
    page = shown["p1"][0]
    assert text_of(page) == "4.0 s in a.mp4 (2.0 s), b.mp4 (2.0 s) looks similar to p2"
    expected = cv2.resize(portrait("alma", size=160), (84, 84), interpolation=cv2.INTER_AREA)
    assert len(pictures_of(page)) == 2
    for picture in pictures_of(page):
        assert np.mean(cv2.absdiff(picture, expected)) < 4
    assert [label for label, _ in shown["p1"][2].options][1:] == ["same person as p2", "same person as p3"]


def test_what_is_chosen_is_in_the_map_at_once_and_in_the_preview(made, out, tmp_path, monkeypatch):
    stale = []
    monkeypatch.setattr(made.preview, "mark_stale", lambda: stale.append(1))
    made.people._changed = made.preview.mark_stale
    assert in_map(out) is None
    (tmp_path / "library" / "ana").mkdir(parents=True)
    made.photos.library.value = str(tmp_path / "library")
    before, untouched = made.people.cards.children[0], made.people.cards.children[2]
    assert ("ana",) in [value for _, value in cards(made)["p1"][1].options]
    stale.clear()
    cards(made)["p1"][1].value = ("ana",)
    assert in_map(out) == {"p1": (("p1",), ("ana",))}
    assert stale == [1]
    assert cards(made)["p1"][1].value == ("ana",)
    assert made.people.cards.children[0] is not before
    assert made.people.cards.children[2] is untouched
    name_of(made, "p1").value = "Ana <b>"
    assert in_map(out) == {"Ana <b>": (("p1",), ("ana",))}
    assert "looks similar to Ana &lt;b&gt;" in cards(made)["p2"][0].value
    assert "<b>" not in cards(made)["Ana <b>"][0].value
    cards(made)["p3"][2].value = "Ana <b>"
    assert in_map(out) == {"Ana <b>": (("p1", "p3"), ("ana",))}
    assert list(cards(made)) == ["Ana <b>", "p2"]
    cards(made)["Ana <b>"][4].click()  # these are two
    assert sorted(cards(made)) == ["Ana <b>", "p2", "p3"]
    cards(made)["p2"][3].click()  # only this one
    assert {name: source for name, (_, source) in in_map(out).items()} == {
        "Ana <b>": ("leave",), "p2": ("photos",), "p3": ("leave",),
    }  # fmt: skip
    others = made.people.others.children[1]
    assert others.value == ("leave",)
    others.value = ("portraits",)
    assert PeopleMap.load(out).default == ("portraits",)
    assert "a portrait of their own" in [label for label, _ in others.options]
    made.people.mode.value = "everybody"
    assert made.form_state.request(overrides={}).people == "everybody"


def test_what_is_refused_is_said_and_the_card_is_as_it_was(made, out, text_of):
    name_of(made, "p1").value = "p2"
    assert "cannot use the name 'p2'" in text_of(made.people.message)
    assert list(cards(made)) == ["p1", "p2", "p3"]
    cards(made)["p1"][4].click()
    assert "nothing in it looks like two people" in text_of(made.people.message)
    (out / "people.yaml").write_text("people: [")
    made.people.refresh()
    assert "line 1" in text_of(made.people.message)
    assert made.people.cards.children == ()
    (out / "people.yaml").write_text("people:\n  Bob: {faces: p1, source: leave}\n")
    made.tabs.selected_index = 2  # by hand, or by another process
    assert list(cards(made)) == ["Bob", "p2", "p3"]
    assert cards(made)["Bob"][1].value == ("leave",)


def test_many_people_are_not_all_shown(made, monkeypatch, text_of):
    monkeypatch.setattr(people, "MAX_PEOPLE_ROWS", 2)
    made.people._shown_state = None
    made.people.refresh()
    assert list(cards(made)) == ["p1", "p2"]
    assert "Not shown: 1 who" in text_of(made.people.message)


def test_videos_tell_who_is_in_them_by_the_names_they_have_now(make_panel, on_demo, tmp_path, text_of):
    write_people(tmp_path / "out", {"clip1.mp4": CAST["a.mp4"]})
    made = make_panel(on_demo.with_values(output_dir=tmp_path / "out"))
    assert "p1 2.0 s, p2 2.0 s faces in 100% of the frames" in text_of(made.videos.table)
    name_of(made, "p1").value = "<i>Ana"
    made.tabs.selected_index = 1
    assert "<i>Ana 2.0 s, p2 2.0 s" in text_of(made.videos.table)
    assert "<i>" not in made.videos.table.value


def test_found_chosen_previewed_and_run(make_panel, idle, on_demo, tmp_path, text_of):
    """As somebody does it: the preview shows what the run then makes, and only who is chosen is changed."""
    scene = Scene(7, (480, 270), Fraction(12), 0.75, 2, cast=("alma", "bruno"))
    target = tmp_path / "both.mp4"
    write_target(target, scene, crf=4, preset="ultrafast")
    asked = on_demo.with_values(
        targets=(str(target),), consent=CONSENT, output_dir=tmp_path / "out",
        overrides={"frame_processors": "face_swapper", "output_video_quality": 0},
    )  # fmt: skip
    made = make_panel(asked)
    made.people.find_button.click()
    assert "A run is in progress" in text_of(made.people.message)
    idle.pass_by()
    assert not (tmp_path / "out" / "both.mp4").exists()
    assert len(cards(made)) == 2
    made.tabs.selected_index = PREVIEW
    assert made.preview.shown.known
    assert made.preview.shown.faces == 2
    cards(made)["p1"][3].click()  # only this one
    assert made.preview.shown.faces == 1
    name_of(made, "p1").value = "Ana"
    made.run.start_button.click()
    idle.pass_by()
    report, number = made.form_state.runs.latest.report, made.preview.frame.value
    assert report.ok
    assert report.not_in_consent == ["Ana"]
    before, result = made.preview.shown.before, read_target_frame(tmp_path / "out" / "both.mp4", number)
    assert np.array_equal(result, made.preview.shown.after)
    apart = {face.who: changed(before, result, face.box) for face in scene.render(number)[1]}
    (who,) = [who for who, mean in apart.items() if mean > 2]
    assert min(apart.values()) == 0
    look_at = partial(made.form_state.networks.examine, *made.form_state.detection_inputs())
    known = next(row for row in list_people(tmp_path / "out") if row.name == "Ana")
    crop = read_image(tmp_path / "out" / "people" / known.crops[0])
    assert float(look_at(crop).embedding @ look_at(portrait(who)).embedding) > 0.5


def changed(before, after, box):
    left, top, right, bottom = np.clip(box.astype(int), 0, None)
    return float(np.mean(cv2.absdiff(before, after)[top:bottom, left:right]))
