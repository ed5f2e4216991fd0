"""Small things that the tabs of the panel share: pieces of HTML, and pictures."""

from __future__ import annotations

import html
from collections.abc import Sequence

import cv2
import numpy as np

from colab_helpers.faces.types import ByteImage, Face
from colab_helpers.media.images import to_data_url
from colab_helpers.pages.svg import BAD, GOOD, WARN

RED, AMBER, GREEN = BAD, WARN, GOOD

PREVIEW_WIDTH, PREVIEW_HEIGHT = 960, 540
_GREEN, _ORANGE = (80, 220, 80), (0, 170, 255)
_STROKE = 2
_JPEG = 90


def paragraph(text: str, colour: str = "") -> str:
    """A paragraph of plain text; nothing for none."""
    style = f"margin:2px 0;line-height:1.4;{f'color:{colour}' if colour else ''}"
    return f'<p style="{style}">{html.escape(text)}</p>' if text else ""


def bullets(texts: Sequence[str], colour: str = "") -> str:
    """A list of plain texts; nothing for none."""
    items = "".join(f"<li>{html.escape(text)}</li>" for text in texts)
    style = f"margin:2px 0;padding-left:1.3em;line-height:1.4;{f'color:{colour}' if colour else ''}"
    return f'<ul style="{style}">{items}</ul>' if items else ""


def picture(image: ByteImage, *, alt: str, style: str = "") -> str:
    """An image inside the HTML itself, as a JPEG."""
    url = to_data_url(image, "jpeg", quality=_JPEG)
    look = style or "max-width:100%"
    return f'<img src="{url}" alt="{html.escape(alt, quote=True)}" style="{look}">'


def fitted(image: ByteImage, width: int, height: int) -> ByteImage:
    """The image, made smaller where it does not fit."""
    scale = min(1.0, width / image.shape[1], height / image.shape[0])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return (
        image if scale == 1 else np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    )


def thumbnail(
    image: ByteImage, faces: Sequence[Face], width: int, height: int, *, first_counts: bool = False
) -> ByteImage:
    """A small copy with the faces' boxes drawn in green; in orange where only the first one counts."""
    small = fitted(image, width, height).copy()
    scale = small.shape[1] / image.shape[1]
    for number, face in reversed(list(enumerate(faces))):
        left, top, right, bottom = (round(float(value) * scale) for value in face.box)
        cv2.rectangle(
            small, (left, top), (right, bottom), _ORANGE if first_counts and number else _GREEN, _STROKE
        )
    return small


def wipe(before: ByteImage, after: ByteImage, share: float) -> ByteImage:
    """One image of two: ``before`` left of the cut, ``after`` right of it, and a white line between.

    Args:
        before: ``(H, W, 3)`` uint8 BGR.
        after: Of the same size.
        share: Where the cut is, from 0 (all ``after``) to 1 (all ``before``).
    """
    cut = round(before.shape[1] * min(1.0, max(0.0, share)))
    mixed = after.copy()
    mixed[:, :cut] = before[:, :cut]
    if 0 < cut < before.shape[1]:
        mixed[:, max(0, cut - 1) : cut + 1] = 255
    return mixed


def words(error: BaseException) -> str:
    """What went wrong, for a person."""
    return str(error) or type(error).__name__
