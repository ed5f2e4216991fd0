"""Assignment of treatments to people: several sources in one pass, anonymised and unchanged people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from colab_helpers.errors import SettingsError
from colab_helpers.faces.assignment import Assignment, KnownPerson, Treatment
from colab_helpers.faces.changer import FaceChanger
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.index import FaceIndex, FrameFaces
from colab_helpers.faces.person_clustering import PersonFilter
from colab_helpers.faces.selection import FacesDigest, Selection
from colab_helpers.faces.tracks import Track
from colab_helpers.faces.types import Face
from colab_helpers.media.images import read_image, write_image
from colab_helpers.media.picture import VideoPicture
from colab_helpers.media.probe import probe
from colab_helpers.media.reader import read_frames
from colab_helpers.pipeline import process_picture, process_video, report_progress
from colab_helpers.pipeline.face_tracking import FaceTracking
from colab_helpers.pipeline.indexed_frame import decide_faces, process_indexed_frame
from colab_helpers.progress import Progress
from colab_helpers.settings import load_settings
from tests.faces.test_tracks import crossing
from tests.helpers.faces import face, person
from tests.people.actors import portrait
from tests.people.clip import write_target
from tests.people.scene import FaceTruth, Scene
from tests.pipeline.swapping import (
    SOURCE,
    Store,
    assert_same,
    assert_same_pictures,
    interrupted,
    planes,
    segmented,
)

pytestmark = pytest.mark.xdist_group("cast")

SCENE = Scene(63, (480, 270), Fraction(12), 1.5, 2, cast=("alma", "bruno"))
UNCHANGED = Treatment()


@cache
def truth_of(number: int) -> list[FaceTruth]:
    """Ground truth of the faces in a frame."""
    return list(SCENE.render(number)[1])


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "in.mp4"
    write_target(path, SCENE, crf=10, preset="ultrafast")
    return path


@pytest.fixture(scope="module")
def models(standins: Path) -> Engine:
    return segmented(standins, frame_processors="face_swapper", face_mask_types="box")


@pytest.fixture(scope="module")
def embeddings(models: Engine) -> dict[str, Any]:
    names = ("alma", "bruno", "hanna", "gustav")
    return {name: models.analyser.find(portrait(name))[0].embedding for name in names}


def assignment(embeddings: Mapping[str, Any], **treatments: Treatment | None) -> Assignment:
    """A people map by the portraits' embeddings; nobody else is changed."""
    known = {
        name: KnownPerson(name.title(), embeddings[name][None], given) for name, given in treatments.items()
    }
    return Assignment(people=known, has_people_map=True)


def swap_to(embeddings: Mapping[str, Any], name: str) -> Treatment:
    return Treatment(source=embeddings[name], source_name=name)


# --- several sources in one pass ------------------------------------------------------------------------


def test_two_sources_in_one_pass_equal_separate_runs(
    models: Engine, film: Path, embeddings: Any, tmp_path: Path
) -> None:
    hanna, gustav = swap_to(embeddings, "hanna"), swap_to(embeddings, "gustav")
    both = assignment(embeddings, alma=hanna, bruno=gustav)
    result, store = interrupted(models, film, tmp_path / "both.mp4", [8, 14], assignment=both)
    assert_same(process_video(models, both, film, tmp_path / "whole.mp4"), result)
    assert_same_pictures(tmp_path / "whole.mp4", tmp_path / "both.mp4")
    cases = {"alma": {"alma": hanna, "bruno": None}, "bruno": {"alma": None, "bruno": gustav}}
    separate = {}
    for name, people in cases.items():
        alone = assignment(embeddings, **people)
        separate[name] = process_video(models, alone, film, tmp_path / f"{name}.mp4")
    frames = [
        planes(path) for path in (film, *(tmp_path / f"{name}.mp4" for name in ("alma", "bruno", "both")))
    ]
    counts = [0, 0]
    for before, alma, bruno, changed in zip(*frames, strict=True):
        for plane, one, other, found in zip(before, alma, bruno, changed, strict=True):
            np.testing.assert_array_equal(found, np.where(one != plane, one, other))
            counts = [
                count + int((new != plane).sum()) for count, new in zip(counts, (one, other), strict=True)
            ]
    assert min(counts) > 10_000
    people = {one.name: one for one in result.people}
    assert {name: (one.action, one.source) for name, one in people.items()} == {
        "Alma": ("swap", "hanna"),
        "Bruno": ("swap", "gustav"),
    }
    for name, other in (("alma", "Bruno"), ("bruno", "Alma")):
        by_name = {one.name: one for one in separate[name].people}
        assert by_name[name.title()].counts == people[name.title()].counts  # with similarity
        assert (by_name[other].action, by_name[other].counts.changed) == (None, 0)
    assert people["Alma"].counts.final > 0.5 * people["Alma"].counts.samples > 0

    info = probe(film)
    decided = decide_faces(models, info, store.face_index(), both)
    frame = list(read_frames(probe(tmp_path / "both.mp4")))[7].video.to_ndarray(format="bgr24")
    np.testing.assert_array_equal(process_indexed_frame(models, info, 7, decided)[1], frame)


