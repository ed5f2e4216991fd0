from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import av
from hypothesis import given
from hypothesis import strategies as st

from colab_helpers.media.reader import Frame
from colab_helpers.media.retime import constant_rate

PICTURE = av.VideoFrame(16, 16, "yuv420p")
MILLI = Fraction(1, 1000)
THIRTY = Fraction(30)


def frames_at(stamps: list[int], base: Fraction = MILLI, last: int = 40) -> list[Frame]:
    gaps = [after - before for before, after in pairwise(stamps)]
    return [
        Frame(index, pts, base, duration, PICTURE)
        for index, (pts, duration) in enumerate(zip(stamps, [*gaps, last], strict=True))
    ]


def shown(stamps: list[int], rate: Fraction, base: Fraction = MILLI, last: int = 40) -> list[int]:
    """Which source frame each tick shows, found by the picture's place in time."""
    sources = frames_at(stamps, base, last)
    marked = [Frame(one.index, one.pts, base, one.duration, av.VideoFrame(16, 16, "gray")) for one in sources]
    names = {id(one.video): one.index for one in marked}
    return [names[id(one.video)] for one in constant_rate(marked, rate=rate)]


def test_the_same_rate_changes_nothing() -> None:
    assert shown([0, 40, 80, 120], Fraction(25)) == [0, 1, 2, 3]


def test_twice_the_rate_shows_each_twice() -> None:
    assert shown([0, 40, 80], Fraction(50)) == [0, 0, 1, 1, 2, 2]


def test_half_the_rate_shows_every_other() -> None:
    assert len(shown([0, 20, 40, 60, 80, 100], Fraction(25), last=20)) == 3


def test_ntsc_keeps_its_count_over_a_long_time() -> None:
    stamps = [1001 * number for number in range(3000)]
    chosen = shown(stamps, THIRTY, base=Fraction(1, 30000), last=1001)
    assert len(chosen) == 3003
    assert set(chosen) == set(range(3000))


def test_a_late_start_stays_late() -> None:
    first = next(constant_rate(frames_at([1000, 1040]), rate=THIRTY))
    assert (first.pts, first.time_base, first.duration, first.index) == (30, Fraction(1, 30), 1, 0)


def test_nothing_in_nothing_out() -> None:
    assert list(constant_rate([], rate=THIRTY)) == []


def test_a_single_short_frame_is_shown_once() -> None:
    assert shown([0], THIRTY, last=1) == [0]


@given(
    gaps=st.lists(st.integers(1, 400), min_size=1, max_size=40),
    rate=st.sampled_from([Fraction(24), Fraction(25), THIRTY, Fraction(30000, 1001), Fraction(60)]),
    start=st.integers(-500, 5000),
)
def test_every_tick_shows_what_was_on_screen(gaps: list[int], rate: Fraction, start: int) -> None:
    stamps = [start]
    for gap in gaps[:-1]:
        stamps.append(stamps[-1] + gap)
    result = list(constant_rate(frames_at(stamps, last=gaps[-1]), rate=rate))
    chosen = shown(stamps, rate, last=gaps[-1])
    assert [one.index for one in result] == list(range(len(result)))
    assert [one.pts for one in result] == list(range(result[0].pts, result[0].pts + len(result)))
    assert chosen == sorted(chosen)
    half = 1 / rate / 2
    for tick, number in zip(result, chosen, strict=True):
        begins, ends = stamps[number] * MILLI, (stamps[number] + gaps[number]) * MILLI
        assert begins - half <= tick.time <= ends + half
    assert abs(len(result) / rate - sum(gaps) * MILLI) <= 1 / rate
