"""Convert frames to a constant rate by repeating and dropping, moving none by more than half an interval."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from math import ceil

from colab_helpers.media.demuxing import MAX_HOURS, too_long_error
from colab_helpers.media.reader import Frame


def constant_rate(frames: Iterable[Frame], *, rate: Fraction) -> Iterator[Frame]:
    """Yield one frame every ``1 / rate`` seconds, repeating and dropping frames.

    Each output tick shows the last frame that starts at most half a tick after it, so audio and video stay in
    sync. Output starts at the tick nearest to the first frame and lasts as long as the source; ``pts`` counts
    ticks. One frame is held at a time; a repeated frame shares its ``video`` object. Raise MediaError if
    timestamps would make the output longer than `MAX_HOURS`.
    """
    tick = 1 / rate
    previous: Frame | None = None
    first = count = 0
    for frame in frames:
        if previous is None:
            first = _round_half_down(frame.time / tick)
        else:
            stop = _round_half_down(frame.time / tick) - first
            yield from _repeat(previous, first, count, stop, tick)
            count = max(count, stop)
        previous = frame
    if previous is not None:
        end = previous.time + previous.duration * previous.time_base
        stop = max(count + (count == 0), _round_half_down(end / tick) - first)
        yield from _repeat(previous, first, count, stop, tick)


def _round_half_down(position: Fraction) -> int:
    """Round to the nearest tick: a frame exactly half a tick late belongs to the earlier one."""
    return ceil(position - Fraction(1, 2))


def _repeat(frame: Frame, first: int, start: int, stop: int, tick: Fraction) -> Iterator[Frame]:
    if stop * tick > MAX_HOURS * 3600:
        raise too_long_error()
    for index in range(start, stop):
        yield replace(frame, index=index, pts=first + index, time_base=tick, duration=1)
