"""The batches that this kernel has begun: which one is at work, and where its results go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from colab_helpers.batch.status import BatchStatus
from colab_helpers.errors import UsageError
from colab_helpers.language import tr
from colab_helpers.request import BatchRequest

if TYPE_CHECKING:
    from colab_helpers.batch.supervisor import StatusCallback
    from colab_helpers.ui.notebook import BatchRun

    Work = Callable[[StatusCallback], BatchRun]
    """Has a batch done, and tells how it stands."""


class WatchedRun:
    """A batch that a thread of this kernel watches, while its worker process does the work.

    Args:
        work: Has it done.

    Attributes:
        status: How it stood at the last look.
        result: What came of it.
        error: Why nothing came of it.
        shown_by: Who paints it; the latest panel takes it from an earlier one.
    """

    def __init__(self, work: Work) -> None:
        self.status: BatchStatus | None = None
        self.result: BatchRun | None = None
        self.error: BaseException | None = None
        self.shown_by: object = None
        self._work = work
        # The worker belongs to nobody: a kernel that ends need not wait for it.
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._watch,), name="batch", daemon=True
        )
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether nothing more is to be expected."""
        return not self._thread.is_alive()

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended."""
        self._thread.join(timeout)

    def _watch(self) -> None:
        try:
            self.result = self._work(self._note)
        # A batch that was stopped before it began, too: whatever it is, it is shown where it was begun.
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001
            self.error = error

    def _note(self, status: BatchStatus) -> None:
        self.status = status


@dataclass(eq=False)
class Entry:
    """A batch that was begun.

    Attributes:
        request: What was asked for, with its output folder.
        watched: Set where a button has begun it.
        in_cell: Whether a cell is waiting for it.
        result: What came of it; None before, and where nothing did.
    """

    request: BatchRequest
    watched: WatchedRun | None = None
    in_cell: bool = False
    result: BatchRun | None = None

    @property
    def folder(self) -> Path:
        """Where its results go."""
        assert self.request.output_dir is not None
        return self.request.output_dir

    @property
    def is_working(self) -> bool:
        """Whether it is at work."""
        return self.in_cell or (self.watched is not None and not self.watched.ended)


class Ledger:
    """Remembers the latest batch of this kernel, whether a cell or a button has begun it.

    Attributes:
        last: The latest; None if there is none.
        listeners: Told of each batch that begins or ends.
    """

    def __init__(self) -> None:
        self.last: Entry | None = None
        self.listeners: list[Callable[[Entry], None]] = []

    def begin(self, request: BatchRequest) -> Entry:
        """Note that a batch begins; one that is at work already is joined.

        Raises:
            UsageError: Another one is at work.
        """
        last = self.last
        same = last is not None and last.request == request
        if last is not None and last.is_working and not same:
            raise UsageError(
                tr("another batch of this notebook is still at work"),
                where=str(last.folder),
                remedy=tr('wait for it, or press Stop in the tab "Run"; then start this one again'),
            )
        if last is None or not same:
            last = self.last = Entry(request)
        return last

    @contextmanager
    def in_cell(self, request: BatchRequest) -> Iterator[Entry]:
        """A batch that a cell waits for.

        Raises:
            UsageError: Another one is at work.
        """
        entry = self.begin(request)
        entry.in_cell = True
        self.tell(entry)
        try:
            yield entry
        finally:
            entry.in_cell = False
            self.tell(entry)

    def start(self, request: BatchRequest, work: Work) -> Entry:
        """Have a batch done while a thread watches it.

        Raises:
            UsageError: Another one is at work.
        """
        entry = self.begin(request)
        if not entry.is_working:
            entry.result = None
            entry.watched = WatchedRun(work)
        self.tell(entry)
        return entry

    def settle(self, entry: Entry) -> None:
        """Note what came of a batch whose thread has ended; from the main thread."""
        if entry.watched is not None and entry.watched.ended:
            # A cell that watched the same batch may have had it, where the thread had an error.
            entry.result = entry.watched.result or entry.result
            self.tell(entry)

    def tell(self, entry: Entry) -> None:
        """Tell everybody how a batch stands."""
        for listener in self.listeners:
            listener(entry)
