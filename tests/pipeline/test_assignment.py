"""What is done to whom: several sources in one pass, and people who are made unrecognisable or left."""

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
from colab_helpers.media.images import write_image
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
    assert_same_pictures,
    in_pieces,
    pieces_engine,
    planes,
    same,
)

pytestmark = pytest.mark.xdist_group("cast")

SCENE = Scene(63, (480, 270), Fraction(12), 1.5, 2, cast=("alma", "bruno"))
LEFT = Treatment()


@cache
def truth_of(number: int) -> list[FaceTruth]:
    """Whose faces are where in a frame."""
    return list(SCENE.render(number)[1])


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "in.mp4"
    write_target(path, SCENE, crf=10, preset="ultrafast")
    return path


@pytest.fixture(scope="module")
def models(standins: Path) -> Engine:
    return pieces_engine(standins, frame_processors="face_swapper", face_mask_types="box")


@pytest.fixture(scope="module")
def embeddings(models: Engine) -> dict[str, Any]:
    names = ("alma", "bruno", "hanna", "gustav")
    return {name: models.analyser.find(portrait(name))[0].embedding for name in names}


def assignment(embeddings: Mapping[str, Any], **done: Treatment | None) -> Assignment:
    """Alma and Bruno are known by their portraits; nothing is done to others."""
    known = {
        name: KnownPerson(name.title(), embeddings[name][None], treatment) for name, treatment in done.items()
    }
    return Assignment(people=known, has_people_map=True)


def put_in(embeddings: Mapping[str, Any], name: str) -> Treatment:
    return Treatment(source=embeddings[name], source_name=name)


# --- several sources in one pass ------------------------------------------------------------------------


def test_each_gets_a_source_of_her_own_as_if_she_alone_were_changed(
    models: Engine, film: Path, embeddings: Any, tmp_path: Path
) -> None:
    hanna, gustav = put_in(embeddings, "hanna"), put_in(embeddings, "gustav")
    both = assignment(embeddings, alma=hanna, bruno=gustav)
    result, store = in_pieces(models, film, tmp_path / "both.mp4", [8, 14], assignment=both)
    same(process_video(models, both, film, tmp_path / "whole.mp4"), result)
    assert_same_pictures(tmp_path / "whole.mp4", tmp_path / "both.mp4")
    ways = {"alma": {"alma": hanna, "bruno": None}, "bruno": {"alma": None, "bruno": gustav}}
    alone = {}
    for name, done in ways.items():
        alone[name] = process_video(models, assignment(embeddings, **done), film, tmp_path / f"{name}.mp4")
    frames = [
        planes(path) for path in (film, *(tmp_path / f"{name}.mp4" for name in ("alma", "bruno", "both")))
    ]
    touched = [0, 0]
    for before, hers, his, changed in zip(*frames, strict=True):
        for plane, one, other, found in zip(before, hers, his, changed, strict=True):
            np.testing.assert_array_equal(found, np.where(one != plane, one, other))
            touched = [
                count + int((new != plane).sum()) for count, new in zip(touched, (one, other), strict=True)
            ]
    assert min(touched) > 10_000
    told = {one.name: one for one in result.people}
    assert {name: (one.action, one.source) for name, one in told.items()} == {
        "Alma": ("swap", "hanna"),
        "Bruno": ("swap", "gustav"),
    }
    for name, other in (("alma", "Bruno"), ("bruno", "Alma")):
        by_name = {one.name: one for one in alone[name].people}
        assert by_name[name.title()].counts == told[name.title()].counts  # likeness to her own source, too
        assert (by_name[other].action, by_name[other].counts.changed) == (None, 0)
    assert told["Alma"].counts.final > 0.5 * told["Alma"].counts.samples > 0

    info = probe(film)
    known = decide_faces(models, info, store.face_index(), both)
    shown = list(read_frames(probe(tmp_path / "both.mp4")))[7].video.to_ndarray(format="bgr24")
    np.testing.assert_array_equal(process_indexed_frame(models, info, 7, known)[1], shown)


def test_in_a_picture_people_are_known_by_their_looks(
    models: Engine, embeddings: Any, tmp_path: Path
) -> None:
    image, truths = SCENE.render(3)
    write_image(tmp_path / "in.png", image, quality=100)
    both = assignment(embeddings, alma=put_in(embeddings, "hanna"), bruno=None)
    result = process_picture(models, both, tmp_path / "in.png", tmp_path / "out.png")
    assert result.faces_swapped == 1
    told = {one.name: (one.counts.seen, one.counts.changed, one.action, one.source) for one in result.people}
    assert told == {"Alma": (1, 1, "swap", "hanna"), "Bruno": (1, 0, None, None)}
    out = models.analyser.find(_image(tmp_path / "out.png"))
    looks = {name: max(float(one.embedding @ embeddings[name]) for one in out) for name in embeddings}  # type: ignore[operator]
    assert looks["hanna"] > 0.4 > looks["alma"]
    assert looks["bruno"] > 0.6
    assert len(truths) == 2


def _image(path: Path) -> Any:
    from colab_helpers.media.images import read_image

    return read_image(path)


