"""Faces of the rendered people, painted in head units.

Head units: the origin is the middle of the head, x to the image's right, y down, z towards the
camera; the crown lies at y = -1, the chin at y = +1. Textures of the front are painted on a :class:`Sheet`.
Colours are float32 RGB 0..255.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from tests.people.looks import Body, Face

F32 = npt.NDArray[np.float32]

HALF_WIDTH, HALF_HEIGHT = 0.86, 1.1
EYE_Y, NOSE_Y, MOUTH_Y = -0.05, 0.29, 0.6

_SKIN = np.array(
    [(247, 218, 198), (240, 196, 166), (208, 154, 116), (154, 103, 72), (94, 60, 45)], np.float32
)
_IRIS = np.array([(58, 34, 20), (112, 74, 34), (86, 112, 62), (64, 116, 168), (156, 178, 190)], np.float32)
_HAIR = np.array([(26, 22, 22), (74, 46, 30), (134, 90, 50), (170, 146, 116), (218, 216, 212)], np.float32)


@dataclass(frozen=True, kw_only=True)
class Expression:
    open: float = 0.0  # mouth, 0..1
    smile: float = 0.4  # corners of the mouth, -0.3 (down) to 1 (up)
    blink: float = 0.0  # lids, 0 open to 1 closed
    gaze_x: float = 0.0  # direction of the eyes, -1..1
    gaze_y: float = 0.0  # the same, down positive
    brows: float = 0.0  # lift, -1..1


@dataclass(frozen=True)
class Sheet:
    """Pixel grid of a rectangle of the frontal texture, and head coordinates of its pixel centres."""

    res: float
    left: int
    top: int
    x: F32
    y: F32

    @property
    def rows(self) -> slice:
        """Rows within the whole sheet."""
        return slice(self.top, self.top + self.y.shape[0])

    @property
    def cols(self) -> slice:
        """Columns within the whole sheet."""
        return slice(self.left, self.left + self.x.shape[1])


@lru_cache(maxsize=32)
def sheet(
    res: float,
    x0: float = -HALF_WIDTH,
    x1: float = HALF_WIDTH,
    y0: float = -HALF_HEIGHT,
    y1: float = HALF_HEIGHT,
) -> Sheet:
    """Return the grid of a rectangle at ``res`` pixels per head unit; default: the whole front."""
    left, right = round((x0 + HALF_WIDTH) * res), round((x1 + HALF_WIDTH) * res)
    top, bottom = round((y0 + HALF_HEIGHT) * res), round((y1 + HALF_HEIGHT) * res)
    x = ((np.arange(left, right) + 0.5) / res - HALF_WIDTH).astype(np.float32)[None, :]
    y = ((np.arange(top, bottom) + 0.5) / res - HALF_HEIGHT).astype(np.float32)[:, None]
    return Sheet(res, left, top, x, y)


def _ramp(table: F32, at: float) -> F32:
    position = float(np.clip(at, 0, 1)) * (len(table) - 1)
    low = min(int(position), len(table) - 2)
    return np.asarray(table[low] + (table[low + 1] - table[low]) * np.float32(position - low), np.float32)


def skin_colour(face: Face) -> F32:
    warm = (face.warmth - 0.5) * np.array([4, 10, -26], np.float32)
    return np.clip(_ramp(_SKIN, face.tone) + warm * (1 - 0.45 * face.tone), 0, 255).astype(np.float32)


def bump(x: F32, y: F32, cx: float, cy: float, rx: float, ry: float) -> F32:
    """A Gaussian hill of height 1, radii at 1/e."""
    return np.exp(-(((x - cx) / rx) ** 2) - ((y - cy) / ry) ** 2).astype(np.float32)


def step(value: F32, soft: float) -> F32:
    """Mask 0..1 of ``value > 0`` with an edge of width ``soft``."""
    return np.asarray(np.clip(value / np.float32(soft) + np.float32(0.5), 0, 1), np.float32)


def power(value: npt.NDArray[np.floating[Any]], exponent: int) -> F32:
    """Raise to 4 or 8 by squaring, ten times faster than numpy's power."""
    square = value * value
    fourth = np.asarray(square * square, np.float32)
    return fourth if exponent == 4 else np.asarray(fourth * fourth, np.float32)


def blend(image: F32, colour: F32, alpha: F32) -> None:
    """Blend a colour (3,) into an image (H, W, 3) in place with alpha (H, W)."""
    seen = alpha > 0.002
    rows, cols = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    if len(rows):
        part = (slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1))
        image[part] += alpha[part][..., None] * (colour - image[part])


