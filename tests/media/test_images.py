from __future__ import annotations

import base64
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, ImageFile, JpegImagePlugin
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
    """BGR: red, green / blue, white, so that every turn and flip shows."""
    image = np.zeros((height, width, 3), np.uint8)
    half, middle = height // 2, width // 2
    image[:half, :middle] = (0, 0, 255)
    image[:half, middle:] = (0, 255, 0)
    image[half:, :middle] = (255, 0, 0)
    image[half:, middle:] = (255, 255, 255)
    return image


def pillow(image: Image.Image, kind: str, **options: Any) -> bytes:
    memory = io.BytesIO()
    image.save(memory, kind, **options)
    return memory.getvalue()


def rgb(image: Bytes) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(image[..., ::-1]))


def with_orientation(image: Bytes, kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    extra = {"quality": 100} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    return pillow(rgb(image), kind, exif=exif.tobytes(), **extra)


# What a viewer does to the stored picture, by EXIF orientation.
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
@pytest.mark.parametrize("orientation", TURNS)
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    image = read_image(with_orientation(quadrants(), kind, orientation))
    expected = TURNS[orientation](quadrants())
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).mean() < (4 if kind == "JPEG" else 0.5)
    assert image.flags.c_contiguous


WRITTEN = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".heic")
LOSSLESS = (".png", ".bmp", ".tif", ".tiff")


def needs(suffix: str) -> None:
    if suffix == ".heic":
        pytest.importorskip("pillow_heif")


@pytest.mark.parametrize("suffix", WRITTEN)
def test_written_pictures_read_back(tmp_path: Path, suffix: str) -> None:
    needs(suffix)
    path = write_image(tmp_path / "new" / f"a{suffix}", quadrants(), quality=100)
    image = read_image(path)
    assert np.abs(image.astype(int) - quadrants()).mean() < (0.01 if suffix in LOSSLESS else 4)
    assert [one.name for one in path.parent.iterdir()] == [f"a{suffix}"]
    assert np.array_equal(read_image(str(path)), image)
    assert np.array_equal(read_image(path.read_bytes()), image)


