"""How far a fetch of several files is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a fetch is."""

    files_done: int
    files_total: int
    bytes_done: int
    bytes_total: int
    rate: float  # bytes per second since it began
    eta: float | None  # seconds left at that rate; None while unknown


ProgressCallback = Callable[[Progress], None]
"""Called in the thread that called ``fetch``, about four times a second."""


class Meter:
    """Counts bytes of several files at once; safe to use from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock, self._clock = threading.Lock(), clock
        self._done: dict[str, int] = {}
        self._total: dict[str, int] = {}
        self._began: tuple[float, int] | None = None

    def update(self, name: str, done: int, total: int | None = None) -> None:
        """Set how many bytes of a file are there; None leaves its total as it was."""
        with self._lock:
            self._done[name] = done
            self._total[name] = max(done, self._total.get(name, 0) if total is None else total)

    def progress(self, files_done: int, files_total: int) -> Progress:
        """The sums now; what was there the first time this is asked is no rate."""
        with self._lock:
            at, done, total = self._clock(), sum(self._done.values()), sum(self._total.values())
        since, before = self._began = self._began or (at, done)
        # Starting a file over takes bytes away; that is not a negative rate.
        rate = max(0.0, (done - before) / (at - since)) if at > since else 0.0
        eta = (total - done) / rate if rate > 0 else None
        return Progress(files_done, files_total, done, total, rate, eta)
