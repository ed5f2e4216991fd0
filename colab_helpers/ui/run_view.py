"""What batch_swap shows while it runs: the batch as the monitor shows it, at most once a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from colab_helpers.batch.status import BatchStatus
from colab_helpers.pages.history import SampleHistory
from colab_helpers.pages.live import live_html
from colab_helpers.resources.samples import SAMPLES_NAME, SampleTail

REFRESH = 1.0
"""Seconds between two pictures of the run."""


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
    _history: SampleHistory = field(default_factory=lambda: SampleHistory(since=time.time()), init=False)

    def __post_init__(self) -> None:
        self._tail = SampleTail(self.folder / SAMPLES_NAME)

    def __call__(self, status: BatchStatus) -> None:
        """Show how it stands."""
        now = self.clock()
        if now - self._painted < REFRESH and status.state == "running":
            return
        self._painted = now
        self._history.add(self._tail.read())
        self.paint(live_html(list(self._history.recent), status, now=status.updated))
