"""What is measured while a run goes on: one table for charts, texts and warnings, live and afterwards."""

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

# Samples farther apart than so many usual distances, and than so many seconds, have a pause between them:
# the machine slept, or the run was continued later.
_PAUSE_DISTANCES, _PAUSE_SECONDS = 5.0, 20.0

WINDOW = 600.0
"""Seconds that the charts of a run at work go back."""

Reading = Callable[[Sample], float | None]


@dataclass(frozen=True)
class Metric:
    """One thing that is measured, and how it is shown; texts are in English, marked for translation.

    Attributes:
        name: Its key in ``monitor.json``; ``title`` is its heading.
        read: Its value in a sample, in ``unit``; None if that does not tell.
        total: What there is of it; the value is also shown as a share of that.
        high: Upper edge of its chart, where that is fixed.
        limit: From here on it is an alarm, in percent where there is a ``total``; or below ``least``.
        remedy: What to do then.
        chart: Title of the chart in the report that it shares with others; empty for one of its own.
        stage: The stage of the pipeline that its values wait behind; empty for all others.
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
        """Its title in the reader's language."""
        return tr("After {stage}", stage=tr(self.stage)) if self.stage else tr(self.title)

    def share(self, sample: Sample) -> float | None:
        """Percent of the total; None without one."""
        value, total = self.read(sample), self.total(sample) if self.total else None
        return None if value is None or not total else 100.0 * value / total

    def warning(self, sample: Sample) -> str:
        """What is wrong, and what to do about it, in one sentence; empty where nothing is."""
        value = self.share(sample) if self.total else self.read(sample)
        if value is None:
            return ""
        unit = "%" if self.total else tr(self.unit)
        values = {"title": self.heading, "found": f"{number(value)} {unit}", "remedy": tr(self.remedy)}
        if self.limit is not None and value >= self.limit:
            edge = f"{number(self.limit)} {unit}"
            return tr("{title} {found} (a warning from {edge}): {remedy}.", edge=edge, **values)
        if self.least is not None and value < self.least:
            edge = f"{number(self.least)} {unit}"
            return tr("{title} {found} (a warning below {edge}): {remedy}.", edge=edge, **values)
        return ""

    def text(self, sample: Sample) -> str:
        """Title and value in words; empty if the value is not known."""
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
    """Read a field of a sample, or of its GPU, in a unit."""

    def read(sample: Sample) -> float | None:
        holder = sample.gpu if gpu else sample
        value: float | None = None if holder is None else getattr(holder, name)
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
            'choose the preset stable or overrides = {"batch_size": 1}, and close other notebooks that '
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
        remedy=mark("the card may slow itself down; on a machine of your own see to its cooling"),
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
        remedy=mark("choose the preset stable or a smaller max_memory, and close what else runs"),
        chart=_RAM,
    ),
    Metric("process_memory", mark("Process memory"), "GiB", _field("process_memory", GIB), chart=_RAM),
    Metric(
        "disk_free",
        mark("Disk free"),
        "GB",
        _field("disk_free", 1e9),
        least=2.0,
        remedy=mark("delete what is not needed where the results go, or the next file finds no room"),
    ),
    Metric("fps", mark("Speed"), mark("frames/s"), lambda sample: sample.fps if sample.file else None),
)
"""Everything that is measured, in the order in which it is shown."""
EVERY_GPU = ("gpu", "vram")
"""What is measured of each GPU; the other figures are the first one's."""


def queues(samples: Sequence[Sample]) -> Iterator[Metric]:
    """Make a figure for each stage of the pipeline that has a queue behind it."""
    names = {name for sample in samples for name in sample.queues}
    # In the order in which a frame passes them, whatever the order in which they were noted.
    stages = [name for name in (DECODE, FIND, CHANGE) if name in names]
    for name in [*stages, *sorted(names.difference(stages))]:
        yield Metric(f"queue {name}", name, mark("waiting"), _queue(name), stage=name)


def _queue(name: str) -> Reading:
    return lambda sample: sample.queues.get(name)


def _each_gpu(figure: Metric, sample: Sample, count: int) -> list[Sample]:
    """Return a sample, and the same with each of ``count`` further GPUs in the place of the first."""
    gpus = [*sample.gpus, *[None] * count][: count if figure.name in EVERY_GPU else 0]
    return [sample, *(sample.model_copy(update={"gpu": gpu}) for gpu in gpus)]


def limit_warning(figure: Metric, sample: Sample) -> str:
    """What is wrong with a figure, on any GPU, and what to do about it; empty where nothing is."""
    found = map(figure.warning, _each_gpu(figure, sample, len(sample.gpus)))
    return next(filter(None, found), "")


def warnings(samples: Sequence[Sample]) -> list[str]:
    """Say of each figure that is over its limit in the newest sample what to do about it."""
    return [*filter(None, (limit_warning(figure, sample) for sample in samples[-1:] for figure in METRICS))]


def active_timeline(samples: Sequence[Sample]) -> list[tuple[float, Sample | None]]:
    """Give samples, in the order of time, their seconds at work: a pause takes none, and leaves a gap."""
    distances = [max(0.0, after.time - before.time) for before, after in pairwise(samples)]
    usual = median(distances) if distances else 0.0
    longest = max(_PAUSE_SECONDS, _PAUSE_DISTANCES * usual)
    passed = 0.0
    course: list[tuple[float, Sample | None]] = [(passed, sample) for sample in samples[:1]]
    for sample, distance in zip(samples[1:], distances, strict=True):
        if distance > longest:
            course.append((passed, None))
        passed += usual if distance > longest else distance
        course.append((passed, sample))
    return course


def chart_lines(
    figure: Metric, course: Sequence[tuple[float, Sample | None]]
) -> list[list[tuple[float, float | None]]]:
    """Read a figure over time, for a chart: a line of each GPU, that of the first one first."""
    count = max((len(sample.gpus) for _, sample in course if sample), default=0)
    count *= figure.name in EVERY_GPU
    gap = [None] * (count + 1)
    read = [
        (time, [*map(figure.read, _each_gpu(figure, sample, count))] if sample else gap)
        for time, sample in course
    ]
    return [[(time, values[number]) for time, values in read] for number in range(count + 1)]
