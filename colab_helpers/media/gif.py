"""Animated GIF as a result: a palette of its own for every frame, the source's timing."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
from av.container import OutputContainer
from av.filter import Graph
from av.packet import Packet
from av.video.stream import VideoStream

from colab_helpers.language import tr
from colab_helpers.media.probe import VideoInfo

CENTISECOND = Fraction(1, 100)
"""GIF's tick (GIF89a, graphic control extension)."""

# Quarter turns clockwise by FFmpeg's transpose filter; GIF has no rotation tag.
_TURNS = {90: ("transpose=clock",), 180: ("hflip", "vflip"), 270: ("transpose=cclock",)}


class GifTrack:
    """Turns pictures into GIF frames; rotated physically, times rounded to hundredths of a second."""

    def __init__(self, output: OutputContainer, info: VideoInfo, time_base: Fraction) -> None:
        self._info = info
        self._time_base = time_base
        self._last: int | None = None
        self._durations: dict[int, int] = {}
        self._graph: Graph | None = None
        width, height = info.display_size
        self._stream: VideoStream = output.add_stream("gif", rate=info.average_rate or 10)
        context = self._stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, "pal8"
        self._stream.time_base = context.time_base = CENTISECOND

    @staticmethod
    def losses(info: VideoInfo) -> list[str]:
        """What GIF cannot hold of this source, one sentence each."""
        silent = [tr("GIF holds no sound: {stream} left out", stream=info.audio[0])] if info.audio else []
        timing = [tr("GIF stores times in hundredths of a second: time stamps were rounded to them")]
        exact = (info.time_base / CENTISECOND).denominator == 1
        return [*silent, *([] if exact else timing)]

    def encode(self, video: av.VideoFrame) -> Iterator[Packet[Any]]:
        """Packets that are ready after this picture."""
        if self._graph is None:
            self._graph = _palette_graph(video, self._info)
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


def _palette_graph(video: av.VideoFrame, info: VideoInfo) -> Graph:
    """Turn, then make the best 256 colours of each frame and dither into them."""
    graph = Graph()
    last = graph.add_buffer(
        width=video.width, height=video.height, format=video.format, time_base=video.time_base
    )
    for turn in (("hflip",) if info.mirrored else ()) + _TURNS.get(info.rotation, ()):
        name, _, argument = turn.partition("=")
        step = graph.add(name, argument)
        last.link_to(step)
        last = step
    split, palette = graph.add("split"), graph.add("palettegen", "stats_mode=single:reserve_transparent=0")
    use = graph.add("paletteuse", "new=1:dither=sierra2_4a")
    last.link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(palette, 1, 0)
    palette.link_to(use, 0, 1)
    use.link_to(graph.add("buffersink"))
    graph.configure()
    return graph
