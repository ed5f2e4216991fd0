"""Heads as lathe surfaces, intersected by parallel rays.

At each height the head is an ellipse, its half axes across and in depth given by two profiles
(superellipses for skull and jaw), plus a painted relief (nose, eye sockets, cheeks). The hair is a second,
slightly larger lathe whose mask is painted over azimuth and height. Rays are parallel; each is intersected
with the ellipse of its own height and refined a few times, since height and relief change little along it.
Yaw, pitch and roll therefore need no extra work.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from tests.people.looks import Body
from tests.people.paint import F32, HALF_HEIGHT, HALF_WIDTH

U8 = npt.NDArray[np.uint8]

_LUT_LOW, _LUT_HIGH, _LUT_SIZE = -1.5, 1.9, 1024
_CLOSED = 1e-3
_MIDDLE = -0.12  # height of the widest part of the skull, head units


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Position of a head in frame pixels and its rotation in degrees."""

    x: float
    y: float
    scale: float  # pixels per head unit (half the height of the head)
    yaw: float = 0.0  # positive turns the face to the image's right
    pitch: float = 0.0  # positive looks down
    roll: float = 0.0  # positive turns the head clockwise on the screen


@dataclass(frozen=True, kw_only=True)
class Light:
    """A key light and ambient light."""

    direction: tuple[float, float, float] = (-0.45, -0.55, 0.7)  # towards the key light, z to the camera
    key: float = 0.58  # strength of the key light
    fill: float = 0.47  # strength of the ambient light
    tint: tuple[float, float, float] = (1.0, 0.97, 0.92)  # of the key light, RGB factors


@dataclass(frozen=True)
class Layer:
    """An image with alpha, positioned in a frame; ``left``/``top`` may lie outside it."""

    left: int
    top: int
    colour: F32
    alpha: F32
    region: F32 | None = None


def rotation(pose: Pose) -> F32:
    """Rotation from head to camera axes without roll (applied in the image plane), (3, 3)."""
    yaw, pitch = np.deg2rad(pose.yaw), np.deg2rad(pose.pitch)
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    nod = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    return np.asarray(nod @ turn, np.float32)


@dataclass(frozen=True)
class Lathe:
    """Half axes across (w) and in depth (d) over height, and their logarithmic derivatives."""

    w: F32
    d: F32
    dw: F32
    dd: F32


def _closed(y: F32, top: float, bottom: float, half: float, upper: float, lower: tuple[float, float]) -> F32:
    up = np.clip((_MIDDLE - y) / (_MIDDLE - top), 0, 1)
    down = np.clip((y - _MIDDLE) / (bottom - _MIDDLE), 0, 1)
    crown = (1 - up**upper) ** (1 / upper)
    jaw = (1 - down ** lower[0]) ** (1 / lower[1])
    return np.asarray(half * np.where(y < _MIDDLE, crown, jaw), np.float32)


def _lathe(w: F32, d: F32) -> Lathe:
    spacing = (_LUT_HIGH - _LUT_LOW) / (_LUT_SIZE - 1)
    w, d = np.maximum(w, np.float32(_CLOSED)), np.maximum(d, np.float32(_CLOSED))
    slopes = (np.clip(np.gradient(axis, spacing) / axis, -900, 900).astype(np.float32) for axis in (w, d))
    return Lathe(w, d, *slopes)


@lru_cache(maxsize=64)
def skull(body: Body) -> Lathe:
    y = np.linspace(_LUT_LOW, _LUT_HIGH, _LUT_SIZE, dtype=np.float32)
    jaw = (2.15 + 1.1 * body.jaw, 1.75 + 0.45 * body.jaw)
    return _lathe(_closed(y, -1.0, 1.0, body.width, 2.3, jaw), _closed(y, -1.0, 1.0, 0.8, 2.3, (3.4, 2.6)))


@lru_cache(maxsize=64)
def scalp(body: Body) -> Lathe:
    y = np.linspace(_LUT_LOW, _LUT_HIGH, _LUT_SIZE, dtype=np.float32)
    top = -1.0 - 1.1 * body.volume
    jaw = (2.15 + 1.1 * body.jaw, 1.75 + 0.45 * body.jaw)
    bottom, curve = (1.85, (4.0, 4.0)) if body.style in ("long", "bob") else (1.04, jaw)
    w = _closed(y, top, bottom, body.width + 0.7 * body.volume, 2.2, curve)
    return _lathe(w, _closed(y, top, bottom, 0.8 + 0.8 * body.volume, 2.3, curve))


@dataclass(frozen=True)
class Hit:
    """Intersections of rays and lathe: head coordinates, normal in camera axes, depth, edge measure."""

    x: F32
    y: F32
    z: F32
    normal: tuple[F32, F32, F32]
    depth: F32
    edge: F32


def lookup(table: F32, y: F32) -> F32:
    scale = (_LUT_SIZE - 1) / (_LUT_HIGH - _LUT_LOW)
    index = ((y - _LUT_LOW) * np.float32(scale)).astype(np.int32)
    return np.take(table, index, mode="clip")


