"""Torch networks behind the stand-ins; layer names must match those in the ONNX graphs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.people.graph import ATTRIBUTES, RECOGNISER, REFINER, ConvStack
from tests.people.standins import CROP_SIZE, SWAP_BLOCKS, load_weights

Weights = dict[str, npt.NDArray[np.float16]]
Batch = tuple[Tensor, ...]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Conv(nn.Module):
    """Convolution with batch norm (folded at export) and leaky ReLU."""

    def __init__(
        self, ins: int, outs: int, size: int = 3, *, stride: int = 1, dilation: int = 1, norm: bool = True,
        act: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        padding = dilation * (size // 2)
        self.conv = nn.Conv2d(ins, outs, size, stride, padding, dilation)
        self.norm = nn.BatchNorm2d(outs) if norm else None
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
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


class ProposalNet(nn.Module):
    """Proposal network: strides 8, 16, 32, per cell two anchors of 1 score and 4 sides."""

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


class CropNet(nn.Module):
    """Regression from crops: a stack of convolutions c1, c2, …, then two fully connected layers."""

    def __init__(self, stack: ConvStack, flat: int, hidden: int, outs: int) -> None:
        super().__init__()
        channels = [3, *(width for width, _, _ in stack)]
        self.stack = [f"c{n}" for n in range(1, len(stack) + 1)]
        for name, ins, (width, size, stride) in zip(self.stack, channels, stack, strict=False):
            self.add_module(name, Conv(ins, width, size, stride=stride))
        self.f1, self.f2 = Conv(flat, hidden, 1), Conv(hidden, outs, 1, norm=False, act=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised RGB (B, 3, S, S) to (B, outs)."""
        for name in self.stack:
            x = self.get_submodule(name)(x)
        out: Tensor = self.f2(self.f1(x.flatten(1)[:, :, None, None]))
        return out.flatten(1)


def refiner() -> CropNet:
    """Candidate crop (x - 127.5) / 128 to face logit, box and five landmarks.

    The columns are the face logit, then left, top, right, bottom and five x, y as
    4 * (position over the crop's side - 0.5).
    """
    return CropNet(REFINER, 20 * (CROP_SIZE // 8) ** 2, 80, 15)


def recogniser() -> CropNet:
    """112 x 112 crop (x - 127.5) / 127.5 to the standardised face parameters."""
    return CropNet(RECOGNISER, 1568, 128, 16)


def attributes() -> CropNet:
    """96 x 96 box crop (x - 127.5) / 127.5 to logits of female and male, and years / 100."""
    return CropNet(ATTRIBUTES, 864, 48, 3)


class Swapper(nn.Module):
    """128 x 128 crop and face parameters to the crop with that face."""

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
        # Learned positional map of the aligned crop.
        self.place = nn.Parameter(torch.zeros(1, 64, 32, 32))
        self._init_weights()

    def _init_weights(self) -> None:
        """Initialise with constant variance across layers, close to the identity."""
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, a=0.1)
                if name.startswith(("film", "u5")):
                    layer.weight.data.mul_(0.15)

    def _film(self, name: str, x: Tensor, style: Tensor) -> Tensor:
        """Adaptive instance normalisation: scale and shift of each channel are set by the style."""
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


class MaskNet(nn.Module):
    """Crop, RGB from -1 to 1, to ``outs`` logits per pixel (B, outs, S, S).

    It works on 64 x 64 cells of ``fold`` x ``fold`` pixels.
    """

    def __init__(self, outs: int, *, fold: int, width: int = 16) -> None:
        super().__init__()
        self.fold = fold
        self.a1, self.b1, self.b2 = Conv(3 * fold**2, width), Conv(width, 32, stride=2), Conv(32, 32)
        self.c1, self.c2, self.c3 = Conv(32, 40, stride=2), Conv(40, 40), Conv(40, 40, dilation=2)
        self.u1, self.u2 = Conv(40, 32, 1), Conv(32, 32)
        self.u3, self.u4 = Conv(32, width, 1), Conv(width, 24)
        self.u5 = Conv(24, fold**2 * outs, 1, norm=False, act=False)
        # Learned positional map of the aligned crop.
        self.place = nn.Parameter(torch.zeros(1, 40, 16, 16))

    def forward(self, x: Tensor) -> Tensor:
        a = self.a1(functional.pixel_unshuffle(x, self.fold))
        b = self.b2(self.b1(a))
        c = self.c3(self.c2(self.c1(b) + self.place))
        b = self.u2(b + functional.interpolate(self.u1(c), scale_factor=2.0))
        a = self.u4(a + functional.interpolate(self.u3(b), scale_factor=2.0))
        return functional.pixel_shuffle(self.u5(a), self.fold)


def fit(
    model: nn.Module, batches: Iterator[Batch], loss_of: Callable[[Batch], Tensor],
    *, steps: int, rate: float, label: str,
) -> None:  # fmt: skip
    """Train for some steps with warm-up and cosine decay to zero."""
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


def export(name: str, model: nn.Module, into: Weights) -> None:
    for path, layer in model.named_modules():
        if isinstance(layer, Conv):
            weight, bias = layer.folded()
            into[f"{name}.{path}.w"] = weight.cpu().numpy().astype(np.float16)
            into[f"{name}.{path}.b"] = bias.cpu().numpy().astype(np.float16)


def load(name: str, model: nn.Module) -> None:
    """Load a network's layers from the existing weights, with norms already folded in."""
    weights = load_weights()
    if f"{name}.place" in weights:
        model.get_parameter("place").data = torch.from_numpy(weights[f"{name}.place"])
    for path, layer in model.named_modules():
        if isinstance(layer, Conv):
            layer.norm = None
            layer.conv.weight.data, layer.conv.bias.data = (
                torch.from_numpy(weights[f"{name}.{path}.{kind}"]) for kind in "wb"
            )


def recoloured(x: Tensor, amount: float) -> Tensor:
    """Change contrast and brightness at random, equally for all channels, within 0..255."""
    gain, shift = amount * (torch.rand(2, len(x), 1, 1, 1, device=x.device) * 2 - 1)
    return ((x - 128) * (1 + gain) + 128 + 128 * shift).clamp(0, 255)
