"""What a map makes of what is known: what is done to whom, and what a key holds; people made of numbers."""

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

from colab_helpers.batch import batch_assignment as casting_module
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
    """Sees on each photo whom `WHO` says."""

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
    """p1 and p2 in a, p2 and p3 in b; in b somebody who was hardly seen, and one whom nobody recognised."""
    found = KnownPeople(found={"a": video("a", tracks_of("a", 1, 2))})
    stray = track(5, 9, 900, 901, video="b", asked=1)
    found.found["b"] = video("b", [*tracks_of("b", 2, 3), stray], 7)
    found.add(["a", "b"])
    assert list(found.videos["b"].tracks.values()) == ["p2", "p3", "", ""]
    return found


def done(found: BatchAssignment, key: str) -> dict[int, str]:
    """What becomes of each track of a video, in a word."""
    selection = Selection(SETTINGS, found.assignment(key))
    numbers = [*found.known.videos[key].tracks]
    selection.decide([Track(number, 0, 9) for number in numbers])
    words = {None: "leave"} | {look(who)[0] * 10: str(who) for who in WHO.values()}
    told = {}
    for number in numbers:
        treatment = selection.treatment(number)
        at = treatment and treatment.source
        told[number] = treatment.action if treatment and at is None else words[None if at is None else at[0]]
    return told


def test_each_track_gets_what_the_map_says_of_its_person(people: KnownPeople) -> None:
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
def test_nobody_is_put_in_where_it_may_be_somebody_else(text: str, stray: str, people: KnownPeople) -> None:
    assert {done(cast_by(text, people), "b")[number] for number in (5, 7)} == {stray}


def keys(found: BatchAssignment) -> dict[str, object]:
    return {key: found.decisions(key) for key in ("a", "b", "a picture nobody looked at")}


def test_a_key_holds_what_is_done_in_its_video_and_nobody_elses(people: KnownPeople) -> None:
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


def test_a_person_known_by_photos_is_whoever_looks_like_them(people: KnownPeople) -> None:
    found = cast_by("default: leave\npeople:\n  C: {photos: 'data:image/png;base64,CCCC'}", people)
    assert {name: one.faces for name, one in found.people_map.people.items()} == {
        "C": ("p3",), "p1": ("p1",), "p2": ("p2",),
    }  # fmt: skip
    assert done(found, "b")[1] == "70"
    assert found.people_map.people["p1"].source == ("leave",)
    assert found.people_map.record == people.record


def test_a_source_that_is_none_is_refused_with_the_name_of_the_person(people: KnownPeople) -> None:
    for text, told in (
        ("people:\n  Ana: {faces: p1, source: nobody/there}", "Ana.*no such file"),
        ("people:\n  Ana: {faces: p8}", "Ana.*p8"),
    ):
        with pytest.raises(UsageError, match=told):
            cast_by(text, people)
    text = "people:\n  Ana: {faces: p1, settings: {face_mask_types: [region]}}"
    with pytest.raises(UsageError, match=r"people\.yaml: Ana: face_mask_types cannot be set"):
        cast_by(text, people)
    with pytest.raises(UsageError, match="Ana is photos, but the run has none"):
        cast_by("default: leave\npeople:\n  Ana: {faces: p1}", people, sources=False)


def test_a_first_map_says_what_the_request_would_do(people: KnownPeople) -> None:
    people.videos["a"].seen[0].chosen = True
    people.videos["b"].seen[0].chosen = False
    people_map = initial_map(people, everybody=False, swaps=True)
    assert {name: person.source for name, person in people_map.people.items()} == {
        "p1": ("photos",), "p2": ("leave",), "p3": ("leave",),
    }  # fmt: skip
    assert people_map.default == ("leave",)
    assert initial_map(people, everybody=True, swaps=True).default == ("photos",)
    assert initial_map(people, everybody=True, swaps=False).people["p1"].source == ("leave",)


def test_triage_tells_what_speaks_against_a_file(people: KnownPeople) -> None:
    bad = FaceVisibility(frames=50, faces=0.5, turned=0.8, small=0.6, dark=1.0, covered=0.5)
    videos = [people.videos["a"], KnownTarget(target="x.mp4", sha256="x", rate=25, sight=bad, tracks={})]
    nobody = KnownTarget(
        target="y.mp4", sha256="y", rate=25, sight=FaceVisibility(frames=9, faces=0), tracks={}
    )
    names: Mapping[str, str] = {"p1": "Ana", "p2": "Ana"}
    triage = build_triage([*videos, nobody], names, pace=5.0)
    assert triage.files[0].people == {"Ana": 4.08}
    assert [file.estimate for file in triage.files] == [20.0, 10.0, 1.8]
    assert [len(file.remarks) for file in triage.files] == [0, 4, 1]
    assert triage.lines()[0] == "no face is seen: y.mp4"
    assert build_triage(videos, names, pace=None).files[0].estimate is None


