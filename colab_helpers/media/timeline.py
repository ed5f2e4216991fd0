"""When the pictures of joined segments are shown and decoded."""

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
class _Survey:
    """What a segment's packets say."""

    segment: Segment
    timestamps: NDArray[np.int64]
    delay: int
    """Pictures coded before one that is shown earlier than they are, at most."""
    offset: int
    """Ticks to add to the file's own times."""
    kind: tuple[object, ...]


class Timeline:
    """Presentation times of all pictures, and the decoding times that follow from them.

    Each segment's encoder started its decoding times before its first picture, where those of the segment
    before may still run. Here the n-th coded picture gets the presentation time of the picture shown
    ``delay`` places earlier. The first ``delay`` ones lie before the start, in even steps, and begin as far
    ahead as the decoding times lie behind at the end: then they add up to the length, as MP4 needs.

    ``timestamps`` ``(frames,)`` int64 are presentation times in ticks of ``time_base``, rising; ``span`` the
    ticks from the first picture's start to the last one's end. MissingFileError, MediaError where a segment's
    file is missing or damaged.
    """

    def __init__(self, segments: Sequence[Segment], time_base: Fraction) -> None:
        self.time_base = time_base
        self._surveys = [_survey(segment, time_base) for segment in segments]
        self.timestamps = np.concatenate([survey.timestamps for survey in self._surveys])
        self._end = segments[-1].end_pts
        self._delay = min(max(survey.delay for survey in self._surveys), len(self.timestamps) - 1)
        self._lead = int(self.timestamps[-1] - self.timestamps[-1 - self._delay])
        self.span = self._end - int(self.timestamps[0])

    def check_same_encoder(self, picture: VideoStream) -> None:
        """Make sure that all segments are encoded as a stream says; MediaError where one is not."""
        other = mark(
            "{segment} was encoded by another encoder, or with other settings, than the result is to be"
        )
        for survey in self._surveys:
            if survey.kind != _kind(picture):
                raise damaged_segment_error(survey.segment, tr(other, segment=survey.segment))

    def packets(self, *, fill_last_duration: bool) -> Iterator[Packet[Any]]:
        """Yield the segments' packets with the times they have in the whole video; MediaError if unreadable.

        Where the container knows durations in coded order only (MP4), the last coded picture fills what is
        left, so that all ``fill_last_duration``.
        """
        place = 0
        for survey in self._surveys:
            try:
                with open_source(survey.segment.path) as container:
                    for packet in container.demux(container.streams.video[0]):
                        if packet.size:
                            pts = _ticks(packet, self.time_base) + survey.offset
                            packet.time_base = self.time_base
                            packet.pts, packet.dts = pts, self._dts(place)
                            place += 1
                            last = fill_last_duration and place == len(self.timestamps)
                            packet.duration = self._duration(int(self.timestamps[-1]) if last else pts)
                            yield packet
            except (av.FFmpegError, OSError) as error:
                raise unreadable_segment_error(survey.segment, error) from error

    def _dts(self, place: int) -> int:
        """Decoding time of the ``place``-th coded picture."""
        if place < self._delay:
            return int(self.timestamps[0]) - self._lead * (self._delay - place) // self._delay
        return int(self.timestamps[place - self._delay])

    def _duration(self, pts: int) -> int:
        """Ticks the picture shown at ``pts`` lasts."""
        after = bisect_left(self.timestamps, pts) + 1
        return (self._end if after == len(self.timestamps) else int(self.timestamps[after])) - pts


def _survey(segment: Segment, time_base: Fraction) -> _Survey:
    check_segment(segment)
    try:
        with open_source(segment.path) as container:
            stream = container.streams.video[0]
            packets = (packet for packet in container.demux(stream) if packet.size)
            coded = np.fromiter((_ticks(packet, time_base) for packet in packets), np.int64)
            kind = _kind(stream)
    except (av.FFmpegError, OSError) as error:
        raise unreadable_segment_error(segment, error) from error
    order = np.argsort(coded, kind="stable")
    shown = coded[order]
    if len(shown) != segment.frames or int(shown[-1] - shown[0]) != segment.last_pts - segment.first_pts:
        what = tr("the file of {segment} does not hold the frames that were recorded", segment=segment)
        raise damaged_segment_error(segment, what)
    delay = int((np.arange(len(order)) - np.argsort(order)).max())
    offset = segment.first_pts - int(shown[0])
    return _Survey(segment, shown + offset, delay, offset, kind)


def _ticks(packet: Packet[Any], time_base: Fraction) -> int:
    """Presentation time in ticks: NUT may count in a fraction of the time base it was given."""
    ratio = packet.time_base / time_base
    return cast(int, packet.pts) * ratio.numerator // ratio.denominator


def _kind(stream: VideoStream) -> tuple[object, ...]:
    """Codec, size, and what a decoder has to know."""
    context = stream.codec_context
    return context.codec.canonical_name, context.width, context.height, context.extradata
