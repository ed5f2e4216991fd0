"""Rendered people: ray-cast heads composited over torsos, with exactly known landmarks.

Each landmark is the projection of a point of the ray-cast surface.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from tests.people import paint
from tests.people.looks import Body, Face, Look, look_of
from tests.people.mouth import mouth_corner
from tests.people.outline import HAIR_BOTTOM, HAIR_TOP, hair_map, torso_sprite
from tests.people.paint import EYE_Y, F32, NOSE_Y, Expression
from tests.people.raycast import (
    U8,
    Hit,
    Layer,
    Light,
    PixelSubset,
    Pose,
    Rays,
    cast_rays,
    intersect,
    lookup,
    rotation,
    sample,
    scalp,
    shade,
    skull,
)
from tests.people.textures import albedo, cached, mixed, texture_res


def _open_mask(cover: F32, scale: float) -> F32:
    """Remove specks that the ray refinement leaves beyond the edge of a pitched head."""
    reach = 2 * max(round(0.035 * scale), 1) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    return np.asarray(cv2.morphologyEx(cover, cv2.MORPH_OPEN, kernel), np.float32)


def _antialias(cover: F32, pixels: float) -> F32:
    """Anti-alias a hard mask by a blur of about one pixel."""
    return np.asarray(cv2.GaussianBlur(cover, (0, 0), pixels), np.float32)


NO_HIT = np.float32(-9)


@dataclass(frozen=True)
class _Raycast:
    """Ray-cast hair, or skull and ears, over the head's square; ``region`` is the inner face."""

    colour: F32
    cover: F32
    depth: F32
    region: F32


def _bounds(region: F32) -> tuple[slice, slice]:
    """Return the rows and columns of the non-zero part, at least one of each."""
    rows, cols = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    if not len(rows):
        return slice(0, 1), slice(0, 1)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(cols[0]), int(cols[-1]) + 1)