def test_a_face_of_a_picture_is_whoever_it_was_found_to_be(people: KnownPeople) -> None:
    """Not whom it looks most like, as pictures of one light may be alike; but by its look, not its number."""
    people.videos["a"].seen[0].look = look(2)  # of p1, as it was decided
    found = cast_by("default: leave\npeople:\n  A: {faces: p1, source: photos}", people)
    box, points = np.array([0, 0, 9, 9], np.float32), np.zeros((5, 2), np.float32)
    faces = [Face(box, points, 0.9, look(2, 0.2)), Face(box, points, 0.9, look(1))]
    assert [face.track for face in Selection(SETTINGS, found.assignment("a")).in_picture(faces)] == [0, 1]
    assert [face.track for face in Selection(SETTINGS, found.assignment("a")).in_picture(faces[::-1])] == [0]
    assert [face.track for face in Selection(SETTINGS, found.assignment("unknown")).in_picture(faces)] == [1]


def test_a_map_is_of_its_own_record_of_people(people: KnownPeople) -> None:
    text = "people:\n  Ana: {faces: p1}"
    cast_by(f"record: {people.record}\n{text}", people)
    for people_map, known in (("record: 12345678\n" + text, people), (text, KnownPeople())):
        with pytest.raises(UsageError, match=r"people/people\.json"):
            cast_by(people_map, known)
    assert initial_map(people, everybody=True, swaps=True).record == people.record


@pytest.fixture
def finder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Finds on a.png, as often as it looks, p1 and p2, of whom the request chooses who is ``chosen``."""
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
    people_map: Any = (context, engine, earlier, None, Assignment(), None)
    made = PeopleFinder(*people_map)
    monkeypatch.setattr(
        find_people, "face_index_location", lambda *_: SimpleNamespace(folder=tmp_path, mirror=None)
    )
    monkeypatch.setattr(PeopleFinder, "chosen", 0, raising=False)

    def look_at(self: Any, *_given: object) -> KnownTarget:
        seen = video("a", tracks_of("a", 1, 2))
        seen.seen[self.chosen].chosen = True
        return seen

    monkeypatch.setattr(PeopleFinder, "_scan_target", look_at)
    return made


def test_without_a_map_a_request_chooses_anew_and_everybody_keeps_their_names(
    finder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = KnownPeople()

    def first(*, rescan: bool) -> list[str]:
        known.rename_targets(replace(finder)._scan_targets(known, rescan=rescan))
        known.add(["a"])
        made = initial_map(known, everybody=False, swaps=True)
        return [name for name, person in made.people.items() if person.source == ("photos",)]

    assert first(rescan=True) == ["p1"]
    monkeypatch.setattr(PeopleFinder, "chosen", 1)
    assert first(rescan=False) == ["p1"], "nothing is looked at again"
    assert first(rescan=True) == ["p2"]
    assert list(known.groups) == ["p1", "p2"]
    assert known.tracks()["p1"] == [("a", 0)]
    assert known.videos["a"].target == "b.png", "what it is called today"


def test_what_the_user_writes_while_people_are_found_is_kept(
    finder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, look_at = finder.context.job.folder, PeopleFinder._scan_target
    (folder / "people.yaml").write_text("default: leave\n")

    def edited_meanwhile(*people_map: Any) -> KnownTarget:
        (folder / "people.yaml").write_text("default: blur  # mine\n")
        return look_at(*people_map)

    monkeypatch.setattr(PeopleFinder, "_scan_target", edited_meanwhile)
    monkeypatch.setattr(PeopleFinder, "_known", lambda _: KnownPeople())
    monkeypatch.setattr(PeopleFinder, "_publish_triage", lambda *_: None)
    assert {person.treatment.action for person in finder.find().people.values()} == {"blur"}
    record, text = KnownPeople.load(folder).record, (folder / "people.yaml").read_text()
    people_map = PeopleMap.of(text)
    assert (people_map.default, people_map.record, list(people_map.people)) == (
        ("blur",),
        record,
        ["p1", "p2"],
    )
    assert (folder / "people.yaml.old").read_text() == "default: blur  # mine\n"
    (folder / "people.yaml").write_text("default: leave\n")
    finder.context.job.request.people = "auto"
    assert {person.treatment.action for person in finder.find().people.values()} == {"blur"}
    assert (folder / "people.yaml").read_text() == "default: blur  # mine\n"


def photo_of(name: str) -> str:
    return f"data:image/png;base64,{name[::-1]}"


def add_to(library: Path, name: str, number: int, ground: str = "synthetic") -> None:
    """Put somebody into a library, who looks like a number."""
    (library / name).mkdir()
    (library / name / "portrait.png").write_bytes(xmp_of("", GENERATED_SOURCE_TYPE))
    (library / f"{name}.consent.yaml").write_text(f"people: {{{name}: {ground}}}")
    WHO[photo_of(name)] = number


@pytest.fixture
def crowd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library of people who do not exist, and of Ana, who does."""
    monkeypatch.setattr(sys.modules[__name__], "WHO", {**WHO})
    for number in (1, 2, 10):
        add_to(tmp_path, f"made {number}", 80 + number)
    add_to(tmp_path, "Ana", 3, "self")
    (tmp_path / "nobody says so").mkdir()

    def expand_photos(people_map: Any, _library: object) -> list[Source]:
        return [Source(photo_of(one.path.name), photo_of(one.path.name)) for one in people_map]

    monkeypatch.setattr(casting_module, "expand_photos", expand_photos)
    return tmp_path


