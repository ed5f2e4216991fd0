"""Train the detector's stand-in: a proposal network, and a refiner that classifies proposals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from tests.people.actors import U8
from tests.people.background import random_background
from tests.people.nets import DEVICE, Batch, CropNet, ProposalNet, Weights, export, fit, recoloured, refiner
from tests.people.paint import F32
from tests.people.plan import Plan, draw_parallel
from tests.people.samples import Composite, draw_composite
from tests.people.standins import ANCHORS, CROP_REACH, CROP_SIZE, proposer

MIN_SCORE = 0.04  # minimum proposal score of a training candidate
# Maps a picture to scores (K,) and boxes (K, 4) in pixels.
Finder = Callable[[U8], tuple[F32, F32]]


def _warped(rng: np.random.Generator, sample: Composite, size: int) -> tuple[U8, F32, F32]:
    """Rotate, scale, shift, mirror and recolour a composite at random; crop it to ``size``."""
    half = sample.image.shape[0] / 2
    factor, angle = np.exp(rng.uniform(-0.25, 0.25)), np.deg2rad(rng.uniform(-8, 8))
    c, s = factor * np.cos(angle), factor * np.sin(angle)
    flip = -1.0 if rng.random() < 0.5 else 1.0
    matrix = np.array([[c * flip, -s, 0], [s * flip, c, 0]])
    goal = size / 2 + rng.uniform(-0.16, 0.16, 2) * size
    matrix[:, 2] = goal - matrix[:, :2] @ np.array([half, half])
    fill = (0, 0, 0) if rng.random() < 0.4 else tuple(int(v) for v in rng.integers(0, 255, 3))
    image = cv2.warpAffine(sample.image, matrix, (size, size), borderValue=fill)
    levels = (np.arange(256) - 128)[:, None] * rng.uniform(0.75, 1.25) + 128 + rng.uniform(-22, 22)
    levels = np.clip(levels + rng.uniform(-10, 10, 3), 0, 255).astype(np.uint8)
    kps = sample.kps @ matrix[:, :2].T + matrix[:, 2]
    kps = kps[:, [1, 0, 2, 4, 3]] if flip < 0 else kps
    x0, y0, x1, y1 = sample.boxes.T
    corners = np.stack([np.stack(pair, 1) for pair in ((x0, y0), (x1, y0), (x0, y1), (x1, y1))], 1)
    corners = corners @ matrix[:, :2].T + matrix[:, 2]
    boxes = np.concatenate([corners.min(1), corners.max(1)], 1)
    image = cv2.LUT(image, levels[None])
    return np.asarray(image, np.uint8), boxes.astype(np.float32), kps.astype(np.float32)


def _assign(
    boxes: F32, sure: npt.NDArray[np.bool_], size: int, stride: int, anchors: tuple[float, float]
) -> tuple[F32, F32]:
    """Assign training targets to one level's n x n grid.

    Returns the score (2, n, n): 1 face, 0 none, -1 ignored; and the sides over the anchor's size
    (2, 4, n, n), NaN where there is no face.
    """
    n = size // stride
    score = np.zeros((2, n, n), np.float32)
    shape = np.full((2, 4, n, n), np.nan, np.float32)
    for box, certain in zip(boxes, sure, strict=True):
        extent = float(np.sqrt((box[2] - box[0]) * (box[3] - box[1])))
        centre = (box[:2] + box[2:]) / 2
        if not (centre.min() >= 0 and centre.max() < size):
            continue
        (near, _, _), (ring, _, _), (inner, x, y) = (
            _patch(centre, max(part * extent, cells * stride), n, stride)
            for part, cells in ((0.14, 0.75), (0.32, 1.6), (0.2, 1.0))
        )
        for k, anchor in enumerate(anchors):
            octave = abs(float(np.log2(extent / anchor)))
            if octave < 1.1:
                score[k][ring] = np.where(score[k][ring] > 0.5, 1, -1)
            if octave < 0.55 and certain:
                score[k][near] = 1
            if octave < 0.8:
                # Sides are learnt on a wider patch: more examples per face.
                shape[k][(slice(None), *inner)] = (
                    np.stack([x - box[0], y - box[1], box[2] - x, box[3] - y]) / anchor
                )
    return score, shape


def _patch(centre: F32, reach: float, n: int, stride: int) -> tuple[tuple[slice, slice], F32, F32]:
    """Return the cells within ``reach`` pixels of a point, and x and y of their centres."""
    low = np.clip(np.ceil((centre - reach) / stride), 0, n).astype(int)
    high = np.clip(np.floor((centre + reach) / stride) + 1, 0, n).astype(int)
    x, y = (np.arange(low[k], high[k], dtype=np.float32) * stride for k in (0, 1))
    grid = np.meshgrid(x, y)
    return (slice(low[1], high[1]), slice(low[0], high[0])), grid[0], grid[1]


def _proposal_batches(
    rng: np.random.Generator, small: list[Composite], large: list[Composite]
) -> Iterator[Batch]:
    while True:
        pool, size, count = (large, 448, 4) if rng.random() < 0.2 else (small, 224, 16)
        images, targets = [], []
        for index in rng.integers(0, len(pool), count):
            image, boxes, _ = _warped(rng, pool[index], size)
            images.append(image)
            targets.append([_assign(boxes, pool[index].sure, size, s, a) for s, a in ANCHORS.items()])
        batch = [blob(images)]
        for level in range(3):
            batch += [torch.from_numpy(np.stack([t[level][part] for t in targets])) for part in (0, 1)]
        yield tuple(batch)


def blob(images: list[U8]) -> Tensor:
    return torch.from_numpy(cv2.dnn.blobFromImages(images, 1 / 128, None, (127.5,) * 3, swapRB=True))


def _proposal_loss(model: ProposalNet, batch: Batch) -> Tensor:
    total = torch.zeros((), device=DEVICE)
    positives = sum(float((batch[1 + 2 * k] == 1).sum()) for k in range(3)) + 1.0
    shaped = sum(float((~batch[2 + 2 * k][:, :, 0].isnan()).sum()) for k in range(3)) + 1.0
    for k, out in enumerate(model(batch[0])):
        score, shape = batch[1 + 2 * k], batch[2 + 2 * k]
        parts = out.unflatten(1, (2, 5))
        logits = parts[:, :, 0]
        chance = torch.sigmoid(logits)
        hit = score == 1
        wrong = torch.where(hit, 1 - chance, chance)
        entropy = functional.binary_cross_entropy_with_logits(logits, hit.float(), reduction="none")
        weight = torch.where(hit, 1.0, 0.8) * wrong**2 * (score >= 0)
        total = total + (weight * entropy).sum() / positives
        known = ~shape[:, :, 0].isnan()
        guess, truth = (p.permute(0, 1, 3, 4, 2)[known] for p in (parts[:, :, 1:], shape))
        total = total + functional.smooth_l1_loss(guess, truth, beta=0.03, reduction="sum") / shaped
    return total


@dataclass
class Candidates:
    """Proposals that the refiner is trained on."""

    crops: list[U8] = field(default_factory=list)  # (64, 64, 3) BGR each
    places: list[F32] = field(default_factory=list)  # (14,) each, over the crop's side; NaN: no face
    faces: list[int] = field(default_factory=list)  # 1 face, 0 none, -1 ignored (too little visible)
    scores: list[float] = field(default_factory=list)  # of the proposals, 0..1

    def gather(
        self, rng: np.random.Generator, image: U8, boxes: F32, kps: F32, sure: Sequence[bool], find: Finder
    ) -> None:
        """Add the candidates of a picture, faces twice and jittered."""
        scores, found = find(image)
        for box, score in zip(found, scores, strict=True):
            if score < MIN_SCORE:
                continue
            overlaps = [_overlap(box, true) for true in boxes] or [0.0]
            best = int(np.argmax(overlaps))
            if overlaps[best] > 0.5:
                for _ in range(2 if sure[best] else 1):
                    jittered = _square(box, rng.normal(0, (0.04, 0.04, 0.07)))
                    places = np.concatenate([boxes[best], kps[best].ravel()]).reshape(7, 2)
                    self._add(image, jittered, places, 1 if sure[best] else -1, score)
            elif overlaps[best] < 0.3:
                self._add(image, _square(box, np.zeros(3)), np.full((7, 2), np.nan), 0, score)

    def _add(self, image: U8, square: tuple[F32, float], places: F32, face: int, score: float) -> None:
        corner, side = square
        self.crops.append(_crop_square(image, corner, side))
        self.places.append(((places - corner) / side).ravel().astype(np.float32))
        self.faces.append(face)
        self.scores.append(score)


def _overlap(a: F32, b: F32) -> float:
    """Intersection over union of two boxes."""
    shared = float(np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)))
    return shared / (float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - shared)


def _square(box: F32, shake: npt.NDArray[np.float64]) -> tuple[F32, float]:
    """Corner and side of a candidate's crop, moved by shares of the side and scaled by e^shake[2]."""
    side = max(float((box[2:] - box[:2]).max()) * CROP_REACH, 4.0)
    centre = (box[:2] + box[2:]) / 2 + shake[:2] * side
    side *= float(np.exp(shake[2]))
    return np.asarray(centre - side / 2, np.float32), side


