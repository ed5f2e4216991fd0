"""Charts as inline SVG, for pages and notebooks that load nothing from elsewhere.

The pictures stand inside HTML; text and axes take the page's own text colour, so they fit a light page and
a dark one. The same values always give the same text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import TypeGuard

# From the palette of Okabe and Ito, which people with any of the usual colour-vision deficiencies can tell
# apart; of it only colours that have a contrast of 3 to 1 or more on white and on a dark page alike. Lines of
# a chart differ in their dashes too, for print in black and white.
BLUE, GREEN, PURPLE, VERMILLION = "#0072B2", "#009E73", "#C26A98", "#D55E00"
AMBER = "#B8860B"
WARN, ALARM = AMBER, VERMILLION
_COLOURS = (BLUE, VERMILLION, GREEN, PURPLE)
_DASHES = ("", "7 3", "2 3", "9 3 2 3")

_LETTER = 6.5
"""Mean width of a letter at the size of text used here, in pixels."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 40, 36
_TIME_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        name: For the legend.
        points: Pairs of seconds and value, in the order of time; a value of None or NaN is a gap.
        colour: Any CSS colour; by default the next of this module's.
    """

    name: str
    points: Sequence[tuple[float, float | None]]
    colour: str = ""


def sparkline(
    values: Sequence[float | None],
    *,
    width: int = 160,
    height: int = 32,
    low: float = 0.0,
    high: float | None = None,
    colour: str = BLUE,
    fill: bool = True,
    label: str = "",
    unit: str = "",
    warn: float | None = None,
    alarm: float | None = None,
) -> str:
    """A small line without axes, with its last value in figures behind it.

    Args:
        values: At even distances; None and NaN are gaps.
        width: In pixels, the figures included.
        height: In pixels.
        low: Value at the lower edge.
        high: Value at the upper edge; by default the greatest there is. Values beyond are cut off.
        colour: Of the line below both thresholds.
        fill: Shade the area below the line.
        label: What it shows, for screen readers and as a tip.
        unit: Of the values.
        warn: From here on the line is amber; from ``alarm`` on vermillion.
        alarm: See ``warn``.

    Returns:
        An ``<svg>`` element.
    """
    last = values[-1] if values else None
    figures = f"{number(last)} {unit}".strip() if _is_known(last) else "–"
    plot = max(1.0, width - _LETTER * len(figures) - 6)
    top = max(filter(_is_known, values), default=low) if high is None else high
    scale = _Scale(
        x=(0.0, float(max(1, len(values) - 1))),
        y=(low, top if top > low else low + 1.0),
        box=(1.0, 2.0, plot - 1.0, height - 2.0),
    )
    levels = [(limit, tint) for limit, tint in ((warn, WARN), (alarm, ALARM)) if limit is not None]
    parts = []
    for run in _runs(list(enumerate(values))):
        if fill and len(run) > 1:
            parts.append(_area(scale, _thinned(run, scale), colour))
        for tint, piece in _coloured(_thinned(run, scale), colour, levels):
            parts.append(_path([scale.path(piece)], tint))
    parts.append(_text(width - 1, height / 2 + 4, figures, anchor="end"))
    return _svg(width, height, f"{label}: {figures}" if label else figures, "".join(parts))


def line_chart(
    series: Sequence[Series],
    *,
    width: int = 640,
    height: int = 220,
    title: str,
    x_label: str = "",
    y_label: str = "",
    y_unit: str = "",
    low: float = 0.0,
    high: float | None = None,
) -> str:
    """Lines over time with axes and a legend.

    Args:
        series: The lines; in one pixel column each keeps its least and its greatest value, so that peaks
            stay however many points there are.
        width: In pixels; on a narrower page the chart shrinks.
        height: In pixels.
        title: Its heading.
        x_label: Below the axis of time, whose ticks are minutes and seconds.
        y_label: Beside the title; ``y_unit`` in brackets after it.
        y_unit: See ``y_label``.
        low: Least value of the axis, if no value is below; ``high`` likewise.
        high: See ``low``.

    Returns:
        An ``<svg>`` element.
    """
    values = [value for line in series for _, value in line.points if _is_known(value)]
    times = [time for line in series for time, _ in line.points]
    ticks = nice_ticks(min([low, *values]), max([low if high is None else high, *values]))
    start, end = min(times, default=0.0), max(times, default=0.0)
    box = (_LEFT, _TOP, width - _RIGHT, height - _BOTTOM)
    scale = _Scale((start, max(end, start + 1.0)), (ticks[0], ticks[-1]), box)
    parts = [*_grid(scale, ticks), _caption(width, height, title, x_label, y_label, y_unit)]
    for index, line in enumerate(series):
        colour = line.colour or _COLOURS[index % len(_COLOURS)]
        pieces = [scale.path(_thinned(run, scale)) for run in _runs(line.points)]
        parts.append(_path(pieces, colour, dashes=_DASHES[index % len(_DASHES)]) if pieces else "")
    parts += _legend(series, width) if len(series) > 1 else []
    return _svg(width, height, title, "".join(parts))


def nice_ticks(low: float, high: float) -> list[float]:
    """Three to five round numbers at even distances, from at most ``low`` to at least ``high``."""
    span = high - low if high > low else 1.0
    power = 10.0 ** (math.floor(math.log10(span)) - 1)
    for factor in (1, 2, 2.5, 5, 10, 20, 25, 50, 100):
        step = factor * power
        first, last = math.floor(low / step + 1e-9), math.ceil((low + span) / step - 1e-9)
        if last - first <= 4:
            break
    return [index * step for index in range(first, max(last, first + 2) + 1)]


def clock_text(seconds: float) -> str:
    """``m:ss``, from an hour on ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def number(value: float) -> str:
    """A value with as many digits as are worth reading: about three."""
    if not value:
        return "0"
    digits = min(3, max(0, 2 - math.floor(math.log10(abs(value)))))
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@dataclass(frozen=True)
class _Scale:
    """Turns values into pixels: ``x`` and ``y`` are their ranges, ``box`` is left, top, right, bottom."""

    x: tuple[float, float]
    y: tuple[float, float]
    box: tuple[float, float, float, float]

    def to_x(self, value: float) -> float:
        left, _, right, _ = self.box
        return left + (value - self.x[0]) / (self.x[1] - self.x[0]) * (right - left)

    def to_y(self, value: float) -> float:
        _, top, _, bottom = self.box
        share = (value - self.y[0]) / (self.y[1] - self.y[0])
        return bottom - min(1.0, max(0.0, share)) * (bottom - top)

    def path(self, points: Points) -> str:
        """Path data; a single point becomes a dot, which round line ends make visible."""
        pixels = [f"{self.to_x(x):.1f} {self.to_y(y):.1f}" for x, y in points]
        return "M" + " L".join(pixels) + (" h0" if len(pixels) == 1 else "")


