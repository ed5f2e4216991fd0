"""Training samples for the mask networks: aligned crops of occluded faces with ground truth."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from tests.people import actors
from tests.people.actors import U8, Head, Layer
from tests.people.background import random_background
from tests.people.covers import COVERS, cover
from tests.people.layers import full_frame, overlap
from tests.people.looks import random_look
from tests.people.paint import F32
from tests.people.regions import GLASSES, HAIR, NECK, face_of, parts_of
from tests.people.samples import noisy, random_act, random_board, random_light, random_pose, similarity

SIZE = 256
# FFHQ's reference points for a crop of 512 pixels (facexlib, FaceRestoreHelper: face_template).
FFHQ_POINTS = np.array(
    [[192.98138, 239.94708], [318.90277, 240.1936], [256.63416, 314.01935], [201.26117, 371.41043],
     [313.08905, 371.15118]],
    np.float32,
)  # fmt: skip


@dataclass(frozen=True)
class MaskCrop:
    """One crop of a face, aligned to FFHQ's template, with ground truth."""

    image: U8  # uint8 BGR (256, 256, 3)
    parts: U8  # uint8 (128, 128), classes of BiSeNet's parser
    seen: U8  # uint8 (256, 256), visible share of face in each pixel, 255 is all


def draw_masks(seed: int, poses: int = 2, variants: int = 3, cut: float = 0.3) -> list[MaskCrop]:
    """Draw a person in some poses, each covered in several ways; the border cuts a share ``cut`` of faces."""
    rng = np.random.default_rng([seed, 5])
    look, scale = random_look(rng), float(np.exp(rng.uniform(np.log(26), np.log(120))))
    drawn = []
    for _ in range(poses):
        size, light, act = round(4.4 * scale), random_light(rng), random_act(rng)
        pose = random_pose(rng, size / 2 + rng.uniform(-1, 1), size / 2 + rng.uniform(-1, 1), scale, 28)
        head, frame = Head(look, pose, act, light), random_background(rng, (size, size))
        parts, seen = np.zeros((size, size), np.uint8), np.zeros((size, size), np.float32)
        torso, top = actors.torso(look, pose, (size, size), light), head.draw()
        for layer, part in ((head.behind(), HAIR), (torso, NECK), (top, None)):
            if layer is not None:
                actors.composite(frame, layer)
                _mark(parts, layer, parts_of(head, top) if part is None else part)
        _fill(seen, top, face_of(head))
        kps = actors.landmarks(look.body, pose, act)
        gap = float(np.linalg.norm(kps[1] - kps[0]))
        for _ in range(variants):
            jittered = kps + rng.normal(0, 0.03 * gap, kps.shape).astype(np.float32)
            layers = _covers(rng, size, scale, kps)
            matrix = similarity(jittered, FFHQ_POINTS)
            drawn.append(_make_sample(rng, (frame, parts, seen), layers, matrix, cut=rng.random() < cut))
    return drawn


def _covers(rng: np.random.Generator, size: int, scale: float, kps: F32) -> list[tuple[Layer, int]]:
    """Draw none to two covers, each with its part number."""
    layers = []
    for _ in range(int(rng.choice([0, 1, 2], p=[0.2, 0.55, 0.25]))):
        kind = rng.choice([*COVERS, "board", "person"], p=[0.16, 0.2, 0.16, 0.26, 0.12, 0.1])
        if kind == "board":
            layers.append((random_board(rng, size, scale), 0))
            continue
        if kind == "person":
            layers += [(layer, 0) for layer in _passerby(rng, size, scale)]
            continue
        spread = 0.0 if kind == "glasses" else 0.45
        shift = (float(rng.normal(0, spread)), float(rng.normal(0, spread)))
        draw = rng.random(6).astype(np.float32)
        if kind == "bar":  # more thin and skin-coloured bars, which are harder
            draw[[0, 3]] **= 2
        layer = cover(kind, kps, scale, draw, shift)
        layers.append((layer, GLASSES if kind == "glasses" else 0))
    return layers


def _passerby(rng: np.random.Generator, size: int, scale: float) -> list[Layer]:
    """Draw a person passing in front of the face."""
    look = random_look(np.random.default_rng([int(rng.integers(60)), 6]))
    x = size / 2 + scale * float(rng.uniform(0.6, 2.2)) * float(rng.choice([-1, 1]))
    pose = random_pose(rng, x, size / 2 + scale * rng.uniform(-0.4, 0.6), scale * rng.uniform(0.9, 1.3), 20)
    head = Head(look, pose, random_act(rng), random_light(rng))
    layers = (head.behind(), actors.torso(look, pose, (size, size), head.light), head.draw())
    return [layer for layer in layers if layer is not None]


def _make_sample(
    rng: np.random.Generator,
    frame: tuple[U8, U8, F32],
    layers: list[tuple[Layer, int]],
    matrix: F32,
    *,
    cut: bool,
) -> MaskCrop:
    image, parts, seen = (one.copy() for one in frame)
    for layer, part in layers:
        actors.composite(image, layer)
        _mark(parts, layer, part)
        _fill(seen, layer, None)
    image = noisy(rng, image)
    if cut:
        (image, parts, seen), matrix = _cut((image, parts, seen), matrix, rng)
    to_small = matrix / 4 - np.array([[0, 0, 0.25], [0, 0, 0.25]])  # the centre of four pixels
    shown, clear, nearest = (
        cv2.warpAffine(values, to, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        for values, to, size, flags in (
            (image, matrix / 2, SIZE, cv2.INTER_LINEAR),
            (seen, matrix / 2, SIZE, cv2.INTER_LINEAR),
            (parts, to_small, SIZE // 2, cv2.INTER_NEAREST),
        )
    )
    return MaskCrop(
        np.asarray(shown, np.uint8), np.asarray(nearest, np.uint8), np.rint(255 * clear).astype(np.uint8)
    )


def _cut(frame: tuple[U8, U8, F32], matrix: F32, rng: np.random.Generator) -> tuple[tuple[U8, U8, F32], F32]:
    """Cut the face by the frame's border; the crop replicates border pixels beyond it."""
    size = frame[0].shape[0]
    axis, low = int(rng.integers(2)), bool(rng.random() < 0.5)
    # A face extends about a fifth of the frame from its centre.
    removed = round(size * float(rng.uniform(0.3, 0.53)))
    remaining = slice(removed, None) if low else slice(None, size - removed)
    shift = np.zeros(2)
    shift[axis] = removed if low else 0
    image, parts, seen = (one[:, remaining] if axis == 0 else one[remaining] for one in frame)
    moved = matrix.copy()
    moved[:, 2] += matrix[:, :2] @ shift
    return (np.ascontiguousarray(image), np.ascontiguousarray(parts), np.ascontiguousarray(seen)), moved


def _mark(parts: U8, layer: Layer, part: U8 | int) -> None:
    """Write a layer's part numbers into a frame's."""
    shared = overlap(layer, full_frame(parts.shape[1], parts.shape[0]))
    if shared is None:
        return
    src, dst = shared
    inside = layer.alpha[src] > 0.5
    parts[dst][inside] = part if isinstance(part, int) else part[src][inside]


def _fill(seen: F32, layer: Layer, face: F32 | None) -> None:
    """Remove what a layer covers from a frame's face, and add the layer's own face."""
    shared = overlap(layer, full_frame(seen.shape[1], seen.shape[0]))
    if shared is None:
        return
    src, dst = shared
    seen[dst] *= 1 - layer.alpha[src]
    if face is not None:
        seen[dst] += layer.alpha[src] * face[src]
