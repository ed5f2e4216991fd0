"""Single pictures in and out: files, bytes, data URLs, arrays. Pillow reads and writes all of them.

Pixels are 8-bit BGR as a viewer shows them: upright, other colour models turned into RGB. RGB colours stay in
the space of the picture's own profile, which goes along into the result; `Still` holds what else belongs to a
picture, and names what was lost.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Literal

import cv2
import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageCms, ImageOps, JpegImagePlugin, UnidentifiedImageError, features
from PIL.PngImagePlugin import PngInfo

from colab_helpers.errors import ColabHelpersError, MediaError, OutputError
from colab_helpers.language import mark, tr
from colab_helpers.media.names import hidden_name
from colab_helpers.media.picture import over_white
from colab_helpers.media.probe import IMAGE_KINDS, SHOWN, WRONG_SUFFIX, existing_file, foreign_kind

ByteImage = npt.NDArray[np.uint8]
ImageFormat = Literal["png", "jpeg", "webp"]

MAX_PIXELS = 178_000_000
"""Largest picture taken, by its header, before anything is decoded: guards against decompression bombs.

Pillow itself refuses a little more than this.
"""

MAX_BYTES = 1 << 29
"""Largest picture file taken."""

# Between half of its limit and the limit Pillow warns.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_DATA_URL = re.compile(r"data:[^,]*;base64,(?P<body>.*)", re.DOTALL | re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{64,}={0,2}\s*")
_XMP_KEY, _XMP_TAG = "XML:com.adobe.xmp", 700
# What a result keeps of the first EXIF directory: what is said of the picture, not how its file is laid out.
# The directory with the thumbnail is left out: it shows the old face.
_EXIF_TAGS = (
    "ImageDescription", "Make", "Model", "Software", "DateTime", "Artist", "HostComputer", "Copyright",
    "Rating", "XPTitle", "XPComment", "XPAuthor", "XPKeywords", "XPSubject",
)  # fmt: skip
_EXIF_DIRECTORIES = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
_JPEG_EXIF_ROOM = 65_000

_NAMES = {
    "alpha": mark("transparency"),
    "exif": mark("EXIF data"),
    "icc_profile": mark("colour profile"),
    "xmp": mark("XMP data"),
    "text": mark("text notes"),
    "comment": mark("comment"),
}
# What each format has room for.
_HOLDS = {
    "PNG": {"alpha", "exif", "icc_profile", "xmp", "text", "dpi"},
    "JPEG": {"exif", "icc_profile", "xmp", "comment", "dpi"},
    "WEBP": {"alpha", "exif", "icc_profile", "xmp"},
    "TIFF": {"alpha", "exif", "icc_profile", "xmp", "dpi"},
    "BMP": {"dpi"},
    "AVIF": {"alpha", "exif", "icc_profile", "xmp"},
    "HEIF": {"alpha", "exif", "icc_profile", "xmp"},
}
_LOSSY = {"JPEG", "WEBP", "AVIF", "HEIF"}
# Level 1 is as small as OpenCV's PNG and six times faster than Pillow's usual one.
_OPTIONS: dict[str, dict[str, Any]] = {
    "PNG": {"compress_level": 1},
    "TIFF": {"compression": "tiff_adobe_deflate"},
    "WEBP": {"exact": True},
}
_MODES = {
    "1": mark("black and white"),
    "L": mark("grey"),
    "LA": mark("grey"),
    "P": mark("a palette of colours"),
    "PA": mark("a palette of colours"),
    "CMYK": "CMYK",
    "YCbCr": "YCbCr",
    "LAB": "CIE Lab",
}


@dataclass(frozen=True, eq=False)
class Still:
    """A picture with what belongs to it beside its colours.

    Attributes:
        bgr: ``(H, W, 3)`` uint8, upright; under transparency as the file has them, not blended.
        alpha: ``(H, W)`` uint8, 255 is opaque; None where everything is.
        parts: What its file says of it, by Pillow's name: ``exif``, ``icc_profile``, ``xmp``, ``text``,
            ``comment``, ``dpi``.
        kind: Pillow's name of its file's format; empty for bare pixels.
        options: How that format had stored it: ``subsampling`` of a JPEG, whether a WebP is ``lossless``.
        losses: What could not be kept in reading it, one sentence each.
    """

    bgr: ByteImage
    alpha: ByteImage | None = None
    parts: Mapping[str, Any] = field(default_factory=dict)
    kind: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    losses: tuple[str, ...] = ()

    def losses_in(self, path: Path) -> list[str]:
        """What the format of a file has no room for, one sentence each."""
        kind = IMAGE_KINDS[path.suffix.lower()]
        held = _held(self, kind)
        missing = [name for name in self.parts if name in _NAMES and name not in held]
        notes = [
            tr("{kind} holds no {part}: it was left out", kind=kind, part=tr(_NAMES[name]))
            for name in missing
        ]
        if self.alpha is not None and "alpha" not in _HOLDS[kind]:
            notes.append(tr("{kind} holds no transparency: it was filled with white", kind=kind))
        return notes


def read_image(source: str | Path | bytes | npt.NDArray[Any]) -> ByteImage:
    """Read a picture from wherever it is, transparency blended over white.

    Args:
        source: A path, the bytes of a PNG, JPEG, WebP, BMP, TIFF, GIF, AVIF or HEIC file (its first picture),
            the same as base64 text or as a ``data:`` URL, or an array: grey ``(H, W)``, BGR ``(H, W, 3)`` or
            BGRA ``(H, W, 4)``, uint8, uint16, or float from 0 to 1.

    Returns:
        ``(H, W, 3)`` uint8 BGR, contiguous, owned by the caller.

    Raises:
        MissingFileError: There is no such file.
        MediaError: It is no picture, damaged, or larger than `MAX_PIXELS` or `MAX_BYTES`.
    """
    if isinstance(source, np.ndarray):
        return _of_array(source)
    still = read_still(source)
    return still.bgr if still.alpha is None else over_white(still.bgr, still.alpha)


def read_still(source: str | Path | bytes) -> Still:
    """Read a picture with everything that belongs to it; see `read_image`."""
    with opened(source) as (image, data):
        return _still(image, data)


def write_image(path: str | Path, bgr: ByteImage, *, quality: int = 95) -> Path:
    """Write bare pixels; see `write_still`."""
    return write_still(path, Still(bgr), quality=quality)


def write_still(path: str | Path, still: Still, *, quality: int = 95) -> Path:
    """Write a picture, complete or not at all; missing folders are made. See `encode_still`.

    Returns:
        The absolute path.
    """
    path = Path(path).absolute()
    publish(path, io.BytesIO(encode_still(still, path, quality=quality)))
    return path


def encode_still(still: Still, path: Path, *, quality: int = 95) -> bytes:
    """The bytes of a picture's file.

    Args:
        still: What `Still.losses_in` names is left out.
        path: Where it will lie; the suffix names the format.
        quality: 1 to 100 for formats that lose detail, higher is better.

    Raises:
        OutputError: The suffix is not written here, or the format holds no picture of this size.
    """
    if not is_written(path.suffix):
        raise OutputError(
            tr("pictures cannot be written as {suffix}", suffix=path.suffix)
            if path.suffix
            else tr("pictures cannot be written as a file without suffix"),
            where=str(path),
            remedy=tr("use one of {names}", names=", ".join(filter(is_written, IMAGE_KINDS))),
        )
    return _encode(still, IMAGE_KINDS[path.suffix.lower()], quality)


def is_written(suffix: str) -> bool:
    """Whether pictures can be written with this suffix on this machine."""
    kind = IMAGE_KINDS.get(suffix.lower())
    return kind in readable_formats() and (kind != "HEIF" or _writes_heif())


def encode_image(bgr: ByteImage, kind: ImageFormat = "png", *, quality: int = 95) -> bytes:
    """The bytes of a picture file.

    Args:
        bgr: ``(H, W, 3)`` uint8.
        kind: ``png``, ``jpeg`` or ``webp``.
        quality: 1 to 100 for JPEG and WebP.

    Raises:
        OutputError: The format cannot hold a picture of this size.
    """
    return _encode(Still(bgr), kind.upper(), quality)


def to_data_url(bgr: ByteImage, kind: ImageFormat = "png", *, quality: int = 95) -> str:
    """A picture as ``data:image/…;base64,…`` text, for web pages and JSON."""
    body = base64.b64encode(encode_image(bgr, kind, quality=quality)).decode("ascii")
    return f"data:image/{kind};base64,{body}"


def publish(path: Path, content: BinaryIO) -> None:
    """Copy a finished file to its place, complete or not at all; missing folders are made.

    Raises:
        OutputError: It cannot be written there.
    """
    partial = hidden_name(path)
    content.seek(0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            shutil.copyfileobj(content, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        if partial.parent.is_dir():
            partial.unlink(missing_ok=True)
        raise OutputError(
            tr("the picture cannot be written ({reason})", reason=error.strerror),
            where=str(path),
            remedy=tr("check the folder, your rights and the free space"),
        ) from error


@contextmanager
def opened(source: str | Path | bytes) -> Iterator[tuple[Image.Image, bytes]]:
    """Open a picture file: Pillow's image, not decoded yet, and the file's bytes.

    Raises:
        MissingFileError: There is no such file.
        MediaError: It is no picture or too large; or, where it is raised in the block, damaged.
    """
    data, where = _bytes_of(source)
    try:
        with Image.open(io.BytesIO(data), formats=readable_formats()) as image:
            if image.width * image.height > MAX_PIXELS:
                raise _too_large(tr("{width}x{height} pixels", width=image.width, height=image.height), where)
            yield image, data
    except (ColabHelpersError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(tr("more than {most} million pixels", most=MAX_PIXELS // 10**6), where) from error
    except UnidentifiedImageError as error:
        kind, remedy = foreign_kind(data[:SHOWN])
        # What should be a picture, but is none, is damaged.
        raise (_unreadable(where) if remedy == WRONG_SUFFIX else _unreadable(where, kind, remedy)) from error
    except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them stumble over
        raise _unreadable(where) from error


def pixels_of(image: Image.Image) -> tuple[ByteImage, ByteImage | None]:
    """The BGR and alpha planes of Pillow's RGB or RGBA image; no alpha where everything is opaque."""
    samples = np.asarray(image, np.uint8)
    bgr = np.asarray(cv2.cvtColor(samples[..., :3], cv2.COLOR_RGB2BGR), np.uint8)
    alpha = np.ascontiguousarray(samples[..., 3]) if samples.shape[2] == 4 else None
    return bgr, alpha if alpha is not None and alpha.min() < 255 else None


