"""How a worker process ends, and what is said of it: exit codes, refusals, causes of death."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from colab_helpers import errors
from colab_helpers.batch.report import write_text
from colab_helpers.errors import ColabHelpersError
from colab_helpers.language import tr

STOPPED, BUSY, REFUSED = 75, 76, 77
"""Exit codes: stopped by somebody; the folder is another's; nothing was started. 0: all was tried."""


def refusal_path(job: Path) -> Path:
    """Return where a worker writes why it did not begin its job."""
    return job.with_suffix(".refused.json")


def write_refusal(job: Path, error: ColabHelpersError) -> None:
    """Send an error from the worker to whoever has started it."""
    # The nearest class that everybody knows: a room's own subclass need not be importable there.
    kind = next(base.__name__ for base in type(error).__mro__ if hasattr(errors, base.__name__))
    write_text(refusal_path(job), json.dumps([kind, error.what, error.where, error.remedy]))


def read_refusal(job: Path) -> ColabHelpersError | None:
    """Return the error to be raised again; None if there is none."""
    try:
        kind, what, where, remedy = json.loads(refusal_path(job).read_bytes())
    except (OSError, ValueError):
        return None
    error: ColabHelpersError = getattr(errors, kind)(what, where=where, remedy=remedy)
    return error


def cause_of(code: int) -> str:
    """Write what a process died of, from its exit code."""
    if code == -signal.SIGKILL:
        return tr("was killed, as the system does when memory runs out (signal 9)")
    if code < 0:
        return tr("died of {name} (signal {number})", name=signal.Signals(-code).name, number=-code)
    return tr("ended with exit code {code}", code=code)
