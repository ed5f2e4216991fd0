"""Convert YUV to BGR and back, by one affine matrix each, for any colour matrix, range and bit depth.

Coefficients: ITU-T H.273, table 4 (MatrixCoefficients) and equations 38-49.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import av
import cv2
import numpy as np
import numpy.typing as npt

from colab_helpers.media.formats import ByteImage, Samples, is_full_range

# Kr and Kb by H.273 MatrixCoefficients.
_KR_KB = {
    1: (0.2126, 0.0722),  # BT.709
    4: (0.30, 0.11),  # FCC
    5: (0.299, 0.114),  # BT.470 BG
    6: (0.299, 0.114),  # SMPTE 170M
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020 non-constant luminance
    10: (0.2627, 0.0593),  # BT.2020 constant luminance, taken as non-constant
}
_BT709, _BT601 = 1, 6
_SD_HEIGHT = 576

_Affine = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ColourSpace:
    """How YUV samples encode colours."""

    matrix: int  # H.273 MatrixCoefficients, a key of ``_KR_KB``
    full_range: bool  # whether luma uses the full range (JPEG) or 16 to 235 (MPEG), at 8 bits
    depth: int  # bits per sample, in its low bits

    @classmethod
    def of_frame(cls, frame: av.VideoFrame, *, depth: int) -> ColourSpace:
        """Return a decoded frame's colour space; for an unspecified matrix see `matrix_of`."""
        matrix = matrix_of(int(frame.colorspace), frame.height)
        return cls(matrix=matrix, full_range=is_full_range(frame), depth=depth)

    @property
    def black(self) -> tuple[int, int, int]:
        """Black as Y, U and V."""
        luma = 0 if self.full_range else 16 << (self.depth - 8)
        return luma, 1 << (self.depth - 1), 1 << (self.depth - 1)


def matrix_of(tag: int, height: int) -> int:
    """Return the tagged matrix if it is known, else BT.601 up to 576 lines and BT.709 above."""
    return tag if tag in _KR_KB else _BT601 if height <= _SD_HEIGHT else _BT709


@cache
def bgr_to_yuv_matrix(space: ColourSpace) -> _Affine:
    """Return the ``(3, 4)`` matrix from BGR (0 to 255) to samples of ``space``."""
    kr, kb = _KR_KB[space.matrix]
    luma = np.array([kb, 1 - kr - kb, kr])
    blue, red = np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])
    rows = np.stack([luma, (blue - luma) / (2 * (1 - kb)), (red - luma) / (2 * (1 - kr))])
    peak = (1 << space.depth) - 1
    step = 1 << (space.depth - 8)
    luma_span, chroma_span = (peak, peak) if space.full_range else (219 * step, 224 * step)
    scale = np.array([luma_span, chroma_span, chroma_span]) / 255.0
    return np.hstack([rows * scale[:, None], np.array(space.black)[:, None]]).astype(np.float32)


@cache
def yuv_to_bgr_matrix(space: ColourSpace) -> _Affine:
    """Return the ``(3, 4)`` matrix from samples of ``space`` to BGR (0 to 255)."""
    forward = bgr_to_yuv_matrix(space).astype(np.float64)
    inverse = np.linalg.inv(forward[:, :3])
    return np.hstack([inverse, -inverse @ forward[:, 3:]]).astype(np.float32)


def channels_of(image: Samples) -> list[Samples]:
    """Return the channels of an ``(H, W, C)`` image as separate arrays."""
    # Preallocated: otherwise OpenCV's binding copies each channel once more.
    return list(cv2.split(image, [np.empty(image.shape[:2], image.dtype) for _ in range(image.shape[2])]))


def yuv_to_bgr(yuv: Samples, space: ColourSpace) -> ByteImage:
    """Convert an interleaved ``(H, W, 3)`` uint8 or uint16 YUV 4:4:4 image to uint8 BGR."""
    samples = yuv if yuv.dtype == np.uint8 else yuv.astype(np.float32)
    bgr: Samples = cv2.transform(samples, yuv_to_bgr_matrix(space))
    return bgr if bgr.dtype == np.uint8 else np.clip(np.rint(bgr), 0, 255).astype(np.uint8)


def bgr_to_yuv(bgr: ByteImage, space: ColourSpace) -> Samples:
    """Convert a uint8 BGR ``(H, W, 3)`` image to interleaved YUV 4:4:4: uint8 at 8 bits, else uint16."""
    matrix = bgr_to_yuv_matrix(space)
    if space.depth == 8:
        return np.asarray(cv2.transform(bgr, matrix))
    yuv = cv2.transform(bgr.astype(np.float32), matrix)
    return np.clip(np.rint(yuv), 0, (1 << space.depth) - 1).astype(np.uint16)
