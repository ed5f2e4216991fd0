"""Train the stand-in models on rendered people: ``python -m tests.people.train``.

Needs torch. Draws all samples on every core, trains seven small networks one after another (minutes on a
GPU, hours without) and writes their weights as float16 to ``weights.npz`` beside this file;
:mod:`tests.people.standins` builds the ONNX graphs from it without torch.
"""

from __future__ import annotations

import argparse
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from tests.people.looks import KEPT
from tests.people.nets import (
    DEVICE,
    Batch,
    CropNet,
    Swapper,
    Weights,
    attributes,
    export,
    fit,
    recogniser,
    recoloured,
)
from tests.people.plan import Plan, draw_parallel
from tests.people.samples import Crops, draw_crops
from tests.people.standins import LOOK_MEAN, LOOK_SPREAD, WEIGHTS
from tests.people.train_detector import train_detector
from tests.people.train_masks import finetune_occluder, train_masks

KEPT_FIELDS = len(KEPT)


def _crop_tensors(crops: list[Crops]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    faces, boxes = (
        torch.from_numpy(np.stack(part)[..., ::-1].copy()).permute(0, 1, 4, 2, 3).contiguous()
        for part in ([c.faces for c in crops], [c.boxes for c in crops])
    )
    looks = torch.from_numpy((np.stack([c.looks for c in crops]) - LOOK_MEAN) / LOOK_SPREAD)
    traits = torch.from_numpy(np.stack([c.traits for c in crops]))
    return faces.to(DEVICE), looks.to(DEVICE), boxes.to(DEVICE), traits.to(DEVICE)


def _choose(crops: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Choose random heads and one face of each."""
    heads, variants = crops.shape[:2]
    choose = partial(torch.randint, size=(count,), device=crops.device)
    return choose(high=heads), choose(high=variants)


def _embedder_batches(faces: Tensor, looks: Tensor, count: int) -> Iterator[Batch]:
    while True:
        i, k = _choose(faces, count)
        dy, dx = int(torch.randint(2, ())), int(torch.randint(3, ()))
        # The 112 crop lies 8 columns inside the 128 crop at the same scale, jittered by a pixel.
        x = faces[i, k][:, :, dy : dy + 112, 7 + dx : 119 + dx].float()
        yield (recoloured(x, 0.04) - 127.5) / 127.5, looks[i, k]


def _trait_batches(boxes: Tensor, traits: Tensor, count: int) -> Iterator[Batch]:
    while True:
        i, k = _choose(boxes, count)
        yield (recoloured(boxes[i, k].float(), 0.06) - 127.5) / 127.5, traits[i, k]


def _trait_loss(model: CropNet, batch: Batch) -> Tensor:
    out = model(batch[0])
    gender = functional.cross_entropy(out[:, :2], batch[1][:, 0].long())
    return gender + 4 * (out[:, 2] - batch[1][:, 1]).abs().mean()


def _swap_batches(faces: Tensor, looks: Tensor, count: int) -> Iterator[Batch]:
    variants = faces.shape[1]
    while True:
        i, a = _choose(faces, count)
        # One in ten keeps its face, so that the swapper learns the identity.
        step = torch.randint(1, variants, (count,), device=faces.device)
        b = torch.where(torch.rand(count, device=faces.device) < 0.1, a, (a + step) % variants)
        look = looks[i, b] + 0.06 * torch.randn(count, looks.shape[2], device=looks.device)
        look[:, :KEPT_FIELDS] = 0  # as in the recogniser's output: the target's tone is kept
        yield faces[i, a].float() / 255, look, faces[i, b].float() / 255


def _paste_window() -> Tensor:
    """Return the approximate paste mask of a swap: all but a soft rim."""
    ramp = ((torch.minimum(torch.arange(128.0), 127 - torch.arange(128.0)) - 8) / 10).clamp(0, 1)
    return (ramp[:, None] * ramp[None, :]).to(DEVICE)


def _estimate(judge: CropNet, window: Tensor, out: Tensor, target: Tensor) -> Tensor:
    """Return the recogniser's estimate (B, 16) for a swap pasted into its target."""
    pasted = target + window * (out.clamp(0, 1) - target)
    look: Tensor = judge(pasted[:, :, :112, 8:120] * 2 - 1)
    return look


def _swap_loss(model: Swapper, judge: CropNet, window: Tensor, batch: Batch) -> Tensor:
    target, look, truth = batch
    out = model(target, look)
    error = out - truth
    # Few pixels change: weighted up against the unchanged ones.
    change = functional.avg_pool2d((truth - target).abs().amax(1, keepdim=True), 5, 1, 2)
    weight = 0.5 + 15 * change.clamp(max=0.35)
    across, down = error[..., 1:] - error[..., :-1], error[..., 1:, :] - error[..., :-1, :]
    edges = (weight[..., 1:] * across.abs()).mean() + (weight[..., 1:, :] * down.abs()).mean()
    pixels = 6 * (weight * error.abs()).mean() + 12 * (weight * error**2).mean() + 1.5 * edges
    read = _estimate(judge, window, out, target)[:, KEPT_FIELDS:]
    return pixels + 0.12 * functional.smooth_l1_loss(read, look[:, KEPT_FIELDS:], beta=0.3)


def _swap_errors(model: Swapper, judge: CropNet, crops: list[Crops]) -> npt.NDArray[np.float16]:
    """Return the recogniser's error (16,) in each parameter on swaps of held-out crops."""
    faces, looks, _, _ = _crop_tensors(crops)
    batches = _swap_batches(faces, looks, 256)
    with torch.no_grad():
        read = [
            _estimate(judge, _paste_window(), model(target, look), target) - look
            for target, look, _ in (next(batches) for _ in range(16))
        ]
    return torch.cat(read).square().mean(0).sqrt().cpu().numpy().astype(np.float16)


def train_recogniser(crops: list[Crops], steps: int) -> CropNet:
    model = recogniser()
    faces, looks, _, _ = _crop_tensors(crops)

    def loss(batch: Batch) -> Tensor:
        return functional.smooth_l1_loss(model(batch[0]), batch[1], beta=0.3)

    fit(model, _embedder_batches(faces, looks, 64), loss, steps=steps, rate=3e-3, label="recogniser")
    return model


def train_attributes(crops: list[Crops], steps: int) -> CropNet:
    model = attributes()
    _, _, boxes, traits = _crop_tensors(crops)
    batches = _trait_batches(boxes, traits, 64)
    fit(model, batches, partial(_trait_loss, model), steps=steps, rate=3e-3, label="attributes")
    return model


def train_swapper(crops: list[Crops], steps: int, judge: CropNet) -> Swapper:
    """Train the swapper, with the frozen recogniser as a perceptual loss."""
    model = Swapper()
    judge.requires_grad_(False)
    faces, looks, _, _ = _crop_tensors(crops)
    loss = partial(_swap_loss, model, judge, _paste_window())
    fit(model, _swap_batches(faces, looks, 64), loss, steps=steps, rate=3e-3, label="swapper")
    return model


def train_faces(plan: Plan, seed: int) -> Weights:
    drawn = draw_parallel(draw_crops, range(seed, seed + plan.crops))
    held_out = max(len(drawn) // 20, 1)
    validation, crops = (list(chain.from_iterable(part)) for part in (drawn[:held_out], drawn[held_out:]))
    weights: Weights = {}
    recogniser_net = train_recogniser(crops, plan.recogniser)
    export("rec", recogniser_net, weights)
    export("age", train_attributes(crops, plan.attributes), weights)
    swapper = train_swapper(crops, plan.swapper, recogniser_net)
    export("swap", swapper, weights)
    weights["swap.place"] = swapper.place.detach().cpu().numpy().astype(np.float16)
    weights["swap.errors"] = _swap_errors(swapper, recogniser_net, validation)
    return weights


PARTS: dict[str, Callable[[Plan, int], Weights]] = {
    "detector": train_detector,
    "faces": train_faces,
    "masks": train_masks,
    "occluder fine-tuning": finetune_occluder,
}


def train(plan: Plan, parts: Sequence[str], *, seed: int = 100_000, output: Path = WEIGHTS) -> None:
    """Draw samples, train, and write the weights; those of other parts are kept."""
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS, help="train only this part")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the samples and steps")
    parser.add_argument("--seed", type=int, default=100_000)
    parser.add_argument("--output", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    start = time.perf_counter()
    parts = [options.only] if options.only else [part for part in PARTS if "fine-tuning" not in part]
    train(Plan().scaled(options.scale), parts, seed=options.seed, output=options.output)
    print(f"{time.perf_counter() - start:.0f} s in total")


if __name__ == "__main__":
    main()
