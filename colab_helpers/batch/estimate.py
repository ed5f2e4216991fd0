"""How much of a batch fits the time that a session has left, reckoned from the pace of the file at work."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import av

from colab_helpers.batch.status import BatchStatus, StatusWriter
from colab_helpers.errors import ColabHelpersError
from colab_helpers.language import tr
from colab_helpers.media.inputs import is_image
from colab_helpers.media.probe import probe

# Seconds before the end of the session at which it is said that it ends.
_WARNING = 300.0

Load = tuple[int, int] | None


def workload_of(target: Path, *, heartbeat: Callable[[], None] = lambda: None) -> Load:
    """Return the frames of a target, counted or reckoned, and the pixels of each; None if it cannot be read.

    An image counts nothing. ``heartbeat`` is called before, as reading the beginning may take long.
    """
    heartbeat()
    if is_image(target):
        return 0, 0
    try:
        info = probe(target)
    except (ColabHelpersError, av.FFmpegError):
        return None  # whoever does the file will say what is wrong with it
    return (info.frames, info.width * info.height) if info.frames else None


def shortest_first(loads: Sequence[Load]) -> list[int]:
    """Return positions in the order of frames times pixels: images first, what cannot be read last."""
    return sorted(range(len(loads)), key=lambda n: _product(loads[n], float("inf")))


def _product(load: Load, unknown: float = 0.0) -> float:
    return unknown if load is None else load[0] * load[1]


class Estimate:
    """Keeps the status up to date on how many files fit the session, and warns before it ends.

    ``loads`` are frames and pixels of each file, ``order`` the positions of the files as they are done.
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
        """Reckon anew by what is at work."""
        status = self._status.status
        if not status.session_minutes:
            return
        left = status.started + 60 * status.session_minutes - self._clock()
        count = fitting(status, self._loads, self._order, left)
        if count is not None:
            self._status.fitting(count)
        if left < _WARNING and not self._warned:
            self._warned = True
            told = tr(
                "the session ends in about {minutes:.0f} minute(s): what is not done then is taken up "
                "by the next run",
                minutes=max(0.0, left / 60),
            )
            self._status.note(told)


def fitting(status: BatchStatus, loads: Sequence[Load], order: Sequence[int], left: float) -> int | None:
    """Count the files that have ended, and those that do before so many seconds have passed.

    At the pace of the file at work, from its first frame in this run on, or of all workers together; None
    while there is none.
    """
    progress = status.running
    load = loads[progress.file_index] if progress else None
    if progress is None or load is None or not progress.frames or not (progress.fps and _product(load)):
        return None
    # A result may have another number of frames than its target: what counts is which share of it is done.
    rate = max(status.rate, progress.fps) * _product(load) / progress.frames
    open_files = ("queued", "running")
    count = sum(file.status not in open_files for file in status.files)
    for index in (index for index in order if status.files[index].status in open_files):
        left -= _product(loads[index]) * (1 - status.files[index].share) / rate
        if left < 0:
            break
        count += 1
    return count
