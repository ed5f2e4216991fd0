"""Train the occluder's and the parser's stand-ins; see :mod:`tests.people.train`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from tests.people.mask_samples import Masked, draw_masked
from tests.people.nets import DEVICE, Batch, Masker, Weights, export, loop, recoloured
from tests.people.plan import Plan, drawn_by_all
from tests.people.regions import PARTS


def _tensors(drawn: list[Masked]) -> tuple[Tensor, Tensor, Tensor]:
    images = torch.from_numpy(np.stack([one.image[..., ::-1] for one in drawn])).permute(0, 3, 1, 2)
    numbers = np.zeros(256, np.uint8)
    numbers[list(PARTS)] = np.arange(len(PARTS))
    parts = torch.from_numpy(numbers[np.stack([one.parts for one in drawn])])
    seen = torch.from_numpy(np.stack([one.seen for one in drawn]))
    return images.contiguous().to(DEVICE), parts.to(DEVICE), seen.to(DEVICE)


def _batches(images: Tensor, truths: Tensor, count: int) -> Iterator[Batch]:
    while True:
        chosen = torch.randint(len(images), (count,), device=images.device)
        x = recoloured(images[chosen].float(), 0.15)
        yield x / 127.5 - 1, truths[chosen]


def train_masks(plan: Plan, seed: int) -> Weights:
    """Draw covered faces and train both networks."""
    drawn = list(chain.from_iterable(drawn_by_all(draw_masked, range(seed, seed + plan.masked))))
    images, parts, seen = _tensors(drawn)
    weights: Weights = {}
    occluder, parser = Masker(1), Masker(len(PARTS))

    def occluder_loss(batch: Batch) -> Tensor:
        truth = batch[1].float()[:, None] / 255
        out = occluder(batch[0])
        # The edges are what is seen in a result, and few pixels are edges.
        edge = (functional.avg_pool2d(truth, 5, 1, 2) - truth).abs()
        error = functional.binary_cross_entropy_with_logits(out, truth, reduction="none")
        return ((1 + 4 * edge) * error).mean()

    def parser_loss(batch: Batch) -> Tensor:
        out, truth = parser(batch[0]), batch[1].long()
        # Eyes, brows and lips are a few hundredths of a crop.
        rare = torch.tensor([1.0 if part in (0, 1, 14, 17) else 3.0 for part in PARTS], device=out.device)
        return functional.cross_entropy(out, truth, weight=rare)

    for name, model, truths, loss, steps in (
        ("occ", occluder, seen, occluder_loss, plan.occluder),
        ("parse", parser, parts, parser_loss, plan.parser),
    ):
        loop(model, _batches(images, truths, 24), loss, steps=steps, rate=4e-3, label=name)
        export(name, model, weights)
        weights[f"{name}.place"] = model.place.detach().cpu().numpy().astype(np.float16)
    return {name: _coarse(value) for name, value in weights.items()}


def _coarse(value: npt.NDArray[np.float16]) -> npt.NDArray[np.float16]:
    """Keep half of the ten binary places: the networks are as good, and the demo stays small."""
    whole = value.view(np.uint16).astype(np.uint32) + 16
    return (whole // 32 * 32).astype(np.uint16).view(np.float16)
