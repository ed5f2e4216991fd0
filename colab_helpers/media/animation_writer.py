"""Animations written frame by frame: GIF, WebP and PNG from an animation, and GIF from a video.

FFmpeg writes them, as it takes frame after frame and keeps none.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
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

from colab_helpers.errors import OutputError
from colab_helpers.files import unwritable, written_whole
from colab_helpers.language import tr
from colab_helpers.media.animation import GIF_TIMING, Animation
from colab_helpers.media.images import Still
from colab_helpers.media.probe import VideoInfo

_CENTISECOND = Fraction(1, 100)
"""GIF's tick (GIF89a, graphic control extension)."""
_MILLISECOND = Fraction(1, 1000)
_USUAL_RATE = Fraction(10)
_FORMATS = {"GIF": ("gif", _CENTISECOND), "PNG": ("apng", _MILLISECOND), "WEBP": ("webp", _MILLISECOND)}

# Quarter turns clockwise by FFmpeg's filters; GIF has no rotation tag.
_TURNS = {
    90: (("transpose", "clock"),),
    180: (("hflip", ""), ("vflip", "")),
    270: (("transpose", "cclock"),),
}


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
        name, self._tick = _FORMATS[kind]
        # A temporary file without a name is gone with its last handle, whatever happens.
        self._file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._output = av.open(self._file, "w", format=name, options=_muxer_options(kind, source))
        times = accumulate(source.durations, initial=0)
        self._times = [round(ms * _MILLISECOND / self._tick) for ms in times]
        self._written = 0
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
        begin, end = self._times[self._written : self._written + 2]
        frame.pts, frame.time_base, frame.duration = begin, self._tick, end - begin
        self._written += 1
        self._mux(frame)

    def finish(self) -> BinaryIO:
        """Return the complete file, to be read from its start before this writer is left."""
        self._mux(None)
        self._output.close()
        if self._kind == "WEBP":
            _time_last_frame(self._file, self._times[-1])
        self._file.seek(0)
        return self._file

    def _mux(self, frame: av.VideoFrame | None) -> None:
        try:
            for packet in self._track.packets(frame):
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


class GifWriter:
    """Writes a video's pictures into a GIF: upright, without audio; made by `gif_of_video`.

    Attributes:
        notes: What GIF cannot hold of the source, one sentence each.
        seconds: Span from the first frame's start to the last one's end.
    """

    def __init__(self, output: OutputContainer, info: VideoInfo, time_base: Fraction) -> None:
        self._output, self._time_base = output, time_base
        rate = info.average_rate or _USUAL_RATE
        self._track = _GifTrack(output, info.display_size, time_base, rate=rate, rotation=info.rotation)
        self._start: int | None = None
        self.seconds = Fraction(0)
        audio = info.audio[:1]
        self.notes = [tr("GIF holds no sound: {stream} left out", stream=one) for one in audio]
        if (info.time_base / _CENTISECOND).denominator != 1:
            self.notes.append(tr(GIF_TIMING))

    def write(self, video: av.VideoFrame, *, pts: int, duration: int) -> None:
        """Append a picture; see `segments.SegmentWriter.write`."""
        self._start = pts if self._start is None else self._start
        self.seconds = (pts + duration - self._start) * self._time_base
        video.pts, video.time_base, video.duration = pts, self._time_base, duration
        self._output.mux(self._track.packets(video))

    def finish(self) -> None:
        """Write what is left."""
        self._output.mux(self._track.packets(None))


@contextlib.contextmanager
def gif_of_video(path: Path, info: VideoInfo, time_base: Fraction) -> Iterator[GifWriter]:
    """Open a GIF for a video's pictures; complete at the end of the block, or not there at all.

    Args:
        path: The result; missing folders are made.
        info: The video.
        time_base: Seconds per tick of the pictures' timestamps and durations.

    Raises:
        OutputError: It cannot be written there.
    """
    with written_whole(path) as partial:
        try:
            with av.open(str(partial), "w", format="gif") as output:
                writer = GifWriter(output, info, time_base)
                yield writer
                writer.finish()
        except av.FFmpegError as error:
            raise unwritable(path, error) from error


