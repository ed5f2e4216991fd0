"""Object storage: what lies at an address is on this disk only while somebody works with it.

The path that stands for an address (``addresses.stand_in``) is a file of the object's size. Its time of
change is a number made of the object's version, and as long as it only waits, nobody may read it. So whatever
looks at names, sizes and times treats it as any file, and what was found out about a version stays known.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from glob import has_magic
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from colab_helpers.addresses import PACKAGES, address_of, root
from colab_helpers.batch.drive import CHUNK, make_private
from colab_helpers.batch.stop import STATUS_NAME
from colab_helpers.errors import ColabHelpersError, MissingFileError, OutputError, UsageError, require_extra
from colab_helpers.files import sha256_of, shortened, state_of, unwritable, write_atomically, written_whole
from colab_helpers.language import mark, tr
from colab_helpers.media.inputs import is_image
from colab_helpers.request import MAP_NAME, PEOPLE_NAME

Beat = Callable[[], None]
Seen = dict[str, tuple[int, int, str]]
"""Size, version and SHA-256 of what lies at addresses."""

_BLOCK = 16 << 20
"""Bytes sent at once; a store takes 10,000 such parts."""
_PART = 64 << 10
"""Bytes of a journal that lie in one object: so much at most is sent with each entry."""
_RECORDS = (MAP_NAME, PEOPLE_NAME, STATUS_NAME)
"""What is brought before a batch begins, beside its journal."""
_KEPT = (".json", ".jsonl", ".html", ".yaml", ".old")
# What names a version, whatever the store; the last for stores in memory.
_VERSIONS = ("generation", "ETag", "etag", "created")
_LONGEST_REASON = 200
_TRIES = 3
_LONGEST_KEPT = 7 * 24 * 3600.0
_NOTHING = mark("there is nothing at this address")
_NAMES = mark("check the names of bucket and object")


def _nothing() -> None:
    pass


@lru_cache
def _system(kind: str) -> Any:
    if kind in PACKAGES:
        require_extra(kind, PACKAGES[kind])
    import fsspec

    return fsspec.filesystem(kind, use_listings_cache=False)


def _of(address: str) -> tuple[Any, str]:
    kind, _, name = address.partition("://")
    return _system(kind), name


@contextmanager
def _asking(address: str) -> Iterator[None]:
    """Say of a store's error what it means; one that says that something is there already is raised."""
    try:
        yield
    except (ColabHelpersError, FileExistsError):
        raise
    except FileNotFoundError as error:
        raise OutputError(tr(_NOTHING), where=address, remedy=tr(_NAMES)) from error
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).strip()[:_LONGEST_REASON]}"
        if isinstance(error, PermissionError) or "Credentials" in reason:
            what = tr("the store refuses access ({reason})", reason=reason)
            remedy = tr("give this machine credentials as the store's own command line takes them")
        else:
            what = tr("the store cannot be used ({reason})", reason=reason)
            remedy = tr("check network, endpoint and region")
        raise OutputError(what, where=address, remedy=remedy) from error


def _told(system: Any, name: str) -> dict[str, Any] | None:
    try:
        return dict(system.info(name))
    except FileNotFoundError:
        return None


def _version(info: dict[str, Any]) -> int:
    """Make of an object's version a time of change, in nanoseconds, that any disk can keep."""
    told = next((str(info[name]) for name in _VERSIONS if info.get(name)), "")
    return int(hashlib.sha256(told.encode()).hexdigest(), 16) % (2**31 * 10**9)


