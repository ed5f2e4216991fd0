"""Pictures of a run's results: source, before, after, as small images inside the HTML itself."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from colab_helpers.batch.report import BatchReport, FileReport
from colab_helpers.batch.thumbnails import HEIGHT, Image, data_url, pair_of
from colab_helpers.errors import MediaError
from colab_helpers.language import tr
from colab_helpers.media.images import read_image

MAX_ROWS = 6


def gallery_html(report: BatchReport, *, rows: int = MAX_ROWS) -> str:
    """One row for each finished file: source, before, after.

    Args:
        report: What a run returned; its files must still be where it says.
        rows: How many files to show at most.

    Returns:
        HTML that needs no other file. Files without a picture to show are named with the reason.
    """
    done = [file for file in report.files if file.status == "done" and file.output]
    shown = "".join(_row(file) for file in done[:rows])
    rest = tr("and {count} more in the output folder", count=len(done) - rows)
    more = f"<p>{html.escape(rest)}</p>" if len(done) > rows else ""
    return f"<table>{_heading()}{shown}</table>{more}" if done else ""


def _heading() -> str:
    heads = (tr("source"), tr("before"), tr("after"))
    return "<tr>" + "".join(f"<th>{html.escape(head)}</th>" for head in heads) + "</tr>"


def _row(file: FileReport) -> str:
    name = html.escape(Path(file.target).name)
    try:
        pair = pair_of(file)
        cells = [_source_picture(file.source), _picture(pair.before), _picture(pair.after)]
    except (MediaError, OSError) as error:
        reason = html.escape(tr("{name}: no picture ({error})", name=Path(file.target).name, error=error))
        return f'<tr><td colspan="3">{reason}</td></tr>'
    pictures = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr>{pictures}</tr><tr><td colspan="3">{name}</td></tr>'


def _source_picture(sources: Sequence[str]) -> str:
    """The first source photo; photos given as data or arrays have no file to show again."""
    if not sources or not Path(sources[0]).is_file():
        return tr("(given in memory)")
    return _picture(read_image(sources[0]))


def _picture(image: Image) -> str:
    return f'<img src="{data_url(image)}" height="{HEIGHT}">'
