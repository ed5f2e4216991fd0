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

from colab_helpers.errors import MediaError
from colab_helpers.language import tr
from colab_helpers.media.affine import Matrix, compose, crop_corners, invert, scaling
from colab_helpers.media.colour import ColourSpace, bgr_to_yuv, yuv_to_bgr

ByteImage = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.float32]
Region = tuple[int, int, int, int]
"""Half-open pixel rectangle: left, top, right, bottom."""
Box = npt.NDArray[np.float32]

# Rows blended at a time: temporaries stay in the CPU cache, and no face, however large, ever needs a
# frame-sized temporary.
_STRIP_ROWS = 96
# The soft edge along the face's box, as a share of the box's shorter side.
_BOX_FEATHER = 0.08


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

    @property
    def width(self) -> int:
        """Width in pixels."""

    @property
    def height(self) -> int:
        """Height in pixels."""

    def detector_view(self, size: int) -> DetectorView:
        """Fit the picture into a ``size`` square, keeping its aspect."""

    def crop(self, matrix: Matrix, size: int) -> ByteImage:
        """Warp a ``(size, size, 3)`` BGR crop out of the picture; outside it is black."""

    def paste(self, crop: ByteImage, matrix: Matrix, mask: Mask, *, box: Box) -> None:
        """Blend a BGR crop back in place, only inside ``box``.

        Args:
            crop: ``(S, S, 3)`` uint8.
            matrix: From the picture's pixels to the crop's.
            mask: ``(S, S)`` float32 weights from 0 to 1 in crop space.
            box: xyxy in the picture's pixels; weights fade out towards its edges.
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
        self._alpha = alpha

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.image.shape[1])

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.image.shape[0])

    def detector_view(self, size: int) -> DetectorView:
        """Scale with bilinear interpolation, as insightface does."""
        width, height = fit_inside(self.width, self.height, size)
        small = np.asarray(cv2.resize(self.image, (width, height)), np.uint8)
        if self._alpha is not None:
            small = over_white(small, np.asarray(cv2.resize(self._alpha, (width, height)), np.uint8))
        return DetectorView(small, scaling(self.width / width, self.height / height))

    def crop(self, matrix: Matrix, size: int) -> ByteImage:
        """See ``Picture.crop``."""
        crop = np.asarray(cv2.warpAffine(self.image, matrix, (size, size), borderValue=0), np.uint8)
        return crop if self._alpha is None else over_white(crop, _alpha_crop(self._alpha, matrix, size))

    def paste(self, crop: ByteImage, matrix: Matrix, mask: Mask, *, box: Box) -> None:
        """See ``Picture.paste``."""
        if self._alpha is not None:
            crop = _from_over_white(crop, _alpha_crop(self._alpha, matrix, crop.shape[0]))
        region = face_region(matrix, crop.shape[0], box, self.width, self.height)
        _blend_plane(self.image, crop, mask, invert(matrix), region, box)


@dataclass(frozen=True)
class _Plane:
    """One plane of a frame with the affine step from its samples to luma pixels: x = step*u + offset."""

    samples: npt.NDArray[Any]
    step: tuple[int, int]
    offset: tuple[float, float]
    shift: int

    @property
    def channels(self) -> int:
        return self.samples.shape[2] if self.samples.ndim == 3 else 1

    @property
    def to_luma(self) -> Matrix:
        (sx, sy), (ox, oy) = self.step, self.offset
        return np.array([[sx, 0, ox], [0, sy, oy]], np.float64)


@dataclass(frozen=True)
class _Layout:
    """How a pixel format lays out its samples."""

    step: tuple[int, int]
    depth: int = 8
    interleaved: bool = False
    shift: int = 0


_LAYOUTS = {
    "yuv420p": _Layout((2, 2)),
    "yuvj420p": _Layout((2, 2)),
    "yuv422p": _Layout((2, 1)),
    "yuvj422p": _Layout((2, 1)),
    "yuv444p": _Layout((1, 1)),
    "yuvj444p": _Layout((1, 1)),
    "nv12": _Layout((2, 2), interleaved=True),
    "p010le": _Layout((2, 2), depth=10, interleaved=True, shift=6),
    "yuv420p10le": _Layout((2, 2), depth=10),
    "yuv422p10le": _Layout((2, 1), depth=10),
    "yuv444p10le": _Layout((1, 1), depth=10),
}
PICTURE_FORMATS = tuple(_LAYOUTS)


class VideoPicture:
    """A decoded video frame in one of ``PICTURE_FORMATS``; only ``paste`` changes it.

    Args:
        frame: The frame. ``paste`` first makes it writable, so that the decoder's own reference
            pictures are never touched.
        rotation: Clockwise degrees (0, 90, 180, 270) by which the frame is turned for display; the
            detector sees it upright, all coordinates stay those of the stored frame.
    """

    def __init__(self, frame: av.VideoFrame, *, rotation: int = 0) -> None:
        if frame.format.name not in _LAYOUTS:
            raise MediaError(
                tr("pixel format {format} cannot be worked on directly", format=frame.format.name),
                remedy=tr("read the video through media.reader, which converts it"),
            )
        self.frame = frame
        self.rotation = rotation % 360
        self._layout = _LAYOUTS[frame.format.name]
        self._space = ColourSpace.of_frame(frame, depth=self._layout.depth)
        self._writable = False

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.frame.width)

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.frame.height)

    @property
    def changed(self) -> bool:
        """Whether anything was pasted."""
        return self._writable

    def detector_view(self, size: int) -> DetectorView:
        """Scale and convert in one pass of the scaler, then turn upright."""
        width, height = fit_inside(self.width, self.height, size)
        small = (
            _scaler()
            .reformat(
                self.frame,
                width=width,
                height=height,
                format="bgr24",
                src_colorspace=_swscale_matrix(self._space.matrix),
                interpolation=Interpolation.BILINEAR,
            )
            .to_ndarray()
        )
        turned = np.rot90(small, -(self.rotation // 90))
        scale = scaling(self.width / width, self.height / height)
        upright = np.ascontiguousarray(turned, np.uint8)
        return DetectorView(upright, compose(scale, _turn_back(self.rotation, width, height)))

    def crop(self, matrix: Matrix, size: int) -> ByteImage:
        """Warp each plane to crop size, then convert the crop alone."""
        warped: list[npt.NDArray[Any]] = []
        channel = 0
        for plane in self._planes():
            black = [value << plane.shift for value in self._space.black[channel:]]
            part: npt.NDArray[Any] = cv2.warpAffine(
                plane.samples,
                compose(matrix, plane.to_luma),
                (size, size),
                borderValue=black[: plane.channels],
            )
            warped.append(part >> plane.shift if plane.shift else part)
            channel += plane.channels
        return yuv_to_bgr(cv2.merge(warped), self._space)

    def paste(self, crop: ByteImage, matrix: Matrix, mask: Mask, *, box: Box) -> None:
        """Convert the crop, then blend each plane inside the face's region."""
        self._make_writable()
        channels: list[npt.NDArray[Any]] = list(cv2.split(bgr_to_yuv(crop, self._space)))
        region = face_region(matrix, crop.shape[0], box, self.width, self.height)
        for number, plane in enumerate(self._planes()):
            part: npt.NDArray[Any] = cv2.merge(channels[1:]) if plane.channels == 2 else channels[number]
            if plane.shift:
                part = part << plane.shift
            to_samples = compose(invert(plane.to_luma), invert(matrix))
            _blend_plane(
                plane.samples, part, mask, to_samples, _plane_region(region, plane), _plane_box(box, plane)
            )

    def _make_writable(self) -> None:
        if not self._writable:
            self.frame.make_writable()
            self._writable = True

    def _planes(self) -> Iterator[_Plane]:
        layout = self._layout
        dtype = np.uint8 if layout.depth == 8 else np.uint16
        for number, plane in enumerate(self.frame.planes):
            step = (1, 1) if number == 0 else layout.step
            channels = 2 if number and layout.interleaved else 1
            yield _Plane(_plane_samples(plane, dtype, channels), step, self._siting(step), layout.shift)

    def _siting(self, step: tuple[int, int]) -> tuple[float, float]:
        """Where the first chroma sample lies, in luma pixels.

        H.264/H.265 default (chroma location type 0): level with the left luma column, halfway between
        lines. JPEG-style formats: halfway in both directions.
        """
        centred = self.frame.format.name.startswith("yuvj")
        return ((step[0] - 1) / 2 if centred else 0.0), (step[1] - 1) / 2


