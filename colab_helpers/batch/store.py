"""Object storage: what lies at an address is on this disk only while somebody works with it.

The path that stands for an address (``addresses.stand_in``) is a file of the object's size. Its time of
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

from colab_helpers.addresses import PACKAGES, address_of, root, waits, without_secrets
from colab_helpers.errors import ColabHelpersError, MissingFileError, OutputError, UsageError, require_extra
from colab_helpers.files import sha256_of, shortened, state_of, unwritable, write_atomically
from colab_helpers.language import mark, tr
from colab_helpers.media.inputs import is_image

Beat = Callable[[], None]
Seen = dict[str, tuple[int, int, str]]
"""Size, version and SHA-256 of what lies at addresses."""

_PARTIAL = re.compile(r"\..*\.(\d+)-\d+\.part.*", re.DOTALL)
_CHUNK, _BLOCK = 4 << 20, 16 << 20
"""Bytes read, and sent, at once; a store takes 10,000 such parts."""
_PART = 64 << 10  # bytes of a journal in one object: so much at most is sent with each entry
_VERSIONS = ("generation", "ETag", "etag")  # what names one, whatever the store
_LONGEST_NAME, _LONGEST_REASON, _LONGEST_KEPT, _TRIES = 255, 200, 7 * 24 * 3600.0, 3
_held: dict[Path, int] = {}  # by paths, files that are open as long as this process needs them
_NOTHING, _NAMES = mark("there is nothing at this address"), mark("check the names of bucket and object")


@lru_cache
def _system(kind: str) -> Any:
    require_extra(kind, PACKAGES[kind])
    import fsspec

    return fsspec.filesystem(kind, use_listings_cache=False)


def _of(address: str) -> tuple[Any, str]:
    kind, _, name = address.partition("://")
    return _system(kind), name


@contextmanager
def _asking(address: str) -> Iterator[None]:
    """Say of a store's error what it means; that something is there already is raised as it is."""
    try:
        yield
    except (ColabHelpersError, FileExistsError):
        raise
    except FileNotFoundError as error:
        raise OutputError(tr(_NOTHING), where=address, remedy=tr(_NAMES)) from error
    except Exception as error:
        reason = without_secrets(f"{type(error).__name__}: {error}".strip())[:_LONGEST_REASON]
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
    told = next((str(info[name]) for name in _VERSIONS if info.get(name)), str(info))
    return int(info["size"]), int(hashlib.sha256(told.encode()).hexdigest(), 16) % (2**31 * 10**9)


def _make(folder: Path) -> None:
    """Make a folder where nobody else can look into it."""
    from colab_helpers.batch.drive import make_private  # brings what no page needs

    make_private(root())
    folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def _replacing(path: Path, version: int) -> Iterator[Path]:
    """Give the name under which a file is written that then takes a path's place; others do the same."""
    partial = path.with_name(shortened(".", path.stem, f".{os.getpid()}-{get_ident()}.part{path.suffix}"))
    try:
        _make(path.parent)
        partial.unlink(missing_ok=True)
        yield partial
        os.utime(partial, ns=(version, version))
        partial.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        partial.unlink(missing_ok=True)


def _wait(path: Path, state: tuple[int, int]) -> None:
    """Make a path stand for an object of this size and version that is not here."""
    with _replacing(path, state[1]) as partial:
        with partial.open("xb") as file:
            file.truncate(state[0])
        partial.chmod(0)


def expected(path: Path) -> bool:
    """Whether an object has yet to be brought; looked for now, if nobody on this machine has.

    Pictures are brought: what they are is asked of their bytes.
    """
    if address_of(path) is not None and not os.path.lexists(path):
        look(path)
    if waits(path) and (is_image(path) or path.suffix.lower() == ".gif"):
        fetch(path)
    return waits(path)


def is_there(path: Path) -> bool:
    """Whether something lies at the address that a path stands for, if it does."""
    address = address_of(path) or ""
    with _asking(address):
        return bool(address and _told(*_of(address)))