@lru_cache(maxsize=8)
def _grain(res: float, along_x: float, along_y: float, seed: int) -> F32:
    """Smooth noise over the whole sheet, standard deviation 1, stretched along the axes."""
    grid = sheet(res)
    rng = np.random.default_rng(seed)
    cells = round(110 * HALF_HEIGHT * 2), round(110 * HALF_WIDTH * 2)
    noise = rng.standard_normal(cells).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), sigmaX=110 * along_x, sigmaY=110 * along_y)
    size = (grid.x.shape[1], grid.y.shape[0])
    fitted = cv2.resize(smooth, size, interpolation=cv2.INTER_LINEAR if res > 110 else cv2.INTER_AREA)
    return np.asarray(fitted / fitted.std(), np.float32)


def face_window(x: F32, y: F32) -> F32:
    """Mask of the inner face at frontal points: 1 inside, 0 outside, with a soft edge.

    It spans mid forehead to chin and cheekbones, about what a face swapper pastes back.
    """
    radius = np.sqrt((x / 0.66) ** 2 + ((y - 0.1) / 0.86) ** 2)
    return np.asarray(np.clip((1.0 - radius) / 0.2, 0, 1), np.float32)


def relief(body: Body, face: Face, res: float) -> F32:
    """Height of the front above the smooth head, head units, (H, W) over the whole sheet."""
    x, y = sheet(res).x, sheet(res).y
    along = np.clip((y + 0.16) / 0.43, 0, 1)
    drop = np.clip((0.395 - y) / 0.13, 0, 1)
    ridge = (along**1.5) * (drop * drop * (3 - 2 * drop))
    spread = 0.07 + (0.035 + 0.05 * face.nose_width) * along**2
    height = body.nose_height * ridge * np.exp(-((x / spread) ** 2))
    wing = 0.085 + 0.05 * face.nose_width
    for side in (-1, 1):
        height = height + 0.05 * bump(x, y, side * wing, 0.315, 0.055, 0.06)
        height = height - 0.05 * bump(x, y, side * body.eye_gap, EYE_Y - 0.01, 0.17, 0.1)
        height = height + 0.03 * bump(x, y, side * body.eye_gap, EYE_Y, 0.12, 0.075)
        height = height + 0.035 * bump(x, y, side * 0.36, 0.24, 0.2, 0.2)
        height = height + 0.02 * bump(x, y, side * 0.27, -0.24, 0.2, 0.07)
    height = height + 0.03 * bump(x, y, 0, MOUTH_Y, 0.26, 0.14) + 0.05 * bump(x, y, 0, 0.88, 0.17, 0.13)
    return np.asarray(height, np.float32)


def _crease(y: F32, curve: F32, width: float) -> F32:
    return np.asarray(np.exp(-(((y - curve) / width) ** 2)), np.float32)


def _age_lines(x: F32, y: F32, body: Body) -> F32:
    lines = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.float32)
    for row, strength in ((-0.40, 0.8), (-0.47, 1.0), (-0.54, 0.7)):
        curve = row + 0.03 * np.cos(x * 7.0) * 0.5
        lines += strength * _crease(y, curve, 0.011) * np.exp(-power(x / 0.3, 4))
    for side in (-1, 1):
        s = x * side
        fold = 0.16 + 0.22 * np.sqrt(np.clip(y - 0.28, 0, 1)) + 0.25 * (y - 0.4)
        lines += np.exp(-(((s - fold) / 0.018) ** 2)) * np.exp(-power((y - 0.45) / 0.13, 4))
        outer = s - (body.eye_gap + 0.2)
        for slope in (-0.5, 0.0, 0.5):
            foot = _crease(y, EYE_Y + 0.01 + slope * outer, 0.009)
            lines += 0.9 * foot * np.exp(-power((outer - 0.04) / 0.06, 4))
        under = EYE_Y + 0.12 + 0.5 * (s - body.eye_gap) ** 2 * -2.0
        lines += 0.9 * _crease(y, under, 0.013) * np.exp(-power((s - body.eye_gap) / 0.12, 4))
    return np.clip(lines, 0, 1.2)


@lru_cache(maxsize=8)
def _freckles(res: float) -> F32:
    rng = np.random.default_rng(77)
    grid = sheet(res)
    spots = np.zeros((grid.y.shape[0], grid.x.shape[1]), np.float32)
    for _ in range(110):
        cx, cy = float(np.clip(rng.normal(0, 0.3), -0.7, 0.7)), rng.normal(0.16, 0.09)
        radius = rng.uniform(0.008, 0.015)
        near = sheet(res, cx - 0.06, cx + 0.06, cy - 0.06, cy + 0.06)
        radius = max(radius, 0.6 / res)
        spots[near.rows, near.cols] += bump(near.x, near.y, cx, cy, radius, radius)
    return np.clip(spots, 0, 1)


