"""How machine and run stand, as one piece of HTML with small charts, and the same in words.

Nothing is loaded from elsewhere and nothing needs a script, so it shows in any ``HTML`` widget; text takes
the page's own colour, for light pages and dark ones.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from itertools import pairwise
from pathlib import Path
from statistics import median

from colab_helpers.batch.status import STATE_WORDS, BatchStatus, FileStatus, State
from colab_helpers.language import mark, tr
from colab_helpers.machine import GIB
from colab_helpers.resources.bottleneck import CHANGE, DECODE, FIND, bottleneck
from colab_helpers.resources.guard import WARNING_PERCENT
from colab_helpers.resources.samples import GpuSample, Sample
from colab_helpers.svg import ALARM, AMBER, BLUE, GREEN, clock_text, number, sparkline

WINDOW = 600.0
"""Seconds that the charts go back."""
POINTS = 100
"""Values in one chart at most; more would cost time and hardly show."""
MOST_FILES = 12
"""Files that are named; the others are counted."""
MOST_NOTES = 8
"""Notes on the whole run that are shown, the newest."""
OLD_NEWS = 10.0
"""Seconds without news from which they stand out; a run writes its status every two."""

NO_GPU = mark("There is no GPU on the machine that is watched: everything runs on its CPU.")
NO_SAMPLES = mark("Nothing has been measured yet.")
LOST = mark("ended without a word")
GO_ON = mark("run the same batch again, into the same folder: it goes on with what is finished")
RETRY = mark("correct what is said of the failed files and run the same batch again: what is done stays")

GB = 1_000_000_000
_WIDTH, _HEIGHT = 200, 34
_COLOURS = {"running": BLUE, "done": GREEN, "failed": ALARM, "lost": ALARM, "cancelled": AMBER}
# What needs a look comes first.
_ORDER: tuple[State, ...] = ("running", "failed", "cancelled", "skipped", "queued", "done")
_FAINT = "opacity:.75"
_LEFT = "text-align:left;vertical-align:top;padding:1px 12px 1px 0"

Reading = Callable[[Sample], float | None]


@dataclass(frozen=True)
class Figure:
    """One thing that is measured, and how it is shown.

    Attributes:
        name: Its key in ``monitor.json``.
        title: Its heading, in English; ``name_of`` tells it in the reader's language.
        unit: Of its values.
        read: Its value in a sample; None if that does not tell.
        total: What there is of it, in the same unit; the value is also shown as a share of that.
        high: Upper edge of its chart, where that is fixed.
        limit: From here on it is shown as an alarm; in percent where there is a ``total``.
        least: Below this it is shown as an alarm.
        remedy: What to do then, in English.
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
    stage: str = ""

    @property
    def heading(self) -> str:
        """Its title in the reader's language."""
        return tr("After {stage}", stage=tr(self.stage)) if self.stage else tr(self.title)

    def share(self, sample: Sample) -> float | None:
        """Percent of the total; None without one."""
        value, total = self.read(sample), self.total(sample) if self.total else None
        return None if value is None or not total else 100.0 * value / total

    def strain(self, sample: Sample) -> float:
        """How far it is over the edge: from 1 on it is an alarm; 0 where nothing is known."""
        value = self.share(sample) if self.total else self.read(sample)
        if value is None:
            return 0.0
        if self.limit is not None:
            return value / self.limit
        # The least allowed is no alarm itself.
        return self.least / value * (1 - 1e-9) if self.least and value > 0 else 2.0 * bool(self.least)

    def warning(self, sample: Sample) -> str:
        """What is wrong, and what to do about it, in one sentence."""
        if self.total:
            found, edge = f"{self.share(sample) or 0.0:.0f} %", f"{number(self.limit or 0.0)} %"
        else:
            edge = f"{number(self.limit or self.least or 0.0)} {tr(self.unit)}"
            found = f"{number(self.read(sample) or 0.0)} {tr(self.unit)}"
        values = {"title": self.heading, "found": found, "edge": edge, "remedy": tr(self.remedy)}
        if self.least:
            return tr("{title} {found} (a warning below {edge}): {remedy}.", **values)
        return tr("{title} {found} (a warning from {edge}): {remedy}.", **values)

    def text(self, sample: Sample) -> str:
        """Title and value in words; empty if the value is not known."""
        value = self.read(sample)
        return "" if value is None else f"{self.heading} {_amount(self, sample, value)}"


