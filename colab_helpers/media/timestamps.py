"""Repair timestamps of real files: one monotonic clock for all streams.

Recordings that were concatenated bytewise, restarted or damaged have timestamps that restart in the middle.
All packets are read through `ContinuousClock`, so that video and audio are shifted alike; `FrameClock` and
`MonotonicTimestamps` then make the times of frames and packets strictly increase.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from math import ceil, floor
from typing import Any

import av
from av.container import InputContainer
from av.packet import Packet

from colab_helpers.language import mark, tr
from colab_helpers.media.formats import DEFAULT_RATE, is_joinable, is_mov
from colab_helpers.media.probe import VideoInfo

# Seconds of a step back that is no restart, except in joinable formats: FFmpeg guesses decoding times.
_DTS_TOLERANCE = Fraction(1, 2)
# Seconds ahead that are a restart (as FFmpeg's -dts_delta_threshold) unless other streams jump, too.
_MAX_GAP = Fraction(10)
# Most video packets to wait for, and most other packets to hold: after a restart audio may come first.
_MAX_VIDEO_WAIT, _MAX_HELD = 8, 2000
_MIN_INTERVAL = Fraction(1, 1000)
"""Seconds between frames whose timestamps are made up; no container's clock is coarser."""
_HALF = Fraction(1, 2)


class ContinuousClock:
    """Shifts the packets of a file onto one clock without restarts.

    If the video's decoding time goes backwards or jumps far ahead, the clock has restarted: from there on
    video is shifted to continue where it ended, and other streams by the same amount, each from its own first
    packet after the restart. Nothing is shifted in the MP4 family (``is_continuous``), whose header
    lists durations.
    """

    def __init__(self, container: InputContainer, video_index: int) -> None:
        self.restarts = 0
        self.is_continuous = is_mov(container.format.name)
        self._video_index = video_index
        self._joinable = is_joinable(container.format.name)
        self._shifts: dict[int, Fraction] = defaultdict(Fraction)  # of the other streams, in seconds
        self._last: dict[int, Fraction] = {}  # decoding time of each stream's last packet, as stored
        self._video_shift = Fraction(0)
        self._restart_position = 0  # byte offset in the file
        self._end: Fraction | None = None  # end of the video so far, shifted
        self._step = Fraction(0)
        self._held: list[Packet[Any]] = []
        self._video_waited = 0

    def notes(self) -> list[str]:
        """Return a note on restarts, if any."""
        text = mark(
            "the timestamps restart within the file ({times} time(s)): "
            "video and audio from there on were shifted to follow what came before"
        )
        return [tr(text, times=self.restarts)] if self.restarts else []

    def correct_timestamps(self, packets: Iterable[Packet[Any]]) -> Iterator[Packet[Any]]:
        """Yield the packets with timestamps on the common clock."""
        if self.is_continuous:
            yield from packets
            return
        for packet in packets:
            if packet.stream.index == self._video_index or not packet.size:
                restarted = packet.size > 0 and self._shift_video(packet)
                self._video_waited += bool(self._held)
                if restarted or not packet.size or self._video_waited > _MAX_VIDEO_WAIT:
                    yield from self._release_held()
                yield packet
            elif self._must_wait(packet):
                self._held.append(packet)
                if len(self._held) > _MAX_HELD:
                    yield from self._release_held()
            else:
                self._shift_other(packet)
                yield packet
        yield from self._release_held()

    def _shift_video(self, packet: Packet[Any]) -> bool:
        """Shift a video packet; return True if the clock restarted with it."""
        if (dts := _stored_dts(packet)) is None:
            return False
        last = self._last.get(self._video_index)
        restarted = last is not None and self._is_restart(packet, dts, last)
        if restarted:
            assert self._end is not None
            self.restarts += 1
            self._video_shift = self._end - (dts if packet.pts is None else packet.pts * packet.time_base)
            self._restart_position = packet.pos or 0
        elif last is not None and dts > last:
            self._step = dts - last
        self._last[self._video_index] = dts
        _shift(packet, self._video_shift)
        start = dts + self._video_shift if packet.pts is None else packet.pts * packet.time_base
        end = start + ((packet.duration or 0) * packet.time_base or self._step)
        self._end = end if self._end is None else max(self._end, end)
        return restarted

    def _is_restart(self, packet: Packet[Any], dts: Fraction, last: Fraction) -> bool:
        if not self._joinable:
            return last - dts > _DTS_TOLERANCE
        # The second field of a frame may repeat the first one's timestamp; a keyframe may not.
        backwards = dts < last or (dts == last and packet.is_keyframe)
        return backwards or self._jumps_ahead(dts + self._video_shift)

    def _jumps_ahead(self, shifted: Fraction) -> bool:
        assert self._end is not None
        others = (last + self._shifts[i] for i, last in self._last.items() if i != self._video_index)
        return shifted - self._end > _MAX_GAP and all(shifted - other > _MAX_GAP for other in others)

    def _must_wait(self, packet: Packet[Any]) -> bool:
        """Return whether a packet's shift is only known after the next video packets."""
        index, dts = packet.stream.index, _stored_dts(packet)
        if any(held.stream.index == index for held in self._held):
            return True
        last = self._last.get(index)
        if dts is None or last is None or self._shifts[index] != self._video_shift:
            return False
        return dts < last or (self._joinable and dts - last > _MAX_GAP)

    def _release_held(self) -> Iterator[Packet[Any]]:
        held, self._held, self._video_waited = self._held, [], 0
        for packet in held:
            self._shift_other(packet, waited=True)
            yield packet

    def _shift_other(self, packet: Packet[Any], *, waited: bool = False) -> None:
        """Shift a packet of another stream, by the video's shift if it comes after the video's restart."""
        index, dts = packet.stream.index, _stored_dts(packet)
        if dts is not None:
            shift, last = self._shifts[index], self._last.get(index)
            backwards = last is not None and dts < last
            after_restart = packet.pos is None or packet.pos >= self._restart_position
            if shift != self._video_shift and (waited or backwards or after_restart):
                now = self._end or Fraction(0)
                # A late packet from before the restart keeps its shift; if both fit, the new shift applies.
                if abs(dts + self._video_shift - now) <= abs(dts + shift - now) + 1:
                    shift = self._video_shift
            elif backwards and last is not None and last - dts > _DTS_TOLERANCE:
                shift += last - dts
            self._shifts[index], self._last[index] = shift, dts
        _shift(packet, self._shifts[index])


