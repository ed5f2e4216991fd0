"""When there is something to tell of a video's run, and what."""

from __future__ import annotations

import time
from collections.abc import Sized

from colab_helpers.faces.engine import Engine
from colab_helpers.language import mark
from colab_helpers.progress import FINDING, PROCESSING, Progress, ProgressCallback
from colab_helpers.resources.sampler import gpu_load, gpu_memory_percent, ram_percent

PROGRESS_INTERVAL = 0.25
PICTURE_INTERVAL = 2.0


class ProgressReporter:
    """Reports progress at most every quarter of a second.

    ``frames`` are those of the result, as far as is known; ``gauges`` what waits behind each stage, by its
    name, where stages enter themselves.
    """

    def __init__(
        self,
        tell: ProgressCallback | None,
        engine: Engine,
        file: str,
        file_index: int,
        file_count: int,
        frames: int | None,
    ) -> None:
        self.gauges: dict[str, Sized] = {}
        self._tell, self._engine, self.frames = tell, engine, frames
        self._file = file, file_index, file_count
        self._begun = self._last = time.monotonic()
        self._pictured = float("-inf")
        self._done, self._rate = 0, 0.0
        self._start, self._before = -1, 0

    def frame(self, written: int, *, start: int, last: bool = False) -> None:
        """Tell how many frames were written in this run, which began at the ``start``-th."""
        now = time.monotonic()
        # A worker goes on with another segment than the next, or a video is made again without its label.
        if self._start != -1 and (self._start != start or start + written < self._done):
            self._begun, self._before = now, written
        self._done, self._start = start + written, start
        if last or now - self._last >= PROGRESS_INTERVAL:
            self._rate = (written - self._before) / max(now - self._begun, 1e-6) or self._rate
            frames, rate = self.frames, self._rate
            self._report(now, PROCESSING, max(0, frames - self._done) / rate if frames and rate else None)

    def finding(self, found: int) -> None:
        """Tell that faces are searched for before anything is changed; in ``found`` frames they are known."""
        # How fast frames are made says nothing of the time before the first.
        self._begun, self._before, self._start = time.monotonic(), 0, -1
        self._tell_stage(found, FINDING, None)

    def joining(self, joined: int) -> None:
        """Tell that the segments are being joined, all of which are made; ``joined`` frames are."""
        self._tell_stage(max(self._done, joined, self.frames or 0), mark("joining"), 0.0)

    def picture_is_due(self) -> bool:
        """Tell whether it is time to show a frame; then the next one is due after the interval."""
        now = time.monotonic()
        due = now - self._pictured >= PICTURE_INTERVAL
        self._pictured = now if due else self._pictured
        return due

    def _tell_stage(self, done: int, stage: str, left: float | None) -> None:
        self._done = done
        if (now := time.monotonic()) - self._last >= PROGRESS_INTERVAL:
            self._report(now, stage, left)

    def _report(self, now: float, stage: str, left: float | None) -> None:
        self._last = now
        if self._tell is None:
            return
        file, index, count = self._file
        self._tell(
            Progress(
                file=file,
                file_index=index,
                file_count=count,
                frame=self._done,
                frames=self.frames,
                fps=self._rate,
                eta=left,
                ram_percent=ram_percent(),
                gpu_percent=gpu_memory_percent(),
                gpu_load=gpu_load(),
                provider=self._engine.provider,
                threads=int(self._engine.settings.execution_threads),
                batch_size=int(self._engine.settings.batch_size),
                stage=stage,
                waiting={name: len(queue) for name, queue in self.gauges.items()},
            )
        )