def look(path: Path) -> None:
    """Have a path stand for what lies at its address now: an object, or a folder of some.

    What was brought and is still that version stays, as does what is on this disk alone.
    """
    if (address := address_of(path)) is None:
        return
    _make(root())
    with _asking(address):
        system, name = _of(address)
        found = _told(system, name)
        is_folder = found is not None and found["type"] == "directory"
        inside = system.ls(name, detail=True, refresh=True) if is_folder else []
    if is_folder:
        _make(path)
    there = {path: found} if found and not is_folder else {}
    for one in inside:
        above, _, own = str(one["name"]).rstrip("/").rpartition("/")
        if above == name.rstrip("/") and _is_name(own):
            there[path / own] = one
    for place, one in there.items():
        if one["type"] == "directory":
            place.mkdir(exist_ok=True)
        elif state_of(place) != _state(one):
            _wait(place, _state(one))
    for place in path.iterdir() if path.is_dir() else [path]:
        if place not in there and waits(place):
            place.unlink()
    with suppress(OSError):
        path.rmdir()  # of an empty folder nothing is known in a store


def _is_name(text: str) -> bool:
    """Whether a file can be called so; objects may be called anything."""
    return text not in ("", ".", "..") and "\0" not in text and len(os.fsencode(text)) <= _LONGEST_NAME


def fetch(path: Path, beat: Beat = lambda: None) -> None:
    """Bring what lies at an address, or all directly in a folder there, unless it is here."""
    if (address := address_of(path)) is None:
        return
    for left in reversed(range(_TRIES)):
        look(path)
        if not waits(path):
            break
        try:
            state = path.stat()
            with _replacing(path, state.st_mtime_ns) as partial:
                with partial.open("xb") as file:
                    for chunk in _chunks(address):
                        file.write(chunk)
                        beat()
                with _asking(address):
                    now = _told(*_of(address))
                if now is None or _state(now) != (partial.stat().st_size, state.st_mtime_ns):
                    told = tr("it was changed while it was read")
                    raise OutputError(told, where=address, remedy=tr("run again"))
        except OutputError:  # of a status that is written anew each time, it is usual
            if not left:
                raise
    for file_there in path.iterdir() if path.is_dir() else ():
        if waits(file_there):
            fetch(file_there, beat)


def _chunks(address: str) -> Iterator[bytes]:
    with _asking(address):
        system, name = _of(address)
        with system.open(name, "rb", block_size=_BLOCK) as file:
            while chunk := file.read(_CHUNK):
                yield chunk


def hold(path: Path, beat: Beat = lambda: None) -> None:
    """Bring an object, and keep it here until `release`, whatever others of this machine do."""
    while address_of(path) and (path not in _held or waits(path)):
        _let_go(path)
        fetch(path, beat)
        if not os.path.lexists(path):
            break
        file = os.open(path, os.O_RDONLY)
        fcntl.flock(file, fcntl.LOCK_SH)
        if waits(path) or not os.path.samestat(os.fstat(file), path.stat()):  # given back just then
            os.close(file)
        else:
            _held[path] = file


