"""What a reader shows of a video, to the sample."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from typing import Any

import av
import numpy as np

from colab_helpers.media.reader import FrameReader
from tests.media.make import samples

Shown = tuple[int, int, Fraction, int, bytes]


def shown(reader: FrameReader) -> list[Shown]:
    """Number, pts, time base, duration and samples of every frame."""
    with reader:
        return [
            (frame.index, frame.pts, frame.time_base, frame.duration, content(frame.video))
            for frame in reader
        ]


def content(video: av.VideoFrame) -> bytes:
    digest = hashlib.sha256(video.format.name.encode())
    for plane in video.planes:
        digest.update(np.ascontiguousarray(samples(plane)))
    return digest.digest()


def x264(gop: int, bframes: int = 0, *, pyramid: str = "none", open_gop: bool = False, more: str = "") -> Any:
    """Options that give exactly this structure, whatever the pictures."""
    rest = f"b-adapt=0:b-pyramid={pyramid}:open-gop={open_gop:d}:keyint={gop}:min-keyint=1:scenecut=0{more}"
    return {"preset": "ultrafast", "crf": "20", "bf": str(bframes), "x264-params": rest}


OPEN = x264(12, 3, pyramid="normal", open_gop=True)
