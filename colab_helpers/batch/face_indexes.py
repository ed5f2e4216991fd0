"""Face indexes beside the results: found again by their target, and removed once they are of no use."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from colab_helpers.addresses import address_of
from colab_helpers.batch.drive import FACES_NAME, RetryPolicy, copy_in, copy_out
from colab_helpers.batch.keys import index_key
from colab_helpers.batch.object_store import fetch, send
from colab_helpers.batch.report import write_text
from colab_helpers.errors import MediaError, OutputError
from colab_helpers.faces.index import FaceIndex
from colab_helpers.files import load_or_none, size_and_mtime, to_json
from colab_helpers.settings import Settings
from colab_helpers.trust.content import CONTENT_NAME

ABOUT_NAME = "about.json"
KEPT_SECONDS = 30 * 24 * 3600.0
"""How long an index stays that no run has used."""
_FOLDER_NAME = re.compile(r"[0-9a-f]{24}")
_OWN_FILE = re.compile(r"\.?(\d{8,}|about|content)(\.part)?\.(npz|json)(\.\d+\.part)?")


class FaceIndexMetadata(BaseModel, extra="forbid", frozen=True):
    """Whose index lies in a folder, and when a run used it last (seconds since 1970).

    ``sha256``, ``size`` and ``mtime_ns`` are the target's.
    """

    version: Literal[1] = 1
    target: str
    size: int
    mtime_ns: int
    sha256: str
    used: float

    @classmethod
    def of(cls, target: Path, sha256: str) -> FaceIndexMetadata:
        """Describe the index of a target that a run is about to use; OSError if the target has gone."""
        state = target.stat()
        return cls(
            target=str(target.absolute()),
            size=state.st_size,
            mtime_ns=state.st_mtime_ns,
            sha256=sha256,
            used=time.time(),
        )

    @property
    def matches_target(self) -> bool:
        """Whether the target lies there as it was, or nobody can tell because its folder has gone."""
        target = Path(self.target)
        state = size_and_mtime(target)
        return (self.size, self.mtime_ns) == state if state else not target.parent.is_dir()


@dataclass(frozen=True)
class FaceIndexLocation:
    """Where the face index of a target lies: beside the results, for every later run.

    Attributes:
        key: Of `keys.index_key`.
        about: What is noted beside it.
        place: Folder on the local disk in which it is written.
        mirror: Folder beside the results to which it is copied, if those lie on a mounted drive.
    """

    key: str
    about: FaceIndexMetadata
    place: Path
    mirror: Path | None

    @property
    def content(self) -> Path:
        """Where it is kept what was seen in the target beside faces."""
        return (self.mirror or self.place) / CONTENT_NAME

    def open(self, retry: RetryPolicy, heartbeat: Callable[[], None]) -> FaceIndex:
        """Open it, with what a mirror holds."""
        mirror = self.mirror
        with suppress(OutputError):  # the index itself is found by its key
            write_text((mirror or self.place) / ABOUT_NAME, to_json(self.about))
        if address_of(self.place):
            return self._stored(retry, heartbeat)
        if mirror is None:
            return FaceIndex(self.place, self.key)
        with suppress(OSError, MediaError, OutputError):  # what cannot be read is found again
            for chunk in sorted(mirror.glob("*.npz")):
                copy_in(chunk, self.place / chunk.name, heartbeat=heartbeat)

        def keep(chunk: Path) -> None:
            retry.attempt(lambda: copy_out(chunk, mirror / chunk.name, heartbeat=heartbeat))

        return FaceIndex(self.place, self.key, keep=keep)

    def _stored(self, retry: RetryPolicy, heartbeat: Callable[[], None]) -> FaceIndex:
        """Open it with what a store holds, which gets whatever is found."""

        def keep(chunk: Path) -> None:
            retry.attempt(lambda: send(chunk, heartbeat))

        with suppress(MediaError, OutputError):  # as above
            fetch(self.place, heartbeat)
        return FaceIndex(self.place, self.key, keep=keep)


def folder_name(key: str) -> str:
    """Return what the folder of an index is called."""
    return key[:24]


def find_index(
    output_dir: Path, target: Path, settings: Settings, models: Mapping[str, str]
) -> FaceIndex | None:
    """Return what an earlier run into a folder found in a target; None where it did not find everything.

    Nothing is written, and the target is not read: it counts as the same while its size and time are.
    """
    for path in (output_dir / FACES_NAME).glob(f"*/{ABOUT_NAME}"):
        about = load_or_none(FaceIndexMetadata, path)
        if about is None or about.target != str(target.absolute()) or not about.matches_target:
            continue
        key = index_key(target=about.sha256, settings=settings, models=models)
        if path.parent.name == folder_name(key):
            index = FaceIndex(path.parent, key)
            return index if index.complete else None
    return None


def remove_stale(faces: Path) -> None:
    """Remove the indexes in a folder that no run is likely to use; whoever calls holds the results' lock.

    An index stays if a run used it in the last 30 days and its target is there as it was. Nothing is removed
    but what an index consists of.
    """
    with suppress(OSError):
        for folder in list(faces.iterdir()):
            ours = _FOLDER_NAME.fullmatch(folder.name) and not folder.is_symlink() and folder.is_dir()
            if ours and not _is_of_use(load_or_none(FaceIndexMetadata, folder / ABOUT_NAME)):
                for path in list(folder.iterdir()):
                    if _OWN_FILE.fullmatch(path.name) and not path.is_dir():
                        path.unlink()
                with suppress(OSError):  # something of somebody else's lies there
                    folder.rmdir()


def _is_of_use(about: FaceIndexMetadata | None) -> bool:
    return about is not None and time.time() - about.used <= KEPT_SECONDS and about.matches_target
