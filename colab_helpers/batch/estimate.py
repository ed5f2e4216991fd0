"""Estimate how many files of a batch fit the rest of the session, from the rate of the current file."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import av

from colab_helpers.batch.status import BatchStatus, StatusWriter
from colab_helpers.errors import ColabHelpersError
from colab_helpers.language import mark, tr
from colab_helpers.media.inputs import is_image
from colab_helpers.media.probe import probe

_WARNING = mark("the session ends in about {minutes:.0f} minute(s); the next run continues from there")
_WARNING_SECONDS = 300.0  # before the end of the session

Load = tuple[int, int] | None
"""Frames of a target, and pixels of each; None if unknown."""


def workload_of(target: Path, *, heartbeat: Callable[[], None] = lambda: None) -> Load:
    """Return the number of frames of a target, declared or estimated, and the pixels of each.

    None if the target cannot be read; zeros for an image. ``heartbeat`` is called first, as opening a file
    may take long.
    """
    heartbeat()
    if is_image(target):
        return 0, 0
    try:
        info = probe(target)
    except (ColabHelpersError, av.FFmpegError):
        return None  # the error is reported when the file is processed
    return (info.frames, info.width * info.height) if info.frames else None


def shortest_first(loads: Sequence[Load]) -> list[int]:
    """Return positions in the order of frames times pixels: images first, unreadable targets last."""
    return sorted(range(len(loads)), key=lambda n: _product(loads[n], float("inf")))


def _product(load: Load, unknown: float = 0.0) -> float:
    return unknown if load is None else load[0] * load[1]


class Estimate:
    """Updates the number of files that fit the session, and warns before it ends.

    ``order`` has the numbers of the files in the order in which they are processed.
    """

    def __init__(
        self,
        loads: Sequence[Load],
        order: Sequence[int],
        status: StatusWriter,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._loads, self._order, self._status, self._clock = loads, order, status, clock
        self._warned = False

    def update(self) -> None:
        """Recompute the estimate from the current progress."""
        status = self._status.status
        if not status.session_minutes:
            return
        left = status.started + 60 * status.session_minutes - self._clock()
        count = count_fitting(status, self._loads, self._order, left)
        if count is not None:
            self._status.fitting(count)
        if left < _WARNING_SECONDS and not self._warned:
            self._warned = True
            self._status.note(tr(_WARNING, minutes=max(0.0, left / 60)))


def count_fitting(
    status: BatchStatus, loads: Sequence[Load], order: Sequence[int], left: float
) -> int | None:
    """Count the files that have ended, and those expected to end within ``left`` seconds.

    The rate is that of the current file since its first frame in this run, or of all workers together; None
    while there is no rate.
    """
    progress = status.running
    load = loads[progress.file_index] if progress else None
    if progress is None or load is None or not progress.frames or not (progress.fps and _product(load)):
        return None
    # A result may have another number of frames than its target, so the share that is done counts.
    rate = max(status.rate, progress.fps) * _product(load) / progress.frames
    open_files = ("queued", "running")
    count = sum(file.status not in open_files for file in status.files)
    for index in (index for index in order if status.files[index].status in open_files):
        left -= _product(loads[index]) * (1 - status.files[index].share) / rate
        if left < 0:
            break
        count += 1
    return count
