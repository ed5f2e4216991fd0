"""How far a fetch of several files is."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

_RATE_SECONDS = 10.0


@dataclass(frozen=True)
class Progress:
    """How far a fetch is."""

    files_done: int
    files_total: int
    bytes_done: int
    bytes_total: int  # may grow: sizes of some files become known on the way
    rate: float  # bytes per second over the last ten seconds
    eta: float | None  # seconds left at that rate; None while unknown


ProgressCallback = Callable[[Progress], None]
"""Called in the thread that called ``fetch``, about four times a second."""


class Meter:
    """Counts bytes of several files at once; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done: dict[str, int] = {}
        self._total: dict[str, int] = {}
        self._samples: deque[tuple[float, int]] = deque()

    def update(self, name: str, done: int, total: int | None) -> None:
        """Set how many bytes of a file are there; None leaves its total as it was."""
        with self._lock:
            self._done[name] = done
            self._total[name] = max(done, total if total is not None else self._total.get(name, 0))

    def progress(self, files_done: int, files_total: int) -> Progress:
        """The sums now."""
        with self._lock:
            done, total = sum(self._done.values()), sum(self._total.values())
        rate = self._rate(done)
        eta = (total - done) / rate if rate > 0 else None
        return Progress(files_done, files_total, done, total, rate, eta)

    def _rate(self, done: int) -> float:
        at = time.monotonic()
        self._samples.append((at, done))
        while len(self._samples) > 2 and at - self._samples[0][0] > _RATE_SECONDS:
            self._samples.popleft()
        since, before = self._samples[0]
        # Starting a file over takes bytes away; that is not a negative rate.
        return max(0.0, (done - before) / (at - since)) if at > since else 0.0
