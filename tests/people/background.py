"""Faceless backgrounds, and boards that occlude rendered people."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from tests.people.actors import U8, Layer


def _skin_colour(rng: np.random.Generator) -> tuple[int, int, int]:
    light = rng.uniform(0.35, 1.0)
    blue, green, red = (np.array([165, 190, 235]) * light * rng.uniform(0.93, 1.07, 3)).clip(0, 255)
    return int(blue), int(green), int(red)


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    if rng.random() < 0.35:
        return _skin_colour(rng)
    colour = rng.integers(25, 235, 3)
    blue, green, red = colour.mean() + rng.uniform(0.25, 1.0) * (colour - colour.mean())
    return int(blue), int(green), int(red)


def random_background(rng: np.random.Generator, size: tuple[int, int]) -> U8:
    """Paint a faceless background of wall, stripes, discs, ovals and blocks, some skin-coloured; BGR."""
    width, height = size
    corners = np.array([[_colour(rng), _colour(rng)], [_colour(rng), _colour(rng)]], np.float32)
    corners = rng.uniform(80, 170) + rng.uniform(0.2, 0.7) * (corners - corners.mean())
    wall = cv2.resize(corners, size, interpolation=cv2.INTER_CUBIC)
    for cells, strength in ((6, 18), (24, 10), (90, 6)):
        grid = rng.standard_normal((cells, cells * width // height + 1)).astype(np.float32)
        wall += strength * cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC)[..., None]
    image = np.clip(wall, 0, 255).astype(np.uint8)
    for _ in range(int(rng.integers(10, 26))):
        _shape(rng, image)
    return np.asarray(cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.6))), np.uint8)


def _shape(rng: np.random.Generator, image: U8) -> None:
    height, width = image.shape[:2]
    x, y = int(rng.integers(width)), int(rng.integers(height))
    size = int(height * rng.uniform(0.03, 0.22))
    colour, other, kind = _colour(rng), _colour(rng), rng.random()
    if kind < 0.25:
        axes, angle = (size, round(size * rng.uniform(0.9, 1.4))), rng.uniform(-30, 30)
        cv2.ellipse(image, (x, y), axes, angle, 0, 360, colour, -1, cv2.LINE_AA)
        if rng.random() < 0.6:
            _dots(rng, image, x, y, size, other)
    elif kind < 0.45:
        cv2.circle(image, (x, y), size, colour, -1, cv2.LINE_AA)
        cv2.circle(image, (x, y), max(size // 2, 1), other, -1, cv2.LINE_AA)
    elif kind < 0.7:
        for k in range(int(rng.integers(3, 9))):
            at = x + k * max(size // 3, 2)
            end = at + int(size * rng.uniform(-0.1, 0.1)), y + 3 * size
            cv2.line(image, (at, y), end, colour, max(size // 7, 1), cv2.LINE_AA)
    else:
        cv2.rectangle(image, (x, y), (x + 2 * size, y + round(size * rng.uniform(0.5, 2.5))), colour, -1)
        cv2.rectangle(image, (x, y), (x + 2 * size, y + size), other, max(size // 10, 1))


def _dots(
    rng: np.random.Generator, image: U8, x: int, y: int, size: int, colour: tuple[int, int, int]
) -> None:
    """Draw dots and bars on an oval, never arranged like a face."""
    for _ in range(int(rng.integers(1, 6))):
        dx, dy = (size * rng.uniform(-0.6, 0.6, 2)).astype(int)
        if rng.random() < 0.6:
            cv2.circle(image, (x + int(dx), y + int(dy)), max(size // 7, 1), colour, -1, cv2.LINE_AA)
        else:
            cv2.line(image, (x + int(dx), y + int(dy)), (x - int(dx), y + int(dy)), colour, max(size // 9, 1))


def board(centre: npt.NDArray[np.float64], half: npt.NDArray[np.float64], angle: float, hue: float) -> Layer:
    """Draw a striped board: half sizes in pixels, rotated by ``angle`` radians."""
    reach = float(np.hypot(*half)) + 2
    left, top = math.floor(centre[0] - reach), math.floor(centre[1] - reach)
    size = math.ceil(2 * reach)
    px = (np.arange(left, left + size) - centre[0])[None, :]
    py = (np.arange(top, top + size) - centre[1])[:, None]
    c, s = math.cos(angle), math.sin(angle)
    u, v = c * px + s * py, c * py - s * px
    alpha = np.clip(half[0] - np.abs(u) + 0.5, 0, 1) * np.clip(half[1] - np.abs(v) + 0.5, 0, 1)
    stripe = 0.5 + 0.5 * np.sign(np.sin(v / half[1] * 14 + u / half[0]))
    one = np.array([60 + 150 * hue, 120, 200 - 150 * hue], np.float32)
    two = np.array([225, 215 - 120 * hue, 120 + 60 * hue], np.float32)
    colour = one + stripe[..., None].astype(np.float32) * (two - one)
    return Layer(left, top, colour.astype(np.float32), alpha.astype(np.float32))