def _amount(figure: Figure, sample: Sample, value: float) -> str:
    total, share = figure.total(sample) if figure.total else None, figure.share(sample)
    if total is None or share is None:
        return f"{number(value)} {tr(figure.unit)}"
    return tr(
        "{value} of {total} {unit} ({share:.0f} %)",
        value=number(value),
        total=number(total),
        unit=tr(figure.unit),
        share=share,
    )


def _gpu(read: Callable[[GpuSample], float | None], unit: float = 1.0) -> Reading:
    def value(sample: Sample) -> float | None:
        found = None if sample.gpu is None else read(sample.gpu)
        return None if found is None else found / unit

    return value


def _of(read: Reading, unit: float) -> Reading:
    def value(sample: Sample) -> float | None:
        found = read(sample)
        return None if found is None else found / unit

    return value


FIGURES = (
    Figure("gpu", "GPU", "%", _gpu(lambda gpu: gpu.utilisation), high=100.0),
    Figure(
        "vram",
        "VRAM",
        "GiB",
        _gpu(lambda gpu: gpu.memory_used, GIB),
        total=_gpu(lambda gpu: gpu.memory_total, GIB),
        limit=90.0,
        remedy=mark(
            'choose the preset stable or overrides = {"batch_size": 1}, and close other notebooks that '
            "use the GPU"
        ),
    ),
    Figure("vram_run", mark("VRAM of this run"), "GiB", _gpu(lambda gpu: gpu.process_memory, GIB)),
    Figure("encoder", mark("Video encoder"), "%", _gpu(lambda gpu: gpu.encoder), high=100.0),
    Figure("decoder", mark("Video decoder"), "%", _gpu(lambda gpu: gpu.decoder), high=100.0),
    Figure(
        "temperature",
        mark("GPU temperature"),
        "°C",
        _gpu(lambda gpu: gpu.temperature),
        high=100.0,
        limit=83.0,
        remedy=mark("the card may slow itself down; on a machine of your own see to its cooling"),
    ),
    Figure("power", mark("GPU power"), "W", _gpu(lambda gpu: gpu.power)),
    Figure("cpu", "CPU", "%", lambda sample: sample.cpu_percent, high=100.0),
    Figure(
        "ram",
        "RAM",
        "GiB",
        _of(lambda sample: sample.ram_used, GIB),
        total=_of(lambda sample: sample.ram_total, GIB),
        limit=WARNING_PERCENT,
        remedy=mark("choose the preset stable or a smaller max_memory, and close what else runs"),
    ),
    Figure("process_memory", mark("Process memory"), "GiB", _of(lambda sample: sample.process_memory, GIB)),
    Figure(
        "disk_free",
        mark("Disk free"),
        "GB",
        _of(lambda sample: sample.disk_free, GB),
        least=2.0,
        remedy=mark("delete what is not needed where the results go, or the next file finds no room"),
    ),
    Figure(
        "fps", mark("Speed"), mark("frames/s"), lambda sample: None if sample.file is None else sample.fps
    ),
)
"""Everything that is measured, in the order in which it is shown."""


def charts_html(
    samples: Sequence[Sample],
    status: BatchStatus | None,
    *,
    now: float,
    lost: bool = False,
    facts: Sequence[str] = (),
) -> str:
    """Machine and run as one piece of HTML.

    Args:
        samples: In the order of time; the charts show the last ten minutes of them.
        status: The batch; None where only a machine is watched.
        now: Seconds since 1970, by the clock of whoever wrote samples and status.
        lost: The batch died: nothing more is to be expected, whatever its status says.
        facts: Sentences on the machine that stand below the charts.
    """
    shown = _in_window(samples, status)
    return (
        '<div style="font-family:sans-serif;font-size:13px;line-height:1.5;max-width:920px">'
        f"{_heading(status, now, lost) if status else ''}"
        f"{_running(status) if status and not lost else ''}"
        f"{''.join(_line(text) for text in _state_lines(status))}"
        f"{'' if lost else _why(shown, status)}"
        f"{''.join(_alarm(text) for text in warnings(shown[-1:]))}"
        f"{_tiles(shown)}"
        f"{''.join(_line(text, _FAINT) for text in facts)}"
        f"{_files(status, lost) if status else ''}"
        "</div>"
    )


