"""What surrounds a face: hair, neck, shoulders and clothes. Colours are float32 RGB 0..255."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from tests.people.looks import Body, Look
from tests.people.paint import F32, blend, power, skin_colour, step

HAIR_TOP, HAIR_BOTTOM = -1.35, 1.75  # vertical range of the hair map, head units


def _hairline(style: str, azimuth: F32) -> F32:
    """Height of the hair's lower edge over azimuth (0 is the front), head units."""
    angle = np.abs(azimuth)
    side = np.clip((angle - 0.75) / 0.45, 0, 1)
    back = np.clip((angle - 1.5) / 0.25, 0, 1)
    top = {"fringe": -0.33, "bob": -0.37, "receding": -0.9, "curly": -0.56}.get(style, -0.6)
    front = np.full_like(azimuth, top)
    if style in ("parted", "long", "bun"):
        front = -0.5 - 0.2 * np.exp(-(((azimuth - 0.25) / 0.32) ** 2))
    if style == "receding":
        side = np.clip((angle - 1.05) / 0.3, 0, 1)
    burns = {"long": 1.3, "bob": 0.62, "bun": -0.12, "receding": -0.02}.get(style, 0.02)
    edge = front + side * (burns - front)
    nape = {"long": 1.6, "bob": 0.72}.get(style, 0.12)
    return np.asarray(edge + back * (nape - edge), np.float32)


@lru_cache(maxsize=16)
def _strands(style: str, shape: tuple[int, int]) -> F32:
    rng = np.random.default_rng(len(style))
    noise = rng.standard_normal(shape).astype(np.float32)
    if style == "curly":
        curls = cv2.GaussianBlur(noise, (0, 0), 3.2)
        return np.asarray(curls / curls.std(), np.float32)
    fine = cv2.GaussianBlur(noise, (0, 0), sigmaX=1.1, sigmaY=16)
    broad = cv2.GaussianBlur(noise, (0, 0), sigmaX=5, sigmaY=30)
    return np.asarray(0.6 * fine / fine.std() + 0.6 * broad / broad.std(), np.float32)


def hair_map(body: Body) -> tuple[F32, F32]:
    """Paint colour (480, 512, 3) and mask (480, 512); rows are heights, columns azimuths -pi..pi."""
    rows, cols = 480, 512
    rng = np.random.default_rng(int(sum(body.hair)) + len(body.style))
    azimuth = np.linspace(-np.pi, np.pi, cols, dtype=np.float32)[None, :]
    height = np.linspace(HAIR_TOP, HAIR_BOTTOM, rows, dtype=np.float32)[:, None]
    strands = _strands(body.style, (rows, cols))
    ragged = cv2.GaussianBlur(rng.standard_normal((1, cols)).astype(np.float32), (0, 0), 4.0)
    jag = {"fringe": 0.03, "curly": 0.035, "long": 0.03}.get(body.style, 0.018)
    edge = _hairline(body.style, azimuth) + jag * ragged / ragged.std()
    above = edge - height + 0.02 * (strands if body.style == "curly" else 0)
    cover = step(np.asarray(above, np.float32), 0.045)
    if body.style == "bald":
        cover = cover * 0
    light = 1 + (0.24 if body.style == "curly" else 0.13) * strands
    light = light * np.clip(0.72 + (edge - height) * 1.2, 0.72, 1)
    colour = np.asarray(body.hair, np.float32) * np.clip(light, 0.4, 1.6)[..., None]
    return np.asarray(colour, np.float32), np.asarray(cover, np.float32)


def _torso(x: F32, y: F32, build: float) -> F32:
    slope = 0.52 + 0.42 * (np.abs(x) / (1.25 * build)) ** 2.2
    neck = np.minimum(0.34 + 0.35 * np.clip(y - 0.15, 0, 1) ** 2.5 - np.abs(x), y + 0.4)
    shoulders = np.minimum(y - slope, 1.32 * build + 0.25 * np.clip(y - 0.7, 0, 2) * 0.4 - np.abs(x))
    return np.asarray(np.maximum(neck, shoulders), np.float32)


def _clothes(image: F32, x: F32, y: F32, body: Body, soft: float) -> None:
    neckline = 0.42 - 0.9 * np.clip(x * x, 0, 0.16) * 1.6
    if body.pattern == 2:
        neckline = 0.80 - 1.3 * np.abs(x)
    slope = 0.50 + 0.42 * (np.abs(x) / (1.25 * body.build)) ** 2.2
    dress = step(np.asarray(np.minimum(y - neckline, y - slope + 0.03), np.float32), soft)
    cloth = np.empty_like(image)
    cloth[:] = body.cloth
    if body.pattern == 1:
        stripes = step(np.asarray(np.sin(y * 22) + 0 * x, np.float32), 0.4)
        blend(cloth, np.asarray(body.trim, np.float32), stripes)
    folds = 1 - 0.10 * np.exp(-(((np.abs(x) - 0.95 * body.build) / 0.07) ** 2)) * np.clip(y - 0.9, 0, 1)
    cloth *= np.asarray(folds, np.float32)[..., None]
    image += dress[..., None] * (cloth - image)
    collar = np.exp(-power((y - neckline - 0.03) / 0.045, 4)) * np.exp(-power(x / 0.45, 8)) * dress
    trim = body.trim if body.pattern else tuple(0.8 * c for c in body.cloth)
    blend(image, np.asarray(trim, np.float32), np.asarray(collar * 0.9, np.float32))


def torso_sprite(look: Look, res: float) -> F32:
    """Paint neck and shoulders, RGBA (H, W, 4), alpha 0..1, not premultiplied.

    The origin (hollow of the neck) lies 0.6 units below the top edge in the middle column.
    """
    x = ((np.arange(round(3.4 * res)) + 0.5) / res - 1.7).astype(np.float32)[None, :]
    y = ((np.arange(round(5.6 * res)) + 0.5) / res - 0.6).astype(np.float32)[:, None]
    soft = 1.5 / res
    image = np.empty((y.shape[0], x.shape[1], 4), np.float32)
    rgb = np.empty((y.shape[0], x.shape[1], 3), np.float32)
    rgb[:] = skin_colour(look.skin) * 0.92
    rgb *= np.clip(0.55 + (y + 0.05) * 0.9, 0.5, 1)[..., None]
    rgb *= (1 - 0.35 * np.clip(np.abs(x) / 0.4, 0, 1) ** 2.5 * np.clip((0.5 - y) * 4, 0, 1))[..., None]
    _clothes(rgb, x, y, look.body, soft)
    rgb *= (1.02 - 0.26 * np.clip(np.abs(x) / (1.4 * look.body.build), 0, 1) ** 3)[..., None]
    rgb *= (1 - 0.18 * np.clip(x * 0.7 + 0.1, 0, 1))[..., None]
    image[..., :3] = np.clip(rgb, 0, 255)
    image[..., 3] = step(_torso(x, y, look.body.build), soft)
    return image
