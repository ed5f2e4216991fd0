"""How a worker process ends, and what is said of it: exit codes, refusals, causes of death."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

from colab_helpers import errors
from colab_helpers.batch.report import write_text
from colab_helpers.errors import ColabHelpersError, WorkerError
from colab_helpers.files import to_json
from colab_helpers.language import tr

STOPPED, BUSY, REFUSED = 75, 76, 77
"""Exit codes: stopped by somebody; the folder is another's; nothing was started. 0: all was tried."""


class Refusal(BaseModel):
    """An error on its way from one process to another."""

    model_config = ConfigDict(extra="forbid")

    kind: str
    what: str
    where: str = ""
    remedy: str = ""

    @classmethod
    def of(cls, error: ColabHelpersError) -> Self:
        """Keep what is to be said."""
        # The nearest class that everybody knows: a room's own subclass need not be importable there.
        kind = next(base.__name__ for base in type(error).__mro__ if hasattr(errors, base.__name__))
        return cls(kind=kind, what=error.what, where=error.where, remedy=error.remedy)

    def error(self) -> ColabHelpersError:
        """Return the error, to be raised again."""
        kind = getattr(errors, self.kind, WorkerError)
        found: ColabHelpersError = kind(self.what, where=self.where, remedy=self.remedy)
        return found

    def save(self, path: Path) -> None:
        """Write it down."""
        write_text(path, to_json(self))


def refusal_path(job: Path) -> Path:
    """Return where a worker writes why it did not begin its job."""
    return job.with_suffix(".refused.json")


def cause_of(code: int) -> str:
    """Write what a process died of, from its exit code."""
    if code == -signal.SIGKILL:
        return tr("was killed, as the system does when memory runs out (signal 9)")
    if code < 0:
        return tr("died of {name} (signal {number})", name=signal.Signals(-code).name, number=-code)
    return tr("ended with exit code {code}", code=code)
