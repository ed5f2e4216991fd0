"""The metrics of a run: one table for charts, texts and warnings, live and in the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from colab_helpers.language import mark, tr
from colab_helpers.machine import GIB
from colab_helpers.pages.units import number
from colab_helpers.resources.bottleneck import CHANGE, DECODE, FIND
from colab_helpers.resources.samples import WARNING_PERCENT, Sample

# A gap between samples longer than so many median intervals, and so many seconds, is a pause: the machine
# slept, or the run was resumed later.
_PAUSE_INTERVALS, _PAUSE_SECONDS = 5.0, 20.0

WINDOW = 600.0
"""Seconds shown by the charts of a run in progress."""

Reading = Callable[[Sample], float | None]


@dataclass(frozen=True)
class Metric:
    """A metric and how it is shown; texts are in English, marked for translation.

    Attributes:
        name: Identifier, as in ``EVERY_GPU``; not shown.
        title: Heading.
        unit: Unit of its values.
        read: Returns the value in a sample, in ``unit``; None if unknown.
        total: Returns the capacity, of which the value is also shown as a share.
        high: Fixed upper end of its chart, if any.
        limit: A value from here on is a warning; in percent of ``total`` if there is one.
        least: A value below is a warning.
        remedy: What to do after a warning.
        chart: Title of the chart in the report shared with other metrics; empty for its own.
        stage: For a queue length, the pipeline stage that fills the queue; else empty.
    """

    name: str
    title: str
    unit: str
    read: Reading
    total: Reading | None = None
    high: float | None = None
    limit: float | None = None
    least: float | None = None
    remedy: str = ""
    chart: str = ""
    stage: str = ""

    @property
    def heading(self) -> str:
        """The title in the user's language."""
        return tr("After {stage}", stage=tr(self.stage)) if self.stage else tr(self.title)

    def share(self, sample: Sample) -> float | None:
        """Return the value in percent of the total; None without either."""
        value, total = self.read(sample), self.total(sample) if self.total else None
        return None if value is None or not total else 100.0 * value / total

    def warning(self, sample: Sample) -> str:
        """Say what is wrong and what to do about it, in one sentence; empty if within limits."""
        value = self.share(sample) if self.total else self.read(sample)
        if value is None:
            return ""
        unit = "%" if self.total else tr(self.unit)
        values = {"title": self.heading, "found": f"{number(value)} {unit}", "remedy": tr(self.remedy)}
        if self.limit is not None and value >= self.limit:
            edge = f"{number(self.limit)} {unit}"
            return tr("{title} {found} (limit {edge}): {remedy}.", edge=edge, **values)
        if self.least is not None and value < self.least:
            edge = f"{number(self.least)} {unit}"
            return tr("{title} {found} (minimum {edge}): {remedy}.", edge=edge, **values)
        return ""

    def text(self, sample: Sample) -> str:
        """Format title and value; empty if the value is unknown."""
        value, share = self.read(sample), self.share(sample)
        if value is None:
            return ""
        if self.total is None or share is None:
            return f"{self.heading} {number(value)} {tr(self.unit)}"
        amount = tr(
            "{value} of {total} {unit} ({share:.0f} %)",
            value=number(value),
            total=number(self.total(sample) or 0.0),
            unit=tr(self.unit),
            share=share,
        )
        return f"{self.heading} {amount}"


def _field(name: str, unit: float = 1.0, *, gpu: bool = False) -> Reading:
    """Return a reader of a field of a sample, or of its GPU, divided by ``unit``."""

    def read(sample: Sample) -> float | None:
        record = sample.gpu if gpu else sample
        value: float | None = None if record is None else getattr(record, name)
        return None if value is None else value / unit

    return read


def _gpu(name: str, unit: float = 1.0) -> Reading:
    return _field(name, unit, gpu=True)


_LOAD, _VRAM, _RAM = mark("GPU load"), mark("GPU memory"), mark("Memory")

