"""The visible label: a few words burnt into finished pictures, in one corner, upright as they are seen.

It is blended by whole numbers and touches nothing outside its box, so what is written depends on nothing but
the picture, its time and the settings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from colab_helpers.errors import SettingsError
from colab_helpers.language import mark, tr
from colab_helpers.media.blending import over_white
from colab_helpers.media.colour import ColourSpace
from colab_helpers.media.formats import ByteImage, Layout
from colab_helpers.media.picture import VideoPicture
from colab_helpers.media.probe import VideoInfo
from colab_helpers.settings import LabelPosition, Settings

USUAL_TEXT = mark("AI-altered faces")
_AT_THE_START = 2.0
"""Seconds of a label at the start (GB 45438-2025 asks for no less)."""
_LEAST, _LEGIBLE = 9, 6  # pixels of an em: what small pictures get, and the least that can be read
_PAD, _MARGIN = 0.35, 0.5  # around the text and beyond its box, in ems
_ONE, _SEEN_THROUGH = 256, 102  # weights; white on this much of a white picture has a contrast of 5.7
_WHITE = {16: 0.58, 18: 0.75}
"""Signal of a graphic's white, 203 cd/m², by transfer: in PQ and HLG (ITU-R BT.2408, table 1)."""
_GREY = Layout((1, 1)), ColourSpace(matrix=1, full_range=True, depth=8), 1.0

Samples = npt.NDArray[Any]


class _Layer(NamedTuple):
    """A part of a plane, and what becomes of its samples: ``(sample * keep + add) / 256``."""

    rows: slice
    columns: slice
    keep: Samples
    add: Samples


@dataclass(frozen=True)
class Label:
    """What is written where."""

    text: str  # the words, on one line
    position: LabelPosition  # the corner, as the picture is seen
    share: float  # edge of an em by the picture's shorter side
    seconds: float = math.inf  # how long from a video's start it is shown

    @classmethod
    def of(cls, settings: Settings) -> Label | None:
        """Return the one that settings ask for, if any; SettingsError if it cannot be drawn here."""
        if settings.visible_label == "off":
            return None
        text = " ".join(settings.visible_label_text.split()) or tr(USUAL_TEXT)
        if missing := _missing(text):
            raise SettingsError(
                tr("visible_label_text has letters that cannot be drawn here: {letters}", letters=missing),
                remedy=tr("use plain letters, or install opencv-python-headless 5, which draws them"),
            )
        seconds = _AT_THE_START if settings.visible_label == "start" else math.inf
        return cls(text, settings.visible_label_position, settings.visible_label_size / 100, seconds)

    def is_shown(self, seconds: float) -> bool:
        """Whether a frame that is shown so long after the first one has it."""
        return seconds < self.seconds

    def fits(self, width: int, height: int) -> bool:
        """Whether pictures of this size, as they are seen, have room for its words."""
        return _placed(self, width, height) is not None

    def draw(self, picture: VideoPicture, info: VideoInfo) -> None:
        """Burn it into a video's frame, in its own planes."""
        planes, layout, space = picture.writable_planes(), picture.layout, picture.space
        white = _WHITE.get(info.colour.transfer, 1.0)
        turned = info.rotation, info.mirrored
        layers = _layers(self, picture.width, picture.height, *turned, layout, space, white)
        for (_, plane), layer in zip(planes, layers, strict=False):  # interleaved chroma is one plane
            part = plane[layer.rows, layer.columns]
            mixed = (part >> layout.shift if layout.shift else part) * layer.keep
            mixed += layer.add
            mixed >>= 8
            part[...] = mixed << layout.shift if layout.shift else mixed

    def draw_on(self, image: ByteImage, alpha: ByteImage | None = None) -> None:
        """Burn it into a picture ``(H, W, 3)`` in place; its box is made opaque, over white."""
        height, width = image.shape[:2]
        for layer in _layers(self, width, height, 0, False, *_GREY)[:1]:
            part = image[layer.rows, layer.columns]
            if alpha is not None:
                seen = alpha[layer.rows, layer.columns]
                part[...], seen[...] = over_white(part, seen), 255
            part[...] = (part * layer.keep[..., None] + layer.add[..., None]) >> 8


