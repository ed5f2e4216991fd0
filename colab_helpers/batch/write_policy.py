"""May a run write here? The one place that knows what belongs to the user."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from colab_helpers.addresses import address_of
from colab_helpers.batch.object_store import refresh_placeholder
from colab_helpers.errors import UsageError
from colab_helpers.language import tr


def file_identities(paths: Iterable[Path]) -> frozenset[tuple[int, int] | str]:
    """What files are behind paths, links followed, however they are written: device and number of each.

    Of what lies in object storage it is the address: what stands for it here is another file once brought.
    """
    found = set[tuple[int, int] | str]()
    for path in paths:
        with suppress(OSError, ValueError):
            state = path.stat()
            found.add(address_of(path) or (state.st_dev, state.st_ino))
    return frozenset(found)


def refuse_input(path: Path, inputs: frozenset[tuple[int, int] | str]) -> None:
    """Refuse to write to a file that the run reads (``inputs``, from ``file_identities``): UsageError."""
    if file_identities([path]) & inputs:
        raise UsageError(
            tr("this file is read by the run and would be replaced by what it writes"),
            where=str(path),
            remedy=tr("choose another output folder or name"),
        )


@dataclass(frozen=True)
class WritePolicy:
    """Decides where a run may write: the one place that knows what belongs to the user."""

    # Targets, photos and models of the run, from ``file_identities``.
    inputs: frozenset[tuple[int, int] | str] = frozenset()
    overwrite: bool = False  # whether files that no earlier run made may be replaced; inputs never
    made: Callable[[Path], bool] = lambda _path: False  # whether an earlier run made what lies at a path
    # Gives what an earlier run made, and somebody changed since, another name; returns a note.
    set_aside: Callable[[Path], str | None] = lambda _path: None

    def ensure_writable(self, path: Path) -> str | None:
        """Make sure that a file or folder may be written, as an empty folder may; else UsageError.

        Returns a note, where something had to get out of the way.
        """
        refresh_placeholder(path)
        refuse_input(path, self.inputs)
        note = None if self.overwrite else self.set_aside(path)
        if os.path.lexists(path) and not (self.overwrite or _is_empty(path) or self.made(path)):
            raise UsageError(
                tr("something of this name is there already, and no earlier run into this folder made it"),
                where=str(path),
                remedy=tr("choose another output folder or name, move it away, or set overwrite"),
            )
        return note


def _is_empty(path: Path) -> bool:
    """Whether there is a folder with nothing in it."""
    try:
        return not os.listdir(path)  # noqa: PTH208 - a file raises either way
    except OSError:
        return False
