"""How a map assigns treatments to known people, and what enters a key; embeddings are numbers."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from colab_helpers.batch import batch_assignment as assignment_module
from colab_helpers.batch import find_people
from colab_helpers.batch.batch_assignment import (
    BatchAssignment,
    TreatmentResolver,
    assign_people,
    initial_map,
)
from colab_helpers.batch.find_people import PeopleFinder
from colab_helpers.batch.job import Source, consent_for
from colab_helpers.batch.known_people import FaceVisibility, KnownPeople, KnownTarget
from colab_helpers.batch.people_map import PeopleMap
from colab_helpers.batch.plan import Task
from colab_helpers.batch.triage import build_triage
from colab_helpers.errors import ConsentError, MissingFileError, SettingsError, UsageError
from colab_helpers.faces.assignment import Assignment, Treatment
from colab_helpers.faces.photos import Identity
from colab_helpers.faces.selection import Selection
from colab_helpers.faces.tracks import Track
from colab_helpers.faces.types import Face
from colab_helpers.request import BatchRequest
from colab_helpers.settings import load_settings
from colab_helpers.trust.marking import GENERATED_SOURCE_TYPE, xmp_of
from colab_helpers.ui.preview_networks import PreviewNetworks
from tests.batch.test_people_map import tracks_of, video
from tests.faces.test_person_clustering import LIMIT, look, track

SETTINGS = load_settings()
PHOTO = "data:image/png;base64,AAAA"
NINE = "data:image/png;base64,9999"
OTHER = "data:image/png;base64,BBBB"
WHO = {PHOTO: 70, OTHER: 71, "data:image/png;base64,CCCC": 3, NINE: 9}


class Networks(SimpleNamespace):
    """Recognises on each photo the person given in `WHO`."""

    def identity(self, photos: Any) -> Identity:
        names = [name for name, _ in photos]
        who = [number for photo, number in WHO.items() if names[0].startswith(photo[:25])]
        if not who:
            raise MissingFileError("there is no such file", where=names[0])
        return Identity(10 * look(who[0]), tuple(names), tuple(range(len(names))))


def refused(treatment: Treatment) -> None:
    if "face_mask_types" in treatment.settings:
        raise SettingsError("face_mask_types cannot be set for one person alone", remedy="set it for all")


def cast_by(text: str, people: KnownPeople, *, sources: bool = True) -> BatchAssignment:
    photos = [Source.of(PHOTO)] if sources else []
    identity = Identity(10 * look(70), ("me",), (0,)) if sources else None
    engine: Any = Networks(swapper=object(), changer=refused)
    treatments = TreatmentResolver(engine, Path("/nowhere"), None, identity, photos)
    return assign_people(PeopleMap.of(text), people, treatments, limit=LIMIT)


@pytest.fixture
def people() -> KnownPeople:
    """p1 and p2 in a, p2 and p3 in b; also in b a barely visible track and an unrecognised one."""
    found = KnownPeople(found={"a": video("a", tracks_of("a", 1, 2))})
    stray = track(5, 9, 900, 901, video="b", asked=1)
    found.found["b"] = video("b", [*tracks_of("b", 2, 3), stray], 7)
    found.add(["a", "b"])
    assert list(found.videos["b"].tracks.values()) == ["p2", "p3", "", ""]
    return found


def done(found: BatchAssignment, key: str) -> dict[int, str]:
    """The treatment of each track of a video, in a word."""
    selection = Selection(SETTINGS, found.assignment(key))
    numbers = [*found.known.videos[key].tracks]
    selection.decide([Track(number, 0, 9) for number in numbers])
    words = {None: "leave"} | {look(who)[0] * 10: str(who) for who in WHO.values()}
    treatments = {}
    for number in numbers:
        treatment = selection.treatment(number)
        at = treatment and treatment.source
        treatments[number] = (
            treatment.action if treatment and at is None else words[None if at is None else at[0]]
        )
    return treatments


def test_tracks_get_the_treatment_of_their_person(people: KnownPeople) -> None:
    found = cast_by(
        f"default: leave\npeople:\n  A: {{faces: p1, source: '{OTHER}'}}\n  B: {{faces: [p3], source: blur}}",
        people,
    )
    assert done(found, "a") == {0: "71", 1: "leave"}
    assert done(found, "b") == {0: "leave", 1: "blur", 5: "blur", 7: "blur"}
    assert found.people_map.names == {"p1": "A", "p3": "B", "p2": "p2"}


@pytest.mark.parametrize(
    ("text", "stray"),
    [
        ("default: photos\npeople:\n  x: {faces: p1, source: leave}", "70"),
        ("default: photos\npeople:\n  x: {faces: p2, source: leave}", "leave"),
        ("default: photos\npeople:\n  x: {faces: p3, source: blur}", "blur"),
        ("default: leave\npeople:\n  x: {faces: p2, source: pixelate}", "pixelate"),
        (f"default: photos\npeople:\n  x: {{photos: '{NINE}', source: leave}}", "leave"),
        ("default: blur\npeople:\n  x: {faces: p3, source: photos}", "blur"),
        ("default: leave\npeople:\n  x: {faces: p2, source: photos}", "leave"),
    ],
)
def test_uncertain_tracks_are_swapped_only_if_no_candidate_differs(text, stray, people) -> None:
    assert {done(cast_by(text, people), "b")[number] for number in (5, 7)} == {stray}


def keys(found: BatchAssignment) -> dict[str, object]:
    return {key: found.decisions(key) for key in ("a", "b", "unscanned")}


def test_key_depends_only_on_treatments_in_its_video(people: KnownPeople) -> None:
    text = "people:\n  p1: {faces: p1}\n  p2: {faces: p2}\n  p3: {faces: p3}\n"
    before = keys(cast_by(text, people))
    assert keys(cast_by(text.replace("  p2:", "  Bea:"), people)) == before, "a name changes nothing"
    for change, same in (
        (("{faces: p1}", "{faces: p1, source: leave}"), ["b"]),
        (("{faces: p3}", "{faces: p3, settings: {enhancer_blend: 10}}"), ["a"]),
        (("{faces: p2}", f"{{faces: p2, source: '{OTHER}'}}"), []),
    ):
        after = keys(cast_by(text.replace(*change), people))
        assert [key for key in before if after[key] == before[key]] == same


def test_person_mapped_by_photos_is_matched_by_embedding(people: KnownPeople) -> None:
    found = cast_by("default: leave\npeople:\n  C: {photos: 'data:image/png;base64,CCCC'}", people)
    assert {name: one.faces for name, one in found.people_map.people.items()} == {
        "C": ("p3",), "p1": ("p1",), "p2": ("p2",),
    }  # fmt: skip
    assert done(found, "b")[1] == "70"
    assert found.people_map.people["p1"].source == ("leave",)
    assert found.people_map.record == people.record


def test_invalid_source_is_refused_with_the_name_of_the_person(people: KnownPeople) -> None:
    for text, message in (
        ("people:\n  Ana: {faces: p1, source: nobody/there}", "Ana.*no such file"),
        ("people:\n  Ana: {faces: p8}", "Ana.*p8"),
    ):
        with pytest.raises(UsageError, match=message):
            cast_by(text, people)
    text = "people:\n  Ana: {faces: p1, settings: {face_mask_types: [region]}}"
    with pytest.raises(UsageError, match=r"people\.yaml: Ana: face_mask_types cannot be set"):
        cast_by(text, people)
    with pytest.raises(UsageError, match="Ana is photos, but the run has none"):
        cast_by("default: leave\npeople:\n  Ana: {faces: p1}", people, sources=False)


def test_initial_map_follows_the_request(people: KnownPeople) -> None:
    people.videos["a"].seen[0].chosen = True
    people.videos["b"].seen[0].chosen = False
    people_map = initial_map(people, everybody=False, swaps=True)
    assert {name: person.source for name, person in people_map.people.items()} == {
        "p1": ("photos",), "p2": ("leave",), "p3": ("leave",),
    }  # fmt: skip
    assert people_map.default == ("leave",)
    assert initial_map(people, everybody=True, swaps=True).default == ("photos",)
    assert initial_map(people, everybody=True, swaps=False).people["p1"].source == ("leave",)


def test_triage_lists_problems_of_each_file(people: KnownPeople) -> None:
    bad = FaceVisibility(frames=50, faces=0.5, turned=0.8, small=0.6, dark=1.0, covered=0.5)
    videos = [people.videos["a"], KnownTarget(target="x.mp4", sha256="x", rate=25, sight=bad, tracks={})]
    faceless = KnownTarget(
        target="y.mp4", sha256="y", rate=25, sight=FaceVisibility(frames=9, faces=0), tracks={}
    )
    names: Mapping[str, str] = {"p1": "Ana", "p2": "Ana"}
    triage = build_triage([*videos, faceless], names, pace=5.0)
    assert triage.files[0].people == {"Ana": 4.08}
    assert [file.estimate for file in triage.files] == [20.0, 10.0, 1.8]
    assert [len(file.remarks) for file in triage.files] == [0, 4, 1]
    assert triage.lines()[0] == "no face is seen: y.mp4"
    assert build_triage(videos, names, pace=None).files[0].estimate is None


def test_faces_of_a_picture_keep_their_assigned_person(people: KnownPeople) -> None:
    """By embedding, not number; and not the most similar person, as equal lighting makes faces alike."""
    people.videos["a"].seen[0].look = look(2)  # assigned to p1
    found = cast_by("default: leave\npeople:\n  A: {faces: p1, source: photos}", people)
    box, points = np.array([0, 0, 9, 9], np.float32), np.zeros((5, 2), np.float32)
    faces = [Face(box, points, 0.9, look(2, 0.2)), Face(box, points, 0.9, look(1))]
    assert [face.track for face in Selection(SETTINGS, found.assignment("a")).in_picture(faces)] == [0, 1]
    assert [face.track for face in Selection(SETTINGS, found.assignment("a")).in_picture(faces[::-1])] == [0]
    assert [face.track for face in Selection(SETTINGS, found.assignment("unknown")).in_picture(faces)] == [1]


def test_map_of_another_people_record_is_refused(people: KnownPeople) -> None:
    text = "people:\n  Ana: {faces: p1}"
    cast_by(f"record: {people.record}\n{text}", people)
    for people_map, known in (("record: 12345678\n" + text, people), (text, KnownPeople())):
        with pytest.raises(UsageError, match=r"people/people\.json"):
            cast_by(people_map, known)
    assert initial_map(people, everybody=True, swaps=True).record == people.record


@pytest.fixture
def finder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Finds p1 and p2 on a.png in every scan; the request selects the one numbered ``chosen``."""
    (tmp_path / "a.png").write_bytes(b"x")
    tasks = [Task(tmp_path / "a.png", tmp_path / "out" / "b.png")]
    request = SimpleNamespace(
        people="find", library=None, settings=SETTINGS, output_dir=None, photos=(), sources=(), consent="self"
    )
    context = SimpleNamespace(
        job=SimpleNamespace(folder=tmp_path, tasks=tasks, sources=[], inputs=[], request=request),
        retry=SimpleNamespace(attempt=lambda act: act()),
        status=SimpleNamespace(file=lambda *_: None, note=pytest.fail),
        heartbeat=lambda: None,
        stop=SimpleNamespace(owns_process=False),
    )
    earlier = SimpleNamespace(index_key=lambda _task: "a", person_filter=["never 1"])
    engine = Networks(settings=SETTINGS, swapper=object(), changer=refused)
    args: Any = (context, engine, earlier, None, Assignment(), None)
    made = PeopleFinder(*args)
    monkeypatch.setattr(
        find_people, "face_index_location", lambda *_: SimpleNamespace(folder=tmp_path, mirror=None)
    )
    monkeypatch.setattr(PeopleFinder, "chosen", 0, raising=False)

    def scan(self: Any, *_given: object) -> KnownTarget:
        target = video("a", tracks_of("a", 1, 2))
        target.seen[self.chosen].chosen = True
        return target

    monkeypatch.setattr(PeopleFinder, "_scan_target", scan)
    return made