def sample(texture: F32, res: float, x: F32, y: F32) -> F32:
    """Sample a frontal texture at head coordinates."""
    u = (x + np.float32(HALF_WIDTH)) * np.float32(res) - np.float32(0.5)
    v = (y + np.float32(HALF_HEIGHT)) * np.float32(res) - np.float32(0.5)
    return np.asarray(cv2.remap(texture, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)


@dataclass(frozen=True)
class Rays:
    """Parallel rays in head axes: origin (plane z = 0 of the camera) and common direction."""

    origin: tuple[F32, F32, F32]
    direction: tuple[float, float, float]
    matrix: F32


def cast_rays(u: F32, v: F32, matrix: F32) -> Rays:
    ox, oy, oz = (matrix[0, k] * u + matrix[1, k] * v for k in range(3))
    return Rays((ox, oy, oz), (float(matrix[2, 0]), float(matrix[2, 1]), float(matrix[2, 2])), matrix)


def intersect(rays: Rays, lathe: Lathe, height: F32 | None, res: float, steps: int) -> Hit:
    """Intersect rays with a lathe, optionally raised by a relief (whole sheet at ``res``)."""
    (ox, oy, oz), (bx, by, bz) = rays.origin, rays.direction
    t: F32 = np.full_like(ox, 0.6)
    lift: F32 | float = 0.0
    edge: F32 = t
    for turn in range(steps):
        y = oy + by * t
        w, d = lookup(lathe.w, y), lookup(lathe.d, y)
        if height is not None and turn:
            fresh = sample(height, res, ox + bx * t, y)
            lift = fresh if turn == 1 else 0.5 * (lift + fresh)
        iw, idp = 1 / (w * w), 1 / (d * d)
        az = oz - lift
        a = bx * bx * iw + bz * bz * idp
        b = ox * bx * iw + az * bz * idp
        c = ox * ox * iw + az * az * idp - 1
        disc = b * b - a * c
        t = np.asarray((np.sqrt(np.maximum(disc, 0)) - b) / a, np.float32)
        # At the poles the lathe's axes are tiny, not zero: no hit there.
        edge = np.asarray(np.where(w > 8 * _CLOSED, disc / (a * a), np.float32(-1)), np.float32)
    x, y, z = ox + bx * t, oy + by * t, oz + bz * t
    w, d = lookup(lathe.w, y), lookup(lathe.d, y)
    # Beyond crown and chin of pitched heads the refinement does not converge: no hit there.
    edge = np.where(np.abs((x / w) ** 2 + ((z - lift) / d) ** 2 - 1) < 0.2, edge, np.float32(-1)).astype(
        np.float32
    )
    return Hit(x, y, z, _normal(lathe, x, y, z, height, lift, res, rays.matrix), t, edge)


def _normal(
    lathe: Lathe, x: F32, y: F32, z: F32, height: F32 | None, lift: F32 | float, res: float, matrix: F32
) -> tuple[F32, F32, F32]:
    w, d = lookup(lathe.w, y), lookup(lathe.d, y)
    up = z - lift
    # The gradient times d squared, which stays of order one at the poles.
    ratio = (d / w) ** 2
    nz = up
    nx = x * ratio
    ny = -(x * x * ratio * lookup(lathe.dw, y) + up * up * lookup(lathe.dd, y))
    if height is not None:
        half = np.float32(1.0 / res)
        east, west = sample(height, res, x + half, y), sample(height, res, x - half, y)
        south, north = sample(height, res, x, y + half), sample(height, res, x, y - half)
        nx = nx - nz * (east - west) / (2 * half)
        ny = ny - nz * (south - north) / (2 * half)
    inverse = 1 / np.sqrt(nx * nx + ny * ny + nz * nz + 1e-12)
    nx, ny, nz = nx * inverse, ny * inverse, nz * inverse
    cam = [matrix[k, 0] * nx + matrix[k, 1] * ny + matrix[k, 2] * nz for k in range(3)]
    return cam[0], cam[1], cam[2]


def shade(colour: F32, normal: tuple[F32, F32, F32], light: Light, gloss: float) -> F32:
    """Shade a colour (H, W, 3): wrapped key light, ambient light from above, soft highlight."""
    lx, ly, lz = np.asarray(light.direction) / np.linalg.norm(light.direction)
    nx, ny, nz = normal
    facing = np.clip((nx * np.float32(lx) + ny * np.float32(ly) + nz * np.float32(lz) + 0.35) / 1.35, 0, 1)
    around = light.fill * (0.86 - 0.14 * ny) * (0.72 + 0.28 * np.clip(nz, 0, 1))
    half = np.array([lx, ly, lz + 1.0])
    hx, hy, hz = (half / np.linalg.norm(half)).astype(np.float32)
    shine = np.clip(nx * hx + ny * hy + nz * hz, 0, 1)
    shine = shine * shine * shine * shine
    shine = np.float32(gloss) * shine * shine * shine * shine * shine
    lamp = (light.key * facing)[..., None] * np.asarray(light.tint, np.float32)
    shaded = np.clip(colour * (around[..., None] + lamp) + 255 * shine[..., None], 0, 255)
    return np.asarray(shaded, np.float32)


@dataclass(frozen=True)
class PixelSubset:
    """A subset of a square's pixels in rows of 64, so that rays are cast only where needed."""

    index: npt.NDArray[np.intp]
    count: int

    @staticmethod
    def of(mask: npt.NDArray[np.bool_]) -> PixelSubset:
        index = np.flatnonzero(mask)
        count = len(index)
        filled = np.zeros(max(-(-count // 64), 1) * 64, np.intp)
        filled[:count] = index
        return PixelSubset(filled.reshape(-1, 64), count)

    def take(self, image: F32) -> F32:
        return np.take(image.reshape(-1), self.index)

    def put(self, shape: tuple[int, ...], values: F32, rest: float = 0.0) -> F32:
        out = np.full((shape[0] * shape[1], *values.shape[2:]), rest, np.float32)
        out[self.index.reshape(-1)[: self.count]] = values.reshape(-1, *values.shape[2:])[: self.count]
        return out.reshape(*shape[:2], *values.shape[2:])