METRICS = (
    Metric("gpu", "GPU", "%", _gpu("utilisation"), high=100.0, chart=_LOAD),
    Metric(
        "vram",
        "VRAM",
        "GiB",
        _gpu("memory_used", GIB),
        total=_gpu("memory_total", GIB),
        limit=90.0,
        remedy=mark(
            'use the preset stable or overrides = {"batch_size": 1}, and close other notebooks that '
            "use the GPU"
        ),
        chart=_VRAM,
    ),
    Metric("vram_run", mark("VRAM of this run"), "GiB", _gpu("process_memory", GIB), chart=_VRAM),
    Metric("encoder", mark("Video encoder"), "%", _gpu("encoder"), high=100.0, chart=_LOAD),
    Metric("decoder", mark("Video decoder"), "%", _gpu("decoder"), high=100.0, chart=_LOAD),
    Metric(
        "temperature",
        mark("GPU temperature"),
        "°C",
        _gpu("temperature"),
        high=100.0,
        limit=83.0,
        remedy=mark("the GPU may throttle; on your own machine, check its cooling"),
    ),
    Metric("power", mark("GPU power"), "W", _gpu("power")),
    Metric("cpu", "CPU", "%", _field("cpu_percent"), high=100.0),
    Metric(
        "ram",
        "RAM",
        "GiB",
        _field("ram_used", GIB),
        total=_field("ram_total", GIB),
        limit=WARNING_PERCENT,
        remedy=mark("use the preset stable or a smaller max_memory, and close other programs"),
        chart=_RAM,
    ),
    Metric("process_memory", mark("Process memory"), "GiB", _field("process_memory", GIB), chart=_RAM),
    Metric(
        "disk_free",
        mark("Disk free"),
        "GB",
        _field("disk_free", 1e9),
        least=2.0,
        remedy=mark("free space on the disk of the output folder, or the next file may not fit"),
    ),
    Metric("fps", mark("Speed"), mark("frames/s"), lambda sample: sample.fps if sample.file else None),
)
"""All metrics, in the order in which they are shown."""
EVERY_GPU = ("gpu", "vram")
"""Metrics that are sampled for each GPU; the others are those of the first one."""


def queues(samples: Sequence[Sample]) -> Iterator[Metric]:
    """Create a metric for each pipeline stage that has an output queue, in pipeline order."""
    names = {name for sample in samples for name in sample.queues}
    stages = [name for name in (DECODE, FIND, CHANGE) if name in names]
    for name in [*stages, *sorted(names.difference(stages))]:
        yield Metric(f"queue {name}", name, mark("waiting"), _queue(name), stage=name)


def _queue(name: str) -> Reading:
    return lambda sample: sample.queues.get(name)


def _each_gpu(metric: Metric, sample: Sample, count: int) -> list[Sample]:
    """Return a sample, and copies of it with each of ``count`` further GPUs in place of the first."""
    gpus = [*sample.gpus, *[None] * count][: count if metric.name in EVERY_GPU else 0]
    return [sample, *(sample.model_copy(update={"gpu": gpu}) for gpu in gpus)]


def limit_warning(metric: Metric, sample: Sample) -> str:
    """Return the first warning of a metric on any GPU, with its remedy; empty if there is none."""
    return next(filter(None, map(metric.warning, _each_gpu(metric, sample, len(sample.gpus)))), "")


def warnings(samples: Sequence[Sample]) -> list[str]:
    """Return the warnings of all metrics for the newest sample."""
    return [*filter(None, (limit_warning(metric, sample) for sample in samples[-1:] for metric in METRICS))]


def active_timeline(samples: Sequence[Sample]) -> list[tuple[float, Sample | None]]:
    """Return samples with their active time in seconds, which leaves out pauses; None marks a pause.

    ``samples`` are in order of time.
    """
    intervals = [max(0.0, after.time - before.time) for before, after in pairwise(samples)]
    usual = median(intervals) if intervals else 0.0
    longest = max(_PAUSE_SECONDS, _PAUSE_INTERVALS * usual)
    elapsed = 0.0
    timeline: list[tuple[float, Sample | None]] = [(elapsed, sample) for sample in samples[:1]]
    for sample, interval in zip(samples[1:], intervals, strict=True):
        if interval > longest:
            timeline.append((elapsed, None))
        elapsed += usual if interval > longest else interval
        timeline.append((elapsed, sample))
    return timeline


def chart_lines(
    metric: Metric, timeline: Sequence[tuple[float, Sample | None]]
) -> list[list[tuple[float, float | None]]]:
    """Read a metric over time, for a chart: one line per GPU, that of the first GPU first."""
    count = max((len(sample.gpus) for _, sample in timeline if sample), default=0)
    count *= metric.name in EVERY_GPU
    gap = [None] * (count + 1)
    samples = (_each_gpu(metric, sample, count) if sample else None for _, sample in timeline)
    rows = [[*map(metric.read, each)] if each else gap for each in samples]
    times = [time for time, _ in timeline]
    return [[*zip(times, (row[gpu] for row in rows), strict=True)] for gpu in range(count + 1)]
