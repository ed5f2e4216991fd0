"""A synthetic clip as hard to encode as filmed material, and the plain transcode to compare runs with."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt

RATE = 24
_BLOCK = 6.0
"""Seconds that are encoded; longer clips repeat this block."""


def make_clip(path: Path, *, seconds: float, height: int = 1080) -> None:
    """Write a 16:9 clip at 24 frames/s; the bit rate at 1080p is about 3 Mbit/s.

    It shows a pan over a picture with the spectrum of natural scenes (amplitude falls with frequency),
    independently moving patches, and film grain.
    """
    if seconds > _BLOCK:
        block = path.with_stem(f"{path.stem}-block")
        make_clip(block, seconds=_BLOCK, height=height)
        _repeat(block, path, times=round(seconds / _BLOCK))
        return
    rng, width = np.random.default_rng(1), height * 16 // 9
    scene = _natural_noise(rng, width + 800, height + 400)
    patches = [_natural_noise(rng, 240, 200) for _ in range(8)]
    grain = rng.normal(0, 3, (height + 64, width + 64, 1)).astype(np.int16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = 3_000_000 * height**2 // 1080**2
        stream.options = {"preset": "veryfast"}
        for index in range(round(seconds * RATE)):
            x, y = int(200 + 200 * np.sin(index / 40)), int(100 + 100 * np.cos(index / 50))
            frame = scene[y : y + height, x : x + width].copy()
            for number, patch in enumerate(patches):
                left = int((number * 211 + index * (3 + number)) % (width - 240))
                top = int((height - 280) / 2 * (1 + np.sin(number + index / (20 + 3 * number)) * 0.95))
                frame[top : top + 200, left : left + 240] = patch
            dy, dx = rng.integers(0, 64, 2)
            noisy = np.clip(frame + grain[dy : dy + height, dx : dx + width], 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noisy, format="bgr24")))
        container.mux(stream.encode(None))


def _natural_noise(rng: np.random.Generator, width: int, height: int) -> npt.NDArray[np.uint8]:
    """Return noise of eight octaves ``(height, width, 3)``, each twice as strong as the next finer one."""
    total = np.full((height, width, 3), 128, np.float32)
    for octave in range(8):
        size = (max(2, width >> octave), max(2, height >> octave))
        layer = rng.normal(0, 1.6 * 2**octave, (size[1], size[0], 3)).astype(np.float32)
        total += cv2.resize(layer, (width, height), interpolation=cv2.INTER_CUBIC) * 0.6
    return np.clip(total, 0, 255).astype(np.uint8)


def _repeat(block: Path, path: Path, *, times: int) -> None:
    """Repeat a clip by stream copy."""
    with av.open(str(path), "w") as writer, av.open(str(block)) as first:
        source: Any = first.streams.video[0]
        stream, step = writer.add_stream_from_template(source), round(_BLOCK / source.time_base)
        for number in range(times):
            with av.open(str(block)) as reader:
                packet: Any
                for packet in reader.demux(video=0):
                    if packet.dts is not None:
                        packet.pts, packet.dts = packet.pts + number * step, packet.dts + number * step
                        packet.stream = stream
                        writer.mux(packet)


def transcode(source: str, output: str, preset: str, quality: str) -> None:
    """Transcode with PyAV; with an empty preset only decode."""
    with av.open(source) as reader:
        video = reader.streams.video[0]
        video.thread_type = "AUTO"
        frames = reader.decode(video)
        if not preset:
            deque(frames, maxlen=0)
            return
        with av.open(output, "w") as writer:
            stream = writer.add_stream("libx264", rate=video.average_rate)
            stream.width, stream.height, stream.pix_fmt = video.width, video.height, "yuv420p"
            stream.options = {"preset": preset, "crf": quality}
            stream.thread_type = "AUTO"
            for frame in frames:
                writer.mux(stream.encode(frame))
            writer.mux(stream.encode(None))
