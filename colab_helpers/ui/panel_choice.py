"""What a person has chosen for a batch: the answers of the form, or of the panel as it stands now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from colab_helpers.settings import DEFAULT_PRESET
from colab_helpers.ui.ledger import Ledger


@dataclass(frozen=True)
class Answers:
    """Everything that ``run_batch_swap`` asks for, by the names of the notebook's form."""

    sources: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    output_dir: str = ""
    preset: str = DEFAULT_PRESET
    overrides: Mapping[str, Any] = field(default_factory=dict)
    video_range: str = ""
    consent: str = ""
    models_dir: str = ""
    session_minutes: float = 0.0
    shortest_first: bool = False
    headless: bool = False


class Choice:
    """What one cell of the notebook leaves to the next.

    Args:
        answers: The form's.
        read: Reads the answers anew, from widgets.
        release: Gives back what previews hold.
        ledger: Remembers which batch is at work.
    """

    def __init__(
        self,
        answers: Answers,
        *,
        read: Callable[[], Answers] | None = None,
        release: Callable[[], None] | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        self._answers, self._read, self._release = answers, read, release
        self.ledger = ledger or Ledger()

    @property
    def has_panel(self) -> bool:
        """Whether there is a panel, with a button that begins the run."""
        return self._read is not None

    @property
    def answers(self) -> Answers:
        """What is chosen now."""
        return self._read() if self._read else self._answers

    def values(self) -> dict[str, Any]:
        """What is chosen now, as the keywords of ``run_batch_swap``."""
        answers = self.answers
        return {item.name: getattr(answers, item.name) for item in fields(answers)}

    def close(self) -> None:
        """Release the networks that previews hold, so that their memory is free for the run."""
        if self._release:
            self._release()