def test_people_in_a_picture_are_recognised_by_embedding(
    models: Engine, embeddings: Any, tmp_path: Path
) -> None:
    image, truths = SCENE.render(3)
    write_image(tmp_path / "in.png", image, quality=100)
    both = assignment(embeddings, alma=swap_to(embeddings, "hanna"), bruno=None)
    result = process_picture(models, both, tmp_path / "in.png", tmp_path / "out.png")
    assert result.faces_swapped == 1
    rows = {one.name: (one.counts.seen, one.counts.changed, one.action, one.source) for one in result.people}
    assert rows == {"Alma": (1, 1, "swap", "hanna"), "Bruno": (1, 0, None, None)}
    out = models.analyser.find(read_image(tmp_path / "out.png"))
    cosines = {name: max(float(one.embedding @ embeddings[name]) for one in out) for name in embeddings}  # type: ignore[operator]
    assert cosines["hanna"] > 0.4 > cosines["alma"]
    assert cosines["bruno"] > 0.6
    assert len(truths) == 2


# --- anonymised people ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [("blur", "pixelate"), ("pixelate", "blur")])
def test_anonymised_faces_are_not_recognised_after_enhancing_and_encoding(
    first: Any, second: Any, standins: Path, film: Path, embeddings: Any, tmp_path: Path
) -> None:
    models = segmented(standins, frame_processors="face_enhancer", output_video_quality=30)
    assert models.swapper is None
    people = assignment(embeddings, alma=Treatment(first), bruno=Treatment(second))
    result = process_video(models, people, film, tmp_path / "out.mp4")
    assert {one.name: one.action for one in result.people} == {"Alma": first, "Bruno": second}
    assert result.measured.without_face == 0
    found = {name: [] for name in SCENE.cast}
    for path in (film, tmp_path / "out.mp4"):
        for number, frame in enumerate(read_frames(probe(path))):
            for truth in truth_of(number):
                if truth.visible > 0.9:
                    seen = Face(truth.box, truth.kps, 0.9)
                    (look,) = models.analyser.embed(VideoPicture(frame.video), [seen])
                    found[truth.who].append((path == film, float(look.embedding @ embeddings[truth.who])))  # type: ignore[operator]
    for cosines in found.values():
        assert min(cosine for before, cosine in cosines if before) > 0.5
        assert max(cosine for before, cosine in cosines if not before) < 0.2


# --- selection ------------------------------------------------------------------------------------------


def track(number: int, who: int, *, asked: int = 2) -> Track:
    made = Track(number, 100 * number, 100 * number)
    for frame in range(asked):
        made.add(100 * number + frame, face(100, who=who), 0.0)
    return made


def treatments_of(people: Assignment, *tracks: Track) -> list[Treatment | None]:
    selection = Selection(load_settings(), people)
    assert selection.needs_all_tracks
    selection.decide(tracks)
    faces = [replace(face(100), track=one.number) for one in tracks]
    treatments = [selection.treatment(one.number) for one in tracks]
    assert [one.track for one in selection.of(faces)] == [
        one.number for one, treatment in zip(tracks, treatments, strict=True) if treatment is not None
    ]
    return treatments


