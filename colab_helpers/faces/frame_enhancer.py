"""The network that enlarges whole frames, in tiles, so that its memory does not grow with the picture."""

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
from colab_helpers.models.contracts import enlarges
from colab_helpers.models.session import Network, Runtime
from colab_helpers.settings import Settings

MARGIN = 36
"""Pixels around a tile that the network sees, too: realesr-general-x4v3, 34 convolutions deep, looks no
further. What RealESRGAN's deeper network sees beyond has hardly any weight (its own tool takes 10)."""
EDGES = (512, 320, 192)
"""Edges of tiles with their margins, in pixels: the largest that memory bears is taken."""
_ON_CPU = 320  # whatever memory there is: which tiles there are must not differ from run to run
# Bytes for a pixel of the result: six layers of 64 float32, three of the network and three of cuDNN.
_BYTES, _SHARE = 6 * 64 * 4, 4
_STEP = 8  # what convolutions and the x2 network's 2 x 2 blocks come out even with
_SCALER = (
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)  # fmt: skip


class FrameEnhancer:
    """Enlarges pictures by Real-ESRGAN's contract, see ``models.contracts.enlarges``.

    Args:
        network: Its session is run at pictures of several sizes.
        blend: How much of what it gives is used, in percent; the rest is the picture, enlarged by cubics.
        memory: Bytes of the GPU's memory; 0 on the CPU.

    Attributes:
        scale: How many times wider and higher its pictures become.
        edge: Of the tiles it is given, at most; ``usual`` with each file, and less once memory ran out.
        notes: That it did, one sentence each.
        heartbeat: Called before each tile, which may take seconds; may raise to give up.

    Raises:
        ModelError: The network has another contract.
    """

    def __init__(self, network: Network, *, blend: int = 100, memory: int = 0) -> None:
        self.network, self._share = network, blend / 100
        self.scale, self._fixed = enlarges(network.session, where=str(network.path))
        self.edge = self.usual = self._fixed or edge_for(memory, self.scale)
        self.notes: list[str] = []
        self.heartbeat: Callable[[], None] = lambda: None
        self._reformatter = VideoReformatter()

    @classmethod
    def open(cls, settings: Settings, runtime: Runtime, root: Path) -> FrameEnhancer | None:
        """Load the network that the settings ask for; None where they ask for none. See `Runtime.open`."""
        if "frame_enhancer" not in settings.frame_processors:
            return None
        pool, blend = runtime.pool, settings.frame_enhancer_blend
        network = runtime.open(root / f"{settings.frame_enhancer_model}.onnx", edge=EDGES[-1])
        opened = cls(network, blend=blend, memory=pool.ceiling if pool else 0)
        if pool:
            with network.session.track_growth():  # so that the pool knows what a tile takes
                opened.enlarge(np.zeros((opened.edge - 2 * MARGIN,) * 2 + (3,), np.uint8))
        return opened

    def resume_tile_size(self, noted: Iterable[str]) -> None:
        """Go on with a file in the smallest tiles that were noted of its segments, as `Engine.place` is."""
        known = (re.search(r"tiles: (\d+)", each) for each in noted)
        self.edge = min([self.edge, *(int(found[1]) for found in known if found)])

    def size_of(
        self, width: int, height: int, *, where: str, most: int = MAX_FRAME_PIXELS
    ) -> tuple[int, int]:
        """Return width and height that pictures get; MediaError where that is more than can be worked on."""
        if width * height * self.scale**2 > most:
            text = mark("enlarged {scale} times, {width}x{height} pixels are more than {most} million")
            raise MediaError(
                tr(text, scale=self.scale, width=width, height=height, most=most // 10**6),
                where=where,
                remedy=tr("leave frame_enhancer out, or take a network that enlarges twice"),
            )
        return width * self.scale, height * self.scale

    def enlarged_info(self, info: VideoInfo) -> VideoInfo:
        """Describe the video that one becomes.

        What players would guess by the size that changes (BT.601 up to 576 lines) is stated. It is interlaced
        no more: a line of a field has become several.
        """
        colour = replace(info.colour, matrix=matrix_of(working_colour(info).matrix, info.height))
        width, height = self.size_of(info.width, info.height, where=str(info.path))
        return replace(info, width=width, height=height, colour=colour, interlaced=False)

    def note(self, width: int, height: int) -> str:
        """Say that pictures were enlarged, and to which size."""
        text = mark("pictures were enlarged {scale} times by {name}, to {width}x{height} pixels")
        return tr(text, scale=self.scale, name=self.network.name, width=width, height=height)

    def enlarge_frame(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Return a larger frame of the same format, matrix and range, for one in a working format."""
        depth = WORKING_FORMATS[frame.format.name].depth
        space = ColourSpace.of_frame(frame, depth=depth)
        matrix = 9 if space.matrix == 10 else space.matrix  # swscale's own number, as for the detector's view
        own = ColorRange.JPEG if is_full_range(frame) else ColorRange.MPEG
        bgr, kind = ColorRange.JPEG, "bgr24" if depth == 8 else "bgr48le"
        image = self._reformatter.reformat(
            frame, format=kind, src_colorspace=matrix, src_color_range=own, dst_color_range=bgr,
            interpolation=_SCALER,
        ).to_ndarray()  # fmt: skip
        large = av.VideoFrame.from_ndarray(self.enlarge(image), format=kind)
        made = self._reformatter.reformat(
            large, format=frame.format.name, dst_colorspace=matrix, src_color_range=bgr, dst_color_range=own,
            interpolation=_SCALER,
        )  # fmt: skip
        made.colorspace, made.color_range = space.matrix, frame.color_range
        made.color_primaries, made.color_trc = frame.color_primaries, frame.color_trc
        made.pts, made.time_base, made.duration = frame.pts, frame.time_base, frame.duration
        return made

    def enlarge(self, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Enlarge a picture ``(H, W, 3)`` BGR, uint8 or uint16; where memory runs out, in smaller tiles.

        Raises:
            OutOfMemoryError: Even the smallest do not fit.
        """
        while True:
            try:
                return self._in_tiles(image)
            except OutOfMemoryError:
                smaller = [edge for edge in EDGES if edge < self.edge]
                if self._fixed or not smaller:
                    raise
                self.edge = smaller[0]
                text = mark("{name}: memory ran out; goes on in tiles of {edge} pixels")
                self.notes.append(tr(text, name=self.network.name, edge=self.edge))

    def enlarge_picture(
        self, image: ByteImage, alpha: ByteImage | None
    ) -> tuple[ByteImage, ByteImage | None]:
        """Enlarge a picture ``(H, W, 3)`` BGR and its transparency ``(H, W)``, if it has any."""
        seen = None if alpha is None else np.asarray(_cubic(alpha, self.scale), np.uint8)
        return np.asarray(self.enlarge(image), np.uint8), seen

    def _in_tiles(self, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        scale, size, around = self.scale, image.shape[:2], 2 * MARGIN
        inside = [_inside(length, self.edge, fixed=bool(self._fixed)) for length in size]
        counts = [math.ceil(length / step) for length, step in zip(size, inside, strict=True)]
        beyond = [n * step - length for n, step, length in zip(counts, inside, size, strict=True)]
        padded = cv2.copyMakeBorder(
            image, MARGIN, MARGIN + beyond[0], MARGIN, MARGIN + beyond[1], cv2.BORDER_REFLECT_101
        )
        result = np.empty((size[0] * scale, size[1] * scale, 3), image.dtype)
        for top in range(0, size[0], inside[0]):
            for left in range(0, size[1], inside[1]):
                tile = padded[top : top + inside[0] + around, left : left + inside[1] + around]
                rows, columns = (
                    slice(scale * start, scale * (start + step))
                    for start, step in zip((top, left), inside, strict=True)
                )
                self.heartbeat()
                place = result[rows, columns]
                place[...] = self._tile(tile)[: place.shape[0], : place.shape[1]]
        return result

    def _tile(self, tile: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Enlarge one tile; its margin is cut off."""
        deep = tile.dtype == np.uint16
        peak, kind, cut = 65535 if deep else 255, cv2.CV_16U if deep else cv2.CV_8U, self.scale * MARGIN
        blob = np.ascontiguousarray(tile[..., ::-1].transpose(2, 0, 1)[None], np.float32)
        blob *= np.float32(1 / peak)
        planes = self.network.run_stack(blob)[0][::-1, cut:-cut, cut:-cut]
        # Scaled, rounded and cut to its range in one pass, of all that OpenCV has for it.
        made = cv2.merge([cv2.addWeighted(plane, peak, plane, 0, 0, dtype=kind) for plane in planes])
        if self._share < 1:
            plain = _cubic(tile, self.scale)[cut:-cut, cut:-cut]
            made = cv2.addWeighted(made, self._share, plain, 1 - self._share, 0)
        return np.asarray(made)


def edge_for(memory: int, scale: int) -> int:
    """Return the edge of tiles for a GPU of so many bytes, of which they take a quarter; 0 is the CPU.

    It depends on nothing that changes from one run to the next: other tiles round differently.
    """
    if not memory:
        return _ON_CPU
    return next((edge for edge in EDGES if _BYTES * (scale * edge) ** 2 <= memory / _SHARE), EDGES[-1])


def _inside(length: int, edge: int, *, fixed: bool) -> int:
    """Edge of the tiles, without margins, that a side is cut into: as equal as can be."""
    most = edge - 2 * MARGIN
    even = math.ceil(length / math.ceil(length / most))
    return most if fixed else min(most, math.ceil(even / _STEP) * _STEP)


def _cubic(image: npt.NDArray[Any], scale: int) -> npt.NDArray[Any]:
    return np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC))
