"""Single pictures in and out: files, bytes, data URLs, arrays.

Everything becomes 8-bit BGR as a viewer shows it: EXIF orientation applied, transparency over white,
deeper samples scaled to 8 bits.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from colab_helpers.errors import ColabHelpersError, MediaError, OutputError
from colab_helpers.media.probe import existing_file

ByteImage = npt.NDArray[np.uint8]
ImageFormat = Literal["png", "jpeg", "webp"]

MAX_PIXELS = 178_956_970
"""Largest picture taken (two thirds of a gigabyte as BGR floats); guards against decompression bombs."""

MAX_BYTES = 512 * 1024 * 1024
"""Largest picture file taken."""

_FORMATS: dict[str, ImageFormat] = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
_DATA_URL = re.compile(r"data:(?P<type>[\w/+.-]*)(?:;[\w=.+-]+)*;base64,(?P<body>.*)", re.DOTALL | re.IGNORECASE)
_WHITE = 255
