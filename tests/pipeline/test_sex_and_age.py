"""Selection of people by sex and age, constant over the whole video."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from colab_helpers.errors import ModelError, SettingsError
from colab_helpers.faces.assignment import Assignment, KnownPerson, Treatment
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.person_clustering import PersonFilter
from colab_helpers.faces.selection import Selection
from colab_helpers.faces.tracks import Track
from colab_helpers.faces.types import Face
from colab_helpers.media.images import read_image, write_image
from colab_helpers.pipeline import process_picture, process_video
from colab_helpers.settings import load_settings
from colab_helpers.ui.preview_networks import detection_key
from tests.helpers.faces import face, person
from tests.people.actors import portrait
from tests.people.clip import write_target
from tests.people.scene import Scene
from tests.pipeline.swapping import Store, assert_same, assert_same_pictures, interrupted, segmented

pytestmark = pytest.mark.xdist_group("sex_and_age")

SCENE = Scene(63, (480, 270), Fraction(12), 1.5, 2, cast=("alma", "bruno"))
FEMALE = {"face_selector_gender": "female"}


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "in.mp4"
    write_target(path, SCENE, crf=10, preset="ultrafast")
    return path


@contextmanager
def wrong_in_first_frame(models: Engine) -> Iterator[list[int]]:
    """Invert the sex found in the first frame; yield the frames with a query."""
    original, queried = models.analyser.describe, list[int]()

    def describe(picture: Any, faces: Any) -> list[Face]:
        queried.append(round(picture.frame.time * 12))
        found = original(picture, faces)
        return found if queried[-1] else [replace(one, attributes=1 - one.attributes) for one in found]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models.analyser, "describe", describe)
        yield queried


def test_sex_is_decided_once_per_person(film: Path, standins: Path, tmp_path: Path) -> None:
    models = segmented(standins, frame_processors="face_swapper", **FEMALE)
    alma, hanna = (models.analyser.find(portrait(name))[0].embedding for name in ("alma", "hanna"))
    assert alma is not None
    swap = Treatment(source=hanna)
    known = Assignment(people={"alma": KnownPerson("alma", alma[None], swap)}, has_people_map=True)
    named = process_video(models, known, film, tmp_path / "named.mp4")
    with wrong_in_first_frame(models) as queried:
        result = process_video(models, Assignment(swap), film, tmp_path / "whole.mp4")
        assert {0, 8} <= set(queried)
        assert len(set(queried)) < 9
        resumed, store = interrupted(
            models, film, tmp_path / "pieces.mp4", [8, 14], assignment=Assignment(swap)
        )
        queried.clear()
        new = Store(store.folder)
        assert_same(process_video(models, Assignment(swap), film, tmp_path / "again.mp4", store=new), result)
        assert queried == [], "the index holds sex and age"
    assert_same(resumed, result)
    for stats in (named, result):
        assert sorted(one.counts.changed for one in stats.people) == [0, 18]
    for name in ("whole", "pieces", "again"):
        assert_same_pictures(tmp_path / "named.mp4", tmp_path / f"{name}.mp4")


@pytest.mark.parametrize(
    ("options", "who"),
    [
        ({}, {"bruno", "hanna"}),
        (FEMALE, {"hanna"}),
        ({"face_selector_gender": "male"}, {"bruno"}),
        ({"face_selector_age_start": 50}, {"hanna"}),
        ({"face_selector_age_end": 50}, {"bruno"}),
        ({"face_selector_age_end": 50, **FEMALE}, set()),
    ],
)
def test_faces_in_a_picture_are_selected_individually(
    options: dict[str, Any], who: set[str], standins: Path, tmp_path: Path
) -> None:
    models = segmented(standins, frame_processors="face_enhancer", **options)
    faces = [portrait(name) for name in ("bruno", "hanna")]  # about 30, and about 70
    write_image(tmp_path / "in.png", np.hstack(faces), quality=100)
    process_picture(models, Assignment.of(None), tmp_path / "in.png", tmp_path / "out.png")
    width = faces[0].shape[1]
    differs = (read_image(tmp_path / "in.png") != read_image(tmp_path / "out.png")).any((0, 2))
    assert {name for name, part in zip(("bruno", "hanna"), (differs[:width], differs[width:]), strict=True)
            if part.any()} == who  # fmt: skip


def track(number: int, who: int | None, *looks: tuple[float, float]) -> Track:
    made = Track(number, 100 * number, 100 * number)
    for frame, attributes in enumerate(looks or [(np.nan, np.nan)]):
        seen = replace(face(100, who=who), attributes=np.array(attributes, np.float32))
        made.add(100 * number + frame, seen, 0.0)
    return made


TRACKS = (
    track(0, 1, (1, 40)),  # the next one's person: mostly female, 25 on average
    track(1, 1, (0, 20), (0, 20), (1, 20)),
    track(2, 2, (0, 17), (0, 20)),
    track(3, 3, (1, 60), (0, 62)),
    track(4, None),
)


@pytest.mark.parametrize(
    ("options", "tracks"),
    [
        ({}, {0, 1, 2, 3, 4}),
        ({"face_selector_age_start": 18, "face_selector_age_end": 61}, {0, 1, 2, 3}),
        ({"face_selector_age_start": 19}, {0, 1, 3}),
        ({"face_selector_age_end": 25}, {0, 1, 2}),
        ({"face_selector_age_end": 60}, {0, 1, 2}),
        ({"face_selector_gender": "male"}, set()),  # undecided, or never queried
        (FEMALE, {2}),
    ],
)
def test_sex_and_age_use_all_queries_of_a_person(options: dict[str, Any], tracks: set[int]) -> None:
    faces = [replace(face(100), track=one.number) for one in TRACKS]

    def changed(assignment: Assignment, **overrides: Any) -> set[int | None]:
        selection = Selection(load_settings(**options, **overrides), assignment)
        selection.decide(TRACKS)
        return {one.track for one in selection.of(faces)}

    assert changed(Assignment.of(None)) == tracks
    assert len(changed(Assignment.of(None), many_faces=False)) == min(len(tracks), 1)
    assert changed(Assignment.of(None, PersonFilter(never=[person(1)]))) == tracks - {0, 1, 4}
    assert len(changed(Assignment.of(None, PersonFilter(person(3))))) == 1
    known = {"c": KnownPerson("c", person(3)[None], Treatment())}
    assert changed(Assignment(people=known, has_people_map=True)) == {3}


def test_superseded_first_query_is_not_counted() -> None:
    turned = face(100, who=1)
    turned = replace(turned, kps=turned.kps + np.float32([[0, 0], [0, 0], [25, 0], [0, 0], [0, 0]]))
    made = Track(0, 0, 0)
    made.add(0, replace(turned, attributes=np.float32([1, 80])), 0.0)
    made.add(1, replace(face(100, who=2), attributes=np.float32([0, 30])), 0.0)
    assert (made.asked, made.attributes.tolist()) == (1, [0, 30])


def test_sex_and_age_network_is_opened_only_if_needed(
    constant_models: Path, standins: Path, tmp_path: Path
) -> None:
    models = Path(shutil.copytree(constant_models, tmp_path / "models"))
    (models / "buffalo_l" / "genderage.onnx").unlink()
    segmented(models, face_min_size=9)
    for options in (FEMALE, {"face_selector_age_start": 1}, {"face_selector_age_end": 99}):
        with pytest.raises(ModelError, match=r"genderage\.onnx: the model file is missing"):
            segmented(models, **options)
        assert [one.name for one in segmented(standins, **options).networks][2] == "genderage"
        assert detection_key(load_settings(), None) != detection_key(load_settings(**options), None)
    assert "genderage" not in [one.name for one in segmented(standins).networks]
    with pytest.raises(SettingsError, match="face_selector_age_start is greater than"):
        load_settings(face_selector_age_start=31, face_selector_age_end=30)


def test_person_filter_and_sex_combine_in_pictures() -> None:
    faces = [replace(face(100, who=n), attributes=np.float32([n % 2, 30])) for n in (1, 2, 3, 4)]
    for person_filter, left in ((PersonFilter(never=[person(2)]), [3]), (PersonFilter(person(1)), [0])):
        selection = Selection(load_settings(**FEMALE), Assignment.of(None, person_filter))
        assert [one.track for one in selection.in_picture(faces)] == left