def crowd_by(text: str, known: KnownPeople, library: Path, **people_map: Any) -> BatchAssignment:
    engine: Any = Networks(**({"swapper": object(), "changer": refused} | people_map.pop("engine", {})))
    treatments = TreatmentResolver(engine, Path("/nowhere"), library, None, [], **people_map)
    return assign_people(PeopleMap.of(text), known, treatments, limit=LIMIT)


EVERYBODY = "default: portraits"


def test_everybody_gets_a_portrait_of_their_own_and_keeps_it(people: KnownPeople, crowd: Path) -> None:
    found = crowd_by(EVERYBODY, people, crowd)
    assert done(found, "a") == {0: "81", 1: "82"}
    assert done(found, "b") == {0: "82", 1: "90", 5: "blur", 7: "blur"}, "whoever may be anybody is hidden"
    assert found.assignment("not looked at").default_treatment.action == "blur"
    before = keys(found)
    # Not even a library that has grown at its beginning changes that, nor that others are named.
    add_to(crowd, "another", 79)
    again = KnownPeople.model_validate_json(people.model_dump_json())
    assert keys(crowd_by(EVERYBODY, again, crowd)) == before
    left = crowd_by(f"{EVERYBODY}\npeople:\n  Bea: {{faces: p1, source: leave}}", again, crowd)
    assert done(left, "a") == {0: "leave", 1: "82"}
    taken = crowd_by(f"{EVERYBODY}\npeople:\n  Bea: {{faces: p1, source: made 2}}", again, crowd)
    assert done(taken, "a") == {0: "82", 1: "79"}, "nobody else gets whom the map names"
    text = f"default: {crowd}/made 2\npeople:\n  Bea: {{faces: p2, source: portraits}}"
    fresh = people.model_copy(deep=True)
    assert done(crowd_by(text, fresh, crowd), "a") == {0: "82", 1: "79"}, "by a path neither, nor as default"
    one = crowd_by(f"{EVERYBODY}\npeople:\n  Bea: {{faces: [p1, p3], source: portraits}}", people, crowd)
    assert done(one, "b")[1] == done(one, "a")[0] == "81"
    gone = [group.portrait for group in people.groups.values()]
    shutil.rmtree(crowd / "made 1")
    assert done(crowd_by(EVERYBODY, people, crowd), "a") == {0: "79", 1: "82"}, gone


def test_a_preview_of_a_crowd_puts_the_photos_of_the_run_into_nobody(crowd: Path) -> None:
    people_map = {"sources": [PHOTO], "targets": ["a"], "library": crowd}
    for people, action in (("everybody", "blur"), ("auto", "swap")):
        engine: Any = Networks(swapper=object(), changer=refused)
        request = BatchRequest(people=people, **people_map)
        default_treatment, told = PreviewNetworks()._cast(engine, request, crowd, "")
        assert default_treatment.default_treatment is not None
        assert (default_treatment.default_treatment.action, ["blurred here" in one for one in told]) == (
            action,
            [True] * len(told),
        )


def test_too_few_portraits_are_told_with_the_command_that_makes_them(
    people: KnownPeople, crowd: Path
) -> None:
    shutil.rmtree(crowd / "made 10")
    command = r'portraits crowd "an adult" --count {} --library '
    with pytest.raises(UsageError, match="3 person.s. need their own.*only 2 left.*" + command.format(1)):
        crowd_by(EVERYBODY, people, crowd)
    assert {group.portrait for group in people.groups.values()} == {""}
    only = TreatmentResolver(Networks(swapper=object()), Path("/nowhere"), crowd, None, [], needed=False)
    assign_people(PeopleMap.of(EVERYBODY), people, only, limit=LIMIT)  # of a run that only finds people
    with pytest.raises(UsageError, match=command.format(1)):  # before anybody is looked for
        crowd_by("people:\n  Bea: {photos: x, source: portraits}", KnownPeople(), crowd / "Ana")
    with pytest.raises(UsageError, match="face_swapper, which this run does not use"):
        crowd_by(EVERYBODY, people, crowd, engine={"swapper": None})
    request = BatchRequest(people="everybody", output_dir=crowd, targets=["a"], library=crowd)
    with pytest.raises(ConsentError):
        consent_for(request, [], PeopleMap.of(EVERYBODY))
    (crowd / "people.yaml").write_text("default: leave\n")  # which counts for those who are in it alone
    with pytest.raises(ConsentError):
        consent_for(request, [])
