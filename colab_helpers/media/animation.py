"""Animated GIF, WebP and PNG, frame by frame, each with its time and transparency.

Pillow reads them. FFmpeg writes them, as it takes frame after frame and keeps none.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO, Self, cast

import av
import cv2
import numpy as np
from av.filter import Graph
from av.video.stream import VideoStream
from PIL import Image

from colab_helpers.errors import OutputError
from colab_helpers.language import tr
from colab_helpers.media.images import Still, is_written, opened, reading_losses, split_alpha

ANIMATION_KINDS = {".gif": "GIF", ".webp": "WEBP", ".png": "PNG", ".apng": "PNG"}
"""Suffixes animations are read and written with, and Pillow's name of each format."""

# FFmpeg's muxer and encoder of each, the pixel format it takes, and its ticks a second. GIF's tick is a
# hundredth (GIF89a, graphic control extension).
_FORMATS = {
    "GIF": ("gif", "gif", "pal8", 100),
    "PNG": ("apng", "apng", "rgba", 1000),
    "WEBP": ("webp", "libwebp_anim", "bgra", 1000),
}
# What every viewer takes for a frame without a time.
_UNTIMED = 100


@dataclass(frozen=True, eq=False)
class Animation:
    """An animated picture file, whole and readable to its last frame."""

    path: Path  # the file
    kind: str  # Pillow's name of its format
    size: tuple[int, int]  # width and height in pixels
    durations: tuple[float, ...]  # milliseconds each frame is shown
    plays: int  # how often it is shown; 0 is for ever
    # ``full``, ``masked`` where pixels are either opaque or not seen, ``partial`` where some are in between.
    opacity: str
    lossless: bool  # whether its format keeps every sample
    losses: tuple[str, ...]  # what reading leaves out, one sentence each

    @classmethod
    def of(cls, path: Path) -> Self | None:
        """Look through a picture file; return None if it holds a single picture, or pages.

        MissingFileError where there is none; MediaError where it is no picture, damaged or too large.
        """
        with opened(path) as (image, data):
            kind = str(image.format)
            moving = getattr(image, "is_animated", False) and kind in ANIMATION_KINDS.values()
            if not moving and path.suffix.lower() != ".gif":
                return None
            losses = reading_losses(image, data) if kind != "GIF" else []
            if {"icc_profile", "exif", "xmp"} & image.info.keys():
                losses.append(tr("an animation keeps no EXIF data, XMP data or colour profile"))
            if image.info.get("default_image"):
                losses.append(tr("the still picture for viewers without animation was left out"))
            looked = [
                (float(image.info.get("duration", 0)) or _UNTIMED, _opacity(rgba)) for rgba in _frames(image)
            ]
            found = {opacity for _, opacity in looked}
            return cls(
                path=path,
                kind=kind,
                size=image.size,
                durations=tuple(duration for duration, _ in looked),
                plays=_plays(image),
                opacity=next(level for level in ("partial", "masked", "full") if level in found),
                lossless=kind != "WEBP" or b"VP8L" in data,
                losses=tuple(losses),
            )

    def frames(self) -> Iterator[Still]:
        """Yield every frame as it is shown, composed of those before it; MediaError if it cannot be read."""
        with opened(self.path) as (image, _):
            for rgba in _frames(image):
                yield Still(*split_alpha(rgba))

    def losses_as(self, kind: str) -> list[str]:
        """Return what this format cannot hold of it, one sentence each."""
        if kind != "GIF":
            return []
        notes = [] if self.kind == "GIF" else [tr("GIF holds 256 colours a frame: others were approached")]
        if self.opacity == "partial":
            notes.append(tr("GIF holds no half transparency: such pixels became opaque or invisible"))
        if any(duration % 10 for duration in self.durations):
            notes.append(tr("GIF stores times in hundredths of a second: time stamps were rounded to them"))
        return notes