# --- made unrecognisable --------------------------------------------------------------------------------


@pytest.mark.parametrize(("hers", "his"), [("blur", "pixelate"), ("pixelate", "blur")])
def test_neither_a_network_nor_the_encoder_brings_back_who_it_was(
    hers: Any, his: Any, standins: Path, film: Path, embeddings: Any, tmp_path: Path
) -> None:
    coarse = pieces_engine(standins, frame_processors="face_enhancer", output_video_quality=30)
    assert coarse.swapper is None
    hidden = assignment(embeddings, alma=Treatment(hers), bruno=Treatment(his))
    result = process_video(coarse, hidden, film, tmp_path / "out.mp4")
    assert {one.name: one.action for one in result.people} == {"Alma": hers, "Bruno": his}
    assert result.measured.without_face == 0
    found = {name: [] for name in SCENE.cast}
    for path in (film, tmp_path / "out.mp4"):
        for number, frame in enumerate(read_frames(probe(path))):
            for truth in truth_of(number):
                if truth.visible > 0.9:
                    seen = Face(truth.box, truth.kps, 0.9)
                    (look,) = coarse.analyser.embed(VideoPicture(frame.video), [seen])
                    found[truth.who].append((path == film, float(look.embedding @ embeddings[truth.who])))  # type: ignore[operator]
    for cosines in found.values():
        assert min(cosine for before, cosine in cosines if before) > 0.5
        assert max(cosine for before, cosine in cosines if not before) < 0.2


# --- who is who -----------------------------------------------------------------------------------------


def track(number: int, who: int, *, asked: int = 2) -> Track:
    made = Track(number, 100 * number, 100 * number)
    for frame in range(asked):
        made.add(100 * number + frame, face(100, who=who), 0.0)
    return made


def chosen(given: Assignment, *tracks: Track) -> list[Treatment | None]:
    selection = Selection(load_settings(), given)
    assert selection.needs_all_tracks
    selection.decide(tracks)
    faces = [replace(face(100), track=one.number) for one in tracks]
    treated = [selection.treatment(one.number) for one in tracks]
    assert [one.track for one in selection.of(faces)] == [
        one.number for one, treatment in zip(tracks, treated, strict=True) if treatment is not None
    ]
    return treated


def test_what_a_batch_decided_comes_first_then_looks_then_what_is_usual() -> None:
    default_treatment, hers, his = Treatment("blur"), Treatment("pixelate"), Treatment(source_name="his")
    known = {name: KnownPerson(name, person(who)[None], done) for name, who, done in
             (("a", 1, hers), ("b", 2, his), ("c", 3, None))}  # fmt: skip
    tracks = [track(0, 1), track(1, 2), track(2, 3), track(3, 1), track(4, 9), track(5, 8, asked=1)]
    given = Assignment(default_treatment, people=known, tracks={3: "b"}, has_people_map=True)
    assert chosen(given, *tracks) == [hers, his, None, his, default_treatment, default_treatment]
    selection = Selection(load_settings(), given)
    selection.decide(tracks)
    assert [selection.name(one.number) for one in tracks] == ["a", "b", "c", "b", None, None]
    # Who was hardly seen is not swapped, and may be somebody who is hidden.
    swapped = replace(given, default_treatment=LEFT)
    assert chosen(swapped, *tracks)[4:] == [LEFT, hers]
    assert chosen(Assignment(people=known, has_people_map=True), *tracks)[4:] == [None, hers]
    assert chosen(replace(swapped, people={"c": known["c"]}), *tracks)[4:] == [LEFT, None]
    # A map may know nobody: settings that choose have no say all the same.
    nobody = Selection(load_settings(many_faces=False), Assignment(LEFT, has_people_map=True))
    nobody.decide(tracks[:2])
    assert len(nobody.of([replace(face(100), track=n) for n in range(2)])) == 2
    # Nothing is painted over who was made unrecognisable; else only what is done decides what comes first.
    last = sorted([default_treatment, hers], key=lambda one: one.digest)
    other = replace(
        given, default_treatment=hers, people=known | {"a": replace(known["a"], treatment=default_treatment)}
    )
    assert given.treatments == other.treatments == [his, *last]


def test_without_a_usual_treatment_nobody_is_changed() -> None:
    for given in (Assignment(), Assignment(person_filter=PersonFilter(person(1)))):
        selection = Selection(load_settings(), given)
        selection.decide([track(0, 1)])
        assert selection.of([replace(face(100), track=0)]) == []


def long(number: int, who: int, size: float, frames: range) -> Track:
    made = Track(number, frames.start, frames.start)
    for frame in frames:
        made.add(frame, face(100, who=who, size=size), 0.0)
    return made


