"""Animated pictures: GIF, WebP and PNG in and out, frame by frame, each with its time and transparency.

Pillow reads them, composing each frame; FFmpeg writes them, as it takes frame after frame and keeps none.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

import av
import cv2
import numpy as np
from av.container import OutputContainer
from av.filter import Graph
from av.packet import Packet
from av.video.stream import VideoStream
from PIL import Image

from colab_helpers.errors import OutputError
from colab_helpers.language import tr
from colab_helpers.media.images import Still, is_written, opened, pixels_of, reading_losses
from colab_helpers.media.probe import VideoInfo

CENTISECOND = Fraction(1, 100)
"""GIF's tick (GIF89a, graphic control extension)."""

ANIMATION_KINDS = {".gif": "GIF", ".webp": "WEBP", ".png": "PNG", ".apng": "PNG"}
"""Suffixes animations are written with, and Pillow's name of each format."""

_MILLISECOND = Fraction(1, 1000)
# What every viewer takes for a frame without a time.
_UNTIMED = 100
_FORMATS = {"GIF": ("gif", CENTISECOND), "PNG": ("apng", _MILLISECOND), "WEBP": ("webp", _MILLISECOND)}

# Quarter turns clockwise by FFmpeg's transpose filter; GIF has no rotation tag.
_TURNS = {90: ("transpose=clock",), 180: ("hflip", "vflip"), 270: ("transpose=cclock",)}


@dataclass(frozen=True, eq=False)
class Animation:
    """An animated picture file, whole and readable to its last frame.

    Attributes:
        path: The file.
        kind: Pillow's name of its format.
        size: Width and height in pixels.
        durations: Milliseconds each frame is shown.
        plays: How often it is shown; 0 is for ever.
        opacity: ``full``, ``masked`` where pixels are either opaque or not seen, ``partial`` where some are
            in between.
        lossless: Whether its format keeps every sample.
        losses: What reading leaves out, one sentence each.
    """

    path: Path
    kind: str
    size: tuple[int, int]
    durations: tuple[float, ...]
    plays: int
    opacity: str
    lossless: bool
    losses: tuple[str, ...]

    @classmethod
    def of(cls, path: Path) -> Self | None:
        """Look through a picture file; None if it holds a single picture, or pages.

        Raises:
            MissingFileError: There is no such file.
            MediaError: It is no picture, damaged or too large.
        """
        with opened(path) as (image, data):
            kind = str(image.format)
            moving = getattr(image, "is_animated", False) and kind in ("GIF", "WEBP", "PNG", "AVIF")
            if not moving and path.suffix.lower() != ".gif":
                return None
            losses = reading_losses(image, data) if kind != "GIF" else []
            if {"icc_profile", "exif", "xmp"} & image.info.keys():
                losses.append(tr("an animation keeps no EXIF data, XMP data or colour profile"))
            if image.info.get("default_image"):
                losses.append(tr("the still picture for viewers without animation was left out"))
            plays = _plays(image)
            looked = [(_duration(image), _opacity(rgba)) for rgba in _frames(image)]
            found = {opacity for _, opacity in looked}
            return cls(
                path=path,
                kind=kind,
                size=image.size,
                durations=tuple(duration for duration, _ in looked),
                plays=plays,
                opacity=next(level for level in ("partial", "masked", "full") if level in found),
                lossless=kind != "AVIF" and (kind != "WEBP" or b"VP8L" in data),
                losses=tuple(losses),
            )

    def frames(self) -> Iterator[Still]:
        """Every frame as it is shown, composed of those before it.

        Raises:
            MediaError: The file cannot be read any more.
        """
        with opened(self.path) as (image, _):
            for rgba in _frames(image):
                yield Still(*pixels_of(rgba))

    def losses_as(self, kind: str) -> list[str]:
        """What this format cannot hold of it, one sentence each."""
        if kind != "GIF":
            return []
        notes = [] if self.kind == "GIF" else [tr("GIF holds 256 colours a frame: others were approached")]
        if self.opacity == "partial":
            notes.append(tr("GIF holds no half transparency: such pixels became opaque or invisible"))
        if any(duration % 10 for duration in self.durations):
            notes.append(_gif_timing())
        return notes


