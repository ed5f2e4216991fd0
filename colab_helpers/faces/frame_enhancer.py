"""Super-resolution of whole frames, in tiles, so that memory does not grow with the frame size."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

from colab_helpers.errors import MediaError, OutOfMemoryError
from colab_helpers.language import mark, tr
from colab_helpers.media.colour import ColourSpace, matrix_of
from colab_helpers.media.conversion import working_colour
from colab_helpers.media.demuxing import MAX_FRAME_PIXELS
from colab_helpers.media.formats import WORKING_FORMATS, ByteImage, is_full_range
from colab_helpers.media.probe import VideoInfo
from colab_helpers.models.contracts import upscaler_contract
from colab_helpers.models.session import Network, Runtime
from colab_helpers.settings import Settings

MARGIN = 36
"""Overlap around a tile, in pixels: the receptive field of realesr-general-x4v3, which has 34 convolutions.
Beyond it, RealESRGAN's deeper network gives pixels hardly any weight (its own tool uses 10)."""
EDGES = (512, 320, 192)
"""Edges of tiles including margins, in pixels: the largest that fits into memory is used."""
_CPU_EDGE = 320  # independent of free memory, because results depend on the tiles
# Bytes per pixel of the result: six layers of 64 float32, three of the network and three of cuDNN; and the
# part of the VRAM that a tile may take, as a divisor.
_BYTES_PER_PIXEL, _MEMORY_DIVISOR = 6 * 64 * 4, 4
_STEP = 8  # tile sizes are multiples of it, as convolutions and the x2 network's 2 x 2 blocks need
_SCALER = (
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)  # fmt: skip


