"""Single pictures in and out: files, bytes, data URLs, arrays.

Everything becomes 8-bit BGR as a viewer shows it: EXIF orientation applied, transparency composited over
white, deeper samples scaled to 8 bits. Colour profiles are not applied and not kept.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from colab_helpers.errors import MediaError, OutputError
from colab_helpers.language import tr
from colab_helpers.media.names import hidden_name
from colab_helpers.media.probe import SHOWN, existing_file, foreign_kind

ByteImage = npt.NDArray[np.uint8]
ImageFormat = Literal["png", "jpeg", "webp"]

MAX_PIXELS = 200_000_000
"""Largest picture taken, by its header, before anything is decoded: guards against decompression bombs."""

MAX_BYTES = 1 << 29
"""Largest picture file taken."""

_SUFFIXES: dict[str, ImageFormat] = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
WRITTEN_SUFFIXES = frozenset(_SUFFIXES)
"""Suffixes of the formats pictures are written in."""
_DATA_URL = re.compile(r"data:[^,]*;base64,(?P<body>.*)", re.DOTALL | re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{64,}={0,2}\s*")
_ORIENTATION_TAG, _WIDTH_TAG, _HEIGHT_TAG = 0x0112, 0x0100, 0x0101
_WHITE = 255

# EXIF 2.32, 4.6.4: how to turn the stored picture into the shown one.
_UPRIGHT: dict[int, Callable[[ByteImage], Any]] = {
    2: lambda image: cv2.flip(image, 1),
    3: lambda image: cv2.rotate(image, cv2.ROTATE_180),
    4: lambda image: cv2.flip(image, 0),
    5: cv2.transpose,
    6: lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
    7: lambda image: cv2.flip(cv2.transpose(image), -1),
    8: lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


def read_image(source: str | Path | bytes | npt.NDArray[Any]) -> ByteImage:
    """Reads a picture from wherever it is.

    Args:
        source: A path, the bytes of a PNG, JPEG, WebP, BMP, TIFF or GIF file (its first picture), the
            same as base64 text or as a ``data:`` URL, or an array: grey ``(H, W)``, BGR ``(H, W, 3)`` or
            BGRA ``(H, W, 4)``, uint8, uint16, or float from 0 to 1.

    Returns:
        ``(H, W, 3)`` uint8 BGR, contiguous, owned by the caller.

    Raises:
        MissingFileError: There is no such file.
        MediaError: It is no picture, damaged, or larger than `MAX_PIXELS` or `MAX_BYTES`.
    """
    if isinstance(source, np.ndarray):
        return _to_bgr(source, where="array")
    if isinstance(source, bytes | bytearray | memoryview):
        return _decode(bytes(source), where="bytes")
    if isinstance(source, str) and (data := _from_text(source)) is not None:
        return _decode(data, where=tr("base64 text"))
    path = existing_file(source)
    if path.stat().st_size > MAX_BYTES:
        raise _too_large(tr("{size} bytes", size=path.stat().st_size), str(path))
    return _decode(path.read_bytes(), where=str(path))


def write_image(path: str | Path, bgr: ByteImage, *, quality: int = 95) -> Path:
    """Writes a PNG, JPEG or WebP, complete or not at all.

    Args:
        path: The file; its suffix (.png, .jpg, .jpeg, .webp) names the format. Missing folders are made.
        bgr: ``(H, W, 3)`` uint8.
        quality: 1 to 100 for JPEG and WebP, higher is better; PNG is lossless.

    Returns:
        The absolute path.

    Raises:
        OutputError: Another suffix, or the place cannot be written.
    """
    path = Path(path).expanduser().absolute()
    kind = _SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise OutputError(
            tr("pictures cannot be written as {suffix}", suffix=path.suffix)
            if path.suffix
            else tr("pictures cannot be written as a file without suffix"),
            where=str(path),
            remedy=tr("use one of {names}", names=", ".join(_SUFFIXES)),
        )
    _write_whole(path, encode_image(bgr, kind, quality=quality))
    return path


def encode_image(bgr: ByteImage, kind: ImageFormat = "png", *, quality: int = 95) -> bytes:
    """The bytes of a picture file.

    Args:
        bgr: ``(H, W, 3)`` uint8.
        kind: ``png``, ``jpeg`` or ``webp``.
        quality: 1 to 100 for JPEG and WebP.

    Raises:
        OutputError: The format cannot hold a picture of this size.
    """
    flag = {"jpeg": cv2.IMWRITE_JPEG_QUALITY, "webp": cv2.IMWRITE_WEBP_QUALITY}.get(kind)
    try:
        done, data = cv2.imencode(f".{kind}", bgr, [flag, quality] if flag is not None else [])
    except cv2.error as error:
        raise OutputError(
            tr("the picture cannot be stored as {kind} ({reason})", kind=kind, reason=error.err)
        ) from error
    if not done:
        raise OutputError(tr("the picture cannot be stored as {kind}", kind=kind), remedy=tr("use png"))
    return data.tobytes()


def to_data_url(bgr: ByteImage, kind: ImageFormat = "png", *, quality: int = 95) -> str:
    """A picture as ``data:image/…;base64,…`` text, for web pages and JSON."""
    body = base64.b64encode(encode_image(bgr, kind, quality=quality)).decode("ascii")
    return f"data:image/{kind};base64,{body}"


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
    return data if url or _kind(data) else None


def _decode(data: bytes, *, where: str) -> ByteImage:
    if len(data) > MAX_BYTES:
        raise _too_large(tr("{size} bytes", size=len(data)), where)
    width, height, orientation = _header(data, where)
    if width * height > MAX_PIXELS:
        raise _too_large(tr("{width}x{height} pixels", width=width, height=height), where)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise _unreadable(where) from error
    if image is None or not image.size:
        raise _unreadable(where)
    upright = _UPRIGHT.get(orientation)
    bgr = _to_bgr(image, where=where)
    return np.ascontiguousarray(upright(bgr)) if upright else bgr


def _to_bgr(image: npt.NDArray[Any], *, where: str) -> ByteImage:
    """8-bit BGR of any array that is a picture; always a new array."""
    if image.ndim not in (2, 3) or not image.size or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
        raise MediaError(tr("an array of shape {shape} is no picture", shape=image.shape), where=where)
    flat = _to_bytes(image, where).reshape(*image.shape[:2], -1)
    if flat.shape[2] == 4:
        return _over_white(flat)
    return np.ascontiguousarray(np.repeat(flat, 3, axis=2) if flat.shape[2] == 1 else flat).copy()


def _to_bytes(image: npt.NDArray[Any], where: str) -> ByteImage:
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.uint16:
        # 65535 = 255 * 257: exact at both ends.
        return np.asarray((image.astype(np.uint32) + 128) // 257, np.uint8)
    if image.dtype.kind == "f":
        return np.asarray(np.clip(np.nan_to_num(image), 0, 1) * 255 + 0.5, np.uint8)
    raise MediaError(
        tr("samples of type {kind} are not supported", kind=image.dtype), where=where, remedy=tr("use uint8")
    )


def _over_white(bgra: ByteImage) -> ByteImage:
    alpha = bgra[..., 3:].astype(np.uint16)
    mixed = bgra[..., :3] * alpha + _WHITE * (255 - alpha)
    return np.asarray((mixed + 127) // 255, np.uint8)


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


def _kind(data: bytes) -> str | None:
    """Format by signature; None if it is none of those read here."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    signatures = {
        b"\x89PNG\r\n\x1a\n": "png",
        b"\xff\xd8\xff": "jpeg",
        b"BM": "bmp",
        b"GIF8": "gif",
        b"II*\0": "tiff",
        b"MM\0*": "tiff",
    }
    return next((kind for start, kind in signatures.items() if data.startswith(start)), None)


