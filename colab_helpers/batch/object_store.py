"""Object storage: objects are on the local disk only while they are in use.

The local path of an address (``addresses.local_path_of``) is a placeholder until the object is downloaded: a
sparse file of the object's size, without read permission, whose modification time is derived from the
object's version. Code that looks at names, sizes and times can treat it as the file, and caches keyed by them
stay valid. All functions ignore paths without an address, and raise OutputError if a store cannot be used.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from glob import has_magic
from pathlib import Path
from threading import get_ident
from typing import Any

from colab_helpers.addresses import PACKAGES, address_of, is_placeholder, root, without_secrets
from colab_helpers.errors import ColabHelpersError, MissingFileError, OutputError, UsageError, require_extra
from colab_helpers.files import sha256_of, shorten_name, size_and_mtime, unwritable_error
from colab_helpers.language import mark, tr
from colab_helpers.media.inputs import is_image

Heartbeat = Callable[[], None]
ObjectStates = dict[str, tuple[int, int, str]]
"""Size, version and SHA-256 of objects, by address."""

_FILE_NAME = re.compile(r"(?!\.\.?$)[^\0]+", re.DOTALL)  # object names need not be valid file names
_PARTIAL = re.compile(r"\..*\.(\d+)-\d+\.part.*", re.DOTALL)
_CHUNK, _BLOCK = 4 << 20, 16 << 20  # bytes per read and per uploaded part; a store takes 10,000 parts
_MAX_NAME, _MAX_REASON, _MAX_UNUSED_SECONDS, _ATTEMPTS = 255, 200, 7 * 24 * 3600.0, 3
_pinned: dict[Path, int] = {}  # locked file descriptors of the objects that this process needs
_NOTHING, _NAMES = mark("there is nothing at this address"), mark("check the bucket and object names")


@lru_cache
def _system(kind: str) -> Any:
    require_extra(kind, PACKAGES[kind])
    import fsspec

    return fsspec.filesystem(kind, use_listings_cache=False)


@contextmanager
def _at(path: Path) -> Iterator[tuple[Any, str]]:
    """Yield file system and name of a path's object; translate errors other than FileExistsError."""
    kind, _, name = (address := address_of(path) or "").partition("://")
    try:
        yield _system(kind), name
    except (ColabHelpersError, FileExistsError):
        raise
    except FileNotFoundError as error:
        raise OutputError(tr(_NOTHING), where=address, remedy=tr(_NAMES)) from error
    except Exception as error:
        reason = without_secrets(f"{type(error).__name__}: {error}".strip())[:_MAX_REASON]
        if isinstance(error, PermissionError) or "Credentials" in reason:
            what = tr("the object store denied access ({reason})", reason=reason)
            remedy = tr("set up credentials as for the store's own command line tool")
        else:
            what = tr("the object store cannot be used ({reason})", reason=reason)
            remedy = tr("check the network, the endpoint and the region")
        raise OutputError(what, where=address, remedy=remedy) from error


def _info(system: Any, name: str) -> dict[str, Any] | None:
    """Return a store's metadata of an object or folder; None if there is none."""
    with suppress(FileNotFoundError):
        return dict(system.info(name))
    return None


def _state(info: dict[str, Any]) -> tuple[int, int]:
    """Return an object's size, and its version as a modification time in ns that any disk can store."""
    version = info.get("generation") or info.get("ETag") or info.get("etag") or info
    return int(info["size"]), int(hashlib.sha256(str(version).encode()).hexdigest(), 16) % (2**31 * 10**9)


def _make(folder: Path) -> None:
    """Create a folder below the private root of object storage."""
    from colab_helpers.batch.drive import make_private  # slow to import, and not needed for pages

    make_private(root())
    folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def _replacing(path: Path, version: int) -> Iterator[Path]:
    """Yield a temporary path that atomically replaces ``path``; safe with other threads and processes."""
    partial = path.with_name(shorten_name(".", path.stem, f".{os.getpid()}-{get_ident()}.part{path.suffix}"))
    try:
        _make(path.parent)
        partial.unlink(missing_ok=True)
        yield partial
        os.utime(partial, ns=(version, version))
        partial.replace(path)
    except OSError as error:
        raise unwritable_error(path, error) from error
    finally:
        partial.unlink(missing_ok=True)


def _make_placeholder(path: Path, state: tuple[int, int]) -> None:
    """Make a path the placeholder of an object with this size and version."""
    with _replacing(path, state[1]) as partial:
        with partial.open("xb") as file:
            file.truncate(state[0])
        partial.chmod(0)


