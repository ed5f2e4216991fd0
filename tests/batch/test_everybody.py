"""Anonymised crowds: each person not named in the map gets one portrait, the same in all files."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from benchmarks.main_job import images
from colab_helpers.api import run_batch
from colab_helpers.batch.known_people import KnownPeople
from colab_helpers.batch.people_map import MAP_NAME, PeopleMap
from colab_helpers.batch.resume import KEPT
from colab_helpers.errors import UsageError
from colab_helpers.faces.analyser import FaceAnalyser
from colab_helpers.media.images import Still, encode_still
from colab_helpers.trust.marking import GENERATED_SOURCE_TYPE, xmp_of
from tests.batch.films import CASTS, NAMES, SETTINGS, changed, truth_of
from tests.batch.test_people import FOUND_FIRST, KILL, groups_of
from tests.conftest import CONSENT
from tests.helpers.processes import (
    BatchCommand,
    contents,
    repeated_segments,
    run_at_worker_start,
    wait_for_exit,
)
from tests.people.actors import portrait

pytestmark = pytest.mark.xdist_group("right_person")

FILMS = ("first", "third")
MADE_UP = ("dalia", "edvin", "fumiko", "gustav")


def add_to(library: Path, who: str, name: str = "") -> None:
    """Add a person to a library, as the portraits command does."""
    photo = library / (name or who) / "portrait.png"
    photo.parent.mkdir(parents=True)
    photo.write_bytes(
        encode_still(Still(portrait(who), parts={"xmp": xmp_of("", GENERATED_SOURCE_TYPE)}), photo)
    )
    (library / f"{name or who}.consent.yaml").write_text(f"people: {{{name or who}: {{ground: synthetic}}}}")


@pytest.fixture
def library(tmp_path: Path) -> Path:
    for who in MADE_UP:
        add_to(tmp_path / "library", who)
    return tmp_path / "library"


@pytest.fixture(scope="session")
def looks_of(standins: Path) -> dict[str, np.ndarray]:
    analyser = FaceAnalyser(SETTINGS, models_dir=standins)
    return {
        who: analyser.find(portrait(who))[0].embedding
        for who in (*MADE_UP, "hanna", "alma", "bruno", "chidi")
    }


def swapped_faces(out: Path, name: str, standins: Path, looks: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Whose face each person of a result has, in every third frame, located by ground truth."""
    analyser, found = FaceAnalyser(SETTINGS, models_dir=standins), dict[str, list[np.ndarray]]()
    for image, faces in islice(zip(images(out / f"{name}.mp4"), truth_of(name), strict=True), 6, None, 3):
        seen = analyser.find(image)
        for face in (face for face in faces if face.visible > 0.8):
            middle = face.box.reshape(2, 2).mean(0)
            near = [one for one in seen if (one.box[:2] < middle).all() and (middle < one.box[2:]).all()]
            found.setdefault(face.who, []).extend(one.embedding for one in near)
    return {
        who: max(looks, key=lambda name: float(np.mean(embeddings, 0) @ looks[name]))
        for who, embeddings in found.items()
    }


def test_unmapped_people_get_one_portrait_each(run, films, standins, library, looks_of, tmp_path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / MAP_NAME).write_text(f"default: leave\npeople:\n  Alma: {{photos: {films / 'alma.jpg'}}}\n")
    report = run(*(f"{name}.mp4" for name in FILMS), people="everybody", library=library)
    assert report.ok
    who = groups_of(KnownPeople.load(out), {one: looks_of[one] for one in ("alma", "bruno", "chidi")})
    got = {one: KnownPeople.load(out).groups[who[one]].portrait for one in ("bruno", "chidi")}
    assert len({*got.values()}) == 2
    assert {*got.values()} <= {*MADE_UP}
    expected = got | {"alma": "hanna"}
    for name in FILMS:
        assert swapped_faces(out, name, standins, looks_of) == {one: expected[one] for one in CASTS[name]}
    (note,) = (note for note in report.notes if "does not name these people" in note)
    assert not any(one in note for one in MADE_UP), "the consent of these is recorded"

    text = (out / MAP_NAME).read_text()
    entry = f"  {who['bruno']}:\n    faces: [{who['bruno']}]\n    source: "
    assert "default: portraits" in text
    (out / MAP_NAME).write_text(text.replace(f"{entry}portraits", f"{entry}leave"))
    add_to(library, "edvin", "a first one")
    report = run(*(f"{name}.mp4" for name in FILMS), library=library)
    assert [KEPT in file.fallbacks for file in report.files] == [False, False]
    assert not any("bruno" in changed(films, out, name) for name in FILMS)
    assert swapped_faces(out, "first", standins, looks_of) == {"alma": "hanna", "bruno": "bruno"}
    assert swapped_faces(out, "third", standins, looks_of) == {"chidi": got["chidi"], "bruno": "bruno"}


def test_killed_and_resumed_batch_assigns_the_same_portraits(
    films, standins, library, consent, monkeypatch, tmp_path
) -> None:
    """Killed before the assignment is saved, and while faces are swapped."""
    targets = tmp_path / "targets"
    targets.mkdir()
    for name in NAMES[:2]:
        shutil.copy2(films / name, targets)
    common = {"consent": CONSENT, "models_dir": standins, "in_process": True, "settings": FOUND_FIRST}
    uninterrupted = tmp_path / "uninterrupted"
    assert run_batch([], [targets], uninterrupted, people="everybody", library=library, **common).ok
    run_at_worker_start(monkeypatch, tmp_path, KILL)
    (tmp_path / "kills").write_text("KnownPeople.save:4 StatusWriter.progress:20")
    monkeypatch.setenv("KILLS", str(tmp_path / "kills"))
    options = ["--frame-processors", "face_swapper", "--output-video-quality", "4", "--people", "everybody"]
    shell = BatchCommand(
        targets, films / "hanna.jpg", standins, consent, tmp_path / "out", *options, "--library", str(library)
    )
    try:
        wait_for_exit(shell.start())
    finally:
        shell.clean()
    assert (tmp_path / "kills").read_text() == "", "not every worker was killed"
    portraits = [
        {name: group.portrait for name, group in KnownPeople.load(out).groups.items()}
        for out in (uninterrupted, shell.out)
    ]
    assert portraits[0] == portraits[1]
    assert all(portraits[0].values())
    assert contents(shell.out) == contents(uninterrupted)
    assert repeated_segments(shell.out) == {}


def test_missing_portraits_are_refused_with_the_command_to_make_them(run, films, library, tmp_path) -> None:
    for who in MADE_UP[1:]:
        shutil.rmtree(library / who)
    out, command = tmp_path / "out", rf'portraits crowd "an adult" --count \d --library {library}'
    with pytest.raises(UsageError, match=command):
        run(NAMES[0], people="everybody", library=library)
    assert not list(out.glob("*.mp4"))
    with pytest.raises(UsageError, match="cannot be combined with people=everybody"):
        run(NAMES[0], people="everybody", library=library, never=[films / "alma.jpg"])
    (out / MAP_NAME).write_text("default: portraits\n")
    assert run(NAMES[0], people="only", library=library).ok
    assert PeopleMap.load(out).default == ("portraits",)