def test_rescan_without_a_map_selects_again_and_keeps_names(finder, monkeypatch) -> None:
    known = KnownPeople()

    def first(*, rescan: bool) -> list[str]:
        known.rename_targets(replace(finder)._scan_targets(known, rescan=rescan))
        known.add(["a"])
        made = initial_map(known, everybody=False, swaps=True)
        return [name for name, person in made.people.items() if person.source == ("photos",)]

    assert first(rescan=True) == ["p1"]
    monkeypatch.setattr(PeopleFinder, "chosen", 1)
    assert first(rescan=False) == ["p1"], "nothing is scanned again"
    assert first(rescan=True) == ["p2"]
    assert list(known.groups) == ["p1", "p2"]
    assert known.tracks()["p1"] == [("a", 0)]
    assert known.videos["a"].target == "b.png", "its current name"


def test_map_edited_during_the_scan_is_kept(finder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, scan = finder.context.job.folder, PeopleFinder._scan_target
    (folder / "people.yaml").write_text("default: leave\n")

    def edited_meanwhile(*args: Any) -> KnownTarget:
        (folder / "people.yaml").write_text("default: blur  # mine\n")
        return scan(*args)

    monkeypatch.setattr(PeopleFinder, "_scan_target", edited_meanwhile)
    monkeypatch.setattr(PeopleFinder, "_known", lambda _: KnownPeople())
    monkeypatch.setattr(PeopleFinder, "_publish_triage", lambda *_: None)
    assert {person.treatment.action for person in finder.find().people.values()} == {"blur"}
    record, text = KnownPeople.load(folder).record, (folder / "people.yaml").read_text()
    people_map = PeopleMap.of(text)
    assert (people_map.default, people_map.record) == (("blur",), record)
    assert list(people_map.people) == ["p1", "p2"]
    assert (folder / "people.yaml.old").read_text() == "default: blur  # mine\n"
    (folder / "people.yaml").write_text("default: leave\n")
    finder.context.job.request.people = "auto"
    assert {person.treatment.action for person in finder.find().people.values()} == {"blur"}
    assert (folder / "people.yaml").read_text() == "default: blur  # mine\n"


def photo_of(name: str) -> str:
    return f"data:image/png;base64,{name[::-1]}"


def add_to(library: Path, name: str, number: int, ground: str = "synthetic") -> None:
    """Add a person, whose embedding is given by a number, to a library."""
    (library / name).mkdir()
    (library / name / "portrait.png").write_bytes(xmp_of("", GENERATED_SOURCE_TYPE))
    (library / f"{name}.consent.yaml").write_text(f"people: {{{name}: {ground}}}")
    WHO[photo_of(name)] = number


@pytest.fixture
def crowd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library of generated people, and of Ana, who is real."""
    monkeypatch.setattr(sys.modules[__name__], "WHO", {**WHO})
    for number in (1, 2, 10):
        add_to(tmp_path, f"made {number}", 80 + number)
    add_to(tmp_path, "Ana", 3, "self")
    (tmp_path / "no consent").mkdir()

    def expand_photos(sources: Any, _library: object) -> list[Source]:
        return [Source(photo_of(one.path.name), photo_of(one.path.name)) for one in sources]

    monkeypatch.setattr(assignment_module, "expand_photos", expand_photos)
    return tmp_path


def crowd_by(text: str, known: KnownPeople, library: Path, **options: Any) -> BatchAssignment:
    engine: Any = Networks(**({"swapper": object(), "changer": refused} | options.pop("engine", {})))
    treatments = TreatmentResolver(engine, Path("/nowhere"), library, None, [], **options)
    return assign_people(PeopleMap.of(text), known, treatments, limit=LIMIT)


EVERYBODY = "default: portraits"


def test_each_person_gets_and_keeps_a_separate_portrait(people: KnownPeople, crowd: Path) -> None:
    found = crowd_by(EVERYBODY, people, crowd)
    assert done(found, "a") == {0: "81", 1: "82"}
    assert done(found, "b") == {0: "82", 1: "90", 5: "blur", 7: "blur"}, (
        "tracks that may be anyone are blurred"
    )
    assert found.assignment("not looked at").default_treatment.action == "blur"
    before = keys(found)
    # New portraits first in the library, or named people, do not change assignments.
    add_to(crowd, "another", 79)
    again = KnownPeople.model_validate_json(people.model_dump_json())
    assert keys(crowd_by(EVERYBODY, again, crowd)) == before
    left = crowd_by(f"{EVERYBODY}\npeople:\n  Bea: {{faces: p1, source: leave}}", again, crowd)
    assert done(left, "a") == {0: "leave", 1: "82"}
    taken = crowd_by(f"{EVERYBODY}\npeople:\n  Bea: {{faces: p1, source: made 2}}", again, crowd)
    assert done(taken, "a") == {0: "82", 1: "79"}, "a portrait named in the map is assigned to no one else"
    text = f"default: {crowd}/made 2\npeople:\n  Bea: {{faces: p2, source: portraits}}"
    fresh = people.model_copy(deep=True)
    assert done(crowd_by(text, fresh, crowd), "a") == {0: "82", 1: "79"}, (
        "nor one named by path or as default"
    )
    one = crowd_by(f"{EVERYBODY}\npeople:\n  Bea: {{faces: [p1, p3], source: portraits}}", people, crowd)
    assert done(one, "b")[1] == done(one, "a")[0] == "81"
    gone = [group.portrait for group in people.groups.values()]
    shutil.rmtree(crowd / "made 1")
    assert done(crowd_by(EVERYBODY, people, crowd), "a") == {0: "79", 1: "82"}, gone


def test_preview_of_everybody_does_not_swap_in_the_photos(crowd: Path) -> None:
    options = {"sources": [PHOTO], "targets": ["a"], "library": crowd}
    for people, action, notes_expected in (("everybody", "blur", 1), ("auto", "swap", 0)):
        engine: Any = Networks(swapper=object(), changer=refused)
        request = BatchRequest(people=people, **options)
        assignment, notes = PreviewNetworks()._assignment(engine, request, crowd, "")
        assert assignment.default_treatment is not None
        assert assignment.default_treatment.action == action
        assert ["blurred in the preview" in note for note in notes] == [True] * notes_expected


def test_too_few_portraits_are_refused_with_the_command_that_makes_them(people, crowd) -> None:
    shutil.rmtree(crowd / "made 10")
    command = r'portraits crowd "an adult" --count {} --library '
    with pytest.raises(UsageError, match="3 person.s. need their own.*only 2 left.*" + command.format(1)):
        crowd_by(EVERYBODY, people, crowd)
    assert {group.portrait for group in people.groups.values()} == {""}
    only = TreatmentResolver(Networks(swapper=object()), Path("/nowhere"), crowd, None, [], needed=False)
    assign_people(PeopleMap.of(EVERYBODY), people, only, limit=LIMIT)  # in a run that only finds people
    with pytest.raises(UsageError, match=command.format(1)):  # before any scan
        crowd_by("people:\n  Bea: {photos: x, source: portraits}", KnownPeople(), crowd / "Ana")
    with pytest.raises(UsageError, match="face_swapper, which this run does not use"):
        crowd_by(EVERYBODY, people, crowd, engine={"swapper": None})
    request = BatchRequest(people="everybody", output_dir=crowd, targets=["a"], library=crowd)
    with pytest.raises(ConsentError):
        consent_for(request, [], PeopleMap.of(EVERYBODY))
    (crowd / "people.yaml").write_text("default: leave\n")  # its default covers people in the map only
    with pytest.raises(ConsentError):
        consent_for(request, [])
