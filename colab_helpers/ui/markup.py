"""HTML fragments shared by notebooks and panel, and the images in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
from markupsafe import Markup, escape

from colab_helpers.batch.thumbnails import shrink_to_fit
from colab_helpers.faces.types import ByteImage, Face
from colab_helpers.media.images import to_data_url

_GREEN, _ORANGE = (80, 220, 80), (0, 170, 255)  # BGR
_STROKE = 2
_JPEG = 90
_CELL = "text-align:left;padding:2px 10px 2px 0"


def paragraph(text: str, colour: str = "") -> Markup:
    """Return a paragraph; empty for an empty text."""
    return Markup('<p style="{}">{}</p>').format(_style(colour), text) if text else Markup()


def bullets(texts: Sequence[str], colour: str = "") -> Markup:
    """Return a bullet list; empty without texts."""
    items = Markup().join(Markup("<li>{}</li>").format(text) for text in texts)
    template = Markup('<ul style="{};padding-left:1.3em">{}</ul>')
    return template.format(_style(colour), items) if texts else Markup()


def _style(colour: str) -> str:
    return "margin:2px 0;line-height:1.4" + (f";color:{colour}" if colour else "")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    """Return a table; the last cell of a short row spans the remaining columns."""
    head = "".join(f'<th style="{_CELL}">{escape(text)}</th>' for text in heads)
    body = "".join(_row(row, len(heads)) for row in rows)
    return Markup(f'<table style="line-height:1.3"><tr>{head}</tr>{body}</table>')


def _row(row: Sequence[str], width: int) -> str:
    *others, last = (escape(text) for text in row)
    cells = "".join(f'<td style="{_CELL}">{text}</td>' for text in others)
    return f'<tr>{cells}<td style="{_CELL}" colspan="{width - len(others)}">{last}</td></tr>'


def picture(image: ByteImage, *, alt: str, style: str = "max-width:100%") -> Markup:
    """Return an ``<img>`` with the image embedded as JPEG."""
    url = to_data_url(image, "jpeg", quality=_JPEG)
    return Markup(f'<img src="{url}" alt="{escape(alt)}" style="{style}">')


def thumbnail(
    image: ByteImage, faces: Sequence[Face], width: int, height: int, *, first_counts: bool = False
) -> ByteImage:
    """Return a small copy with green face boxes, with ``first_counts`` orange ones for all but the first."""
    small = shrink_to_fit(image, height=height, width=width).copy()
    scale = small.shape[1] / image.shape[1]
    for number, face in reversed(list(enumerate(faces))):
        left, top, right, bottom = (round(float(value) * scale) for value in face.box)
        colour = _ORANGE if first_counts and number else _GREEN
        cv2.rectangle(small, (left, top), (right, bottom), colour, _STROKE)
    return small


def error_message(error: BaseException) -> str:
    """Return the message of an exception, or its type's name if it has none."""
    return str(error) or type(error).__name__
