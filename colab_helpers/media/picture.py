"""Take aligned crops out of images and video frames and paste them back, changing nothing else.

One interface serves BGR images and decoded YUV frames. A video frame is never converted as a whole: crops are
warped out of each plane and converted at crop size; to paste, the crop is converted and blended into each
plane inside the face's region only. Samples where the mask is 0 stay bit-exact.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Protocol

import av
import cv2
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from colab_helpers.media.affine import Matrix, compose, invert, resizing, scaling, zoom_of
from colab_helpers.media.blending import (
    Box,
    Mask,
    PlaneLayout,
    Region,
    alpha_crop,
    blend_plane,
    extend_box,
    face_region,
    from_over_white,
    over_white,
    plane_layouts,
    plane_samples,
    region_weights,
    warp_crop,
)
from colab_helpers.media.colour import ColourSpace, bgr_to_yuv, channels_of, yuv_to_bgr
from colab_helpers.media.formats import WORKING_FORMATS, ByteImage, Samples

_GRID = 60
# From this enlargement on, chroma is warped at half the crop's size.
HALF_CHROMA_ZOOM = 1.9


@dataclass(frozen=True)
class DetectorView:
    """A downscaled upright copy of a picture for the detector."""

    image: ByteImage  # ``(h, w, 3)`` BGR; its longer side has the requested size
    to_frame: Matrix  # ``(2, 3)`` matrix from points of ``image`` to pixels of the picture


class Picture(Protocol):
    """What face processing needs of an image or video frame."""

    width: int
    height: int

    def detector_view(self, size: int) -> DetectorView:
        """Scale the picture to fit into a ``size`` square, keeping its aspect ratio."""

    def grid(self) -> ByteImage:
        """Return evenly spaced luma samples (green ones of an image), some 60 along the shorter side."""

    def crop(self, matrix: Matrix, size: int, *, coarse: bool = False) -> ByteImage:
        """Warp a ``(size, size, 3)`` BGR crop out of the picture, with its border replicated beyond it.

        ``coarse`` permits chroma, but not luma, at half the resolution.
        """

    def grey(self, matrix: Matrix, size: int, *, sparse: bool = False) -> ByteImage:
        """Warp a ``(size, size)`` luma crop, 0 to 255, out of the picture; see `crop`.

        ``sparse`` permits skipping pixels instead of averaging them when shrinking.
        """

    def luma(self, region: Region) -> Mask:
        """Return the luma of a region, ``(h, w)`` float32 in 8-bit grey levels."""

    def add_luma(self, region: Region, levels: Mask) -> None:
        """Add ``(h, w)`` float32 values, in 8-bit grey levels, to a region in place."""

    def paste(self, crop: ByteImage, matrix: Matrix, mask: Mask, *, box: Box) -> None:
        """Blend a BGR crop back in place, only inside ``box``.

        Args:
            crop: ``(S, S, 3)`` uint8.
            matrix: Matrix from the picture's pixels to the crop's.
            mask: ``(M, M)`` float32 weights from 0 to 1 over the crop; M may be less than S.
            box: xyxy in the picture's pixels; weights fade to 0 at its edges, except at the picture's border.
        """


class BgrPicture:
    """A ``(H, W, 3)`` uint8 BGR array, changed in place.

    With an ``alpha`` plane, ``(H, W)`` uint8, colours are not premultiplied: crops are composited over white,
    and pasting inverts that.
    """

    def __init__(self, image: ByteImage, alpha: ByteImage | None = None) -> None:
        self.image = image
        self.height, self.width = image.shape[:2]
        self._alpha = alpha

    def detector_view(self, size: int) -> DetectorView:
        """See ``Picture.detector_view``; scales bilinearly, as insightface does."""
        width, height = fit_inside(self.width, self.height, size)
        small = np.asarray(cv2.resize(self.image, (width, height)), np.uint8)
        if self._alpha is not None:
            small = over_white(small, np.asarray(cv2.resize(self._alpha, (width, height)), np.uint8))
        return DetectorView(small, scaling(self.width / width, self.height / height))

    def grid(self) -> ByteImage:
        """See ``Picture.grid``."""
        step = max(1, min(self.width, self.height) // _GRID)
        return np.ascontiguousarray(self.image[::step, ::step, 1])

    def crop(self, matrix: Matrix, size: int, *, coarse: bool = False) -> ByteImage:
        """See ``Picture.crop``."""
        crop = np.asarray(warp_crop(self.image, matrix, size), np.uint8)
        return crop if self._alpha is None else over_white(crop, alpha_crop(self._alpha, matrix, size))

    def grey(self, matrix: Matrix, size: int, *, sparse: bool = False) -> ByteImage:
        """See ``Picture.grey``."""
        return np.asarray(cv2.cvtColor(self.crop(matrix, size), cv2.COLOR_BGR2GRAY), np.uint8)

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
        box, to_image = extend_box(box, self.width, self.height), invert(matrix)
        region = face_region(matrix, crop.shape[0], box, self.width, self.height)
        weights = region_weights(mask, compose(to_image, _mask_to_crop(mask, crop)), region, box)
        for index, channel in enumerate(channels_of(crop)):
            blend_plane(self.image[..., index], channel, to_image, region, weights)


class VideoPicture:
    """A decoded video frame in one of `formats.WORKING_FORMATS`.

    It is made writable before it is changed, so that the decoder's reference frames are never touched.
    ``rotation``, in clockwise degrees, brings it upright for the detector; all coordinates are those of the
    stored frame.
    """

    def __init__(self, frame: av.VideoFrame, *, rotation: int = 0) -> None:
        self.frame = frame
        self.width, self.height = frame.width, frame.height
        self.rotation = rotation % 360
        self.layout = WORKING_FORMATS[frame.format.name]
        self.space = ColourSpace.of_frame(frame, depth=self.layout.depth)
        self._views: list[tuple[PlaneLayout, Samples]] | None = None
        self._writable = False

    def detector_view(self, size: int) -> DetectorView:
        """See ``Picture.detector_view``; scales and converts in one pass, then rotates upright."""
        width, height = fit_inside(self.width, self.height, size)
        # SWS_CS_* are H.273's code points, except for BT.2020 constant luminance.
        matrix = 9 if self.space.matrix == 10 else self.space.matrix
        small = _thread.scaler.reformat(
            self.frame, width, height, "bgr24", src_colorspace=matrix, interpolation=Interpolation.BILINEAR
        )
        upright = np.rot90(small.to_ndarray(), -(self.rotation // 90))
        scale = scaling(self.width / width, self.height / height)
        to_frame = compose(scale, upright_to_stored(self.rotation, width, height))
        return DetectorView(np.ascontiguousarray(upright, np.uint8), to_frame)

    def grid(self) -> ByteImage:
        """See ``Picture.grid``."""
        step = max(1, min(self.width, self.height) // _GRID)
        return np.asarray(self._luma[::step, ::step] >> (self._level.bit_length() - 1), np.uint8)

    def crop(self, matrix: Matrix, size: int, *, coarse: bool = False) -> ByteImage:
        """See ``Picture.crop``; warps each plane to crop size, then converts the crop."""
        warped: list[Samples] = []
        for index, (plane, samples) in enumerate(self._planes()):
            to_crop = compose(matrix, plane.to_luma)
            # Chroma enlarged this much has no more detail than half the size can hold.
            if index and size % 2 == 0 and (coarse or zoom_of(to_crop) >= HALF_CHROMA_ZOOM):
                half = warp_crop(samples, compose(resizing(0.5), to_crop), size // 2)
                part: Samples = cv2.resize(half, (size, size))
            else:
                part = warp_crop(samples, to_crop, size)
            warped.append(part >> self.layout.shift if self.layout.shift else part)
        return yuv_to_bgr(cv2.merge(warped), self.space)

    def grey(self, matrix: Matrix, size: int, *, sparse: bool = False) -> ByteImage:
        """See ``Picture.grey``."""
        luma = warp_crop(self._luma, matrix, size, averaged=not sparse)
        black, white = (0, 255) if self.space.full_range else (16, 235)
        scale = 255 / (white - black)
        grey = cv2.addWeighted(luma, scale / self._level, luma, 0, -scale * black, dtype=cv2.CV_8U)
        return np.asarray(grey, np.uint8)

    def luma(self, region: Region) -> Mask:
        """See ``Picture.luma``."""
        left, top, right, bottom = region
        luma = self._luma[top:bottom, left:right].astype(np.float32)
        return luma if self._level == 1 else luma / np.float32(self._level)

    def add_luma(self, region: Region, levels: Mask) -> None:
        """See ``Picture.add_luma``."""
        self._make_writable()
        left, top, right, bottom = region
        part = self._luma[top:bottom, left:right]
        depth = cv2.CV_8U if part.dtype == np.uint8 else cv2.CV_16U
        total = cv2.add(part, levels * np.float32(self._level), dtype=depth)
        part[...] = total if self._level == 1 else np.minimum(total, 256 * self._level - 1)

    @property
    def _level(self) -> int:
        """Size of an 8-bit grey level in sample values."""
        return 1 << (self.layout.shift + self.layout.depth - 8)

    def paste(self, crop: ByteImage, matrix: Matrix, mask: Mask, *, box: Box) -> None:
        """See ``Picture.paste``; converts the crop, then blends each plane inside the face's region."""
        self._make_writable()
        parts: deque[Samples] = deque(channels_of(bgr_to_yuv(crop, self.space)))
        box, to_luma = extend_box(box, self.width, self.height), invert(matrix)
        region = face_region(matrix, len(crop), box, self.width, self.height)
        to_crop, step, plane_region, weights = _mask_to_crop(mask, crop), None, region, mask
        for plane, samples in self._planes():
            to_plane = compose(invert(plane.to_luma), to_luma)
            if plane.step != step:  # both chroma planes share region and weights
                step, plane_region = plane.step, plane.region_of(region, samples)
                weights = region_weights(mask, compose(to_plane, to_crop), plane_region, plane.box_of(box))
            for channel in np.moveaxis(samples, 2, 0) if samples.ndim == 3 else [samples]:
                part = parts.popleft() << self.layout.shift if self.layout.shift else parts.popleft()
                blend_plane(channel, part, to_plane, plane_region, weights, peak=256 * self._level - 1)

    def writable_planes(self) -> list[tuple[PlaneLayout, Samples]]:
        """Return the layout of each plane, and its samples to be changed in place."""
        self._make_writable()
        return self._planes()

    def _make_writable(self) -> None:
        if not self._writable:
            self.frame.make_writable()
            self._writable, self._views = True, None  # the buffers may have moved

    @property
    def _luma(self) -> Samples:
        return self._planes()[0][1]

    def _planes(self) -> list[tuple[PlaneLayout, Samples]]:
        """Return the layout of each plane, and a view of its samples."""
        if self._views is None:
            pairs = zip(self.frame.planes, plane_layouts(self.frame.format.name), strict=True)
            self._views = [(layout, plane_samples(plane, layout)) for plane, layout in pairs]
        return self._views


def _mask_to_crop(mask: Mask, crop: ByteImage) -> Matrix:
    """Return the matrix from a mask's pixels to those of its crop, which may be larger."""
    return resizing(len(crop) / len(mask))


def fit_inside(width: int, height: int, size: int) -> tuple[int, int]:
    """Return the largest width and height with this aspect ratio in a square, rounded as in insightface."""
    if height > width:
        return max(1, int(size / (height / width))), size
    return size, max(1, int(size * (height / width)))


class _Thread(threading.local):
    """This thread's scaler, which caches its tables between frames (``frame.reformat`` would not)."""

    def __init__(self) -> None:
        self.scaler = VideoReformatter()


_thread = _Thread()


def upright_to_stored(rotation: int, width: int, height: int) -> Matrix:
    """Return the matrix from the upright picture to the stored one, ``width`` by ``height`` pixels."""
    right, bottom = width - 1, height - 1
    matrices = {
        0: [[1, 0, 0], [0, 1, 0]],
        90: [[0, 1, 0], [-1, 0, bottom]],
        180: [[-1, 0, right], [0, -1, bottom]],
        270: [[0, -1, right], [1, 0, 0]],
    }
    return np.array(matrices[rotation], np.float64)
