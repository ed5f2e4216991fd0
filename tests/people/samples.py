"""Training samples for the stand-in models: random people with known faces.

Nothing here needs a training framework; :mod:`tests.people.train` does.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from tests.people import actors
from tests.people.actors import Head, Layer, Light, Pose
from tests.people.background import board, random_background
from tests.people.layers import add_change
from tests.people.looks import Look, random_look
from tests.people.paint import F32, Expression

U8 = npt.NDArray[np.uint8]

# The five points of the reference 112 x 112 face crop of ArcFace (insightface, utils/face_align.py).
ARCFACE_POINTS = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
    np.float32,
)


# Number of different people in the detector's samples.
POOL = 240


def similarity(source: F32, target: F32) -> npt.NDArray[np.float64]:
    """Least-squares similarity (2, 3) that maps points (N, 2) to points (N, 2)."""
    a = source[:, 0] + 1j * source[:, 1]
    b = target[:, 0] + 1j * target[:, 1]
    a0, b0 = a.mean(), b.mean()
    factor = np.vdot(a - a0, b - b0) / np.vdot(a - a0, a - a0)
    shift = b0 - factor * a0
    return np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])


def crop_face(image: U8, kps: F32, size: int) -> U8:
    """Align a face to 112 or 128 pixels as insightface does."""
    target = ARCFACE_POINTS + np.array([8.0 if size == 128 else 0.0, 0.0], np.float32)
    return np.asarray(cv2.warpAffine(image, similarity(kps, target), (size, size)), np.uint8)


def crop_box(image: U8, box: F32, size: int = 96) -> U8:
    """Crop one and a half times a box, as for insightface's attribute models."""
    centre = (box[:2] + box[2:]) / 2
    factor = size / (float(max(box[2] - box[0], box[3] - box[1])) * 1.5)
    matrix = np.array(
        [[factor, 0, size / 2 - factor * centre[0]], [0, factor, size / 2 - factor * centre[1]]]
    )
    return np.asarray(cv2.warpAffine(image, matrix, (size, size)), np.uint8)


@dataclass(frozen=True)
class Crops:
    """One head with several faces in the same alignment."""

    faces: U8  # uint8 BGR (K, 128, 128, 3), the head's own first
    looks: F32  # float32 (K, 16), face parameters
    boxes: U8  # uint8 BGR (K, 96, 96, 3), cropped by the box
    traits: F32  # float32 (K, 2): male 0/1 and years / 100


def random_light(rng: np.random.Generator) -> Light:
    warm = float(rng.uniform(-0.05, 0.05))
    return Light(
        direction=(float(rng.uniform(-0.75, 0.75)), float(rng.uniform(-0.75, -0.3)), 0.7),
        key=float(rng.uniform(0.48, 0.64)),
        fill=float(rng.uniform(0.4, 0.52)),
        tint=(1 + warm, 0.98, 0.94 - warm),
    )


def random_act(rng: np.random.Generator) -> Expression:
    return Expression(
        open=max(float(rng.uniform(-0.7, 1.0)), 0.0),
        smile=float(rng.uniform(-0.15, 0.95)),
        blink=max(float(rng.uniform(-3.5, 1.0)), 0.0),
        gaze_x=float(rng.uniform(-0.9, 0.9)),
        gaze_y=float(rng.uniform(-0.5, 0.5)),
        brows=float(rng.uniform(-0.7, 0.7)),
    )


def noisy(rng: np.random.Generator, image: U8) -> U8:
    noise = rng.standard_normal(image.shape[:2], np.float32)[..., None] * float(rng.uniform(0, 3.5))
    out = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 96))]
        out = np.asarray(cv2.imdecode(cv2.imencode(".jpg", out, quality)[1], cv2.IMREAD_COLOR), np.uint8)
    return out


def random_pose(rng: np.random.Generator, x: float, y: float, scale: float, roll: float) -> Pose:
    frontal = 0.15 if rng.random() < 0.2 else 1.0
    return Pose(
        x=x,
        y=y,
        scale=scale,
        yaw=float(rng.uniform(-38, 38)) * frontal,
        pitch=float(rng.uniform(-12, 12)) * frontal,
        roll=float(rng.uniform(-roll, roll)) * frontal,
    )


def draw_crops(seed: int, variants: int = 3, poses: int = 2) -> list[Crops]:
    """Draw a body with its own face and ``variants - 1`` others, in several poses."""
    rng = np.random.default_rng([seed, 1])
    look = random_look(rng)
    looks = [look, *(look.with_face_of(random_look(rng)) for _ in range(variants - 1))]
    scale = float(np.exp(rng.uniform(np.log(30), np.log(120))))
    # Textures are cached: a second pose of the same size takes a third of the time.
    return [_draw_pose(rng, looks, scale) for _ in range(poses)]


