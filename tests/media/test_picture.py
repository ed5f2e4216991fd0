from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest
from av.video.reformatter import ColorRange

from colab_helpers.faces.geometry import arcface_template, similarity_transform
from colab_helpers.faces.masks import face_mask
from colab_helpers.media.affine import compose, transform_points
from colab_helpers.media.blending import face_region
from colab_helpers.media.colour import ColourSpace, bgr_to_yuv, yuv_to_bgr
from colab_helpers.media.formats import WORKING_FORMATS
from colab_helpers.media.picture import BgrPicture, VideoPicture

WIDTH, HEIGHT = 320, 240
KPS = np.array([[130, 90], [175, 94], [150, 118], [132, 140], [168, 143]], np.float32)
BOX = np.array([95, 45, 205, 175], np.float32)
MATRIX = similarity_transform(KPS, arcface_template(128))


def smooth_image(width: int = WIDTH, height: int = HEIGHT) -> npt.NDArray[np.uint8]:
    """Colours change slowly, so that chroma subsampling loses little."""
    rng = np.random.default_rng(3)
    small = rng.integers(40, 215, (4, 5, 3), np.uint8)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def video_frame(fmt: str, width: int = WIDTH, height: int = HEIGHT, matrix: int = 1) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(smooth_image(width, height), format="bgr24")
    full = fmt.startswith("yuvj")
    converted = frame.reformat(
        format=fmt, dst_colorspace=matrix, dst_color_range=ColorRange.JPEG if full else ColorRange.MPEG
    )
    converted.colorspace = matrix
    converted.color_range = ColorRange.JPEG if full else ColorRange.MPEG
    converted.pts, converted.time_base = 7, Fraction(1, 25)
    return converted


def planes(frame: av.VideoFrame) -> list[npt.NDArray[Any]]:
    return [samples.copy() for _, samples in VideoPicture(frame)._planes()]


@pytest.mark.parametrize("matrix", [1, 5, 6, 7, 9])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("depth", [8, 10])
def test_colours_survive_conversion_to_yuv_and_back(matrix: int, full: bool, depth: int) -> None:
    space = ColourSpace(matrix=matrix, full_range=full, depth=depth)
    image = smooth_image()
    back = yuv_to_bgr(bgr_to_yuv(image, space), space)
    assert np.abs(back.astype(int) - image).max() <= (2 if depth == 8 else 1)


def test_black_white_and_grey_have_the_standard_codes() -> None:
    space = ColourSpace(matrix=1, full_range=False, depth=8)
    greys = np.repeat(np.array([0, 128, 255], np.uint8), 3).reshape(1, 3, 3)
    np.testing.assert_array_equal(
        bgr_to_yuv(greys, space)[0], [[16, 128, 128], [126, 128, 128], [235, 128, 128]]
    )


@pytest.mark.parametrize("fmt", WORKING_FORMATS)
@pytest.mark.parametrize("matrix", [1, 5, 9])
def test_crop_of_a_frame_matches_crop_of_its_bgr_image(fmt: str, matrix: int) -> None:
    crop = VideoPicture(video_frame(fmt, matrix=matrix)).crop(MATRIX, 128)
    expected = BgrPicture(smooth_image()).crop(MATRIX, 128)
    difference = np.abs(crop.astype(int) - expected)
    assert difference.mean() < 1.5
    assert np.percentile(difference, 99) <= 5


@pytest.mark.parametrize("fmt", WORKING_FORMATS)
def test_pasting_changes_no_sample_outside_the_box(fmt: str) -> None:
    frame = video_frame(fmt)
    before = planes(frame)
    picture = VideoPicture(frame)
    picture.paste(picture.crop(MATRIX, 128), MATRIX, face_mask(128), box=BOX)
    shift = 6 if fmt == "p010le" else 0
    for old, new in zip(before, planes(picture.frame), strict=True):
        # Pasting the face's own crop changes almost nothing.
        difference = np.abs((old >> shift).astype(int) - (new >> shift).astype(int))
        assert difference.max() <= (4 if "10" not in fmt else 16)
    crop = np.full((128, 128, 3), (30, 90, 200), np.uint8)
    picture.paste(crop, MATRIX, face_mask(128), box=BOX)
    after = planes(picture.frame)
    for old, new in zip(before, after, strict=True):
        step_y, step_x = HEIGHT // old.shape[0], WIDTH // old.shape[1]
        inside = np.zeros(old.shape[:2], bool)
        inside[
            int(BOX[1]) // step_y : int(BOX[3]) // step_y + 2,
            int(BOX[0]) // step_x : int(BOX[2]) // step_x + 2,
        ] = True
        np.testing.assert_array_equal(old[~inside], new[~inside])
    middle = VideoPicture(picture.frame).crop(MATRIX, 128)[50:80, 50:80]
    np.testing.assert_allclose(middle.reshape(-1, 3).mean(0), (30, 90, 200), atol=3)


