"""The planes of a decoded frame: their samples, and how these lie on the picture."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from colab_helpers.media.affine import Matrix, scaling
from colab_helpers.media.blending import Box, Region
from colab_helpers.media.formats import WORKING_FORMATS


@dataclass(frozen=True)
class Grid:
    """How one plane of a format lies on the picture."""

    step: tuple[int, int]  # luma samples to one of the plane, across and down
    to_luma: Matrix  # from the plane's samples to luma's: ``x = step * u + offset``
    channels: int  # samples side by side in it
    dtype: type[np.generic]

    def box_of(self, box: Box) -> Box:
        """A box of luma's pixels in the plane's samples."""
        x, y = self.to_luma[:, 2]
        return np.asarray((box - (x, y, x, y)) / (*self.step, *self.step), np.float32)

    def region_of(self, region: Region, samples: npt.NDArray[Any]) -> Region:
        """The samples inside a region of luma's pixels."""
        (sx, sy), (height, width) = self.step, samples.shape[:2]
        left, top, right, bottom = region
        return left // sx, top // sy, min(-(-right // sx), width), min(-(-bottom // sy), height)


@cache
def grids_of(name: str) -> tuple[Grid, ...]:
    """The planes of a pixel format.

    H.264/H.265 default (chroma location type 0): the first chroma sample lies level with the left luma
    column, halfway between lines. JPEG-style formats: halfway in both directions.
    """
    layout = WORKING_FORMATS[name]
    dtype = np.uint8 if layout.depth == 8 else np.uint16
    sx, sy = layout.step
    across = (sx - 1) / 2 if name.startswith("yuvj") else 0.0
    chroma = np.array([[sx, 0, across], [0, sy, (sy - 1) / 2]], np.float64)
    colours = (
        [Grid((sx, sy), chroma, 2, dtype)] if layout.interleaved else [Grid((sx, sy), chroma, 1, dtype)] * 2
    )
    return Grid((1, 1), scaling(1, 1), 1, dtype), *colours


def samples_of(plane: Any, grid: Grid) -> npt.NDArray[Any]:
    """View a plane's buffer as ``(H, W)`` or ``(H, W, channels)`` without copying."""
    flat: npt.NDArray[Any] = np.frombuffer(plane, grid.dtype)
    height, width, line = plane.height, plane.width, plane.line_size // flat.itemsize
    samples = flat[: height * line].reshape(height, line)[:, : width * grid.channels]
    return samples if grid.channels == 1 else samples.reshape(height, width, grid.channels)