def needs_download(path: Path) -> bool:
    """Return whether an object has yet to be downloaded; looked up if it has no local path yet.

    Images are downloaded at once, as their type is read from their content.
    """
    if not os.path.lexists(path):
        refresh_placeholder(path)
    if is_placeholder(path) and (is_image(path) or path.suffix.lower() == ".gif"):
        fetch(path)
    return is_placeholder(path)


def refresh_placeholder(path: Path) -> None:
    """Update the placeholders of an object, or of all objects in a folder, to the store's current state.

    Downloads of the current version, and files that are only on this disk, stay.
    """
    if address_of(path) is None:
        return
    _make(root())
    with _at(path) as (system, name):
        found = _info(system, name)
        is_folder = found is not None and found["type"] == "directory"
        entries = system.ls(name, detail=True, refresh=True) if is_folder else []
    objects = {path: found} if found and not is_folder else {}
    if is_folder:
        _make(path)
    for info in entries:
        parent, _, own = str(info["name"]).rstrip("/").rpartition("/")
        if parent == name.rstrip("/") and _FILE_NAME.fullmatch(own) and len(os.fsencode(own)) <= _MAX_NAME:
            objects[path / own] = info
    for local, info in objects.items():
        if info["type"] == "directory":
            local.mkdir(exist_ok=True)
        elif size_and_mtime(local) != _state(info):
            _make_placeholder(local, _state(info))
    for local in path.iterdir() if path.is_dir() else [path]:
        if local not in objects and is_placeholder(local):
            local.unlink()
    with suppress(OSError):
        path.rmdir()  # only if empty: stores have no empty folders


def fetch(path: Path, heartbeat: Heartbeat = lambda: None) -> None:
    """Download an object, or all objects directly in a folder, unless they are up to date."""
    if address_of(path) is None:
        return
    for attempts_left in reversed(range(_ATTEMPTS)):
        refresh_placeholder(path)
        if not is_placeholder(path):
            break
        try:
            state = path.stat()
            with _replacing(path, state.st_mtime_ns) as partial:
                with partial.open("xb") as file:
                    for chunk in _chunks(path, heartbeat):
                        file.write(chunk)
                if _current_state(path) != (partial.stat().st_size, state.st_mtime_ns):
                    what, where = tr("the object changed while it was being read"), str(address_of(path))
                    raise OutputError(what, where=where, remedy=tr("run again"))
        except OutputError:  # expected for a status, which is rewritten all the time
            if not attempts_left:
                raise
    for child in path.iterdir() if path.is_dir() else ():
        if is_placeholder(child):
            fetch(child, heartbeat)


def _current_state(path: Path) -> tuple[int, int] | None:
    """Return size and version of a path's object in the store; None if there is none."""
    with _at(path) as at:
        info = _info(*at)
        return _state(info) if info else None


def _chunks(path: Path, heartbeat: Heartbeat) -> Iterator[bytes]:
    with _at(path) as (system, name), system.open(name, "rb", block_size=_BLOCK) as file:
        while chunk := file.read(_CHUNK):
            yield chunk
            heartbeat()