def charts_text(
    samples: Sequence[Sample],
    status: BatchStatus | None,
    *,
    now: float,
    lost: bool = False,
    facts: Sequence[str] = (),
    files: bool = True,
) -> list[str]:
    """The same in words, line by line; ``files`` says whether to name the files and notes, too."""
    shown = _in_window(samples, status)
    lines = []
    if status:
        lines += [": ".join(_headline(status, now, lost))]
        lines += [_running_text(file) for file in _at_work(status) if not lost]
        lines += _state_lines(status)
    lines += [_machine_text(shown[-1])] if shown else [tr(NO_SAMPLES)]
    lines += [tr(NO_GPU)] if shown and not _has_gpu(shown) else []
    lines += [bottleneck(shown)] if not lost and _is_slow(shown, status) else []
    lines += [tr("warning: {text}", text=text) for text in warnings(shown[-1:])]
    if not files:
        return lines
    lines += facts
    if status:
        named, rest = _named(status)
        lines += [_file_text(*_words(file, lost)) for file in named]
        lines += [f"  {rest}"] if rest else []
        lines += [tr("note: {note}", note=note) for note in status.notes[-MOST_NOTES:]]
    return lines


def warnings(samples: Sequence[Sample]) -> list[str]:
    """One sentence for each figure that was over its limit, at its worst."""
    found = []
    for figure in FIGURES:
        worst = max(samples, key=figure.strain, default=None)
        if worst is not None and figure.strain(worst) >= 1:
            found.append(figure.warning(worst))
    return found


# --- which samples ------------------------------------------------------------------------------------


def _in_window(samples: Sequence[Sample], status: BatchStatus | None) -> list[Sample]:
    """The newest, with the status's own where it is newer: Drive brings one file before the other."""
    own = status.sample if status else None
    found = [*samples, own] if own and (not samples or own.time > samples[-1].time) else list(samples)
    found.sort(key=lambda sample: sample.time)
    return [sample for sample in found if found[-1].time - sample.time <= WINDOW]


def _at_even_times(samples: Sequence[Sample]) -> list[Sample | None]:
    """At most ``POINTS`` of them at even distances in time; None where nothing was noted."""
    times = [sample.time for sample in samples]
    count = min(POINTS, len(times))
    if count < 3:
        return list(samples)
    step = (times[-1] - times[0]) / (count - 1)
    longest = max(step, 3 * median(after - before for before, after in pairwise(times)))
    return [_nearest(samples, times, times[0] + step * index, longest) for index in range(count)]


def _nearest(samples: Sequence[Sample], times: Sequence[float], time: float, longest: float) -> Sample | None:
    after = min(bisect_left(times, time), len(times) - 1)
    index = after - 1 if after and time - times[after - 1] < abs(times[after] - time) else after
    return samples[index] if abs(times[index] - time) <= longest else None


def _has_gpu(samples: Sequence[Sample]) -> bool:
    return any(sample.gpu is not None for sample in samples)


def _is_slow(samples: Sequence[Sample], status: BatchStatus | None) -> bool:
    """Whether the samples are those of a run that goes on, so that there is something to be slow."""
    if not samples or (status and status.state != "running"):
        return False
    return status is not None or any(sample.file or sample.stage for sample in samples)


# --- the machine --------------------------------------------------------------------------------------


def _tiles(samples: Sequence[Sample]) -> str:
    if not samples:
        return _line(tr(NO_SAMPLES))
    even = _at_even_times(samples)
    tiles = "".join(_tile(figure, samples[-1], even) for figure in [*FIGURES, *_queues(samples)])
    head = "" if _has_gpu(samples) else _line(tr(NO_GPU))
    span = tr("The charts show the last {span} (min:s).", span=clock_text(samples[-1].time - samples[0].time))
    return (
        f'{head}<div style="display:flex;flex-wrap:wrap;gap:10px 24px;margin:8px 0">{tiles}</div>'
        f"{_line(span, _FAINT)}"
    )


def _tile(figure: Figure, newest: Sample, samples: Sequence[Sample | None]) -> str:
    values = tuple(None if sample is None else figure.read(sample) for sample in samples)
    if all(value is None for value in values):
        return ""
    total, share = figure.total(newest) if figure.total else None, figure.share(newest)
    limit = figure.limit
    if limit is not None and figure.total:
        limit = limit / 100 * total if total else None
    strained = figure.strain(newest) >= 1
    aside = tr("warning") if strained else ""
    if total and share is not None:
        aside = tr("of {total} {unit}, {share:.0f} %", total=number(total), unit=tr(figure.unit), share=share)
    style = f"color:{ALARM};font-weight:600" if strained else _FAINT
    picture = _picture(
        values,
        high=total or figure.high,
        limit=limit,
        colour=ALARM if figure.least and strained else BLUE,
        label=figure.heading,
        unit=tr(figure.unit),
    )
    return (
        f'<div style="width:{_WIDTH}px"><div><b>{escape(figure.heading)}</b> '
        f'<span style="{style}">{escape(aside)}</span></div>{picture}</div>'
    )


