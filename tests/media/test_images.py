from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, JpegImagePlugin
from PIL.PngImagePlugin import PngInfo

from colab_helpers.errors import MediaError, MissingFileError, OutputError
from colab_helpers.media import image_sources
from colab_helpers.media.images import (
    encode_still,
    read_image,
    read_still,
    to_data_url,
    write_image,
    write_still,
)

Bytes = np.ndarray[Any, Any]


def quadrants(width: int = 60, height: int = 40) -> Bytes:
    """BGR: red, green / blue, white; no two orientations are equal."""
    image = np.zeros((height, width, 3), np.uint8)
    half, middle = height // 2, width // 2
    image[:half, :middle] = (0, 0, 255)
    image[:half, middle:] = (0, 255, 0)
    image[half:, :middle] = (255, 0, 0)
    image[half:, middle:] = (255, 255, 255)
    return image


RGB = Image.fromarray(np.ascontiguousarray(quadrants()[..., ::-1]))


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    memory = io.BytesIO()
    image.save(memory, kind, **options)
    return memory.getvalue()


def mean_difference(image: Bytes, other: Bytes) -> float:
    return float(np.abs(image.astype(int) - other).mean())


# How viewers transform the stored picture, by EXIF orientation.
TURNS = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image[::-1, ::-1].transpose(1, 0, 2),
    8: lambda image: np.rot90(image),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(kind: str) -> None:
    extra = {"quality": 100} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    for orientation, turn in TURNS.items():
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        image = read_image(encode(RGB, kind, exif=exif.tobytes(), **extra))
        assert image.shape == turn(quadrants()).shape
        assert mean_difference(image, turn(quadrants())) < (4 if kind == "JPEG" else 0.5)
        assert image.flags.c_contiguous


LOSSLESS = (".png", ".bmp", ".tif", ".tiff")
WRITTEN = (*LOSSLESS, ".jpg", ".jpeg", ".jfif", ".webp", ".avif", ".heic")


@pytest.fixture(params=WRITTEN)
def suffix(request: pytest.FixtureRequest) -> str:
    """Suffixes of the picture formats that can be written."""
    if request.param == ".heic":
        pytest.importorskip("pillow_heif")
    return str(request.param)


def test_written_picture_reads_back(tmp_path: Path, suffix: str) -> None:
    path = write_image(tmp_path / "new" / f"a{suffix}", quadrants(), quality=100)
    image = read_image(path)
    assert mean_difference(image, quadrants()) < (0.01 if suffix in LOSSLESS else 4)
    assert [each.name for each in path.parent.iterdir()] == [f"a{suffix}"]
    assert np.array_equal(read_image(str(path)), image)
    assert np.array_equal(read_image(path.read_bytes()), image)


def test_exif_and_profile_are_kept_and_thumbnail_is_removed(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Make] = 6, "Camera"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2020:01:02 03:04:05"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSAltitude] = 7.0
    exif.get_ifd(ExifTags.IFD.IFD1).update({0x0201: 8, 0x0202: 4, 0x0103: 6})  # a thumbnail
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    still = read_still(encode(RGB, "JPEG", quality=100, exif=exif, icc_profile=profile))
    path = write_still(tmp_path / f"a{suffix}", still)
    assert mean_difference(read_image(path), TURNS[6](quadrants())) < 6
    if suffix == ".bmp":
        losses = [f"BMP cannot hold {part}: dropped" for part in ("EXIF data", "colour profile")]
        assert still.losses_in(path) == losses
        return
    assert still.losses_in(path) == []
    with Image.open(path) as image:
        kept = image.getexif()
        assert image.size == (40, 60)
        assert kept.get(ExifTags.Base.Orientation, 1) == 1
        assert kept[ExifTags.Base.Make] == "Camera"
        assert kept.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] == "2020:01:02 03:04:05"
        assert kept.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSAltitude] == 7.0
        assert not kept.get_ifd(ExifTags.IFD.IFD1)
        assert image.info["icc_profile"] == profile