# --- reading ------------------------------------------------------------------------------------------


@cache
def readable_formats() -> tuple[str, ...]:
    """Formats that can be read: never those that run programs or name other files (EPS, …)."""
    names = ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"]
    names += ["AVIF"] if features.check("avif") else []
    try:
        import pillow_heif
    except ImportError:
        return tuple(names)
    pillow_heif.register_heif_opener()
    return (*names, "HEIF")


@cache
def _writes_heif() -> bool:
    import pillow_heif

    return bool(pillow_heif.libheif_info()["HEIF"])


def _bytes_of(source: str | Path | bytes) -> tuple[bytes, str]:
    """A picture file's bytes, and what to call it."""
    if isinstance(source, bytes | bytearray | memoryview):
        data, where = bytes(source), "bytes"
    elif isinstance(source, str) and (decoded := _from_text(source)) is not None:
        data, where = decoded, tr("base64 text")
    else:
        path = existing_file(source)
        if path.stat().st_size > MAX_BYTES:
            raise _too_large(tr("{size} bytes", size=path.stat().st_size), str(path))
        data, where = path.read_bytes(), str(path)
    if len(data) > MAX_BYTES:
        raise _too_large(tr("{size} bytes", size=len(data)), where)
    return data, where


def _from_text(text: str) -> bytes | None:
    """The bytes behind a data URL or base64 text; None if the text is a path."""
    url = _DATA_URL.fullmatch(text.strip())
    if url is None and (text.startswith("data:") or not _BASE64.fullmatch(text)):
        return None
    try:
        data = base64.b64decode("".join((url["body"] if url else text).split()), validate=True)
    except binascii.Error as error:
        if url is None:
            return None
        raise MediaError(tr("the data URL is not valid base64"), where=text[:40]) from error
    return data if url or _is_picture(data) else None