def test_treatment_by_track_then_embedding_then_default() -> None:
    default, first, second = Treatment("blur"), Treatment("pixelate"), Treatment(source_name="his")
    known = {name: KnownPerson(name, person(who)[None], treatment) for name, who, treatment in
             (("a", 1, first), ("b", 2, second), ("c", 3, None))}  # fmt: skip
    tracks = [track(0, 1), track(1, 2), track(2, 3), track(3, 1), track(4, 9), track(5, 8, asked=1)]
    given = Assignment(default, people=known, tracks={3: "b"}, has_people_map=True)
    assert treatments_of(given, *tracks) == [first, second, None, second, default, default]
    selection = Selection(load_settings(), given)
    selection.decide(tracks)
    assert [selection.name(one.number) for one in tracks] == ["a", "b", "c", "b", None, None]
    # An uncertain person is not swapped, but anonymised if anybody is.
    swapping = replace(given, default_treatment=UNCHANGED)
    assert treatments_of(swapping, *tracks)[4:] == [UNCHANGED, first]
    assert treatments_of(Assignment(people=known, has_people_map=True), *tracks)[4:] == [None, first]
    assert treatments_of(replace(swapping, people={"c": known["c"]}), *tracks)[4:] == [UNCHANGED, None]
    # With a people map, even an empty one, selection settings are ignored.
    nobody = Selection(load_settings(many_faces=False), Assignment(UNCHANGED, has_people_map=True))
    nobody.decide(tracks[:2])
    assert len(nobody.of([replace(face(100), track=n) for n in range(2)])) == 2
    # Anonymising comes last; otherwise the order depends on the treatments only.
    last = sorted([default, first], key=lambda one: one.digest)
    other = replace(
        given, default_treatment=first, people=known | {"a": replace(known["a"], treatment=default)}
    )
    assert given.treatments == other.treatments == [second, *last]


def test_nobody_is_changed_without_default_treatment() -> None:
    for given in (Assignment(), Assignment(person_filter=PersonFilter(person(1)))):
        selection = Selection(load_settings(), given)
        selection.decide([track(0, 1)])
        assert selection.of([replace(face(100), track=0)]) == []


def sized_track(number: int, who: int, size: float, frames: range) -> Track:
    made = Track(number, frames.start, frames.start)
    for frame in frames:
        made.add(frame, face(100, who=who, size=size), 0.0)
    return made


@pytest.mark.parametrize(
    ("options", "in_video", "in_picture"),
    [
        ({"many_faces": False, "face_selector": "principal"}, [1], [0]),
        ({"many_faces": False}, [0], [0]),
        ({"many_faces": False, "face_min_size": 230}, [], []),
        ({"face_min_size": 90}, [0, 1], [0, 1]),
        ({"face_min_size": 120}, [0], [0]),
    ],
)
def test_largest_total_area_is_principal_and_small_faces_are_skipped(
    options: Any, in_video: list[int], in_picture: list[int]
) -> None:
    """The larger face is present for fewer frames; the smaller one is detected in every fourth frame."""
    # 224 and 112 pixels wide
    tracks = [sized_track(0, 1, 2.0, range(10)), sized_track(1, 2, 1.0, range(0, 100, 4))]
    selection = Selection(load_settings(**options), Assignment.of(None))
    assert selection.needs_all_tracks
    selection.decide(tracks)
    faces = [replace(face(100, size=size), track=number) for number, size in enumerate((2.0, 1.0))]
    assert [one.track for one in selection.of(faces)] == in_video
    assert [one.track for one in selection.in_picture(faces)] == in_picture


@pytest.mark.parametrize(
    ("treatment", "tracks"), [(Treatment("blur"), {0, 1}), (Treatment(source=person(1)), {0})]
)
def test_only_anonymised_faces_are_changed_while_occluded(
    treatment: Treatment, tracks: set[int], models: Engine
) -> None:
    index = FaceIndex(None)
    for n in range(80):
        index.append(FrameFaces(n, n, searched=True, faces=crossing(n)))
    index.finish()
    faces = FaceTracking(models.analyser, index, Selection(load_settings(), Assignment(treatment)), "")
    found = list(faces.known_faces())
    assert [{one.track for one in frame} for frame in found[38:43]] == [tracks] * 5


