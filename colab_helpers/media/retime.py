"""Frames at a constant rate: some shown twice, some not at all, none moved by more than half a step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from math import ceil

from colab_helpers.media.demuxing import MAX_HOURS, too_long_error
from colab_helpers.media.reader import Frame

_HALF = Fraction(1, 2)


def constant_rate(frames: Iterable[Frame], *, rate: Fraction) -> Iterator[Frame]:
    """Repeat and drop frames so that one comes every ``1 / rate`` seconds.

    Each output tick shows the last frame that started no later than half a step after it, so audio and
    picture stay together. The stream begins at the tick nearest to the first frame and is as long as the
    source; ``pts`` count ticks. One frame is held at a time; a repeated frame is the same picture object.
    MediaError where a timestamp makes it too long: whatever a header says, frames are not repeated for ever.
    """
    tick = 1 / rate
    held: Frame | None = None
    first = count = 0
    for frame in frames:
        if held is None:
            first = _nearest(frame.time / tick)
        else:
            yield from _repeat(held, first, count, due := _nearest(frame.time / tick) - first, tick)
            count = max(count, due)
        held = frame
    if held is not None:
        end = held.time + held.duration * held.time_base
        due = max(count + (count == 0), _nearest(end / tick) - first)
        yield from _repeat(held, first, count, due, tick)


def _nearest(position: Fraction) -> int:
    """Rounds halves down: a frame that starts half a step late still belongs to the earlier tick."""
    return ceil(position - _HALF)


def _repeat(frame: Frame, first: int, start: int, stop: int, tick: Fraction) -> Iterator[Frame]:
    if stop * tick > MAX_HOURS * 3600:
        raise too_long_error()
    for index in range(start, stop):
        yield replace(frame, index=index, pts=first + index, time_base=tick, duration=1)
