"""The report of a run: as a page of its own, as its results inside a notebook, and in words."""

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
from colab_helpers.language import first_of, tr
from colab_helpers.pages.metrics import METRICS, active_timeline, chart_lines
from colab_helpers.pages.pictures import Picture, pictures_of, players_of, portraits_of
from colab_helpers.pages.rendering import render, spans_text
from colab_helpers.pages.svg import line_chart
from colab_helpers.pages.units import content_text, mark_text, notes_of, number, summary_text
from colab_helpers.resources.samples import SAMPLES_NAME, Sample, read_samples
from colab_helpers.settings import Settings, field_help

MAX_PICTURES, MAX_ROWS = 24, 6
"""Files that are shown with pictures in a page of its own, and in a notebook."""
PICTURE_SECONDS = 60.0
"""How long pictures may be looked for: in long videos finding a frame takes seconds."""
OPEN_FILES = 8
"""Up to so many files, each is shown opened."""
_MAX_SAMPLES = 10_000
_MAX_NAMES, _MAX_SPANS, _MAX_MAKERS = 5, 12, 16
# Sound comes in frames of its own and may be some hundredths of a second longer than the picture.
_SOUND_DIFFERENCE = 0.1


def write_page(folder: Path, report: Path | None = None) -> Path:
    """Write the page of a run beside its report, ``report.json`` in the folder by default; return its place.

    Raises:
        MissingFileError: There is no report.
        UsageError: It is of another version or no report, or a file of the user's has the page's name.
        OutputError: The folder cannot be written to.
    """
    path = report or folder / REPORT_NAME
    found = load(
        BatchReport,
        path,
        missing=tr("no batch has written its report here"),
        missing_remedy=tr("name the output folder of a batch"),
        foreign=tr("this is no report that this version can read"),
        foreign_remedy=tr("use the version of the package that ran the batch"),
    ).within(folder)
    page = html_path(path)
    WritePolicy(overwrite=bool(found.settings.get("overwrite")), made=is_own_file).ensure_writable(page)
    write_text(page, report_html(found, read_samples(folder / SAMPLES_NAME, most=_MAX_SAMPLES)))
    return page


def report_html(report: BatchReport, samples: Sequence[Sample]) -> str:
    """Render a run as a page that needs no script, no other file and no network.

    Files that are no longer where the report says go without a picture.
    """
    return render(
        "report.html.j2",
        whole=True,
        report=report,
        state=_state(report),
        warnings=[*_run_warnings(report), *_file_warnings(report)],
        changed=[f"{name}: {', '.join(done)}" for name, done in changed_people(report.files).items()],
        began=_date(samples[0].time) if samples else None,
        last=_date(samples[-1].time) if samples else None,
        written=_date(time()),
        charts=charts_of(samples),
        **_pictured(report.files, MAX_PICTURES),
        opened=len(report.files) <= OPEN_FILES,
        missed=missed_text,
        makers=makers_of,
        mark=mark_text,
        content=content_text,
        defaults=Settings().model_dump(mode="json"),
        help_of=field_help,
    )


def results_html(
    report: BatchReport, folder: Path, *, retention_note: str = "", with_players: bool = True
) -> str:
    """Render the results of a run for a notebook: what became of every file, pictures, and videos to play.

    ``retention_note`` is a sentence on how long they stay in the folder; ``with_players`` tells whether
    somebody
    looks: else players would only make the notebook large.
    """
    players, left_out = players_of(results_of(report)) if with_players else ([], [])
    return render(
        "report.html.j2",
        whole=False,
        report=report,
        mark=mark_text,
        state=summary_text(report),
        notes=notes_of(report),
        **_pictured(report.files, MAX_ROWS),
        players=players,
        left_out=left_out,
        places=[place for name in (HTML_REPORT_NAME, REPORT_NAME) if (place := folder / name).is_file()],
        retention_note=retention_note,
    )


def results_of(report: BatchReport) -> list[Path]:
    """List the files that were made."""
    return [Path(file.output) for file in report.files if file.status == "done" and file.output]


def failure_text(report: BatchReport) -> str:
    """Name the files that did not succeed and why, in one line."""
    wrong = [file for file in report.files if file.status != "done"]
    reasons = [f"{Path(file.target).name}: {file.error or tr(STATE_WORDS[file.status])}" for file in wrong]
    return tr(
        "{count} of {total} files did not succeed: {reasons}",
        count=len(wrong),
        total=len(report.files),
        reasons="; ".join(reasons),
    )


