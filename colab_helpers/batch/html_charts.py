"""Charts of the machine and the run over time, for the report page."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from colab_helpers.language import mark, tr
from colab_helpers.machine import GIB
from colab_helpers.resources.samples import GpuSample, Sample
from colab_helpers.svg import Series, line_chart, number

# Samples farther apart than so many usual distances, and than so many seconds, have a pause between them:
# the machine slept, or the run was continued later.
_PAUSE_DISTANCES, _PAUSE_SECONDS = 5.0, 20.0
_WIDTH, _HEIGHT = 460, 190

Reading = Callable[[Sample], float | None]


@dataclass(frozen=True)
class _Chart:
    """What one chart shows: its lines by name, their unit, and the end of the axis if it is fixed."""

    title: str
    unit: str
    lines: dict[str, Reading]
    high: float | None = None


def _of_gpu(read: Callable[[GpuSample], float | None]) -> Reading:
    return lambda sample: None if sample.gpu is None else read(sample.gpu)


def _gib(size: float | None) -> float | None:
    return None if size is None else size / GIB


_CHARTS = (
    _Chart(
        mark("GPU load"),
        "%",
        {
            mark("networks"): _of_gpu(lambda gpu: gpu.utilisation),
            mark("encoder"): _of_gpu(lambda gpu: gpu.encoder),
            mark("decoder"): _of_gpu(lambda gpu: gpu.decoder),
        },
        high=100.0,
    ),
    _Chart(
        mark("GPU memory"),
        "GiB",
        {
            mark("all programs"): _of_gpu(lambda gpu: _gib(gpu.memory_used)),
            mark("this run"): _of_gpu(lambda gpu: _gib(gpu.process_memory)),
        },
    ),
    _Chart(
        mark("Memory"),
        "GiB",
        {
            mark("machine"): lambda sample: _gib(sample.ram_used),
            mark("this run"): lambda sample: _gib(sample.process_memory),
        },
    ),
    _Chart(mark("Processors"), "%", {mark("machine"): lambda sample: sample.cpu_percent}, high=100.0),
    _Chart(
        mark("Speed"),
        mark("frames/s"),
        {mark("frames"): lambda sample: None if sample.file is None else sample.fps},
    ),
)


def charts_html(samples: Sequence[Sample]) -> str:
    """One figure for each chart that has something to show; empty without samples.

    Args:
        samples: In the order of time, of one run or of several that went on with the same batch.
    """
    parts = _parts(samples)
    figures = "".join(_figure(chart, parts) for chart in _CHARTS)
    return f'<div class="charts">{figures}</div>' if figures else ""


def _figure(chart: _Chart, parts: Sequence[_Part]) -> str:
    lines = {name: list(_points(parts, read)) for name, read in chart.lines.items()}
    known = {name: points for name, points in lines.items() if any(value is not None for _, value in points)}
    if not known:
        return ""
    picture = line_chart(
        [Series(tr(name), points) for name, points in known.items()],
        width=_WIDTH,
        height=_HEIGHT,
        title=tr(chart.title),
        x_label=tr("time at work (min:s)"),
        y_unit=tr(chart.unit),
        high=chart.high,
    )
    figures = "; ".join(_figures(tr(name), points, tr(chart.unit)) for name, points in known.items())
    return f"<figure>{picture}<figcaption>{html.escape(figures)}</figcaption></figure>"


def _figures(name: str, points: Sequence[tuple[float, float | None]], unit: str) -> str:
    known = [value for _, value in points if value is not None]
    mean, most = number(sum(known) / len(known)), number(max(known))
    return tr("{name}: mean {mean}, most {most} {unit}", name=name, mean=mean, most=most, unit=unit)


@dataclass
class _Part:
    """Samples without a pause between them; ``offset`` turns their times into seconds at work."""

    offset: float
    samples: list[Sample]


def _parts(samples: Sequence[Sample]) -> list[_Part]:
    """The samples cut at every pause; the pauses themselves take no room in a chart."""
    distances = [max(0.0, after.time - before.time) for before, after in pairwise(samples)]
    usual = median(distances) if distances else 0.0
    longest = max(_PAUSE_SECONDS, _PAUSE_DISTANCES * usual)
    parts = [_Part(-sample.time, [sample]) for sample in samples[:1]]
    for sample, distance in zip(samples[1:], distances, strict=True):
        if distance > longest:
            at_work = parts[-1].samples[-1].time + parts[-1].offset + usual
            parts.append(_Part(at_work - sample.time, [sample]))
        else:
            parts[-1].samples.append(sample)
    return parts


def _points(parts: Sequence[_Part], read: Reading) -> Iterator[tuple[float, float | None]]:
    for part in parts:
        for sample in part.samples:
            yield sample.time + part.offset, read(sample)
        yield part.samples[-1].time + part.offset, None