def _is_picture(data: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(data), formats=readable_formats()):
            return True
    except Exception:  # noqa: BLE001 - whatever it is, it is no picture
        return False


def _still(image: Image.Image, data: bytes) -> Still:
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    losses = reading_losses(image, data)
    if (pages := getattr(image, "n_frames", 1)) > 1:
        losses.append(tr("the first of {pages} pictures in the file was taken", pages=pages))
    image.load()
    subsampling = JpegImagePlugin.get_sampling(image) if kind == "JPEG" else -1
    options = {"subsampling": subsampling} if subsampling >= 0 else {}
    options |= {"lossless": True} if kind == "WEBP" and b"VP8L" in data else {}
    stored, image = image, _upright(image)
    parts = _parts(stored, image)
    rgb, profile = _in_rgb(image)
    if "icc_profile" in parts and not profile:
        del parts["icc_profile"]
        losses.append(tr("its colour profile is not one of RGB: the result has none and is sRGB"))
    bgr, alpha = pixels_of(rgb)
    return Still(bgr, alpha, parts, kind, options, tuple(losses))


def reading_losses(image: Image.Image, data: bytes) -> list[str]:
    """What 8-bit RGB cannot keep of a picture, as far as a decoder that is not begun yet tells."""
    bits = 32 if image.mode in ("I", "F") else 8
    if ";16" in f"{image.mode}{getattr(image, 'tile', '')}":
        bits = 16
    box = data.find(b"pixi", 0, 1 << 16)  # ISO/IEC 23008-12, 6.5.6: type, flags, channels, bits of each
    if image.format in ("AVIF", "HEIF") and 0 < box < len(data) - 9:
        bits = data[box + 9]
    mode = _MODES.get("L" if image.mode[0] in "IF" else image.mode)
    return [
        *([tr("{bits} bits per sample became 8", bits=bits)] if bits > 8 else []),
        *([tr("{mode} became RGB", mode=tr(mode))] if mode else []),
    ]


