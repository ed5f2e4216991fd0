"""A picture that gives out aligned crops and takes them back, touching nothing else.

The same two calls serve a BGR image and a decoded YUV video frame. A video frame is never converted as
a whole: a crop is warped out of each plane and converted at crop size, and on the way back the crop is
converted first and each plane blended only inside the face's region. What the mask leaves out keeps its
very samples.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.video.reformatter import Interpolation, VideoReformatter

from colab_helpers.media.affine import Matrix, compose, invert, scaling
from colab_helpers.media.blending import (
    Box,
    Mask,
    Region,
    alpha_crop,
    blend_plane,
    face_region,
    from_over_white,
    open_box,
    over_white,
    warp_crop,
)
from colab_helpers.media.colour import ColourSpace, bgr_to_yuv, yuv_to_bgr
from colab_helpers.media.formats import WORKING_FORMATS, ByteImage, Layout

_GRID = 60


@dataclass(frozen=True)
class DetectorView:
    """A small upright copy of a picture for the detector.

    Attributes:
        image: ``(h, w, 3)`` BGR, its longer side as long as was asked for.
        to_frame: ``(2, 3)`` matrix from points of ``image`` to pixels of the picture.
    """

    image: ByteImage
    to_frame: Matrix


class Picture(Protocol):
    """What the faces room needs of an image or video frame."""

    width: int
    height: int

    def detector_view(self, size: int) -> DetectorView:
        """Fit the picture into a ``size`` square, keeping its aspect."""

    def grid(self) -> ByteImage:
        """Return some samples of its brightness, evenly spread, some 60 on the shorter side."""

    def crop(self, matrix: Matrix, size: int) -> ByteImage:
        """Warp a ``(size, size, 3)`` BGR crop out of the picture; its border goes on beyond itself."""

    def luma(self, region: Region) -> Mask:
        """Return the brightness of a region, ``(h, w)`` float32 in grey levels of 8 bits."""

    def add_luma(self, region: Region, levels: Mask) -> None:
        """Add so many grey levels, ``(h, w)`` float32, to a region in place."""

    def paste(self, crop: ByteImage, matrix: Matrix, mask: Mask, *, box: Box) -> None:
        """Blend a BGR crop back in place, only inside ``box``.

        Args:
            crop: ``(S, S, 3)`` uint8.
            matrix: From the picture's pixels to the crop's.
            mask: ``(S, S)`` float32 weights from 0 to 1 in crop space.
            box: xyxy in the picture's pixels; weights fade out towards its edges, but not where the picture's
                border cuts it.
        """


class BgrPicture:
    """A ``(H, W, 3)`` uint8 BGR array, changed in place.

    Args:
        image: The colours; where ``alpha`` says so, as they are before they are blended.
        alpha: ``(H, W)`` uint8, 255 is opaque; None where everything is. Crops are seen over white, and
            pasted so that over white they look as they did.
    """

    def __init__(self, image: ByteImage, alpha: ByteImage | None = None) -> None:
        self.image = image
        self.height, self.width = image.shape[:2]
        self._alpha = alpha

    def detector_view(self, size: int) -> DetectorView:
        """Scale with bilinear interpolation, as insightface does."""
        width, height = fit_inside(self.width, self.height, size)
        small = np.asarray(cv2.resize(self.image, (width, height)), np.uint8)
        if self._alpha is not None:
            small = over_white(small, np.asarray(cv2.resize(self._alpha, (width, height)), np.uint8))
        return DetectorView(small, scaling(self.width / width, self.height / height))

    def grid(self) -> ByteImage:
        """See ``Picture.grid``."""
        step = max(1, min(self.width, self.height) // _GRID)
        return np.ascontiguousarray(self.image[::step, ::step, 1])

    def crop(self, matrix: Matrix, size: int) -> ByteImage:
        """See ``Picture.crop``."""
        crop = np.asarray(warp_crop(self.image, matrix, size), np.uint8)
        return crop if self._alpha is None else over_white(crop, alpha_crop(self._alpha, matrix, size))

    def luma(self, region: Region) -> Mask:
        """See ``Picture.luma``."""
        left, top, right, bottom = region
        return cv2.cvtColor(self.image[top:bottom, left:right], cv2.COLOR_BGR2GRAY).astype(np.float32)

    def add_luma(self, region: Region, levels: Mask) -> None:
        """See ``Picture.add_luma``."""
        left, top, right, bottom = region
        part = self.image[top:bottom, left:right]
        part[...] = cv2.add(part, cv2.merge([levels] * 3), dtype=cv2.CV_8U)

    def paste(self, crop: ByteImage, matrix: Matrix, mask: Mask, *, box: Box) -> None:
        """See ``Picture.paste``."""
        if self._alpha is not None:
            crop = from_over_white(crop, alpha_crop(self._alpha, matrix, crop.shape[0]))
        box = open_box(box, self.width, self.height)
        region = face_region(matrix, crop.shape[0], box, self.width, self.height)
        blend_plane(self.image, crop, mask, invert(matrix), region, box)


@dataclass(frozen=True)
class Plane:
    """One plane of a frame with the affine step from its samples to luma pixels: x = step*u + offset."""

    samples: npt.NDArray[Any]
    step: tuple[int, int]
    offset: tuple[float, float]
    shift: int

    @property
    def channels(self) -> int:
        """Kinds of samples that lie side by side."""
        return self.samples.shape[2] if self.samples.ndim == 3 else 1

    @property
    def to_luma(self) -> Matrix:
        """Matrix from its samples to luma pixels."""
        (sx, sy), (ox, oy) = self.step, self.offset
        return np.array([[sx, 0, ox], [0, sy, oy]], np.float64)


class VideoPicture:
    """A decoded video frame in one of `formats.WORKING_FORMATS`; only ``paste`` changes it.

    Args:
        frame: The frame. ``paste`` first makes it writable, so that the decoder's own reference
            pictures are never touched.
        rotation: Clockwise degrees (0, 90, 180, 270) by which the frame is turned for display; the
            detector sees it upright, all coordinates stay those of the stored frame.
    """

    def __init__(self, frame: av.VideoFrame, *, rotation: int = 0) -> None:
        self.frame = frame
        self.width, self.height = frame.width, frame.height
        self.rotation = rotation % 360
        self._layout = WORKING_FORMATS[frame.format.name]
        self._space = ColourSpace.of_frame(frame, depth=self._layout.depth)
        self._writable = False

    def detector_view(self, size: int) -> DetectorView:
        """Scale and convert in one pass of the scaler, then turn upright."""
        width, height = fit_inside(self.width, self.height, size)
        # Swscale's own number of the matrix (SWS_CS_*) is H.273's, but for BT.2020's second form.
        matrix = 9 if self._space.matrix == 10 else self._space.matrix
        small = _scaler().reformat(
            self.frame, width, height, "bgr24", src_colorspace=matrix, interpolation=Interpolation.BILINEAR
        )
        turned = np.rot90(small.to_ndarray(), -(self.rotation // 90))
        scale = scaling(self.width / width, self.height / height)
        upright = np.ascontiguousarray(turned, np.uint8)
        return DetectorView(upright, compose(scale, turn_back(self.rotation, width, height)))

    def grid(self) -> ByteImage:
        """See ``Picture.grid``."""
        luma, step = next(self._planes()).samples, max(1, min(self.width, self.height) // _GRID)
        return np.asarray(luma[::step, ::step] // self._level, np.uint8)

    def crop(self, matrix: Matrix, size: int) -> ByteImage:
        """Warp each plane to crop size, then convert the crop alone."""
        warped: list[npt.NDArray[Any]] = []
        for plane in self._planes():
            part = warp_crop(plane.samples, compose(matrix, plane.to_luma), size)
            warped.append(part >> plane.shift if plane.shift else part)
        return yuv_to_bgr(cv2.merge(warped), self._space)

    def luma(self, region: Region) -> Mask:
        """See ``Picture.luma``."""
        left, top, right, bottom = region
        luma = next(self._planes()).samples[top:bottom, left:right].astype(np.float32)
        return luma if self._level == 1 else luma / np.float32(self._level)

    def add_luma(self, region: Region, levels: Mask) -> None:
        """See ``Picture.add_luma``."""
        self._make_writable()
        left, top, right, bottom = region
        part = next(self._planes()).samples[top:bottom, left:right]
        depth = cv2.CV_8U if part.dtype == np.uint8 else cv2.CV_16U
        added = cv2.add(part, levels * np.float32(self._level), dtype=depth)
        part[...] = added if self._level == 1 else np.minimum(added, 256 * self._level - 1)

    @property
    def _level(self) -> int:
        """Sample values to a grey level of 8 bits."""
        return 1 << (self._layout.shift + self._layout.depth - 8)

    def paste(self, crop: ByteImage, matrix: Matrix, mask: Mask, *, box: Box) -> None:
        """Convert the crop, then blend each plane inside the face's region."""
        self._make_writable()
        channels: list[npt.NDArray[Any]] = list(cv2.split(bgr_to_yuv(crop, self._space)))
        box = open_box(box, self.width, self.height)
        region = face_region(matrix, crop.shape[0], box, self.width, self.height)
        for number, plane in enumerate(self._planes()):
            part: npt.NDArray[Any] = cv2.merge(channels[1:]) if plane.channels == 2 else channels[number]
            if plane.shift:
                part = part << plane.shift
            to_samples = compose(invert(plane.to_luma), invert(matrix))
            blend_plane(
                plane.samples, part, mask, to_samples, plane_region(region, plane), plane_box(box, plane)
            )

    @property
    def layout(self) -> Layout:
        """How its samples lie."""
        return self._layout

    @property
    def space(self) -> ColourSpace:
        """How its samples mean colours."""
        return self._space

    def writable_planes(self) -> list[Plane]:
        """Return its planes, to be changed in place by others: luma, then chroma."""
        self._make_writable()
        return list(self._planes())

    def _make_writable(self) -> None:
        if not self._writable:
            self.frame.make_writable()
            self._writable = True

    def _planes(self) -> Iterator[Plane]:
        layout = self._layout
        dtype = np.uint8 if layout.depth == 8 else np.uint16
        for number, plane in enumerate(self.frame.planes):
            step = (1, 1) if number == 0 else layout.step
            channels = 2 if number and layout.interleaved else 1
            yield Plane(_plane_samples(plane, dtype, channels), step, self._siting(step), layout.shift)

    def _siting(self, step: tuple[int, int]) -> tuple[float, float]:
        """Where the first chroma sample lies, in luma pixels.

        H.264/H.265 default (chroma location type 0): level with the left luma column, halfway between
        lines. JPEG-style formats: halfway in both directions.
        """
        centred = self.frame.format.name.startswith("yuvj")
        return ((step[0] - 1) / 2 if centred else 0.0), (step[1] - 1) / 2


