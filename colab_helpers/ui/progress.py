"""Progress of a run or a download: a progress bar, or plain lines when headless."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any, Self

from colab_helpers.language import mark, tr
from colab_helpers.pages.units import file_text, machine_text, progress_text

if TYPE_CHECKING:
    from colab_helpers.batch.status import BatchStatus
    from colab_helpers.models.fetching import Progress as FetchProgress
    from colab_helpers.progress import Progress

TEXT_INTERVAL = 5.0
"""Minimum seconds between two plain lines, so that logs of long runs stay readable."""


def _tqdm() -> Any:
    from tqdm.auto import tqdm  # slow import, not needed when headless

    return tqdm


class _Line:
    """A progress bar; a context manager.

    With ``headless``, print plain lines instead, at most one every five seconds, and the last one at exit.
    """

    def __init__(self, *, headless: bool = False) -> None:
        self._headless = headless
        self._last_print = monotonic() - TEXT_INTERVAL
        self._pending = ""
        self._bar: Any = None
        self._subject: object = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pending:
            print(self._pending, flush=True)
        self._close_bar()

    def _print(self, text: str) -> None:
        """Print a line, or keep it as pending if the last one is too recent."""
        self._pending = text
        if monotonic() - self._last_print >= TEXT_INTERVAL:
            print(text, flush=True)
            self._last_print, self._pending = monotonic(), ""

    def _draw(self, subject: object, done: int, total: int | None, postfix: str = "", **options: Any) -> None:
        """Update the bar, or open a new one for another subject."""
        if self._bar is None or subject != self._subject:
            self._close_bar()
            self._bar, self._subject = _tqdm()(total=total, dynamic_ncols=True, **options), subject
        self._bar.total = total
        self._bar.set_postfix_str(postfix, refresh=False)
        self._bar.update(done - self._bar.n)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = None


class ProgressLine(_Line):
    """Shows a run's progress; use it as a context manager and as the callbacks of the run.

    For example::

        with ProgressLine() as line:
            run_batch(sources, targets, folder, consent=consent, on_progress=line, on_status=line.status)
    """

    def __init__(self, *, headless: bool = False) -> None:
        super().__init__(headless=headless)
        self._printed: set[str] = set()

    def __call__(self, progress: Progress) -> None:
        """Show the progress of the current file."""
        if self._headless:
            self._print(progress_text(progress))
            return
        options: dict[str, Any] = {"desc": file_text(progress), "unit": tr(" frames")}
        self._draw(progress.file_index, progress.frame, progress.frames, machine_text(progress), **options)

    def status(self, status: BatchStatus) -> None:
        """Print each new note on the whole run, once files are being processed, and why the run waits."""
        has_started = any(file.status not in ("queued", "cancelled") for file in status.files)
        notes = status.remarks if has_started else []
        for text in [*notes, *([status.pause] if status.pause else [])]:
            if text not in self._printed:
                self._printed.add(text)
                if self._headless:
                    print(text, flush=True)
                else:
                    _tqdm().write(text)  # without disturbing the bar


class FetchLine(_Line):
    """Shows the progress of downloads, as the ``on_progress`` of ``preload``."""

    def __call__(self, progress: FetchProgress) -> None:
        """Show the progress."""
        if self._headless:
            self._print(fetch_text(progress))
            return
        options: dict[str, Any] = {"desc": tr("models"), "unit": "B", "unit_scale": True}
        self._draw("models", progress.bytes_done, progress.bytes_total, **options)


def fetch_text(progress: FetchProgress) -> str:
    """Format the progress of downloads as one line."""
    text = mark("{files_done} of {files_total} files, {bytes_done:.0f} of {bytes_total:.0f} MB")
    files = {"files_done": progress.files_done, "files_total": progress.files_total}
    return tr(text, bytes_done=progress.bytes_done / 1e6, bytes_total=progress.bytes_total / 1e6, **files)
