"""What a person has chosen for a batch: the request of the form, or of the panel as it stands now."""

from __future__ import annotations

from collections.abc import Callable

from colab_helpers.request import BatchRequest
from colab_helpers.ui.ledger import Ledger


class Choice:
    """What one cell of the notebook leaves to the next.

    Args:
        request: The form's.
        read: Reads the request anew, from widgets.
        release: Gives back what previews hold.
        ledger: Remembers which batch is at work.
    """

    def __init__(
        self,
        request: BatchRequest,
        *,
        read: Callable[[], BatchRequest] | None = None,
        release: Callable[[], None] | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        self._request, self._read, self._release = request, read, release
        self.ledger = ledger or Ledger()

    @property
    def has_panel(self) -> bool:
        """Whether there is a panel, with a button that begins the run."""
        return self._read is not None

    @property
    def request(self) -> BatchRequest:
        """What is chosen now."""
        return self._read() if self._read else self._request

    def close(self) -> None:
        """Release the networks that previews hold, so that their memory is free for the run."""
        if self._release:
            self._release()
