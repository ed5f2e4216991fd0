"""Objects in front of faces (microphones, hands, glasses, bars), drawn as layers."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from tests.people.background import board
from tests.people.paint import F32
from tests.people.raycast import Layer

Cover = Literal["microphone", "hand", "glasses", "bar"]
COVERS: tuple[Cover, ...] = get_args(Cover)

Points = npt.NDArray[np.floating]


class _Canvas:
    """Pixels around a point, in units of ``scale`` pixels, rotated by ``angle`` radians."""

    def __init__(self, at: Points, scale: float, angle: float, reach: float) -> None:
        self.scale = scale
        self.left, self.top = (math.floor(value - reach * scale) - 2 for value in at)
        size = math.ceil(2 * reach * scale) + 4
        px = (np.arange(self.left, self.left + size) - at[0])[None, :] / scale
        py = (np.arange(self.top, self.top + size) - at[1])[:, None] / scale
        c, s = math.cos(angle), math.sin(angle)
        self.u, self.v = (np.asarray(part, np.float32) for part in (c * px + s * py, c * py - s * px))
        self.colour = np.zeros((size, size, 3), np.float32)
        self.alpha = np.zeros((size, size), np.float32)

    def disc(self, x: float, y: float, rx: float, ry: float) -> F32:
        """Signed distance to an ellipse in pixels, positive inside; exact for circles."""
        inside = 1 - np.hypot((self.u - x) / rx, (self.v - y) / ry)
        return np.asarray(inside * min(rx, ry) * self.scale, np.float32)

    def stick(self, a: tuple[float, float], b: tuple[float, float], radius: float) -> F32:
        """Signed distance to a line with round ends in pixels, positive inside."""
        along = np.array(b) - np.array(a)
        x, y = self.u - a[0], self.v - a[1]
        t = np.clip((x * along[0] + y * along[1]) / float(along @ along), 0, 1)
        return np.asarray((radius - np.hypot(x - t * along[0], y - t * along[1])) * self.scale, np.float32)

    def put(self, inside: F32, colour: npt.ArrayLike) -> None:
        """Paint a colour where a distance is positive, with a soft edge of one pixel."""
        mask = np.clip(inside + 0.5, 0, 1)[..., None]
        self.colour += mask * (np.asarray(colour, np.float32) - self.colour)
        self.alpha = np.maximum(self.alpha, mask[..., 0])

    def layer(self) -> Layer:
        # Not premultiplied: edge pixels keep the object's own colour.
        colour = self.colour / np.maximum(self.alpha, 1e-3)[..., None]
        return Layer(self.left, self.top, np.clip(colour, 0, 255), self.alpha)


def microphone(at: Points, scale: float, angle: float, hue: float) -> Layer:
    """Draw a microphone with its head (radius 0.2 units) at a point and its handle downwards."""
    c = _Canvas(at, scale, angle, 2.0)
    shade = (0.6 + 0.4 * np.clip(0.5 - 4 * c.u, 0, 1))[..., None]
    dark = np.array([28 + 40 * hue, 30, 36 + 30 * (1 - hue)], np.float32)
    c.put(c.stick((0, 0.2), (0, 1.9), 0.085), dark * shade)
    mesh = 0.75 + 0.25 * np.sign(np.sin(c.u * 90) * np.sin(c.v * 90))
    light = np.clip(1 - 1.6 * np.hypot(c.u + 0.07, c.v + 0.08) / 0.2, 0, 1)
    grey = (
        np.array([70, 72, 76], np.float32) if hue < 0.6 else np.array([40, 60 * hue, 120 * hue], np.float32)
    )
    c.put(c.disc(0, 0, 0.2, 0.21), grey * mesh[..., None] + 120 * light[..., None])
    return c.layer()


def hand(at: Points, scale: float, angle: float, skin: npt.ArrayLike) -> Layer:
    """Draw a raised hand with the palm at a point and the forearm downwards."""
    c = _Canvas(at, scale, angle, 2.2)
    skin = np.asarray(skin, np.float32)
    shade = (0.86 + 0.14 * np.clip(0.6 - 1.2 * c.u, 0, 1))[..., None]
    c.put(c.stick((0, 0.3), (0.1, 2.1), 0.2), skin * 0.9 * shade)
    c.put(c.disc(0, 0.05, 0.3, 0.34), skin * shade)
    for k, length in enumerate((0.42, 0.52, 0.5, 0.38)):
        x = -0.225 + 0.15 * k
        tip = (x * 1.25, -0.2 - length)
        c.put(c.stick((x, 0.0), tip, 0.085), skin * 0.62)
        c.put(c.stick((x, 0.0), tip, 0.072), skin * shade)
        c.put(c.disc(tip[0], tip[1] - 0.02, 0.035, 0.04), skin * 1.08)
    c.put(c.stick((-0.2, 0.2), (-0.48, -0.12), 0.095), skin * 0.65)
    c.put(c.stick((-0.2, 0.2), (-0.48, -0.12), 0.08), skin * 0.95 * shade)
    return c.layer()


def glasses(kps: F32, scale: float, hue: float) -> Layer:
    """Draw a glasses frame around the eyes of landmarks ``(5, 2)``; the lenses are transparent."""
    left, right = np.asarray(kps[:2], np.float64)
    across = right - left
    c = _Canvas((left + right) / 2, scale, math.atan2(across[1], across[0]), 1.2)
    half = float(np.hypot(*across)) / 2 / scale
    colour = np.array([20 + 120 * hue, 24 + 30 * hue, 30 + 20 * (1 - hue)], np.float32)
    width = 0.035 + 0.02 * hue
    for side in (-1, 1):
        rim = np.abs(c.disc(side * half, 0.02, 0.23, 0.19)) - width * c.scale
        c.put(-rim, colour)
        c.put(c.stick((side * (half + 0.23), -0.03), (side * (half + 0.42), -0.05), width), colour)
    c.put(c.stick((-max(half - 0.23, 0.01), -0.02), (max(half - 0.23, 0.01), -0.02), width), colour)
    return c.layer()


def cover(kind: Cover, kps: F32, scale: float, draw: F32, shift: tuple[float, float] = (0.0, 0.0)) -> Layer:
    """Draw a cover in a plausible place: microphone and hand at the mouth, bar across the face.

    Args:
        kind: Type of cover.
        kps: The face's landmarks ``(5, 2)``, frame pixels.
        scale: Pixels per head unit, half a head's height.
        draw: Six random numbers in 0..1 that set appearance and position.
        shift: Offset, head units.
    """
    mouth = np.asarray(kps[3:].mean(0) + scale * np.asarray(shift), np.float64)
    if kind == "glasses":
        return glasses(kps, scale, float(draw[0]))
    if kind == "microphone":
        at = mouth + scale * np.array([0.3 * (draw[1] - 0.5), 0.05 + 0.2 * draw[2]])
        return microphone(at, scale * (0.9 + 0.5 * draw[3]), 1.4 * (float(draw[4]) - 0.5), float(draw[0]))
    if kind == "hand":
        skin = np.array([250, 205, 180], np.float32) * (0.4 + 0.6 * draw[0]) * (1 - 0.1 * draw[5])
        at = mouth + scale * np.array([0.7 * (draw[1] - 0.5), 0.3 + 0.4 * draw[2]])
        return hand(at, scale * (0.8 + 0.3 * draw[3]), 2.2 * (float(draw[4]) - 0.5), skin)
    middle = np.asarray(kps.mean(0) + scale * np.asarray(shift), np.float64)
    at = middle + scale * (draw[1:3] - 0.5) * np.array([0.9, 0.7])
    half = scale * np.array([0.05 + 0.08 * draw[3], 2.5])
    return board(at, half, float(np.pi * draw[4]), float(draw[0]))
