"""Render the report of a run as a standalone page, and its results for a notebook."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from statistics import fmean
from time import monotonic, time
from typing import Any

from markupsafe import Markup

from colab_helpers.batch.report import (
    HTML_REPORT_NAME,
    REPORT_NAME,
    STATE_WORDS,
    BatchReport,
    FileReport,
    changed_people,
    html_path,
    is_own_file,
    write_text,
)
from colab_helpers.batch.write_policy import WritePolicy
from colab_helpers.files import load
from colab_helpers.language import first_of, mark, tr
from colab_helpers.pages.metrics import METRICS, active_timeline, chart_lines
from colab_helpers.pages.pictures import Picture, pictures_of, players_of, portraits_of
from colab_helpers.pages.rendering import render, spans_text
from colab_helpers.pages.svg import line_chart
from colab_helpers.pages.units import content_text, mark_text, notes_of, number, summary_text
from colab_helpers.resources.samples import SAMPLES_NAME, Sample, read_samples
from colab_helpers.settings import Settings, field_help

MAX_PICTURES, MAX_ROWS = 24, 6
"""Files shown with pictures in the standalone page, and in a notebook."""
PICTURE_SECONDS = 60.0
"""Time limit for extracting pictures; in a long video seeking to a frame takes seconds."""
OPEN_FILES = 8
"""With at most this many files, the details of each are expanded."""
_MAX_SAMPLES = 10_000
_MAX_NAMES, _MAX_SPANS, _MAX_WORKERS = 5, 12, 16
# Audio frames do not end with video frames: a few hundredths of a second of difference are normal.
_SOUND_DIFFERENCE = 0.1


def write_page(folder: Path, report: Path | None = None) -> Path:
    """Write the page of a run beside its report (by default the folder's ``report.json``); return its path.

    Raises:
        MissingFileError: There is no report.
        UsageError: The file is not a report or of another version, or a user's file has the page's name.
        OutputError: The folder is not writable.
    """
    path = report or folder / REPORT_NAME
    loaded = load(
        BatchReport,
        path,
        missing=tr("there is no batch report here"),
        missing_remedy=tr("name the output folder of a batch"),
        foreign=tr("this is not a report that this version can read"),
        foreign_remedy=tr("use the version of the package that ran the batch"),
    ).within(folder)
    page = html_path(path)
    WritePolicy(overwrite=bool(loaded.settings.get("overwrite")), made=is_own_file).ensure_writable(page)
    write_text(page, report_html(loaded, read_samples(folder / SAMPLES_NAME, most=_MAX_SAMPLES)))
    return page


def report_html(report: BatchReport, samples: Sequence[Sample]) -> str:
    """Render a run as a self-contained page: no scripts, no other files, no network.

    Targets and outputs that have been moved or deleted are listed without pictures.
    """
    return render(
        "report.html.j2",
        whole=True,
        report=report,
        state=_state(report),
        warnings=[*_run_warnings(report), *_file_warnings(report)],
        changed=[f"{name}: {', '.join(done)}" for name, done in changed_people(report.files).items()],
        started=_date(samples[0].time) if samples else None,
        last=_date(samples[-1].time) if samples else None,
        written=_date(time()),
        charts=charts_of(samples),
        **_collect_pictures(report.files, MAX_PICTURES),
        opened=len(report.files) <= OPEN_FILES,
        missed=missed_text,
        segments_by_worker=segments_by_worker,
        mark=mark_text,
        content=content_text,
        defaults=Settings().model_dump(mode="json"),
        help_of=field_help,
    )


def results_html(
    report: BatchReport, folder: Path, *, retention_note: str = "", with_players: bool = True
) -> str:
    """Render the results of a run for a notebook: the outcome of every file, pictures and video players.

    ``retention_note`` is a sentence on how long files stay in the output folder. Without a viewer, omit the
    players: they make the notebook large.
    """
    players, left_out = players_of(results_of(report)) if with_players else ([], [])
    return render(
        "report.html.j2",
        whole=False,
        report=report,
        mark=mark_text,
        state=summary_text(report),
        notes=notes_of(report),
        **_collect_pictures(report.files, MAX_ROWS),
        players=players,
        left_out=left_out,
        paths=[path for name in (HTML_REPORT_NAME, REPORT_NAME) if (path := folder / name).is_file()],
        retention_note=retention_note,
    )


def results_of(report: BatchReport) -> list[Path]:
    """List the outputs that were written."""
    return [Path(file.output) for file in report.files if file.status == "done" and file.output]


def failure_text(report: BatchReport) -> str:
    """List in one line the files that did not succeed, and why; a run may also be stopped after the last."""
    failed = [file for file in report.files if file.status != "done"]
    if not failed:
        return tr("stopped by the user")
    each = (f"{Path(file.target).name}: {file.error or tr(STATE_WORDS[file.status])}" for file in failed)
    text, total = mark("{count} of {total} files did not succeed: {reasons}"), len(report.files)
    return tr(text, count=len(failed), total=total, reasons="; ".join(each))


def _collect_pictures(files: Sequence[FileReport], limit: int) -> dict[str, Any]:
    """Return template values for the first ``limit`` finished files, keyed by file index.

    ``pictures_by_file`` holds a file's pictures, or a sentence why there are none; ``portraits`` those of its
    people; ``more`` is the number of finished files beyond the limit.
    """
    done = [index for index, file in enumerate(files) if file.status == "done" and file.output]
    deadline, pictures = monotonic() + PICTURE_SECONDS, dict[int, list[Picture] | str]()
    portraits: dict[int, list[str]] = {}
    for index, file in ((index, files[index]) for index in done[:limit]):
        if monotonic() > deadline:
            pictures[index] = tr("No picture: extracting those of earlier files took too long.")
            continue
        portraits[index] = portraits_of(file)
        try:
            pictures[index] = pictures_of(file)
        except Exception as error:  # noqa: BLE001 - files change after a run; the page matters more
            pictures[index] = tr("No picture: {reason}", reason=error)
    return {"pictures_by_file": pictures, "portraits": portraits, "more": max(0, len(done) - limit)}


def charts_of(samples: Sequence[Sample]) -> list[tuple[Markup, list[str]]]:
    """Draw every chart that has data; return each with a summary (minimum, mean, maximum) per metric."""
    timeline, charts = active_timeline(samples), []
    text = mark("{name}: min. {least}, mean {mean}, max. {most} {unit}")
    for title in dict.fromkeys(metric.chart or metric.title for metric in METRICS):
        lines, summaries = {}, []
        metrics = [metric for metric in METRICS if (metric.chart or metric.title) == title]
        for metric in metrics:
            points = chart_lines(metric, timeline)[0]
            known = [value for _, value in points if value is not None]
            if known:
                lines[metric.heading] = points
                least, mean, most = map(number, (min(known), fmean(known), max(known)))
                name, unit = metric.heading, tr(metric.unit)
                summaries.append(tr(text, name=name, least=least, mean=mean, most=most, unit=unit))
        if lines:
            unit, high, x_label = tr(metrics[0].unit), metrics[0].high, tr("active time (min:s)")
            chart = line_chart(lines, title=tr(title), unit=unit, high=high, x_label=x_label)
            charts.append((chart, summaries))
    return charts


def _state(report: BatchReport) -> str:
    summary = report.summary
    if not summary.total:
        return tr("no files")
    if report.ok:
        return tr("all {total} done", total=summary.total)
    return tr("{succeeded} of {total} done", succeeded=summary.succeeded, total=summary.total)


def _run_warnings(report: BatchReport) -> list[str]:
    summary = report.summary
    failed = [file for file in report.files if file.status == "failed"]
    skipped = [file for file in report.files if file.status == "skipped"]
    head = tr("Failed ({count} of {total})", count=len(failed), total=summary.total)
    lines = [f"{head}: {_names(failed)}"] if failed else []
    head = tr("Skipped ({count})", count=len(skipped))
    lines += [f"{head}: {_names(skipped)}"] if skipped else []
    if any(model.standin for model in report.models):
        text = mark("Stand-in networks were used, which know only the demo's rendered people: a trial run")
        lines.append(tr(text))
    if count := summary.memory_warnings:
        lines.append(tr("RAM ran low (more than 85 % in use) {count} time(s)", count=count))
    if count := summary.restarts:
        lines.append(tr("The worker process died and was restarted {count} time(s)", count=count))
    return lines


def _file_warnings(report: BatchReport) -> list[str]:
    retimed = report.settings.get("keep_fps") is False
    gpu = bool(report.machine.get("gpu"))
    checks: dict[str, Callable[[FileReport], bool]] = {
        tr("No face was changed in any frame"): lambda file: file.faces_swapped == 0,
        tr("The number of frames differs from the target's"): lambda f: (
            not retimed and f.frames_in != f.frames_out
        ),
        tr("Frame timestamps differ from the target's"): lambda f: not retimed and f.times_kept is False,
        tr("Video and audio differ in length by more than 0.1 s"): lambda f: (
            bool(f.audio_seconds and f.video_seconds)
            and abs((f.audio_seconds or 0.0) - (f.video_seconds or 0.0)) > _SOUND_DIFFERENCE
        ),
        tr("There is a GPU, but the networks ran on the CPU"): lambda file: gpu and file.provider == "cpu",
    }
    done = [file for file in report.files if file.status == "done"]
    affected = {line: [file for file in done if applies(file)] for line, applies in checks.items()}
    return [f"{line}: {_names(files)}" for line, files in affected.items() if files]


def _names(files: Sequence[FileReport]) -> str:
    return first_of([Path(file.target).name for file in files], _MAX_NAMES)


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def segments_by_worker(file: FileReport) -> list[str]:
    """List the segments (counted from 0) that each worker wrote; empty with fewer than two workers."""
    if len(file.made_by) < 2:
        return []
    lines = []
    for name, spans in file.made_by.items():
        numbers = [str(first) if first + 1 == end else f"{first}–{end - 1}" for first, end in spans]
        lines.append(f"{name or tr('single worker')}: {first_of(numbers, _MAX_SPANS)}")
    more = len(lines) - _MAX_WORKERS
    return [*lines[:_MAX_WORKERS], *([tr("and {number} more", number=more)] if more > 0 else [])]


def missed_text(file: FileReport) -> str:
    """Format the spans without a changed face in frames and times; list only the first few."""
    text = spans_text(file.quality.missed_spans if file.quality else [], file, _MAX_SPANS)
    note = tr("frames counted from 0, times approximate")
    return f"{text} ({note})" if text else ""