def release(path: Path) -> None:
    """Give back the room of what was brought, unless others hold it; it can be brought again."""
    _let_go(path)
    if address_of(path) and path.is_file() and not waits(path) and (state := state_of(path)):
        with suppress(BlockingIOError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _wait(path, state)


def _let_go(path: Path) -> None:
    if (file := _held.pop(path, None)) is not None:
        os.close(file)


def send(path: Path, beat: Beat = lambda: None, *, new: bool = False) -> str:
    """Send a file to the address it stands for, all of it or nothing; return its SHA-256.

    FileExistsError where it is to be ``new``, and something is there.
    """
    address, digest = address_of(path) or "", hashlib.sha256()
    with _asking(address), path.open("rb") as reading:
        system, name = _of(address)
        if new and _told(system, name):
            raise FileExistsError(address)
        if path.stat().st_size <= _CHUNK:  # in one request
            system.pipe_file(name, data := reading.read(), mode="create" if new else "overwrite")
            return hashlib.sha256(data).hexdigest()
        # Nothing has the name until `commit`, whatever happens before.
        file = system.open(name, "xb" if new else "wb", autocommit=False, block_size=_BLOCK)
        try:
            while chunk := reading.read(_CHUNK):
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


def deliver(path: Path, beat: Beat = lambda: None, *, new: bool) -> str:
    """Send a file, read it back, and let the path wait for what is there now; return its SHA-256.

    ``new``: whether nothing was there when the work began; UsageError where something has come since.
    """
    address, back, foreign = address_of(path) or "", hashlib.sha256(), False
    try:
        digest = send(path, beat, new=new)
    except FileExistsError:  # or our own, whose arrival was not heard of
        digest, foreign = sha256_of(path, on_chunk=beat), True
    with _asking(address):
        read = _told(*_of(address))
    for chunk in _chunks(address):
        back.update(chunk)
        beat()
    is_ours = back.hexdigest() == digest
    if not (is_ours or foreign):
        remove(path)
        what = tr("the copy is not what was written")
        raise OutputError(what, where=address, remedy=tr("check the disk or the mount"))
    look(path)
    if not is_ours or read is None or state_of(path) != _state(read):
        what = tr("something of this name has come there while the result was made")
        raise UsageError(what, where=address, remedy=tr("choose another output folder, or set overwrite"))
    return digest


def send_all(paths: Iterable[Path]) -> None:
    """Send files, and the files of folders, that are here and belong to addresses."""
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if address_of(file) and file.is_file() and not waits(file) and file.name[0] != ".":
                send(file)


def send_folder(folder: Path, own: re.Pattern[str]) -> None:
    """Send the files of a folder; what is there, has a name like those, and is not here is removed."""
    send_all([folder])
    if (address := address_of(folder)) is not None:
        with _asking(address), suppress(FileNotFoundError):
            system, name = _of(address)
            for place in system.ls(name, detail=False, refresh=True):
                if own.fullmatch(it := place.rpartition("/")[2]) and not os.path.lexists(folder / it):
                    system.rm_file(place)


def remove(path: Path, *, below: bool = False) -> None:
    """Remove what lies at an address; ``below``: all whose addresses go on from there, too."""
    if (address := address_of(path)) is not None:
        with _asking(address), suppress(FileNotFoundError):
            system, name = _of(address)
            system.rm(name, recursive=True) if below else system.rm_file(name)


def enter(folder: Path | None, targets: Iterable[str], photos: Iterable[Path]) -> None:
    """Look at what a batch names in stores: its targets, its photos, which are brought, and its records.

    ``folder`` is that of the results; ``targets`` are files, folders and patterns, ``photos`` files and
    folders.

    Raises:
        MissingFileError: A target or photo is not there.
        OutputError: A store cannot be used, or has no such bucket.
        UsageError: What talks to it is not installed.
    """
    from colab_helpers.request import MAP_NAME, PEOPLE_NAME  # brings what no page needs

    places = {Path(target).parent if has_magic(target) else Path(target) for target in targets}
    for path in (*sorted(places), *photos):
        (look if path in places else fetch)(path)
        if (address := address_of(path)) is not None and not os.path.lexists(path):
            raise MissingFileError(tr(_NOTHING), where=address, remedy=tr(_NAMES))
    if folder is not None and (address := address_of(folder)) is not None:
        with _asking(address):
            system, name = _of(address)
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
            maker = _PARTIAL.fullmatch(path.name)
            left = maker and not psutil.pid_exists(int(maker[1]))
            if path.is_file() and (left or time.time() - path.stat().st_ctime > _LONGEST_KEPT):
                path.unlink()


def send_journal(path: Path, start: int) -> None:
    """Send what a journal has from a byte on."""
    if (address := address_of(path)) is None:
        return
    with _asking(address), path.open("rb") as file:
        system, name = _of(address)
        file.seek(start - start % _PART)
        for number, part in enumerate(iter(lambda: file.read(_PART), b""), start // _PART):
            system.pipe_file(f"{name}.parts/{number:06d}", part)


def fetch_journal(path: Path) -> Path:
    """Return where a journal can be read: of one in a store a copy, which nobody writes but this."""
    if (address := address_of(path)) is None:
        return path
    copy = path.with_name(f".{path.name}.read")
    known = copy.read_bytes() if copy.is_file() else b""
    whole = len(known) - len(known) % _PART  # what is full does not change any more
    told = b"".join(_journal_parts(address, whole // _PART))
    if told != known[whole:]:
        _make(copy.parent)
        write_atomically(copy, known[:whole] + told)
    return copy


def settle_journal(path: Path) -> None:
    """Have a journal, before it is written to, be the same here and in its store.

    What the store has counts, and what a run noted here that died before it could send it.
    """
    if (address := address_of(path)) is None:
        return
    known, parts = path.read_bytes() if path.is_file() else b"", _journal_parts(address)
    told = b"".join(parts)
    if not known.startswith(told):
        _make(path.parent)
        write_atomically(path, told)
    if known or told:  # a part that is not full, but the last, is of an entry that was given up
        send_journal(path, len(told) if all(len(part) == _PART for part in parts[:-1]) else 0)


def _journal_parts(address: str, first: int = 0) -> list[bytes]:
    with _asking(address):
        system, name = _of(address)
        with suppress(FileNotFoundError):
            names = sorted(system.ls(f"{name}.parts", detail=False, refresh=True))
            return [system.cat_file(part) for part in names[first:]]
    return []
