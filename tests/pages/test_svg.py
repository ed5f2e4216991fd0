"""Charts, checked by their SVG coordinates."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from colab_helpers.pages import svg
from colab_helpers.pages.svg import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, line_chart, nice_ticks, sparkline
from colab_helpers.pages.units import clock_text, duration, memory, number, size


def polylines(data: str | None) -> list[list[tuple[float, float]]]:
    parts = [re.findall(r"(-?[\d.]+) (-?[\d.]+)", part) for part in (data or "").split("M")[1:]]
    return [[(float(x), float(y)) for x, y in part] for part in parts]


def curves(text: str) -> list[tuple[str | None, list[list[tuple[float, float]]]]]:
    """Stroke colour and polylines of each curve of values."""
    found = [path for path in ElementTree.fromstring(text).iter("path") if path.get("stroke-width") == "1.6"]
    return [(path.get("stroke"), polylines(path.get("d"))) for path in found]


def texts(text: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(text).iter("text")]


def spark(*values: float | None, **options) -> str:
    return sparkline([list(enumerate(values))], **{"label": "Load", "unit": "%", **options})


def chart(points, **options) -> str:
    return line_chart({"one": points}, **{"title": "Title", "unit": "%", "x_label": "", **options})


def test_peak_position_and_clipping() -> None:
    text = spark(-5, 5, 500, 5, 0, high=10, limit=5)  # values out of range are clipped
    ((colour, [line]),) = curves(text)
    assert colour == svg.BLUE
    (limit,) = (p for p in ElementTree.fromstring(text).iter("path") if p.get("stroke") == svg.ALARM)
    assert limit.get("d", "").startswith("M1 17.0 H")
    xs, ys = zip(*line, strict=True)
    assert ys == (32, 17, 2, 17, 32)
    assert xs[2] == pytest.approx((xs[0] + xs[-1]) / 2, abs=0.2)
    assert max(xs) < svg.SMALL_WIDTH - 20


@pytest.mark.parametrize("gap", [None, math.nan, math.inf])
@pytest.mark.parametrize("draw", [lambda points: spark(*(v for _, v in points)), chart])
def test_gap_splits_the_line(gap, draw) -> None:
    ((_, line),) = curves(draw(list(enumerate([1, 2, gap, 2, 1, gap, 3]))))
    assert [len(part) for part in line] == [2, 2, 1]


def test_chart_is_accessible_and_escapes_texts() -> None:
    unsafe = '<b>&"quoted"\'</b>'
    lines = {unsafe: [(0.0, 1.0)], "b": []}
    large = line_chart(lines, title=unsafe, unit=unsafe, x_label=unsafe)
    for text in (spark(1, label=unsafe, unit=unsafe), large):
        root = ElementTree.fromstring(text)
        assert root.get("role") == "img"
        assert unsafe in root.get("aria-label", "")
        assert root.find("title").text == root.get("aria-label")
        assert not list(root.iter("b"))
        assert {element.get("fill") for element in root.iter("text")} == {"currentColor"}


def test_axes_and_legend() -> None:
    lines = {"used": [(0, 0), (150, 8)], "ours": [(0, 1), (150, 2)]}
    text = line_chart(lines, title="RAM", unit="GiB", x_label="min:s")
    assert {"RAM (GiB)", "used", "ours", "min:s", "0", "2", "4", "6", "8"} <= set(texts(text))
    assert {"0:00", "0:30", "1:00", "2:30"} <= set(texts(text))
    (_, [used]), (_, [ours]) = (line for line in curves(text) if len(line[1][0]) == 2)
    assert used == [(LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, TOP)]
    assert ours[1][1] == pytest.approx(HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) / 4, abs=0.1)


def test_points_are_thinned_but_peaks_kept() -> None:
    points = [(float(i), 10.0 + i % 2) for i in range(20_000)]
    points[12_345], points[700] = (12_345.0, 100.0), (700.0, 0.0)
    text = chart(points, high=100)
    ((_, [line]),) = curves(text)
    assert len(line) <= 2 * WIDTH
    top, bottom = min(line, key=lambda p: p[1]), max(line, key=lambda p: p[1])
    plot = WIDTH - LEFT - RIGHT
    assert top == (pytest.approx(LEFT + 12_345 / 19_999 * plot, abs=0.1), TOP)
    assert bottom == (pytest.approx(LEFT + 700 / 19_999 * plot, abs=0.1), HEIGHT - BOTTOM)
    assert [x for x, _ in line] == sorted(x for x, _ in line)
    assert len(spark(*(value for _, value in points))) < 6_000
    assert len(chart([(x, None if x % 2 else 1.0) for x, _ in points])) < 500_000


@pytest.mark.parametrize(
    ("low", "high"), [(0, 100), (0, 1), (0, 0), (0, 0.03), (0, 23.5), (0, 101), (-3, 7), (5, 5), (0, 9e9)]
)
def test_ticks_are_few_and_span_the_values(low, high) -> None:
    ticks = nice_ticks(low, high)
    assert 3 <= len(ticks) <= 5
    assert ticks[0] <= low
    assert ticks[-1] >= high
    (step,) = {round(b - a, 9) for a, b in pairwise(ticks)}
    assert f"{step:e}"[:3] in ("1.0", "2.0", "2.5", "5.0")


@pytest.mark.parametrize(
    ("formatted", "expected"),
    [
        (clock_text(754), "12:34"),
        (clock_text(90061), "25:01:01"),
        (duration(59.94), "59.9 s"),
        (duration(754.2), "12:34"),
        (number(0.125), "0.125"),
        (number(23.456), "23.5"),
        (size(1_500_000), "1.5 MB"),
        (size(2.5e12), "2500 GB"),
        (memory(3 << 29), "1.5 GiB"),
    ],
)
def test_number_formatting(formatted, expected) -> None:
    assert formatted == expected
