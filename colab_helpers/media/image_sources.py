"""What a picture may be given as: a path, bytes, base64 text, a data URL, or an array."""

from __future__ import annotations

import base64
import binascii
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from colab_helpers.errors import MediaError
from colab_helpers.language import tr
from colab_helpers.media.blending import over_white
from colab_helpers.media.formats import ByteImage
from colab_helpers.media.inputs import existing_file

MAX_BYTES = 1 << 29
"""Largest picture file taken."""

_DATA_URL = re.compile(r"data:[^,]*;base64,(?P<body>.*)", re.DOTALL | re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{64,}={0,2}\s*")


def bytes_of(source: str | Path | bytes) -> tuple[bytes, str]:
    """Return a picture file's bytes, and what to call it.

    Raises:
        MissingFileError: There is no such file.
        MediaError: It cannot be read, or is too large.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        data, where = bytes(source), "bytes"
    elif isinstance(source, str) and (decoded := _from_text(source)) is not None:
        data, where = decoded, tr("base64 text")
    else:
        path = existing_file(source)
        if path.stat().st_size > MAX_BYTES:
            raise too_large(tr("{size} bytes", size=path.stat().st_size), str(path))
        data, where = path.read_bytes(), str(path)
    if len(data) > MAX_BYTES:
        raise too_large(tr("{size} bytes", size=len(data)), where)
    return data, where


def of_array(image: npt.NDArray[Any]) -> ByteImage:
    """Return 8-bit BGR of any array that is a picture; always a new array.

    Raises:
        MediaError: It is none.
    """
    if image.ndim not in (2, 3) or not image.size or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
        raise MediaError(tr("an array of shape {shape} is no picture", shape=image.shape), where="array")
    flat = to_bytes(image, "array").reshape(*image.shape[:2], -1)
    if flat.shape[2] == 4:
        return over_white(flat[..., :3], flat[..., 3])
    return np.ascontiguousarray(np.repeat(flat, 3, axis=2) if flat.shape[2] == 1 else flat).copy()


def to_bytes(image: npt.NDArray[Any], where: str) -> ByteImage:
    """Return samples of 8 or 16 bits, or from 0.0 to 1.0, as 8 bits.

    Raises:
        MediaError: They are of another type.
    """
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


def too_large(what: str, where: str) -> MediaError:
    """Return the error to raise for a picture that is too large."""
    return MediaError(
        tr("the picture is too large ({what})", what=what), where=where, remedy=tr("scale it down first")
    )


def _from_text(text: str) -> bytes | None:
    """The bytes behind a data URL or base64 text; None if the text is a path."""
    url = _DATA_URL.fullmatch(text.strip())
    # A file of such a name is that file.
    if url is None and (not _BASE64.fullmatch(text) or os.path.lexists(text)):
        return None
    try:
        return base64.b64decode("".join((url["body"] if url else text).split()), validate=True)
    except binascii.Error as error:
        if url is None:
            return None
        raise MediaError(tr("the data URL is not valid base64"), where=text[:40]) from error
