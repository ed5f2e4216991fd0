"""What batch_swap shows while it runs: files, charts, and the frame just written."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from colab_helpers.batch.status import BatchStatus
from colab_helpers.resources.samples import SAMPLES_NAME
from colab_helpers.ui.charts import charts_html
from colab_helpers.ui.history import History, SampleTail

REFRESH = 1.0
"""Seconds between two pictures of the run."""
_LAST_FRAME = "last frame"


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
    """The run as HTML: charts as in the monitor, and the frame just written beside its name."""
    charts = charts_html(list(history.recent), status, now=status.updated)
    running = next((file for file in status.files if file.state == "running"), None)
    if running is None or not status.picture:
        return charts
    name = escape(Path(running.target).name)
    picture = f'<img src="{escape(status.picture)}" alt="{_LAST_FRAME}" style="max-height:200px">'
    return f"{charts}<p>{picture}<br>{_LAST_FRAME}: {name}</p>"
