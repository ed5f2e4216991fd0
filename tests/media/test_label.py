"""The visible label: position, legibility, and pixels outside it."""

from __future__ import annotations

from itertools import product
from typing import Any

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from colab_helpers.errors import SettingsError
from colab_helpers.media import label as labels
from colab_helpers.media.formats import WORKING_FORMATS, ColourTags
from colab_helpers.media.label import Label
from colab_helpers.media.picture import VideoPicture
from colab_helpers.media.probe import probe
from colab_helpers.settings import LabelPosition, Settings
from tests.media.make import Spec, make
from tests.media.test_picture import planes, video_frame

POSITIONS: tuple[LabelPosition, ...] = ("bottom-right", "bottom-left", "top-right", "top-left")
TEXT = "Rótulo ¡ñ!" if hasattr(cv2, "FontFace") else "Label !"


def label(position: LabelPosition = "bottom-right", **settings: Any) -> Label:
    given = {"visible_label_text": TEXT, "visible_label_size": 8, "visible_label_position": position}
    found = Label.of(Settings(**{**given, **settings}))
    assert found is not None
    return found


def drawn(position: LabelPosition, size: tuple[int, int]) -> np.ndarray[Any, Any]:
    """The upright label on a grey picture."""
    image = np.full((*size[::-1], 3), 120, np.uint8)
    label(position).draw_on(image)
    return image


@pytest.mark.parametrize("position", POSITIONS)
def test_label_is_white_on_dark_in_its_corner(position: LabelPosition) -> None:
    image = drawn(position, (320, 240))
    rows, columns = np.nonzero((image != 120).any(axis=2))
    down, across = position.split("-")
    assert (rows.min() > 240 * 0.8, rows.max() < 240 * 0.2) == (down == "bottom", down == "top")
    assert (columns.min() > 320 / 2, columns.max() < 320 / 2) == (across == "right", across == "left")
    assert min(rows.min(), columns.min(), 239 - rows.max(), 319 - columns.max()) >= 4
    box = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert box.max() == 255
    assert np.array_equal(box[0, 0], [48] * 3)  # 102/256 of 120
    assert 0.05 < (box > 200).mean() < 0.4