def _header(data: bytes, where: str) -> tuple[int, int, int]:
    """Width, height and EXIF orientation, read without decoding."""
    kind = _kind(data)
    if kind is None:
        raise _unreadable(where, *foreign_kind(data[:SHOWN]))
    readers = {
        "png": _png_header,
        "jpeg": _jpeg_header,
        "webp": _webp_header,
        "bmp": _bmp_header,
        "gif": _gif_header,
        "tiff": _tiff_header,
    }
    try:
        return readers[kind](data)
    except (struct.error, IndexError, KeyError) as error:
        raise _unreadable(where) from error


def _png_header(data: bytes) -> tuple[int, int, int]:
    """ISO/IEC 15948: signature, then chunks of length, type, data, checksum; IHDR first."""
    width, height = struct.unpack_from(">II", data, 16)
    position = 8
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"eXIf":
            return width, height, _orientation(data[position + 8 : position + 8 + length])
        position += 12 + length
    return width, height, 1


def _jpeg_header(data: bytes) -> tuple[int, int, int]:
    """ITU-T T.81, B.1: marker segments; the frame header holds the size, APP1 the EXIF block."""
    orientation = 1
    for marker, start, length in _jpeg_segments(data):
        if marker == 0xE1 and data[start : start + 6] == b"Exif\0\0":
            orientation = _orientation(data[start + 6 : start + length])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, start + 1)
            return width, height, orientation
    raise IndexError("no frame header")


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    position = 2
    while position + 4 <= len(data):
        marker, length = struct.unpack_from(">xBH", data, position)
        if data[position] != 0xFF:
            return
        if marker == 0xFF:
            # Fill bytes may stand before a marker.
            position += 1
            continue
        yield marker, position + 4, length - 2
        position += 2 + length


