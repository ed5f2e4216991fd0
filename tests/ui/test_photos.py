"""The Photos tab: cards and hints."""

from __future__ import annotations

import base64
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from colab_helpers.batch.library import find_photos
from colab_helpers.errors import MissingFileError
from colab_helpers.media.images import to_data_url
from colab_helpers.ui.photos import STRANGER, save_upload, uploaded_files
from tests.people.actors import portrait


def cards(panel):
    return [card.children[0] for card in panel.photos.cards.children]


def write(path: Path, image: np.ndarray) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return str(path)


def add(panel, text):
    panel.photos.path.value = str(text)
    panel.photos.add_button.click()


def test_cards_describe_photo_quality(panel, tmp_path, text_of, pictures_of):
    (card,) = cards(panel)
    assert text_of(card).startswith("alma.png 512 x 512 pixels, face 15")
    assert text_of(card).endswith("Good.")
    (picture,) = pictures_of(card)
    green = (picture[..., 1].astype(int) - picture[..., 2] > 90) & (picture[..., 1] > 150)
    assert 60 < green.sum() < green.size // 4  # outline of the face
    image = portrait("bruno")
    bad = {
        "soft.png": (cv2.GaussianBlur(image, (0, 0), 3), "The face is blurred"),
        "tiny.png": (cv2.resize(image, (200, 200), interpolation=cv2.INTER_AREA), "The face is small"),
        "wall.png": (np.full((200, 200, 3), 90, np.uint8), "No face was found"),
        "night.png": ((image * 0.2).astype(np.uint8), "The face is too dark"),
    }
    for name, (image, _) in bad.items():
        write(tmp_path / "p" / name, image)
    (tmp_path / "p" / "zero.png").write_text("no picture")
    add(panel, tmp_path / "p")
    texts = {text_of(card).split()[0]: text_of(card) for card in cards(panel)}
    assert list(texts) == ["alma.png", *sorted(bad), "zero.png"]
    assert "not a picture" in texts["zero.png"]
    for name, (_, hint) in bad.items():
        assert hint in texts[name]


def test_photo_of_another_person_is_flagged(panel, tmp_path, text_of):
    add(panel, write(tmp_path / "alma2.png", cv2.resize(portrait("alma"), (450, 450))))
    assert not any(STRANGER in text_of(card) for card in cards(panel))
    add(panel, write(tmp_path / "other.png", portrait("hanna")))
    assert [STRANGER in text_of(card) for card in cards(panel)] == [False, False, True]
    panel.photos.cards.children[2].children[1].click()
    assert [Path(path).name for path in panel.form_state.request().sources] == ["alma.png", "alma2.png"]
    assert len(cards(panel)) == 2


def test_library_person_is_added_by_name_and_removed_as_a_whole(panel, tmp_path, text_of):
    for name in ("hanna/a.png", "hanna/b.png", "x <b>/a.png"):
        write(tmp_path / "library" / name, portrait("hanna"))
    assert panel.photos.person.layout.display == "none"
    panel.photos.library.value = str(tmp_path / "library")
    assert panel.photos.person.layout.display == ""
    assert [value for _, value in panel.photos.person.options] == ["", "hanna", "x <b>"]
    panel.photos.person.value = "hanna"
    assert panel.photos.person.value == ""
    assert panel.form_state.request().sources[1:] == (str(tmp_path / "library" / "hanna"),)
    assert [text_of(card).split()[0] for card in cards(panel)] == ["alma.png", "a.png", "b.png"]
    buttons = [card.children[1].description for card in panel.photos.cards.children]
    assert buttons == ["Remove", "Remove hanna", "Remove hanna"]
    panel.photos.cards.children[2].children[1].click()
    assert len(cards(panel)) == 1
    add(panel, "hanna")  # by name
    assert len(cards(panel)) == 3
    panel.photos.library.value = str(tmp_path / "none")
    assert "cannot be listed" in text_of(panel.photos.message)
    assert panel.photos.person.layout.display == "none"


def test_card_without_models_says_not_examined(make_panel, demo_request, tmp_path, text_of, pictures_of):
    panel = make_panel(demo_request.with_values(models_dir=str(tmp_path / "none")))
    (card,) = cards(panel)
    assert "Not examined" in text_of(card)
    assert str(tmp_path / "none") in text_of(card)
    assert len(pictures_of(card)) == 1
    panel.models.value = str(demo_request.models_dir)
    assert "Good." in text_of(cards(panel)[0])


@pytest.mark.parametrize("path", ["", "/nowhere/a.png"])
def test_missing_photo_is_reported(panel, text_of, path):
    add(panel, path)
    assert "What to do" in text_of(panel.photos.message)
    assert len(panel.form_state.sources) == 1


def test_changed_photo_is_reexamined_and_its_name_escaped(make_panel, demo_request, tmp_path, text_of):
    path = write(tmp_path / "<b onclick=x>.png", portrait("alma"))
    panel = make_panel(demo_request.with_values(sources=(path, to_data_url(portrait("alma")))))
    first, data = cards(panel)
    assert "Good." in text_of(first)
    assert "<b onclick" not in first.value
    assert "&lt;b onclick=x&gt;.png" in first.value
    assert "(image data)" in text_of(data)
    write(Path(path), np.full((50, 50, 3), 9, np.uint8))
    panel.photos.refresh()
    assert "No face" in text_of(cards(panel)[0])


def test_unreadable_files_in_photo_folder_are_reported(panel, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # not installed
    folder = tmp_path / "photos"
    folder.mkdir()
    write(folder / "b9.png", portrait("alma"))
    write(folder / "A10.png", portrait("alma"))
    for name in ("b.heic", "c.heic", "note.txt"):
        (folder / name).touch()
    assert [Path(path).name for path in find_photos(str(folder))] == ["A10.png", "b9.png"]
    add(panel, folder)
    message = panel.photos.message.value
    assert "3 file(s)" in message
    assert "2 .heic, 1 .txt" in message
    assert "pip install pillow-heif" in message
    for name in ("b9.png", "A10.png"):
        (folder / name).unlink()
    with pytest.raises(MissingFileError, match=r"2 \.heic.*pip install pillow-heif"):
        find_photos(str(folder))


def test_uploaded_photos_are_saved_and_used(panel, runs, monkeypatch):
    """In the formats of ipywidgets 7 and 8."""
    data = base64.b64decode(to_data_url(portrait("hanna")).partition(",")[2])
    old = {"../../h.png": {"metadata": {"name": "../../h.png"}, "content": data}}
    new = ({"name": "../../h.png", "content": memoryview(data)},)
    assert list(uploaded_files(old)) == list(uploaded_files(new)) == [("../../h.png", data)]
    monkeypatch.setattr("colab_helpers.ui.photos.uploaded_files", lambda value: uploaded_files(new))
    upload = panel.photos.upload
    upload.notify_change({"name": "value", "owner": upload, "type": "change", "old": (), "new": ()})
    path = runs / "uploads" / "h.png"
    assert path.read_bytes() == data
    assert panel.form_state.request().sources[1] == str(path)
    assert len(cards(panel)) == 2


def test_upload_with_same_name_does_not_overwrite(tmp_path):
    first, second = (save_upload(tmp_path / "IMG_0001.png", data) for data in (b"one", b"two"))
    assert [path.name for path in (first, second)] == ["IMG_0001.png", "IMG_0001 (2).png"]
    assert save_upload(first, b"one") == first
    assert save_upload(first, b"two") == second
    assert (first.read_bytes(), second.read_bytes()) == (b"one", b"two")
    assert len(list(tmp_path.iterdir())) == 2
