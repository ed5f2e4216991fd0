"""Addresses of object storage, such as ``s3://bucket/clips``, and the path that stands for each on this disk.

Only names are dealt with here; ``batch.store`` is what talks to a store.
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
"""Package that talks to the stores of each kind; the extra that brings it is called like the kind."""
# Path makes one slash of two. A bucket's name is all that may stand first: a key or a password is refused.
_STORED = re.compile(r"(s3|gs)://?([A-Za-z0-9][A-Za-z0-9._-]+(?:/.*)?)", re.DOTALL)
_STAND_IN = re.compile(r".*?/colab_helpers-\d+/(s3|gs):/(.+)", re.DOTALL)
_ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://?")
_SECRET = re.compile(r"//?[^/\s]*@")


def root() -> Path:
    """Return the folder, this user's own, below which these paths lie."""
    import tempfile  # slow, and seldom needed here

    return Path(tempfile.gettempdir()).absolute() / f"colab_helpers-{os.getuid()}"


def local_path_of(address: str | Path) -> Path | None:
    """Return the path that stands for an address; None where it is none, or none that may be used."""
    found = _STORED.fullmatch(str(address))
    if found is None or {".", ".."} & set(found[2].split("/")):
        return None
    return root() / f"{found[1]}:" / found[2]


def address_of(path: str | Path) -> str | None:
    """Return the address that a path stands for; None where it is a path like any other."""
    found = _STAND_IN.fullmatch(str(path))
    return f"{found[1]}://{found[2]}" if found else None


def is_placeholder(path: Path) -> bool:
    """Whether a path stands for an object that has yet to be brought."""
    with suppress(OSError, ValueError):
        mode = path.lstat().st_mode
        return stat.S_ISREG(mode) and not stat.S_IMODE(mode) and address_of(path) is not None
    return False


def require_downloaded(path: Path) -> None:
    """Raise PermissionError of what has yet to be brought: root would read zeros there."""
    if is_placeholder(path):
        raise PermissionError(errno.EACCES, tr("it lies in object storage and is not here"), str(path))


def localize_paths(text: str) -> str:
    """Return a text of another machine with the paths that stand for addresses on this one."""
    return LOCAL_PATH_PREFIX.sub(lambda found: f"{root()}/{found[1]}:/", text)


def without_secrets(text: str) -> str:
    """Return a text in which no address says who asks by which password."""
    return _SECRET.sub("//…@", text)


def is_unsupported_url(path: str | Path) -> bool:
    """Tell whether something is an address such as ``https://…``, which nothing here opens."""
    return _ADDRESS.match(str(path)) is not None and local_path_of(path) is None


def refuse_address(path: str | Path, *, stored: bool = False) -> None:
    """Refuse an address where a path should stand; with ``stored`` one in object storage, too."""
    store = address_of(path) or (str(path) if local_path_of(path) else None)
    if (stored and store) or (is_unsupported_url(path) and not str(path).startswith("data:")):
        raise UsageError(
            tr("this is an address, and only files are read and written"),
            where=without_secrets(store or str(path)),
            remedy=tr("download it first, or mount the place, and write the path of the file"),
        )