def _is_known(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _runs(points: Sequence[tuple[float, float | None]]) -> Iterator[Points]:
    """Stretches without a gap."""
    run: Points = []
    for x, y in points:
        if _is_known(y):
            run.append((x, y))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _thinned(points: Points, scale: _Scale) -> Points:
    """The least and the greatest point of every pixel column, in their order."""
    columns: dict[int, Points] = {}
    for point in points:
        columns.setdefault(int(scale.to_x(point[0])), []).append(point)
    kept: Points = []
    for column in columns.values():
        least, greatest = min(column, key=lambda p: p[1]), max(column, key=lambda p: p[1])
        kept += sorted({least, greatest})
    return kept


def _coloured(
    points: Points, colour: str, levels: Sequence[tuple[float, str]]
) -> Iterator[tuple[str, Points]]:
    """Pieces of a line by colour, cut where it crosses a threshold."""

    def tint(value: float) -> str:
        return ([colour] + [above for limit, above in levels if value >= limit])[-1]

    piece = [points[0]]
    current = tint(points[0][1])
    for before, after in pairwise(points):
        for stop in [*_crossings(before, after, [limit for limit, _ in levels]), after]:
            now = tint((piece[-1][1] + stop[1]) / 2)
            if now != current and len(piece) > 1:
                yield current, piece
                piece = [piece[-1]]
            current = now
            piece.append(stop)
    yield current, piece


def _crossings(before: tuple[float, float], after: tuple[float, float], limits: Sequence[float]) -> Points:
    (x0, y0), (x1, y1) = before, after
    within = [limit for limit in limits if min(y0, y1) < limit < max(y0, y1)]
    return sorted((x0 + (limit - y0) / (y1 - y0) * (x1 - x0), limit) for limit in within)


def _area(scale: _Scale, points: Points, colour: str) -> str:
    bottom = scale.box[3]
    left, right = scale.to_x(points[0][0]), scale.to_x(points[-1][0])
    data = f"{scale.path(points)} L{right:.1f} {bottom:.1f} L{left:.1f} {bottom:.1f} Z"
    return f'<path d="{data}" fill="{escape(colour)}" fill-opacity="0.15" stroke="none"/>'


def _path(data: Sequence[str], colour: str, *, dashes: str = "") -> str:
    dash = f' stroke-dasharray="{dashes}"' if dashes else ""
    return (
        f'<path d="{" ".join(data)}" fill="none" stroke="{escape(colour)}" stroke-width="1.6" '
        f'stroke-linecap="round" stroke-linejoin="round"{dash}/>'
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="currentColor"{weight}>'
        f"{escape(text)}</text>"
    )


def _grid(scale: _Scale, ticks: Sequence[float]) -> Iterator[str]:
    left, _, right, bottom = scale.box
    for tick in ticks:
        y = scale.to_y(tick)
        yield (
            f'<line x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="currentColor" '
            f'stroke-opacity="{0.5 if tick == ticks[0] else 0.15}"/>'
        )
        yield _text(left - 6, y + 4, number(tick), anchor="end")
    span = scale.x[1] - scale.x[0]
    step = next((step for step in _TIME_STEPS if span / step <= 5), math.ceil(span / 5))
    for index in range(int(span // step) + 1):
        x = scale.to_x(scale.x[0] + index * step)
        yield (
            f'<line x1="{x:.1f}" y1="{bottom}" x2="{x:.1f}" y2="{bottom + 4}" '
            f'stroke="currentColor" stroke-opacity="0.5"/>'
        )
        yield _text(x, bottom + 16, clock_text(scale.x[0] + index * step), anchor="middle")


def _caption(width: int, height: int, title: str, x_label: str, y_label: str, y_unit: str) -> str:
    heading = ", ".join(filter(None, [title, y_label])) + (f" ({y_unit})" if y_unit else "")
    return _text(4, 14, heading, bold=True) + _text(width - _RIGHT, height - 4, x_label, anchor="end")


def _legend(series: Sequence[Series], width: int) -> Iterator[str]:
    x = float(_LEFT)
    for index, line in enumerate(series):
        colour = line.colour or _COLOURS[index % len(_COLOURS)]
        yield _path([f"M{x:.1f} 26 h20"], colour, dashes=_DASHES[index % len(_DASHES)])
        yield _text(x + 26, 30, line.name)
        x = min(x + 40 + _LETTER * len(line.name), width - _LEFT)


def _svg(width: int, height: int, title: str, content: str) -> str:
    label = escape(title)
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" style="max-width:100%;height:auto" font-family="sans-serif" font-size="11">'
        f"<title>{label}</title>{content}</svg>"
    )