def _crop_square(image: U8, corner: F32, side: float) -> U8:
    """Crop as RoiAlign does with half pixels and two samples per bin and axis."""
    fine = 2 * CROP_SIZE
    zoom = fine / side
    matrix = np.array(
        [[zoom, 0, -(corner[0] - 0.5) * zoom - 0.5], [0, zoom, -(corner[1] - 0.5) * zoom - 0.5]]
    )
    # RoiAlign reads zero outside the picture, which is this grey before normalisation.
    large = cv2.warpAffine(image, matrix, (fine, fine), borderValue=(127, 127, 127))
    return np.asarray(cv2.resize(large, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_AREA), np.uint8)


def _proposal_finder(weights: Weights) -> Finder:
    """The proposal network as the finished detector runs it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    single = {name: value.astype(np.float32) for name, value in weights.items()}
    model = proposer(single).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def find(image: U8) -> tuple[F32, F32]:
        scores, boxes = session.run(None, {"input.1": blob([image]).numpy()})
        return scores, boxes

    return find


def find_candidates(
    samples: tuple[list[Composite], list[Composite]], empty: int, first: Weights, seed: int
) -> Candidates:
    """Run the proposal network on the samples and on ``empty`` backgrounds without people."""
    rng, find = np.random.default_rng([seed, 7]), _proposal_finder(first)
    into = Candidates()
    for pool, size in zip(samples, (224, 448), strict=True):
        for sample in pool * 2:
            image, boxes, kps = _warped(rng, sample, size)
            into.gather(rng, image, boxes, kps, sample.sure.tolist(), find)
    nobody, no_points = np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32)
    for _ in range(empty):
        image = np.zeros((640, 640, 3), np.uint8)
        image[:360] = random_background(rng, (640, 360))
        into.gather(rng, image, nobody, no_points, [], find)
    return into


def _refiner_batches(rng: np.random.Generator, candidates: Candidates, count: int) -> Iterator[Batch]:
    crops, places, faces = np.stack(candidates.crops), np.stack(candidates.places), np.array(candidates.faces)
    positive, negative = np.flatnonzero(faces == 1), np.flatnonzero(faces != 1)
    # Sample false proposals by their score.
    odds = np.array(candidates.scores)[negative]
    odds /= odds.sum()
    while True:
        chosen = rng.choice(positive, 2 * count // 3), rng.choice(negative, count // 3, p=odds)
        index = np.concatenate(chosen)
        x = torch.from_numpy(crops[index][..., ::-1].copy()).permute(0, 3, 1, 2).float()
        place = torch.from_numpy(places[index])
        mirror = torch.rand(len(index)) < 0.5
        x[mirror] = x[mirror].flip(3)
        place[mirror] = _mirrored(place[mirror])
        tint = (torch.rand(len(index), 3, 1, 1) - 0.5) * 20
        x = (recoloured(x, 0.08) + tint).clamp(0, 255)
        yield (x - 127.5) / 128, (place - 0.5) * 4, torch.from_numpy(faces[index])


def _mirrored(place: Tensor) -> Tensor:
    """Box and landmarks of a mirrored crop: right and left are exchanged."""
    pairs = place.unflatten(1, (7, 2))
    pairs = torch.stack([1 - pairs[..., 0], pairs[..., 1]], 2)
    left, right = pairs[:, 1, 0].clone(), pairs[:, 0, 0].clone()
    pairs[:, 0, 0], pairs[:, 1, 0] = left, right
    return pairs[:, [0, 1, 3, 2, 4, 6, 5]].flatten(1)


def _refiner_loss(model: CropNet, batch: Batch) -> Tensor:
    out = model(batch[0])
    face = batch[2]
    error = functional.smooth_l1_loss(out[face == 1, 1:], batch[1][face == 1], beta=0.04, reduction="none")
    places = 0.3 * error[:, :4].mean() + error[:, 4:].mean()
    known = face >= 0
    classification = functional.binary_cross_entropy_with_logits(out[known, 0], face[known].float())
    return 10 * places + classification


def train_detector(plan: Plan, seed: int) -> Weights:
    small = draw_parallel(draw_composite, range(seed, seed + plan.small), 1500)
    large = draw_parallel(
        partial(draw_composite, size=448, low=60, high=430), range(seed, seed + plan.large), 1500
    )
    weights: Weights = {}
    rng = np.random.default_rng(seed)
    proposals, verifier = ProposalNet(), refiner()
    batches = _proposal_batches(rng, small, large)
    loss = partial(_proposal_loss, proposals)
    fit(proposals, batches, loss, steps=plan.proposals, rate=4e-3, label="proposals")
    export("det", proposals, weights)
    batches = _refiner_batches(rng, find_candidates((small, large), plan.empty, weights, seed), 72)
    fit(verifier, batches, partial(_refiner_loss, verifier), steps=plan.refiner, rate=4e-3, label="refiner")
    export("fine", verifier, weights)
    return weights
