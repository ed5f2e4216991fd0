"""Draw charts as inline SVG, for self-contained pages and notebooks.

Text and axes take the page's text colour, so they fit light and dark pages. Output is deterministic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from colab_helpers.pages.units import clock_text, number

# From the colour-blind safe palette of Okabe and Ito, only those with a contrast of at least 3:1 on both
# light and dark pages.
BLUE, GREEN, PURPLE, VERMILLION = "#0072B2", "#009E73", "#C26A98", "#D55E00"
ALARM = VERMILLION
GOOD, WARN, BAD = "#2f8f3a", "#b87300", "#e0443e"
"""Text colours with a contrast of about 4:1 on both dark and light pages."""
# Lines differ in their dashes too, for print in black and white.
STYLES = ((BLUE, ""), (VERMILLION, "7 3"), (GREEN, "2 3"), (PURPLE, "9 3 2 3"))

WIDTH, HEIGHT = 460, 190
"""Size of a chart in pixels; it shrinks with the page."""
SMALL_WIDTH, SMALL_HEIGHT = 200, 34
"""Size of a sparkline with its values, in pixels."""
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 40, 36
"""Margins of a chart for axes, title and legend, in pixels."""
_STRIP_WIDTH, _STRIP_MINIMUM = 1000, 2.5
"""Width of a strip in SVG units, and minimum width of a span, so that a single frame is visible."""
_LETTER = 6.5  # mean width of a letter, in pixels
_TIME_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)

Points = Sequence[tuple[float, float | None]]
"""Pairs of seconds and value in order of time; a value of None or NaN is a gap."""
_Segment = list[tuple[float, float]]


def sparkline(
    lines: Sequence[Points],
    *,
    label: str,
    unit: str,
    high: float | None = None,
    limit: float | None = None,
    colour: str = BLUE,
) -> Markup:
    """Draw a small chart without axes, the first line strongest, with the last value as text.

    Values range from 0 to ``high``, by default the maximum; a dashed line marks ``limit``. With several
    lines, the text is the range of their last values.
    """
    last = [number(value) for value in sorted(_values([line[-1] for line in lines if line]))]
    figures = f"{'–'.join(dict.fromkeys((last[0], last[-1])))} {unit}" if last else "–"
    top = max([0.0, *(value for line in lines for value in _values(line))]) if high is None else high
    right = max(2.0, SMALL_WIDTH - _LETTER * len(figures) - 7)
    scale = _Scale.of(lines, (0.0, top or 1.0), (1.0, 2.0, right, SMALL_HEIGHT - 2.0))
    parts = [
        _curve(line, scale, colour, column=3.0, shaded=len(lines) == 1, opacity=0.45 if index else 1.0)
        for index, line in enumerate(lines)
    ]
    if limit is not None:
        parts.append(_path(f"M1 {scale.to_y(limit):.1f} H{right:.1f}", ALARM, "2 3", width=1.0))
    parts.append(_text(SMALL_WIDTH - 1, SMALL_HEIGHT / 2 + 4, figures, "end"))
    return _svg(SMALL_WIDTH, SMALL_HEIGHT, f"{label}: {figures}", parts)


def line_chart(
    lines: Mapping[str, Points], *, title: str, unit: str, x_label: str, high: float | None = None
) -> Markup:
    """Draw lines over time with axes and a legend; the value axis covers at least 0 to ``high``.

    Each pixel column keeps the minimum and maximum of a line, so that peaks remain visible.
    """
    values = [0.0, high or 0.0, *(value for points in lines.values() for value in _values(points))]
    ticks = nice_ticks(min(values), max(values))
    box = (LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM)
    scale = _Scale.of(list(lines.values()), (ticks[0], ticks[-1]), box)
    parts = [*_grid(scale, ticks), _text(4, 14, f"{title} ({unit})", bold=True)]
    parts.append(_text(WIDTH - RIGHT, HEIGHT - 4, x_label, "end"))
    x = float(LEFT)
    for (name, points), style in zip(lines.items(), STYLES, strict=False):
        parts.append(_curve(points, scale, *style))
        if len(lines) > 1:
            parts += [_path(f"M{x:.1f} 26 h20", *style), _text(x + 26, 30, name)]
            x = min(x + 40 + _LETTER * len(name), WIDTH - LEFT)
    return _svg(WIDTH, HEIGHT, title, parts)


def strip(
    present: Sequence[tuple[int, int]], missed: Sequence[tuple[int, int]], frames: int, *, label: str
) -> Markup:
    """Draw a video as a full-width bar that shows when a person is present, and when missed.

    ``present`` and ``missed`` are half-open spans of frames, out of ``frames`` in total.
    """
    template = Markup(
        '<svg role="img" aria-label="{label}" viewBox="0 0 {width} 10" preserveAspectRatio="none" '
        'style="display:block;width:100%;height:10px;background:rgba(128,128,128,.2)">'
        '<title>{label}</title><path d="{present}" fill="{blue}" fill-opacity="0.45"/>'
        '<path d="{missed}" fill="{alarm}"/></svg>'
    )
    bars = {"present": _bars(present, frames), "missed": _bars(missed, frames)}
    return template.format(label=label, width=_STRIP_WIDTH, blue=BLUE, alarm=ALARM, **bars)


def _bars(spans: Sequence[tuple[int, int]], frames: int) -> str:
    unit = _STRIP_WIDTH / max(frames, 1)
    widths = [(start * unit, max((stop - start) * unit, _STRIP_MINIMUM)) for start, stop in spans]
    return " ".join(f"M{left:.1f} 0h{width:.1f}v10h-{width:.1f}z" for left, width in widths)


def nice_ticks(low: float, high: float) -> list[float]:
    """Return three to five evenly spaced round numbers that enclose ``low`` and ``high``."""
    span = high - low if high > low else 1.0
    power = 10.0 ** (math.floor(math.log10(span)) - 1)
    for factor in (1, 2, 2.5, 5, 10, 20, 25, 50, 100):
        step = factor * power
        first, last = math.floor(low / step + 1e-9), math.ceil((low + span) / step - 1e-9)
        if last - first <= 4:
            break
    return [index * step for index in range(first, max(last, first + 2) + 1)]


@dataclass(frozen=True)
class _Scale:
    """Maps values to pixels: ``x`` and ``y`` are value ranges, ``box`` is left, top, right, bottom."""

    x: tuple[float, float]
    y: tuple[float, float]
    box: tuple[float, float, float, float]

    @classmethod
    def of(
        cls, lines: Sequence[Points], y: tuple[float, float], box: tuple[float, float, float, float]
    ) -> _Scale:
        times = [time for points in lines for time, _ in points]
        start, end = min(times, default=0.0), max(times, default=0.0)
        return cls((start, end if end > start else start + 1.0), y, box)

    def to_x(self, value: float) -> float:
        return self.box[0] + (value - self.x[0]) / (self.x[1] - self.x[0]) * (self.box[2] - self.box[0])

    def to_y(self, value: float) -> float:
        share = min(1.0, max(0.0, (value - self.y[0]) / (self.y[1] - self.y[0])))
        return self.box[3] - share * (self.box[3] - self.box[1])


def _values(points: Points) -> Iterator[float]:
    return (value for _, value in points if value is not None and math.isfinite(value))


def _split_at_gaps(points: Points) -> Iterator[_Segment]:
    segment: _Segment = []
    for x, y in [*points, (0.0, None)]:
        if y is not None and math.isfinite(y):
            segment.append((x, y))
        elif segment:
            yield segment
            segment = []


def _thin_out(points: _Segment, scale: _Scale, column: float) -> Iterator[tuple[float, float]]:
    """Yield the lowest and highest point of every ``column`` pixels, in order of time."""
    columns: dict[int, _Segment] = {}
    for point in points:
        columns.setdefault(int(scale.to_x(point[0]) / column), []).append(point)
    for group in columns.values():
        yield from sorted({min(group, key=lambda p: p[1]), max(group, key=lambda p: p[1])})


def _curve(
    points: Points,
    scale: _Scale,
    colour: str,
    dashes: str = "",
    *,
    column: float = 1.0,
    shaded: bool = False,
    opacity: float = 1.0,
) -> Markup:
    """Draw one line with gaps; round line caps make an isolated point visible as a dot."""
    paths, areas = [], []
    for segment in _split_at_gaps(points):
        pixels = [f"{scale.to_x(x):.1f} {scale.to_y(y):.1f}" for x, y in _thin_out(segment, scale, column)]
        paths.append("M" + " L".join(pixels) + (" h0" if len(pixels) == 1 else ""))
        left, right = scale.to_x(segment[0][0]), scale.to_x(segment[-1][0])
        areas.append(f"{paths[-1]} L{right:.1f} {scale.box[3]} L{left:.1f} {scale.box[3]} Z")
    shade = Markup('<path d="{}" fill="{}" fill-opacity="0.15"/>').format(" ".join(areas), colour)
    line = _path(" ".join(paths), colour, dashes, opacity=opacity)
    return shade + line if shaded and areas else line


def _path(data: str, colour: str, dashes: str = "", *, width: float = 1.6, opacity: float = 1.0) -> Markup:
    template = Markup(
        '<path d="{}" fill="none" stroke="{}" stroke-dasharray="{}" stroke-width="{}" stroke-opacity="{}" '
        'stroke-linecap="round" stroke-linejoin="round"/>'
    )
    return template.format(data, colour, dashes or "none", width, opacity) if data else Markup()


def _text(x: float, y: float, text: str, anchor: str = "start", *, bold: bool = False) -> Markup:
    return Markup(
        '<text x="{:.1f}" y="{:.1f}" text-anchor="{}" font-weight="{}" fill="currentColor">{}</text>'
    ).format(x, y, anchor, 600 if bold else 400, text)


def _grid(scale: _Scale, ticks: Sequence[float]) -> Iterator[Markup]:
    left, _, right, bottom = scale.box
    for tick in ticks:
        y, opacity = scale.to_y(tick), 0.5 if tick == ticks[0] else 0.15
        yield _path(f"M{left} {y:.1f} H{right}", "currentColor", width=1.0, opacity=opacity)
        yield _text(left - 6, y + 4, number(tick), "end")
    start, span = scale.x[0], scale.x[1] - scale.x[0]
    step = next((step for step in _TIME_STEPS if span / step <= 5), math.ceil(span / 5))
    for time in (start + index * step for index in range(int(span // step) + 1)):
        yield _path(f"M{scale.to_x(time):.1f} {bottom} v4", "currentColor", width=1.0, opacity=0.5)
        yield _text(scale.to_x(time), bottom + 16, clock_text(time), "middle")


def _svg(width: int, height: int, title: str, parts: Sequence[Markup]) -> Markup:
    return Markup(
        '<svg role="img" aria-label="{title}" viewBox="0 0 {width} {height}" width="{width}" '
        'height="{height}" style="max-width:100%;height:auto" font-family="sans-serif" font-size="11">'
        "<title>{title}</title>{content}</svg>"
    ).format(title=title, width=width, height=height, content=Markup().join(parts))
