"""Object storage: what lies at an address is on this disk only while somebody works with it.

The path that stands for an address (``addresses.local_path_of``) is a file of the object's size. Its time of
change is a number made of the object's version, and as long as it only waits, nobody may read it. So whatever
looks at names, sizes and times treats it as any file, and what was found out about a version stays known.
Other paths are left alone by everything here. Of a store that cannot be used everything says OutputError.
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

Beat = Callable[[], None]
ObjectStates = dict[str, tuple[int, int, str]]
"""Size, version and SHA-256 of what lies at addresses."""

_FILE = re.compile(r"(?!\.\.?$)[^\0]+", re.DOTALL)  # objects may be called what no file can be called
_PARTIAL = re.compile(r"\..*\.(\d+)-\d+\.part.*", re.DOTALL)
_CHUNK, _BLOCK = 4 << 20, 16 << 20  # bytes read, and sent, at once; a store takes 10,000 such parts
_MAX_NAME, _MAX_REASON, _MAX_KEPT, _TRIES = 255, 200, 7 * 24 * 3600.0, 3
_held: dict[Path, int] = {}  # by paths, files that are open as long as this process needs them
_NOTHING, _NAMES = mark("there is nothing at this address"), mark("check the names of bucket and object")


@lru_cache
def _system(kind: str) -> Any:
    require_extra(kind, PACKAGES[kind])
    import fsspec

    return fsspec.filesystem(kind, use_listings_cache=False)


@contextmanager
def _at(path: Path) -> Iterator[tuple[Any, str]]:
    """Give the store of what a path stands for, and its name there; an error is told, but FileExistsError."""
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
            what = tr("the store refuses access ({reason})", reason=reason)
            remedy = tr("give this machine credentials as the store's own command line takes them")
        else:
            what = tr("the store cannot be used ({reason})", reason=reason)
            remedy = tr("check network, endpoint and region")
        raise OutputError(what, where=address, remedy=remedy) from error


def _told(system: Any, name: str) -> dict[str, Any] | None:
    """What a store says of an object or folder; None where there is none."""
    with suppress(FileNotFoundError):
        return dict(system.info(name))
    return None


def _state(info: dict[str, Any]) -> tuple[int, int]:
    """Size of an object, and its version as a time of change, in nanoseconds, that any disk can keep."""
    version = info.get("generation") or info.get("ETag") or info.get("etag") or info
    return int(info["size"]), int(hashlib.sha256(str(version).encode()).hexdigest(), 16) % (2**31 * 10**9)


def _make(folder: Path) -> None:
    """Make a folder where nobody else can look into it."""
    from colab_helpers.batch.drive import make_private  # brings what no page needs

    make_private(root())
    folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def _replacing(path: Path, version: int) -> Iterator[Path]:
    """Give the name under which a file is written that then takes a path's place; others do the same."""
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


def _wait(path: Path, state: tuple[int, int]) -> None:
    """Make a path stand for an object of this size and version that is not here."""
    with _replacing(path, state[1]) as partial:
        with partial.open("xb") as file:
            file.truncate(state[0])
        partial.chmod(0)


def needs_download(path: Path) -> bool:
    """Whether an object has yet to be brought; looked for now, if nobody on this machine has.

    Pictures are brought: what they are is asked of their bytes.
    """
    if not os.path.lexists(path):
        refresh_placeholder(path)
    if is_placeholder(path) and (is_image(path) or path.suffix.lower() == ".gif"):
        fetch(path)
    return is_placeholder(path)


