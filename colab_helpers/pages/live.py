"""Render the live status of a machine and a batch, as an HTML fragment with small charts and as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from colab_helpers.batch.report import KEPT, STATE_WORDS, FileReport, FileStatus
from colab_helpers.batch.status import BatchStatus
from colab_helpers.batch.worker_handles import WorkerStatus
from colab_helpers.language import mark, tr
from colab_helpers.pages.metrics import (
    METRICS,
    WINDOW,
    Metric,
    active_timeline,
    chart_lines,
    limit_warning,
    queues,
    warnings,
)
from colab_helpers.pages.rendering import render
from colab_helpers.pages.svg import ALARM, BLUE, Points, sparkline
from colab_helpers.pages.units import clock_text, number, progress_text
from colab_helpers.progress import PROCESSING
from colab_helpers.resources.bottleneck import bottleneck
from colab_helpers.resources.samples import Sample

MAX_FILES = 12
"""Files that are listed; the others are counted."""
MAX_WORKERS = 16
"""Workers that are listed; as many as fit beside the charts."""
MAX_NOTES = 8
"""Notes on the whole run that are shown, newest last."""
STALE_SECONDS = 10.0
"""Age in seconds from which a status counts as stale; a run writes one every two seconds."""

NO_GPU = mark("The monitored machine has no GPU: everything runs on its CPU.")
NO_SAMPLES = mark("Nothing has been measured yet.")
LOST = mark("ended unexpectedly")
RESUME_REMEDY = mark("run the same batch again into the same folder: it resumes and keeps what is finished")
RETRY_REMEDY = mark("correct what the failed files report and run the batch again: finished files are kept")

# Share of the work from which on the time left can be estimated.
_EARLY = 0.02
_MOODS = {"running": "busy", "done": "good", "failed": "bad", "lost": "bad", "cancelled": "warn"}
# What needs attention comes first.
_ORDER: tuple[FileStatus, ...] = ("running", "failed", "cancelled", "skipped", "queued", "done")


def live_html(
    samples: Sequence[Sample],
    status: BatchStatus | None,
    *,
    now: float,
    lost: bool = False,
    facts: Sequence[str] = (),
) -> str:
    """Render machine and run for a widget that is redrawn again and again.

    Args:
        samples: In order of time; the charts show the last ten minutes.
        status: The batch; None if only a machine is monitored.
        now: Seconds since 1970, by the clock of the machine that wrote samples and status.
        lost: The batch died and will not update its status any more, whatever that says.
        facts: Sentences on the machine, shown below the charts.
    """
    shown, running = _in_window(samples, status), status.running if status and not lost else None
    picture = status.picture if status and running else None
    return render(
        "live.html.j2",
        **_common_values(shown, status, now, lost),
        # The status file may be foreign: nothing but a picture may get into the page.
        picture=picture if picture and picture.startswith("data:image/jpeg;base64,") else None,
        mood=_MOODS["lost" if lost else status.state] if status else "",
        running=running,
        tiles=_tiles(shown),
        span=shown[-1].time - shown[0].time if shown else 0.0,
        facts=facts,
    )


def live_text(
    samples: Sequence[Sample],
    status: BatchStatus | None,
    *,
    now: float,
    lost: bool = False,
    facts: Sequence[str] = (),
    files: bool = True,
) -> list[str]:
    """Return the same as lines of text; ``files`` tells whether to list files, notes and facts, too."""
    shown = _in_window(samples, status)
    values = _common_values(shown, status, now, lost)
    lines = [": ".join(values["headline"])] if status else []
    lines += [values["overall"][1]] if values["overall"] else []
    lines += [values["running_text"], *values["state_lines"]]
    if shown:
        texts = [metric.text(shown[-1]) for metric in (*METRICS, *queues(shown[-1:]))]
        lines.append(", ".join(filter(None, texts)))
    lines += [*values["remarks"], values["why"]]
    lines += [tr("warning: {text}", text=text) for text in values["alarms"]]
    for (name, _), (work, _), (fps, _), (load, _), (vram, _) in values["workers"]:
        rates = [fps and tr("{fps} frames/s", fps=fps), load and f"GPU {load}", vram and f"VRAM {vram}"]
        lines.append("  " + "  ".join(filter(None, [name, work, *rates])))
    lines.append(values["more"] and f"  {values['more']}")
    if files:
        lines += facts
        for (state, _), (name, _), (frames, _), (remarks, _) in values["rows"]:
            count = frames and tr("{count} frames", count=frames)
            lines.append("  " + "  ".join(filter(None, [f"{state:9}", name, count, remarks])))
        lines.append(values["rest"] and f"  {values['rest']}")
        lines += [tr("note: {note}", note=note) for note in values["notes"]]
    return [*filter(None, lines)]


def _common_values(
    samples: Sequence[Sample], status: BatchStatus | None, now: float, lost: bool
) -> dict[str, Any]:
    """Compute the values that HTML and text have in common."""
    listed, rest = _listed_files(status)
    workers = status.workers[:MAX_WORKERS] if status and not lost else ()
    more = status.worker_count - MAX_WORKERS if status and not lost else 0
    running = status.running if status and not (lost or status.worker_count) else None
    return {
        "overall": None if lost else _overall(status),
        "headline": _headline(status, now, lost) if status else None,
        "running_text": progress_text(running) if running else "",
        "state_lines": _state_lines(status),
        "why": _why(samples, status, lost),
        "alarms": warnings(samples),
        "remarks": _remarks(samples, status),
        "workers": [_worker_cells(worker) for worker in workers],
        "more": tr("and {number} more", number=more) if more > 0 else "",
        "rows": [_file_cells(file, lost) for file in listed],
        "rest": rest,
        "notes": status.remarks[-MAX_NOTES:] if status else [],
    }


def _in_window(samples: Sequence[Sample], status: BatchStatus | None) -> list[Sample]:
    """Return the latest samples, with the status's own if newer: Drive may sync one file before the other."""
    own = status.sample if status else None
    merged = [*samples, own] if own and (not samples or own.time > samples[-1].time) else list(samples)
    merged.sort(key=lambda sample: sample.time)
    return [sample for sample in merged if merged[-1].time - sample.time <= WINDOW]