class AnimationWriter:
    """Writes an animation, frame by frame, to a temporary file; a context manager.

    Args:
        kind: ``GIF``, ``PNG`` or ``WEBP``.
        source: The animation whose times, plays and transparency the result gets.
        quality: 1 to 100 for WebP, unless the source is lossless.

    Raises:
        OutputError: The format cannot hold pictures of this size.
    """

    def __init__(self, kind: str, source: Animation, *, quality: int) -> None:
        self._kind, self._source = kind, source
        name, tick = _FORMATS[kind]
        # A temporary file without a name is gone with its last handle, whatever happens.
        self._file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._output = av.open(self._file, "w", format=name, options=_muxer_options(kind, source))
        self._stamps = [round(ms * _MILLISECOND / tick) for ms in accumulate(source.durations, initial=0)]
        self._tick, self._written = tick, 0
        self._track = _track(self._output, kind, source, quality)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, still: Still) -> None:
        """Append a frame of the source's size."""
        alpha = still.alpha if still.alpha is not None else np.full(still.bgr.shape[:2], 255, np.uint8)
        bgra = np.asarray(cv2.merge([still.bgr, alpha]), np.uint8)
        frame = av.VideoFrame.from_ndarray(bgra, format="bgra")
        begin, end = self._stamps[self._written : self._written + 2]
        frame.pts, frame.time_base, frame.duration = begin, self._tick, end - begin
        self._written += 1
        self._mux(lambda: self._track.encode(frame))

    def finish(self) -> BinaryIO:
        """The complete file, to be read from its start before this writer is left."""
        self._mux(self._track.finish)
        self._output.close()
        if self._kind == "WEBP":
            _time_last_frame(self._file, self._stamps[-1])
        self._file.seek(0)
        return self._file

    def _mux(self, packets: Any) -> None:
        try:
            for packet in packets():
                self._output.mux(packet)
        except (av.FFmpegError, ValueError) as error:
            width, height = self._source.size
            raise OutputError(
                tr(
                    "an animation of {width}x{height} pixels cannot be stored as {kind} ({reason})",
                    width=width, height=height, kind=self._kind, reason=error,
                ),
                remedy=tr("scale it down first"),
            ) from error  # fmt: skip


class GifTrack:
    """Turns pictures into GIF frames; rotated physically, times rounded to hundredths of a second.

    Args:
        output: The file its stream is added to.
        size: Width and height of the result.
        time_base: Seconds per tick of the pictures' stamps and durations.
        rate: Frames per second on average; a hint.
        rotation: Clockwise degrees by which the pictures are turned.
        transparent: Whether one colour of each palette is kept for pixels that are not seen.
    """

    def __init__(
        self,
        output: OutputContainer,
        size: tuple[int, int],
        time_base: Fraction,
        *,
        rate: Fraction | int = 10,
        rotation: int = 0,
        transparent: bool = False,
    ) -> None:
        self._time_base = time_base
        self._rotation, self._transparent = rotation, transparent
        self._last: int | None = None
        self._durations: dict[int, int] = {}
        self._graph: Graph | None = None
        self._stream = _stream(output, "gif", "pal8", size, CENTISECOND, rate=rate)

    @classmethod
    def of_video(cls, output: OutputContainer, info: VideoInfo, time_base: Fraction) -> Self:
        """The track for a video's pictures."""
        rate = info.average_rate or 10
        return cls(output, info.display_size, time_base, rate=rate, rotation=info.rotation)

    @staticmethod
    def losses(info: VideoInfo) -> list[str]:
        """What GIF cannot hold of this source, one sentence each."""
        silent = [tr("GIF holds no sound: {stream} left out", stream=info.audio[0])] if info.audio else []
        exact = (info.time_base / CENTISECOND).denominator == 1
        return [*silent, *([] if exact else [_gif_timing()])]

    def encode(self, video: av.VideoFrame) -> Iterator[Packet[Any]]:
        """Packets that are ready after this picture."""
        if self._graph is None:
            self._graph = _palette_graph(video, self._rotation, self._transparent)
        assert video.pts is not None
        self._graph.vpush(video)
        paletted = self._graph.vpull()
        paletted.pts, paletted.time_base = self._tick(video.pts), CENTISECOND
        self._durations[paletted.pts] = max(1, round(video.duration * self._time_base / CENTISECOND))
        return self._timed(self._stream.encode(paletted))

    def finish(self) -> Iterator[Packet[Any]]:
        """The packets still inside the encoder."""
        return self._timed(self._stream.encode(None))

    def _tick(self, pts: int) -> int:
        """Rising hundredths, also where the source is faster than GIF can be."""
        tick = round(pts * self._time_base / CENTISECOND)
        self._last = tick if self._last is None else max(tick, self._last + 1)
        return self._last

    def _timed(self, packets: list[Packet[Any]]) -> Iterator[Packet[Any]]:
        for packet in packets:
            if packet.pts is not None:
                packet.duration = self._durations.pop(packet.pts, packet.duration)
            yield packet


class _PlainTrack:
    """Frames through an encoder that takes all their colours."""

    def __init__(self, stream: VideoStream) -> None:
        self._stream = stream

    def encode(self, video: av.VideoFrame) -> list[Packet[Any]]:
        converted = video.reformat(format=self._stream.codec_context.pix_fmt)
        converted.pts, converted.time_base, converted.duration = video.pts, video.time_base, video.duration
        return self._stream.encode(converted)

    def finish(self) -> list[Packet[Any]]:
        return self._stream.encode(None)