class _GifTrack:
    """Turns pictures into GIF frames; rotated physically, times rounded to hundredths of a second."""

    def __init__(
        self,
        output: OutputContainer,
        size: tuple[int, int],
        time_base: Fraction,
        *,
        rate: Fraction = _USUAL_RATE,
        rotation: int = 0,
        transparent: bool = False,
    ) -> None:
        self._time_base, self._rotation, self._transparent = time_base, rotation, transparent
        self._last: int | None = None
        self._durations: dict[int, int] = {}
        self._graph: Graph | None = None
        self._stream = _stream(output, "gif", "pal8", size, _CENTISECOND, rate=rate)

    def packets(self, video: av.VideoFrame | None) -> list[Packet[Any]]:
        """Return what is ready after this picture, or with None what is left."""
        packets = self._stream.encode(video if video is None else self._paletted(video))
        for packet in packets:
            if packet.pts is not None:
                packet.duration = self._durations.pop(packet.pts, packet.duration)
        return packets

    def _paletted(self, video: av.VideoFrame) -> av.VideoFrame:
        if self._graph is None:
            self._graph = _palette_graph(video, self._rotation, self._transparent)
        assert video.pts is not None
        self._graph.vpush(video)
        paletted = self._graph.vpull()
        # Rising hundredths, also where the source is faster than GIF can be.
        tick = round(video.pts * self._time_base / _CENTISECOND)
        self._last = tick if self._last is None else max(tick, self._last + 1)
        paletted.pts, paletted.time_base = self._last, _CENTISECOND
        self._durations[self._last] = max(1, round(video.duration * self._time_base / _CENTISECOND))
        return paletted


class _PlainTrack:
    """Frames through an encoder that takes all their colours."""

    def __init__(self, stream: VideoStream) -> None:
        self._stream = stream

    def packets(self, video: av.VideoFrame | None) -> list[Packet[Any]]:
        """Return what is ready after this picture, or with None what is left."""
        if video is None:
            return self._stream.encode(None)
        converted = video.reformat(format=self._stream.codec_context.pix_fmt)
        converted.pts, converted.time_base, converted.duration = video.pts, video.time_base, video.duration
        return self._stream.encode(converted)


def _muxer_options(kind: str, source: Animation) -> dict[str, str]:
    if kind == "PNG":
        last = Fraction(round(source.durations[-1]), 1000)
        return {"plays": str(source.plays), "final_delay": f"{last.numerator}/{last.denominator}"}
    # GIF counts how often it begins again; -1 is never.
    plays = source.plays if kind == "WEBP" else {0: 0, 1: -1}.get(source.plays, source.plays - 1)
    return {"loop": str(plays)}


def _track(output: OutputContainer, kind: str, source: Animation, quality: int) -> _GifTrack | _PlainTrack:
    if kind == "GIF":
        return _GifTrack(output, source.size, _CENTISECOND, transparent=source.opacity != "full")
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
    rate: Fraction = _USUAL_RATE,
    options: dict[str, str] | None = None,
) -> VideoStream:
    stream = cast(VideoStream, output.add_stream(codec, rate=rate, options=options or {}))
    context = stream.codec_context
    context.width, context.height, context.pix_fmt = *size, pix_fmt
    stream.time_base = context.time_base = time_base
    return stream


def _palette_graph(video: av.VideoFrame, rotation: int, transparent: bool) -> Graph:
    """Turn, then make the best 256 colours of each frame and dither into them."""
    graph = Graph()
    last = graph.add_buffer(
        width=video.width, height=video.height, format=video.format, time_base=video.time_base
    )
    for name, argument in _TURNS.get(rotation, ()):
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
