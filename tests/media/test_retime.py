from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from colab_helpers.errors import MediaError
from colab_helpers.media.reader import Frame
from colab_helpers.media.retime import constant_rate

MILLI, THIRTY = Fraction(1, 1000), Fraction(30)


def retime(stamps: list[int], rate: Fraction, last: int = 40, base: Fraction = MILLI) -> list[Frame]:
    """Frames at a constant rate; a frame's height encodes the source frame's number."""
    gaps = [after - before for before, after in pairwise(stamps)]
    frames = [
        Frame(number, pts, base, duration, av.VideoFrame(16, number + 1, "gray"))
        for number, (pts, duration) in enumerate(zip(stamps, [*gaps, last][: len(stamps)], strict=True))
    ]
    return list(constant_rate(frames, rate=rate))


@pytest.mark.parametrize(
    ("stamps", "rate", "last", "shown"),
    [
        ([], THIRTY, 40, []),
        ([0], THIRTY, 1, [0]),
        ([0, 40, 80, 120], Fraction(25), 40, [0, 1, 2, 3]),
        ([0, 40, 80], Fraction(50), 40, [0, 0, 1, 1, 2, 2]),
        ([0, 20, 40, 60, 80, 100], Fraction(25), 20, [1, 3, 5]),
    ],
)
def test_frames_are_repeated_or_dropped(
    stamps: list[int], rate: Fraction, last: int, shown: list[int]
) -> None:
    assert [frame.video.height - 1 for frame in retime(stamps, rate, last)] == shown


def test_ntsc_does_not_drift_and_late_start_is_kept() -> None:
    frames = retime([1001 * number for number in range(3000)], THIRTY, 1001, Fraction(1, 30000))
    assert len(frames) == 3003
    assert {frame.video.height - 1 for frame in frames} == set(range(3000))
    first = retime([1000, 1040], THIRTY)[0]
    assert (first.pts, first.time_base, first.duration, first.index) == (30, Fraction(1, 30), 1, 0)


def test_distant_timestamp_is_refused() -> None:
    with pytest.raises(MediaError, match="longer than 24 hours"):
        retime([0, 40, 25 * 3600 * 1000], Fraction(1))


@given(
    gaps=st.lists(st.integers(1, 400), min_size=1, max_size=40),
    rate=st.sampled_from([Fraction(24), Fraction(25), THIRTY, Fraction(30000, 1001), Fraction(60)]),
    start=st.integers(-500, 5000),
)
def test_every_tick_shows_the_frame_of_that_time(gaps: list[int], rate: Fraction, start: int) -> None:
    stamps = [start]
    for gap in gaps[:-1]:
        stamps.append(stamps[-1] + gap)
    result = retime(stamps, rate, gaps[-1])
    chosen = [frame.video.height - 1 for frame in result]
    assert [frame.index for frame in result] == list(range(len(result)))
    assert [frame.pts for frame in result] == list(range(result[0].pts, result[0].pts + len(result)))
    assert chosen == sorted(chosen)
    half = 1 / rate / 2
    for tick, number in zip(result, chosen, strict=True):
        start_time, end_time = stamps[number] * MILLI, (stamps[number] + gaps[number]) * MILLI
        assert start_time - half <= tick.time <= end_time + half
    assert abs(len(result) / rate - sum(gaps) * MILLI) <= 1 / rate