@lru_cache(maxsize=8)
def _layers(
    label: Label,
    width: int,
    height: int,
    rotation: int,
    mirrored: bool,
    layout: Layout,
    space: ColourSpace,
    brightest: float,
) -> list[_Layer]:
    """A label on Y, U and V of a stored frame; none where the frame is too small for words."""
    seen = (height, width) if rotation % 180 else (width, height)
    if (placed := _placed(label, *seen)) is None:
        return []
    left, top, *weights = placed
    for _ in range(rotation // 90):
        left, top = top, seen[0] - left - weights[0].shape[1]
        weights, seen = [np.rot90(one) for one in weights], seen[::-1]
    if mirrored:
        left, weights = width - left - weights[0].shape[1], [one[:, ::-1] for one in weights]
    across, down = layout.step
    bottom, right = top + weights[0].shape[0], left + weights[0].shape[1]
    edges = (top % down, -bottom % down), (left % across, -right % across)  # whole samples of chroma
    keep, white = np.pad(weights[0], edges, constant_values=_ONE), np.pad(weights[1], edges)
    top, left = top - edges[0][0], left - edges[1][0]
    black, neutral, _ = space.black
    peak = (1 << space.depth) - 1 if space.full_range else 235 << (space.depth - 8)
    blocks = keep.reshape(keep.shape[0] // down, down, keep.shape[1] // across, across)
    small = np.rint(blocks.mean((1, 3))).astype(np.int64)
    small = small[..., None] if layout.interleaved else small
    chroma = _layer(left // across, top // down, small, (_ONE - small) * neutral, space)
    peak = round(black + brightest * (peak - black))
    luma = _layer(left, top, keep, white * peak + (_ONE - keep - white) * black, space)
    return [luma, chroma, chroma]


def _layer(left: int, top: int, keep: Samples, add: Samples, space: ColourSpace) -> _Layer:
    kind = np.uint16 if space.depth == 8 else np.uint32  # the largest sample, times 256, fits
    rows, columns = slice(top, top + keep.shape[0]), slice(left, left + keep.shape[1])
    return _Layer(rows, columns, keep.astype(kind), (add + _ONE // 2).astype(kind))


def _placed(label: Label, width: int, height: int) -> tuple[int, int, Samples, Samples] | None:
    """Lay a label out on a picture as it is seen; None where that is too small for words.

    Else left and top of its box, how much of the picture is left in there, and how much becomes white, both
    ``(h, w)`` from 0 to 256; the rest becomes black.
    """
    wanted = max(_LEAST, round(label.share * min(width, height)))
    letters, around = _letters(label.text, wanted), 2 * wanted * (_PAD + _MARGIN) + 4
    room = min(1, width / (letters.shape[1] + around), height / (letters.shape[0] + around))
    for em in range(int(wanted * room), _LEGIBLE - 1, -1):
        letters, margin = _letters(label.text, em), math.ceil(em * _MARGIN)
        cover = np.pad(letters, math.ceil(em * _PAD)).astype(np.int64)
        free = width - cover.shape[1] - margin, height - cover.shape[0] - margin
        if min(free) >= margin:
            break
    else:
        return None
    down, across = label.position.split("-")
    left, top = margin if across == "left" else free[0], margin if down == "top" else free[1]
    return left, top, (255 - cover) * _SEEN_THROUGH // 255, cover * _ONE // 255


def _letters(text: str, em: int) -> ByteImage:
    """White text on black, ``(h, w)`` uint8, without a border."""
    if hasattr(cv2, "FontFace"):  # OpenCV 5: brings the letters of most languages
        library: Any = cv2
        font = library.FontFace("uni")
        left, top, width, height = library.getTextSize((0, 0), text, (0, 0), font, em)
        image = np.zeros((max(1, height), max(1, width)), np.uint8)
        library.putText(image, text, (-left, -top), (255,), font, em)
        return image
    font = ImageFont.load_default(em)
    left, top, right, bottom = map(math.floor, font.getbbox(text))
    drawn = Image.new("L", (max(1, right - left + 1), max(1, bottom - top + 1)))
    ImageDraw.Draw(drawn).text((-left, -top), text, fill=255, font=font)
    return np.asarray(drawn, np.uint8)


def _missing(text: str) -> str:
    """Letters that are not drawn here."""
    if hasattr(cv2, "FontFace"):
        return "".join(letter for letter in dict.fromkeys(text) if not _is_drawn(letter))
    known = map(chr, range(ord(" "), ord("~") + 1))  # all that Pillow's own font has
    return "".join(dict.fromkeys(text.translate(dict.fromkeys(map(ord, known)))))


def _is_drawn(letter: str) -> bool:
    """Whether OpenCV shows a letter; those it lacks become question marks, and some leave no trace."""
    if letter.isascii() and letter.isprintable():  # not looked at: each takes a millisecond
        return True
    drawn = _letters(letter, _LEAST)
    return letter.isprintable() and bool(drawn.any()) and not np.array_equal(drawn, _letters("?", _LEAST))