@pytest.mark.parametrize(
    ("treatment", "done"),
    [
        (Treatment("blur"), {"blur"}),
        (Treatment(source=person(1)), {"swap", "enhance"}),
        (Treatment(), {"enhance"}),
        (Treatment(source=person(1), settings={"frame_processors": "face_swapper"}), {"swap"}),
        (Treatment(source=person(1), settings={"frame_processors": ("face_enhancer",)}), {"enhance"}),
    ],
)
def test_actions_follow_the_persons_own_settings(treatment: Treatment, done: set[str]) -> None:
    assert Selection(load_settings(), Assignment(treatment)).actions([replace(face(100), track=0)]) == done


def test_faces_digest_depends_on_the_treatment() -> None:
    digests = set()
    for treatment in (
        Treatment(),
        Treatment("blur"),
        Treatment(source=person(1)),
        Treatment(settings={"enhancer_blend": 1}),
    ):
        digest = FacesDigest(Selection(load_settings(), Assignment(treatment)))
        digest.add([replace(face(100), track=0)])
        digests.add(digest.take())
    assert len(digests) == 4
    assert Treatment(source_name="x").digest == Treatment().digest


def test_person_settings_override_some_settings_only(standins: Path) -> None:
    models = segmented(standins, face_mask_types="box,occlusion")
    own = {"frame_processors": "face_swapper", "face_mask_padding": (1, 2, 3, 4), "face_mask_types": "box"}
    swapping = models.changer(Treatment(source=person(1), settings=own))
    default = models.changer(
        Treatment(source=person(1), settings={"enhancer_blend": 7, "colour_match": True})
    )
    assert isinstance(swapping, FaceChanger)
    assert isinstance(default, FaceChanger)
    assert (swapping.enhancer, swapping.masks.padding, swapping.masks.occluder) == (None, (1, 2, 3, 4), None)
    assert (default.enhancer, default.masks.occluder) == (models.enhancer, models.occluder)
    assert (default.blend, default.colour_match, default.masks.padding) == (7, True, (0, 0, 0, 0))
    for bad in ({"face_mask_types": "region"}, {"keep_fps": False}, {"enhancer_blend": 101}):
        with pytest.raises(
            SettingsError, match=next(iter(bad.values()) if "region" in bad.values() else iter(bad))
        ):
            models.changer(Treatment(settings=bad))


# --- unchanged videos -----------------------------------------------------------------------------------


def test_video_without_changes_is_copied(
    models: Engine, film: Path, embeddings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = assignment(embeddings, alma=None, bruno=None)
    store = Store(tmp_path / "work")
    result = process_video(models, people, film, tmp_path / "out.mp4", store=store)
    assert (tmp_path / "out.mp4").read_bytes() == film.read_bytes()
    assert (result.encoder, result.frames_out, result.segments, store.parts) == (None, 18, 0, [])
    assert {(one.name, one.counts.seen, one.counts.changed, one.action) for one in result.people} == {
        ("Alma", 18, 0, None),
        ("Bruno", 18, 0, None),
    }
    assert any("copied" in note for note in result.notes)

    def stop(progress: Progress) -> None:
        if progress.stage == "joining":
            raise KeyboardInterrupt

    monkeypatch.setattr(report_progress, "PROGRESS_INTERVAL", 0)
    with pytest.raises(KeyboardInterrupt):
        process_video(models, people, film, tmp_path / "no.mp4", store=store, on_progress=stop)
    assert not (tmp_path / "no.mp4").exists()
    for name, other in {
        "a.mkv": {},
        "b.mp4": {"keep_fps": False},
        "c.mp4": {"output_video_encoder": "libx265"},
    }.items():
        changed = replace(models, settings=models.settings.with_overrides(**other))
        assert process_video(changed, people, film, tmp_path / name).encoder


def test_copying_does_not_depend_on_a_known_index(faceless_models: Path, film: Path, tmp_path: Path) -> None:
    """Nothing is encoded before the first face, with or without a complete index."""
    models = segmented(faceless_models)
    assert not Selection(models.settings, SOURCE).needs_all_tracks
    result, store = interrupted(models, film, tmp_path / "a.mp4", [8])
    assert not store.parts
    assert (tmp_path / "a.mp4").read_bytes() == film.read_bytes()
    again = Store(tmp_path / "work-a")  # with a complete index
    assert_same(process_video(models, SOURCE, film, tmp_path / "b.mp4", store=again), result)
    assert not again.parts
    assert FaceIndex(again.folder / "faces", "key").complete
