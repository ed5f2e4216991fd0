"""Store face indexes beside the results, find them again by target, and remove stale ones."""

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
"""How long an unused index is kept."""
_FOLDER_NAME = re.compile(r"[0-9a-f]{24}")
_OWN_FILE = re.compile(r"\.?(\d{8,}|about|content)(\.part)?\.(npz|json)(\.\d+\.part)?")


class FaceIndexMetadata(BaseModel, extra="forbid", frozen=True):
    """The target of a face index, and when a run used the index last."""

    version: Literal[1] = 1
    target: str  # absolute path; size, time and digest are of this file
    size: int
    mtime_ns: int
    sha256: str
    used: float  # seconds since 1970

    @classmethod
    def of(cls, target: Path, sha256: str) -> FaceIndexMetadata:
        """Describe the index of a target, used now; raise OSError if the target is missing."""
        state, path = target.stat(), str(target.absolute())
        size, mtime_ns = state.st_size, state.st_mtime_ns
        return cls(target=path, size=size, mtime_ns=mtime_ns, sha256=sha256, used=time.time())

    @property
    def matches_target(self) -> bool:
        """Whether the target is unchanged, or cannot be checked because its folder is missing."""
        target = Path(self.target)
        state = size_and_mtime(target)
        return (self.size, self.mtime_ns) == state if state else not target.parent.is_dir()


@dataclass(frozen=True)
class FaceIndexLocation:
    """Where the face index of a target is stored: beside the results, for later runs.

    Attributes:
        key: Of `keys.index_key`.
        metadata: Written beside the index.
        folder: Folder in which the index is written; on the local disk if there is a mirror.
        mirror: Folder beside the results to which the index is copied, if the results are on a mounted drive.
    """

    key: str
    metadata: FaceIndexMetadata
    folder: Path
    mirror: Path | None

    @property
    def content(self) -> Path:
        """Path of the target's content check record."""
        return (self.mirror or self.folder) / CONTENT_NAME

    def open(self, retry: RetryPolicy, heartbeat: Callable[[], None]) -> FaceIndex:
        """Open the index with the chunks that mirror or store hold; new chunks are copied there."""
        mirror = self.mirror
        with suppress(OutputError):  # the index is found by its key without metadata
            write_text((mirror or self.folder) / ABOUT_NAME, to_json(self.metadata))
        if mirror is None and address_of(self.folder) is None:
            return FaceIndex(self.folder, self.key)
        with suppress(OSError, MediaError, OutputError):  # faces of unreadable chunks are detected again
            fetch(self.folder, heartbeat)
            for chunk in sorted(mirror.glob("*.npz")) if mirror else ():
                copy_in(chunk, self.folder / chunk.name, heartbeat=heartbeat)

        def keep(chunk: Path) -> None:
            if mirror is None:
                retry.attempt(lambda: send(chunk, heartbeat))
            else:
                retry.attempt(lambda: copy_out(chunk, mirror / chunk.name, heartbeat=heartbeat))

        return FaceIndex(self.folder, self.key, keep=keep)


def folder_name(key: str) -> str:
    """Return the name of an index's folder."""
    return key[:24]


def find_index(
    output_dir: Path, target: Path, settings: Settings, models: Mapping[str, str]
) -> FaceIndex | None:
    """Return the face index of a target in an output folder; None if there is none, or it is incomplete.

    Nothing is written, and the target is not read: it counts as unchanged while its size and time are.
    """
    for path in (output_dir / FACES_NAME).glob(f"*/{ABOUT_NAME}"):
        metadata = load_or_none(FaceIndexMetadata, path)
        if metadata is None or metadata.target != str(target.absolute()) or not metadata.matches_target:
            continue
        key = index_key(target=metadata.sha256, settings=settings, models=models)
        if path.parent.name == folder_name(key):
            index = FaceIndex(path.parent, key)
            return index if index.complete else None
    return None


def remove_stale(faces: Path) -> None:
    """Remove stale indexes below a folder; the caller must hold the lock of the output folder.

    An index is kept if a run used it in the last 30 days and its target is unchanged. Only files that belong
    to an index are removed.
    """
    with suppress(OSError):
        for folder in list(faces.iterdir()):
            ours = _FOLDER_NAME.fullmatch(folder.name) and not folder.is_symlink() and folder.is_dir()
            if ours and _is_stale(load_or_none(FaceIndexMetadata, folder / ABOUT_NAME)):
                for path in list(folder.iterdir()):
                    if _OWN_FILE.fullmatch(path.name) and not path.is_dir():
                        path.unlink()
                with suppress(OSError):  # not empty: it holds files of others
                    folder.rmdir()


def _is_stale(metadata: FaceIndexMetadata | None) -> bool:
    return not metadata or time.time() - metadata.used > KEPT_SECONDS or not metadata.matches_target
