"""Train the stand-in models on rendered people: ``python -m tests.people.train``.

Needs torch. Draws all samples on every core, trains five small networks one after another (minutes on a
GPU, hours without) and writes their weights as float16 to ``weights.npz`` beside this file;
:mod:`tests.people.standins` builds the ONNX graphs from it without torch. The layer names are the contract
between the two.
"""

from __future__ import annotations

import argparse
import os
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.people import actors
from tests.people.background import random_background
from tests.people.looks import KEPT
from tests.people.samples import Composite, Crops, draw_composite, draw_crops
from tests.people.standins import (
    ANCHORS,
    CROP_REACH,
    CROP_SIZE,
    LOOK_MEAN,
    LOOK_SPREAD,
    SWAP_BLOCKS,
    WEIGHTS,
    proposer,
)

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
Weights = dict[str, npt.NDArray[np.float16]]
KEPT_FIELDS = len(KEPT)
Drawn = TypeVar("Drawn")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LEAST_SCORE = 0.04  # of the first look, for a candidate worth learning from
# A picture to scores (K,) and boxes (K, 4) in pixels.
Finder = Callable[[U8], tuple[F32, F32]]


class Conv(nn.Module):
    """Convolution with batch norm (folded at export) and leaky ReLU."""

    def __init__(
        self,
        ins: int,
        outs: int,
        size: int = 3,
        *,
        stride: int = 1,
        dilation: int = 1,
        norm: bool = True,
        act: bool = True,
    ) -> None:
        super().__init__()
        padding = dilation * (size // 2)
        self.conv = nn.Conv2d(ins, outs, size, stride, padding, dilation)
        self.norm = nn.BatchNorm2d(outs) if norm else None
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """Apply."""
        y: Tensor = self.conv(x)
        y = self.norm(y) if self.norm is not None else y
        return functional.leaky_relu(y, 0.1) if self.act else y

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias with the norm folded in."""
        weight, bias = self.conv.weight.data, self.conv.bias
        assert bias is not None
        if self.norm is None:
            return weight, bias.data
        variance, mean = self.norm.running_var, self.norm.running_mean
        assert variance is not None
        assert mean is not None
        gain = self.norm.weight.data / torch.sqrt(variance + self.norm.eps)
        return weight * gain[:, None, None, None], (bias.data - mean) * gain + self.norm.bias.data


class FirstLook(nn.Module):
    """Whole picture to candidates: strides 8, 16, 32; for each cell two anchors of 1 score and 4 sides."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = Conv(3, 12, stride=2), Conv(12, 24, stride=2)
        self.c3, self.c4 = Conv(24, 36, stride=2), Conv(36, 36)
        self.c5, self.c6 = Conv(36, 64, stride=2), Conv(64, 64)
        self.c7, self.c8, self.c9 = Conv(64, 80, stride=2), Conv(80, 80), Conv(80, 80, dilation=2)
        self.l8, self.l16, self.l32 = (Conv(n, m, 1, act=False) for n, m in ((36, 32), (64, 64), (80, 64)))
        self.d8 = Conv(64, 32, 1, act=False)
        self.h8, self.h16, self.h32 = Conv(32, 32), Conv(64, 64), Conv(64, 64)
        self.o8, self.o16, self.o32 = (Conv(n, 10, 1, norm=False, act=False) for n in (32, 64, 64))
        for out in (self.o8, self.o16, self.o32):
            assert out.conv.bias is not None
            nn.init.constant_(out.conv.bias[::5], -4.0)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map RGB (x - 127.5) / 128 (B, 3, H, W) to three (B, 10, H/s, W/s)."""
        p8 = self.c4(self.c3(self.c2(self.c1(x))))
        p16 = self.c6(self.c5(p8))
        p32 = self.l32(self.c9(self.c8(self.c7(p16))))
        p16 = self.l16(p16) + functional.interpolate(p32, scale_factor=2.0)
        p8 = self.l8(p8) + self.d8(functional.interpolate(p16, scale_factor=2.0))
        p8, p16, p32 = (functional.leaky_relu(p, 0.1) for p in (p8, p16, p32))
        return [self.o8(self.h8(p8)), self.o16(self.h16(p16)), self.o32(self.h32(p32))]


class SecondLook(nn.Module):
    """A candidate's crop to the verdict "face", its box and its five points."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2, self.c3 = Conv(3, 24, stride=2), Conv(24, 40, stride=2), Conv(40, 40)
        self.c4, self.c5, self.c6 = Conv(40, 64, stride=2), Conv(64, 64), Conv(64, 20, 1)
        self.f1 = Conv(20 * (CROP_SIZE // 8) ** 2, 80, 1)
        self.f2 = Conv(80, 15, 1, norm=False, act=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map RGB (x - 127.5) / 128 (B, 3, 64, 64) to (B, 15).

        The columns are the verdict's logit, then left, top, right, bottom and five x, y as
        4 * (position over the crop's side - 0.5).
        """
        x = self.c6(self.c5(self.c4(self.c3(self.c2(self.c1(x))))))
        out: Tensor = self.f2(self.f1(x.flatten(1)[:, :, None, None]))
        return out.flatten(1)


class Embedder(nn.Module):
    """112 x 112 crop to the standardised face vector."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2, self.c3 = Conv(3, 16, stride=2), Conv(16, 32, stride=2), Conv(32, 32)
        self.c4, self.c5, self.c6 = Conv(32, 64, stride=2), Conv(64, 64), Conv(64, 96, stride=2)
        self.c7, self.c8 = Conv(96, 96), Conv(96, 32, 1)
        self.f1, self.f2 = Conv(1568, 128, 1), Conv(128, 16, 1, norm=False, act=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map RGB (x - 127.5) / 127.5 (B, 3, 112, 112) to (B, 16)."""
        x = self.c8(self.c7(self.c6(self.c5(self.c4(self.c3(self.c2(self.c1(x))))))))
        out: Tensor = self.f2(self.f1(x.flatten(1)[:, :, None, None]))
        return out.flatten(1)


class Traits(nn.Module):
    """96 x 96 crop by the box to female, male, years / 100."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = Conv(3, 16, stride=2), Conv(16, 32, stride=2)
        self.c3, self.c4 = Conv(32, 48, stride=2), Conv(48, 64, stride=2)
        self.c5 = Conv(64, 24, 1)
        self.f1, self.f2 = Conv(864, 48, 1), Conv(48, 3, 1, norm=False, act=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map RGB (x - 127.5) / 127.5 (B, 3, 96, 96) to (B, 3)."""
        x = self.c5(self.c4(self.c3(self.c2(self.c1(x)))))
        out: Tensor = self.f2(self.f1(x.flatten(1)[:, :, None, None]))
        return out.flatten(1)


class Swapper(nn.Module):
    """128 x 128 crop and face vector to the crop with that face."""

    def __init__(self) -> None:
        super().__init__()
        plain = partial(Conv, norm=False)
        self.a1, self.b1, self.b2 = plain(12, 32), plain(32, 64, stride=2), plain(64, 64)
        self.d1, self.u1 = plain(64, 96, stride=2), plain(96, 64, 1)
        self.u3, self.u4, self.u5 = plain(64, 32, 1), plain(32, 32), plain(32, 12, act=False)
        self.s1, self.s2 = plain(16, 96, 1), plain(96, 96, 1)
        for name, width in SWAP_BLOCKS.items():
            self.add_module(name, plain(width, width))
            self.add_module(f"film_{name}", plain(96, 2 * width, 1, act=False))
        # Where in the aligned crop a pixel lies: brows and lips are always at the same height.
        self.place = nn.Parameter(torch.zeros(1, 64, 32, 32))
        self._start()

    def _start(self) -> None:
        """Keep the signal's size through the layers; begin near "change nothing"."""
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, a=0.1)
                if name.startswith(("film", "u5")):
                    layer.weight.data.mul_(0.15)

    def _film(self, name: str, x: Tensor, style: Tensor) -> Tensor:
        """Adaptive instance norm: forget how strong each channel was, set it by the style."""
        layer = self.get_submodule(name)
        gain, shift = self.get_submodule(f"film_{name}")(style).chunk(2, 1)
        y: Tensor = layer(x)
        mean = y.mean((2, 3), keepdim=True)
        spread = torch.rsqrt((y - mean).square().mean((2, 3), keepdim=True) + 1e-5)
        return (y - mean) * (spread * (1 + gain)) + shift

    def forward(self, target: Tensor, look: Tensor) -> Tensor:
        """Map RGB 0..1 (B, 3, 128, 128) and (B, 16) to RGB, not yet clipped to 0..1."""
        style = self.s2(self.s1(look[:, :, None, None]))
        a = self.a1(functional.pixel_unshuffle(target * 2 - 1, 2))
        b = self.b2(self.b1(a)) + self.place
        d = self.d1(b)
        d = d + self._film("r2", self._film("r1", d, style), style)
        b = b + functional.interpolate(self.u1(d), scale_factor=2.0)
        b = b + self._film("m2", self._film("m1", b, style), style)
        b = b + self._film("m4", self._film("m3", b, style), style)
        a = a + functional.interpolate(self.u3(b), scale_factor=2.0)
        a = self.u4(a)
        change = functional.pixel_shuffle(self.u5(a), 2)
        return target + torch.tanh(change)


def _loop(
    model: nn.Module,
    batches: Iterator[tuple[Tensor, ...]],
    loss_of: Callable[[tuple[Tensor, ...]], Tensor],
    *,
    steps: int,
    rate: float,
    label: str,
) -> None:
    """Train for some steps with a warm-up and a cosine to zero."""
    # Channels last is several times faster with so few channels.
    model.to(DEVICE, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    start, running = time.perf_counter(), torch.zeros((), device=DEVICE)
    for step in range(steps):
        done = step / steps
        factor = min(1.0, 0.05 + done * 30) * 0.5 * (1 + np.cos(np.pi * done))
        for group in optimiser.param_groups:
            group["lr"] = rate * factor
        loss = loss_of(tuple(part.to(DEVICE, non_blocking=True) for part in next(batches)))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        running += (0.02 if step else 1.0) * (loss.detach() - running)
        if (step + 1) % 500 == 0:
            spent = time.perf_counter() - start
            print(f"{label}: step {step + 1}, {spent:.0f} s, loss {running.item():.4f}", flush=True)
    model.eval()


def _warped(rng: np.random.Generator, sample: Composite, size: int) -> tuple[U8, F32, F32]:
    """Turn, scale, shift, mirror and recolour a composite; cut it to ``size``."""
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
    corners = np.stack(
        [np.stack([x0, y0], 1), np.stack([x1, y0], 1), np.stack([x0, y1], 1), np.stack([x1, y1], 1)], 1
    )
    corners = corners @ matrix[:, :2].T + matrix[:, 2]
    boxes = np.concatenate([corners.min(1), corners.max(1)], 1)
    image = cv2.LUT(image, levels[None])
    return np.asarray(image, np.uint8), boxes.astype(np.float32), kps.astype(np.float32)


def _assign(
    boxes: F32, sure: npt.NDArray[np.bool_], size: int, stride: int, anchors: tuple[float, float]
) -> tuple[F32, F32]:
    """Lay targets on one level's grid.

    Returns:
        Score (2, n, n): 1 face, 0 none, -1 do not care; sides over anchor size (2, 4, n, n), NaN where
        there is no face.
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
                # Sides are learnt on a wider patch: many more examples for each face.
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


def _first_batches(
    rng: np.random.Generator, small: list[Composite], large: list[Composite]
) -> Iterator[tuple[Tensor, ...]]:
    while True:
        pool, size, count = (large, 448, 4) if rng.random() < 0.2 else (small, 224, 16)
        images, targets = [], []
        for index in rng.integers(0, len(pool), count):
            image, boxes, _ = _warped(rng, pool[index], size)
            images.append(image)
            targets.append([_assign(boxes, pool[index].sure, size, s, a) for s, a in ANCHORS.items()])
        batch = [_blob(images)]
        for level in range(3):
            batch += [torch.from_numpy(np.stack([t[level][part] for t in targets])) for part in (0, 1)]
        yield tuple(batch)


def _blob(images: list[U8]) -> Tensor:
    return torch.from_numpy(cv2.dnn.blobFromImages(images, 1 / 128, None, (127.5,) * 3, swapRB=True))


def _first_loss(model: FirstLook, batch: tuple[Tensor, ...]) -> Tensor:
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
    """What the first look found, for the second to learn from.

    Attributes:
        crops: uint8 BGR (64, 64, 3) each.
        places: float32 (14,) each, box and points over the crop's side; NaN where there is no face.
        faces: 1 face, 0 none, -1 too little of one to ask for it.
        scores: The first look's, 0..1.
    """

    crops: list[U8] = field(default_factory=list)
    places: list[F32] = field(default_factory=list)
    faces: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def gather(
        self, rng: np.random.Generator, image: U8, boxes: F32, kps: F32, sure: Sequence[bool], find: Finder
    ) -> None:
        """Add the candidates of a picture, faces twice and a little shaken."""
        scores, found = find(image)
        for box, score in zip(found, scores, strict=True):
            if score < LEAST_SCORE:
                continue
            overlaps = [_overlap(box, true) for true in boxes] or [0.0]
            best = int(np.argmax(overlaps))
            if overlaps[best] > 0.5:
                for _ in range(2 if sure[best] else 1):
                    shaken = _square(box, rng.normal(0, (0.04, 0.04, 0.07)))
                    places = np.concatenate([boxes[best], kps[best].ravel()]).reshape(7, 2)
                    self._add(image, shaken, places, 1 if sure[best] else -1, score)
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
    """What RoiAlign with half pixels and two samples a bin and axis gives."""
    fine = 2 * CROP_SIZE
    zoom = fine / side
    matrix = np.array(
        [[zoom, 0, -(corner[0] - 0.5) * zoom - 0.5], [0, zoom, -(corner[1] - 0.5) * zoom - 0.5]]
    )
    # RoiAlign reads zero outside the picture, which is this grey before normalisation.
    large = cv2.warpAffine(image, matrix, (fine, fine), borderValue=(127, 127, 127))
    return np.asarray(cv2.resize(large, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_AREA), np.uint8)


def _finder(weights: Weights) -> Finder:
    """The first look as the finished detector runs it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    single = {name: value.astype(np.float32) for name, value in weights.items()}
    model = proposer(single).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def find(image: U8) -> tuple[F32, F32]:
        scores, boxes = session.run(None, {"input.1": _blob([image]).numpy()})
        return scores, boxes

    return find


def find_candidates(
    samples: tuple[list[Composite], list[Composite]], empty: int, first: Weights, seed: int
) -> Candidates:
    """Run the first look over the samples and over ``empty`` backgrounds without people."""
    rng, find = np.random.default_rng([seed, 7]), _finder(first)
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


def _second_batches(
    rng: np.random.Generator, candidates: Candidates, count: int
) -> Iterator[tuple[Tensor, ...]]:
    crops, places, faces = np.stack(candidates.crops), np.stack(candidates.places), np.array(candidates.faces)
    are, are_not = np.flatnonzero(faces == 1), np.flatnonzero(faces != 1)
    # What fooled the first look most is asked about most.
    doubt = np.array(candidates.scores)[are_not]
    doubt /= doubt.sum()
    while True:
        index = np.concatenate([rng.choice(are, 2 * count // 3), rng.choice(are_not, count // 3, p=doubt)])
        x = torch.from_numpy(crops[index][..., ::-1].copy()).permute(0, 3, 1, 2).float()
        place = torch.from_numpy(places[index])
        mirror = torch.rand(len(index)) < 0.5
        x[mirror] = x[mirror].flip(3)
        place[mirror] = _mirrored(place[mirror])
        tint = (torch.rand(len(index), 3, 1, 1) - 0.5) * 20
        x = (_recoloured(x, 0.08) + tint).clamp(0, 255)
        yield (x - 127.5) / 128, (place - 0.5) * 4, torch.from_numpy(faces[index])


def _mirrored(place: Tensor) -> Tensor:
    """Box and points of a crop seen in a mirror: right and left change places."""
    pairs = place.unflatten(1, (7, 2))
    pairs = torch.stack([1 - pairs[..., 0], pairs[..., 1]], 2)
    left, right = pairs[:, 1, 0].clone(), pairs[:, 0, 0].clone()
    pairs[:, 0, 0], pairs[:, 1, 0] = left, right
    return pairs[:, [0, 1, 3, 2, 4, 6, 5]].flatten(1)


def _second_loss(model: SecondLook, batch: tuple[Tensor, ...]) -> Tensor:
    out = model(batch[0])
    face = batch[2]
    error = functional.smooth_l1_loss(out[face == 1, 1:], batch[1][face == 1], beta=0.04, reduction="none")
    places = 0.3 * error[:, :4].mean() + error[:, 4:].mean()
    asked = face >= 0
    verdict = functional.binary_cross_entropy_with_logits(out[asked, 0], face[asked].float())
    return 10 * places + verdict


def _crop_tensors(crops: list[Crops]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    faces, boxes = (
        torch.from_numpy(np.stack(part)[..., ::-1].copy()).permute(0, 1, 4, 2, 3).contiguous()
        for part in ([c.faces for c in crops], [c.boxes for c in crops])
    )
    looks = torch.from_numpy((np.stack([c.looks for c in crops]) - LOOK_MEAN) / LOOK_SPREAD)
    traits = torch.from_numpy(np.stack([c.traits for c in crops]))
    return faces.to(DEVICE), looks.to(DEVICE), boxes.to(DEVICE), traits.to(DEVICE)


def _recoloured(x: Tensor, amount: float) -> Tensor:
    """Small changes of contrast and brightness, alike for all channels; range 0..255 stays."""
    gain, shift = amount * (torch.rand(2, len(x), 1, 1, 1, device=x.device) * 2 - 1)
    return ((x - 128) * (1 + gain) + 128 + 128 * shift).clamp(0, 255)


def _drawn(crops: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Choose heads and one face of each, at random."""
    heads, variants = crops.shape[:2]
    choose = partial(torch.randint, size=(count,), device=crops.device)
    return choose(high=heads), choose(high=variants)


def _embedder_batches(faces: Tensor, looks: Tensor, count: int) -> Iterator[tuple[Tensor, ...]]:
    while True:
        i, k = _drawn(faces, count)
        dy, dx = int(torch.randint(2, ())), int(torch.randint(3, ()))
        # The 112 crop is the middle of the 128 crop: same scale, 8 columns in (a pixel of play).
        x = faces[i, k][:, :, dy : dy + 112, 7 + dx : 119 + dx].float()
        yield (_recoloured(x, 0.04) - 127.5) / 127.5, looks[i, k]


def _trait_batches(boxes: Tensor, traits: Tensor, count: int) -> Iterator[tuple[Tensor, ...]]:
    while True:
        i, k = _drawn(boxes, count)
        yield (_recoloured(boxes[i, k].float(), 0.06) - 127.5) / 127.5, traits[i, k]


def _trait_loss(model: Traits, batch: tuple[Tensor, ...]) -> Tensor:
    out = model(batch[0])
    gender = functional.cross_entropy(out[:, :2], batch[1][:, 0].long())
    return gender + 4 * (out[:, 2] - batch[1][:, 1]).abs().mean()


def _swap_batches(faces: Tensor, looks: Tensor, count: int) -> Iterator[tuple[Tensor, ...]]:
    variants = faces.shape[1]
    while True:
        i, a = _drawn(faces, count)
        # One in ten keeps its face: a swapper must be able to leave things as they are.
        step = torch.randint(1, variants, (count,), device=faces.device)
        b = torch.where(torch.rand(count, device=faces.device) < 0.1, a, (a + step) % variants)
        look = looks[i, b] + 0.06 * torch.randn(count, looks.shape[2], device=looks.device)
        look[:, :KEPT_FIELDS] = 0  # as the recogniser gives it: the target's tone stays
        yield faces[i, a].float() / 255, look, faces[i, b].float() / 255


def _paste_window() -> Tensor:
    """Return about how much of each pixel of the crop a swap pastes back: all but a soft rim."""
    ramp = ((torch.minimum(torch.arange(128.0), 127 - torch.arange(128.0)) - 8) / 10).clamp(0, 1)
    return (ramp[:, None] * ramp[None, :]).to(DEVICE)


def _read(judge: Embedder, window: Tensor, out: Tensor, target: Tensor) -> Tensor:
    """Return the recogniser's reading (B, 16) of a swap that is pasted into its target."""
    pasted = target + window * (out.clamp(0, 1) - target)
    look: Tensor = judge(pasted[:, :, :112, 8:120] * 2 - 1)
    return look


def _swap_loss(model: Swapper, judge: Embedder, window: Tensor, batch: tuple[Tensor, ...]) -> Tensor:
    target, look, truth = batch
    out = model(target, look)
    error = out - truth
    # Few pixels change: without this they drown in those that stay.
    change = functional.avg_pool2d((truth - target).abs().amax(1, keepdim=True), 5, 1, 2)
    weight = 0.5 + 15 * change.clamp(max=0.35)
    across, down = error[..., 1:] - error[..., :-1], error[..., 1:, :] - error[..., :-1, :]
    edges = (weight[..., 1:] * across.abs()).mean() + (weight[..., 1:, :] * down.abs()).mean()
    pixels = 6 * (weight * error.abs()).mean() + 12 * (weight * error**2).mean() + 1.5 * edges
    read = _read(judge, window, out, target)[:, KEPT_FIELDS:]
    return pixels + 0.12 * functional.smooth_l1_loss(read, look[:, KEPT_FIELDS:], beta=0.3)


def _swap_errors(model: Swapper, judge: Embedder, crops: list[Crops]) -> npt.NDArray[np.float16]:
    """Return with which error (16,) the recogniser reads each number off swaps of crops not trained on."""
    faces, looks, _, _ = _crop_tensors(crops)
    batches = _swap_batches(faces, looks, 256)
    with torch.no_grad():
        read = [
            _read(judge, _paste_window(), model(target, look), target) - look
            for target, look, _ in (next(batches) for _ in range(16))
        ]
    return torch.cat(read).square().mean(0).sqrt().cpu().numpy().astype(np.float16)


def _export(name: str, model: nn.Module, into: Weights) -> None:
    for path, layer in model.named_modules():
        if isinstance(layer, Conv):
            weight, bias = layer.folded()
            into[f"{name}.{path}.w"] = weight.cpu().numpy().astype(np.float16)
            into[f"{name}.{path}.b"] = bias.cpu().numpy().astype(np.float16)


@dataclass(frozen=True)
class Plan:
    """How much is drawn and trained.

    Attributes:
        small: Composites of 256 pixels.
        large: Composites of 448 pixels.
        empty: Backgrounds without people.
        crops: Bodies for the aligned crops, two poses and three faces each.
        first: Optimiser steps for the detector's first look.
        second: The same for its second look.
        recogniser: The same for the recogniser.
        attributes: The same for age and presentation.
        swapper: The same for the swapper.
    """

    small: int = 2100
    large: int = 400
    empty: int = 1200
    crops: int = 5000
    first: int = 2200
    second: int = 4000
    recogniser: int = 4500
    attributes: int = 2500
    swapper: int = 12000

    def scaled(self, factor: float) -> Plan:
        """Return a smaller or larger plan."""
        return Plan(**{name: max(round(factor * n), 8) for name, n in asdict(self).items()})


def _ready(textures: int) -> None:
    """Make a process ready to draw."""
    cv2.setNumThreads(1)
    actors.keep_textures(textures)


def _drawn_by_all(draw: Callable[[int], Drawn], seeds: range, textures: int = 96) -> list[Drawn]:
    """Draw samples on every core."""
    spawn = get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), spawn, initializer=_ready, initargs=(textures,)) as pool:
        return list(pool.map(draw, seeds, chunksize=8))


def train_detector(plan: Plan, seed: int) -> Weights:
    """Draw composites and train both looks of the detector."""
    small = _drawn_by_all(draw_composite, range(seed, seed + plan.small), 1500)
    large = _drawn_by_all(
        partial(draw_composite, size=448, low=60, high=430), range(seed, seed + plan.large), 1500
    )
    weights: Weights = {}
    rng = np.random.default_rng(seed)
    first, second = FirstLook(), SecondLook()
    batches = _first_batches(rng, small, large)
    _loop(first, batches, partial(_first_loss, first), steps=plan.first, rate=4e-3, label="first look")
    _export("det", first, weights)
    batches = _second_batches(rng, find_candidates((small, large), plan.empty, weights, seed), 72)
    _loop(second, batches, partial(_second_loss, second), steps=plan.second, rate=4e-3, label="second look")
    _export("fine", second, weights)
    return weights


def train_recogniser(crops: list[Crops], steps: int) -> Embedder:
    """Train the recogniser's trunk."""
    model = Embedder()
    faces, looks, _, _ = _crop_tensors(crops)

    def loss(batch: tuple[Tensor, ...]) -> Tensor:
        return functional.smooth_l1_loss(model(batch[0]), batch[1], beta=0.3)

    _loop(model, _embedder_batches(faces, looks, 64), loss, steps=steps, rate=3e-3, label="recogniser")
    return model


def train_attributes(crops: list[Crops], steps: int) -> Traits:
    """Train age and presentation."""
    model = Traits()
    _, _, boxes, traits = _crop_tensors(crops)
    batches = _trait_batches(boxes, traits, 64)
    _loop(model, batches, partial(_trait_loss, model), steps=steps, rate=3e-3, label="attributes")
    return model


def train_swapper(crops: list[Crops], steps: int, judge: Embedder) -> Swapper:
    """Train the swapper; the recogniser, kept as it is, judges whether the look came across."""
    model = Swapper()
    judge.requires_grad_(False)
    faces, looks, _, _ = _crop_tensors(crops)
    loss = partial(_swap_loss, model, judge, _paste_window())
    _loop(model, _swap_batches(faces, looks, 64), loss, steps=steps, rate=3e-3, label="swapper")
    return model


def train_faces(plan: Plan, seed: int) -> Weights:
    """Draw crops and train recogniser, attributes and swapper."""
    drawn = _drawn_by_all(draw_crops, range(seed, seed + plan.crops))
    held = max(len(drawn) // 20, 1)
    unseen, crops = (list(chain.from_iterable(part)) for part in (drawn[:held], drawn[held:]))
    weights: Weights = {}
    judge = train_recogniser(crops, plan.recogniser)
    _export("rec", judge, weights)
    _export("age", train_attributes(crops, plan.attributes), weights)
    swapper = train_swapper(crops, plan.swapper, judge)
    _export("swap", swapper, weights)
    weights["swap.place"] = swapper.place.detach().cpu().numpy().astype(np.float16)
    weights["swap.errors"] = _swap_errors(swapper, judge, unseen)
    return weights


PARTS: dict[str, Callable[[Plan, int], Weights]] = {"detector": train_detector, "faces": train_faces}


def train(plan: Plan, parts: Sequence[str], *, seed: int = 100_000, output: Path = WEIGHTS) -> None:
    """Draw samples, train, and write the weights; those of other parts stay.

    Args:
        plan: How much.
        parts: Of ``PARTS``.
        seed: First seed of the samples.
        output: The file to write.
    """
    weights: Weights = {}
    if WEIGHTS.exists():
        with np.load(WEIGHTS) as archive:
            weights.update(archive)
    for part in parts:
        torch.manual_seed(seed)
        weights |= PARTS[part](plan, seed)
    with zipfile.ZipFile(output, "w", zipfile.ZIP_LZMA) as pack:
        for name, value in weights.items():
            with pack.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, value)
    print(f"{output}: {output.stat().st_size / 1e6:.2f} MB")


def main() -> None:
    """Run from a shell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS, help="train this part alone")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the samples and steps")
    parser.add_argument("--seed", type=int, default=100_000)
    parser.add_argument("--output", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    start = time.perf_counter()
    parts = [options.only] if options.only else list(PARTS)
    train(Plan().scaled(options.scale), parts, seed=options.seed, output=options.output)
    print(f"{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