class AnimationWriter:
    """Writes an animation, frame by frame, to a temporary file; a context manager.

    It gets the times, plays and transparency of its ``source``; as WebP, unless that is lossless, a
    ``quality`` from 1 to 100.
    """

    def __init__(self, kind: str, source: Animation, *, quality: int) -> None:
        self._kind, self._source = kind, source
        muxer, codec, self._pix_fmt, ticks = _FORMATS[kind]
        self._times = [0]
        for end in accumulate(source.durations):
            self._times.append(max(self._times[-1] + 1, round(end * ticks / 1000)))
        self._written = 0
        self._palette: Graph | None = None
        # A temporary file without a name is gone with its last handle, whatever happens.
        self._file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._output = av.open(self._file, "w", format=muxer, options=self._muxer_options())
        options = {"lossless": str(int(source.lossless)), "quality": str(quality)} if kind == "WEBP" else {}
        self._stream = cast(VideoStream, self._output.add_stream(codec, rate=10, options=options))
        context = self._stream.codec_context
        context.width, context.height, context.pix_fmt = *source.size, self._pix_fmt
        self._stream.time_base = context.time_base = Fraction(1, ticks)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, still: Still) -> None:
        """Append a frame of the source's size; OutputError where the format cannot hold that."""
        alpha = still.alpha if still.alpha is not None else np.full(still.bgr.shape[:2], 255, np.uint8)
        bgra = np.asarray(cv2.merge([still.bgr, alpha]), np.uint8)
        frame = av.VideoFrame.from_ndarray(bgra, format="bgra")
        self._encode(self._paletted(frame) if self._kind == "GIF" else frame.reformat(format=self._pix_fmt))

    def finish(self) -> BinaryIO:
        """Return the complete file, to be read from its start before this writer is left."""
        self._encode(None)
        self._output.close()
        if self._kind == "WEBP":
            _time_last_frame(self._file, self._times[-1])
        self._file.seek(0)
        return self._file

    def _encode(self, frame: av.VideoFrame | None) -> None:
        if frame is not None:
            begin, end = self._times[self._written : self._written + 2]
            frame.pts, frame.time_base, frame.duration = begin, self._stream.time_base, end - begin
            self._written += 1
        try:
            self._output.mux(self._stream.encode(frame))
        except (av.FFmpegError, ValueError) as error:
            width, height = self._source.size
            raise OutputError(
                tr(
                    "an animation of {width}x{height} pixels cannot be stored as {kind} ({reason})",
                    width=width, height=height, kind=self._kind, reason=error,
                ),
                remedy=tr("scale it down first"),
            ) from error  # fmt: skip

    def _paletted(self, frame: av.VideoFrame) -> av.VideoFrame:
        if self._palette is None:
            self._palette = _palette_graph(frame, transparent=self._source.opacity != "full")
        self._palette.vpush(frame)
        return self._palette.vpull()

    def _muxer_options(self) -> dict[str, str]:
        """How often it is shown, and for how long its last frame."""
        plays, last = self._source.plays, self._times[-1] - self._times[-2]
        if self._kind == "PNG":
            return {"plays": str(plays), "final_delay": f"{last}/1000"}
        if self._kind == "WEBP":
            return {"loop": str(plays)}
        # GIF counts how often it begins again; -1 is never.
        return {"loop": str({0: 0, 1: -1}.get(plays, plays - 1)), "final_delay": str(last)}


def picture_suffix(path: Path) -> str:
    """Return the suffix of a picture's result: its own where that can be written, else ``.png``."""
    own = path.suffix.lower()
    return own if own in ANIMATION_KINDS or is_written(own) else ".png"


def _frames(image: Image.Image) -> Iterator[Image.Image]:
    """Each frame as RGBA; ``image`` stands at it meanwhile."""
    # The first picture of an animated PNG may be one for viewers that show no animation.
    for number in range(1 if image.info.get("default_image") else 0, getattr(image, "n_frames", 1)):
        image.seek(number)
        yield image.convert("RGBA")


def _opacity(rgba: Image.Image) -> str:
    levels = rgba.getchannel("A").histogram()
    return "partial" if any(levels[1:255]) else "masked" if levels[0] else "full"


def _plays(image: Image.Image) -> int:
    """GIF counts how often it begins again, and says nothing where it never does."""
    loop = image.info.get("loop")
    if image.format != "GIF":
        return int(loop or 0)
    return 1 if loop is None else loop + 1 if loop else 0


def _palette_graph(video: av.VideoFrame, *, transparent: bool) -> Graph:
    """Make the best 256 colours of each frame and dither into them."""
    graph = Graph()
    source = graph.add_buffer(
        width=video.width, height=video.height, format=video.format, time_base=Fraction(1, 100)
    )
    split = graph.add("split")
    palette = graph.add("palettegen", f"stats_mode=single:reserve_transparent={int(transparent)}")
    use = graph.add("paletteuse", "new=1:dither=sierra2_4a")
    source.link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(palette, 1, 0)
    palette.link_to(use, 0, 1)
    use.link_to(graph.add("buffersink"))
    graph.configure()
    return graph


def _time_last_frame(file: BinaryIO, total: int) -> None:
    """Give the last frame of a WebP what the others leave of the length (FFmpeg never tells libwebp its end).

    RFC 9649, 2.7: chunks of type, length and padded content; an ANMF's bytes 12 to 14 are its milliseconds.
    """
    file.seek(12)
    place, used = 0, 0
    while len(head := file.read(8)) == 8:
        start, length = file.tell(), int.from_bytes(head[4:], "little")
        if head[:4] == b"ANMF":
            if place:
                file.seek(place)
                used += int.from_bytes(file.read(3), "little")
            place = start + 12
        file.seek(start + length + length % 2)
    if place:
        file.seek(place)
        file.write(min(max(1, total - used), (1 << 24) - 1).to_bytes(3, "little"))
