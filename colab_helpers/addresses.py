"""Addresses of object storage, such as ``s3://bucket/clips``, and the local path that stands for each.

This module only maps names; ``batch.object_store`` transfers data.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import suppress
from pathlib import Path

from colab_helpers.errors import UsageError
from colab_helpers.language import LOCAL_PATH_PREFIX, tr

PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}
"""Package for each kind of object storage; the extra that installs it has the kind's name."""
# Path turns two slashes into one. A bucket name must come first, so credentials are refused.
_STORED = re.compile(r"(s3|gs)://?([A-Za-z0-9][A-Za-z0-9._-]+(?:/.*)?)", re.DOTALL)
_LOCAL_PATH = re.compile(r".*?/colab_helpers-\d+/(s3|gs):/(.+)", re.DOTALL)
_ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://?")
_SECRET = re.compile(r"//?[^/\s]*@")


def root() -> Path:
    """Return the folder of the paths that stand for addresses; each user has one."""
    import tempfile  # slow, and seldom needed here

    return Path(tempfile.gettempdir()).absolute() / f"colab_helpers-{os.getuid()}"


def local_path_of(address: str | Path) -> Path | None:
    """Return the local path that stands for an address; None if it is not a valid address."""
    match = _STORED.fullmatch(str(address))
    if match is None or {".", ".."} & set(match[2].split("/")):
        return None
    return root() / f"{match[1]}:" / match[2]


def address_of(path: str | Path) -> str | None:
    """Return the address that a path stands for; None for an ordinary path."""
    match = _LOCAL_PATH.fullmatch(str(path))
    return f"{match[1]}://{match[2]}" if match else None


def is_placeholder(path: Path) -> bool:
    """Return whether a path stands for an object that has not been downloaded yet."""
    with suppress(OSError, ValueError):
        mode = path.lstat().st_mode
        return stat.S_ISREG(mode) and not stat.S_IMODE(mode) and address_of(path) is not None
    return False


def require_downloaded(path: Path) -> None:
    """Raise PermissionError for an object not downloaded yet: root could read its placeholder, as zeros."""
    if is_placeholder(path):
        raise PermissionError(errno.EACCES, tr("this object has not been downloaded yet"), str(path))


def localize_paths(text: str) -> str:
    """Replace another machine's local paths of addresses in a text with those of this machine."""
    return LOCAL_PATH_PREFIX.sub(lambda match: f"{root()}/{match[1]}:/", text)


def without_secrets(text: str) -> str:
    """Mask the user names and passwords in the addresses of a text."""
    return _SECRET.sub("//…@", text)


def is_unsupported_url(path: str | Path) -> bool:
    """Return whether this is an address that is not supported, such as ``https://…``."""
    return _ADDRESS.match(str(path)) is not None and local_path_of(path) is None


def refuse_address(path: str | Path, *, stored: bool = False) -> None:
    """Raise UsageError for an unsupported address, and with ``stored`` also for one in object storage."""
    store = address_of(path) or (str(path) if local_path_of(path) else None)
    if (stored and store) or (is_unsupported_url(path) and not str(path).startswith("data:")):
        what = tr("this is an address, and only files can be read and written")
        remedy = tr("download it first, or mount the storage, and use the path of the file")
        raise UsageError(what, where=without_secrets(store or str(path)), remedy=remedy)