@pytest.mark.parametrize(
    ("points", "box"),
    [
        (KPS - (130, 90), BOX - (130, 90, 130, 90)),  # cut at the top left
        (KPS - (-170, -120), BOX - (-170, -120, -170, -120)),  # cut at the bottom right
        ((KPS - KPS.mean(0)) * 8 + (160, 120), np.array([-300, -300, 600, 600])),  # larger than the frame
        ((KPS - KPS.mean(0)) * 0.05 + (160, 120), np.array([157, 116, 163, 124])),  # a few pixels
        ((KPS - KPS.mean(0)) * -1 + (160, 120), np.array([110, 60, 210, 180])),  # upside down
        (KPS + 5000, BOX + 5000),  # far outside
        (np.full((5, 2), 100.0), BOX),  # all landmarks equal
        (np.full((5, 2), 100.0), np.array([100, 100, 100, 100])),  # and an empty box
    ],
)  # fmt: skip
@pytest.mark.parametrize("fmt", ["bgr", "yuv420p", "yuv422p10le", "nv12"])
def test_crop_and_paste_accept_any_position_and_size(fmt: str, points: Any, box: Any) -> None:
    picture = BgrPicture(smooth_image()) if fmt == "bgr" else VideoPicture(video_frame(fmt))
    points, box = np.asarray(points, np.float32), np.asarray(box, np.float32)
    matrix = similarity_transform(points, arcface_template(128))
    crop = picture.crop(matrix, 128)
    assert crop.shape == (128, 128, 3)
    picture.paste(255 - crop, matrix, face_mask(128), box=box)


@pytest.mark.parametrize("size", [(319, 239), (321, 241), (33, 17)])
@pytest.mark.parametrize("fmt", ["yuv420p", "yuv422p", "yuv444p"])
def test_frames_of_odd_size(fmt: str, size: tuple[int, int]) -> None:
    frame = video_frame(fmt, *size)
    picture = VideoPicture(frame)
    box = np.array([0, 0, *size], np.float32)
    matrix = np.array([[128 / size[0], 0, 0], [0, 128 / size[1], 0]])
    picture.paste(np.zeros((128, 128, 3), np.uint8), matrix, face_mask(128), box=box)
    assert picture.crop(matrix, 128)[60:68, 60:68].mean() < 12