@pytest.mark.parametrize(
    ("how", "over_time", "in_picture"),
    [
        ({"many_faces": False, "face_selector": "principal"}, [1], [0]),
        ({"many_faces": False}, [0], [0]),
        ({"many_faces": False, "face_min_size": 230}, [], []),
        ({"face_min_size": 90}, [0, 1], [0, 1]),
        ({"face_min_size": 120}, [0], [0]),
    ],
)
def test_whose_face_takes_most_of_the_file_counts_and_small_ones_do_not(
    how: Any, over_time: list[int], in_picture: list[int]
) -> None:
    """The larger face is there shorter; the smaller one is looked at less often than it is there."""
    tracks = [long(0, 1, 2.0, range(10)), long(1, 2, 1.0, range(0, 100, 4))]  # 224 and 112 pixels wide
    selection = Selection(load_settings(**how), Assignment.of(None))
    assert selection.needs_all_tracks
    selection.decide(tracks)
    faces = [replace(face(100, size=size), track=number) for number, size in enumerate((2.0, 1.0))]
    assert [one.track for one in selection.of(faces)] == over_time
    assert [one.track for one in selection.in_picture(faces)] == in_picture


@pytest.mark.parametrize(
    ("default_treatment", "tracks"), [(Treatment("blur"), {0, 1}), (Treatment(source=person(1)), {0})]
)
def test_only_who_is_hidden_is_changed_behind_another(
    default_treatment: Treatment, tracks: set[int], models: Engine
) -> None:
    index = FaceIndex(None)
    for n in range(80):
        index.append(FrameFaces(n, n, searched=True, faces=crossing(n)))
    index.finish()
    faces = FaceTracking(
        models.analyser, index, Selection(load_settings(), Assignment(default_treatment)), ""
    )
    found = list(faces.known_faces())
    assert [{one.track for one in shown} for shown in found[38:43]] == [tracks] * 5


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
def test_what_was_done_is_what_a_persons_own_settings_do(treatment: Treatment, done: set[str]) -> None:
    assert Selection(load_settings(), Assignment(treatment)).actions([replace(face(100), track=0)]) == done


def test_a_segment_is_told_apart_by_what_was_done_too() -> None:
    digests = set()
    for done in (
        Treatment(),
        Treatment("blur"),
        Treatment(source=person(1)),
        Treatment(settings={"enhancer_blend": 1}),
    ):
        digest = FacesDigest(Selection(load_settings(), Assignment(done)))
        digest.add([replace(face(100), track=0)])
        digests.add(digest.take())
    assert len(digests) == 4
    assert Treatment(source_name="x").digest == Treatment().digest


def test_a_person_may_have_settings_of_her_own_but_not_all(standins: Path) -> None:
    models = pieces_engine(standins, face_mask_types="box,occlusion")
    own = {"frame_processors": "face_swapper", "face_mask_padding": (1, 2, 3, 4), "face_mask_types": "box"}
    changer = models.changer(Treatment(source=person(1), settings=own))
    default_treatment = models.changer(
        Treatment(source=person(1), settings={"enhancer_blend": 7, "colour_match": True})
    )
    assert isinstance(changer, FaceChanger)
    assert isinstance(default_treatment, FaceChanger)
    assert (changer.enhancer, changer.masks.padding, changer.masks.occluder) == (None, (1, 2, 3, 4), None)
    assert (default_treatment.enhancer, default_treatment.masks.occluder) == (
        models.enhancer,
        models.occluder,
    )
    assert (default_treatment.blend, default_treatment.colour_match, default_treatment.masks.padding) == (
        7,
        True,
        (0, 0, 0, 0),
    )
    for wrong in ({"face_mask_types": "region"}, {"keep_fps": False}, {"enhancer_blend": 101}):
        with pytest.raises(
            SettingsError, match=next(iter(wrong.values()) if "region" in wrong.values() else iter(wrong))
        ):
            models.changer(Treatment(settings=wrong))


# --- nobody is changed ----------------------------------------------------------------------------------


def test_a_video_in_which_nobody_is_changed_is_the_very_file(
    models: Engine, film: Path, embeddings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = assignment(embeddings, alma=None, bruno=None)
    store = Store(tmp_path / "work")
    result = process_video(models, left, film, tmp_path / "out.mp4", store=store)
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
        process_video(models, left, film, tmp_path / "no.mp4", store=store, on_progress=stop)
    assert not (tmp_path / "no.mp4").exists()
    for name, other in {
        "a.mkv": {},
        "b.mp4": {"keep_fps": False},
        "c.mp4": {"output_video_encoder": "libx265"},
    }.items():
        changed = replace(models, settings=models.settings.with_overrides(**other))
        assert process_video(changed, left, film, tmp_path / name).encoder


def test_what_was_copied_does_not_depend_on_what_was_known(
    faceless_models: Path, film: Path, tmp_path: Path
) -> None:
    """Without an index nobody can tell before all is seen; as long as nobody is, nothing is encoded."""
    models = pieces_engine(faceless_models)
    assert not Selection(models.settings, SOURCE).needs_all_tracks
    result, store = in_pieces(models, film, tmp_path / "a.mp4", [8])
    assert not store.parts
    assert (tmp_path / "a.mp4").read_bytes() == film.read_bytes()
    again = Store(tmp_path / "work-a")  # the index is complete now, and nothing is encoded
    same(process_video(models, SOURCE, film, tmp_path / "b.mp4", store=again), result)
    assert not again.parts
    assert FaceIndex(again.folder / "faces", "key").complete
