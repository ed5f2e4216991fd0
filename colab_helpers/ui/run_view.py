"""What batch_swap shows while it runs: files, charts, and the frame just written."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from colab_helpers.batch.results import KEPT
from colab_helpers.batch.status import BatchStatus, FileStatus
from colab_helpers.language import printable, tr
from colab_helpers.resources.samples import SAMPLES_NAME
from colab_helpers.svg import GREEN, clock_text
from colab_helpers.ui.charts import charts_html
from colab_helpers.ui.history import History, SampleTail

REFRESH = 1.0
"""Seconds between two pictures of the run."""
_EARLY = 0.02
"""Share of the work from which on its speed tells something."""


@dataclass(eq=False)
class RunView:
    """Shows every status of a run, at most one a second.

    Attributes:
        folder: Output folder of the run.
        paint: Puts HTML in the place of what it showed before.
        clock: Seconds that only grow.
    """

    folder: Path
    paint: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    _painted: float = field(default=float("-inf"), init=False)
    _tail: SampleTail = field(init=False)
    _history: History = field(init=False)

    def __post_init__(self) -> None:
        self._tail = SampleTail(self.folder / SAMPLES_NAME)
        self._history = History(since=time.time())

    def __call__(self, status: BatchStatus) -> None:
        """Show how it stands."""
        now = self.clock()
        if now - self._painted < REFRESH and status.state == "running":
            return
        self._painted = now
        self._history.add(self._tail.read())
        self.paint(view_html(status, self._history))


def view_html(status: BatchStatus, history: History) -> str:
    """The run as HTML: all of it in one bar, charts as in the monitor, and the frame just written."""
    charts = charts_html(list(history.recent), status, now=status.updated)
    return printable(f"{overall_html(status)}{_picture_html(status)}{charts}")


def overall_html(status: BatchStatus) -> str:
    """How far the whole batch is, how long it will take, and the memory in use; nothing once it has ended."""
    if status.state != "running" or not status.files:
        return ""
    share = sum(map(_share, status.files)) / len(status.files)
    parts = [tr("All files: {share:.0f} %", share=100 * share)]
    left = time_left(status, share)
    parts += [tr("about {time} left", time=clock_text(left))] if left is not None else []
    parts += [_memory_text(status)] if status.ram_percent is not None else []
    label = escape(tr("All files"), quote=True)
    return (
        f'<div style="max-width:920px">{escape(", ".join(parts))}'
        f'<div role="progressbar" aria-label="{label}" '
        f'aria-valuenow="{100 * share:.0f}" aria-valuemin="0" aria-valuemax="100" '
        'style="background:rgba(128,128,128,.3);height:12px;border-radius:6px;margin:4px 0">'
        f'<div style="background:{GREEN};width:{100 * share:.1f}%;height:12px;border-radius:6px"></div>'
        "</div></div>"
    )


def time_left(status: BatchStatus, share: float) -> float | None:
    """Seconds until all files are done, if the others take as long as those done; None while that is open."""
    kept = sum(tr(KEPT) in file.fallbacks for file in status.files) / len(status.files)
    worked, took = share - kept, status.updated - status.started
    running = max((file.eta for file in status.files if file.eta is not None), default=None)
    if worked < _EARLY:
        return running if sum(file.state in ("queued", "running") for file in status.files) == 1 else None
    return max(took * (1 - share) / worked, running or 0.0)


def _share(file: FileStatus) -> float:
    if file.state == "running":
        return min(1.0, file.frame / file.frames) if file.frames else 0.0
    return 0.0 if file.state == "queued" else 1.0


def _memory_text(status: BatchStatus) -> str:
    gpu = "-" if status.gpu_percent is None else f"{status.gpu_percent:.0f} %"
    return tr("memory S {ram:.0f} % (system), G {gpu} (GPU)", ram=status.ram_percent, gpu=gpu)


def _picture_html(status: BatchStatus) -> str:
    running = next((file for file in status.files if file.state == "running"), None)
    if running is None or not status.picture:
        return ""
    told = escape(tr("last frame"), quote=True)
    picture = f'<img src="{escape(status.picture)}" alt="{told}" style="max-height:200px">'
    return f"<p>{picture}<br>{told}: {escape(Path(running.target).name)}</p>"