def test_transparency_is_kept_or_filled_with_white(tmp_path: Path, suffix: str) -> None:
    alpha = np.tile(np.linspace(0, 255, 60).astype(np.uint8), (40, 1))
    picture = encode(Image.fromarray(np.dstack([quadrants()[..., ::-1], alpha])), "PNG")
    still = read_still(picture)
    path = write_still(tmp_path / f"a{suffix}", still, quality=100)
    again = read_still(path)
    if again.alpha is None:
        kind = "BMP" if suffix == ".bmp" else "JPEG"
        assert still.losses_in(path) == [f"{kind} has no transparency: it was filled with white"]
        assert mean_difference(again.bgr, read_image(picture)) < 4
        return
    assert np.abs(again.alpha.astype(int) - alpha).max() <= (0 if suffix != ".heic" else 2)
    assert mean_difference(again.bgr[:, 30:], quadrants()[:, 30:]) < 3
    assert still.losses_in(path) == []


def png_16_bit(channels: int) -> bytes:
    deep = (np.arange(2400, dtype=np.uint16) * 27).reshape(40, 60)
    return cv2.imencode(".png", deep if channels == 1 else np.dstack([deep] * channels))[1].tobytes()


def png_with_text() -> bytes:
    text = PngInfo()
    text.add_text("Author", "Ana")
    text.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta/>")
    return encode(RGB, "PNG", pnginfo=text)


PAGES = {"save_all": True, "append_images": [RGB]}
OTHER_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
NO_PROFILE = "its colour profile is not an RGB one: the result is sRGB without a profile"


@pytest.mark.parametrize(
    ("data", "losses", "tolerance"),
    [
        (png_16_bit(1), ["16 bits per sample became 8", "grey became RGB"], None),
        (png_16_bit(3), ["16 bits per sample became 8"], None),
        (png_16_bit(4), ["16 bits per sample became 8"], None),
        (encode(RGB.convert("CMYK"), "JPEG"), ["CMYK became RGB"], 6),
        (encode(RGB.convert("L"), "JPEG"), ["grey became RGB"], None),
        (encode(RGB.convert("L"), "PNG", icc_profile=OTHER_PROFILE), ["grey became RGB", NO_PROFILE], None),
        (encode(RGB.convert("LA"), "PNG"), ["grey became RGB"], None),
        (encode(RGB.convert("P"), "PNG"), ["a palette of colours became RGB"], 6),
        (encode(RGB.convert("1"), "PNG"), ["black and white became RGB"], None),
        (encode(RGB.convert("RGBA"), "PNG"), [], 0),
        (encode(RGB, "TIFF", **PAGES), ["only the first of 2 pictures in the file was used"], 0),
        (encode(RGB, "MPO", **PAGES), ["only the first of 2 pictures in the file was used"], 5),
        (png_with_text(), ["the result has no XMP data of the target", "the result has no text notes"], 0),
        (encode(RGB, "JPEG", quality=100, progressive=True), [], 4),
        (encode(RGB, "TIFF"), [], 0),
        (encode(RGB, "GIF"), ["a palette of colours became RGB"], 6),
    ],
    ids=range(16),
)
def test_every_format_becomes_bgr_and_losses_are_reported(
    data: bytes, losses: list[str], tolerance: float | None
) -> None:
    still = read_still(data)
    assert list(still.losses) == losses
    assert (still.bgr.shape, still.bgr.dtype) == ((40, 60, 3), np.uint8)
    assert tolerance is None or mean_difference(still.bgr, quadrants()) <= tolerance


def test_16_and_10_bit_pictures_keep_their_brightness() -> None:
    image = read_image(png_16_bit(1))
    assert np.abs(image[..., 0] - np.arange(2400).reshape(40, 60) * 27 / 257).max() <= 0.51
    heif = pytest.importorskip("pillow_heif")
    memory = io.BytesIO()
    heif.from_bytes("RGB;16", (64, 64), np.full((64, 64, 3), 40_000, np.uint16).tobytes()).save(memory)
    assert read_still(memory.getvalue()).losses == ("10 bits per sample became 8",)


