"""How much of a batch fits the time that a session has left, reckoned from what is done as it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import av

from colab_helpers.batch.status import StatusWriter
from colab_helpers.errors import ColabHelpersError
from colab_helpers.language import tr
from colab_helpers.media.inputs import is_image
from colab_helpers.media.opening import demuxed, open_source
from colab_helpers.media.probe import probe

# Seconds before the end of the session at which it is said that it ends.
_WARNING = 300.0
_BEAT_PACKETS = 1000


def load_of(target: Path, *, beat: Callable[[], None] = lambda: None) -> tuple[int, int] | None:
    """Count the frames of a target and the pixels of each, without decoding; None if it cannot be read.

    An image counts nothing. Frames that the file does not count are counted as packets: a length times a
    rate says nothing of a recording whose frames come in bursts.
    """
    if is_image(target):
        return 0, 0
    try:
        info = probe(target)
        frames = info.frames if info.frames_declared else None
        return frames or _packets(target, info.video_index, beat), info.width * info.height
    except (ColabHelpersError, av.FFmpegError):
        return None  # whoever does the file will say what is wrong with it


def _packets(path: Path, stream: int, beat: Callable[[], None]) -> int:
    count = 0
    with open_source(path) as container:
        for packet in demuxed(container, container.streams[stream]):
            count += packet.size > 0
            if count % _BEAT_PACKETS == 0:
                beat()
    return count


def shortest_first(loads: Sequence[tuple[int, int] | None]) -> list[int]:
    """Return positions in the order of frames times pixels: images first, what cannot be read last."""
    return sorted(range(len(loads)), key=lambda n: _product(loads[n], float("inf")))


def _product(load: tuple[int, int] | None, unknown: float = 0.0) -> float:
    return unknown if load is None else load[0] * load[1]


class Estimate:
    """Keeps the status up to date on how many files fit the session, and warns before it ends.

    ``loads`` are frames and pixels of each file, ``order`` the positions of the files as they are done.
    """

    def __init__(
        self,
        loads: Sequence[tuple[int, int] | None],
        order: Sequence[int],
        status: StatusWriter,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._loads, self._status, self._clock = loads, status, clock
        self._left = {index: _product(loads[index]) for index in order}
        self._index, self._began, self._done = 0, 0.0, 0.0
        self._warned = not status.status.session_minutes

    @property
    def _seconds_left(self) -> float:
        status = self._status.status
        return status.started + 60 * status.session_minutes - self._clock()

    def begin(self, index: int) -> None:
        """Note that work on a file begins."""
        self._index = index
        self._began = self._began or self._clock()

    def segment(self, frames: int) -> None:
        """Note that so many frames of the file at work are done and safe."""
        load = self._loads[self._index]
        self._add(frames * load[1] if load else 0)

    def end(self, index: int, *, done: bool) -> None:
        """Note that a file has ended, ``done`` just now or not."""
        rest = self._left.pop(index)
        # What has no segments, such as a GIF, is done at once; of others the rest was kept from before.
        self._add(rest if done and rest == _product(self._loads[index]) else 0)

    def _add(self, done: float) -> None:
        self._done += done
        if self._index in self._left:
            self._left[self._index] = max(0.0, self._left[self._index] - done)
        seconds = self._clock() - self._began
        if self._status.status.session_minutes and self._done and seconds > 0:
            self._status.fitting(self._fitting(self._done / seconds))

    def _fitting(self, pace: float) -> int:
        """Count the files that are done, and those whose turn comes before the session ends."""
        fitting, left = len(self._loads) - len(self._left), self._seconds_left
        for rest in self._left.values():
            left -= rest / pace
            if left < 0:
                break
            fitting += 1
        return fitting

    def warn(self) -> None:
        """Say once that the session is about to end."""
        if self._warned or self._seconds_left >= _WARNING:
            return
        self._warned = True
        told = tr(
            "the session ends in about {minutes:.0f} minute(s): what is not done then is taken up "
            "by the next run",
            minutes=max(0.0, self._seconds_left / 60),
        )
        self._status.note(told)