def _skin_marks(image: F32, grid: Sheet, body: Body, face: Face) -> None:
    x, y = grid.x, grid.y
    base = skin_colour(face)
    ruddy = base * np.array([1.03, 0.84, 0.82], np.float32)
    for side in (-1, 1):
        blend(image, ruddy, 0.5 * bump(x, y, side * 0.37, 0.25, 0.2, 0.16))
        blend(image, base * 0.72, 0.4 * bump(x, y, side * body.eye_gap, EYE_Y - 0.03, 0.18, 0.12))
        wing = 0.09 + 0.055 * face.nose_width
        blend(image, base * 0.62, 0.55 * bump(x, y, side * (wing + 0.045), 0.32, 0.03, 0.05))
        blend(image, base * 0.3, 0.8 * bump(x, y, side * (wing - 0.04), 0.368, 0.032, 0.016))
    blend(image, ruddy, 0.35 * bump(x, y, 0, NOSE_Y, 0.12, 0.1))
    blend(image, base * 0.65, 0.4 * bump(x, y, 0, 0.4, 0.12, 0.025))
    blend(image, base * 0.7, 0.45 * bump(x, y, 0, 0.755, 0.12, 0.03))
    blend(image, base * np.array([0.72, 0.58, 0.5], np.float32), 0.8 * face.freckles * _freckles(grid.res))
    blend(image, base * np.array([0.5, 0.42, 0.4], np.float32), 0.62 * face.age * _age_lines(x, y, body))


def _beard(image: F32, grid: Sheet, face: Face) -> None:
    x, y = grid.x, grid.y
    strands = np.clip(0.86 + 0.14 * _grain(grid.res, 0.008, 0.03, 5), 0, 1)
    radius = np.sqrt((x / 0.74) ** 2 + ((y - 0.12) / 0.92) ** 2)
    jaw = np.clip((radius - 0.60) / 0.14, 0, 1) * np.clip((y - 0.14 - 0.12 * np.abs(x)) / 0.2, 0, 1)
    chin = bump(x, y, 0, 0.93, 0.24, 0.2)
    around = np.clip(1 - bump(x, y, 0, MOUTH_Y, 0.27, 0.13) * 1.4, 0, 1)
    cover = np.clip(np.maximum(jaw, chin * 1.5), 0, 1) * around
    colour = _ramp(_HAIR, face.brow_shade)
    blend(image, colour, np.clip(cover * strands * face.beard, 0, 0.96))
    lip = np.exp(-power((y - 0.475 - 0.5 * x * x * 2) / 0.055, 4)) * np.exp(-power(x / 0.235, 8))
    blend(
        image,
        _ramp(_HAIR, face.brow_shade),
        np.clip(np.asarray(lip, np.float32) * strands * face.moustache, 0, 0.96),
    )


def front(body: Body, face: Face, res: float) -> F32:
    """Paint the static parts of the front: skin, lines, beard. RGB (H, W, 3)."""
    grid = sheet(res)
    image = np.empty((grid.y.shape[0], grid.x.shape[1], 3), np.float32)
    image[:] = skin_colour(face)
    image *= (1 + 0.012 * _grain(res, 0.02, 0.02, 3))[..., None]
    _skin_marks(image, grid, body, face)
    _beard(image, grid, face)
    return image


def eye_sheets(res: float) -> tuple[Sheet, Sheet]:
    """Return the parts of the sheet with the image-left and image-right eye and brow."""
    return sheet(res, -0.62, -0.02, -0.46, 0.16), sheet(res, 0.02, 0.62, -0.46, 0.16)


def mouth_sheet(res: float) -> Sheet:
    return sheet(res, -0.42, 0.42, 0.4, 0.94)


class Eye(NamedTuple):
    """An eye's opening: coordinates along and across, half length, lids, and mask 0 to 1."""

    u: F32
    v: F32
    half: float
    lid: F32
    low: F32
    inside: F32


def eye_opening(grid: Sheet, side: int, body: Body, face: Face, act: Expression) -> Eye:
    """Return the opening between the lids; ``side`` -1 is the image-left eye."""
    soft = max(1.3 / grid.res, 0.012)
    u = (grid.x - side * body.eye_gap) * side
    v = grid.y - EYE_Y - (0.28 - 0.5 * face.eye_tilt) * u
    half = 0.142 + 0.022 * face.eye_size
    arch = np.clip(1 - (u / half) ** 2, 0, None)
    lid = (0.064 + 0.052 * face.eye_size) * (1 - 1.45 * act.blink - 0.1 * max(act.smile, 0)) * arch**0.75
    low = (0.045 + 0.02 * face.eye_size) * arch
    opening = np.minimum(v + lid, low - v)
    inside = step(np.asarray(np.where(np.abs(u) < half, opening, -1), np.float32), soft)
    return Eye(u, v, half, lid, low, inside)


