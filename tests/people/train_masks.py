"""Train the occluder's and the parser's stand-ins; see :mod:`tests.people.train`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from tests.people.mask_samples import MaskCrop, draw_masks
from tests.people.masking import OCCLUDER_FOLD, PARSER_FOLD
from tests.people.nets import DEVICE, Batch, MaskNet, Weights, export, fit, load, recoloured
from tests.people.plan import Plan, draw_parallel
from tests.people.regions import PARTS


def _tensors(drawn: list[MaskCrop]) -> tuple[Tensor, Tensor, Tensor]:
    images = torch.from_numpy(np.stack([one.image[..., ::-1] for one in drawn])).permute(0, 3, 1, 2)
    numbers = np.zeros(256, np.uint8)
    numbers[list(PARTS)] = np.arange(len(PARTS))
    parts = torch.from_numpy(numbers[np.stack([one.parts for one in drawn])])
    seen = torch.from_numpy(np.stack([one.seen for one in drawn]))
    return images.contiguous().to(DEVICE), parts.to(DEVICE), seen.to(DEVICE)


def _batches(images: Tensor, truths: Tensor, count: int) -> Iterator[Batch]:
    while True:
        chosen = torch.randint(len(images), (count,), device=images.device)
        truth = truths[chosen]
        x = functional.adaptive_avg_pool2d(images[chosen].float(), truth.shape[1:])
        yield recoloured(x, 0.15) / 127.5 - 1, truth


def _occluder_loss(occluder: MaskNet, batch: Batch) -> Tensor:
    truth = batch[1].float()[:, None] / 255
    # Edges matter most in a result, but few pixels are edges.
    edge = (functional.avg_pool2d(truth, 5, 1, 2) - truth).abs()
    with torch.autocast(DEVICE.type, torch.bfloat16):  # twice as fast, also on a CPU
        out = occluder(batch[0])
    error = functional.binary_cross_entropy_with_logits(out.float(), truth, reduction="none")
    return ((1 + 4 * edge) * error).mean()


def _parser_loss(parser: MaskNet, batch: Batch) -> Tensor:
    out, truth = parser(batch[0]), batch[1].long()
    # Eyes, brows and lips cover a few percent of a crop.
    rare = torch.tensor([1.0 if part in (0, 1, 14, 17) else 3.0 for part in PARTS], device=out.device)
    return functional.cross_entropy(out, truth, weight=rare)


def _drawn(seeds: range) -> tuple[Tensor, Tensor, Tensor]:
    return _tensors(list(chain.from_iterable(draw_parallel(draw_masks, seeds))))


def _exported(name: str, model: MaskNet) -> Weights:
    weights: Weights = {}
    export(name, model, weights)
    weights[f"{name}.place"] = model.place.detach().cpu().numpy().astype(np.float16)
    return {name: _coarse(value) for name, value in weights.items()}


def train_masks(plan: Plan, seed: int) -> Weights:
    images, parts, seen = _drawn(range(seed, seed + plan.masks))
    occluder, parser = new_occluder(), MaskNet(len(PARTS), fold=PARSER_FOLD)
    loss = partial(_occluder_loss, occluder)
    fit(occluder, _batches(images, seen, 24), loss, steps=plan.occluder, rate=4e-3, label="occluder")
    loss = partial(_parser_loss, parser)
    fit(parser, _batches(images, parts, 24), loss, steps=plan.parser, rate=4e-3, label="parser")
    return _exported("occ", occluder) | _exported("parse", parser)


def finetune_occluder(plan: Plan, seed: int) -> Weights:
    images, _, seen = _drawn(range(seed, seed + plan.masks // 2))
    occluder = new_occluder()
    load("occ", occluder)
    loss = partial(_occluder_loss, occluder)
    fit(occluder, _batches(images, seen, 16), loss, steps=plan.occluder, rate=1e-3, label="occluder")
    return _exported("occ", occluder)


def new_occluder() -> MaskNet:
    return MaskNet(1, fold=OCCLUDER_FOLD, width=24)


def _coarse(value: npt.NDArray[np.float16]) -> npt.NDArray[np.float16]:
    """Keep half of the ten mantissa bits, without loss of quality, to keep the demo small."""
    rounded = value.view(np.uint16).astype(np.uint32) + 16
    return (rounded // 32 * 32).astype(np.uint16).view(np.float16)
