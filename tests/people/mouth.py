"""Mouths of the rendered people, in head units; see :mod:`tests.people.paint`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tests.people.looks import Body, Face
from tests.people.paint import F32, MOUTH_Y, Expression, Sheet, blend, bump, power, skin_colour, step


def mouth_corner(body: Body, act: Expression) -> tuple[float, float]:
    """Return half width and height of the mouth corners, head units."""
    return body.mouth_width * (1 + 0.12 * act.smile - 0.12 * act.open), MOUTH_Y + 0.02 - 0.055 * act.smile


class Mouth(NamedTuple):
    """Masks of lips and mouth opening, 0 to 1, and the shape that they follow."""

    lips: F32  # including the opening
    opening: F32
    line: F32  # height of the line of the closed mouth
    gap: F32
    half: float
    corner: float
    full: float


def mouth_shape(grid: Sheet, body: Body, face: Face, act: Expression) -> Mouth:
    """Return the shape of a mouth."""
    x, y = grid.x, grid.y
    soft = max(1.3 / grid.res, 0.012)
    half, corner = mouth_corner(body, act)
    arch = np.clip(1 - (x / half) ** 2, 0, None)
    line = corner + 0.095 * act.smile * arch - 0.01 * np.exp(-((x / 0.06) ** 2))
    gap = 0.15 * act.open * arch**0.8
    full = 0.035 + 0.05 * face.lip_fullness
    bow = 1 + 0.25 * np.exp(-(((np.abs(x) - 0.065) / 0.05) ** 2)) - 0.25 * np.exp(-((x / 0.035) ** 2))
    upper = line - 0.25 * gap - full * 0.75 * bow * arch**0.7
    lower = line + gap + full * arch**0.6
    lips = step(np.asarray(np.minimum(y - upper, lower - y), np.float32), soft)
    lips = np.asarray(lips * (np.abs(x) < half), np.float32)
    line, gap = np.asarray(line, np.float32), np.asarray(gap, np.float32)
    between = np.minimum(y - (line - 0.25 * gap), line + gap - y) + 0.004
    opening = step(np.asarray(between, np.float32), soft) * np.exp(-power(x / (half * 0.98), 8))
    return Mouth(lips, np.asarray(opening, np.float32), line, gap, half, corner, full)


def paint_mouth(image: F32, grid: Sheet, body: Body, face: Face, act: Expression) -> None:
    """Paint the mouth onto a patch in place."""
    x, y = grid.x, grid.y
    mouth = mouth_shape(grid, body, face, act)
    line, gap = mouth.line, mouth.gap
    red = np.array([188, 52, 60], np.float32) * (1 - 0.35 * face.tone)
    natural = skin_colour(face) * np.array([0.86, 0.66, 0.64], np.float32)
    colour = natural + (0.25 + 0.75 * face.lip_red) * 0.8 * (red - natural)
    shade = np.empty_like(image)
    shade[:] = colour
    shade *= (1 - 0.16 * (y < line + 0.5 * gap))[..., None]
    low = mouth.corner + 0.095 * act.smile + 0.15 * act.open + mouth.full * 0.5
    shine = bump(x, y, 0, low, 0.09, 0.022)
    blend(shade, np.array([255, 235, 230], np.float32), 0.28 * shine)
    image += mouth.lips[..., None] * (shade - image)
    _inside_mouth(image, grid, mouth)


def _inside_mouth(image: F32, grid: Sheet, mouth: Mouth) -> None:
    x, y, line = grid.x, grid.y, mouth.line
    soft = max(1.3 / grid.res, 0.012)
    depth = np.empty_like(image)
    depth[:] = np.array([70, 22, 26], np.float32)
    teeth = step(np.asarray(line + 0.045 - y, np.float32), soft) * np.exp(-power(x / (mouth.half * 0.75), 8))
    blend(depth, np.array([240, 236, 228], np.float32), np.asarray(teeth * (mouth.gap > 0.02), np.float32))
    tongue = bump(x, y, 0, float(line.mean()) + 0.13, 0.11, 0.05)
    blend(depth, np.array([170, 70, 76], np.float32), 0.8 * tongue)
    image += mouth.opening[..., None] * (depth - image)