def _gif_timing() -> str:
    return tr("GIF stores times in hundredths of a second: time stamps were rounded to them")


def picture_suffix(path: Path) -> str:
    """The suffix of a picture's result: its own where that can hold it, else ``.webp`` or ``.png``.

    Raises:
        MissingFileError: There is no such file.
        MediaError: It is no picture, damaged or too large.
    """
    own = path.suffix.lower()
    if own in ANIMATION_KINDS:
        return own
    if Animation.of(path) is not None:
        return ".webp"
    return own if is_written(own) else ".png"


# --- reading ------------------------------------------------------------------------------------------


def _frames(image: Image.Image) -> Iterator[Image.Image]:
    """Each frame as RGBA; ``image`` stands at it meanwhile."""
    # The first picture of an animated PNG may be one for viewers that show no animation.
    for number in range(1 if image.info.get("default_image") else 0, getattr(image, "n_frames", 1)):
        image.seek(number)
        yield image.convert("RGBA")


def _duration(image: Image.Image) -> float:
    return float(image.info.get("duration", 0)) or _UNTIMED


def _opacity(rgba: Image.Image) -> str:
    levels = rgba.getchannel("A").histogram()
    return "partial" if any(levels[1:255]) else "masked" if levels[0] else "full"


def _plays(image: Image.Image) -> int:
    """GIF counts how often it begins again, and says nothing where it never does."""
    loop = image.info.get("loop")
    if image.format != "GIF":
        return int(loop or 0)
    return 1 if loop is None else loop + 1 if loop else 0


# --- writing ------------------------------------------------------------------------------------------


def _muxer_options(kind: str, source: Animation) -> dict[str, str]:
    if kind == "GIF":
        return {"loop": str({0: 0, 1: -1}.get(source.plays, source.plays - 1))}
    if kind == "PNG":
        last = Fraction(round(source.durations[-1]), 1000)
        return {"plays": str(source.plays), "final_delay": f"{last.numerator}/{last.denominator}"}
    return {"loop": str(source.plays)}


def _track(output: OutputContainer, kind: str, source: Animation, quality: int) -> GifTrack | _PlainTrack:
    if kind == "GIF":
        return GifTrack(output, source.size, CENTISECOND, transparent=source.opacity != "full")
    if kind == "PNG":
        pix_fmt = "rgb24" if source.opacity == "full" else "rgba"
        return _PlainTrack(_stream(output, "apng", pix_fmt, source.size, _MILLISECOND))
    options = {"lossless": str(int(source.lossless)), "quality": str(quality)}
    return _PlainTrack(_stream(output, "libwebp_anim", "bgra", source.size, _MILLISECOND, options=options))


def _stream(
    output: OutputContainer,
    codec: str,
    pix_fmt: str,
    size: tuple[int, int],
    time_base: Fraction,
    *,
    rate: Fraction | int = 10,
    options: dict[str, str] | None = None,
) -> VideoStream:
    stream = cast(VideoStream, output.add_stream(codec, rate=rate, options=options or {}))
    context = stream.codec_context
    context.width, context.height, context.pix_fmt = *size, pix_fmt
    stream.time_base = context.time_base = time_base
    return stream


def _time_last_frame(file: BinaryIO, total: int) -> None:
    """Give the last frame of a WebP what the others leave of the length (FFmpeg never tells libwebp its end).

    RFC 9649, 2.7: chunks of type, length and padded content; an ANMF's bytes 12 to 14 are its milliseconds.
    """
    file.seek(12)
    place, used = 0, 0
    while len(head := file.read(8)) == 8:
        start, length = file.tell(), int.from_bytes(head[4:], "little")
        if head[:4] == b"ANMF":
            used += _milliseconds(file, place) if place else 0
            place = start + 12
        file.seek(start + length + length % 2)
    if place:
        file.seek(place)
        file.write(min(max(1, total - used), (1 << 24) - 1).to_bytes(3, "little"))


def _milliseconds(file: BinaryIO, place: int) -> int:
    file.seek(place)
    return int.from_bytes(file.read(3), "little")


def _palette_graph(video: av.VideoFrame, rotation: int, transparent: bool) -> Graph:
    """Turn, then make the best 256 colours of each frame and dither into them."""
    graph = Graph()
    last = graph.add_buffer(
        width=video.width, height=video.height, format=video.format, time_base=video.time_base
    )
    for turn in _TURNS.get(rotation, ()):
        name, _, argument = turn.partition("=")
        step = graph.add(name, argument)
        last.link_to(step)
        last = step
    split = graph.add("split")
    palette = graph.add("palettegen", f"stats_mode=single:reserve_transparent={int(transparent)}")
    use = graph.add("paletteuse", "new=1:dither=sierra2_4a")
    last.link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(palette, 1, 0)
    palette.link_to(use, 0, 1)
    use.link_to(graph.add("buffersink"))
    graph.configure()
    return graph
