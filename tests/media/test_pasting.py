"""Fast pasting and cropping, by planes and strips, match the plain computation."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from av.video.reformatter import ColorRange

from colab_helpers.faces.geometry import FFHQ_512, arcface_template, similarity_transform
from colab_helpers.faces.masks import face_mask
from colab_helpers.media.affine import compose, invert
from colab_helpers.media.blending import extend_box, warp_crop
from colab_helpers.media.colour import ColourSpace, bgr_to_yuv, yuv_to_bgr
from colab_helpers.media.formats import WORKING_FORMATS
from colab_helpers.media.picture import VideoPicture
from tests.media.test_picture import BOX, HEIGHT, KPS, WIDTH, planes, video_frame

Array = npt.NDArray[Any]
# Zoom, rotation in degrees, and centre of a face.
PLACES = {
    "small": (0.4, 0, (160, 120)),
    "turned": (1.2, 33, (150, 125)),
    "large": (2.5, -8, (170, 130)),
    "cut at the left": (1.4, 5, (15, 120)),
    "cut at the corner": (1.4, 170, (310, 232)),
}


def placed(place: str) -> tuple[Array, Array]:
    """Landmarks and box of a face."""
    zoom, degrees, centre = PLACES[place]
    rotation = np.exp(1j * np.radians(degrees))
    points = (KPS - KPS.mean(0)) * zoom
    rotated = (points[:, 0] + 1j * points[:, 1]) * rotation
    kps = np.stack([rotated.real, rotated.imag], 1) + centre
    half = (BOX[2:] - BOX[:2]) / 2 * zoom
    return kps.astype(np.float32), np.array([*(centre - half), *(centre + half)], np.float32)


def textured(size: int) -> npt.NDArray[np.uint8]:
    """A crop with detail like a network's output."""
    rng = np.random.default_rng(size)
    soft = cv2.GaussianBlur(rng.normal(128, 110, (size, size, 3)), (0, 0), size / 96)
    return np.asarray(np.clip(soft, 0, 255), np.uint8)


def plane_to_luma(picture: VideoPicture) -> list[Array]:
    """Mapping from each plane's samples to luma samples, by the pixel format's chroma siting."""
    layout = WORKING_FORMATS[picture.frame.format.name]
    x, y = layout.step
    centred = picture.frame.format.name.startswith("yuvj")
    chroma = np.array([[x, 0, (x - 1) / 2 if centred else 0], [0, y, (y - 1) / 2]], np.float64)
    return [np.array([[1.0, 0, 0], [0, 1, 0]]), *[chroma] * (1 if layout.interleaved else 2)]


def blended(old: Array, new: Array, to_plane: Array, mask: Array, box: Array) -> Array:
    """Warp and blend a whole plane in double precision."""
    size, enlarged = old.shape[1::-1], np.linalg.det(to_plane[:, :2]) > 1
    interpolation = cv2.INTER_CUBIC if enlarged else cv2.INTER_LINEAR
    warped = cv2.warpAffine(new, to_plane, size, flags=interpolation, borderMode=cv2.BORDER_REPLICATE)
    weight = cv2.warpAffine(mask, to_plane, size).astype(np.float64)
    feather = max(1.0, 0.08 * float(min(box[2] - box[0], box[3] - box[1])))
    for axis, (low, high) in enumerate(((box[1], box[3]), (box[0], box[2]))):
        at = np.arange(old.shape[axis])
        ramp = np.clip(np.minimum(at - low, high - at) / feather, 0, 1)
        weight *= ramp[:, None] if axis == 0 else ramp
    return np.asarray(np.rint(old + (warped.astype(np.float64) - old) * weight))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("size", "fmt"), [*((128, f) for f in WORKING_FORMATS), (512, "yuv420p"), (512, "p010le")]
)
def test_pasted_crop_matches_a_single_warp_and_blend(fmt: str, place: str, size: int) -> None:
    kps, box = placed(place)
    matrix = similarity_transform(kps, arcface_template(128) if size == 128 else FFHQ_512)
    frame, crop, mask = video_frame(fmt), textured(size), face_mask(size)
    layout = WORKING_FORMATS[fmt]
    depth, level = layout.depth, 1 << (layout.depth - 8)
    picture, before = VideoPicture(frame), planes(frame)
    picture.paste(crop, matrix, face_mask(min(size, 256)), box=box)
    channels = list(cv2.split(bgr_to_yuv(crop, ColourSpace.of_frame(frame, depth=depth))))
    opened = extend_box(box, WIDTH, HEIGHT)
    for old, new, to_luma in zip(before, planes(frame), plane_to_luma(picture), strict=True):
        to_plane = compose(invert(to_luma), invert(matrix))
        inside = (opened - np.tile(to_luma[:, 2], 2)) / np.tile(np.diag(to_luma), 2)
        for was, now in zip(np.atleast_3d(old).T, np.atleast_3d(new).T, strict=True):
            was, now = (channel.T.astype(int) >> layout.shift for channel in (was, now))
            expected = blended(was, channels.pop(0), to_plane, mask, inside)
            off = np.abs(now - expected) / level
            changed = np.abs(expected - was) > level
            assert changed.sum() > 50
            assert np.median(off[changed]) <= 1
            assert off.max() <= 3


@pytest.mark.parametrize("zoom", [1.5, 2.5])
def test_enlarged_crop_is_clipped_to_ten_bits(zoom: float) -> None:
    frame = video_frame("yuv444p10le")
    frame.color_range = ColorRange.JPEG
    crop = np.zeros((64, 64, 3), np.uint8)
    crop[:, 32:] = 255  # cubic interpolation overshoots here
    matrix = np.array([[1, 0, 32 * zoom - 150], [0, 1, 32 * zoom - 110]]) / zoom
    VideoPicture(frame).paste(crop, matrix, np.ones((64, 64), np.float32), box=BOX)
    luma = planes(frame)[0]
    assert (luma == 1023).any()
    assert luma.max() == 1023


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("fmt", ["yuv420p", "nv12", "yuv422p10le", "yuv444p", "yuvj420p"])
def test_crop_matches_warped_whole_planes(fmt: str, place: str) -> None:
    frame = video_frame(fmt)
    picture = VideoPicture(frame)
    depth = WORKING_FORMATS[fmt].depth
    kps, _ = placed(place)
    for size, template in ((128, arcface_template(128)), (512, FFHQ_512)):
        matrix = similarity_transform(kps, template)
        parts = [
            warp_crop(np.ascontiguousarray(channel), compose(matrix, to_luma), size)
            for samples, to_luma in zip(planes(frame), plane_to_luma(picture), strict=True)
            for channel in np.moveaxis(np.atleast_3d(samples), 2, 0)
        ]
        expected = yuv_to_bgr(cv2.merge(parts), ColourSpace.of_frame(frame, depth=depth))
        off = np.abs(picture.crop(matrix, size).astype(int) - expected)
        assert np.median(off) <= 1
        assert off.max() <= 3


@pytest.mark.parametrize("fmt", WORKING_FORMATS)
def test_grey_crop_matches_the_colour_crop(fmt: str) -> None:
    picture, layout = VideoPicture(video_frame(fmt)), WORKING_FORMATS[fmt]
    for _, samples in list(picture._planes())[1:]:
        samples[...] = 1 << (layout.depth + layout.shift - 1)
    for size in (16, 128, 300):
        matrix = similarity_transform(KPS, arcface_template(128)) * size / 128
        colours = picture.crop(matrix, size).astype(int)
        assert np.abs(picture.grey(matrix, size)[..., None] - colours).max() <= 1
