"""When there is something to tell of a run, and what."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from colab_helpers.language import mark
from colab_helpers.media.probe import VideoInfo
from colab_helpers.pipeline.frames import CONSTANT_RATE
from colab_helpers.progress import Progress
from colab_helpers.resources.sampler import gpu_memory_percent, ram_percent

if TYPE_CHECKING:
    from colab_helpers.pipeline.video import VideoRun

PROGRESS_INTERVAL = 0.25
PICTURE_INTERVAL = 2.0


class Clock:
    """Reports progress at most every quarter of a second."""

    def __init__(self, run: VideoRun, info: VideoInfo, *, start: int = 0) -> None:
        self._run = run
        self._frames = info.frames if run.engine.settings.keep_fps else _constant_count(info)
        self._start = start
        self._done = start
        self._started = self._last = time.monotonic()
        self._pictured = float("-inf")
        self._rate = 0.0

    def tick(self, written: int, *, last: bool = False) -> None:
        """Tell how many frames were written in this run."""
        now = time.monotonic()
        self._done = self._start + written
        if self._is_due(now) or last:
            self._rate = written / max(now - self._started, 1e-6)
            left = max(0, self._frames - self._done) / self._rate if self._frames and self._rate else None
            self._tell(now, "frames", left)

    def tick_joining(self, _joined: int) -> None:
        """Tell that the segments are being joined."""
        now = time.monotonic()
        if self._is_due(now):
            self._tell(now, mark("joining"), 0.0)

    def picture_is_due(self) -> bool:
        """Whether it is time to show a frame; then the next one is due after the interval."""
        now = time.monotonic()
        due = now - self._pictured >= PICTURE_INTERVAL
        self._pictured = now if due else self._pictured
        return due

    def _is_due(self, now: float) -> bool:
        return now - self._last >= PROGRESS_INTERVAL

    def _tell(self, now: float, stage: str, left: float | None) -> None:
        self._last = now
        run, settings = self._run, self._run.engine.settings
        if run.on_progress is None:
            return
        run.on_progress(
            Progress(
                file=run.target.name,
                file_index=run.file_index,
                file_count=run.file_count,
                frame=self._done,
                frames=self._frames,
                fps=self._rate,
                eta=left,
                ram_percent=ram_percent(),
                gpu_percent=gpu_memory_percent(),
                provider=run.engine.provider,
                threads=int(settings.execution_threads),
                batch_size=int(settings.batch_size),
                stage=stage,
                waiting={name: len(queue) for name, queue in run.gauges.items()},
            )
        )


def _constant_count(info: VideoInfo) -> int | None:
    return round(info.duration * CONSTANT_RATE) or None
