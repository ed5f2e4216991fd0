"""Rendered people: a small analytic head, ray cast per pixel, with exact landmarks.

The head is a lathe: at each height an ellipse across and in depth, its half axes given by two
profiles (superellipses for skull and jaw), plus a painted relief (nose, sockets, cheeks). The hair is a
second, slightly larger lathe whose cover is painted over azimuth and height. Rays are parallel;
each is intersected with the ellipse of its own height and refined a few times, since height and
relief change little along it. Turning, nodding and tilting therefore come for free, and every
landmark is the projection of a point of the same surface.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from tests.people import paint
from tests.people.looks import Body, Face, Look, look_of
from tests.people.paint import EYE_Y, F32, HALF_HEIGHT, HALF_WIDTH, NOSE_Y, Expression

U8 = npt.NDArray[np.uint8]

_LUT_LOW, _LUT_HIGH, _LUT_SIZE = -1.5, 1.9, 1024
_CLOSED = 1e-3
_MIDDLE = -0.12  # height of the widest part of the skull, head units


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Where a head is and how it is turned.

    Attributes:
        x: Middle of the head in frame pixels, image right.
        y: The same, down.
        scale: Pixels per head unit (half the height of the head).
        yaw: Degrees; positive turns the face to the image's right.
        pitch: Degrees; positive looks down.
        roll: Degrees; positive turns the head clockwise on the screen.
    """

    x: float
    y: float
    scale: float
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Light:
    """A lamp and the light around it.

    Attributes:
        direction: Towards the lamp, camera axes (x right, y down, z to the camera).
        key: Strength of the lamp.
        fill: Strength of the light around.
        tint: Colour of the lamp, RGB factors.
    """

    direction: tuple[float, float, float] = (-0.45, -0.55, 0.7)
    key: float = 0.58
    fill: float = 0.47
    tint: tuple[float, float, float] = (1.0, 0.97, 0.92)


@dataclass(frozen=True)
class Layer:
    """A picture with cover that lies on a frame: ``left``/``top`` may lie outside it."""

    left: int
    top: int
    colour: F32
    alpha: F32
    region: F32 | None = field(default=None)


def _rotation(pose: Pose) -> F32:
    """Head to camera axes without roll (roll happens in the picture plane), (3, 3)."""
    yaw, pitch = np.deg2rad(pose.yaw), np.deg2rad(pose.pitch)
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    nod = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    return np.asarray(nod @ turn, np.float32)


@dataclass(frozen=True)
class _Lathe:
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


def _lathe(w: F32, d: F32) -> _Lathe:
    spacing = (_LUT_HIGH - _LUT_LOW) / (_LUT_SIZE - 1)
    w, d = np.maximum(w, np.float32(_CLOSED)), np.maximum(d, np.float32(_CLOSED))
    slopes = (np.clip(np.gradient(axis, spacing) / axis, -900, 900).astype(np.float32) for axis in (w, d))
    return _Lathe(w, d, *slopes)


@lru_cache(maxsize=64)
def _skull(body: Body) -> _Lathe:
    y = np.linspace(_LUT_LOW, _LUT_HIGH, _LUT_SIZE, dtype=np.float32)
    jaw = (2.15 + 1.1 * body.jaw, 1.75 + 0.45 * body.jaw)
    return _lathe(_closed(y, -1.0, 1.0, body.width, 2.3, jaw), _closed(y, -1.0, 1.0, 0.8, 2.3, (3.4, 2.6)))


@lru_cache(maxsize=64)
def _scalp(body: Body) -> _Lathe:
    y = np.linspace(_LUT_LOW, _LUT_HIGH, _LUT_SIZE, dtype=np.float32)
    top = -1.0 - 1.1 * body.volume
    jaw = (2.15 + 1.1 * body.jaw, 1.75 + 0.45 * body.jaw)
    bottom, curve = (1.85, (4.0, 4.0)) if body.style in ("long", "bob") else (1.04, jaw)
    w = _closed(y, top, bottom, body.width + 0.7 * body.volume, 2.2, curve)
    return _lathe(w, _closed(y, top, bottom, 0.8 + 0.8 * body.volume, 2.3, curve))