def refresh_placeholder(path: Path) -> None:
    """Have a path stand for what lies at its address now: an object, or a folder of some.

    What was brought and is still that version stays, as does what is on this disk alone.
    """
    if address_of(path) is None:
        return
    _make(root())
    with _at(path) as (system, name):
        found = _told(system, name)
        is_folder = found is not None and found["type"] == "directory"
        inside = system.ls(name, detail=True, refresh=True) if is_folder else []
    there = {path: found} if found and not is_folder else {}
    if is_folder:
        _make(path)
    for one in inside:
        above, _, own = str(one["name"]).rstrip("/").rpartition("/")
        if above == name.rstrip("/") and _FILE.fullmatch(own) and len(os.fsencode(own)) <= _MAX_NAME:
            there[path / own] = one
    for place, one in there.items():
        if one["type"] == "directory":
            place.mkdir(exist_ok=True)
        elif size_and_mtime(place) != _state(one):
            _wait(place, _state(one))
    for place in path.iterdir() if path.is_dir() else [path]:
        if place not in there and is_placeholder(place):
            place.unlink()
    with suppress(OSError):
        path.rmdir()  # of an empty folder nothing is known in a store


def fetch(path: Path, heartbeat: Beat = lambda: None) -> None:
    """Bring what lies at an address, or all directly in a folder there, unless it is here."""
    if address_of(path) is None:
        return
    for left in reversed(range(_TRIES)):
        refresh_placeholder(path)
        if not is_placeholder(path):
            break
        try:
            state = path.stat()
            with _replacing(path, state.st_mtime_ns) as partial:
                with partial.open("xb") as file:
                    for chunk in _chunks(path, heartbeat):
                        file.write(chunk)
                if _now(path) != (partial.stat().st_size, state.st_mtime_ns):
                    what, where = tr("it was changed while it was read"), str(address_of(path))
                    raise OutputError(what, where=where, remedy=tr("run again"))
        except OutputError:  # of a status that is written anew each time, it is usual
            if not left:
                raise
    for file_there in path.iterdir() if path.is_dir() else ():
        if is_placeholder(file_there):
            fetch(file_there, heartbeat)


def _now(path: Path) -> tuple[int, int] | None:
    """Size and version of the object that a path stands for; None where there is none."""
    with _at(path) as at:
        found = _told(*at)
        return _state(found) if found else None


def _chunks(path: Path, heartbeat: Beat) -> Iterator[bytes]:
    with _at(path) as (system, name), system.open(name, "rb", block_size=_BLOCK) as file:
        while chunk := file.read(_CHUNK):
            yield chunk
            heartbeat()


def pin(path: Path, heartbeat: Beat = lambda: None) -> None:
    """Bring an object, and keep it here until `unpin`, whatever others of this machine do."""
    while address_of(path) and (path not in _held or is_placeholder(path)):
        _let_go(path)
        fetch(path, heartbeat)
        if not os.path.lexists(path):
            break
        file = os.open(path, os.O_RDONLY)
        fcntl.flock(file, fcntl.LOCK_SH)
        if is_placeholder(path) or not os.path.samestat(os.fstat(file), path.stat()):  # given back just then
            os.close(file)
        else:
            _held[path] = file


