"""The report of a run as one page: no script, no other file, nothing from the network.

``python -m colab_helpers.batch.html_report REPORT SAMPLES`` makes it from the report for machines.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from colab_helpers.batch.html_charts import charts_html
from colab_helpers.batch.html_files import files_html, overview_html
from colab_helpers.batch.html_parts import STYLE, bullets, duration, facts_table, memory, size, soft, text
from colab_helpers.batch.report import BatchReport, FileReport, html_path, write_text
from colab_helpers.files import from_json
from colab_helpers.language import language, tr
from colab_helpers.resources.samples import Sample, read_samples
from colab_helpers.settings import Settings, field_help
from colab_helpers.svg import number

_MAX_NAMES = 5
_CHART_POINTS = 2000
# Sound comes in frames of its own and may be some hundredths of a second longer than the picture.
_SOUND_DIFFERENCE = 0.1


def make_page(report: Path, samples: Path) -> None:
    """Write the page beside a ``report.json``, with the figures over time of a ``samples.jsonl``.

    Raises:
        OSError: The report cannot be read.
        OutputError: The folder cannot be written to.
    """
    found = from_json(BatchReport, report.read_bytes())
    figures = read_samples(samples, most=_CHART_POINTS)
    write_html_report(found, figures, html_path(report))


def write_html_report(report: BatchReport, samples: Sequence[Sample], path: Path) -> None:
    """Write the page: to a temporary file first, then renamed.

    Raises:
        OutputError: The folder cannot be written to.
    """
    write_text(path, html_report(report, samples))


def html_report(
    report: BatchReport,
    samples: Sequence[Sample],
    *,
    now: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> str:
    """The whole page.

    Args:
        report: What a run returned. Files that are no longer where it says go without a picture.
        samples: Of the run, in the order of time; may be empty.
        now: When the report was written, in seconds since 1970; by default now.
        clock: Seconds that only grow, for the time that pictures may take.

    Returns:
        HTML that needs no other file.
    """
    sections = [
        _heading(report),
        _warnings(report),
        _about(report, samples, time.time() if now is None else now),
        _section(tr("In numbers"), _tiles(report)),
        _section(
            tr("Over time"),
            charts_html(samples) or soft(tr("No figures over time were kept of this run.")),
        ),
        _section(tr("Files"), overview_html(report.files)),
        _section(tr("Each file"), files_html(report.files, clock=clock)),
        _section(tr("Notes and fall-backs of the whole run"), bullets(report.notes)),
        _section(tr("Models"), _models(report)),
        _section(tr("Settings"), _settings(report.settings)),
    ]
    title = tr("Batch report")
    return (
        f'<!DOCTYPE html>\n<html lang="{language()}">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="generator" content="colab_helpers">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}: {text(_state(report))}</title>\n"
        f"<style>\n{STYLE}\n</style>\n</head>\n<body>\n"
        + "\n".join(filter(None, sections))
        + "\n</body>\n</html>\n"
    )


def _section(title: str, content: str) -> str:
    return f"<h2>{title}</h2>\n{content}" if content else ""


def _state(report: BatchReport) -> str:
    summary = report.summary
    if not summary.total:
        return tr("no files")
    if report.ok:
        return tr("all {total} done", total=summary.total)
    return tr("{succeeded} of {total} done", succeeded=summary.succeeded, total=summary.total)


def _heading(report: BatchReport) -> str:
    summary = report.summary
    mood = "good" if report.ok else "warn" if summary.succeeded else "bad"
    title = tr("Batch report")
    return f'<h1>{title} <span class="badge {mood}">{text(_state(report))}</span></h1>'


def _warnings(report: BatchReport) -> str:
    lines = [*_run_warnings(report), *_file_warnings(report)]
    return bullets(lines, kind="warnings")


def _run_warnings(report: BatchReport) -> list[str]:
    summary = report.summary
    failed = [file for file in report.files if file.status == "failed"]
    skipped = [file for file in report.files if file.status == "skipped"]
    lines = []
    if failed:
        head = tr("Failed ({count} of {total})", count=len(failed), total=summary.total)
        lines.append(f"{head}: {_names(failed)}")
    if skipped:
        head = tr("Skipped ({count})", count=len(skipped))
        lines.append(f"{head}: {_names(skipped)}")
    if any(model.standin for model in report.models):
        lines.append(
            tr("Stand-in models were used; they know the demo's rendered people only: this was a trial")
        )
    if summary.memory_warnings:
        lines.append(
            tr("RAM ran short (more than 85 % in use), {count} time(s)", count=summary.memory_warnings)
        )
    if summary.restarts:
        lines.append(
            tr("The worker process died and was started again, {count} time(s)", count=summary.restarts)
        )
    return lines


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
            abs(_sound_difference(file)) > _SOUND_DIFFERENCE
        ),
        tr("There is a GPU, but the networks ran on the CPU"): lambda file: gpu and file.provider == "cpu",
    }
    done = [file for file in report.files if file.status == "done"]
    found = {line: [file for file in done if sign(file)] for line, sign in signs.items()}
    return [f"{line}: {_names(files)}" for line, files in found.items() if files]


def _sound_difference(file: FileReport) -> float:
    """Seconds by which the sound is longer than the picture; 0 without either."""
    if not file.audio_seconds or not file.video_seconds:
        return 0.0
    return file.audio_seconds - file.video_seconds


def _names(files: Sequence[FileReport]) -> str:
    names = [Path(file.target).name for file in files]
    more = [tr("and {count} more", count=len(names) - _MAX_NAMES)] if len(names) > _MAX_NAMES else []
    return ", ".join([*names[:_MAX_NAMES], *more])


def _about(report: BatchReport, samples: Sequence[Sample], now: float) -> str:
    machine = report.machine
    gpu = machine.get("gpu")
    hardware = tr(
        "{cpus} processor cores, {memory} RAM",
        cpus=machine.get("cpus", "?"),
        memory=memory(machine.get("memory_total", 0)),
    )
    system = [machine.get("system"), f"Python {machine['python']}" if machine.get("python") else None]
    colab = tr("on Google Colab") if machine.get("on_colab") else None
    return facts_table(
        [
            (tr("Run"), text(report.run)),
            (tr("Began"), _date(samples[0].time) if samples else None),
            (tr("Last sample"), _date(samples[-1].time) if samples else None),
            (tr("Report written"), _date(now)),
            (tr("Consent"), text(report.consent)),
            (tr("Machine"), text(hardware) if machine else None),
            (tr("GPU"), text(_gpu(gpu) if gpu else tr("none"))),
            (tr("Software"), text(", ".join(filter(None, [*system, colab])))),
        ]
    )


def _gpu(gpu: dict[str, Any]) -> str:
    driver = tr("driver {version}", version=gpu.get("driver", "?"))
    return ", ".join([gpu.get("name", "?"), memory(gpu.get("memory_total", 0)), driver])


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def _tiles(report: BatchReport) -> str:
    summary = report.summary
    frames = sum(file.frames_out for file in report.files)
    tiles = [
        (tr("files"), str(summary.total)),
        (tr("succeeded"), f"{summary.succeeded} ({100 * summary.success_rate:.0f} %)"),
        (tr("failed"), str(summary.failed)),
        (tr("skipped"), str(summary.skipped)),
        (tr("size of all results"), size(summary.bytes)),
        (tr("time"), duration(summary.seconds)),
        (tr("frames/s over all"), number(frames / summary.seconds) if summary.seconds else "–"),
        (tr("memory warnings"), str(summary.memory_warnings)),
        (tr("restarts"), str(summary.restarts)),
    ]
    return f'<dl class="tiles">{"".join(f"<div><dt>{n}</dt><dd>{v}</dd></div>" for n, v in tiles)}</dl>'


def _models(report: BatchReport) -> str:
    rows = [
        (text(model.name), f"{_model_kind(standin=model.standin)}<br>{text(model.path)}")
        for model in report.models
    ]
    return facts_table(rows) if rows else ""


def _model_kind(*, standin: bool) -> str:
    if not standin:
        return tr("network as published")
    line = tr("stand-in: knows the demo's rendered people only")
    return f'<strong class="warn">{text(line)}</strong>'


def _settings(settings: dict[str, Any]) -> str:
    """All settings, those that differ from the defaults first."""
    if not settings:
        return ""
    defaults = Settings().model_dump(mode="json")
    changed = [name for name, value in settings.items() if name in defaults and value != defaults[name]]
    names = [*changed, *(name for name in settings if name not in changed)]
    heads = (tr("Setting"), tr("Value"), tr("Default"), tr("What it does"))
    head = "".join(f"<th>{name}</th>" for name in heads)
    rows = "".join(_setting(name, settings[name], defaults, differs=name in changed) for name in names)
    title = tr("{changed} of {total} differ from the defaults", changed=len(changed), total=len(settings))
    return (
        f"<details><summary>{text(title)}</summary>"
        f'<div class="wide"><table><tr>{head}</tr>{rows}</table></div></details>'
    )


def _setting(name: str, value: object, defaults: dict[str, Any], *, differs: bool) -> str:
    shown = f"<strong>{_plain(value)}</strong>" if differs else _plain(value)
    known = name in defaults
    default, meaning = (_plain(defaults[name]), text(field_help(name))) if known else ("–", "")
    return f"<tr><td>{text(name)}</td><td>{shown}</td><td>{default}</td><td>{meaning}</td></tr>"


def _plain(value: object) -> str:
    """A setting's value as it would be written on the command line."""
    if isinstance(value, list | tuple):
        return text(", ".join(map(str, value)))
    return text(str(value).lower() if isinstance(value, bool) else value)


if __name__ == "__main__":
    make_page(*map(Path, sys.argv[1:]))
