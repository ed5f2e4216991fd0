"""Read and write animated GIF, WebP and PNG frame by frame, with durations and transparency.

Pillow reads them; FFmpeg writes them, since it encodes frame by frame without keeping all in memory.
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
from colab_helpers.language import mark, tr
from colab_helpers.media.images import Still, is_writable, open_image, reading_losses, split_alpha

ANIMATION_KINDS = {".gif": "GIF", ".webp": "WEBP", ".png": "PNG", ".apng": "PNG"}
"""Suffixes of animations that can be read and written, with Pillow's format names."""

# FFmpeg muxer, encoder, pixel format and ticks per second (100 for GIF: GIF89a, graphic control extension).
_FORMATS = {
    "GIF": ("gif", "gif", "pal8", 100),
    "PNG": ("apng", "apng", "rgba", 1000),
    "WEBP": ("webp", "libwebp_anim", "bgra", 1000),
}
# Milliseconds for which viewers show a frame that has no duration.
_DEFAULT_DURATION = 100


@dataclass(frozen=True, eq=False)
class Animation:
    """An animated image file, found to be readable to its last frame."""

    path: Path
    kind: str  # Pillow's format name
    size: tuple[int, int]  # width and height in pixels
    durations: tuple[float, ...]  # milliseconds per frame
    plays: int  # how often it is played; 0 for endlessly
    opacity: str  # ``full``, ``masked`` (pixels are fully opaque or fully transparent) or ``partial``
    lossless: bool  # whether the file is compressed losslessly
    losses: tuple[str, ...]  # what reading drops, one sentence each

    @classmethod
    def of(cls, path: Path) -> Self | None:
        """Read the properties of an animation; return None if the file holds a still image or pages.

        Raise MissingFileError if there is no such file, MediaError if it is no image, damaged or too large.
        """
        with open_image(path) as (image, data):
            kind = str(image.format)
            is_animated = getattr(image, "is_animated", False) and kind in ANIMATION_KINDS.values()
            if not is_animated and path.suffix.lower() != ".gif":
                return None
            losses = reading_losses(image, data) if kind != "GIF" else []
            if {"icc_profile", "exif", "xmp"} & image.info.keys():
                losses.append(tr("an animation keeps no EXIF data, XMP data or colour profile"))
            if image.info.get("default_image"):
                losses.append(tr("the still picture for viewers without animation was left out"))
            durations: list[float] = []
            opacities = set()
            for rgba in _frames(image):
                durations.append(float(image.info.get("duration", 0)) or _DEFAULT_DURATION)
                opacities.add(_opacity(rgba))
            return cls(
                path=path,
                kind=kind,
                size=image.size,
                durations=tuple(durations),
                plays=_plays(image),
                opacity=next(level for level in ("partial", "masked", "full") if level in opacities),
                lossless=kind != "WEBP" or b"VP8L" in data,
                losses=tuple(losses),
            )

    def frames(self) -> Iterator[Still]:
        """Yield every frame composed as it is shown; raise MediaError if it cannot be read."""
        with open_image(self.path) as (image, _):
            for rgba in _frames(image):
                yield Still(*split_alpha(rgba))

    def losses_as(self, kind: str) -> list[str]:
        """Return what is lost when it is written in this format, one sentence each."""
        if kind != "GIF":
            return []
        notes = [] if self.kind == "GIF" else [tr("GIF has 256 colours per frame: others were approximated")]
        if self.opacity == "partial":
            notes.append(tr("GIF has no partial transparency: such pixels became opaque or invisible"))
        if any(duration % 10 for duration in self.durations):
            notes.append(tr("GIF stores times in hundredths of a second: durations were rounded"))
        return notes