def test_jpeg_decodes_as_in_opencv_and_keeps_its_subsampling() -> None:
    noise = cv2.GaussianBlur(np.random.default_rng(3).integers(0, 255, (301, 203, 3), np.uint8), (0, 0), 2)
    image = Image.fromarray(np.ascontiguousarray(noise[..., ::-1]))
    for quality, subsampling in ((95, 0), (90, 1), (80, 2)):
        data = encode(image, "JPEG", quality=quality, subsampling=subsampling)
        assert np.array_equal(read_image(data), cv2.imdecode(np.frombuffer(data, np.uint8), 1))
        again = encode_still(read_still(data), Path("a.jpg"), quality=60)
        assert JpegImagePlugin.get_sampling(Image.open(io.BytesIO(again))) == subsampling
        assert len(again) < len(data)
    lossless = encode_still(read_still(encode(image, "WEBP", lossless=True)), Path("a.webp"), quality=60)
    assert np.array_equal(read_image(lossless), noise)


def test_data_urls_are_read() -> None:
    url = to_data_url(quadrants(), "png")
    head, body = url.split(",")
    assert head == "data:image/png;base64"
    wrapped = "\n".join(body[start : start + 76] for start in range(0, len(body), 76))
    for variant in (url, f"{head},{wrapped}", f"data:image/png;charset=utf-8;base64,{body}"):
        assert np.array_equal(read_image(variant), quadrants())
    with pytest.raises(MediaError, match="base64"):
        read_image("data:image/png;base64,@@@")


def test_arrays_are_read() -> None:
    source = quadrants()
    grey = source[..., 0]
    assert np.array_equal(read_image(grey), np.dstack([grey] * 3))
    read_image(source)[:] = 0
    assert source.any()
    assert np.array_equal(read_image(source[::-1]), source[::-1])
    image = np.dstack([source, np.full((40, 60), 255, np.uint8)])
    image[:20, :30, 3], image[:20, 30:, 3] = 0, 128
    flat = read_image(image)
    assert flat[[5, 5, 30], [5, 50, 5]].tolist() == [[255, 255, 255], [127, 255, 127], [255, 0, 0]]
    for shape in ((4,), (4, 4, 2), (4, 4, 5), (0, 4, 3), (2, 4, 4, 3)):
        with pytest.raises(MediaError, match="not a picture"):
            read_image(np.zeros(shape, np.uint8))
    with pytest.raises(MediaError, match="int64"):
        read_image(np.zeros((4, 4, 3), np.int64))


def test_too_large_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_image(tmp_path / "a.png", quadrants())
    monkeypatch.setattr(image_sources, "MAX_BYTES", 10)
    for source in (path, path.read_bytes()):
        with pytest.raises(MediaError, match="too large"):
            read_image(source)


def test_error_for_unreadable_picture_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        read_image(tmp_path / "none.png")
    path = tmp_path / "a.png"
    cut = encode(RGB, "PNG")[:33]
    for data, words in ((b"", "empty"), (b"BM12", "not a picture"), (cut, "not a picture")):
        path.write_bytes(data)
        with pytest.raises(MediaError, match=rf"{path}.*{words}"):
            read_image(path)


def test_unwritable_paths_and_formats_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    wide = np.zeros((4, 20_000, 3), np.uint8)
    for path, image, words in (
        (tmp_path / "a.gif", quadrants(), r"\.gif.*use one of \.png"),
        (tmp_path / "a", quadrants(), "without suffix"),
        (tmp_path / "file" / "a.png", quadrants(), "cannot be written"),
        (Path("/proc/a.png"), quadrants(), "cannot be written"),
        (tmp_path / "a.webp", wide, "webp"),
    ):
        with pytest.raises(OutputError, match=words):
            write_image(path, image)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("colab_helpers.files.os.fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write_image(tmp_path / "a.png", quadrants())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