class FrameEnhancer:
    """Enlarges pictures with a Real-ESRGAN network, see ``models.contracts.upscaler_contract``.

    Args:
        network: The network; it must accept several input sizes, unless its input size is fixed.
        blend: Opacity of the network's output over a bicubic enlargement, in percent.
        memory: VRAM in bytes; 0 on the CPU.

    Attributes:
        scale: Factor by which width and height grow.
        edge: Maximum edge of tiles; reset to ``default_edge`` for each file, lowered when out of memory.
        notes: One sentence for each time that ``edge`` was lowered.
        heartbeat: Called before each tile, which may take seconds; may raise to abort.

    Raises:
        ModelError: The network has other inputs or outputs.
    """

    def __init__(self, network: Network, *, blend: int = 100, memory: int = 0) -> None:
        self.network, self._blend = network, blend / 100
        self.scale, self._fixed = upscaler_contract(network.session, where=str(network.path))
        self.edge = self.default_edge = self._fixed or edge_for(memory, self.scale)
        self.notes: list[str] = []
        self.heartbeat: Callable[[], None] = lambda: None
        self._reformatter = VideoReformatter()

    @classmethod
    def open(cls, settings: Settings, runtime: Runtime, root: Path) -> FrameEnhancer | None:
        """Load the frame enhancer if the settings include one, else return None; see `Runtime.open`."""
        if "frame_enhancer" not in settings.frame_processors:
            return None
        pool, blend = runtime.pool, settings.frame_enhancer_blend
        network = runtime.open(root / f"{settings.frame_enhancer_model}.onnx", edge=EDGES[-1])
        enhancer = cls(network, blend=blend, memory=pool.ceiling if pool else 0)
        if pool:
            with network.session.track_growth():  # tells the pool how much memory a tile takes
                enhancer.enlarge(np.zeros((enhancer.edge - 2 * MARGIN,) * 2 + (3,), np.uint8))
        return enhancer

    def resume_tile_size(self, recorded: Iterable[str]) -> None:
        """Resume a file with the smallest tiles in its segments' records of `Engine.provider_detail`."""
        matches = (re.search(r"tiles: (\d+)", each) for each in recorded)
        self.edge = min([self.edge, *(int(match[1]) for match in matches if match)])

    def size_of(
        self, width: int, height: int, *, where: str, most: int = MAX_FRAME_PIXELS
    ) -> tuple[int, int]:
        """Return the size of enlarged pictures; raise MediaError if it exceeds ``most`` pixels."""
        if width * height * self.scale**2 > most:
            text = mark("{width}x{height} pixels, enlarged {scale} times, exceed the limit of {most} million")
            raise MediaError(
                tr(text, scale=self.scale, width=width, height=height, most=most // 10**6),
                where=where,
                remedy=tr("leave out frame_enhancer, or use a network that enlarges 2 times"),
            )
        return width * self.scale, height * self.scale

    def enlarged_info(self, info: VideoInfo) -> VideoInfo:
        """Describe the enlarged video.

        Its matrix becomes explicit, as players would guess it from the changed height (BT.601 up to 576
        lines), and it counts as progressive, as each line of a field becomes several.
        """
        colour = replace(info.colour, matrix=matrix_of(working_colour(info).matrix, info.height))
        width, height = self.size_of(info.width, info.height, where=str(info.path))
        return replace(info, width=width, height=height, colour=colour, interlaced=False)

    def note(self, width: int, height: int) -> str:
        """Return a note on the enlargement."""
        text = mark("pictures were enlarged {scale} times by {name}, to {width}x{height} pixels")
        return tr(text, scale=self.scale, name=self.network.name, width=width, height=height)

    def enlarge_frame(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Enlarge a frame in a working format, keeping its pixel format, matrix, range and timestamps."""
        depth = WORKING_FORMATS[frame.format.name].depth
        space = ColourSpace.of_frame(frame, depth=depth)
        matrix = 9 if space.matrix == 10 else space.matrix  # BT.2020 in swscale, as for the detector's view
        own = ColorRange.JPEG if is_full_range(frame) else ColorRange.MPEG
        full, kind = ColorRange.JPEG, "bgr24" if depth == 8 else "bgr48le"
        image = self._reformatter.reformat(
            frame, format=kind, src_colorspace=matrix, src_color_range=own, dst_color_range=full,
            interpolation=_SCALER,
        ).to_ndarray()  # fmt: skip
        large = av.VideoFrame.from_ndarray(self.enlarge(image), format=kind)
        result = self._reformatter.reformat(
            large, format=frame.format.name, dst_colorspace=matrix, src_color_range=full, dst_color_range=own,
            interpolation=_SCALER,
        )  # fmt: skip
        result.colorspace, result.color_range = space.matrix, frame.color_range
        result.color_primaries, result.color_trc = frame.color_primaries, frame.color_trc
        result.pts, result.time_base, result.duration = frame.pts, frame.time_base, frame.duration
        return result

    def enlarge(self, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Enlarge a picture ``(H, W, 3)`` BGR, uint8 or uint16; if out of memory, retry with smaller tiles.

        Raises:
            OutOfMemoryError: Even the smallest tiles do not fit.
        """
        while True:
            try:
                return self._in_tiles(image)
            except OutOfMemoryError:
                smaller = [edge for edge in EDGES if edge < self.edge]
                if self._fixed or not smaller:
                    raise
                self.edge = smaller[0]
                text = mark("{name}: out of memory; continuing with tiles of {edge} pixels")
                self.notes.append(tr(text, name=self.network.name, edge=self.edge))

    def enlarge_picture(
        self, image: ByteImage, alpha: ByteImage | None
    ) -> tuple[ByteImage, ByteImage | None]:
        """Enlarge a picture ``(H, W, 3)`` BGR and its alpha channel ``(H, W)``, if it has one."""
        large_alpha = None if alpha is None else np.asarray(_bicubic(alpha, self.scale), np.uint8)
        return np.asarray(self.enlarge(image), np.uint8), large_alpha

    def _in_tiles(self, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        scale, (height, width) = self.scale, image.shape[:2]
        rows, columns = (_tile_step(length, self.edge, fixed=bool(self._fixed)) for length in (height, width))
        below, right = -height % rows, -width % columns
        borders = MARGIN, MARGIN + below, MARGIN, MARGIN + right
        padded = cv2.copyMakeBorder(image, *borders, cv2.BORDER_REFLECT_101)
        result = np.empty((height * scale, width * scale, 3), image.dtype)
        for top in range(0, height, rows):
            for left in range(0, width, columns):
                tile = padded[top : top + rows + 2 * MARGIN, left : left + columns + 2 * MARGIN]
                self.heartbeat()
                part = result[scale * top : scale * (top + rows), scale * left : scale * (left + columns)]
                part[...] = self._enlarge_tile(tile)[: part.shape[0], : part.shape[1]]
        return result

    def _enlarge_tile(self, tile: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Enlarge one tile and cut off its margin."""
        deep = tile.dtype == np.uint16
        peak, kind, cut = 65535 if deep else 255, cv2.CV_16U if deep else cv2.CV_8U, self.scale * MARGIN
        blob = np.ascontiguousarray(tile[..., ::-1].transpose(2, 0, 1)[None], np.float32)
        blob *= np.float32(1 / peak)
        planes = self.network.run_stack(blob)[0][::-1, cut:-cut, cut:-cut]
        # The only OpenCV function that scales, rounds and saturates in a single pass.
        large = cv2.merge([cv2.addWeighted(plane, peak, plane, 0, 0, dtype=kind) for plane in planes])
        if self._blend < 1:
            plain = _bicubic(tile, self.scale)[cut:-cut, cut:-cut]
            large = cv2.addWeighted(large, self._blend, plain, 1 - self._blend, 0)
        return np.asarray(large)


def edge_for(memory: int, scale: int) -> int:
    """Return the edge of tiles that take up to a quarter of the VRAM, given in bytes; 0 means the CPU.

    It does not depend on free memory, which varies from run to run: other tiles round differently.
    """
    if not memory:
        return _CPU_EDGE
    limit = memory / _MEMORY_DIVISOR
    return next((edge for edge in EDGES if _BYTES_PER_PIXEL * (scale * edge) ** 2 <= limit), EDGES[-1])


def _tile_step(length: int, edge: int, *, fixed: bool) -> int:
    """Return the edge, without margins, of tiles of about equal size that cover a side of the picture."""
    most = edge - 2 * MARGIN
    even = math.ceil(length / math.ceil(length / most))
    return most if fixed else min(most, math.ceil(even / _STEP) * _STEP)


def _bicubic(image: npt.NDArray[Any], scale: int) -> npt.NDArray[Any]:
    return np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC))