def _upright(image: Image.Image) -> Image.Image:
    """A damaged EXIF block never makes a good picture unreadable: it counts as upright."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # noqa: BLE001 - see above
        return image


def _parts(stored: Image.Image, upright: Image.Image) -> dict[str, Any]:
    """What the file says of its picture, for `Still.parts`; XMP, too, may say how it is turned."""
    found = {name: upright.info.get(name) for name in ("icc_profile", "xmp", "comment")}
    texts = {key: str(text) for key, text in getattr(stored, "text", {}).items() if key != _XMP_KEY}
    found |= {"exif": _exif(stored), "text": texts, "dpi": _dpi(stored)}
    return {name: value for name, value in found.items() if value}


def _exif(image: Image.Image) -> bytes:
    """EXIF data that fits the upright picture; empty where there is none or it is damaged."""
    try:
        before, kept = image.getexif(), Image.Exif()
        for name in _EXIF_TAGS:
            tag = getattr(ExifTags.Base, name)
            if tag in before:
                kept[tag] = before[tag]
        for directory in _EXIF_DIRECTORIES:
            kept.get_ifd(directory).update(before.get_ifd(directory))
        return kept.tobytes() if len(kept) or any(map(kept.get_ifd, _EXIF_DIRECTORIES)) else b""
    except Exception:  # noqa: BLE001 - what cannot be read cannot be kept
        return b""


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    try:
        x, y = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if 1 < x < 1 << 16 and 1 < y < 1 << 16 else None


def _in_rgb(image: Image.Image) -> tuple[Image.Image, bool]:
    """The picture in RGB or RGBA, and whether its colour profile, if it has one, still holds."""
    if image.mode[0] in "IF":  # I;16, I, F: grey of more than 8 bits
        return Image.fromarray(_to_bytes(np.asarray(image), "")).convert("RGB"), False
    space = _profile_space(image)
    if space in ("CMYK", "GRAY", "LAB") and image.mode in ("CMYK", "L", "LAB"):
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
            done = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if done is not None:
                return done, False
        except ImageCms.PyCMSError:
            pass
    rgb = image.convert("RGBA" if image.has_transparency_data else "RGB")
    return rgb, space == "RGB" and image.mode not in ("CMYK", "LAB")


def _profile_space(image: Image.Image) -> str:
    """Colour space of its ICC profile, such as ``RGB`` or ``CMYK``; empty if there is none to be read."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        return str(profile.profile.xcolor_space).strip()
    except (KeyError, OSError, ImageCms.PyCMSError):
        return ""