# --- the machine --------------------------------------------------------------------------------------


def _remarks(samples: Sequence[Sample], status: BatchStatus | None) -> list[str]:
    if not samples:
        return [tr(NO_SAMPLES)]
    has_gpu = any(sample.gpu is not None for sample in samples)
    return [] if has_gpu or _uses_remote_gpus(samples, status) else [tr(NO_GPU)]


def _why(samples: Sequence[Sample], status: BatchStatus | None, lost: bool) -> str:
    """Name the bottleneck of a run in progress; empty if nothing runs or it cannot be told from here."""
    in_progress = status.state == "running" if status else any(s.file or s.stage for s in samples)
    if not samples or not in_progress or lost or _uses_remote_gpus(samples, status):
        return ""
    return bottleneck(samples)


def _uses_remote_gpus(samples: Sequence[Sample], status: BatchStatus | None) -> bool:
    """Return whether the work runs on GPUs of other machines than the one that is sampled."""
    workers_have_gpu = status is not None and any(w.gpu_percent is not None for w in status.workers)
    return workers_have_gpu and all(sample.gpu is None for sample in samples)


def _tiles(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    timeline = active_timeline(samples)
    charts = ((metric, chart_lines(metric, timeline)) for metric in (*METRICS, *queues(samples)))
    known = (chart for chart in charts if any(value is not None for _, value in chart[1][0]))
    return [_tile(metric, samples[-1], lines) for metric, lines in known]


def _tile(metric: Metric, newest: Sample, lines: Sequence[Points]) -> dict[str, Any]:
    total, share = metric.total(newest) if metric.total else None, metric.share(newest)
    limit = metric.limit
    if limit is not None and metric.total:
        limit = limit / 100 * total if total else None
    is_strained, unit = bool(limit_warning(metric, newest)), tr(metric.unit)
    aside = tr("warning") if is_strained else ""
    if len(lines) > 1:
        aside = tr("{number} GPUs", number=len(lines))
    elif total and share is not None:
        aside = tr("of {total} {unit}, {share:.0f} %", total=number(total), unit=unit, share=share)
    high, limit, colour = total or metric.high, limit or metric.least, ALARM if is_strained else BLUE
    chart = sparkline(lines, label=metric.heading, unit=unit, high=high, limit=limit, colour=colour)
    return {"heading": metric.heading, "aside": aside, "strained": is_strained, "chart": chart}


# --- the batch ----------------------------------------------------------------------------------------


def _headline(status: BatchStatus, now: float, lost: bool) -> tuple[str, str]:
    """Return the state of the run, and a sentence on it."""
    count, total = Counter(file.status for file in status.files), len(status.files)
    kinds = ", ".join(f"{count[state]} {_word(state, lost)}" for state in reversed(_ORDER) if count[state])
    ended, running = total - count["queued"] - count["running"], status.state == "running"
    time = clock_text(max(0.0, (now if running and not lost else status.updated) - status.started))
    text = mark("{ended} of {count} files finished ({kinds}), elapsed time {time}")
    text = tr(text, ended=ended, count=total, kinds=kinds, time=time)
    if running:
        text += tr(", last update {ago}", ago=_ago(now - status.updated, lost))
    remedy = RESUME_REMEDY if lost else RETRY_REMEDY if status.state == "failed" else ""
    if remedy:
        text += tr(". What to do: {remedy}", remedy=tr(remedy))
    return tr(LOST) if lost else tr(STATE_WORDS[status.state]), text


def _ago(seconds: float, lost: bool) -> str:
    """Format the age of a status; a negative age (the other clock is ahead) counts as 0."""
    span = f"{max(0.0, seconds):.0f} s" if seconds < 120 else clock_text(seconds)
    if seconds >= STALE_SECONDS and not lost:
        return tr("{span} ago (the run hangs, or its updates are delayed)", span=span)
    return tr("{span} ago", span=span)


def _overall(status: BatchStatus | None) -> tuple[float, str] | None:
    """Return the share of the whole batch that is done, and a sentence with that and the time left."""
    if status is None or status.state != "running" or not status.files:
        return None
    share = sum(file.share for file in status.files) / len(status.files)
    parts = [tr("All files: {share:.0f} %", share=100 * share)]
    if status.worker_count:
        rate = number(status.rate)
        parts.append(tr("{number} workers, {rate} frames/s in total", number=status.worker_count, rate=rate))
        parts += [tr("{number} of them idle", number=status.idle)] if status.idle else []
    left = time_left(status, share)
    parts += [tr("about {time} left", time=clock_text(left))] if left is not None else []
    return share, ", ".join(parts)


def time_left(status: BatchStatus, share: float) -> float | None:
    """Estimate the seconds until all files are done from the pace so far; None if it is too early to tell."""
    kept = sum(tr(KEPT) in file.fallbacks for file in status.files) / len(status.files)
    processed, elapsed = share - kept, status.updated - status.started
    eta = status.running.eta if status.running else None
    if processed < _EARLY:
        return eta if sum(file.status in ("queued", "running") for file in status.files) == 1 else None
    return max(elapsed * (1 - share) / processed, eta or 0.0)


def _state_lines(status: BatchStatus | None) -> list[str]:
    """Report restarts, memory warnings and pauses of the run, if any."""
    if status is None:
        return []
    lines = {
        tr("worker restarts {value}", value=status.restarts): status.restarts,
        tr("memory warnings {value}", value=status.memory_warnings): status.memory_warnings,
        tr("waiting: {reason}", reason=status.pause): status.pause and status.state == "running",
    }
    return [text for text, value in lines.items() if value]


def _listed_files(status: BatchStatus | None) -> tuple[list[FileReport], str]:
    """Return the files to list, those that need attention first, and a sentence on the others."""
    if status is None:
        return [], ""
    # With a worker pool, the table of workers shows what is running.
    order = (*_ORDER[1:4], _ORDER[0], *_ORDER[4:]) if status.worker_count else _ORDER
    groups = {state: [file for file in status.files if file.status == state] for state in order}
    groups["done"].reverse()  # the latest is the most interesting
    files = [file for group in groups.values() for file in group]
    count = Counter(file.status for file in files[MAX_FILES:])
    others = ", ".join(f"{count[state]} {_word(state, lost=False)}" for state in _ORDER if count[state])
    rest = tr("and {count} more: {others}", count=sum(count.values()), others=others) if count else ""
    return files[:MAX_FILES], rest


def _worker_cells(worker: WorkerStatus) -> list[tuple[str, str]]:
    """Return name, task or reason to wait, frames/s, GPU load and VRAM of a worker, each with a CSS class."""
    file, segment = worker.file, worker.segment
    if segment is not None:
        file = tr("segment {number} of {file}", number=segment, file=file)
    stage = tr(worker.stage) if worker.stage not in ("", PROCESSING) else ""
    loads = ("" if load is None else f"{load:.0f} %" for load in (worker.gpu_load, worker.gpu_percent))
    rates = [number(worker.fps) if worker.fps else "", *loads]
    work = ", ".join(filter(None, (file, stage, worker.pause)))
    return [(worker.name, ""), (work, "long"), *((text, "figure") for text in rates)]


def _word(state: FileStatus, lost: bool) -> str:
    return tr("stopped") if lost and state == "running" else tr(STATE_WORDS[state])


def _file_cells(file: FileReport, lost: bool) -> list[tuple[str, str]]:
    """Return state, name, frames and remarks of a file, each with a CSS class."""
    frames = str(file.frames_out or "")
    if file.status == "running" and file.frames_in:
        frames = f"{file.frames_out}/{file.frames_in}"
    remarks = "; ".join([*([file.error] if file.error else []), *file.fallbacks])
    mood = "" if lost and file.status == "running" else _MOODS.get(file.status, "")
    name = Path(file.target).name
    return [(_word(file.status, lost), mood), (name, "long"), (frames, "figure"), (remarks, "long")]