@dataclass(frozen=True)
class _Hit:
    """Where rays meet a lathe: head coordinates, normal in camera axes, depth, edge measure."""

    x: F32
    y: F32
    z: F32
    normal: tuple[F32, F32, F32]
    depth: F32
    edge: F32


def _lookup(table: F32, y: F32) -> F32:
    scale = (_LUT_SIZE - 1) / (_LUT_HIGH - _LUT_LOW)
    index = ((y - _LUT_LOW) * np.float32(scale)).astype(np.int32)
    return np.take(table, index, mode="clip")


def _sample(texture: F32, res: float, x: F32, y: F32) -> F32:
    """Look a texture of the front up at head coordinates."""
    u = (x + np.float32(HALF_WIDTH)) * np.float32(res) - np.float32(0.5)
    v = (y + np.float32(HALF_HEIGHT)) * np.float32(res) - np.float32(0.5)
    return np.asarray(cv2.remap(texture, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)


@dataclass(frozen=True)
class _Rays:
    """Parallel rays in head axes: origin (plane z = 0 of the camera) and common direction."""

    origin: tuple[F32, F32, F32]
    direction: tuple[float, float, float]
    matrix: F32


def _rays(u: F32, v: F32, matrix: F32) -> _Rays:
    ox, oy, oz = (matrix[0, k] * u + matrix[1, k] * v for k in range(3))
    return _Rays((ox, oy, oz), (float(matrix[2, 0]), float(matrix[2, 1]), float(matrix[2, 2])), matrix)


def _cast(rays: _Rays, lathe: _Lathe, height: F32 | None, res: float, steps: int) -> _Hit:
    """Meet rays with a lathe, optionally raised by a relief (whole sheet at ``res``)."""
    (ox, oy, oz), (bx, by, bz) = rays.origin, rays.direction
    t: F32 = np.full_like(ox, 0.6)
    lift: F32 | float = 0.0
    edge: F32 = t
    for turn in range(steps):
        y = oy + by * t
        w, d = _lookup(lathe.w, y), _lookup(lathe.d, y)
        if height is not None and turn:
            fresh = _sample(height, res, ox + bx * t, y)
            lift = fresh if turn == 1 else 0.5 * (lift + fresh)
        iw, idp = 1 / (w * w), 1 / (d * d)
        az = oz - lift
        a = bx * bx * iw + bz * bz * idp
        b = ox * bx * iw + az * bz * idp
        c = ox * ox * iw + az * az * idp - 1
        disc = b * b - a * c
        t = np.asarray((np.sqrt(np.maximum(disc, 0)) - b) / a, np.float32)
        # Where the lathe is closed its axes are a hair's breadth, not zero: nothing is hit there.
        edge = np.asarray(np.where(w > 8 * _CLOSED, disc / (a * a), np.float32(-1)), np.float32)
    x, y, z = ox + bx * t, oy + by * t, oz + bz * t
    w, d = _lookup(lathe.w, y), _lookup(lathe.d, y)
    # Past crown and chin the refinement of nodding heads finds no fixed point: no hit there.
    edge = np.where(np.abs((x / w) ** 2 + ((z - lift) / d) ** 2 - 1) < 0.2, edge, np.float32(-1)).astype(
        np.float32
    )
    return _Hit(x, y, z, _normal(lathe, x, y, z, height, lift, res, rays.matrix), t, edge)


def _normal(
    lathe: _Lathe, x: F32, y: F32, z: F32, height: F32 | None, lift: F32 | float, res: float, matrix: F32
) -> tuple[F32, F32, F32]:
    w, d = _lookup(lathe.w, y), _lookup(lathe.d, y)
    up = z - lift
    # The gradient times d squared: stays of order one where the lathe closes.
    ratio = (d / w) ** 2
    nz = up
    nx = x * ratio
    ny = -(x * x * ratio * _lookup(lathe.dw, y) + up * up * _lookup(lathe.dd, y))
    if height is not None:
        half = np.float32(1.0 / res)
        east, west = _sample(height, res, x + half, y), _sample(height, res, x - half, y)
        south, north = _sample(height, res, x, y + half), _sample(height, res, x, y - half)
        nx = nx - nz * (east - west) / (2 * half)
        ny = ny - nz * (south - north) / (2 * half)
    inverse = 1 / np.sqrt(nx * nx + ny * ny + nz * nz + 1e-12)
    nx, ny, nz = nx * inverse, ny * inverse, nz * inverse
    cam = [matrix[k, 0] * nx + matrix[k, 1] * ny + matrix[k, 2] * nz for k in range(3)]
    return cam[0], cam[1], cam[2]


def _lit(colour: F32, normal: tuple[F32, F32, F32], light: Light, gloss: float) -> F32:
    """Shade a colour (H, W, 3): wrapped lamp, light from above, soft highlight."""
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
    lit = np.clip(colour * (around[..., None] + lamp) + 255 * shine[..., None], 0, 255)
    return np.asarray(lit, np.float32)


def _texture_res(scale: float) -> float:
    for res in (24.0, 48.0, 96.0, 192.0):
        if scale <= res:
            return res
    return 288.0


class _Store:
    """A small cache of textures by what they depend on; oldest out first."""

    def __init__(self, limit: int = 96) -> None:
        self.limit = limit
        self._items: dict[Hashable, Any] = {}

    def get(self, key: Hashable, make: Any) -> Any:
        if key not in self._items:
            if len(self._items) > self.limit - 1:
                self._items.pop(next(iter(self._items)))
            self._items[key] = make()
        return self._items[key]


_STORE = _Store()


def keep_textures(limit: int) -> None:
    """Let the cache hold more textures (about half a megabyte each) than a scene needs."""
    _STORE.limit = limit


def _window(res: float) -> F32:
    grid = paint.sheet(res)
    return _STORE.get(("window", res), lambda: paint.face_window(grid.x, grid.y))  # type: ignore[no-any-return]


def _mixed(kind: Any, look: Look, res: float) -> F32:
    """Paint a static texture; where the inner face ends, the body's own skin shows."""

    def make() -> F32:
        own: F32 = kind(look.body, look.skin, res)
        if look.face == look.skin:
            return own
        other: F32 = kind(look.body, look.face, res)
        window = _window(res)
        return own + (window if own.ndim == 2 else window[..., None]) * (other - own)

    return _STORE.get((kind.__name__, look.body, look.face, look.skin, res), make)  # type: ignore[no-any-return]


def _albedo(look: Look, act: Expression, res: float) -> F32:
    image = _mixed(paint.front, look, res).copy()
    for side, grid in zip((-1, 1), paint.eye_sheets(res), strict=True):
        paint.paint_eye(image[grid.rows, grid.cols], grid, side, look.body, look.face, act)
    grid = paint.mouth_sheet(res)
    paint.paint_mouth(image[grid.rows, grid.cols], grid, look.body, look.face, act)
    return image


def _opened(cover: F32, scale: float) -> F32:
    """Drop specks and spikes that the refinement leaves past the edge of a nodding head."""
    reach = 2 * max(round(0.035 * scale), 1) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    return np.asarray(cv2.morphologyEx(cover, cv2.MORPH_OPEN, kernel), np.float32)


def _soften(cover: F32, pixels: float) -> F32:
    """Anti-alias a hard cover by a blur about one pixel wide."""
    return np.asarray(cv2.GaussianBlur(cover, (0, 0), pixels), np.float32)


@dataclass(frozen=True)
class _Shell:
    """The hair on the head's square: colour, cover and depth."""

    colour: F32
    cover: F32
    depth: F32


@dataclass(frozen=True)
class _Skin:
    """Skull and ears on the head's square: colour, cover, depth, inner face region."""

    colour: F32
    cover: F32
    depth: F32
    region: F32


@dataclass(frozen=True)
class _Pick:
    """Some pixels of a square as rows of 64, so that rays are cast only where something is."""

    index: npt.NDArray[np.intp]
    count: int

    @staticmethod
    def of(mask: npt.NDArray[np.bool_]) -> _Pick:
        index = np.flatnonzero(mask)
        count = len(index)
        filled = np.zeros(max(-(-count // 64), 1) * 64, np.intp)
        filled[:count] = index
        return _Pick(filled.reshape(-1, 64), count)

    def take(self, image: F32) -> F32:
        return np.take(image.reshape(-1), self.index)

    def put(self, shape: tuple[int, ...], values: F32, rest: float = 0.0) -> F32:
        out = np.full((shape[0] * shape[1], *values.shape[2:]), rest, np.float32)
        out[self.index.reshape(-1)[: self.count]] = values.reshape(-1, *values.shape[2:])[: self.count]
        return out.reshape(*shape[:2], *values.shape[2:])


def _bounds(region: F32) -> tuple[slice, slice]:
    """Return the rows and columns in which anything is, at least one of each."""
    rows, cols = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    if not len(rows):
        return slice(0, 1), slice(0, 1)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(cols[0]), int(cols[-1]) + 1)


class Head:
    """One head in one pose: what swaps share is computed once.

    ``inner`` holds the rows and columns of the head's square that a change of the inner face can touch.

    Args:
        look: Whose body it is.
        pose: Where it is and how it is turned.
        act: What the face does.
        light: Light of the scene.
    """

    def __init__(self, look: Look, pose: Pose, act: Expression, light: Light) -> None:
        self.look, self.pose, self.act, self.light = look, pose, act, light
        reach = pose.scale * (1.95 if look.body.style == "long" else 1.45)
        self.left, self.top = int(np.floor(pose.x - reach)), int(np.floor(pose.y - reach))
        self.size = int(np.ceil(2 * reach)) + 2
        self.res = _texture_res(pose.scale)
        self._matrix = _rotation(pose)
        self._hair = self._cast_hair()
        self._base = self._cast_skin()
        # The shell lies over the skin except where the skin stands out of it (nose, chin, ears).
        over = self._hair.cover * np.clip((self._hair.depth - self._base.depth) * 18 + 0.3, 0, 1)
        self._over = _soften(np.asarray(over, np.float32), 0.6)
        shadow = cv2.GaussianBlur(self._over, (0, 0), max(0.05 * pose.scale, 0.5))
        self._shade = np.asarray(1 - 0.35 * shadow, np.float32)
        self._weight = self._shade * (1 - self._over) * np.maximum(self._base.cover, self._over)
        self.inner = _bounds(self._base.region)

    def _plane(self) -> tuple[F32, F32]:
        """Head units in the picture plane, roll undone, for each pixel centre."""
        px = (np.arange(self.left, self.left + self.size) - self.pose.x).astype(np.float32)[None, :]
        py = (np.arange(self.top, self.top + self.size) - self.pose.y).astype(np.float32)[:, None]
        roll = np.deg2rad(self.pose.roll)
        c, s = np.float32(np.cos(roll) / self.pose.scale), np.float32(np.sin(roll) / self.pose.scale)
        return c * px + s * py, c * py - s * px

    def _cast_hair(self) -> _Shell:
        """Meet the hair shell."""
        body = self.look.body
        flat_u, flat_v = self._plane()
        pick = _Pick.of((flat_u * flat_u + (flat_v / 1.25) ** 2) < 1.0 + 0.6 * (flat_v > 0.3))
        rays = _rays(pick.take(flat_u), pick.take(flat_v), self._matrix)
        hit = _cast(rays, _scalp(body), None, self.res, 3)
        colour_map, cover_map = _STORE.get(("hair", body), lambda: paint.hair_map(body))
        rows, cols = cover_map.shape
        u = (np.arctan2(hit.x, hit.z) + np.float32(np.pi)) * np.float32((cols - 1) / (2 * np.pi))
        span = paint.HAIR_BOTTOM - paint.HAIR_TOP
        v = (hit.y - np.float32(paint.HAIR_TOP)) * np.float32((rows - 1) / span)
        cover = cv2.remap(cover_map, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        colour = cv2.remap(colour_map, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        gloss = 0.0 if body.style == "curly" else 0.10
        lit = _lit(np.asarray(colour, np.float32), hit.normal, self.light, gloss)
        shape = (self.size, self.size)
        solid = _opened(pick.put(shape, (hit.edge > 0).astype(np.float32)), self.pose.scale)
        return _Shell(
            pick.put(shape, lit),
            pick.put(shape, np.asarray(cover, np.float32)) * solid,
            pick.put(shape, hit.depth),
        )

    def _cast_skin(self) -> _Skin:
        """Meet skull and ears, painted as the body's own look."""
        u, v = self._plane()
        skull = (u * u + (v / 1.08) ** 2) < 1.06
        pick = _Pick.of(skull)
        rays = _rays(pick.take(u), pick.take(v), self._matrix)
        hit, colour = self._paint(rays, self.look)
        shape = u.shape
        cover = _opened(pick.put(shape, (hit.edge > 0).astype(np.float32)), self.pose.scale)
        depth = np.where(cover > 0, pick.put(shape, hit.depth), np.float32(-9))
        picture = pick.put(shape, colour)
        window = paint.face_window(hit.x, hit.y) * ((hit.edge > 0) & (hit.z > 0))
        region = pick.put(shape, np.asarray(window, np.float32))
        for side in (-1, 1):
            front = self._ear(u, v, side, depth, picture)
            region[front], cover[front] = 0, 1
        return _Skin(picture, _soften(cover, 0.6), np.asarray(depth, np.float32), region)

    def _paint(self, rays: _Rays, look: Look) -> tuple[_Hit, F32]:
        hit = _cast(rays, _skull(look.body), _mixed(paint.relief, look, self.res), self.res, 4)
        albedo = _sample(_albedo(look, self.act, self.res), self.res, hit.x, hit.y)
        return hit, _lit(albedo, hit.normal, self.light, 0.12 + 0.05 * look.face.tone)

    def _ear(self, u: F32, v: F32, side: int, depth: F32, picture: F32) -> npt.NDArray[np.bool_]:
        """Paint an ear, an ellipsoid at the side of the skull; return where it is in front."""
        body = self.look.body
        centre = self._matrix @ np.array([side * (body.width + 0.015), 0.06, -0.04], np.float32)
        pick = _Pick.of((np.abs(u - centre[0]) < 0.2) & (np.abs(v - centre[1]) < 0.27))
        rays = _rays(pick.take(u), pick.take(v), self._matrix)
        (ox, oy, oz), (bx, by, bz) = rays.origin, rays.direction
        rx, ry, rz = 0.09, 0.19 * body.ears, 0.13 * body.ears
        px, py, pz = (ox - side * (body.width + 0.015)) / rx, (oy - 0.06) / ry, (oz + 0.04) / rz
        qx, qy, qz = bx / rx, by / ry, bz / rz
        a = qx * qx + qy * qy + qz * qz
        b = px * qx + py * qy + pz * qz
        disc = b * b - a * (px * px + py * py + pz * pz - 1)
        t = (np.sqrt(np.maximum(disc, 0)) - b) / a
        front = pick.put(depth.shape, np.asarray(np.where(disc > 0, t, -99), np.float32), -99) > depth
        inner = np.clip(1 - ((px / 0.62) ** 2 + ((py + 0.05) / 0.66) ** 2), 0, 1)
        shade = np.asarray((0.95 - 0.35 * inner) * (0.72 + 0.28 * np.clip(disc / a, 0, 1)), np.float32)
        tone = paint.skin_colour(self.look.skin) * np.float32(self.light.fill + 0.5 * self.light.key)
        picture[front] = (pick.put(depth.shape, shade)[..., None] * tone)[front]
        depth[front] = pick.put(depth.shape, np.asarray(t, np.float32))[front]
        return front

    def draw(self) -> Layer:
        """Paint the head as the body's own look.

        Returns:
            Colour RGB float32, cover 0..1, and the inner face region 0..1 as ``region``.
        """
        base, hair = self._base, self._hair
        colour = base.colour * self._shade[..., None]
        colour += self._over[..., None] * (hair.colour - colour)
        alpha = np.maximum(base.cover, self._over)
        region = base.region * (1 - self._over)
        return Layer(self.left, self.top, np.clip(colour, 0, 255), np.asarray(alpha, np.float32), region)

    def change(self, look: Look) -> Layer:
        """Paint the difference another inner face makes.

        Only the inner face is cast again; everything else of the two looks is equal. Compositing is
        linear in the colours of the layers, so adding this where the head is seen gives the exact picture.

        Args:
            look: The same body with another inner face.

        Returns:
            Signed RGB difference of the head's contribution to the frame over ``inner``, cover 1 throughout.
        """
        rows, cols = self.inner
        u, v = (plane[rows, cols] for plane in self._plane())
        inside = self._base.region[rows, cols] > 0
        pick = _Pick.of(inside)
        _, fresh = self._paint(_rays(pick.take(u), pick.take(v), self._matrix), look)
        weight = inside * self._weight[rows, cols]
        change = (pick.put(u.shape, fresh) - self._base.colour[rows, cols]) * weight[..., None]
        place = self.left + cols.start, self.top + rows.start
        return Layer(*place, np.asarray(change, np.float32), np.ones(u.shape, np.float32))

    def behind(self) -> Layer | None:
        """Return what hangs behind neck and shoulders (long hair), if any."""
        if self.look.body.style not in ("long", "bob", "bun"):
            return None
        u, v = self._plane()
        half = self.look.body.width + 0.9 * self.look.body.volume
        shift = -0.25 * np.sin(np.deg2rad(self.pose.yaw))
        x = (u - shift) / half
        if self.look.body.style == "bun":
            inside = 1 - np.hypot((u - shift) / 0.34, (v + 1.12) / 0.3)
        else:
            low = 1.35 if self.look.body.style == "long" else 0.72
            crown = np.clip(-v / 1.02, 0, 2) ** 2.2
            inside = 1 - np.abs(x) ** 2.5 - np.clip((v - low) / 0.3 + 0.3, 0, 2) ** 2 - crown
        cover = _soften(np.asarray(inside > 0, np.float32), 0.8)
        strand = 0.62 + 0.1 * np.sin(u * 55 + 2.5 * np.sin(v * 3)) + 0.06 * np.sin(u * 131 + v * 4)
        colour = paint.rgb_of(self.look.body.hair) * np.asarray(strand, np.float32)[..., None]
        return Layer(self.left, self.top, np.asarray(colour, np.float32), cover)


def torso(look: Look, pose: Pose, frame: tuple[int, int], light: Light) -> Layer | None:
    """Place neck and shoulders under a head.

    Args:
        look: Whose.
        pose: Pose of the head.
        frame: Width and height of the frame; only what lies in it is made.
        light: Light of the scene.

    Returns:
        The layer, or None if nothing lies in the frame.
    """
    res = min(0.5 * _texture_res(pose.scale), 96.0)
    sprite: F32 = _STORE.get(("torso", look.body, look.skin, res), lambda: paint.torso_sprite(look, res))
    roll = np.deg2rad(pose.roll)
    # The neck bends where it meets the head: the shoulders follow a third of the tilt.
    hollow_x = pose.x - np.sin(roll) * 0.85 * pose.scale
    hollow_y = pose.y + np.cos(roll) * 0.85 * pose.scale
    lean, factor = roll / 3, pose.scale / res
    c, s = factor * np.cos(lean), factor * np.sin(lean)
    anchor = np.array([1.7 * res - 0.5, 0.6 * res - 0.5])
    matrix = np.array([[c, -s, 0.0], [s, c, 0.0]])
    matrix[:, 2] = np.array([hollow_x, hollow_y]) - matrix[:, :2] @ anchor
    reach = 2.0 * pose.scale
    x0, x1 = max(int(hollow_x - reach), 0), min(int(hollow_x + reach), frame[0])
    y0, y1 = max(int(hollow_y - 0.8 * pose.scale), 0), min(int(hollow_y + 5.0 * pose.scale), frame[1])
    if x1 <= x0 or y1 <= y0:
        return None
    matrix[:, 2] -= (x0, y0)
    image = cv2.warpAffine(
        sprite, matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR, borderValue=(0, 0, 0, 0)
    )
    strength = np.float32(light.fill * 0.9 + 0.62 * light.key)
    return Layer(
        x0, y0, np.asarray(image[..., :3] * strength, np.float32), np.asarray(image[..., 3], np.float32)
    )


def _surface(body: Body, face: Face, x: float, y: float) -> tuple[float, float, float]:
    """Return the head point over frontal coordinates."""
    lathe = _skull(body)
    ys = np.asarray([[y]], np.float32)
    w, d = float(_lookup(lathe.w, ys)[0, 0]), float(_lookup(lathe.d, ys)[0, 0])
    res = 96.0
    height = _STORE.get(("relief", body, face, face, res), lambda: paint.relief(body, face, res))
    lift = float(_sample(height, res, np.asarray([[x]], np.float32), ys)[0, 0])
    return x, y, d * float(np.sqrt(max(1 - (x / w) ** 2, 0))) + lift


def project(points: npt.ArrayLike, pose: Pose) -> F32:
    """Project head points (N, 3) to frame pixels, float32 (N, 2)."""
    camera = np.asarray(points, np.float32) @ _rotation(pose).T
    roll = np.deg2rad(pose.roll)
    c, s = np.cos(roll), np.sin(roll)
    x = pose.x + pose.scale * (c * camera[:, 0] - s * camera[:, 1])
    y = pose.y + pose.scale * (s * camera[:, 0] + c * camera[:, 1])
    return np.stack([x, y], 1).astype(np.float32)


# One face for the five points, so that they depend on the body alone.
_PLAIN = look_of("alma").face


def landmarks(body: Body, pose: Pose, act: Expression) -> F32:
    """Return the five points, float32 (5, 2) frame pixels: eyes, nose, corners of the mouth."""
    half, corner = paint.mouth_corner(body, act)
    flat = [(-body.eye_gap, EYE_Y), (body.eye_gap, EYE_Y), (0.0, NOSE_Y), (-half, corner), (half, corner)]
    return project([_surface(body, _PLAIN, x, y) for x, y in flat], pose)


def face_box(body: Body, pose: Pose) -> F32:
    """Return the face's box, float32 (4,) xyxy frame pixels: hairline to chin, temple to temple."""
    points = []
    for height in np.linspace(-0.6, 0.97, 14):
        lathe = _skull(body)
        ys = np.asarray([[height]], np.float32)
        w, d = float(_lookup(lathe.w, ys)[0, 0]), float(_lookup(lathe.d, ys)[0, 0])
        points += [(w * np.sin(a), height, d * np.cos(a)) for a in np.linspace(-1.25, 1.25, 11)]
    flat = project(points, pose)
    return np.concatenate([flat.min(0), flat.max(0)]).astype(np.float32)


def lay(frame: U8, layer: Layer) -> None:
    """Blend a layer onto a BGR frame in place; parts outside the frame are cut off."""
    height, width = layer.alpha.shape
    x0, y0 = max(layer.left, 0), max(layer.top, 0)
    x1, y1 = min(layer.left + width, frame.shape[1]), min(layer.top + height, frame.shape[0])
    if x1 <= x0 or y1 <= y0:
        return
    inner = (slice(y0 - layer.top, y1 - layer.top), slice(x0 - layer.left, x1 - layer.left))
    part = frame[y0:y1, x0:x1]
    under = part.astype(np.float32)
    alpha = layer.alpha[inner][..., None]
    under += alpha * (layer.colour[inner][..., ::-1] - under)
    part[:] = (under + np.float32(0.5)).astype(np.uint8)


def portrait(who: str, *, size: int = 512) -> U8:
    """Render a frontal portrait of a named character.

    Args:
        who: One of :data:`tests.people.looks.IDENTITIES`.
        size: Edge length in pixels.

    Returns:
        BGR uint8 (size, size, 3).

    Raises:
        UsageError: If nobody has that name.
    """
    return portrait_of(look_of(who), size=size)


def portrait_pose(size: int) -> Pose:
    """Return where the head is in a portrait: frontal, shoulders in the picture."""
    return Pose(x=size * 0.5, y=size * 0.36, scale=size * 0.205)


def portrait_of(look: Look, *, size: int = 512) -> U8:
    """Render a frontal portrait of any look, BGR uint8 (size, size, 3)."""
    ramp = np.linspace(0, 1, size, dtype=np.float32)
    glow = np.exp(-((ramp[None, :] - 0.5) ** 2 + (ramp[:, None] - 0.4) ** 2) * 3)[..., None]
    frame: U8 = (np.array([150, 138, 128], np.float32) + 70 * glow).astype(np.uint8)
    pose = portrait_pose(size)
    light = Light()
    head = Head(look, pose, Expression(smile=0.7), light)
    for layer in (head.behind(), torso(look, pose, (size, size), light), head.draw()):
        if layer is not None:
            lay(frame, layer)
    return frame