def _plane_samples(plane: Any, dtype: type[np.generic], channels: int) -> npt.NDArray[Any]:
    """View a plane's buffer as ``(H, W)`` or ``(H, W, channels)`` without copying."""
    itemsize = np.dtype(dtype).itemsize
    flat: npt.NDArray[Any] = np.frombuffer(plane, dtype)
    rows = flat[: plane.height * (plane.line_size // itemsize)].reshape(plane.height, -1)
    samples = rows[:, : plane.width * channels]
    return samples if channels == 1 else samples.reshape(plane.height, plane.width, channels)


def fit_inside(width: int, height: int, size: int) -> tuple[int, int]:
    """Return the largest width and height of that aspect inside a square, rounded as insightface rounds."""
    if height > width:
        return max(1, int(size / (height / width))), size
    return size, max(1, int(size * (height / width)))


def plane_region(region: Region, plane: Plane) -> Region:
    """The samples of a plane that lie inside a region of luma pixels."""
    (sx, sy), (height, width) = plane.step, plane.samples.shape[:2]
    left, top, right, bottom = region
    return left // sx, top // sy, min(-(-right // sx), width), min(-(-bottom // sy), height)


def plane_box(box: Box, plane: Plane) -> Box:
    """A box of luma pixels in samples of a plane."""
    offset = np.array([*plane.offset, *plane.offset], np.float32)
    return np.asarray((box - offset) / np.array([*plane.step, *plane.step], np.float32), np.float32)


_thread = threading.local()


def _scaler() -> VideoReformatter:
    """This thread's scaler: it keeps its tables from frame to frame, which a frame's own does not."""
    if not hasattr(_thread, "scaler"):
        _thread.scaler = VideoReformatter()
    scaler: VideoReformatter = _thread.scaler
    return scaler


def turn_back(rotation: int, width: int, height: int) -> Matrix:
    """Map points of the upright picture back onto the stored one, ``width`` by ``height`` pixels."""
    right, bottom = width - 1, height - 1
    return np.array(
        {
            0: [[1, 0, 0], [0, 1, 0]],
            90: [[0, 1, 0], [-1, 0, bottom]],
            180: [[-1, 0, right], [0, -1, bottom]],
            270: [[0, -1, right], [1, 0, 0]],
        }[rotation],
        np.float64,
    )
