"""Only people of the sex and age asked for are changed, each over the whole video."""

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
from tests.pipeline.swapping import Store, assert_same_pictures, in_pieces, pieces_engine, same

pytestmark = pytest.mark.xdist_group("sex_and_age")

SCENE = Scene(63, (480, 270), Fraction(12), 1.5, 2, cast=("alma", "bruno"))
FEMALE = {"face_selector_gender": "female"}


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "in.mp4"
    write_target(path, SCENE, crf=10, preset="ultrafast")
    return path


@contextmanager
def mistaken_at_first(models: Engine) -> Iterator[list[int]]:
    """Take everybody in the first frame for the other sex; yield the frames in which anybody is asked."""
    genuine, asked = models.analyser.describe, list[int]()

    def describe(picture: Any, faces: Any) -> list[Face]:
        asked.append(round(picture.frame.time * 12))
        found = genuine(picture, faces)
        wrong = [replace(one, attributes=1 - one.attributes) for one in found]
        return found if asked[-1] else wrong

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models.analyser, "describe", describe)
        yield asked


def test_nobody_comes_and_goes_with_single_looks(film: Path, standins: Path, tmp_path: Path) -> None:
    models = pieces_engine(standins, frame_processors="face_swapper", **FEMALE)
    alma, hanna = (models.analyser.find(portrait(name))[0].embedding for name in ("alma", "hanna"))
    assert alma is not None
    put_in = Treatment(source=hanna)
    known = Assignment(people={"alma": KnownPerson("alma", alma[None], put_in)}, has_people_map=True)
    named = process_video(models, known, film, tmp_path / "named.mp4")
    with mistaken_at_first(models) as asked:
        result = process_video(models, Assignment(put_in), film, tmp_path / "whole.mp4")
        assert {0, 8} <= set(asked)
        assert len(set(asked)) < 9
        pieces, store = in_pieces(
            models, film, tmp_path / "pieces.mp4", [8, 14], assignment=Assignment(put_in)
        )
        asked.clear()
        again = Store(store.folder)
        same(process_video(models, Assignment(put_in), film, tmp_path / "again.mp4", store=again), result)
        assert asked == [], "the index knows who is of which sex"
    same(pieces, result)
    for told in (named, result):
        assert sorted(one.counts.changed for one in told.people) == [0, 18]
    for name in ("whole", "pieces", "again"):
        assert_same_pictures(tmp_path / "named.mp4", tmp_path / f"{name}.mp4")


@pytest.mark.parametrize(
    ("asked", "who"),
    [
        ({}, {"bruno", "hanna"}),
        (FEMALE, {"hanna"}),
        ({"face_selector_gender": "male"}, {"bruno"}),
        ({"face_selector_age_start": 50}, {"hanna"}),
        ({"face_selector_age_end": 50}, {"bruno"}),
        ({"face_selector_age_end": 50, **FEMALE}, set()),
    ],
)
def test_in_a_picture_each_face_counts(
    asked: dict[str, Any], who: set[str], standins: Path, tmp_path: Path
) -> None:
    models = pieces_engine(standins, frame_processors="face_enhancer", **asked)
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
    track(0, 1, (1, 40)),  # one person together with the next, by looks mostly female, 25 on average
    track(1, 1, (0, 20), (0, 20), (1, 20)),
    track(2, 2, (0, 17), (0, 20)),
    track(3, 3, (1, 60), (0, 62)),
    track(4, None),
)


@pytest.mark.parametrize(
    ("asked", "tracks"),
    [
        ({}, {0, 1, 2, 3, 4}),
        ({"face_selector_age_start": 18, "face_selector_age_end": 61}, {0, 1, 2, 3}),
        ({"face_selector_age_start": 19}, {0, 1, 3}),
        ({"face_selector_age_end": 25}, {0, 1, 2}),
        ({"face_selector_age_end": 60}, {0, 1, 2}),
        ({"face_selector_gender": "male"}, set()),  # in doubt, or never asked
        (FEMALE, {2}),
    ],
)
def test_votes_and_years_are_those_of_all_looks_at_a_person(asked: dict[str, Any], tracks: set[int]) -> None:
    faces = [replace(face(100), track=one.number) for one in TRACKS]

    def changed(assignment: Assignment, **more: Any) -> set[int | None]:
        selection = Selection(load_settings(**asked, **more), assignment)
        selection.decide(TRACKS)
        return {one.track for one in selection.of(faces)}

    assert changed(Assignment.of(None)) == tracks
    assert len(changed(Assignment.of(None), many_faces=False)) == min(len(tracks), 1)
    assert changed(Assignment.of(None, PersonFilter(never=[person(1)]))) == tracks - {0, 1, 4}
    assert len(changed(Assignment.of(None, PersonFilter(person(3))))) == 1
    known = {"c": KnownPerson("c", person(3)[None], Treatment())}
    assert changed(Assignment(people=known, has_people_map=True)) == {3}


def test_the_first_look_that_is_taken_back_is_no_vote() -> None:
    turned = face(100, who=1)
    turned = replace(turned, kps=turned.kps + np.float32([[0, 0], [0, 0], [25, 0], [0, 0], [0, 0]]))
    made = Track(0, 0, 0)
    made.add(0, replace(turned, attributes=np.float32([1, 80])), 0.0)
    made.add(1, replace(face(100, who=2), attributes=np.float32([0, 30])), 0.0)
    assert (made.asked, made.attributes.tolist()) == (1, [0, 30])


def test_the_network_is_opened_only_if_it_is_asked(
    constant_models: Path, standins: Path, tmp_path: Path
) -> None:
    models = Path(shutil.copytree(constant_models, tmp_path / "models"))
    (models / "buffalo_l" / "genderage.onnx").unlink()
    pieces_engine(models, face_min_size=9)
    for asked in (FEMALE, {"face_selector_age_start": 1}, {"face_selector_age_end": 99}):
        with pytest.raises(ModelError, match=r"genderage\.onnx: the model file is missing"):
            pieces_engine(models, **asked)
        assert [one.name for one in pieces_engine(standins, **asked).networks][2] == "genderage"
        assert detection_key(load_settings(), None) != detection_key(load_settings(**asked), None)
    assert "genderage" not in [one.name for one in pieces_engine(standins).networks]
    with pytest.raises(SettingsError, match="face_selector_age_start is greater than"):
        load_settings(face_selector_age_start=31, face_selector_age_end=30)


def test_in_a_picture_who_never_is_changed_is_left_beside_the_other_sex() -> None:
    faces = [replace(face(100, who=n), attributes=np.float32([n % 2, 30])) for n in (1, 2, 3, 4)]
    for person_filter, left in ((PersonFilter(never=[person(2)]), [3]), (PersonFilter(person(1)), [0])):
        selection = Selection(load_settings(**FEMALE), Assignment.of(None, person_filter))
        assert [one.track for one in selection.in_picture(faces)] == left