def _draw_pose(rng: np.random.Generator, looks: list[Look], scale: float) -> Crops:
    size, look = round(4.4 * scale), looks[0]
    light, act = random_light(rng), random_act(rng)
    pose = random_pose(rng, size / 2 + rng.uniform(-1, 1), size / 2 + rng.uniform(-1, 1), scale, 28)
    frame = random_background(rng, (size, size))
    head = Head(look, pose, act, light)
    actors.composite_person(frame, head)
    frames = [frame]
    for other in looks[1:]:
        changed = frame.copy()
        add_change(changed, head.change(other), np.ones((head.size, head.size), np.float32)[head.inner])
        frames.append(changed)
    if rng.random() < 0.2:
        cover = random_board(rng, size, scale)
        for image in frames:
            actors.composite(image, cover)
    return _cut(rng, frames, looks, actors.landmarks(look.body, pose, act), actors.face_box(look.body, pose))


def random_board(rng: np.random.Generator, size: int, scale: float) -> Layer:
    centre = np.array([size / 2, size / 2]) + scale * rng.uniform(-1.2, 1.2, 2)
    half = scale * rng.uniform([0.1, 0.5], [0.45, 1.4])
    return board(centre, half, float(rng.uniform(-0.6, 0.6)), float(rng.random()))


def _cut(rng: np.random.Generator, frames: list[U8], looks: list[Look], kps: F32, box: F32) -> Crops:
    gap = float(np.linalg.norm(kps[1] - kps[0]))
    jittered = kps + rng.normal(0, 0.035 * gap, kps.shape).astype(np.float32)
    edge = box + rng.normal(0, 0.03 * (box[3] - box[1]), 4).astype(np.float32)
    frames = [noisy(rng, frame) for frame in frames]
    faces = np.stack([crop_face(frame, jittered, 128) for frame in frames])
    boxes = np.stack([crop_box(frame, edge) for frame in frames])
    traits = np.array([[look.male, look.years / 100] for look in looks], np.float32)
    return Crops(faces, np.stack([look.face.vector() for look in looks]), boxes, traits)


@dataclass(frozen=True)
class Composite:
    """A training picture for the detector."""

    image: U8  # uint8 BGR (S, S, 3)
    boxes: F32  # float32 (N, 4)
    kps: F32  # float32 (N, 5, 2)
    sure: npt.NDArray[np.bool_]  # bool (N,), False where too little is visible


def draw_composite(seed: int, size: int = 256, low: float = 18.0, high: float = 230.0) -> Composite:
    """Draw none to four people of face heights ``low`` to ``high`` on a background."""
    rng = np.random.default_rng([seed, size, 2])
    image = random_background(rng, (size, size))
    light = random_light(rng)
    boxes, kps, sure = [], [], []
    regions: list[tuple[int, float]] = []
    owner = np.zeros((size, size), np.int16)
    for k in range(int(rng.choice([0, 1, 2, 3, 4], p=[0.12, 0.3, 0.28, 0.18, 0.12]))):
        height = float(np.exp(rng.uniform(np.log(low), np.log(high if k == 0 else min(high, 0.4 * size)))))
        # Some heads have no torso, which varies covers, edges and collars.
        placed = _place(rng, image, owner, k + 1, height / 1.57, light)
        if placed is None:
            continue
        box, points, total = placed
        boxes.append(box)
        kps.append(points)
        regions.append((k + 1, total))
    if rng.random() < 0.35:
        layer = random_board(rng, size, size * float(rng.uniform(0.1, 0.35)))
        actors.composite(image, layer)
        _own(owner, layer, 99, layer.alpha > 0.5)
    for mark, total in regions:
        sure.append(float((owner == mark).sum()) >= 0.55 * total)
    return Composite(
        noisy(rng, image),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(kps, np.float32).reshape(-1, 5, 2),
        np.array(sure, bool),
    )


def _own(owner: npt.NDArray[np.int16], layer: actors.Layer, mark: int, mask: npt.NDArray[np.bool_]) -> None:
    height, width = mask.shape
    x0, y0 = max(layer.left, 0), max(layer.top, 0)
    x1, y1 = min(layer.left + width, owner.shape[1]), min(layer.top + height, owner.shape[0])
    if x1 > x0 and y1 > y0:
        part = owner[y0:y1, x0:x1]
        part[mask[y0 - layer.top : y1 - layer.top, x0 - layer.left : x1 - layer.left]] = mark


def _place(
    rng: np.random.Generator, image: U8, owner: npt.NDArray[np.int16], mark: int, scale: float, light: Light
) -> tuple[F32, F32, float] | None:
    size = image.shape[0]
    # From a pool of people, so that cached textures are reused.
    look, act = random_look(np.random.default_rng([int(rng.integers(POOL)), 3])), random_act(rng)
    spread = 0.62 if rng.random() < 0.15 else 0.42
    x, y = (float(v) for v in size / 2 + size * rng.uniform(-spread, spread, 2))
    pose = random_pose(rng, x, y, scale, 36)
    head = Head(look, pose, act, light)
    body = actors.torso(look, pose, (size, size), light) if rng.random() < 0.8 else None
    top = head.draw()
    for layer in (head.behind(), body, top):
        if layer is not None:
            actors.composite(image, layer)
            _own(owner, layer, 0, layer.alpha > 0.5)
    assert top.region is not None
    inner = top.region > 0.5
    _own(owner, top, mark, inner)
    if not (owner == mark).any():
        return None
    return actors.face_box(look.body, pose), actors.landmarks(look.body, pose, act), float(inner.sum())
