"""The batches that this kernel has begun: which one is at work, and where its results go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from colab_helpers.batch.status import BatchStatus
from colab_helpers.errors import UsageError
from colab_helpers.language import tr

if TYPE_CHECKING:
    from colab_helpers.batch.supervisor import StatusCallback
    from colab_helpers.ui.notebook import BatchRun
    from colab_helpers.ui.panel_choice import Answers


class Order(Protocol):
    """A batch that can be done."""

    def run(self, *, on_status: StatusCallback | None) -> BatchRun:
        """Have it done, and tell how it stands."""


class WatchedRun:
    """A batch that a thread of this kernel watches, while its worker process does the work.

    Args:
        order: What is to be done.

    Attributes:
        status: How it stood at the last look.
        result: What came of it.
        error: Why nothing came of it.
        shown_by: Who paints it; the latest panel takes it from an earlier one.
    """

    def __init__(self, order: Order) -> None:
        self.status: BatchStatus | None = None
        self.result: BatchRun | None = None
        self.error: BaseException | None = None
        self.shown_by: object = None
        self._order = order
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
            self.result = self._order.run(on_status=self._note)
        # A batch that was stopped before it began, too: whatever it is, it is shown where it was begun.
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001
            self.error = error

    def _note(self, status: BatchStatus) -> None:
        self.status = status


@dataclass(eq=False)
class Entry:
    """A batch that was begun.

    Attributes:
        answers: What was asked for.
        folder: Where its results go.
        watched: Set where a button has begun it.
        in_cell: Whether a cell is waiting for it.
        result: What came of it; None before, and where nothing did.
    """

    answers: Answers
    folder: Path
    watched: WatchedRun | None = None
    in_cell: bool = False
    result: BatchRun | None = None

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

    def renew(self) -> None:
        """Forget whoever listened, and a batch that is done well; what is unfinished can be gone on with."""
        self.listeners.clear()
        last = self.last
        if last and not last.is_working and last.result is not None and last.result.report.ok:
            self.last = None

    def folder_of(self, answers: Answers) -> Path | None:
        """Where a batch of just these answers was begun; None if the latest was another."""
        return self.last.folder if self.last and self.last.answers == answers else None

    def begin(self, answers: Answers, folder: Path) -> Entry:
        """Note that a batch begins; one that is at work already is joined.

        Raises:
            UsageError: Another one is at work.
        """
        last = self.last
        same = last is not None and (last.answers, last.folder) == (answers, folder)
        if last is not None and last.is_working and not same:
            raise UsageError(
                tr("another batch of this notebook is still at work"),
                where=str(last.folder),
                remedy=tr('wait for it, or press Stop in the tab "Run"; then start this one again'),
            )
        if last is None or not same:
            last = self.last = Entry(answers, folder)
        return last

    @contextmanager
    def in_cell(self, answers: Answers, folder: Path) -> Iterator[Entry]:
        """A batch that a cell waits for.

        Raises:
            UsageError: Another one is at work.
        """
        entry = self.begin(answers, folder)
        entry.in_cell = True
        self.tell(entry)
        try:
            yield entry
        finally:
            entry.in_cell = False
            self.tell(entry)

    def start(self, answers: Answers, folder: Path, order: Order) -> Entry:
        """Have a batch done while a thread watches it.

        Raises:
            UsageError: Another one is at work.
        """
        entry = self.begin(answers, folder)
        if not entry.is_working:
            entry.result = None
            entry.watched = WatchedRun(order)
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