def _wait_as(path: Path, state: tuple[int, int]) -> None:
    """Make a path stand for an object of this size and version that is not here."""
    size, version = state
    partial = path.with_name(shortened(".", path.stem, f".{os.getpid()}.wait{path.suffix}"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        with partial.open("xb") as file:
            file.truncate(size)
        os.utime(partial, ns=(version, version))
        partial.chmod(0)
        partial.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error


def waits(path: Path) -> bool:
    """Whether a path stands for an object that has yet to be brought."""
    with suppress(OSError, ValueError):
        found = path.lstat()
        unreadable = stat.S_ISREG(found.st_mode) and not stat.S_IMODE(found.st_mode)
        return unreadable and address_of(path) is not None
    return False


def expected(path: Path) -> bool:
    """Whether an object has yet to be brought; looked for now, if nobody on this machine has.

    Pictures are brought: what they are is asked of their bytes. OutputError where the store cannot be used.
    """
    if address_of(path) is not None and not os.path.lexists(path):
        look(path)
    if waits(path) and (is_image(path) or path.suffix.lower() == ".gif"):
        fetch(path)
    return waits(path)


def look(path: Path, *, keep: bool = False) -> None:
    """Have what stands for an address be as what lies there now: nothing, a file, or a folder of some.

    Other paths are left alone; what was brought and has not changed since stays. With ``keep`` so does what
    is on this disk alone.

    Raises:
        OutputError: The store cannot be asked.
    """
    if (address := address_of(path)) is None:
        return
    make_private(root())
    with _asking(address):
        system, name = _of(address)
        found = _told(system, name)
        inside = system.ls(name, detail=True, refresh=True) if found and found["type"] == "directory" else []
    if found is not None and found["type"] != "directory":
        _stand(path, found)
        return
    if found is not None:
        path.mkdir(parents=True, exist_ok=True)
    there = {own for each in inside if (own := _stands_inside(path, name, each))}
    if not keep:
        _remove_others(path, there)


def _stand(path: Path, found: dict[str, Any]) -> None:
    state = int(found["size"]), _version(found)
    if state_of(path) != state:
        _wait_as(path, state)


def _stands_inside(folder: Path, name: str, found: dict[str, Any]) -> str:
    """Have something of a folder stand there; return its name, or none for what no file can be called."""
    own = str(found["name"]).rstrip("/").rpartition("/")[2]
    if str(found["name"]).rstrip("/") == name.rstrip("/") or own in ("", ".", "..") or "\0" in own:
        return ""
    if found["type"] == "directory":
        (folder / own).mkdir(exist_ok=True)
    else:
        _stand(folder / own, found)
    return own


def _remove_others(path: Path, there: set[str]) -> None:
    """Remove what is no longer in the store, but not a run's own records."""
    for gone in path.iterdir() if path.is_dir() else [path]:
        if gone.name not in there and gone.name[0] != "." and gone.suffix not in _KEPT and gone.is_file():
            gone.unlink()
    with suppress(OSError):
        if not there:
            path.rmdir()


def fetch(path: Path, beat: Beat = _nothing, *, keep: bool = False) -> None:
    """Bring what lies at an address, unless it is here; other paths are left alone. See `look` for ``keep``.

    Raises:
        OutputError: The store or this disk cannot be used, or another version came meanwhile.
    """
    if (address := address_of(path)) is None:
        return
    for left in reversed(range(_TRIES)):
        look(path, keep=keep)
        if not waits(path):
            return
        try:
            with _alone(path, beat):  # others here may want it, too
                _bring(path, address, beat)
        except OutputError:  # such as of a status that is written anew each time
            if not left:
                raise


def _bring(path: Path, address: str, beat: Beat) -> None:
    if not (waits(path) and (state := state_of(path))):
        return
    with written_whole(path) as partial:
        with partial.open("wb") as file:
            for chunk in _chunks(address):
                file.write(chunk)
                beat()
        with _asking(address):
            found = _told(*_of(address))
        if found is None or (partial.stat().st_size, _version(found)) != state:
            raise OutputError(tr("it was changed while it was read"), where=address, remedy=tr("run again"))
        os.utime(partial, ns=(state[1], state[1]))


@contextmanager
def _alone(path: Path, beat: Beat) -> Iterator[None]:
    lock = FileLock(root() / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.lock")
    while not lock.is_locked:
        with suppress(Timeout):
            lock.acquire(timeout=1.0)
        beat()
    try:
        yield
    finally:
        lock.release()


def _chunks(address: str) -> Iterator[bytes]:
    with _asking(address):
        system, name = _of(address)
        with system.open(name, "rb", block_size=_BLOCK) as file:
            while chunk := file.read(CHUNK):
                yield chunk


def release(path: Path) -> None:
    """Give back the room of what was brought; it can be brought again."""
    if address_of(path) and path.is_file() and not waits(path) and (state := state_of(path)):
        _wait_as(path, state)


def send(path: Path, beat: Beat = _nothing, *, new: bool = False) -> str:
    """Send a file to the address it stands for, all of it or nothing; return its SHA-256.

    Raises:
        FileExistsError: Something is there although it is to be ``new``.
        OutputError: The store cannot be used.
    """
    address, digest = address_of(path) or "", hashlib.sha256()
    with _asking(address), path.open("rb") as reading:
        system, name = _of(address)
        if new and _told(system, name):
            raise FileExistsError(address)
        # Nothing has the name until `commit`, whatever happens before.
        file = system.open(name, "xb" if new else "wb", autocommit=False, block_size=_BLOCK)
        try:
            while chunk := reading.read(CHUNK):
                digest.update(chunk)
                file.write(chunk)
                beat()
            file.close()
            file.commit()
        except BaseException:
            with suppress(Exception):
                file.discard()
                file.closed = True  # or it is sent after all once nobody holds it
            raise
    return digest.hexdigest()


def deliver(path: Path, beat: Beat = _nothing, *, new: bool) -> str:
    """Send a file, read it back, and let the path wait for what is there now; return its SHA-256.

    ``new``: whether nothing was there when the work began.

    Raises:
        UsageError: Something else has come there since.
        OutputError: The store cannot be used, or does not give back what was sent.
    """
    address, foreign = address_of(path) or "", False
    try:
        digest = send(path, beat, new=new)
    except FileExistsError:  # or our own, whose arrival was not heard of
        digest, foreign = sha256_of(path, on_chunk=beat), True
    back = hashlib.sha256()
    for chunk in _chunks(address):
        back.update(chunk)
        beat()
    if back.hexdigest() != digest:
        if foreign:
            what = tr("something of this name has come there while the result was made")
            raise UsageError(what, where=address, remedy=tr("choose another output folder, or set overwrite"))
        remove(path)
        what = tr("the copy is not what was written")
        raise OutputError(what, where=address, remedy=tr("check the disk or the mount"))
    look(path)
    return digest


def _sweep() -> None:
    """Remove what nobody has touched for a week of what belongs to addresses: it is there."""
    for kind in PACKAGES:
        for path in (root() / f"{kind}:").rglob("*"):
            with suppress(OSError):
                if path.is_file() and time.time() - path.stat().st_ctime > _LONGEST_KEPT:
                    path.unlink()


def send_all(paths: Iterable[Path]) -> None:
    """Send those files, and the files of those folders, that are here and belong to addresses."""
    for path in paths:
        if address_of(path) is not None:
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file() and not waits(file) and file.name[0] != ".":
                    send(file)


def fetch_all(paths: Iterable[Path]) -> None:
    """Bring files, and the files of folders, that belong to addresses; what is only here stays."""
    for path in paths:
        fetch(path, keep=True)
        if address_of(path) is not None and path.is_dir():
            for file in path.iterdir():
                fetch(file, keep=True)


def remove(path: Path) -> None:
    """Remove what lies at an address, and all below it; OutputError where the store cannot be used."""
    if (address := address_of(path)) is not None:
        with _asking(address), suppress(FileNotFoundError):
            system, name = _of(address)
            system.rm(name, recursive=True)


def enter(folder: Path | None, targets: Iterable[str], photos: Iterable[Path]) -> None:
    """Look at what a batch names in stores: its targets, its photos, which are brought, as are its records.

    Args:
        folder: Of the results; its bucket has to be there.
        targets: Files, folders and patterns.
        photos: Files, and folders of them.

    Raises:
        MissingFileError: A target or photo is not there.
        OutputError: A store cannot be used, or has no such bucket.
        UsageError: What talks to it is not installed.
    """
    places = {Path(target).parent if has_magic(target) else Path(target) for target in targets}
    for path in (*sorted(places), *photos):
        if (address := address_of(path)) is not None:
            look(path)
            if not os.path.lexists(path):
                raise MissingFileError(tr(_NOTHING), where=address, remedy=tr(_NAMES))
    fetch_all(photos)
    if folder is not None and (address := address_of(folder)) is not None:
        with _asking(address):
            system, name = _of(address)
            if not system.exists(name.partition("/")[0]):
                raise FileNotFoundError
        fetch_all(folder / name for name in _RECORDS)
        _sweep()


def send_journal(path: Path, start: int) -> None:
    """Send what a journal has from a byte on; OutputError where the store cannot be used."""
    if (address := address_of(path)) is None:
        return
    with _asking(address), path.open("rb") as file:
        system, name = _of(address)
        file.seek(start - start % _PART)
        for number, part in enumerate(iter(lambda: file.read(_PART), b""), start // _PART):
            system.pipe_file(f"{name}.parts/{number:06d}", part)


def fetch_journal(path: Path, *, settle: bool = False) -> None:
    """Bring what others have noted in a journal; whoever is about to write it has to ``settle`` what counts.

    What the store has counts, and what a run noted here that died before it could send it.
    """
    if (address := address_of(path)) is None:
        return
    known = path.read_bytes() if path.is_file() else b""
    first = 0 if settle else len(known) // _PART
    with _asking(address):
        system, name = _of(address)
        try:
            parts = sorted(system.ls(f"{name}.parts", detail=False, refresh=True))[first:]
        except FileNotFoundError:
            parts = []
        told = b"".join(system.cat_file(part) for part in parts)
    own = known[first * _PART :]
    if len(told) > len(own) or (settle and not own.startswith(told)):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, known[: first * _PART] + told)
    elif settle and len(own) > len(told):
        send_journal(path, len(told))
