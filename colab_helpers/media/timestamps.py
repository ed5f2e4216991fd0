"""Timestamps of real files put right: one clock for all streams that never goes back.

Recordings that were joined byte by byte, restarted, or damaged have timestamps that start again in the
middle. Whoever reads packets reads them through `ContinuousClock`, so picture and audio move alike.
"""

from __future__ import annotations

from collections import deque
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

# Elsewhere than in formats that can be joined, decoding times are partly guessed by FFmpeg: small steps back
# mean nothing.
_GUESSED = Fraction(1, 2)
# A jump ahead by more is a restart (as FFmpeg's -dts_delta_threshold) unless other streams get there, too.
_JUMP = Fraction(10)
# So many pictures, or packets of other streams, are waited for: audio may come first behind a restart.
_MAX_PICTURES, _MAX_HELD = 8, 2000
_BRIEF = Fraction(1, 1000)
"""Least time between frames without timestamps of their own: no container counts more coarsely."""
_HALF = Fraction(1, 2)


class ContinuousClock:
    """Moves the packets of a file to where they belong on a clock that does not go back.

    Where the picture's decoding time goes back, or far ahead, everything from there on is moved so that the
    picture goes on where it ended. Other streams move by the same, each from its own packet on. A clock that
    ``is_continuous`` says never begins again is that of the MP4 family, whose header lists durations.
    """

    def __init__(self, container: InputContainer, picture: int) -> None:
        self.restarts = 0
        self.is_continuous = is_mov(container.format.name)
        self._picture = picture
        self._joinable = is_joinable(container.format.name)
        self._shifts: dict[int, Fraction] = {}
        self._last: dict[int, Fraction] = {}
        """Decoding time of each stream's last packet, as the file states it."""
        self._newest = Fraction(0)
        self._border = 0
        self._end: Fraction | None = None
        self._step = Fraction(0)
        self._held: list[Packet[Any]] = []
        self._pictures_held = 0

    def notes(self) -> list[str]:
        """Return what was put right, in one sentence; empty if nothing was."""
        told = mark(
            "the file's clock starts again in the middle ({times} time(s)): "
            "what follows was moved behind what came before, picture and audio alike"
        )
        return [tr(told, times=self.restarts)] if self.restarts else []

    def correct_timestamps(self, packets: Iterable[Packet[Any]]) -> Iterator[Packet[Any]]:
        """Yield the packets with their times on the common clock."""
        if self.is_continuous:
            yield from packets
            return
        for packet in packets:
            if packet.stream.index == self._picture or not packet.size:
                moved = packet.size > 0 and self._follow(packet)
                self._pictures_held += bool(self._held)
                if moved or not packet.size or self._pictures_held > _MAX_PICTURES:
                    yield from self._released()
                yield packet
            elif self._waits(packet):
                self._held.append(packet)
                if len(self._held) > _MAX_HELD:
                    yield from self._released()
            else:
                self._move(packet)
                yield packet
        yield from self._released()

    def _follow(self, packet: Packet[Any]) -> bool:
        """Move a packet of the picture; True if the clock began again with it."""
        raw = _stated(packet)
        if raw is None:
            return False
        last = self._last.get(self._picture)
        restarted = last is not None and self._restarts(packet, raw, last)
        if restarted:
            assert self._end is not None
            self.restarts += 1
            self._newest = self._end - (raw if packet.pts is None else packet.pts * packet.time_base)
            self._border = packet.pos or 0
        elif last is not None and raw > last:
            self._step = raw - last
        self._last[self._picture] = raw
        self._shift(packet, self._newest)
        shown = raw + self._newest if packet.pts is None else packet.pts * packet.time_base
        end = shown + ((packet.duration or 0) * packet.time_base or self._step)
        self._end = end if self._end is None else max(self._end, end)
        return restarted

    def _restarts(self, packet: Packet[Any], raw: Fraction, last: Fraction) -> bool:
        if not self._joinable:
            return last - raw > _GUESSED
        # The second field of a picture may have its first one's time; a key frame begins something new.
        back = raw < last or (raw == last and packet.is_keyframe)
        return back or self._leaps(raw + self._newest)

    def _leaps(self, due: Fraction) -> bool:
        assert self._end is not None
        others = (
            self._last[index] + self._shifts.get(index, Fraction(0))
            for index in self._last
            if index != self._picture
        )
        return due - self._end > _JUMP and all(due - other > _JUMP for other in others)

    def _waits(self, packet: Packet[Any]) -> bool:
        """Whether only the picture's next packets tell by how much this one moves."""
        index, raw = packet.stream.index, _stated(packet)
        if any(held.stream.index == index for held in self._held):
            return True
        last = self._last.get(index)
        if raw is None or last is None or self._shifts.get(index, Fraction(0)) != self._newest:
            return False
        return raw < last or (self._joinable and raw - last > _JUMP)

    def _released(self) -> Iterator[Packet[Any]]:
        held, self._held, self._pictures_held = self._held, [], 0
        for packet in held:
            self._move(packet, waited=True)
            yield packet

    def _move(self, packet: Packet[Any], *, waited: bool = False) -> None:
        """Move a packet of another stream by the picture's shift, from the picture's restart on."""
        index, raw = packet.stream.index, _stated(packet)
        if raw is None:
            self._shift(packet, self._shifts.get(index, Fraction(0)))
            return
        own, last = self._shifts.setdefault(index, Fraction(0)), self._last.get(index)
        back = last is not None and raw < last
        behind = packet.pos is None or packet.pos >= self._border
        if own != self._newest and (waited or back or behind):
            now = self._end or Fraction(0)
            # A packet astray in the old part stays there; where both fit, what follows the restart is new.
            if abs(raw + self._newest - now) <= abs(raw + own - now) + 1:
                own = self._newest
        elif back and last is not None and last - raw > _GUESSED:
            own += last - raw
        self._shifts[index], self._last[index] = own, raw
        self._shift(packet, own)

    def _shift(self, packet: Packet[Any], seconds: Fraction) -> None:
        if not seconds:
            return
        ticks = floor(seconds / packet.time_base + _HALF)
        packet.pts = None if packet.pts is None else packet.pts + ticks
        packet.dts = None if packet.dts is None else packet.dts + ticks


