"""Decide where a run may write, so that it never replaces the user's own files."""

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
    """Return device and inode of the files at ``paths``, links followed; paths without a file are left out.

    For an object in object storage the identity is its address: a download replaces its placeholder file.
    """
    identities = set[tuple[int, int] | str]()
    for path in paths:
        with suppress(OSError, ValueError):
            state = path.stat()
            identities.add(address_of(path) or (state.st_dev, state.st_ino))
    return frozenset(identities)


def refuse_input(path: Path, inputs: frozenset[tuple[int, int] | str]) -> None:
    """Raise UsageError if ``path`` is one of the files that the run reads (from `file_identities`)."""
    if file_identities([path]) & inputs:
        what = tr("this file is an input of the run and would be overwritten by it")
        raise UsageError(what, where=str(path), remedy=tr("choose another output folder or name"))


@dataclass(frozen=True)
class WritePolicy:
    """Decides where a run may write.

    Attributes:
        inputs: Targets, photos and models of the run, from `file_identities`; never overwritten.
        overwrite: Whether other files that no earlier run made may be replaced.
        made: Whether an earlier run made the file at a path.
        set_aside: Renames an earlier result that was changed since; returns a note.
    """

    inputs: frozenset[tuple[int, int] | str] = frozenset()
    overwrite: bool = False
    made: Callable[[Path], bool] = lambda _path: False
    set_aside: Callable[[Path], str | None] = lambda _path: None

    def ensure_writable(self, path: Path) -> str | None:
        """Raise UsageError unless a file or folder may be written; return a note on a renamed earlier result.

        An empty folder, or what an earlier run made, may be replaced.
        """
        refresh_placeholder(path)
        refuse_input(path, self.inputs)
        note = None if self.overwrite else self.set_aside(path)
        if os.path.lexists(path) and not (self.overwrite or _is_empty(path) or self.made(path)):
            what = tr("a file or folder with this name already exists, and no earlier run made it")
            remedy = tr("choose another output folder or name, move it away, or set overwrite")
            raise UsageError(what, where=str(path), remedy=remedy)
        return note


def _is_empty(path: Path) -> bool:
    """Return whether the path is an empty folder."""
    try:
        return not os.listdir(path)  # noqa: PTH208 - a file raises either way
    except OSError:
        return False