def paint_eye(image: F32, grid: Sheet, side: int, body: Body, face: Face, act: Expression) -> None:
    """Paint eye and brow onto a patch in place; ``side`` -1 is the image-left eye."""
    _brow(image, grid, side, body, face, act)
    eye = eye_opening(grid, side, body, face, act)
    u, v, half, lid, low = eye.u, eye.v, eye.half, eye.lid, eye.low
    _eyeball(image, grid, side, body, face, act, eye.inside, np.asarray(v + lid, np.float32))
    skin = skin_colour(face)
    within = np.exp(-power(u / (half * 1.08), 8))
    crease = np.exp(-(((v + lid + 0.045 + 0.02 * face.eye_size) / 0.014) ** 2)) * within
    blend(image, skin * 0.55, np.asarray(0.5 * crease, np.float32))
    thick = 0.012 + 0.022 * face.lashes
    wing = 1 + 0.5 * np.clip(u / half, -1, 1)
    lash = np.exp(-power((v + lid + 0.4 * thick) / (thick * wing), 4)) * within
    blend(image, np.array([34, 24, 24], np.float32), np.asarray((0.6 + 0.4 * face.lashes) * lash, np.float32))
    lower = np.exp(-(((v - low) / 0.012) ** 2)) * within
    blend(image, skin * 0.45, np.asarray(0.55 * lower, np.float32))


def _eyeball(
    image: F32, grid: Sheet, side: int, body: Body, face: Face, act: Expression, inside: F32, below_lid: F32
) -> None:
    soft = max(1.3 / grid.res, 0.010)
    cx, cy = side * body.eye_gap + 0.055 * act.gaze_x, EYE_Y - 0.008 + 0.03 * act.gaze_y
    radius = np.asarray(np.sqrt((grid.x - cx) ** 2 + (grid.y - cy) ** 2), np.float32)
    ball = np.empty_like(image)
    ball[:] = np.array([242, 240, 238], np.float32)
    colour = _ramp(_IRIS, face.iris)
    iris = 0.082
    blend(ball, colour * 0.45, step(iris - radius, soft))
    ring = step(iris - 0.014 - radius, soft)
    blend(ball, colour * 1.12, ring * np.clip(0.75 + (grid.y - cy) * 4, 0.3, 1))
    blend(ball, np.array([14, 12, 14], np.float32), step(0.036 - radius, soft))
    ball *= np.clip(0.62 + below_lid * 9, 0.5, 1)[..., None]
    glint = step(0.018 - np.hypot(grid.x - cx + 0.026, grid.y - cy + 0.028), soft)
    blend(ball, np.array([255, 255, 255], np.float32), np.asarray(0.95 * glint, np.float32))
    image += inside[..., None] * (ball - image)


def brow_cover(grid: Sheet, side: int, body: Body, face: Face, act: Expression) -> F32:
    """Return the mask of a brow, 0 to 1."""
    u = (grid.x - side * (body.eye_gap + 0.01)) * side
    tilt = 0.16 - 0.5 * face.brow_tilt
    middle = -0.245 - 0.03 * act.brows + tilt * u * 0.75 + 0.9 * np.maximum(u - 0.06, 0) ** 2
    taper = np.clip(1.1 - 0.9 * np.clip((u + 0.05) / 0.26, 0, 1), 0.2, 1)
    thick = (0.022 + 0.042 * face.brow_thickness) * taper
    ends = np.clip((0.215 - u) / 0.03, 0, 1) * np.clip((u + 0.195) / 0.03, 0, 1)
    return np.asarray(np.exp(-power((grid.y - middle) / thick, 4)) * ends, np.float32)


def _brow(image: F32, grid: Sheet, side: int, body: Body, face: Face, act: Expression) -> None:
    cover = brow_cover(grid, side, body, face, act)
    strands = np.clip(0.9 + 0.12 * _grain(grid.res, 0.008, 0.012, 9)[grid.rows, grid.cols], 0, 1)
    strength = (0.72 + 0.28 * face.brow_thickness) * strands
    blend(image, _ramp(_HAIR, face.brow_shade) * 0.9, np.asarray(np.clip(cover * strength, 0, 1), np.float32))
