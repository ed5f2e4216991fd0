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
_WIDTH = 920


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
    return f"{shown}{more}" if done else ""


def _row(file: FileReport) -> str:
    name = html.escape(Path(file.target).name)
    try:
        pair = pair_of(file)
        pictures = [(tr("before"), pair.before), (tr("after"), pair.after)]
        cells = [_source_picture(file.source), *(_picture(title, image) for title, image in pictures)]
    except (MediaError, OSError) as error:
        reason = html.escape(tr("{name}: no picture ({error})", name=Path(file.target).name, error=error))
        return f"<p>{reason}</p>"
    row = f'<div style="display:flex;gap:6px;max-width:{_WIDTH}px">{"".join(cells)}</div>'
    return f'<p style="margin:10px 0 2px"><b>{name}</b></p>{row}'


def _source_picture(sources: Sequence[str]) -> str:
    """The first source photo; photos given as data or arrays have no file to show again."""
    if not sources or not Path(sources[0]).is_file():
        return _figure(tr("source"), html.escape(tr("(given in memory)")), 1.0)
    return _picture(tr("source"), read_image(sources[0]))


def _picture(title: str, image: Image) -> str:
    shape = image.shape[1] / image.shape[0]
    told = html.escape(title, quote=True)
    shown = f'<img src="{data_url(image)}" alt="{told}" style="width:100%;max-width:{shape * HEIGHT:.0f}px">'
    return _figure(title, shown, shape)


def _figure(title: str, content: str, shape: float) -> str:
    """As wide as its share, so that all of a row are of one height and fit in any page."""
    most = f"flex:{shape:.3f} 1 0;min-width:0;max-width:{shape * HEIGHT:.0f}px"
    caption = f'<figcaption style="opacity:.75">{html.escape(title)}</figcaption>'
    return f'<figure style="margin:0;{most}">{content}{caption}</figure>'
