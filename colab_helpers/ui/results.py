"""What became of a run, for a page and for a shell."""

from __future__ import annotations

import html
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from colab_helpers.batch.names import HTML_REPORT_NAME, REPORT_NAME
from colab_helpers.batch.report import BatchReport, FileReport
from colab_helpers.batch.status import STATE_WORDS
from colab_helpers.language import mark, printable, tr
from colab_helpers.media.writer import unwritable
from colab_helpers.ui.cells import STANDIN_NOTE
from colab_helpers.ui.gallery import gallery_html
from colab_helpers.ui.players import players_html

if TYPE_CHECKING:
    from colab_helpers.ui.notebook import BatchRun

_HEAD = (mark("file"), mark("result"), mark("frames"), mark("faces"), mark("seconds"), mark("remarks"))
_CELL = "text-align:left;vertical-align:top;padding:2px 12px 2px 0"


def results_html(run: BatchRun) -> str:
    """Summary, notes, table of files, gallery, players and where everything is."""
    head = "".join(f'<th style="{_CELL}">{html.escape(tr(name))}</th>' for name in _HEAD)
    rows = "".join(_file_row(file) for file in run.report.files)
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in _notes(run))
    summary = f"<p><b>{html.escape(summary_text(run))}</b></p>"
    table = f'<table style="border-collapse:collapse"><tr>{head}</tr>{rows}</table>'
    # Players would make an executed notebook that nobody looks at large.
    players = "" if run.host.headless else players_html(results_of(run.report))
    parts = (summary, notes, table, gallery_html(run.report), players, _places(run))
    return printable(f'<div style="line-height:1.4">{"".join(parts)}</div>')


def results_of(report: BatchReport) -> list[Path]:
    """The files that were made."""
    return [Path(file.output) for file in report.files if file.status == "done" and file.output]


def packed(paths: Sequence[Path]) -> Path:
    """Results as one zip in a folder of its own; stored as they are, since videos do not get smaller.

    Raises:
        OutputError: It cannot be written.
    """
    # Not beside the results, where a file of that name may be the user's.
    path = Path(tempfile.mkdtemp(prefix="colab_helpers-")) / "results.zip"
    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for each in paths:
                archive.write(each, each.name)
    except OSError as error:
        shutil.rmtree(path.parent, ignore_errors=True)
        raise unwritable(path, error) from error
    return path


def _file_row(file: FileReport) -> str:
    remarks = "; ".join([*([file.error] if file.error else []), *file.fallbacks])
    values = [
        Path(file.target).name,
        tr(STATE_WORDS[file.status]),
        f"{file.frames_out}",
        f"{file.faces_swapped}",
        f"{file.seconds:.1f}",
        remarks,
    ]
    return "<tr>" + "".join(f'<td style="{_CELL}">{html.escape(value)}</td>' for value in values) + "</tr>"


def _places(run: BatchRun) -> str:
    reports = [run.folder / name for name in (HTML_REPORT_NAME, REPORT_NAME)]
    word = html.escape(tr("report"))
    lines = [f"{word}: <code>{html.escape(str(path))}</code>" for path in reports]
    keeping = run.host.keeping(run.folder)
    return "".join(f"<p>{line}</p>" for line in [*lines, *([html.escape(keeping)] if keeping else [])])


def results_text(run: BatchRun) -> str:
    """The results for places that cannot show HTML."""
    files = [
        f"  {tr(STATE_WORDS[file.status]):8}{Path(file.target).name}: "
        + tr("{frames} frames, {faces} faces", frames=file.frames_out, faces=file.faces_swapped)
        + (f", {file.error}" if file.error else "")
        for file in run.report.files
    ]
    return "\n".join([summary_text(run), *_notes(run), *files])


def summary_text(run: BatchRun) -> str:
    """The run in one line."""
    summary = run.report.summary
    return tr(
        "{succeeded} of {total} files in {seconds:.1f} s, {size:.1f} MB, memory warnings: {warnings}; "
        "results in {folder}",
        succeeded=summary.succeeded,
        total=summary.total,
        seconds=summary.seconds,
        size=summary.bytes / 1e6,
        warnings=summary.memory_warnings,
        folder=run.folder,
    )


def failure_text(report: BatchReport) -> str:
    """The failed files and why, in one line."""
    wrong = [file for file in report.files if file.status != "done"]
    reasons = "; ".join(
        f"{Path(file.target).name}: {file.error or tr(STATE_WORDS[file.status])}" for file in wrong
    )
    return tr(
        "{count} of {total} files did not succeed: {reasons}",
        count=len(wrong),
        total=len(report.files),
        reasons=reasons,
    )


def _notes(run: BatchRun) -> list[str]:
    return [*([tr(STANDIN_NOTE)] if run.uses_standins else []), *run.report.notes]
