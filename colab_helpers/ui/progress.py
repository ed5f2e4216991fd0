"""The line that tells how a run, or a fetch, is going: a bar where somebody watches, else plain lines."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any, Self

from colab_helpers.language import tr
from colab_helpers.pages.units import file_text, machine_text, progress_text

if TYPE_CHECKING:
    from colab_helpers.batch.status import BatchStatus
    from colab_helpers.models.fetching import Progress as FetchProgress
    from colab_helpers.progress import Progress

TEXT_INTERVAL = 5.0
"""Seconds between two plain lines, so that a log of a long run stays readable."""


def _tqdm() -> Any:
    from tqdm.auto import tqdm  # slow, and needed only where somebody watches

    return tqdm


class _Line:
    """A bar, or plain lines where nobody watches; use it as a context manager.

    With ``headless`` plain lines are printed, at most one every five seconds, and the last one at the end.
    """

    def __init__(self, *, headless: bool = False) -> None:
        self._headless = headless
        self._printed_at = monotonic() - TEXT_INTERVAL
        self._unprinted = ""
        self._bar: Any = None
        self._subject: object = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._unprinted:
            print(self._unprinted, flush=True)
        self._close_bar()

    def _print(self, text: str) -> None:
        """Print a line, or keep it until it is its turn."""
        self._unprinted = text
        if monotonic() - self._printed_at >= TEXT_INTERVAL:
            print(text, flush=True)
            self._printed_at, self._unprinted = monotonic(), ""

    def _draw(self, subject: object, done: int, total: int | None, aside: str = "", **looks: Any) -> None:
        """Bring the bar to where it stands; another subject gets another bar."""
        if self._bar is None or subject != self._subject:
            self._close_bar()
            self._bar, self._subject = _tqdm()(total=total, dynamic_ncols=True, **looks), subject
        self._bar.total = total
        self._bar.set_postfix_str(aside, refresh=False)
        self._bar.update(done - self._bar.n)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = None


class ProgressLine(_Line):
    """Shows a run's progress.

    Use it as a context manager and give it to a run::

        with ProgressLine() as line:
            run_batch(sources, targets, folder, consent=consent, on_progress=line, on_status=line.status)
    """

    def __init__(self, *, headless: bool = False) -> None:
        super().__init__(headless=headless)
        self._told: set[str] = set()

    def __call__(self, progress: Progress) -> None:
        """Show where the run stands."""
        if self._headless:
            self._print(progress_text(progress))
            return
        looks: dict[str, Any] = {"desc": file_text(progress), "unit": tr(" frames")}
        self._draw(progress.file_index, progress.frame, progress.frames, machine_text(progress), **looks)

    def status(self, status: BatchStatus) -> None:
        """Say each remark on the whole run once; a refusal is left to whoever catches its error."""
        begun = any(file.status not in ("queued", "cancelled") for file in status.files)
        notes = status.remarks if begun else []
        for text in [*notes, *([status.pause] if status.pause else [])]:
            if text not in self._told:
                self._told.add(text)
                if self._headless:
                    print(text, flush=True)
                else:
                    _tqdm().write(text)  # without disturbing the bar


class FetchLine(_Line):
    """Shows how far a fetch of models is; give it to ``preload`` as its ``on_progress``."""

    def __call__(self, progress: FetchProgress) -> None:
        """Show where the fetch stands."""
        if self._headless:
            self._print(fetch_text(progress))
            return
        looks: dict[str, Any] = {"desc": tr("models"), "unit": "B", "unit_scale": True}
        self._draw("models", progress.bytes_done, progress.bytes_total, **looks)


def fetch_text(progress: FetchProgress) -> str:
    """Return how far a fetch is, in one line."""
    return tr(
        "{files_done} of {files_total} files, {bytes_done:.0f} of {bytes_total:.0f} MB",
        files_done=progress.files_done,
        files_total=progress.files_total,
        bytes_done=progress.bytes_done / 1e6,
        bytes_total=progress.bytes_total / 1e6,
    )
