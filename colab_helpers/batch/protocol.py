"""What a worker process and whoever watches it agree on: exit codes and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

from colab_helpers import errors
from colab_helpers.batch.report import write_text
from colab_helpers.errors import ColabHelpersError, WorkerError
from colab_helpers.files import to_json

RECYCLE, BUSY, REFUSED = 75, 76, 77
"""Exit codes: start another one to go on; the folder is another's; nothing was started. 0: report written."""


class Refusal(BaseModel):
    """An error on its way from one process to another."""

    model_config = ConfigDict(extra="forbid")

    kind: str
    what: str
    where: str = ""
    remedy: str = ""

    @classmethod
    def of(cls, error: ColabHelpersError) -> Self:
        """What is to be said."""
        # The nearest class that everybody knows: a room's own subclass need not be importable there.
        kind = next(base.__name__ for base in type(error).__mro__ if hasattr(errors, base.__name__))
        return cls(kind=kind, what=error.what, where=error.where, remedy=error.remedy)

    def error(self) -> ColabHelpersError:
        """The error, to be raised again."""
        kind = getattr(errors, self.kind, WorkerError)
        found: ColabHelpersError = kind(self.what, where=self.where, remedy=self.remedy)
        return found

    def save(self, path: Path) -> None:
        """Write it down."""
        write_text(path, to_json(self))


def refusal_path(job: Path) -> Path:
    """Where a worker writes why it did not begin its job."""
    return job.with_suffix(".refused.json")