@lru_cache(maxsize=64)
def _picture(
    values: tuple[float | None, ...],
    *,
    high: float | None,
    limit: float | None,
    colour: str,
    label: str,
    unit: str,
) -> str:
    """Kept from one look to the next: samples are fewer than looks, and much stays as it is."""
    return sparkline(
        values,
        width=_WIDTH,
        height=_HEIGHT,
        high=high,
        colour=colour,
        label=label,
        unit=unit,
        alarm=limit,
    )


def _queues(samples: Sequence[Sample]) -> Iterator[Figure]:
    """A figure for each stage of the pipeline that has a queue behind it."""
    names = {name for sample in samples for name in sample.queues}
    # In the order in which a frame passes them, whatever the order in which they were noted.
    stages = [name for name in (DECODE, FIND, CHANGE) if name in names]
    for name in [*stages, *sorted(names.difference(stages))]:
        yield Figure(f"queue {name}", f"After {name}", mark("waiting"), _queue(name), stage=name)


def _queue(name: str) -> Reading:
    return lambda sample: sample.queues.get(name)


def _machine_text(sample: Sample) -> str:
    texts = [figure.text(sample) for figure in (*FIGURES, *_queues([sample]))]
    return ", ".join(filter(None, texts))


def _why(samples: Sequence[Sample], status: BatchStatus | None) -> str:
    if not _is_slow(samples, status):
        return ""
    question = escape(tr("Why is it not faster?"))
    return f"<div><b>{question}</b> {escape(bottleneck(samples))}</div>"


# --- the batch ----------------------------------------------------------------------------------------


def _heading(status: BatchStatus, now: float, lost: bool) -> str:
    state, rest = _headline(status, now, lost)
    colour = _COLOURS["lost" if lost else status.state]
    return f'<div><b style="color:{colour}">{escape(state)}</b>: {escape(rest)}</div>'


def _headline(status: BatchStatus, now: float, lost: bool) -> tuple[str, str]:
    """The run's state, and what is to be said of it."""
    count = Counter(file.state for file in status.files)
    ended = sum(count.values()) - count["queued"] - count["running"]
    kinds = ", ".join(f"{count[state]} {_word(state, lost)}" for state in reversed(_ORDER) if count[state])
    running = status.state == "running"
    took = max(0.0, (now if running and not lost else status.updated) - status.started)
    text = tr(
        "{ended} of {count} files ended ({kinds}), at work for {time}",
        ended=ended,
        count=len(status.files),
        kinds=kinds,
        time=clock_text(took),
    )
    if running:
        text += tr(", last news {ago}", ago=_ago(now - status.updated, lost))
    remedy = GO_ON if lost else RETRY if status.state == "failed" else ""
    if remedy:
        text += tr(". What to do: {remedy}", remedy=tr(remedy))
    return tr(LOST) if lost else tr(STATE_WORDS[status.state]), text


def _ago(seconds: float, lost: bool) -> str:
    """How long ago; news from the future, by a clock that is ahead, are new."""
    span = f"{max(0.0, seconds):.0f} s" if seconds < 120 else clock_text(seconds)
    if seconds >= OLD_NEWS and not lost:
        return tr("{span} ago (it hangs, or its news are late)", span=span)
    return tr("{span} ago", span=span)


def _at_work(status: BatchStatus) -> list[FileStatus]:
    return [file for file in status.files if file.state == "running"]


def _running(status: BatchStatus) -> str:
    return "".join(_bar(file) + _line(_running_text(file)) for file in _at_work(status))


def _running_text(file: FileStatus) -> str:
    values = {"name": Path(file.target).name, "frame": file.frame, "frames": file.frames, "fps": file.fps}
    if file.frames:
        text = tr("{name}: {frame} of {frames} frames, {fps:.1f} frames/s", **values)
    else:
        text = tr("{name}: {frame} frames, {fps:.1f} frames/s", **values)
    eta = tr(", ETA {time}", time=clock_text(file.eta)) if file.eta is not None else ""
    stage = f", {tr(file.stage)}" if file.stage and file.stage != "frames" else ""
    return f"{text}{eta}{stage}"


