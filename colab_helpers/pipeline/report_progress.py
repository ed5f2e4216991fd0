"""Rate-limited progress reports of a video's run."""

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

    ``frames`` is the number of frames of the result, None if unknown; ``gauges`` holds the queue behind each
    stage by its name, entered by the stages themselves.
    """

    def __init__(
        self,
        on_progress: ProgressCallback | None,
        engine: Engine,
        file: str,
        file_index: int,
        file_count: int,
        frames: int | None,
    ) -> None:
        self.gauges: dict[str, Sized] = {}
        self._on_progress, self._engine, self.frames = on_progress, engine, frames
        self._file = file, file_index, file_count
        self._started = self._last = time.monotonic()
        self._last_picture = float("-inf")
        self._done, self._rate = 0, 0.0
        self._start, self._baseline = -1, 0

    def frame(self, written: int, *, start: int, last: bool = False) -> None:
        """Report the frames written from the ``start``-th on, at once if this is the ``last`` report."""
        now = time.monotonic()
        # The worker jumped to another segment, or the video is made again without its label.
        if self._start != -1 and (self._start != start or start + written < self._done):
            self._started, self._baseline = now, written
        self._done, self._start = start + written, start
        if last or now - self._last >= PROGRESS_INTERVAL:
            self._rate = (written - self._baseline) / max(now - self._started, 1e-6) or self._rate
            frames, rate = self.frames, self._rate
            self._report(now, PROCESSING, max(0, frames - self._done) / rate if frames and rate else None)

    def finding(self, found: int) -> None:
        """Report that faces are being searched before anything is changed, so far in ``found`` frames."""
        # The frame rate must not count the time before the first frame is written.
        self._started, self._baseline, self._start = time.monotonic(), 0, -1
        self._report_stage(found, FINDING, None)

    def joining(self, joined: int) -> None:
        """Report that all segments are made and being joined, so far ``joined`` frames."""
        self._report_stage(max(self._done, joined, self.frames or 0), mark("joining"), 0.0)

    def picture_is_due(self) -> bool:
        """Return whether it is time to show a frame; if so, restart the interval."""
        now = time.monotonic()
        due = now - self._last_picture >= PICTURE_INTERVAL
        self._last_picture = now if due else self._last_picture
        return due

    def _report_stage(self, done: int, stage: str, left: float | None) -> None:
        self._done = done
        if (now := time.monotonic()) - self._last >= PROGRESS_INTERVAL:
            self._report(now, stage, left)

    def _report(self, now: float, stage: str, left: float | None) -> None:
        self._last = now
        if self._on_progress is None:
            return
        file, index, count = self._file
        self._on_progress(
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
