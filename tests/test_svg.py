"""Charts: what they show is read back from the SVG's own coordinates."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from colab_helpers import svg
from colab_helpers.svg import Series, clock_text, line_chart, nice_ticks, number, sparkline


def paths(text: str) -> list[tuple[str, list[list[tuple[float, float]]]]]:
    """Colour and stretches of points of every stroked line."""
    found = []
    for path in ElementTree.fromstring(text).iter("path"):
        if path.get("stroke") != "none":
            found.append((path.get("stroke"), stretches(path.get("d"))))
    return found


def stretches(data: str) -> list[list[tuple[float, float]]]:
    parts = [re.findall(r"(-?[\d.]+) (-?[\d.]+)", part) for part in data.split("M")[1:]]
    return [[(float(x), float(y)) for x, y in part] for part in parts]


def texts(text: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(text).iter("text")]


def area(text: str) -> list[str]:
    return [p.get("d") for p in ElementTree.fromstring(text).iter("path") if p.get("stroke") == "none"]


def chart(points, **options) -> str:
    return line_chart([Series("one", points)], title="Title", width=640, height=220, **options)


def test_the_peak_is_where_it_belongs() -> None:
    ((colour, [line]),) = paths(sparkline([0, 5, 10, 5, 0], width=200, height=34))
    assert colour == svg.BLUE
    xs, ys = zip(*line, strict=True)
    assert ys == (32, 17, 2, 17, 32)
    assert len({round(after - before, 1) for before, after in pairwise(xs)}) <= 2
    assert xs[2] == pytest.approx((xs[0] + xs[-1]) / 2, abs=0.2)
    assert max(xs) < 200 - svg._LETTER


@pytest.mark.parametrize("gap", [None, math.nan, math.inf])
def test_a_gap_stays_a_gap(gap: float | None) -> None:
    drawn = paths(sparkline([1, 2, gap, 2, 1, gap, 3]))
    assert [[len(stretch) for stretch in line] for _, line in drawn] == [[2], [2], [1]]
    ((_, line),) = paths(chart([(0, 1), (1, 2), (2, gap), (3, 2)]))
    assert [len(stretch) for stretch in line] == [2, 1]


def test_above_the_thresholds_the_colour_changes_at_the_crossing() -> None:
    drawn = paths(sparkline([0, 100, 0], low=0, high=100, warn=50, alarm=90, height=104))
    assert [colour for colour, _ in drawn] == [svg.BLUE, svg.WARN, svg.ALARM, svg.WARN, svg.BLUE]
    ends = [line[0][-1][1] for _, line in drawn]
    assert ends == [52, 12, 12, 52, 102]
    for (_, before), (_, after) in pairwise(drawn):
        assert before[0][-1] == after[0][0]


@pytest.mark.parametrize(
    ("values", "figures", "stretch"),
    [
        ([], "–", []),
        ([None], "–", []),
        ([math.nan, math.nan], "–", []),
        ([7], "7 %", [1]),
        ([3, 3, 3], "3 %", [3]),
        ([0, 0], "0 %", [2]),
        ([1, None], "–", [1]),
    ],
)
def test_little_to_show(values: list[float | None], figures: str, stretch: list[int]) -> None:
    text = sparkline(values, label="Load", unit="%")
    assert [len(line[0]) for _, line in paths(text)] == stretch
    assert texts(text) == [figures]
    assert "nan" not in text
    assert "inf" not in text
    every = [(0.0 + x, value) for x, value in enumerate(values)]
    assert "nan" not in chart(every)


def test_values_beyond_the_edges_are_cut_off() -> None:
    ((_, [line]),) = paths(sparkline([-5, 50, 500], low=0, high=100, height=104))
    assert [y for _, y in line] == [102, 52, 2]


def test_it_can_be_read_aloud_and_nothing_breaks_out() -> None:
    evil = '<b>&"quoted"\'</b>'
    for text in (
        sparkline([1], label=evil, unit=evil),
        line_chart([Series(evil, [(0, 1)]), Series("b", [])], title=evil, x_label=evil, y_unit=evil),
    ):
        root = ElementTree.fromstring(text)
        assert root.get("role") == "img"
        assert evil in root.get("aria-label", "")
        assert root.find("title").text == root.get("aria-label")
        assert not list(root.iter("b"))


def test_text_takes_the_pages_colour_and_nothing_is_fetched() -> None:
    text = chart([(0, 1), (5, 3)])
    assert {element.get("fill") for element in ElementTree.fromstring(text).iter("text")} == {"currentColor"}
    assert "http" not in text
    assert " id=" not in text


def test_the_area_closes_at_the_bottom_and_can_be_left_out() -> None:
    (data,) = area(sparkline([1, 2, 1], height=34))
    assert data.endswith(" Z")
    assert [y for _, y in stretches(data)[0]][-2:] == [32, 32]
    assert area(sparkline([1, 2, 1], fill=False)) == []


def test_axes_and_legend() -> None:
    series = [Series("used", [(0, 0), (150, 8)]), Series("ours", [(0, 1), (150, 2)])]
    text = line_chart(series, title="RAM", y_label="in use", y_unit="GiB", x_label="min:s")
    shown = texts(text)
    assert "RAM, in use (GiB)" in shown
    assert {"used", "ours", "min:s"} <= set(shown)
    assert {"0", "2", "4", "6", "8"} <= set(shown)
    assert {"0:00", "0:30", "1:00", "2:30"} <= set(shown)
    (_, [used]), (_, [ours]) = (line for line in paths(text) if len(line[1][0]) == 2)
    assert used[0] == (svg._LEFT, 220 - svg._BOTTOM)
    assert used[1] == (640 - svg._RIGHT, svg._TOP)
    assert ours[1][1] == pytest.approx(220 - svg._BOTTOM - (220 - svg._BOTTOM - svg._TOP) / 4)


def test_lines_differ_without_colour_too() -> None:
    root = ElementTree.fromstring(line_chart([Series(n, [(0, 1)]) for n in "abcd"], title="t"))
    styles = [(path.get("stroke"), path.get("stroke-dasharray")) for path in root.iter("path")]
    lines, legend = styles[:4], styles[4:]
    assert lines == legend
    assert len({dash for _, dash in lines}) == len({colour for colour, _ in lines}) == 4


def test_thousands_of_points_are_thinned_and_peaks_stay() -> None:
    points = [(float(i), 10.0 + i % 2) for i in range(20_000)]
    points[12_345] = (12_345.0, 100.0)
    points[700] = (700.0, 0.0)
    text = chart(points, high=100)
    ((_, [line]),) = paths(text)
    assert len(line) <= 2 * 640
    assert len(text) < 40_000
    plot = 640 - svg._LEFT - svg._RIGHT
    top, bottom = min(line, key=lambda p: p[1]), max(line, key=lambda p: p[1])
    assert top == (pytest.approx(svg._LEFT + 12_345 / 19_999 * plot, abs=0.1), svg._TOP)
    assert bottom == (pytest.approx(svg._LEFT + 700 / 19_999 * plot, abs=0.1), 220 - svg._BOTTOM)
    assert [x for x, _ in line] == sorted(x for x, _ in line)


def test_alternating_gaps_stay_small() -> None:
    text = chart([(float(i), None if i % 2 else 1.0) for i in range(20_000)])
    assert len(text) < 500_000


@pytest.mark.parametrize(
    ("low", "high"), [(0, 100), (0, 1), (0, 0), (0, 0.03), (0, 23.5), (0, 101), (-3, 7), (5, 5), (0, 9e9)]
)
def test_ticks_are_few_and_hold_the_values(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert 3 <= len(ticks) <= 5
    assert ticks[0] <= low
    assert ticks[-1] >= high
    steps = {round(b - a, 9) for a, b in pairwise(ticks)}
    assert len(steps) == 1
    assert f"{steps.pop():e}"[:3] in ("1.0", "2.0", "2.5", "5.0")


def test_the_same_values_give_the_same_text() -> None:
    values = [1.0, 2.5, None, 3.25]
    assert sparkline(values) == sparkline(list(values))


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("colour", [*svg._COLOURS, svg.WARN, svg.ALARM])
@pytest.mark.parametrize("page", ["#FFFFFF", "#161618"])
def test_colours_are_seen_on_light_and_dark_pages(colour: str, page: str) -> None:
    dark, light = sorted([luminance(colour), luminance(page)])
    assert (light + 0.05) / (dark + 0.05) >= 3


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (754, "12:34"), (3600, "1:00:00"), (90061, "25:01:01")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.125, "0.125"),
        (1.5, "1.5"),
        (23.456, "23.5"),
        (100, "100"),
        (1234.5, "1234"),
        (-2.5, "-2.5"),
    ],
)
def test_three_digits(value: float, text: str) -> None:
    assert number(value) == text