def _bar(file: FileStatus) -> str:
    if not file.frames:
        return ""
    share = min(100.0, 100.0 * file.frame / file.frames)
    return (
        f'<div role="progressbar" aria-valuenow="{share:.0f}" aria-valuemin="0" aria-valuemax="100" '
        'style="background:rgba(128,128,128,.3);height:8px;border-radius:4px;margin:4px 0">'
        f'<div style="background:{BLUE};width:{share:.1f}%;height:8px;border-radius:4px"></div></div>'
    )


def _state_lines(status: BatchStatus | None) -> list[str]:
    """Where and how the networks run, and what is worth knowing of the run itself."""
    if status is None:
        return []
    told = [
        (tr("networks on {value}", value=status.provider), status.provider),
        (tr("threads {value}", value=status.threads), status.threads),
        (tr("batch size {value}", value=status.batch_size), status.batch_size),
        (tr("worker restarts {value}", value=status.restarts), status.restarts),
        (tr("memory warnings {value}", value=status.memory_warnings), status.memory_warnings),
    ]
    parts = [text for text, value in told if value]
    paused = status.pause and status.state == "running"
    pause = [tr("waiting: {reason}", reason=status.pause)] if paused else []
    return [*([", ".join(parts)] if parts else []), *pause]


def _files(status: BatchStatus, lost: bool) -> str:
    named, rest = _named(status)
    titles = ("", tr("file"), tr("frames"), tr("remarks"))
    head = "".join(f'<th style="{_LEFT}">{escape(title)}</th>' for title in titles)
    rows = "".join(_row(file, lost) for file in named)
    notes = "".join(f"<li>{escape(note)}</li>" for note in status.notes[-MOST_NOTES:])
    heading = escape(tr("Notes"))
    notes = f'<b>{heading}</b><ul style="margin:0 0 0 18px">{notes}</ul>' if notes else ""
    return (
        '<table style="font-size:inherit;border-collapse:collapse;margin:8px 0">'
        f"<tr>{head}</tr>{rows}</table>"
        f"{_line(rest, _FAINT) if rest else ''}"
        f"{notes}"
    )


def _named(status: BatchStatus) -> tuple[list[FileStatus], str]:
    """The files to name, what needs a look first, and a sentence on the others."""
    groups = {state: [file for file in status.files if file.state == state] for state in _ORDER}
    # What was done last tells most of all that is done.
    groups["done"].reverse()
    files = [file for group in groups.values() for file in group]
    count = Counter(file.state for file in files[MOST_FILES:])
    others = ", ".join(f"{count[state]} {_word(state, lost=False)}" for state in _ORDER if count[state])
    rest = tr("and {count} more: {others}", count=sum(count.values()), others=others) if count else ""
    return files[:MOST_FILES], rest


def _word(state: State, lost: bool) -> str:
    return tr("stopped") if lost and state == "running" else tr(STATE_WORDS[state])


def _words(file: FileStatus, lost: bool) -> list[str]:
    """State, name, frames and remarks of a file."""
    frames = f"{file.frame}/{file.frames}" if file.frames else f"{file.frame}" if file.frame else ""
    remarks = "; ".join([*([file.error] if file.error else []), *file.fallbacks])
    return [_word(file.state, lost), Path(file.target).name, frames, remarks]


def _file_text(state: str, *others: str) -> str:
    return "  " + "  ".join([f"{state:9}", *filter(None, others)])


def _row(file: FileStatus, lost: bool) -> str:
    word, *others = _words(file, lost)
    stopped = lost and file.state == "running"
    colour = f' style="color:{_COLOURS[file.state]}"' if file.state in _COLOURS and not stopped else ""
    cells = [f"<b{colour}>{escape(word)}</b>", *map(escape, others)]
    return "<tr>" + "".join(f'<td style="{_LEFT}">{cell}</td>' for cell in cells) + "</tr>"


def _line(text: str, style: str = "") -> str:
    return f'<div style="{style}">{escape(text)}</div>' if style else f"<div>{escape(text)}</div>"


def _alarm(text: str) -> str:
    word = escape(tr("Warning."))
    return f'<div><b style="color:{ALARM}">{word}</b> {escape(text)}</div>'