def unpin(path: Path) -> None:
    """Give back the room of what was brought, unless others hold it; it can be brought again."""
    _let_go(path)
    if address_of(path) and path.is_file() and not is_placeholder(path) and (state := size_and_mtime(path)):
        with suppress(BlockingIOError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _wait(path, state)


def _let_go(path: Path) -> None:
    if (file := _held.pop(path, None)) is not None:
        os.close(file)


def send(path: Path, heartbeat: Beat = lambda: None, *, new: bool = False) -> str:
    """Send a file to the address it stands for, all of it or nothing; return its SHA-256.

    FileExistsError where it is to be ``new``, and something is there.
    """
    digest = hashlib.sha256()
    with _at(path) as (system, name), path.open("rb") as reading:
        if new and _now(path):
            raise FileExistsError(name)
        if path.stat().st_size <= _CHUNK:  # in one request
            system.pipe_file(name, data := reading.read(), mode="create" if new else "overwrite")
            return hashlib.sha256(data).hexdigest()
        # Nothing has the name until `commit`, whatever happens before.
        file = system.open(name, "xb" if new else "wb", autocommit=False, block_size=_BLOCK)
        try:
            while chunk := reading.read(_CHUNK):
                digest.update(chunk)
                file.write(chunk)
                heartbeat()
            file.close()
            file.commit()
        except BaseException:
            with suppress(Exception):
                file.discard()
                file.closed = True  # or it is sent after all once nobody holds it
            raise
    return digest.hexdigest()


def deliver(path: Path, heartbeat: Beat = lambda: None, *, new: bool) -> str:
    """Send a file, read it back, and let the path wait for what is there now; return its SHA-256.

    ``new``: whether nothing was there when the work began. UsageError where what is there is something else,
    which stays.
    """
    back = hashlib.sha256()
    try:
        digest = send(path, heartbeat, new=new)
    except FileExistsError:  # somebody's, or our own, whose arrival was not heard of
        digest = sha256_of(path, on_chunk=heartbeat)
    read = _now(path)
    for chunk in _chunks(path, heartbeat):
        back.update(chunk)
    refresh_placeholder(path)
    if back.hexdigest() != digest or size_and_mtime(path) != read:
        what = tr("something of this name has come there while the result was made")
        remedy = tr("choose another output folder, or set overwrite")
        raise UsageError(what, where=str(address_of(path)), remedy=remedy)
    return digest


def send_all(paths: Iterable[Path]) -> None:
    """Send files, and the files of folders, that are here and belong to addresses."""
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if address_of(file) and file.is_file() and not is_placeholder(file) and file.name[0] != ".":
                send(file)


def send_folder(folder: Path, own: re.Pattern[str]) -> None:
    """Send the files of a folder; what is there, has a name like those, and is not here is removed."""
    send_all([folder])
    with _at(folder) as (system, name):
        for place in system.find(name, maxdepth=1):
            if own.fullmatch(it := place.rpartition("/")[2]) and not os.path.lexists(folder / it):
                system.rm_file(place)


def remove(path: Path, *, below: bool = False) -> None:
    """Remove a file, here and at its address; ``below``: instead, all that lies below the address."""
    if not below:
        path.unlink(missing_ok=True)
    if address_of(path) is not None:
        with _at(path) as (system, name), suppress(FileNotFoundError):
            system.rm(name, recursive=True) if below else system.rm_file(name)


def sync_inputs(folder: Path | None, targets: Iterable[str], photos: Iterable[Path]) -> None:
    """Look at what a batch names in stores: its targets, its photos, which are brought, and its records.

    ``targets`` are files, folders and patterns, ``photos`` files and folders.

    Raises:
        MissingFileError: A target or photo is not there.
        OutputError: A store cannot be used, or has no such bucket.
        UsageError: What talks to it is not installed.
    """
    from colab_helpers.request import MAP_NAME, PEOPLE_NAME  # brings what no page needs

    places = {Path(target).parent if has_magic(target) else Path(target) for target in targets}
    for path in (*sorted(places), *photos):
        (refresh_placeholder if path in places else fetch)(path)
        if (address := address_of(path)) is not None and not os.path.lexists(path):
            raise MissingFileError(tr(_NOTHING), where=address, remedy=tr(_NAMES))
    if folder is not None and address_of(folder) is not None:
        with _at(folder) as (system, name):
            if not system.exists(name.partition("/")[0]):
                raise FileNotFoundError
        fetch(folder / MAP_NAME)
        fetch(folder / PEOPLE_NAME)
        _sweep()


def _sweep() -> None:
    """Remove what nobody has touched for a week of what is in stores, and what killed processes left."""
    import psutil  # slow, and seldom needed here

    for path in (path for kind in PACKAGES for path in (root() / f"{kind}:").rglob("*")):
        with suppress(OSError):
            left = (maker := _PARTIAL.fullmatch(path.name)) and not psutil.pid_exists(int(maker[1]))
            if path.is_file() and (left or time.time() - path.stat().st_ctime > _MAX_KEPT):
                path.unlink()


def parts_of(path: Path, first: int = 0) -> list[bytes]:
    """Return the parts of a file that are in its store, each an object, from the ``first`` on."""
    with _at(path) as (system, name):
        return [system.cat_file(part) for part in sorted(system.find(f"{name}.parts"))[first:]]


def send_part(path: Path, number: int, data: bytes) -> None:
    """Replace a part of a file in its store, or add one."""
    with _at(path) as (system, name):
        system.pipe_file(f"{name}.parts/{number:06d}", data)
