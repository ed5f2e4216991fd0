"""Contact sheets of the people of a batch and of a library, and edits of the people map."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from colab_helpers.__main__ import main
from colab_helpers.batch.people_edits import list_people
from colab_helpers.batch.people_map import PeopleMap
from colab_helpers.command_line import SUCCESS, WRONG_USAGE
from colab_helpers.media.images import read_image
from colab_helpers.pages.sheet import MAX_CARDS, Card, CardPicture, write_sheet
from tests.helpers.known_people import unit_embedding, write_people
from tests.helpers.reports import Page
from tests.people.actors import portrait

PEOPLE = {
    "a.mp4": [("alma", unit_embedding(1, 2)), ("bruno", unit_embedding(2, 3, 4, 5))],
    "b <i>.mp4": [("alma", unit_embedding(1, 2)), ("chidi", unit_embedding(9))],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_people(tmp_path / "out", PEOPLE)
    return tmp_path / "out"


def similar(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and float(np.mean(cv2.absdiff(one, other))) < 4


def thumbnail(who: str) -> np.ndarray:
    return np.asarray(cv2.resize(portrait(who, size=160), (120, 120), interpolation=cv2.INTER_AREA))


def test_batch_sheet_as_page_and_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(
            ["people", str(folder), "--set", "p1=photos", "--set", "p3=blur", "--name", "p1", "Ana <b> Ñandú"]
        )
        == SUCCESS
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "Ana <b> Ñandú: the photos of the run; 4.0 s in a.mp4 (2.0 s), "
        "b <i>.mp4 (2.0 s); looks similar to p2",
        "p3: blurred; 2.0 s in b <i>.mp4 (2.0 s)",
        "p2: the photos of the run; 2.0 s in a.mp4 (2.0 s); looks similar to Ana <b> Ñandú",
    ]
    page = Page((folder / "people" / "sheet.html").read_text())
    page.safe()
    shown = [read_image(tag["src"]) for tag in page.all("img")]
    for found, who in zip(shown, ("alma", "alma", "chidi", "bruno"), strict=True):
        assert similar(found, thumbnail(who)), who
    for text in ("Ana <b> Ñandú", "blurred", "looks similar to p2"):
        assert text in page.text
    assert main(["people", str(folder)]) == SUCCESS  # its own files are overwritten


def test_sheet_does_not_overwrite_user_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "people" / "sheet.html"
    path.write_bytes(b"mine")
    assert main(["people", str(folder)]) == WRONG_USAGE
    assert path.read_bytes() == b"mine"
    assert "sheet.html" in capsys.readouterr().err


def test_library_sheet_shows_weights_and_flags_other_person(
    tmp_path: Path, standins: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hanna = portrait("hanna")
    photos = {
        "a.png": hanna, "b.png": hanna[:, ::-1], "c.png": portrait("bruno"),
        "d.png": cv2.resize(hanna, (256, 256), interpolation=cv2.INTER_AREA),
    }  # fmt: skip
    for name, image in photos.items():
        path = tmp_path / "library" / "hanna" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image)
    (tmp_path / "library" / "hanna" / "e.png").write_text("no picture")
    (tmp_path / "library" / "empty").mkdir()
    words = ["people", str(tmp_path / "library"), "--models-dir", str(standins)]
    assert main(words) == SUCCESS
    empty, line, _ = capsys.readouterr().out.splitlines()
    assert empty == "empty: the folder contains no photo"
    assert line.startswith("hanna: 3 of 5 photos used; e.png: this is not a picture")
    assert "c.png: Looks like somebody else." in line
    assert "d.png: The face is small" in line
    page = Page((tmp_path / "library" / "sheet.html").read_text())
    page.safe()
    for text in ("a.png: weight 100%", "c.png: left out"):
        assert text in page.text
    assert "d.png: weight 100%" not in page.text
    assert len(page.all("img")) == 4
    assert [tag["class"] for tag in page.all("figure")] == ["", "", "warn", ""]
    assert main([*words, "--name", "hanna", "x"]) == WRONG_USAGE
    assert main(["people", str(tmp_path / "library" / "empty")]) == WRONG_USAGE
    assert "neither people of a batch" in capsys.readouterr().err


def test_number_of_cards_is_limited(tmp_path: Path) -> None:
    shot = CardPicture(np.full((40, 300, 3), 9, np.uint8))
    cards = [Card(f"p{n}", (shot,), ("x" * 300,), ()) for n in range(MAX_CARDS + 7)]
    page = Page(write_sheet(tmp_path, "People", cards).read_text())
    assert len(page.all("img")) == MAX_CARDS
    assert "and 7 more" in page.text


def sources(folder: Path) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    found = PeopleMap.load(folder)
    assert found is not None
    return {name: (person.faces, person.source) for name, person in found.people.items()}


def test_people_can_be_merged_split_named_and_assigned_source(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "library" / "ana").mkdir(parents=True)
    photo = tmp_path / "me, too.jpg"
    photo.touch()
    words = ["people", str(folder), "--library", str(tmp_path / "library")]
    assert main([*words, "--merge", "p1", "p3", "--set", "p1=ana", "--set", f"p2={photo}"]) == SUCCESS
    assert sources(folder) == {"p1": (("p1", "p3"), ("ana",)), "p2": (("p2",), (str(photo),))}
    assert [row.seconds for row in list_people(folder)] == [6.0, 2.0]
    assert main([*words, "--split", "p1", "--name", "p1", "Ana"]) == SUCCESS
    assert sources(folder) == {"Ana": (("p1",), ("ana",)), "p2": (("p2",), (str(photo),)),
                               "p3": (("p3",), ("ana",))}  # fmt: skip
    before = (folder / "people.yaml").read_text()
    assert main([*words, "--set", "p2 = ana, leave"]) == WRONG_USAGE  # a reserved word cannot be combined
    assert (folder / "people.yaml").read_text() == before


def test_split_separates_people_with_similar_embeddings(tmp_path: Path) -> None:
    people = [("alma", unit_embedding(1, 2))] * 2 + [("bruno", unit_embedding(1, 3))]
    write_people(tmp_path, {"a.mp4": people})
    assert len(list_people(tmp_path)) == 1
    assert main(["people", str(tmp_path), "--set", "p1=blur", "--split", "p1"]) == SUCCESS
    assert [(row.name, row.source, row.seconds) for row in list_people(tmp_path)] == [
        ("p1", ("blur",), 4.0),
        ("p2", ("photos",), 2.0),
    ]
    assert main(["people", str(tmp_path), "--split", "p2"]) == WRONG_USAGE


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("--merge p1 p9", "there is no p9. What to do: allowed: p1, p2, p3"),
        ("--name p1 p2", "cannot use the name 'p2'"),
        ("--set p1=ana", "'ana' is neither a file or folder nor one of photos, leave, blur, pixelate"),
        ("--set p1", "--set takes KEY=VALUE"),
        ("--split p1", "nothing in it looks like two people"),
    ],
)
def test_invalid_edit_is_reported_and_writes_nothing(
    folder: Path, words: str, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main(["people", str(folder), *words.split()]) == WRONG_USAGE
    assert error in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