def described() -> dict[str, Any]:
    """EXIF with a date, a turn and a thumbnail, a colour profile and XMP, as Pillow saves them."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Make] = 6, "Camera"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2020:01:02 03:04:05"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSAltitude] = 7.0
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return {"exif": exif, "icc_profile": profile, "dpi": (72, 72)}


@pytest.mark.parametrize("suffix", [one for one in WRITTEN if one != ".bmp"])
def test_a_picture_keeps_what_its_file_says_of_it(tmp_path: Path, suffix: str) -> None:
    needs(suffix)
    parts = described()
    still = read_still(pillow(rgb(quadrants()), "JPEG", quality=100, **parts))
    path = write_still(tmp_path / f"a{suffix}", still)
    assert still.losses_in(path) == []
    with Image.open(path) as image:
        exif = image.getexif()
        assert image.size == (40, 60)
        assert exif.get(ExifTags.Base.Orientation, 1) == 1
        assert exif[ExifTags.Base.Make] == "Camera"
        assert exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] == "2020:01:02 03:04:05"
        assert exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSAltitude] == 7.0
        assert image.info["icc_profile"] == parts["icc_profile"]
    assert np.abs(read_image(path).astype(int) - TURNS[6](quadrants())).mean() < 6


def test_other_words_about_a_picture_are_kept_or_said_to_be_lost(tmp_path: Path) -> None:
    words = PngInfo()
    words.add_text("Author", "Ana")
    words.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta/>")
    still = read_still(pillow(rgb(quadrants()), "PNG", pnginfo=words))
    with Image.open(write_still(tmp_path / "a.png", still)) as image:
        image.load()
        assert image.text["Author"] == "Ana"
        assert image.info["xmp"] == b"<x:xmpmeta/>"
    with Image.open(write_still(tmp_path / "a.tif", still)) as image:
        assert image.info["xmp"] == b"<x:xmpmeta/>"
    assert still.losses_in(tmp_path / "a.jpg") == ["JPEG holds no text notes: it was left out"]
    assert still.losses_in(tmp_path / "a.bmp") == [
        "BMP holds no XMP data: it was left out",
        "BMP holds no text notes: it was left out",
    ]


def test_the_thumbnail_with_the_old_face_does_not_come_along() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Camera"
    exif.get_ifd(ExifTags.IFD.IFD1).update({0x0201: 8, 0x0202: 4, 0x0103: 6})
    still = read_still(pillow(rgb(quadrants()), "JPEG", exif=exif))
    kept = Image.Exif()
    kept.load(still.parts["exif"])
    assert kept[ExifTags.Base.Make] == "Camera"
    assert not kept.get_ifd(ExifTags.IFD.IFD1)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".avif", ".heic"])
def test_transparency_is_kept(tmp_path: Path, suffix: str) -> None:
    needs(suffix)
    alpha = np.tile(np.linspace(0, 255, 60).astype(np.uint8), (40, 1))
    picture = Image.fromarray(np.dstack([quadrants()[..., ::-1], alpha]))
    still = read_still(pillow(picture, "PNG"))
    path = write_still(tmp_path / f"a{suffix}", still, quality=100)
    again = read_still(path)
    assert again.alpha is not None
    assert np.abs(again.alpha.astype(int) - alpha).max() <= (0 if suffix != ".heic" else 2)
    assert np.abs(again.bgr[:, 30:].astype(int) - quadrants()[:, 30:]).mean() < 3
    assert still.losses_in(path) == []
    white = write_still(tmp_path / "a.jpg", still, quality=100)
    assert still.losses_in(white) == ["JPEG holds no transparency: it was filled with white"]
    assert np.abs(read_image(white).astype(int) - read_image(pillow(picture, "PNG"))).mean() < 4


def sixteen(channels: int) -> bytes:
    deep = (np.arange(2400, dtype=np.uint16) * 27).reshape(40, 60)
    return cv2.imencode(".png", deep if channels == 1 else np.dstack([deep] * channels))[1].tobytes()


def pages() -> bytes:
    return pillow(rgb(quadrants()), "TIFF", save_all=True, append_images=[rgb(quadrants())] * 2)


def phone() -> bytes:
    return pillow(rgb(quadrants()), "MPO", save_all=True, append_images=[rgb(quadrants())])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (sixteen(1), ["16 bits per sample became 8", "grey became RGB"]),
        (sixteen(3), ["16 bits per sample became 8"]),
        (sixteen(4), ["16 bits per sample became 8"]),
        (pillow(rgb(quadrants()).convert("CMYK"), "JPEG"), ["CMYK became RGB"]),
        (pillow(rgb(quadrants()).convert("L"), "JPEG"), ["grey became RGB"]),
        (pillow(rgb(quadrants()).convert("LA"), "PNG"), ["grey became RGB"]),
        (pillow(rgb(quadrants()).convert("P"), "PNG"), ["a palette of colours became RGB"]),
        (pillow(rgb(quadrants()).convert("1"), "PNG"), ["black and white became RGB"]),
        (pages(), ["the first of 3 pictures in the file was taken"]),
        (phone(), ["the first of 2 pictures in the file was taken"]),
        (pillow(rgb(quadrants()), "JPEG"), []),
        (pillow(rgb(quadrants()), "TIFF"), []),
    ],
)
def test_what_is_lost_in_reading_is_said(data: bytes, said: list[str]) -> None:
    assert list(read_still(data).losses) == said


def test_a_deep_heic_photo_is_said_to_lose_depth() -> None:
    heif = pytest.importorskip("pillow_heif")
    memory = io.BytesIO()
    deep = np.full((64, 64, 3), 40_000, np.uint16)
    heif.from_bytes("RGB;16", (64, 64), deep.tobytes()).save(memory)
    assert read_still(memory.getvalue()).losses == ("10 bits per sample became 8",)


def test_a_profile_of_another_colour_model_is_applied_and_left_out() -> None:
    grey = rgb(quadrants()).convert("L")
    dark = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    still = read_still(pillow(grey, "PNG", icc_profile=dark))
    assert "icc_profile" not in still.parts
    assert any("colour profile" in loss for loss in still.losses)


def test_a_jpeg_has_the_samples_that_opencv_decodes() -> None:
    noise = cv2.GaussianBlur(np.random.default_rng(3).integers(0, 255, (301, 203, 3), np.uint8), (0, 0), 2)
    for quality, subsampling in ((95, 0), (90, 1), (80, 2)):
        data = pillow(rgb(noise), "JPEG", quality=quality, subsampling=subsampling)
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(read_image(data), decoded)
        # And keeps its chroma, and a lossless WebP its samples.
        assert JpegImagePlugin.get_sampling(Image.open(io.BytesIO(_stored(data, ".jpg")))) == subsampling
    lossless = pillow(rgb(noise), "WEBP", lossless=True)
    assert np.array_equal(read_image(_stored(lossless, ".webp")), noise)


def _stored(data: bytes, suffix: str) -> bytes:
    return encode_still(read_still(data), Path(f"a{suffix}"), quality=60)


def test_quality_changes_the_size() -> None:
    noise = np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for kind in ("jpeg", "webp"):
        fine, coarse = (to_data_url(noise, kind, quality=quality) for quality in (95, 20))
        assert len(fine) > len(coarse)


def test_text_forms() -> None:
    url = to_data_url(quadrants(), "png")
    assert url.startswith("data:image/png;base64,")
    assert np.array_equal(read_image(url), quadrants())
    body = url.split(",")[1]
    assert np.array_equal(read_image(body), quadrants())
    wrapped = "\n".join(body[start : start + 76] for start in range(0, len(body), 76))
    assert np.array_equal(read_image(wrapped), quadrants())
    assert np.array_equal(read_image(f"data:image/png;charset=utf-8;base64,{body}"), quadrants())


def test_a_long_path_is_not_taken_for_base64(tmp_path: Path) -> None:
    folder = tmp_path / ("a" * 40) / ("b" * 40)
    path = write_image(folder / "c.png", quadrants())
    bare = path.rename(path.with_suffix(""))
    assert np.array_equal(read_image(str(bare)), quadrants())


def test_arrays() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(read_image(grey), np.dstack([grey] * 3))
    deep = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    assert np.array_equal(read_image(deep), np.dstack([grey] * 3))
    assert np.array_equal(read_image(np.dstack([grey] * 3) / 255), np.dstack([grey] * 3))
    source = quadrants()
    copy = read_image(source)
    copy[:] = 0
    assert source.any()
    assert np.array_equal(read_image(source[::-1]), source[::-1])


def test_transparency_goes_over_white() -> None:
    image = np.dstack([quadrants(), np.full((40, 60), 255, np.uint8)])
    image[:20, :30, 3] = 0
    image[:20, 30:, 3] = 128
    for form in (image, pillow(Image.fromarray(image[..., [2, 1, 0, 3]]), "PNG")):
        flat = read_image(form)
        assert flat[5, 5].tolist() == [255, 255, 255]
        assert flat[5, 50].tolist() == [127, 255, 127]
        assert flat[30, 5].tolist() == [255, 0, 0]


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "CMYK"])
def test_every_mode_becomes_bgr(mode: str) -> None:
    image = read_image(pillow(rgb(quadrants()).convert(mode), "JPEG" if mode == "CMYK" else "PNG"))
    assert (image.shape, image.dtype) == ((40, 60, 3), np.uint8)
    if mode in ("P", "RGBA", "CMYK"):
        assert np.abs(image.astype(int) - quadrants()).mean() < 6


def test_deep_grey_and_other_files_become_bgr() -> None:
    expected = np.arange(2400).reshape(40, 60) * 27 / 257
    assert np.abs(read_image(sixteen(1))[..., 0] - expected).max() <= 0.51
    for kind, options in (("GIF", {}), ("JPEG", {"quality": 100, "progressive": True})):
        image = read_image(pillow(rgb(quadrants()), kind, **options))
        assert np.abs(image.astype(int) - quadrants()).mean() < 4


def png_bomb(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1 << 16), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_arguments: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", never)
    with pytest.raises(MediaError, match="too large"):
        read_image(png_bomb(60_000, 60_000))


def test_a_huge_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_image(tmp_path / "a.png", quadrants())
    monkeypatch.setattr(image_sources, "MAX_BYTES", 10)
    with pytest.raises(MediaError, match="too large"):
        read_image(path)
    with pytest.raises(MediaError, match="too large"):
        read_image(path.read_bytes())


def test_bad_pictures_are_named(tmp_path: Path) -> None:
    good = pillow(rgb(quadrants()), "PNG")
    bad = {
        "text": b"hello " * 20,
        "cut": good[:30],
        "no pixels": good[:33],
        "jpeg start": b"\xff\xd8\xff\xe0",
        "webp start": b"RIFF\x10\0\0\0WEBPVP8 ",
        "tiff start": b"II*\0\xff\xff\xff\xff",
        "bmp start": b"BM12",
    }
    for name, data in bad.items():
        path = tmp_path / f"{name}.png"
        path.write_bytes(data)
        with pytest.raises(MediaError, match="not a picture") as caught:
            read_image(path)
        assert str(path) in str(caught.value)


def test_no_file_or_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        read_image(tmp_path / "none.png")
    with pytest.raises(MissingFileError):
        read_image("data.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(MediaError, match="empty"):
        read_image(tmp_path / "empty.png")
    with pytest.raises(MediaError, match="folder"):
        read_image(tmp_path)
    with pytest.raises(MediaError, match="base64"):
        read_image("data:image/png;base64,@@@")
    for nothing in (b"", base64.b64encode(bytes(range(90))).decode()):
        with pytest.raises(MediaError, match="not a picture"):
            read_image(nothing)


@pytest.mark.parametrize("shape", [(4,), (4, 4, 2), (4, 4, 5), (0, 4, 3), (2, 4, 4, 3)])
def test_arrays_that_are_no_pictures(shape: tuple[int, ...]) -> None:
    with pytest.raises(MediaError, match="no picture"):
        read_image(np.zeros(shape, np.uint8))
    with pytest.raises(MediaError, match="int64"):
        read_image(np.zeros((4, 4, 3), np.int64))


def test_places_and_formats_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"\.gif.*use one of \.png"):
        write_image(tmp_path / "a.gif", quadrants())
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        write_image(tmp_path / "file" / "a.png", quadrants())
    with pytest.raises(OutputError, match="cannot be written"):
        write_image("/proc/a.png", quadrants())
    with pytest.raises(OutputError, match="webp"):
        write_image(tmp_path / "a.webp", np.zeros((4, 20_000, 3), np.uint8))
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("colab_helpers.files.os.fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write_image(tmp_path / "a.png", quadrants())
    assert list(tmp_path.iterdir()) == []