class FrameClock:
    """Gives every frame a timestamp later than the previous one's.

    ``step`` is the average frame interval in ticks; ``repaired`` counts frames whose timestamp was made up.
    """

    def __init__(self, info: VideoInfo) -> None:
        self.step = max(1, round(1 / (info.average_rate or DEFAULT_RATE) / info.time_base))
        self.repaired = 0
        self._min_step = min(self.step, max(1, ceil(_MIN_INTERVAL / info.time_base)))
        self._coded: deque[int | None] | None = deque() if info.in_coded_order else None
        self._last: int | None = None

    def note_packet(self, packet: Packet[Any]) -> None:
        """Record a packet sent to the decoder; only needed if timestamps follow coded order."""
        if self._coded is not None and packet.size:
            self._coded.append(packet.dts)

    def note_lost_frame(self) -> None:
        """Record that the last packet yielded no frame."""
        if self._coded:
            self._coded.pop()

    def next_pts(self, video: av.VideoFrame) -> int:
        """Return the presentation time, in ticks, of the next frame decoded."""
        pts = self._stored_pts(video)
        if pts is None or (self._last is not None and pts <= self._last):
            self.repaired += self._coded is None or pts is not None
            pts = 0 if self._last is None else self._last + (self.step if pts is None else self._min_step)
        self._last = pts
        return pts

    def _stored_pts(self, video: av.VideoFrame) -> int | None:
        if self._coded is not None:
            return self._coded.popleft() if self._coded else None
        return video.pts if video.pts is not None else video.dts

    def notes(self) -> list[str]:
        """Return a note on repaired frames, if any."""
        text = mark("{frames} frames had missing or non-increasing timestamps: replaced")
        return [tr(text, frames=self.repaired)] if self.repaired else []


class MonotonicTimestamps:
    """Gives packets of one stream increasing decoding timestamps in ticks of the output, as muxers require.

    ``tick`` returns the seconds per tick; it is called once the header is written.
    """

    def __init__(self, tick: Callable[[], Fraction]) -> None:
        self.repaired = 0
        self._tick = tick
        self._last: int | None = None

    def apply(self, packet: Packet[Any]) -> None:
        """Correct the packet's timestamps if necessary."""
        ratio = packet.time_base / self._tick()
        stored = packet.dts if packet.dts is not None else packet.pts
        dts = None if stored is None else floor(stored * ratio + _HALF)
        if dts is None or (self._last is not None and dts <= self._last):
            self.repaired += self._last is not None
            packet.dts = 0 if self._last is None else ceil((self._last + 1) / ratio)
            packet.pts = packet.dts if packet.pts is None else max(packet.pts, packet.dts)
            dts = floor(packet.dts * ratio + _HALF)
        self._last = dts


def _stored_dts(packet: Packet[Any]) -> Fraction | None:
    """Return a packet's decoding time in seconds as the file states it, else its presentation time."""
    ticks = packet.pts if packet.dts is None else packet.dts
    return None if ticks is None else ticks * packet.time_base


def _shift(packet: Packet[Any], seconds: Fraction) -> None:
    if seconds:
        ticks = floor(seconds / packet.time_base + _HALF)
        packet.pts = None if packet.pts is None else packet.pts + ticks
        packet.dts = None if packet.dts is None else packet.dts + ticks