class FrameClock:
    """Gives every frame a stamp that is later than the one before.

    ``step`` are the ticks from one frame to the next at the average rate; ``repaired`` frames got a stamp
    that is not the file's.
    """

    def __init__(self, info: VideoInfo) -> None:
        self.step = max(1, round(1 / (info.average_rate or DEFAULT_RATE) / info.time_base))
        self.repaired = 0
        self._least = min(self.step, max(1, ceil(_BRIEF / info.time_base)))
        self._coded: deque[int | None] | None = deque() if info.in_coded_order else None
        self._last: int | None = None

    def decoding(self, packet: Packet[Any]) -> None:
        """Note a packet that goes to the decoder; only needed where times belong to places, not frames."""
        if self._coded is not None and packet.size:
            self._coded.append(packet.dts)

    def lost(self) -> None:
        """Note that the packet just noted gave no frame."""
        if self._coded:
            self._coded.pop()

    def next_pts(self, video: av.VideoFrame) -> int:
        """Return when the next frame is shown, in ticks."""
        pts = self._stated(video)
        if pts is None or (self._last is not None and pts <= self._last):
            self.repaired += self._coded is None or pts is not None
            pts = 0 if self._last is None else self._last + (self.step if pts is None else self._least)
        self._last = pts
        return pts

    def _stated(self, video: av.VideoFrame) -> int | None:
        if self._coded is not None:
            return self._coded.popleft() if self._coded else None
        return video.pts if video.pts is not None else video.dts

    def notes(self) -> list[str]:
        """Return what was put right, in one sentence; empty if nothing was."""
        told = mark("{frames} frames had no or no rising timestamp; they were given one")
        return [tr(told, frames=self.repaired)] if self.repaired else []


class MonotonicTimestamps:
    """Gives packets of one stream decoding times that rise in the ticks of the file they are written to.

    Muxers refuse others. ``tick`` is asked for the seconds of a tick once the header is written.
    """

    def __init__(self, tick: Callable[[], Fraction]) -> None:
        self.repaired = 0
        self._tick = tick
        self._last: int | None = None

    def apply(self, packet: Packet[Any]) -> None:
        """Change the packet's times if they have to be."""
        ratio = packet.time_base / self._tick()
        next_pts = packet.dts if packet.dts is not None else packet.pts
        due = None if next_pts is None else floor(next_pts * ratio + _HALF)
        if due is None or (self._last is not None and due <= self._last):
            self.repaired += self._last is not None
            packet.dts = 0 if self._last is None else ceil((self._last + 1) / ratio)
            packet.pts = packet.dts if packet.pts is None else max(packet.pts, packet.dts)
            due = floor(packet.dts * ratio + _HALF)
        self._last = due


def _stated(packet: Packet[Any]) -> Fraction | None:
    """Decoding time in seconds as the packet states it."""
    next_pts = packet.pts if packet.dts is None else packet.dts
    return None if next_pts is None else next_pts * packet.time_base
