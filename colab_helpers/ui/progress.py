"""The line that tells how a run is going: frames, rate, time left, memory, and where it runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from tqdm.auto import tqdm

from colab_helpers.language import printable, tr
from colab_helpers.pages.units import clock_text

if TYPE_CHECKING:
    from colab_helpers.batch.status import BatchStatus
    from colab_helpers.progress import Progress

TEXT_INTERVAL = 5.0
"""Seconds between two plain lines, so that a log of a long run stays readable."""


class ProgressLine:
    """Shows a run's progress: a bar in notebook and shell, plain lines where nobody watches.

    Use it as a context manager and give it to a run::

        with ProgressLine() as line:
            run_batch(sources, targets, folder, consent=consent, on_progress=line, on_status=line.status)

    Args:
        headless: Print plain lines, at most one every five seconds, and the last state at the end.
        clock: Seconds that only ever grow.
    """

    def __init__(self, *, headless: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._headless = headless
        self._clock = clock
        self._bar: Any = None
        self._bar_file: int | None = None
        self._printed_at = clock() - TEXT_INTERVAL
        self._unprinted: Progress | None = None
        self._told: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._unprinted is not None:
            self._print(self._unprinted)
        self._close_bar()

    def __call__(self, progress: Progress) -> None:
        """Show where the run stands."""
        if self._headless:
            self._report(progress)
        else:
            self._draw(progress)

    def note(self, text: str) -> None:
        """Say something on the whole run, without disturbing the bar."""
        self._say(text)

    def _say(self, text: str) -> None:
        if self._headless:
            print(text, flush=True)
        else:
            tqdm.write(text)

    def status(self, status: BatchStatus) -> None:
        """Say each remark on the whole run once; a refusal is left to whoever catches its error."""
        begun = any(file.status not in ("queued", "cancelled") for file in status.files)
        notes = status.remarks if begun else []
        for text in [*notes, *([status.pause] if status.pause else [])]:
            if text not in self._told:
                self._told.add(text)
                self._say(text)

    def _report(self, progress: Progress) -> None:
        self._unprinted = progress
        if self._clock() - self._printed_at >= TEXT_INTERVAL:
            self._print(progress)

    def _print(self, progress: Progress) -> None:
        print(progress_text(progress), flush=True)
        self._printed_at = self._clock()
        self._unprinted = None

    def _draw(self, progress: Progress) -> None:
        if progress.file_index != self._bar_file:
            self._close_bar()
            self._bar = tqdm(
                total=progress.frames, desc=_title(progress), unit=tr(" frames"), dynamic_ncols=True
            )
            self._bar_file = progress.file_index
        self._bar.set_postfix_str(machine_text(progress), refresh=False)
        self._bar.update(progress.frame - self._bar.n)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar, self._bar_file = None, None


def progress_text(progress: Progress) -> str:
    """The whole progress line as plain text."""
    frames = f"{progress.frame}/{progress.frames}" if progress.frames else str(progress.frame)
    rate = tr("{frames} frames, {fps:.1f} frames/s", frames=frames, fps=progress.fps)
    eta = tr(", ETA {eta}", eta=clock_text(progress.eta)) if progress.eta is not None else ""
    return f"{_title(progress)}: {rate}{eta}, {machine_text(progress)}"


def machine_text(progress: Progress) -> str:
    """Memory in use (S: the system's RAM, G: the GPU's), and where and how the networks run."""
    gpu = "-" if progress.gpu_percent is None else f"{progress.gpu_percent:.0f}%"
    return tr(
        "(S: {ram_percent:.0f}%, G: {gpu}), {provider}, threads {threads}, batch {batch_size}",
        ram_percent=progress.ram_percent,
        gpu=gpu,
        provider=progress.provider,
        threads=progress.threads,
        batch_size=progress.batch_size,
    )


def _title(progress: Progress) -> str:
    return printable(f"[{progress.file_index + 1}/{progress.file_count}] {progress.file}")