def _webp_header(data: bytes) -> tuple[int, int, int]:
    """RFC 9649: RIFF chunks; VP8X holds the canvas, else VP8 or VP8L the picture's size."""
    size: tuple[int, int] | None = None
    orientation, position = 1, 12
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        body = data[position + 8 : position + 8 + length]
        size = size or _webp_size(kind, body)
        if kind == b"EXIF":
            orientation = _orientation(body.removeprefix(b"Exif\0\0"))
        position += 8 + length + length % 2
    if size is None:
        raise IndexError("no picture chunk")
    return *size, orientation


def _webp_size(kind: bytes, body: bytes) -> tuple[int, int] | None:
    if kind == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", body, 6)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _bmp_header(data: bytes) -> tuple[int, int, int]:
    width, height = struct.unpack_from("<ii", data, 18)
    return abs(width), abs(height), 1


def _gif_header(data: bytes) -> tuple[int, int, int]:
    width, height = struct.unpack_from("<HH", data, 6)
    return width, height, 1


def _tiff_header(data: bytes) -> tuple[int, int, int]:
    """OpenCV turns TIFF pictures upright by itself, whatever flags it is given."""
    tags = _tiff_tags(data)
    return tags[_WIDTH_TAG], tags[_HEIGHT_TAG], 1


def _orientation(exif: bytes) -> int:
    """A damaged EXIF block never makes a good picture unreadable: it counts as upright."""
    try:
        return _tiff_tags(exif).get(_ORIENTATION_TAG, 1)
    except (struct.error, KeyError):
        return 1


def _tiff_tags(data: bytes) -> dict[int, int]:
    """First value of every integer tag in the first directory (TIFF 6.0, section 2)."""
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    tags = {}
    for entry in range(count):
        position = start + 2 + 12 * entry
        tag, kind = struct.unpack_from(f"{order}HH", data, position)
        if kind in (3, 4):
            (tags[tag],) = struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", data, position + 8)
    return tags


def _write_whole(path: Path, data: bytes) -> None:
    partial = hidden_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(data)
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