def pin(path: Path, heartbeat: Heartbeat = lambda: None) -> None:
    """Download an object and keep it until `unpin`, even if other processes unpin it."""
    while address_of(path) and (path not in _pinned or is_placeholder(path)):
        _release(path)
        fetch(path, heartbeat)
        if not os.path.lexists(path):
            break
        descriptor = os.open(path, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if is_placeholder(path) or not os.path.samestat(os.fstat(descriptor), path.stat()):
            os.close(descriptor)  # another process unpinned it before it was locked
        else:
            _pinned[path] = descriptor


def unpin(path: Path) -> None:
    """Replace a download by its placeholder to free the space, unless another process has pinned it."""
    _release(path)
    if address_of(path) and path.is_file() and not is_placeholder(path) and (state := size_and_mtime(path)):
        with suppress(BlockingIOError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _make_placeholder(path, state)


def _release(path: Path) -> None:
    if (descriptor := _pinned.pop(path, None)) is not None:
        os.close(descriptor)


def send(path: Path, heartbeat: Heartbeat = lambda: None, *, new: bool = False) -> str:
    """Upload a file atomically; return its SHA-256. Raise FileExistsError if a ``new`` object exists."""
    digest = hashlib.sha256()
    with _at(path) as (system, name), path.open("rb") as source:
        if new and _current_state(path):
            raise FileExistsError(name)
        if path.stat().st_size <= _CHUNK:  # in one request
            system.pipe_file(name, data := source.read(), mode="create" if new else "overwrite")
            return hashlib.sha256(data).hexdigest()
        # The object does not exist until `commit`.
        upload = system.open(name, "xb" if new else "wb", autocommit=False, block_size=_BLOCK)
        try:
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                upload.write(chunk)
                heartbeat()
            upload.close()
            upload.commit()
        except BaseException:
            with suppress(Exception):
                upload.discard()
                upload.closed = True  # otherwise its finalizer would upload it after all
            raise
    return digest.hexdigest()


def deliver(path: Path, heartbeat: Heartbeat = lambda: None, *, new: bool) -> str:
    """Upload a file, verify the object, and turn the path into its placeholder; return its SHA-256.

    ``new``: whether the object did not exist when the work began. Raise UsageError, and leave the object as
    it is, if it has other content.
    """
    remote_digest = hashlib.sha256()
    try:
        digest = send(path, heartbeat, new=new)
    except FileExistsError:  # another writer's, or our own upload whose response was lost
        digest = sha256_of(path, on_chunk=heartbeat)
    verified_state = _current_state(path)
    for chunk in _chunks(path, heartbeat):
        remote_digest.update(chunk)
    refresh_placeholder(path)
    if remote_digest.hexdigest() != digest or size_and_mtime(path) != verified_state:
        what = tr("another object with this name was created while the result was being made")
        remedy = tr("choose another output folder, or set overwrite")
        raise UsageError(what, where=str(address_of(path)), remedy=remedy)
    return digest


def send_all(paths: Iterable[Path]) -> None:
    """Upload the downloaded or created files at ``paths``, and in folders there, that have addresses."""
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if address_of(file) and file.is_file() and not is_placeholder(file) and file.name[0] != ".":
                send(file)


def send_folder(folder: Path, own: re.Pattern[str]) -> None:
    """Upload a folder's files; remove objects there whose names match ``own`` and that have no local file."""
    send_all([folder])
    with _at(folder) as (system, name):
        for found in system.find(name, maxdepth=1):
            file_name = found.rpartition("/")[2]
            if own.fullmatch(file_name) and not os.path.lexists(folder / file_name):
                system.rm_file(found)


def remove(path: Path, *, below: bool = False) -> None:
    """Remove a local file and its object; with ``below``, remove instead all objects below the address."""
    if not below:
        path.unlink(missing_ok=True)
    if address_of(path) is not None:
        with _at(path) as (system, name), suppress(FileNotFoundError):
            system.rm(name, recursive=True) if below else system.rm_file(name)


def sync_inputs(folder: Path | None, targets: Iterable[str], photos: Iterable[Path]) -> None:
    """Look up a batch's targets in object storage, and download its photos and records of people.

    ``targets`` are files, folders and patterns, ``photos`` files and folders, ``folder`` is for results.

    Raises:
        MissingFileError: A target or photo does not exist.
        OutputError: A store cannot be used, or the bucket does not exist.
        UsageError: The store's client is not installed.
    """
    from colab_helpers.request import MAP_NAME, PEOPLE_FOLDER_NAME  # slow to import, and not needed for pages

    paths = {Path(target).parent if has_magic(target) else Path(target) for target in targets}
    for path in (*sorted(paths), *photos):
        (refresh_placeholder if path in paths else fetch)(path)
        if (address := address_of(path)) is not None and not os.path.lexists(path):
            raise MissingFileError(tr(_NOTHING), where=address, remedy=tr(_NAMES))
    if folder is not None and address_of(folder) is not None:
        with _at(folder) as (system, name):
            if not system.exists(name.partition("/")[0]):
                raise FileNotFoundError
        fetch(folder / MAP_NAME)
        fetch(folder / PEOPLE_FOLDER_NAME)
        _remove_unused()


def _remove_unused() -> None:
    """Remove local files of objects unused for a week, and temporary files of killed processes."""
    import psutil  # slow to import, and seldom needed

    for path in (path for kind in PACKAGES for path in (root() / f"{kind}:").rglob("*")):
        with suppress(OSError):
            orphaned = (match := _PARTIAL.fullmatch(path.name)) and not psutil.pid_exists(int(match[1]))
            if path.is_file() and (orphaned or time.time() - path.stat().st_ctime > _MAX_UNUSED_SECONDS):
                path.unlink()


def parts_of(path: Path, first: int = 0, attempts: int = _ATTEMPTS) -> list[bytes]:
    """Return the parts of an append-only file, each an object in its store, from number ``first`` on."""
    with _at(path) as (system, name):
        try:
            return [system.cat_file(part) for part in sorted(system.find(f"{name}.parts"))[first:]]
        except FileNotFoundError:  # while a part is being replaced, some stores have neither version
            if attempts == 1:
                raise
    return parts_of(path, first, attempts - 1)


def send_part(path: Path, number: int, data: bytes) -> None:
    """Write part ``number`` of an append-only file to its store."""
    with _at(path) as (system, name):
        system.pipe_file(f"{name}.parts/{number:06d}", data)
