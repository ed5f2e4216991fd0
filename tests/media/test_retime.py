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


def evened(stamps: list[int], rate: Fraction, last: int = 40, base: Fraction = MILLI) -> list[Frame]:
    """Frames at a constant rate; the height of each one's picture is the number of the frame it shows."""
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
def test_frames_are_repeated_and_dropped(
    stamps: list[int], rate: Fraction, last: int, shown: list[int]
) -> None:
    assert [frame.video.height - 1 for frame in evened(stamps, rate, last)] == shown


def test_ntsc_keeps_its_count_over_a_long_time_and_a_late_start_stays_late() -> None:
    frames = evened([1001 * number for number in range(3000)], THIRTY, 1001, Fraction(1, 30000))
    assert len(frames) == 3003
    assert {frame.video.height - 1 for frame in frames} == set(range(3000))
    first = evened([1000, 1040], THIRTY)[0]
    assert (first.pts, first.time_base, first.duration, first.index) == (30, Fraction(1, 30), 1, 0)


def test_a_timestamp_far_away_repeats_no_frame_for_ever() -> None:
    with pytest.raises(MediaError, match="longer than 24 hours"):
        evened([0, 40, 25 * 3600 * 1000], Fraction(1))


@given(
    gaps=st.lists(st.integers(1, 400), min_size=1, max_size=40),
    rate=st.sampled_from([Fraction(24), Fraction(25), THIRTY, Fraction(30000, 1001), Fraction(60)]),
    start=st.integers(-500, 5000),
)
def test_every_tick_shows_what_was_on_screen(gaps: list[int], rate: Fraction, start: int) -> None:
    stamps = [start]
    for gap in gaps[:-1]:
        stamps.append(stamps[-1] + gap)
    result = evened(stamps, rate, gaps[-1])
    chosen = [frame.video.height - 1 for frame in result]
    assert [one.index for one in result] == list(range(len(result)))
    assert [one.pts for one in result] == list(range(result[0].pts, result[0].pts + len(result)))
    assert chosen == sorted(chosen)
    half = 1 / rate / 2
    for tick, number in zip(result, chosen, strict=True):
        begins, ends = stamps[number] * MILLI, (stamps[number] + gaps[number]) * MILLI
        assert begins - half <= tick.time <= ends + half
    assert abs(len(result) / rate - sum(gaps) * MILLI) <= 1 / rate
