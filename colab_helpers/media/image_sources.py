"""Accept an image as a path, bytes, a data URL or an array."""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from colab_helpers.errors import MediaError
from colab_helpers.language import tr
from colab_helpers.media.blending import over_white
from colab_helpers.media.formats import ByteImage
from colab_helpers.media.inputs import require_file

MAX_BYTES = 1 << 29
"""Largest image file accepted."""

_DATA_URL = re.compile(r"data:[^,]*;base64,(?P<body>.*)", re.DOTALL | re.IGNORECASE)


def read_image_bytes(source: str | Path | bytes) -> tuple[bytes, str]:
    """Return an image file's bytes, and its name for messages.

    Raise MissingFileError if there is no such file, MediaError if it cannot be read or is too large.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        data, where = bytes(source), "bytes"
    elif isinstance(source, str) and (url := _DATA_URL.fullmatch(source.strip())):
        where = tr("base64 text")
        try:
            data = base64.b64decode("".join(url["body"].split()), validate=True)
        except binascii.Error as error:
            raise MediaError(tr("the data URL is not valid base64"), where=source[:40]) from error
    else:
        path = require_file(source)
        where = str(path)
        if path.stat().st_size > MAX_BYTES:
            raise too_large_error(tr("{size} bytes", size=path.stat().st_size), where)
        data = path.read_bytes()
    if len(data) > MAX_BYTES:
        raise too_large_error(tr("{size} bytes", size=len(data)), where)
    return data, where


def bgr_from_array(image: npt.NDArray[Any]) -> ByteImage:
    """Return a new BGR array from a grey, BGR or BGRA uint8 array; raise MediaError if it is no image."""
    if image.ndim not in (2, 3) or not image.size or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
        raise MediaError(tr("an array of shape {shape} is not a picture", shape=image.shape), where="array")
    if image.dtype != np.uint8:
        what = tr("samples of type {kind} are not supported", kind=image.dtype)
        raise MediaError(what, where="array", remedy=tr("use uint8"))
    samples = image.reshape(*image.shape[:2], -1)
    if samples.shape[2] == 4:
        return over_white(samples[..., :3], samples[..., 3])
    return np.ascontiguousarray(np.repeat(samples, 3, axis=2) if samples.shape[2] == 1 else samples).copy()


def too_large_error(what: str, where: str) -> MediaError:
    """Return the error for an image that is too large; ``what`` is its size."""
    what = tr("the picture is too large ({what})", what=what)
    return MediaError(what, where=where, remedy=tr("scale it down first"))
