"""Known people of a folder and the user's map of them; embeddings are made of numbers."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from colab_helpers.__main__ import _edit_people
from colab_helpers.batch.known_people import (
    UNKNOWN_PERSON,
    FaceVisibility,
    KnownPeople,
    KnownTarget,
    KnownTrack,
)
from colab_helpers.batch.people_edits import set_default, set_source
from colab_helpers.batch.people_map import MAP_NAME, MappedPerson, PeopleMap, summarize_people
from colab_helpers.errors import UsageError
from colab_helpers.faces.person_clustering import TrackSummary
from colab_helpers.files import to_json
from tests.faces.test_person_clustering import BOX, look, track

WRITTEN = """\
# mine
version: 1
default: leave   # strangers
people:
    # the bride
    Ana:
        faces: [p1]   # sure
        source: photos
    p2:
        faces:
        - p2
        - p4   # in the dark
        source: [a.jpg, b.jpg]
"""


def video(name: str, seen: Sequence[TrackSummary], *unseen: int, rate: float = 25.0) -> KnownTarget:
    tracks = {one.track: KnownTrack.of(one, chosen=False) for one in seen}
    numbers = dict.fromkeys([*tracks, *unseen], UNKNOWN_PERSON)
    sight = FaceVisibility(frames=100, faces=1.0)
    return KnownTarget(target=f"{name}.mp4", sha256=name, rate=rate, sight=sight, tracks=numbers, seen=tracks)


def known(**videos: Sequence[TrackSummary]) -> KnownPeople:
    people = KnownPeople()
    people.found = {name: video(name, seen) for name, seen in videos.items()}
    people.add(videos)
    return people


def tracks(people: KnownPeople) -> dict[str, list[str]]:
    return {key: list(video.tracks.values()) for key, video in people.videos.items()}


def tracks_of(name: str, *who: int) -> list[TrackSummary]:
    looks = [look(one, 0.7, 50 * ord(name[0]) + n) for n, one in enumerate(who)]
    return [track(n, 0, 100 * n, 100 * n + 50, video=name, embedding=one) for n, one in enumerate(looks)]


def test_people_of_new_videos_join_known_people_in_any_order(tmp_path: Path) -> None:
    people = known(a=tracks_of("a", 1, 2, 1), b=tracks_of("b", 2, 3))
    assert tracks(people) == {"a": ["p1", "p2", "p1"], "b": ["p2", "p3"]}
    people.save(tmp_path)
    again = KnownPeople.load(tmp_path)
    assert to_json(again) == to_json(people)
    again.update_means()
    assert to_json(again) == to_json(people), "state in memory equals the state read by a later run"

    again.found = {
        name: video(name, tracks_of(name, *who)) for name, who in {"d": (4, 1), "c": (5, 3)}.items()
    }
    again.add(["c", "d", "not there"])
    assert tracks(again) == tracks(people) | {"c": ["p4", "p3"], "d": ["p5", "p1"]}
    assert summarize_people(again, None)[0].files == {"a.mp4": 4.08, "d.mp4": 2.04}
    assert not again.found


def test_known_groups_are_never_merged() -> None:
    twins = [track(0, 1, 0, 50, video="a"), track(1, 1, 0, 50, video="a")]
    people = known(a=twins)
    assert tracks(people) == {"a": ["p1", "p2"]}
    assert people.alike() == {"p1": ["p2"], "p2": ["p1"]}
    for name, twin in (("b", 0), ("c", 1)):
        people.found = {name: video(name, [track(9, 1, 0, 50, video=name, embedding=twins[twin].embedding)])}
        people.add([name])
    assert tracks(people) == {"a": ["p1", "p2"], "b": ["p1"], "c": ["p2"]}


def test_doubtful_people_are_marked_and_best_crops_come_first() -> None:
    people = known(a=tracks_of("a", 1, 1, 2), b=[track(0, 3, 0, 9, video="b", asked=2)])
    for n, worth in enumerate((0.2, 0.6, 0.1)):
        one = people.videos["a"].seen[n]
        one.crop, one.worth = f"{n}.jpg", worth
    people.videos["a"].seen[1].dark = people.videos["b"].seen[0].dark = True
    people.update_means()
    assert [row.doubtful for row in summarize_people(people, None)] == [False, False, True]
    assert summarize_people(people, None)[0].crops == ("0.jpg", "1.jpg"), "dark crops come last"
    people.videos["a"].seen[1].look = look(9)
    people.videos["a"].seen[1].asked = 2
    people.update_means()
    assert summarize_people(people, None)[0].doubtful, "one of its tracks looks like another person"


def test_short_tracks_are_unknown_and_fragments_join_a_nearby_track() -> None:
    there = track(0, 1, 0, 40, video="a", ends=(BOX, BOX))
    near = track(1, 9, 45, 46, video="a", asked=1, ends=(BOX + 5, BOX + 5))
    stray = track(2, 8, 80, 81, video="a", asked=1)
    people = KnownPeople(found={"a": video("a", [there, near, stray], 7)})
    people.add(["a"])
    assert people.videos["a"].tracks == {0: "p1", 1: "p1", 2: UNKNOWN_PERSON, 7: UNKNOWN_PERSON}


def test_video_scanned_with_another_key_replaces_its_old_entry() -> None:
    people = known(a=tracks_of("a", 1, 2))
    people.found = {"other": video("a", tracks_of("other", 2, 1))}
    people.add(["other"])
    assert tracks(people) == {"other": ["p2", "p1"]}
    assert summarize_people(people, None)[0].files == {"a.mp4": 2.04}


def test_changed_target_is_replaced_and_renamed_target_is_updated() -> None:
    people = known(a=tracks_of("a", 1, 2), b=tracks_of("b", 3))
    people.found = {"new": video("a", tracks_of("new", 1)).model_copy(update={"sha256": "other bytes"})}
    people.rename_targets({"new": "a.mp4", "b": "c.mp4"})
    people.add(["new"])
    assert tracks(people) == {"b": ["p3"], "new": ["p1"]}
    assert [list(row.files) for row in summarize_people(people, None)] == [["a.mp4"], [], ["c.mp4"]]


def test_group_of_two_people_is_split_and_group_of_one_is_refused() -> None:
    people = known(a=[track(n, 1, 100 * n, 100 * n + 50, video="a", noise=0) for n in range(3)])
    with pytest.raises(UsageError, match="p1 cannot be split"):
        people.split("p1")
    with pytest.raises(UsageError, match="there is no p7"):
        people.split("p7")
    half = (look(1) + look(2)) / np.float32(np.sqrt(2))
    people = known(a=[*tracks_of("a", 1, 1), track(5, 1, 600, 700, video="a", embedding=half)])
    assert tracks(people) == {"a": ["p1", "p1", "p1"]}
    assert people.split("p1") == ["p1", "p2"]
    assert tracks(people) == {"a": ["p1", "p1", "p2"]} or tracks(people) == {"a": ["p2", "p2", "p1"]}


def test_map_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    person = MappedPerson(faces=("p1", "p2"), source=("ana",), settings={"enhancer_blend": 40})
    written = PeopleMap(
        default=("leave",), people={"Ana María: 1": person, "no": MappedPerson(photos=("a.jpg",))}
    )
    written.save(tmp_path)
    again = PeopleMap.load(tmp_path)
    assert again is not None
    assert again.model_dump() == written.model_dump()
    assert (tmp_path / MAP_NAME).read_text().startswith("# Who is who")
    assert PeopleMap.load(tmp_path / "nowhere") is None


def test_edited_map_is_rewritten_and_the_users_text_is_backed_up(tmp_path: Path) -> None:
    (tmp_path / MAP_NAME).write_text(WRITTEN)
    people_map = PeopleMap.of(WRITTEN)
    people_map.put("p9", faces="p9", source="leave")
    people_map.rename("Ana", "Bea: 2")
    people_map.put("Bea: 2", source="blur", settings={"colour_match": True})
    people_map.default = ("pixelate",)
    people_map.save(tmp_path)
    assert (tmp_path / f"{MAP_NAME}.old").read_text() == WRITTEN
    again = PeopleMap.load(tmp_path)
    assert again is not None
    assert again.model_dump() == people_map.model_dump()
    assert list(again.people) == ["Bea: 2", "p2", "p9"]
    again.put("p9", source="blur")
    again.save(tmp_path)
    assert (tmp_path / f"{MAP_NAME}.old").read_text() == WRITTEN, "text written by a tool is not backed up"


def test_people_are_merged() -> None:
    people_map = PeopleMap.of(WRITTEN)
    people_map.merge("Ana", "p2")
    assert {name: one.faces for name, one in people_map.people.items()} == {"Ana": ("p1", "p2", "p4")}
    with pytest.raises(UsageError, match="cannot merge Ana with itself"):
        people_map.merge("Ana", "Ana")
    with pytest.raises(UsageError, match="already taken"):
        PeopleMap.of(WRITTEN).rename("Ana", "p2")


@pytest.mark.parametrize("text", ["", "people:\n", "people: # none", "people:\r\n  a: {faces: p1}\r\n"])
def test_person_is_added_to_any_map(text: str) -> None:
    people_map = PeopleMap.of(text)
    people_map.put("b", faces="p2")
    assert PeopleMap.of(people_map.text()).model_dump() == people_map.model_dump()


def test_yaml_scalars_are_read_as_text() -> None:
    text = "default: 1e3\npeople:\n  007: {faces: 12:30}\n  yes:\n    photos: [0x10]\n    source: 1.50\n"
    people_map = PeopleMap.of(
        f"record: 01234567\n{text}    settings: {{colour_match: yes, enhancer_blend: 40}}\n"
    )
    assert (people_map.record, people_map.default) == ("01234567", ("1e3",))
    assert list(people_map.people) == ["007", "yes"]
    assert people_map.people["007"].faces == ("12:30",)
    assert (people_map.people["yes"].photos, people_map.people["yes"].source) == (("0x10",), ("1.50",))
    assert people_map.people["yes"].settings == {"colour_match": True, "enhancer_blend": 40}
    people_map.put("007", source="leave")
    assert PeopleMap.of(people_map.text()).model_dump() == people_map.model_dump()


WRONG = {
    "people:\n  a:\n    faces: [p1]\n    sorce: x": ("people.a.sorce", "allowed: faces"),
    "people:\n  a: {faces: p1}\n  a: {faces: p2}": ("line 3", "a occurs twice"),
    "people:\n  a: {source: leave}": ("people.a", "give faces or photos"),
    "people:\n  a: {faces: p1}\n  b: {faces: [p2, p1]}": ("p1 is listed in the faces of both a and b",),
    "people:\n  a: {faces: p1,\n    settings: {enhancer_blend: 400}}": ("people.a.settings", "0 to 100"),
    "people:\n  a: {faces: p1, settings: {max_memory: 4}}": ("max_memory", "allowed: frame_processors"),
    "\ndefault: [leave, blur]": ("default", "leave cannot be combined"),
    "\n\nversion: 2": ("version",),
    "people:\n  a: x": ("people.a",),
    "people: [a, b]": ("people",),
    "- people": ("expected here",),
    "people:\n  a: [": ("line 2",),
    "? [a]\n: b": ("line 1", "unhashable"),
}


@pytest.mark.parametrize("text", WRONG)
def test_invalid_map_is_refused_with_the_place_of_the_error(text: str, tmp_path: Path) -> None:
    (tmp_path / MAP_NAME).write_text(text)
    with pytest.raises(UsageError) as raised:
        PeopleMap.load(tmp_path)
    for part in (*WRONG[text], MAP_NAME, "What to do"):
        assert part in str(raised.value)


def test_people_are_listed_with_their_treatment() -> None:
    people = known(a=tracks_of("a", 1, 2), b=tracks_of("b", 3, 2))
    people_map = PeopleMap.of("default: leave\npeople:\n  Ana: {faces: [p2, p3], source: ana}\n")
    rows = summarize_people(people, people_map)
    assert [(row.name, row.source) for row in rows] == [("Ana", ("ana",)), ("p1", ("leave",))]
    assert rows[0].files == {"a.mp4": 2.04, "b.mp4": 4.08}
    assert rows[0].seconds == pytest.approx(6.12)


def test_source_too_long_for_a_path_is_refused_as_unknown(tmp_path: Path) -> None:
    words = ",".join(f"word{n}" for n in range(100))
    options = Namespace(folder=tmp_path, library=None, split=[], merge=[], name=[], set=[f"p1={words}"])
    with pytest.raises(UsageError, match="word0"):
        _edit_people(options)
    with pytest.raises(UsageError, match="neither a file"):
        set_source(tmp_path, "p1", [words])


def test_every_commented_map_is_backed_up(tmp_path) -> None:
    texts = [f"default: leave  # {note}\n" for note in ("one", "two")]
    for text in texts:
        (tmp_path / "people.yaml").write_text(text)
        set_default(tmp_path, ["blur"])
    assert [(tmp_path / name).read_text() for name in ("people.yaml.old", "people.yaml (2).old")] == texts
