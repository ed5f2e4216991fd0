"""How a machine and a batch stand now, as a piece of HTML with small charts, and the same in words."""

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
"""Files that are named; the others are counted."""
MAX_WORKERS = 16
"""Workers that are named; so many fit beside the charts."""
MAX_NOTES = 8
"""Notes on the whole run that are shown, the newest."""
STALE_SECONDS = 10.0
"""Seconds without news from which they stand out; a run writes its status every two."""

NO_GPU = mark("There is no GPU on the machine that is watched: everything runs on its CPU.")
NO_SAMPLES = mark("Nothing has been measured yet.")
LOST = mark("ended without a word")
RESUME_REMEDY = mark("run the same batch again, into the same folder: it goes on with what is finished")
RETRY_REMEDY = mark(
    "correct what is said of the failed files and run the same batch again: what is done stays"
)

# Share of the work from which on its speed tells something.
_EARLY = 0.02
_MOODS = {"running": "busy", "done": "good", "failed": "bad", "lost": "bad", "cancelled": "warn"}
# What needs a look comes first.
_ORDER: tuple[FileStatus, ...] = ("running", "failed", "cancelled", "skipped", "queued", "done")


def live_html(
    samples: Sequence[Sample],
    status: BatchStatus | None,
    *,
    now: float,
    lost: bool = False,
    facts: Sequence[str] = (),
) -> str:
    """Render machine and run for a widget that is painted anew again and again.

    Args:
        samples: In the order of time; the charts show the last ten minutes of them.
        status: The batch; None where only a machine is watched.
        now: Seconds since 1970, by the clock of whoever wrote samples and status.
        lost: The batch died: nothing more is to be expected, whatever its status says.
        facts: Sentences on the machine that stand below the charts.
    """
    shown, running = _in_window(samples, status), status.running if status and not lost else None
    picture = status.picture if status and running else None
    return render(
        "live.html.j2",
        **_told(shown, status, now, lost),
        # Whatever else a foreign status holds is not put into a page.
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
    """Write the same in words, line by line; ``files`` says whether to name the files and notes, too."""
    shown = _in_window(samples, status)
    told = _told(shown, status, now, lost)
    lines = [": ".join(told["headline"])] if status else []
    lines += [told["overall"][1]] if told["overall"] else []
    lines += [told["running_text"], *told["state_lines"]]
    if shown:
        texts = [figure.text(shown[-1]) for figure in (*METRICS, *queues(shown[-1:]))]
        lines.append(", ".join(filter(None, texts)))
    lines += [*told["remarks"], told["why"], *(tr("warning: {text}", text=text) for text in told["alarms"])]
    for (name, _), (work, _), (fps, _), (load, _), (vram, _) in told["workers"]:
        figures = [fps and tr("{fps} frames/s", fps=fps), load and f"GPU {load}", vram and f"VRAM {vram}"]
        lines.append("  " + "  ".join(filter(None, [name, work, *figures])))
    lines += [told["more"] and f"  {told['more']}", *(facts if files else ())]
    for (state, _), (name, _), (frames, _), (remarks, _) in told["rows"] if files else ():
        counted = frames and tr("{count} frames", count=frames)
        lines.append("  " + "  ".join(filter(None, [f"{state:9}", name, counted, remarks])))
    if files:
        lines += [
            told["rest"] and f"  {told['rest']}",
            *(tr("note: {note}", note=note) for note in told["notes"]),
        ]
    return [*filter(None, lines)]


def _told(samples: Sequence[Sample], status: BatchStatus | None, now: float, lost: bool) -> dict[str, Any]:
    """What page and words say alike."""
    named, rest = _named(status)
    more = status.crew - MAX_WORKERS if status and not lost else 0
    running = status.running if status and not (lost or status.crew) else None
    return {
        "overall": None if lost else _overall(status),
        "headline": _headline(status, now, lost) if status else None,
        "running_text": progress_text(running) if running else "",
        "state_lines": _state_lines(status),
        "why": _why(samples, status, lost),
        "alarms": warnings(samples),
        "remarks": _remarks(samples, status),
        "workers": [
            _cells(worker) for worker in (status.workers[:MAX_WORKERS] if status and not lost else ())
        ],
        "more": tr("and {number} more", number=more) if more > 0 else "",
        "rows": [_row(file, lost) for file in named],
        "rest": rest,
        "notes": status.remarks[-MAX_NOTES:] if status else [],
    }


def _in_window(samples: Sequence[Sample], status: BatchStatus | None) -> list[Sample]:
    """The newest, with the status's own where it is newer: Drive brings one file before the other."""
    own = status.sample if status else None
    found = [*samples, own] if own and (not samples or own.time > samples[-1].time) else list(samples)
    found.sort(key=lambda sample: sample.time)
    return [sample for sample in found if found[-1].time - sample.time <= WINDOW]


# --- the machine --------------------------------------------------------------------------------------


def _remarks(samples: Sequence[Sample], status: BatchStatus | None) -> list[str]:
    if not samples:
        return [tr(NO_SAMPLES)]
    here = any(sample.gpu is not None for sample in samples)
    return [] if here or _elsewhere(samples, status) else [tr(NO_GPU)]


def _why(samples: Sequence[Sample], status: BatchStatus | None, lost: bool) -> str:
    """What keeps a run that goes on from going faster; empty where there is none."""
    goes_on = status.state == "running" if status else any(s.file or s.stage for s in samples)
    return bottleneck(samples) if samples and goes_on and not (lost or _elsewhere(samples, status)) else ""


def _elsewhere(samples: Sequence[Sample], status: BatchStatus | None) -> bool:
    """Whether the work is done on GPUs of other machines than the one that is measured."""
    far = status is not None and any(worker.gpu_percent is not None for worker in status.workers)
    return far and all(sample.gpu is None for sample in samples)


def _tiles(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    course = active_timeline(samples)
    found = [(figure, chart_lines(figure, course)) for figure in (*METRICS, *queues(samples))]
    known = [(figure, lines) for figure, lines in found if any(value is not None for _, value in lines[0])]
    return [_tile(figure, samples[-1], lines) for figure, lines in known]


def _tile(figure: Metric, newest: Sample, lines: Sequence[Points]) -> dict[str, Any]:
    total, share = figure.total(newest) if figure.total else None, figure.share(newest)
    limit = figure.limit
    if limit is not None and figure.total:
        limit = limit / 100 * total if total else None
    is_strained = bool(limit_warning(figure, newest))
    aside = tr("warning") if is_strained else ""
    if len(lines) > 1:
        aside = tr("{number} GPUs", number=len(lines))
    elif total and share is not None:
        aside = tr("of {total} {unit}, {share:.0f} %", total=number(total), unit=tr(figure.unit), share=share)
    chart = sparkline(
        lines,
        label=figure.heading,
        unit=tr(figure.unit),
        high=total or figure.high,
        limit=limit or figure.least,
        colour=ALARM if is_strained else BLUE,
    )
    return {"heading": figure.heading, "aside": aside, "strained": is_strained, "chart": chart}


# --- the batch ----------------------------------------------------------------------------------------


def _headline(status: BatchStatus, now: float, lost: bool) -> tuple[str, str]:
    """The run's state, and what is to be said of it."""
    count = Counter(file.status for file in status.files)
    kinds = ", ".join(f"{count[state]} {_word(state, lost)}" for state in reversed(_ORDER) if count[state])
    running = status.state == "running"
    text = tr(
        "{ended} of {count} files ended ({kinds}), at work for {time}",
        ended=len(status.files) - count["queued"] - count["running"],
        count=len(status.files),
        kinds=kinds,
        time=clock_text(max(0.0, (now if running and not lost else status.updated) - status.started)),
    )
    if running:
        text += tr(", last news {ago}", ago=_ago(now - status.updated, lost))
    remedy = RESUME_REMEDY if lost else RETRY_REMEDY if status.state == "failed" else ""
    if remedy:
        text += tr(". What to do: {remedy}", remedy=tr(remedy))
    return tr(LOST) if lost else tr(STATE_WORDS[status.state]), text


def _ago(seconds: float, lost: bool) -> str:
    """How long ago; news from the future, by a clock that is ahead, are new."""
    span = f"{max(0.0, seconds):.0f} s" if seconds < 120 else clock_text(seconds)
    if seconds >= STALE_SECONDS and not lost:
        return tr("{span} ago (it hangs, or its news are late)", span=span)
    return tr("{span} ago", span=span)


def _overall(status: BatchStatus | None) -> tuple[float, str] | None:
    """How far the whole batch is as a share, and with the time left in words."""
    if status is None or status.state != "running" or not status.files:
        return None
    share = sum(file.share for file in status.files) / len(status.files)
    parts = [tr("All files: {share:.0f} %", share=100 * share)]
    if status.crew:
        told = tr("{number} workers, {rate} frames/s together", number=status.crew, rate=number(status.rate))
        parts += [told, *([tr("{number} of them idle", number=status.idle)] if status.idle else [])]
    left = time_left(status, share)
    parts += [tr("about {time} left", time=clock_text(left))] if left is not None else []
    return share, ", ".join(parts)


def time_left(status: BatchStatus, share: float) -> float | None:
    """Seconds until all files are done, if the others take as long as those done; None while that is open."""
    kept = sum(tr(KEPT) in file.fallbacks for file in status.files) / len(status.files)
    worked, took = share - kept, status.updated - status.started
    running = status.running.eta if status.running else None
    if worked < _EARLY:
        return running if sum(file.status in ("queued", "running") for file in status.files) == 1 else None
    return max(took * (1 - share) / worked, running or 0.0)


def _state_lines(status: BatchStatus | None) -> list[str]:
    """What is worth knowing of the run itself."""
    if status is None:
        return []
    told = {
        tr("worker restarts {value}", value=status.restarts): status.restarts,
        tr("memory warnings {value}", value=status.memory_warnings): status.memory_warnings,
        tr("waiting: {reason}", reason=status.pause): status.pause and status.state == "running",
    }
    return [text for text, value in told.items() if value]


def _named(status: BatchStatus | None) -> tuple[list[FileReport], str]:
    """The files to name, what needs a look first, and a sentence on the others."""
    if status is None:
        return [], ""
    # Of several at work the workers tell.
    order = (*_ORDER[1:4], _ORDER[0], *_ORDER[4:]) if status.crew else _ORDER
    groups = {state: [file for file in status.files if file.status == state] for state in order}
    # What was done last tells most of all that is done.
    groups["done"].reverse()
    files = [file for group in groups.values() for file in group]
    count = Counter(file.status for file in files[MAX_FILES:])
    others = ", ".join(f"{count[state]} {_word(state, lost=False)}" for state in _ORDER if count[state])
    rest = tr("and {count} more: {others}", count=sum(count.values()), others=others) if count else ""
    return files[:MAX_FILES], rest


def _cells(worker: WorkerStatus) -> list[tuple[str, str]]:
    """Name, work or what it waits for, frames a second, load of its GPU and VRAM, each with its look."""
    file, segment = worker.file, worker.segment
    if segment is not None:
        file = tr("segment {number} of {file}", number=segment, file=file)
    stage = tr(worker.stage) if worker.stage not in ("", PROCESSING) else ""
    loads = ("" if load is None else f"{load:.0f} %" for load in (worker.gpu_load, worker.gpu_percent))
    figures = [number(worker.fps) if worker.fps else "", *loads]
    work = ", ".join(filter(None, (file, stage, worker.pause)))
    return [(worker.name, ""), (work, "long"), *((text, "figure") for text in figures)]


def _word(state: FileStatus, lost: bool) -> str:
    return tr("stopped") if lost and state == "running" else tr(STATE_WORDS[state])


def _row(file: FileReport, lost: bool) -> list[tuple[str, str]]:
    """State, name, frames and remarks of a file, each with its look."""
    frames = str(file.frames_out or "")
    if file.status == "running" and file.frames_in:
        frames = f"{file.frames_out}/{file.frames_in}"
    remarks = "; ".join([*([file.error] if file.error else []), *file.fallbacks])
    mood = "" if lost and file.status == "running" else _MOODS.get(file.status, "")
    name = Path(file.target).name
    return [(_word(file.status, lost), mood), (name, "long"), (frames, "figure"), (remarks, "long")]
