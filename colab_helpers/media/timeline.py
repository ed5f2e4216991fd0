"""Compute presentation and decoding timestamps of joined segments."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

import av
import numpy as np
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

from colab_helpers.language import mark, tr
from colab_helpers.media.demuxing import open_source
from colab_helpers.media.segments import (
    Segment,
    check_segment,
    damaged_segment_error,
    unreadable_segment_error,
)


@dataclass(frozen=True, eq=False)
class _ScannedSegment:
    """A segment with the properties of its packets."""

    segment: Segment
    timestamps: NDArray[np.int64]  # presentation times in the whole video, in ticks, ascending
    delay: int  # reorder delay: most places by which a frame is coded later than it is shown
    offset: int  # ticks to add to the file's own timestamps
    codec: tuple[object, ...]  # see ``_codec_parameters``


class Timeline:
    """Presentation timestamps of all frames, and the decoding timestamps derived from them.

    Each segment's own decoding timestamps start before its first frame and may overlap with the previous
    segment's. So the n-th coded frame gets the timestamp of the frame shown ``delay`` places earlier.
    The first ``delay`` frames are decoded before the start, at even intervals, and begin as early as decoding
    timestamps lag at the end, so that decoding intervals add up to the duration, as MP4 requires.

    ``timestamps``, ``(frames,)`` int64, are presentation times in ticks of ``time_base``, ascending; ``span``
    is the ticks from the first frame's start to the last one's end. Raise MissingFileError or MediaError if a
    segment's file is missing or damaged.
    """

    def __init__(self, segments: Sequence[Segment], time_base: Fraction) -> None:
        self.time_base = time_base
        self._scanned = [_scan(segment, time_base) for segment in segments]
        self.timestamps = np.concatenate([scanned.timestamps for scanned in self._scanned])
        self._end = segments[-1].end_pts
        self._delay = min(max(scanned.delay for scanned in self._scanned), len(self.timestamps) - 1)
        self._lead = int(self.timestamps[-1] - self.timestamps[-1 - self._delay])
        self.span = self._end - int(self.timestamps[0])

    def check_same_encoder(self, video: VideoStream) -> None:
        """Raise MediaError unless all segments have a stream's codec, size and decoder configuration."""
        text = mark("{segment} was encoded by another encoder or with other settings than the result")
        for scanned in self._scanned:
            if scanned.codec != _codec_parameters(video):
                raise damaged_segment_error(scanned.segment, tr(text, segment=scanned.segment))

    def packets(self, *, fill_last_duration: bool) -> Iterator[Packet[Any]]:
        """Yield the segments' packets with their timestamps in the whole video.

        ``fill_last_duration`` gives the last coded packet the last frame's duration, for MP4, which stores
        durations in coded order. Raise MediaError if a segment is unreadable.
        """
        index = 0
        for scanned in self._scanned:
            try:
                with open_source(scanned.segment.path) as container:
                    for packet in container.demux(container.streams.video[0]):
                        if packet.size:
                            pts = _ticks(packet, self.time_base) + scanned.offset
                            packet.time_base = self.time_base
                            packet.pts, packet.dts = pts, self._dts(index)
                            index += 1
                            is_last = fill_last_duration and index == len(self.timestamps)
                            packet.duration = self._duration(int(self.timestamps[-1]) if is_last else pts)
                            yield packet
            except (av.FFmpegError, OSError) as error:
                raise unreadable_segment_error(scanned.segment, error) from error

    def _dts(self, index: int) -> int:
        """Return the decoding timestamp of the frame with this index in coded order."""
        if index < self._delay:
            return int(self.timestamps[0]) - self._lead * (self._delay - index) // self._delay
        return int(self.timestamps[index - self._delay])

    def _duration(self, pts: int) -> int:
        """Return the duration, in ticks, of the frame shown at ``pts``."""
        following = bisect_left(self.timestamps, pts) + 1
        return (self._end if following == len(self.timestamps) else int(self.timestamps[following])) - pts


def _scan(segment: Segment, time_base: Fraction) -> _ScannedSegment:
    check_segment(segment)
    try:
        with open_source(segment.path) as container:
            stream = container.streams.video[0]
            packets = (packet for packet in container.demux(stream) if packet.size)
            coded = np.fromiter((_ticks(packet, time_base) for packet in packets), np.int64)
            codec = _codec_parameters(stream)
    except (av.FFmpegError, OSError) as error:
        raise unreadable_segment_error(segment, error) from error
    order = np.argsort(coded, kind="stable")
    shown = coded[order]
    if len(shown) != segment.frames or int(shown[-1] - shown[0]) != segment.last_pts - segment.first_pts:
        what = tr("the file of {segment} does not hold the frames that were recorded", segment=segment)
        raise damaged_segment_error(segment, what)
    delay = int((np.arange(len(order)) - np.argsort(order)).max())
    offset = segment.first_pts - int(shown[0])
    return _ScannedSegment(segment, shown + offset, delay, offset, codec)


def _ticks(packet: Packet[Any], time_base: Fraction) -> int:
    """Return a packet's presentation time in ticks of ``time_base``, which NUT may have subdivided."""
    ratio = packet.time_base / time_base
    return cast(int, packet.pts) * ratio.numerator // ratio.denominator


def _codec_parameters(stream: VideoStream) -> tuple[object, ...]:
    """Return codec, width, height and the decoder's configuration (extradata)."""
    context = stream.codec_context
    return context.codec.canonical_name, context.width, context.height, context.extradata
