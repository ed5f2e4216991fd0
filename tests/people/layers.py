"""Overlap and visibility of layers."""

from __future__ import annotations

import numpy as np

from tests.people.paint import F32
from tests.people.raycast import U8, Layer


def overlap(layer: Layer, other: Layer) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
    """Return the area that two layers share, as slices into each."""
    height, width = layer.alpha.shape
    x0, y0 = max(layer.left, other.left), max(layer.top, other.top)
    x1 = min(layer.left + width, other.left + other.alpha.shape[1])
    y1 = min(layer.top + height, other.top + other.alpha.shape[0])
    if x1 <= x0 or y1 <= y0:
        return None
    src = (slice(y0 - layer.top, y1 - layer.top), slice(x0 - layer.left, x1 - layer.left))
    return src, (slice(y0 - other.top, y1 - other.top), slice(x0 - other.left, x1 - other.left))


def full_frame(width: int, height: int) -> Layer:
    """Return an opaque layer that covers a frame."""
    return Layer(0, 0, np.empty(0, np.float32), np.broadcast_to(np.float32(1), (height, width)))


def visibility(layers: list[Layer | None], at: int, size: tuple[int, int]) -> F32:
    """Return the visible share of each pixel of a layer: not behind later layers, inside the frame."""
    layer = layers[at]
    assert layer is not None
    clear = np.zeros_like(layer.alpha)
    inside = overlap(layer, full_frame(*size))
    if inside is not None:
        clear[inside[0]] = 1
    for other in layers[at + 1 :]:
        shared = overlap(layer, other) if other is not None else None
        if other is not None and shared is not None:
            clear[shared[0]] *= 1 - other.alpha[shared[1]]
    return clear


def add_change(frame: U8, change: Layer, clear: F32) -> None:
    """Add a signed change where it is visible, in place."""
    inside = overlap(change, full_frame(frame.shape[1], frame.shape[0]))
    if inside is None:
        return
    src, dst = inside
    part = frame[dst]
    delta = change.colour[src][..., ::-1] * clear[src][..., None]
    part[:] = np.clip(part + delta + np.float32(0.5), 0, 255).astype(np.uint8)