def _pictured(files: Sequence[FileReport], most: int) -> dict[str, Any]:
    """Pictures of the first finished files by index, or why there are none; portraits; how many more."""
    done = [index for index, file in enumerate(files) if file.status == "done" and file.output]
    until, found = monotonic() + PICTURE_SECONDS, dict[int, list[Picture] | str]()
    portraits: dict[int, list[str]] = {}
    for index, file in ((index, files[index]) for index in done[:most]):
        if monotonic() > until:
            found[index] = tr("No picture: those of the files before took too long to find.")
            continue
        portraits[index] = portraits_of(file)
        try:
            found[index] = pictures_of(file)
        except Exception as error:  # noqa: BLE001 - files change after a run; a picture is never worth the page
            found[index] = tr("No picture: {reason}", reason=error)
    return {"pictured": found, "portraits": portraits, "more": max(0, len(done) - most)}


def charts_of(samples: Sequence[Sample]) -> list[tuple[Markup, list[str]]]:
    """Draw every chart that has something to show, and sum up each of its figures."""
    course, charts = active_timeline(samples), []
    for title in dict.fromkeys(figure.chart or figure.title for figure in METRICS):
        lines, told = {}, []
        figures = [figure for figure in METRICS if (figure.chart or figure.title) == title]
        for figure in figures:
            points = chart_lines(figure, course)[0]
            known = [value for _, value in points if value is not None]
            if known:
                lines[figure.heading] = points
                told.append(
                    tr(
                        "{name}: least {least}, mean {mean}, most {most} {unit}",
                        name=figure.heading,
                        least=number(min(known)),
                        mean=number(fmean(known)),
                        most=number(max(known)),
                        unit=tr(figure.unit),
                    )
                )
        if lines:
            unit, high = tr(figures[0].unit), figures[0].high
            chart = line_chart(
                lines, title=tr(title), unit=unit, high=high, x_label=tr("time at work (min:s)")
            )
            charts.append((chart, told))
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
    counted = {
        tr("Stand-in models were used; they know the demo's rendered people only: this was a trial"): any(
            model.standin for model in report.models
        ),
        tr(
            "RAM ran short (more than 85 % in use), {count} time(s)", count=summary.memory_warnings
        ): summary.memory_warnings,
        tr(
            "The worker process died and was started again, {count} time(s)", count=summary.restarts
        ): summary.restarts,
    }
    return [*lines, *(line for line, count in counted.items() if count)]


def _file_warnings(report: BatchReport) -> list[str]:
    retimed = report.settings.get("keep_fps") is False
    gpu = bool(report.machine.get("gpu"))
    signs: dict[str, Callable[[FileReport], bool]] = {
        tr("No face was changed in any frame"): lambda file: file.faces_swapped == 0,
        tr("Frames went in that did not come out"): lambda file: (
            file.frames_in != file.frames_out and not retimed
        ),
        tr("Frames are not shown exactly when the target's are"): lambda file: (
            file.times_kept is False and not retimed
        ),
        tr("Picture and sound differ in length by more than 0.1 s"): lambda file: (
            abs((file.audio_seconds or 0.0) - (file.video_seconds or 0.0)) > _SOUND_DIFFERENCE
            and bool(file.audio_seconds and file.video_seconds)
        ),
        tr("There is a GPU, but the networks ran on the CPU"): lambda file: gpu and file.provider == "cpu",
    }
    done = [file for file in report.files if file.status == "done"]
    found = {line: [file for file in done if sign(file)] for line, sign in signs.items()}
    return [f"{line}: {_names(files)}" for line, files in found.items() if files]


def _names(files: Sequence[FileReport]) -> str:
    return first_of([Path(file.target).name for file in files], _MAX_NAMES)


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def makers_of(file: FileReport) -> list[str]:
    """Say which worker made which segments, counted from 0; nothing where no more than one did."""
    if len(file.made_by) < 2:
        return []
    lines = []
    for name, spans in file.made_by.items():
        numbers = [str(first) if first + 1 == end else f"{first}–{end - 1}" for first, end in spans]
        lines.append(f"{name or tr('one worker alone')}: {first_of(numbers, _MAX_SPANS)}")
    more = len(lines) - _MAX_MAKERS
    return [*lines[:_MAX_MAKERS], *([tr("and {number} more", number=more)] if more > 0 else [])]


def missed_text(file: FileReport) -> str:
    """Name the stretches without a changed face in frames and times; only the first few of many."""
    text = spans_text(file.quality.missed_spans if file.quality else [], file, _MAX_SPANS)
    note = tr("frames counted from 0, times approximate")
    return f"{text} ({note})" if text else ""