def _alpha_crop(alpha: ByteImage, matrix: Matrix, size: int) -> ByteImage:
    """Warp a crop out of the alpha plane; what lies outside the picture is opaque."""
    return np.asarray(cv2.warpAffine(alpha, matrix, (size, size), borderValue=255), np.uint8)


def over_white(bgr: ByteImage, alpha: ByteImage) -> ByteImage:
    """Blend colours ``(H, W, 3)`` over white as far as they are transparent (``alpha`` below 255)."""
    weight = alpha[..., None].astype(np.uint16)
    mixed = bgr * weight + 255 * (255 - weight)
    return np.asarray((mixed + 127) // 255, np.uint8)


def _from_over_white(bgr: ByteImage, alpha: ByteImage) -> ByteImage:
    """The colours that `over_white` makes these of, as near as they can be had; not seen where alpha is 0."""
    weight = np.maximum(alpha, 1)[..., None].astype(np.float32) / 255
    return np.asarray(np.clip(255 - (255 - bgr.astype(np.float32)) / weight + 0.5, 0, 255), np.uint8)


def _plane_samples(plane: Any, dtype: type[np.generic], channels: int) -> npt.NDArray[Any]:
    """View a plane's buffer as ``(H, W)`` or ``(H, W, channels)`` without copying."""
    itemsize = np.dtype(dtype).itemsize
    flat: npt.NDArray[Any] = np.frombuffer(plane, dtype)
    rows = flat[: plane.height * (plane.line_size // itemsize)].reshape(plane.height, -1)
    samples = rows[:, : plane.width * channels]
    return samples if channels == 1 else samples.reshape(plane.height, plane.width, channels)


def fit_inside(width: int, height: int, size: int) -> tuple[int, int]:
    """Largest width and height of that aspect inside a square, rounded as insightface rounds."""
    if height > width:
        return max(1, int(size / (height / width))), size
    return size, max(1, int(size * (height / width)))


def face_region(matrix: Matrix, size: int, box: Box, width: int, height: int) -> Region:
    """Pixels that both the crop and the face's box cover, clipped to the frame; may be empty."""
    # A degenerate landmark set can throw the corners arbitrarily far; clip before converting to int.
    points = np.clip(np.nan_to_num(crop_corners(matrix, size)), -1e6, 1e6)
    left, top = np.floor(np.maximum(points.min(0), box[:2]))
    right, bottom = np.ceil(np.minimum(points.max(0), box[2:])) + 1
    return (
        int(max(left, 0)),
        int(max(top, 0)),
        int(max(min(right, width), 0)),
        int(max(min(bottom, height), 0)),
    )


def _plane_region(region: Region, plane: _Plane) -> Region:
    """The samples of a plane that lie inside a region of luma pixels."""
    (sx, sy), (height, width) = plane.step, plane.samples.shape[:2]
    left, top, right, bottom = region
    return left // sx, top // sy, min(-(-right // sx), width), min(-(-bottom // sy), height)


def _plane_box(box: Box, plane: _Plane) -> Box:
    offset = np.array([*plane.offset, *plane.offset], np.float32)
    return np.asarray((box - offset) / np.array([*plane.step, *plane.step], np.float32), np.float32)


def _blend_plane(
    target: npt.NDArray[Any],
    crop: npt.NDArray[Any],
    mask: Mask,
    to_target: Matrix,
    region: Region,
    box: Box,
) -> None:
    """Warp crop and mask over a region of one plane, strip by strip, and blend in place."""
    left, top, right, bottom = region
    if left >= right or top >= bottom:
        return
    ramp_x = _box_ramp(left, right, box[0], box[2], box)
    for start in range(top, bottom, _STRIP_ROWS):
        stop = min(start + _STRIP_ROWS, bottom)
        shifted = to_target - np.array([[0, 0, left], [0, 0, start]])
        size = (right - left, stop - start)
        weight: npt.NDArray[Any] = cv2.warpAffine(mask, shifted, size)
        weight *= ramp_x
        weight *= _box_ramp(start, stop, box[1], box[3], box)[:, None]
        new = cv2.warpAffine(crop, shifted, size, borderMode=cv2.BORDER_REPLICATE)
        _blend_strip(target[start:stop, left:right], new, weight)


def _blend_strip(strip: npt.NDArray[Any], new: npt.NDArray[Any], weight: npt.NDArray[Any]) -> None:
    """``strip += (new - strip) * weight``, rounded, in place."""
    if strip.ndim == 3:
        weight = cv2.merge([weight] * strip.shape[2])  # OpenCV does not broadcast
    difference = cv2.subtract(new, strip, dtype=cv2.CV_32F)
    cv2.multiply(difference, weight, dst=difference)
    depth = cv2.CV_8U if strip.dtype == np.uint8 else cv2.CV_16U
    strip[...] = cv2.add(strip, difference, dtype=depth)


def _box_ramp(start: int, stop: int, low: float, high: float, box: Box) -> npt.NDArray[np.float32]:
    """Weights along one axis: 0 at the box's edges and beyond, 1 further inside than the feather."""
    feather = max(1.0, _BOX_FEATHER * float(min(box[2] - box[0], box[3] - box[1])))
    position = np.arange(start, stop, dtype=np.float32)
    ramp: npt.NDArray[np.float32] = np.clip(np.minimum(position - low, high - position) / feather, 0, 1)
    return ramp.astype(np.float32)


_thread = threading.local()


def _scaler() -> VideoReformatter:
    """This thread's scaler: it keeps its tables from frame to frame, which a frame's own does not."""
    if not hasattr(_thread, "scaler"):
        _thread.scaler = VideoReformatter()
    scaler: VideoReformatter = _thread.scaler
    return scaler


def _turn_back(rotation: int, width: int, height: int) -> Matrix:
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


def _swscale_matrix(matrix: int) -> int:
    """Swscale's own number of an H.273 matrix (SWS_CS_*): they agree, but for BT.2020's two forms."""
    return 9 if matrix == 10 else matrix