@pytest.mark.parametrize("fmt", sorted(WORKING_FORMATS))
def test_label_in_video_planes_matches_picture_and_changes_nothing_else(fmt: str) -> None:
    frame = video_frame(fmt)
    before, original = planes(frame), frame.to_ndarray(format="bgr24").astype(int)
    label().draw(VideoPicture(frame), _info(0, False))
    truth = original.astype(np.uint8)
    label().draw_on(truth)
    touched = np.argwhere((truth != original).any(axis=2))
    (top, left), (bottom, right) = touched.min(0), touched.max(0) + 1
    after = frame.to_ndarray(format="bgr24").astype(int)
    assert np.abs(after - truth)[top + 2 : bottom - 2, left + 2 : right - 2].mean() < 4
    for old, new in zip(before, planes(frame), strict=True):
        across, down = 320 // old.shape[1], 240 // old.shape[0]
        inside = np.zeros(old.shape[:2], bool)
        inside[top // down : -(-bottom // down), left // across : -(-right // across)] = True
        assert np.array_equal(old[~inside], new[~inside])
        assert not np.array_equal(old, new)
        layout = WORKING_FORMATS[fmt]
        assert not (new & ((1 << layout.shift) - 1)).any()


def test_label_in_hdr_uses_graphics_white() -> None:
    for transfer, white in {2: 940, 16: 572, 18: 721}.items():  # of 64 to 940; 203 cd/m2 in PQ and HLG
        frame = video_frame("yuv420p10le")
        picture = VideoPicture(frame)
        for _, plane in picture.writable_planes():
            plane[:] = 100
        label().draw(picture, _info(0, False, transfer))
        assert planes(frame)[0].max() == white


@pytest.mark.parametrize(
    ("rotation", "mirrored", "position"), list(product((0, 90, 180, 270), (False, True), POSITIONS))
)
def test_label_is_upright_for_viewers(rotation: int, mirrored: bool, position: LabelPosition) -> None:
    frame = av.VideoFrame.from_ndarray(np.full((240, 322, 3), 120, np.uint8), format="bgr24")
    frame = frame.reformat(format="yuv420p")
    info = _info(rotation, mirrored)
    label(position).draw(VideoPicture(frame), info)
    seen = info.upright(frame.to_ndarray(format="bgr24"))
    white = drawn(position, seen.shape[1::-1])[..., 1] > 190
    assert white.sum() > 100
    assert ((seen[..., 1] > 190) != white).sum() < white.sum() / 5


def _info(rotation: int, mirrored: bool, transfer: int = 2) -> Any:
    class Info:
        """The attributes of VideoInfo that a label needs."""

    found: Any = Info()
    found.rotation, found.mirrored, found.colour = rotation, bool(mirrored), ColourTags(transfer=transfer)
    found.upright = lambda image: np.rot90(image[:, ::-1] if mirrored else image, -(rotation // 90))
    return found


def test_orientation_is_taken_from_the_display_matrix(tmp_path: Any) -> None:
    info = probe(make(tmp_path / "a.mp4", Spec(frames=2, size=(96, 64), axes=(0, -1, -1, 0))))
    assert info.rotation
    assert info.mirrored
    image = np.arange(96 * 64 * 3, dtype=np.uint8).reshape(64, 96, 3)
    assert np.array_equal(info.upright(image), _info(info.rotation, info.mirrored).upright(image))


def test_transparent_pixels_under_the_label_become_opaque() -> None:
    image, alpha = np.full((240, 320, 3), 90, np.uint8), np.full((240, 320), 7, np.uint8)
    label().draw_on(image, alpha)
    inside = np.argwhere(alpha == 255)
    (top, left), (bottom, right) = inside.min(0), inside.max(0) + 1
    assert len(inside) == (bottom - top) * (right - left) > 500
    assert (alpha != 7).sum() == (image != 90).any(axis=2).sum() == len(inside)
    assert 97 < image[top, left, 0] < 102  # the almost transparent pixels were almost white


def test_label_shrinks_in_small_pictures_and_is_omitted_in_tiny_ones() -> None:
    for size, fits in {(64, 40): True, (20, 20): False, (1, 1): False, (30, 300): False}.items():
        for found in (Label.of(Settings()), Label.of(Settings(visible_label_size=20))):
            image = np.full((*size[::-1], 3), 120, np.uint8)
            assert found is not None
            found.draw_on(image)
            assert (image != 120).any() == fits == found.fits(*size), size


def test_label_shrinks_for_long_text_and_low_pictures() -> None:
    for text, size in (("x" * 80, (320, 240)), ("", (1920, 24))):
        image = np.full((*size[::-1], 3), 120, np.uint8)
        found = label(visible_label_text=text)
        found.draw_on(image)
        assert (image != 120).any()
        assert found.fits(*size)


def test_label_can_be_limited_to_the_start_or_disabled() -> None:
    assert [label(visible_label="start").is_shown(time) for time in (0, 1.99, 2.0)] == [True, True, False]
    assert label().is_shown(1e9)
    off = Settings(visible_label=False, disclosure="in the credits")
    assert (off.visible_label, Label.of(off)) == ("off", None)
    assert Settings(visible_label=True).visible_label == "always"
    for disclosure in ("", "  "):
        with pytest.raises(ValueError, match="say in disclosure how viewers"):
            Settings(visible_label="off", disclosure=disclosure)


def test_text_with_undrawable_letters_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.delattr(cv2, "FontFace", raising=False)  # as in OpenCV 4
        with pytest.raises(SettingsError, match="cannot be drawn on this machine: ñ¡"):
            label(visible_label_text="ñam ¡ñ")
        plain = label(visible_label_text="AI altered")
        image = np.full((240, 320, 3), 120, np.uint8)
        labels._layers.cache_clear()
        plain.draw_on(image)
        assert 0.02 < (image == 255).all(axis=2).sum() / (image != 120).any(axis=2).sum() < 0.3
    labels._layers.cache_clear()
    with pytest.raises(SettingsError, match="cannot be drawn"):
        label(visible_label_text="a\u200bb\x00")
    assert label(visible_label_text="  two\n words ").text == "two words"


def test_blank_text_does_not_disable_the_label() -> None:
    assert label(visible_label_text=" \t\u3000").text == "AI-altered faces"
    for blank in ("\u2800", "\u3164", "a\U0001f600"):
        with pytest.raises(SettingsError, match="cannot be drawn"):
            label(visible_label_text=blank)


@pytest.mark.skipif(not hasattr(cv2, "FontFace"), reason="OpenCV before 5 has no fonts")
def test_accents_are_drawn() -> None:
    masks = [labels._render(letter, 40) for letter in "aáñn中文"]
    assert all(mask.max() == 255 for mask in masks)
    one, other = (Image.fromarray(mask).resize((30, 30)) for mask in masks[:2])
    assert np.abs(np.asarray(one, int) - np.asarray(other, int)).mean() > 5