def _of_array(image: npt.NDArray[Any]) -> ByteImage:
    """8-bit BGR of any array that is a picture; always a new array."""
    if image.ndim not in (2, 3) or not image.size or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
        raise MediaError(tr("an array of shape {shape} is no picture", shape=image.shape), where="array")
    flat = _to_bytes(image, "array").reshape(*image.shape[:2], -1)
    if flat.shape[2] == 4:
        return over_white(flat[..., :3], flat[..., 3])
    return np.ascontiguousarray(np.repeat(flat, 3, axis=2) if flat.shape[2] == 1 else flat).copy()


def _to_bytes(image: npt.NDArray[Any], where: str) -> ByteImage:
    if image.dtype == np.uint8:
        return image
    if image.dtype.kind == "u" and image.dtype.itemsize == 2:
        # 65535 = 255 * 257: exact at both ends.
        return np.asarray((image.astype(np.uint32) + 128) // 257, np.uint8)
    if image.dtype.kind == "f":
        return np.asarray(np.clip(np.nan_to_num(image), 0, 1) * 255 + 0.5, np.uint8)
    raise MediaError(
        tr("samples of type {kind} are not supported", kind=image.dtype), where=where, remedy=tr("use uint8")
    )


def _too_large(what: str, where: str) -> MediaError:
    return MediaError(
        tr("the picture is too large ({what})", what=what), where=where, remedy=tr("scale it down first")
    )


def _unreadable(where: str, kind: str = "", remedy: str = "") -> MediaError:
    return MediaError(
        tr("this is not a picture that can be read ({kind})", kind=tr(kind))
        if kind
        else tr("this is not a picture that can be read, or it is damaged"),
        where=where,
        remedy=tr(remedy) or tr("open it in an image program and save it as PNG or JPEG"),
    )


# --- writing ------------------------------------------------------------------------------------------


def _held(still: Still, kind: str) -> dict[str, Any]:
    """Those of its parts that a format has room for."""
    held = {name: part for name, part in still.parts.items() if name in _HOLDS[kind]}
    if kind == "JPEG" and len(held.get("exif", b"")) > _JPEG_EXIF_ROOM:
        del held["exif"]
    return held


def _encode(still: Still, kind: str, quality: int) -> bytes:
    bgr, parts = still.bgr, _held(still, kind)
    if still.alpha is not None and "alpha" not in _HOLDS[kind]:
        bgr = over_white(bgr, still.alpha)
    image = Image.fromarray(np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8))
    if still.alpha is not None and "alpha" in _HOLDS[kind]:
        image.putalpha(Image.fromarray(still.alpha))
    options: dict[str, Any] = {"quality": quality} if kind in _LOSSY else {}
    options |= _OPTIONS.get(kind, {})
    options |= still.options if still.kind == kind else {}
    if kind == "PNG":
        parts["pnginfo"] = _png_texts(parts.pop("text", {}), parts.pop("xmp", b""))
    if kind == "TIFF" and "exif" in parts:
        options["compression"] = "raw"  # libtiff, which compresses, writes no EXIF directory
    if kind == "TIFF" and "xmp" in parts:
        parts["tiffinfo"] = {_XMP_TAG: parts.pop("xmp")}
    memory = io.BytesIO()
    try:
        image.save(memory, kind, **options, **parts)
    except (OSError, ValueError, OverflowError, RuntimeError) as error:
        reason = str(error) or type(error).__name__
        raise OutputError(
            tr("the picture cannot be stored as {kind} ({reason})", kind=kind.lower(), reason=reason),
            remedy=tr("use png"),
        ) from error
    return memory.getvalue()


def _png_texts(texts: Mapping[str, str], xmp: bytes) -> PngInfo:
    info = PngInfo()
    for key, text in texts.items():
        info.add_itxt(key, text)
    if xmp:
        info.add_itxt(_XMP_KEY, xmp.decode(errors="replace") if isinstance(xmp, bytes) else xmp)
    return info