class Head:
    """One head in one pose; what swaps share is computed once.

    ``inner`` holds the rows and columns of the head's square that a swap of the inner face can change;
    ``front`` the frontal coordinates (x, y) of each pixel of the square, ``NO_HIT`` where there are none.
    """

    def __init__(self, look: Look, pose: Pose, act: Expression, light: Light) -> None:
        self.look, self.pose, self.act, self.light = look, pose, act, light
        reach = pose.scale * (1.95 if look.body.style == "long" else 1.45)
        self.left, self.top = int(np.floor(pose.x - reach)), int(np.floor(pose.y - reach))
        self.size = int(np.ceil(2 * reach)) + 2
        self.res = texture_res(pose.scale)
        self._matrix = rotation(pose)
        self.front = (np.empty(0, np.float32),) * 2
        self._shell = self._cast_hair()
        self._base = self._cast_skin()
        # The shell covers the skin except where the skin protrudes (nose, chin, ears).
        over = self._shell.cover * np.clip((self._shell.depth - self._base.depth) * 18 + 0.3, 0, 1)
        self.hair = _antialias(np.asarray(over, np.float32), 0.6)
        shadow = cv2.GaussianBlur(self.hair, (0, 0), max(0.05 * pose.scale, 0.5))
        self._shade = np.asarray(1 - 0.35 * shadow, np.float32)
        self._weight = self._shade * (1 - self.hair) * np.maximum(self._base.cover, self.hair)
        self.inner = _bounds(self._base.region)

    def _plane(self) -> tuple[F32, F32]:
        """Head units in the image plane, roll removed, for each pixel centre."""
        px = (np.arange(self.left, self.left + self.size) - self.pose.x).astype(np.float32)[None, :]
        py = (np.arange(self.top, self.top + self.size) - self.pose.y).astype(np.float32)[:, None]
        roll = np.deg2rad(self.pose.roll)
        c, s = np.float32(np.cos(roll) / self.pose.scale), np.float32(np.sin(roll) / self.pose.scale)
        return c * px + s * py, c * py - s * px

    def _cast_hair(self) -> _Raycast:
        body = self.look.body
        flat_u, flat_v = self._plane()
        pixels = PixelSubset.of((flat_u * flat_u + (flat_v / 1.25) ** 2) < 1.0 + 0.6 * (flat_v > 0.3))
        rays = cast_rays(pixels.take(flat_u), pixels.take(flat_v), self._matrix)
        hit = intersect(rays, scalp(body), None, self.res, 3)
        colour_map, cover_map = cached(("hair", body), lambda: hair_map(body))
        rows, cols = cover_map.shape
        u = (np.arctan2(hit.x, hit.z) + np.float32(np.pi)) * np.float32((cols - 1) / (2 * np.pi))
        span = HAIR_BOTTOM - HAIR_TOP
        v = (hit.y - np.float32(HAIR_TOP)) * np.float32((rows - 1) / span)
        cover = cv2.remap(cover_map, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        colour = cv2.remap(colour_map, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        gloss = 0.0 if body.style == "curly" else 0.10
        shaded = shade(np.asarray(colour, np.float32), hit.normal, self.light, gloss)
        shape = (self.size, self.size)
        solid = _open_mask(pixels.put(shape, (hit.edge > 0).astype(np.float32)), self.pose.scale)
        seen = pixels.put(shape, np.asarray(cover, np.float32)) * solid
        depth = pixels.put(shape, hit.depth)
        return _Raycast(pixels.put(shape, shaded), seen, depth, np.zeros(shape, np.float32))

    def _cast_skin(self) -> _Raycast:
        """Ray-cast skull and ears, painted with the person's own face."""
        u, v = self._plane()
        pixels = PixelSubset.of((u * u + (v / 1.08) ** 2) < 1.06)
        rays = cast_rays(pixels.take(u), pixels.take(v), self._matrix)
        hit, colour = self._paint(rays, self.look)
        shape = u.shape
        cover = _open_mask(pixels.put(shape, (hit.edge > 0).astype(np.float32)), self.pose.scale)
        depth = np.where(cover > 0, pixels.put(shape, hit.depth), np.float32(-9))
        picture = pixels.put(shape, colour)
        window = paint.face_window(hit.x, hit.y) * ((hit.edge > 0) & (hit.z > 0))
        region = pixels.put(shape, np.asarray(window, np.float32))
        ahead = (hit.edge > 0) & (hit.z > 0)
        self.front = tuple(pixels.put(shape, np.where(ahead, at, NO_HIT), NO_HIT) for at in (hit.x, hit.y))
        for side in (-1, 1):
            front = self._ear(u, v, side, depth, picture)
            region[front], cover[front] = 0, 1
            self.front[0][front] = NO_HIT
        return _Raycast(picture, _antialias(cover, 0.6), np.asarray(depth, np.float32), region)

    def _paint(self, rays: Rays, look: Look) -> tuple[Hit, F32]:
        hit = intersect(rays, skull(look.body), mixed(paint.relief, look, self.res), self.res, 4)
        skin = sample(albedo(look, self.act, self.res), self.res, hit.x, hit.y)
        return hit, shade(skin, hit.normal, self.light, 0.12 + 0.05 * look.face.tone)

    def _ear(self, u: F32, v: F32, side: int, depth: F32, picture: F32) -> npt.NDArray[np.bool_]:
        """Paint an ear, an ellipsoid at the side of the skull; return where it is visible."""
        body = self.look.body
        centre = self._matrix @ np.array([side * (body.width + 0.015), 0.06, -0.04], np.float32)
        pixels = PixelSubset.of((np.abs(u - centre[0]) < 0.2) & (np.abs(v - centre[1]) < 0.27))
        rays = cast_rays(pixels.take(u), pixels.take(v), self._matrix)
        (ox, oy, oz), (bx, by, bz) = rays.origin, rays.direction
        rx, ry, rz = 0.09, 0.19 * body.ears, 0.13 * body.ears
        px, py, pz = (ox - side * (body.width + 0.015)) / rx, (oy - 0.06) / ry, (oz + 0.04) / rz
        qx, qy, qz = bx / rx, by / ry, bz / rz
        a = qx * qx + qy * qy + qz * qz
        b = px * qx + py * qy + pz * qz
        disc = b * b - a * (px * px + py * py + pz * pz - 1)
        t = (np.sqrt(np.maximum(disc, 0)) - b) / a
        front = pixels.put(depth.shape, np.asarray(np.where(disc > 0, t, -99), np.float32), -99) > depth
        inner = np.clip(1 - ((px / 0.62) ** 2 + ((py + 0.05) / 0.66) ** 2), 0, 1)
        shade = np.asarray((0.95 - 0.35 * inner) * (0.72 + 0.28 * np.clip(disc / a, 0, 1)), np.float32)
        tone = paint.skin_colour(self.look.skin) * np.float32(self.light.fill + 0.5 * self.light.key)
        picture[front] = (pixels.put(depth.shape, shade)[..., None] * tone)[front]
        depth[front] = pixels.put(depth.shape, np.asarray(t, np.float32))[front]
        return front

    def draw(self) -> Layer:
        """Draw the head with the person's own face."""
        base, hair = self._base, self._shell
        colour = base.colour * self._shade[..., None]
        colour += self.hair[..., None] * (hair.colour - colour)
        alpha = np.maximum(base.cover, self.hair)
        region = base.region * (1 - self.hair)
        return Layer(self.left, self.top, np.clip(colour, 0, 255), np.asarray(alpha, np.float32), region)

    def change(self, look: Look) -> Layer:
        """Return the signed difference, over ``inner``, made by another inner face on the same body.

        Compositing is linear in the layers' colours, so adding this where the head is visible gives the exact
        swapped frame.
        """
        rows, cols = self.inner
        u, v = (plane[rows, cols] for plane in self._plane())
        inside = self._base.region[rows, cols] > 0
        pixels = PixelSubset.of(inside)
        _, fresh = self._paint(cast_rays(pixels.take(u), pixels.take(v), self._matrix), look)
        weight = inside * self._weight[rows, cols]
        change = (pixels.put(u.shape, fresh) - self._base.colour[rows, cols]) * weight[..., None]
        place = self.left + cols.start, self.top + rows.start
        return Layer(*place, np.asarray(change, np.float32), np.ones(u.shape, np.float32))

    def behind(self) -> Layer | None:
        """Return the hair behind neck and shoulders, if any."""
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
        cover = _antialias(np.asarray(inside > 0, np.float32), 0.8)
        strand = 0.62 + 0.1 * np.sin(u * 55 + 2.5 * np.sin(v * 3)) + 0.06 * np.sin(u * 131 + v * 4)
        colour = np.asarray(self.look.body.hair, np.float32) * np.asarray(strand, np.float32)[..., None]
        return Layer(self.left, self.top, np.asarray(colour, np.float32), cover)


def torso(look: Look, pose: Pose, frame: tuple[int, int], light: Light) -> Layer | None:
    """Draw neck and shoulders under a head; None if they lie outside the frame (width, height)."""
    res = min(0.5 * texture_res(pose.scale), 96.0)
    sprite: F32 = cached(("torso", look.body, look.skin, res), lambda: torso_sprite(look, res))
    roll = np.deg2rad(pose.roll)
    # The shoulders follow a third of the head's roll.
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


def _axes(body: Body, y: float) -> tuple[float, float]:
    """Half axes of the skull at a height: across and in depth."""
    lathe, at = skull(body), np.asarray([[y]], np.float32)
    return float(lookup(lathe.w, at)[0, 0]), float(lookup(lathe.d, at)[0, 0])


def _surface(body: Body, face: Face, x: float, y: float) -> tuple[float, float, float]:
    """Return the 3-D surface point at frontal coordinates."""
    w, d = _axes(body, y)
    res = 96.0
    height = cached(("relief", body, face, face, res), lambda: paint.relief(body, face, res))
    lift = float(sample(height, res, np.asarray([[x]], np.float32), np.asarray([[y]], np.float32))[0, 0])
    return x, y, d * float(np.sqrt(max(1 - (x / w) ** 2, 0))) + lift


def project(points: npt.ArrayLike, pose: Pose) -> F32:
    """Project head points (N, 3) to frame pixels, float32 (N, 2)."""
    camera = np.asarray(points, np.float32) @ rotation(pose).T
    roll = np.deg2rad(pose.roll)
    c, s = np.cos(roll), np.sin(roll)
    x = pose.x + pose.scale * (c * camera[:, 0] - s * camera[:, 1])
    y = pose.y + pose.scale * (s * camera[:, 0] + c * camera[:, 1])
    return np.stack([x, y], 1).astype(np.float32)


# A fixed face, so that the landmarks depend on the body only.
_FIXED_FACE = look_of("alma").face


def landmarks(body: Body, pose: Pose, act: Expression) -> F32:
    """Return the five landmarks, float32 (5, 2) frame pixels: eyes, nose, corners of the mouth."""
    half, corner = mouth_corner(body, act)
    flat = [(-body.eye_gap, EYE_Y), (body.eye_gap, EYE_Y), (0.0, NOSE_Y), (-half, corner), (half, corner)]
    return project([_surface(body, _FIXED_FACE, x, y) for x, y in flat], pose)


def face_box(body: Body, pose: Pose) -> F32:
    """Return the face's box, float32 (4,) xyxy frame pixels: hairline to chin, temple to temple."""
    points = []
    for height in np.linspace(-0.6, 0.97, 14):
        w, d = _axes(body, height)
        points += [(w * np.sin(a), height, d * np.cos(a)) for a in np.linspace(-1.25, 1.25, 11)]
    flat = project(points, pose)
    return np.concatenate([flat.min(0), flat.max(0)]).astype(np.float32)


def composite(frame: U8, layer: Layer) -> None:
    """Composite a layer onto a BGR frame in place, clipped to the frame."""
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


def composite_person(frame: U8, head: Head) -> None:
    size = frame.shape[1], frame.shape[0]
    for layer in (head.behind(), torso(head.look, head.pose, size, head.light), head.draw()):
        if layer is not None:
            composite(frame, layer)


def portrait(who: str, *, size: int = 512) -> U8:
    """Render a frontal portrait of a named character, BGR uint8 (size, size, 3)."""
    look, pose, light = look_of(who), portrait_pose(size), Light()
    ramp = np.linspace(0, 1, size, dtype=np.float32)
    glow = np.exp(-((ramp[None, :] - 0.5) ** 2 + (ramp[:, None] - 0.4) ** 2) * 3)[..., None]
    frame: U8 = (np.array([150, 138, 128], np.float32) + 70 * glow).astype(np.uint8)
    composite_person(frame, Head(look, pose, Expression(smile=0.7), light))
    return frame


def portrait_pose(size: int) -> Pose:
    """Return the pose of a portrait: frontal, with the shoulders in view."""
    return Pose(x=size * 0.5, y=size * 0.36, scale=size * 0.205)
