"""Burn a visible label into a corner of finished frames and images, upright as they are shown.

Blending uses integers and touches nothing outside the label's box, so the output depends only on the frame,
its time and the settings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from colab_helpers.errors import SettingsError
from colab_helpers.language import mark, tr
from colab_helpers.media.blending import over_white
from colab_helpers.media.colour import ColourSpace
from colab_helpers.media.formats import ByteImage, Layout, Samples
from colab_helpers.media.picture import VideoPicture
from colab_helpers.media.probe import VideoInfo
from colab_helpers.settings import LabelPosition, Settings

DEFAULT_TEXT = mark("AI-altered faces")
_START_SECONDS = 2.0
"""Duration of a label shown at the start (GB 45438-2025 requires no less)."""
_MIN_EM, _LEGIBLE_EM = 9, 6  # pixels per em: least wanted, and least accepted where the frame is too small
_PADDING, _MARGIN = 0.35, 0.5  # around the text, and around its box, in ems
# Full weight, and the background's weight in the box: on white, white text has a contrast of 5.7.
_ONE, _BACKGROUND = 256, 102
_WHITE = {16: 0.58, 18: 0.75}
"""Signal level of graphics white (203 cd/m²) by transfer: PQ and HLG (ITU-R BT.2408, table 1)."""
_GREY = Layout((1, 1)), ColourSpace(matrix=1, full_range=True, depth=8), 1.0


class _Layer(NamedTuple):
    """A rectangle of a plane whose samples become ``(sample * keep + add) / 256``."""

    rows: slice
    columns: slice
    keep: Samples
    add: Samples


@dataclass(frozen=True)
class Label:
    """The text of a label, its position, size and duration."""

    text: str  # on one line
    position: LabelPosition  # corner of the frame as shown
    share: float  # em size as a share of the frame's shorter side
    seconds: float = math.inf  # how long it is shown from a video's start

    @classmethod
    def of(cls, settings: Settings) -> Label | None:
        """Return the label of the settings, if any; raise SettingsError if its text cannot be drawn here."""
        if settings.visible_label == "off":
            return None
        text = " ".join(settings.visible_label_text.split()) or tr(DEFAULT_TEXT)
        if missing := _missing_glyphs(text):
            what = tr(
                "visible_label_text has characters that cannot be drawn on this machine: {letters}",
                letters=missing,
            )
            remedy = tr("use ASCII characters, or install opencv-python-headless 5, which has more glyphs")
            raise SettingsError(what, remedy=remedy)
        seconds = _START_SECONDS if settings.visible_label == "start" else math.inf
        return cls(text, settings.visible_label_position, settings.visible_label_size / 100, seconds)

    def is_shown(self, seconds: float) -> bool:
        """Return whether a frame shown so many ``seconds`` after the first one has the label."""
        return seconds < self.seconds

    def fits(self, width: int, height: int) -> bool:
        """Return whether frames of this size, as shown, have room for a legible label."""
        return _lay_out(self, width, height) is not None

    def draw(self, picture: VideoPicture, info: VideoInfo) -> None:
        """Burn the label into a video frame's planes, in place."""
        planes, layout, space = picture.writable_planes(), picture.layout, picture.space
        white = _WHITE.get(info.colour.transfer, 1.0)
        orientation = info.rotation, info.mirrored
        layers = _layers(self, picture.width, picture.height, *orientation, layout, space, white)
        for (_, plane), layer in zip(planes, layers, strict=False):  # interleaved chroma is one plane
            part = plane[layer.rows, layer.columns]
            blended = (part >> layout.shift if layout.shift else part) * layer.keep
            blended += layer.add
            blended >>= 8
            part[...] = blended << layout.shift if layout.shift else blended

    def draw_on(self, image: ByteImage, alpha: ByteImage | None = None) -> None:
        """Burn the label into an ``(H, W, 3)`` image in place; its box becomes opaque, over white."""
        height, width = image.shape[:2]
        for layer in _layers(self, width, height, 0, False, *_GREY)[:1]:
            part = image[layer.rows, layer.columns]
            if alpha is not None:
                opacity = alpha[layer.rows, layer.columns]
                part[...], opacity[...] = over_white(part, opacity), 255
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
    white_level: float,
) -> list[_Layer]:
    """Return the label's layers on Y, U and V of a stored frame; none if the frame is too small."""
    shown = (height, width) if rotation % 180 else (width, height)
    if (placed := _lay_out(label, *shown)) is None:
        return []
    left, top, *weights = placed
    for _ in range(rotation // 90):
        left, top = top, shown[0] - left - weights[0].shape[1]
        weights, shown = [np.rot90(one) for one in weights], shown[::-1]
    if mirrored:
        left, weights = width - left - weights[0].shape[1], [one[:, ::-1] for one in weights]
    across, down = layout.step
    bottom, right = top + weights[0].shape[0], left + weights[0].shape[1]
    edges = (top % down, -bottom % down), (left % across, -right % across)  # pad to whole chroma samples
    keep, white = np.pad(weights[0], edges, constant_values=_ONE), np.pad(weights[1], edges)
    top, left = top - edges[0][0], left - edges[1][0]
    black, neutral, _ = space.black
    peak = (1 << space.depth) - 1 if space.full_range else 235 << (space.depth - 8)
    blocks = keep.reshape(keep.shape[0] // down, down, keep.shape[1] // across, across)
    chroma_keep = np.rint(blocks.mean((1, 3))).astype(np.int64)
    chroma_keep = chroma_keep[..., None] if layout.interleaved else chroma_keep
    chroma = _layer(left // across, top // down, chroma_keep, (_ONE - chroma_keep) * neutral, space)
    peak = round(black + white_level * (peak - black))
    luma = _layer(left, top, keep, white * peak + (_ONE - keep - white) * black, space)
    return [luma, chroma, chroma]


def _layer(left: int, top: int, keep: Samples, add: Samples, space: ColourSpace) -> _Layer:
    dtype = np.uint16 if space.depth == 8 else np.uint32  # holds the largest sample times 256
    rows, columns = slice(top, top + keep.shape[0]), slice(left, left + keep.shape[1])
    return _Layer(rows, columns, keep.astype(dtype), (add + _ONE // 2).astype(dtype))


def _lay_out(label: Label, width: int, height: int) -> tuple[int, int, Samples, Samples] | None:
    """Lay out a label on a frame as shown; return None if there is no room for legible text.

    Otherwise return left and top of its box, and the weights of the background and of white in it, both
    ``(h, w)`` from 0 to 256; the remaining weight is black's.
    """
    wanted = max(_MIN_EM, round(label.share * min(width, height)))
    glyphs, border = _render(label.text, wanted), 2 * wanted * (_PADDING + _MARGIN) + 4
    scale = min(1, width / (glyphs.shape[1] + border), height / (glyphs.shape[0] + border))
    for em in range(int(wanted * scale), _LEGIBLE_EM - 1, -1):
        glyphs, margin = _render(label.text, em), math.ceil(em * _MARGIN)
        ink = np.pad(glyphs, math.ceil(em * _PADDING)).astype(np.int64)
        far_corner = width - ink.shape[1] - margin, height - ink.shape[0] - margin
        if min(far_corner) >= margin:
            break
    else:
        return None
    vertical, horizontal = label.position.split("-")
    left = margin if horizontal == "left" else far_corner[0]
    top = margin if vertical == "top" else far_corner[1]
    return left, top, (255 - ink) * _BACKGROUND // 255, ink * _ONE // 255


def _render(text: str, em: int) -> ByteImage:
    """Render white text on black, ``(h, w)`` uint8, cropped to the text."""
    if hasattr(cv2, "FontFace"):  # OpenCV 5 includes glyphs for most languages
        opencv: Any = cv2
        font = opencv.FontFace("uni")
        left, top, width, height = opencv.getTextSize((0, 0), text, (0, 0), font, em)
        image = np.zeros((max(1, height), max(1, width)), np.uint8)
        opencv.putText(image, text, (-left, -top), (255,), font, em)
        return image
    font = ImageFont.load_default(em)
    left, top, right, bottom = map(math.floor, font.getbbox(text))
    drawn = Image.new("L", (max(1, right - left + 1), max(1, bottom - top + 1)))
    ImageDraw.Draw(drawn).text((-left, -top), text, fill=255, font=font)
    return np.asarray(drawn, np.uint8)


def _missing_glyphs(text: str) -> str:
    """Return the characters of a text that cannot be drawn here."""
    if hasattr(cv2, "FontFace"):
        return "".join(character for character in dict.fromkeys(text) if not _is_drawn(character))
    ascii_printable = range(ord(" "), ord("~") + 1)  # all that Pillow's own font has
    return "".join(dict.fromkeys(text.translate(dict.fromkeys(ascii_printable))))


def _is_drawn(character: str) -> bool:
    """Return whether OpenCV has a glyph: without one it draws a question mark, or nothing."""
    if character.isascii() and character.isprintable():  # known: rendering each takes a millisecond
        return True
    drawn, unknown = _render(character, _MIN_EM), _render("?", _MIN_EM)
    return character.isprintable() and bool(drawn.any()) and not np.array_equal(drawn, unknown)