class AnimationWriter:
    """Writes an animation frame by frame to a temporary file; a context manager.

    Durations, play count and transparency are those of ``source``; ``quality``, 1 to 100, is used for WebP
    unless the source is lossless.
    """

    def __init__(self, kind: str, source: Animation, *, quality: int) -> None:
        self._kind, self._source = kind, source
        muxer, codec, self._pix_fmt, ticks = _FORMATS[kind]
        self._times = [0]
        for end in accumulate(source.durations):
            self._times.append(max(self._times[-1] + 1, round(end * ticks / 1000)))
        self._written = 0
        self._palette: Graph | None = None
        # An unnamed temporary file disappears with its last handle, even after a crash.
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
        """Append a frame of the source's size; raise OutputError if the format cannot hold it."""
        alpha = still.alpha if still.alpha is not None else np.full(still.bgr.shape[:2], 255, np.uint8)
        bgra = np.asarray(cv2.merge([still.bgr, alpha]), np.uint8)
        frame = av.VideoFrame.from_ndarray(bgra, format="bgra")
        self._encode(self._to_palette(frame) if self._kind == "GIF" else frame.reformat(format=self._pix_fmt))

    def finish(self) -> BinaryIO:
        """Return the complete file, positioned at its start; it is closed when the writer exits."""
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
            refused = mark("an animation of {width}x{height} pixels cannot be stored as {kind} ({reason})")
            what = tr(refused, width=width, height=height, kind=self._kind, reason=error)
            raise OutputError(what, remedy=tr("scale it down first")) from error

    def _to_palette(self, frame: av.VideoFrame) -> av.VideoFrame:
        if self._palette is None:
            self._palette = _palette_graph(frame, transparent=self._source.opacity != "full")
        self._palette.vpush(frame)
        return self._palette.vpull()

    def _muxer_options(self) -> dict[str, str]:
        """Return the options for the play count and the last frame's duration."""
        plays, last = self._source.plays, self._times[-1] - self._times[-2]
        if self._kind == "PNG":
            return {"plays": str(plays), "final_delay": f"{last}/1000"}
        if self._kind == "WEBP":
            return {"loop": str(plays)}
        # GIF counts repetitions; -1 means none.
        return {"loop": str({0: 0, 1: -1}.get(plays, plays - 1)), "final_delay": str(last)}


def picture_suffix(path: Path) -> str:
    """Return the suffix of an image's result: its own if that can be written, else ``.png``."""
    suffix = path.suffix.lower()
    return suffix if suffix in ANIMATION_KINDS or is_writable(suffix) else ".png"


def _frames(image: Image.Image) -> Iterator[Image.Image]:
    """Yield each frame as RGBA, with ``image`` positioned at it."""
    # The first image of an animated PNG may be a still one, for viewers without animation.
    for number in range(1 if image.info.get("default_image") else 0, getattr(image, "n_frames", 1)):
        image.seek(number)
        yield image.convert("RGBA")


def _opacity(rgba: Image.Image) -> str:
    levels = rgba.getchannel("A").histogram()
    return "partial" if any(levels[1:255]) else "masked" if levels[0] else "full"


def _plays(image: Image.Image) -> int:
    """Return the play count; GIF stores the number of repetitions, and nothing if there are none."""
    loop = image.info.get("loop")
    if image.format != "GIF":
        return int(loop or 0)
    return 1 if loop is None else loop + 1 if loop else 0


def _palette_graph(video: av.VideoFrame, *, transparent: bool) -> Graph:
    """Return a filter graph that dithers each frame to the best 256 colours of its own."""
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
    """Set a WebP's last duration to ``total`` less the others', since FFmpeg does not pass it to libwebp.

    RFC 9649, 2.7: chunks of type, length and padded content; bytes 12 to 14 of an ANMF are its milliseconds.
    """
    file.seek(12)
    position, used = 0, 0
    while len(head := file.read(8)) == 8:
        start, length = file.tell(), int.from_bytes(head[4:], "little")
        if head[:4] == b"ANMF":
            if position:
                file.seek(position)
                used += int.from_bytes(file.read(3), "little")
            position = start + 12
        file.seek(start + length + length % 2)
    if position:
        file.seek(position)
        file.write(min(max(1, total - used), (1 << 24) - 1).to_bytes(3, "little"))