def test_face_region_is_the_intersection_of_crop_and_box() -> None:
    identity = np.array([[1.0, 0, -10], [0, 1, -20]])  # crop of 50: x 10 to 59, y 20 to 69
    assert face_region(identity, 50, np.array([0, 30, 40, 300], np.float32), 320, 240) == (10, 30, 41, 70)
    left, top, right, bottom = face_region(identity, 50, np.array([200, 200, 210, 210], np.float32), 320, 240)
    assert left >= right or top >= bottom


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_detector_view_is_upright_and_maps_back_to_the_frame(rotation: int) -> None:
    upright = np.zeros((240, 320, 3), np.uint8)
    cv2.circle(upright, (250, 40), 12, (255, 255, 255), -1)
    stored = np.ascontiguousarray(np.rot90(upright, rotation // 90))
    frame = av.VideoFrame.from_ndarray(stored, format="bgr24").reformat(format="yuv444p")
    view = VideoPicture(frame, rotation=rotation).detector_view(160)
    rows, columns = np.nonzero(view.image[..., 0] > 128)
    seen = np.array([[columns.mean(), rows.mean()]])
    np.testing.assert_allclose(seen[0], (125, 20), atol=1.5)
    stored_rows, stored_columns = np.nonzero(stored[..., 0] > 128)
    expected = (stored_columns.mean(), stored_rows.mean())
    np.testing.assert_allclose(transform_points(seen, view.to_frame)[0], expected, atol=2)


@pytest.mark.parametrize("factor", [1.0, 0.3])
def test_crop_beyond_the_border_replicates_edge_pixels(factor: float) -> None:
    rng = np.random.default_rng(3)
    image = cv2.GaussianBlur(rng.integers(0, 256, (240, 320, 3), np.uint8), (0, 0), 4)
    wide = cv2.copyMakeBorder(image, 120, 120, 120, 120, cv2.BORDER_REPLICATE)
    matrix = np.array([[factor, 0, 40.0], [0, factor, 25.0]])
    shifted = compose(matrix, np.array([[1.0, 0, -120], [0, 1, -120]]))
    ours, expected = BgrPicture(image).crop(matrix, 128), BgrPicture(wide).crop(shifted, 128)
    assert np.abs(ours.astype(int) - expected).mean() < 1


def test_downscaled_crop_averages_noise() -> None:
    rng = np.random.default_rng(4)
    noise = np.clip(rng.normal(128, 20, (900, 900, 3)), 0, 255).astype(np.uint8)
    for factor, minimum in ((1.0, 15), (0.2, 0)):
        crop = BgrPicture(noise).crop(np.array([[factor, 0, -5.0], [0, factor, -5.0]]), 128)
        assert minimum <= crop.std() <= (22 if factor == 1 else 6)


def test_downscaled_crop_does_not_shift_pixels() -> None:
    y, x = np.mgrid[0:700, 0:900].astype(np.float32)
    ramp = np.dstack([x / 4, y / 3, (x + y) / 8]).astype(np.uint8)
    for factor in (0.45, 0.31, 0.17):
        crop = BgrPicture(ramp).crop(np.array([[factor, 0, -10.0], [0, factor, 4.0]]), 96)
        v, u = np.mgrid[20:90, 20:90]
        expected = np.dstack([(u + 10) / factor / 4, (v - 4) / factor / 3])
        inside = (expected < 220).all(2)
        assert np.abs(crop[20:90, 20:90, :2].astype(float) + 0.5 - expected)[inside].max() < 1.5


def _white_over_black(left: float, fmt: str = "bgr") -> npt.NDArray[Any]:
    """A black row after pasting a white crop with a box from ``left`` to ``left`` + 100."""
    box = np.array([left, 40, left + 100, 200], np.float32)
    matrix = np.array([[1, 0, 14 - left], [0, 0.64, -12.8]])
    crop, mask = np.full((128, 128, 3), 255, np.uint8), np.ones((128, 128), np.float32)
    if fmt == "bgr":
        picture = BgrPicture(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
        picture.paste(crop, matrix, mask, box=box)
        return picture.image[120, :, 0]
    frame = video_frame(fmt)
    VideoPicture(frame).add_luma((0, 0, WIDTH, HEIGHT), np.full((HEIGHT, WIDTH), -255, np.float32))
    VideoPicture(frame).paste(crop, matrix, mask, box=box)
    return planes(frame)[0][120]


@pytest.mark.parametrize("fmt", ["bgr", "yuv420p"])
def test_face_fades_at_box_edges_but_not_at_the_frame_border(fmt: str) -> None:
    white = 255 if fmt == "bgr" else 235
    inside = _white_over_black(100, fmt)
    assert inside[100] < 5
    assert (np.diff(inside[100:108].astype(int)) > 10).all()
    assert inside[112] == white
    for cut in (0, -5, -40):
        row = _white_over_black(cut, fmt)
        assert (row[: cut + 90] == white).all()
        assert row[cut + 100] < 5
    right = _white_over_black(WIDTH - 1 - 100, fmt)
    assert right[-1] == white


def test_face_leaving_the_frame_changes_smoothly() -> None:
    rows = [_white_over_black(left)[:60].astype(int) for left in np.arange(16, -4, -0.5)]
    assert max(np.abs(b - a).max() for a, b in pairwise(rows)) <= 50


def test_pasting_into_a_frame_held_by_its_decoder_succeeds() -> None:
    encoder = av.CodecContext.create("mpeg4", "w")
    encoder.width, encoder.height, encoder.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    encoder.time_base = Fraction(1, 25)
    decoder = av.CodecContext.create("mpeg4", "r")
    packets = [*encoder.encode(video_frame("yuv420p")), *encoder.encode(None)]
    frame = next(frame for packet in [*packets, None] for frame in decoder.decode(packet))
    picture = VideoPicture(frame)
    seen = picture.crop(MATRIX, 128)
    picture.paste(255 - seen, MATRIX, face_mask(128), box=BOX)
    assert np.abs(VideoPicture(frame).crop(MATRIX, 128).astype(int) - seen)[40:90, 40:90].mean() > 20
