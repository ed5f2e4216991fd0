"""Files: where they are, which are the same, their order, their bytes, and writing one whole or not."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from colab_helpers.addresses import local_path_of, require_downloaded
from colab_helpers.errors import MissingFileError, OutputError, UsageError
from colab_helpers.language import mark, tr

if TYPE_CHECKING:
    from pydantic import BaseModel

Model = TypeVar("Model", bound="BaseModel")
Seal = Callable[[Path], None]
"""Completes a finished file under its hidden name, before it is published."""

_CHUNK = 1 << 20
_MAX_NAME = 255
"""Bytes of a file's name that every usual file system takes."""
_SURROGATE = re.compile("[\ud800-\udfff]")


def absolute(path: str | Path) -> Path:
    """Make a path that a user wrote absolute, with ``~`` expanded; links in it are left as they are.

    Called once, where the path comes in: everything behind the door takes absolute paths. Of an address in
    object storage it is the one that stands for it.

    Raises:
        UsageError: It has a null character, which no path has.
    """
    if "\0" in str(path):
        what, remedy = tr("a path with a null character"), tr("write the path as the system shows it")
        raise UsageError(what, where=repr(str(path)), remedy=remedy)
    if (place := local_path_of(path)) is not None:
        return place
    # Not Path.expanduser: it raises for a user who does not exist, whose path is then a name like any other.
    return Path(os.path.expanduser(path)).absolute()  # noqa: PTH111


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file or folder, links followed; False where either is not there."""
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        return False


def size_and_mtime(path: str | Path) -> tuple[int, int] | None:
    """Size and time of change of a file, which tell whether it is another one; None where there is none."""
    try:
        load_or_none = os.stat(path)  # noqa: PTH116 - a data URL may stand there, which is too long a name for Path
    except (OSError, ValueError):
        return None
    return load_or_none.st_size, load_or_none.st_mtime_ns


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sort key by which ``clip2`` comes before ``clip10``, whatever the case."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name.lower())
    return [(int(part), "") if "0" <= part[0] <= "9" else (-1, part) for part in parts]


def numbered(path: Path, number: int) -> Path:
    """The same path with a number in its name: ``clip.mp4`` is ``clip (2).mp4``."""
    return path.with_name(f"{path.stem} ({number}){path.suffix}")


def to_json(model: BaseModel, **options: Any) -> str:
    r"""Return a model as JSON; file names that are no UTF-8 survive as ``\udce9``.

    Options are ``indent``, as for ``json.dumps``, and those of ``model_dump``.
    """
    indent = options.pop("indent", None)
    data = model.model_dump(mode="json", by_alias=True, **options)
    text = json.dumps(data, ensure_ascii=False, indent=indent, separators=None if indent else (",", ":"))
    # pydantic refuses lone surrogates, and no encoding takes them; JSON can spell them.
    return _SURROGATE.sub(lambda load_or_none: f"\\u{ord(load_or_none[0]):04x}", text)


def from_json(kind: type[Model], data: str | bytes) -> Model:
    """Read what ``to_json`` wrote.

    Raises:
        ValueError: It is no JSON, or does not fit the model.
    """
    return kind.model_validate(parse_json(data))


def parse_json(data: str | bytes) -> Any:
    """Return what JSON says; ValueError where it is none, or nested deeper than anything written here."""
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError(str(error)) from error


def load_or_none(kind: type[Model], path: Path) -> Model | None:
    """Read a file that ``to_json`` wrote; None where there is none, or none that fits the model."""
    try:
        return from_json(kind, path.read_bytes())
    except (OSError, ValueError):
        return None


def from_yaml(text: str) -> Any:
    """Read YAML, with libyaml where it is, which is ten times as fast.

    Raises:
        yaml.YAMLError: It is none.
    """
    import yaml

    try:
        return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (RecursionError, ValueError) as error:  # nested too deeply; a date that there is not
        raise yaml.YAMLError(str(error)) from error


def load(
    kind: type[Model], path: Path, *, missing: str, missing_remedy: str, foreign: str, foreign_remedy: str
) -> Model:
    """Read a file that ``to_json`` wrote, or say what is wrong and what to do.

    Raises:
        MissingFileError: It cannot be read.
        UsageError: It does not fit the model: of another version, or nothing of the kind.
    """
    try:
        return from_json(kind, path.read_bytes())
    except OSError as error:
        raise MissingFileError(missing, where=str(path), remedy=missing_remedy) from error
    except ValueError as error:
        raise UsageError(foreign, where=str(path), remedy=foreign_remedy) from error


def open_nofollow(path: str, flags: int) -> int:
    """Open a file, but none that is a link: what is added would go elsewhere; an opener for ``open``."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def open_private(path: str, flags: int) -> int:
    """Open a file that nobody else may read, where it is made; an opener for ``open``."""
    return os.open(path, flags, 0o600)


def ends_with_newline(file: BinaryIO) -> bool:
    """Whether a file that is open for reading is empty or ends with a line break."""
    if file.seek(0, os.SEEK_END) == 0:
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def sha256_of(path: Path, *, on_chunk: Callable[[], None] | None = None) -> str:
    """SHA-256 of a file's bytes, 64 lower-case hex digits; OSError where it cannot be read.

    ``on_chunk`` is called every megabyte; it may raise to give up.
    """
    require_downloaded(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            if on_chunk is not None:
                on_chunk()
    return digest.hexdigest()


def crc32_of(path: Path) -> str:
    """CRC-32 of a file's bytes, 8 lower-case hex digits; OSError where it cannot be read."""
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return f"{value:08x}"


def write_atomically(path: Path, data: bytes, *, private: bool = False) -> None:
    """Write a small file, all of it or nothing, safe on disk; its folder must be there.

    Nobody else may read a ``private`` one.

    Raises:
        OSError: It cannot be written; a file that was there stays as it was.
    """
    # The process in the name keeps two writers apart; not mkstemp, whose files nobody else may read.
    place, opener = path.with_name(f".{path.name}.{os.getpid()}.part"), open_private if private else None
    with _published(path, place) as partial, open(partial, "xb", opener=opener) as file:
        file.write(data)


@contextlib.contextmanager
def _published(path: Path, partial: Path) -> Iterator[Path]:
    """Publish what is written under another name at the end of the block, or remove it."""
    try:
        partial.unlink(missing_ok=True)  # a link would be followed
        yield partial
        publish(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def atomic_output(path: Path) -> Iterator[Path]:
    """Give the hidden name a file is written under; it is published at the end of the block, or removed.

    Missing folders are made.

    Raises:
        OutputError: It cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _published(path, hidden_name(path)) as partial:
            yield partial
    except OSError as error:
        raise unwritable_error(path, error) from error


def no_seal(_partial: Path) -> None:
    """Leave a file as it is."""


def copy_atomically(
    path: Path, content: BinaryIO, seal: Seal = no_seal, *, on_chunk: Callable[[], None] = lambda: None
) -> None:
    """Copy a finished file to its place, complete and sealed or not at all; missing folders are made.

    ``on_chunk`` is called every megabyte; it may raise to give up.

    Raises:
        OutputError: It cannot be written there.
    """
    content.seek(0)
    with atomic_output(path) as partial:
        with partial.open("wb") as file:
            while chunk := content.read(_CHUNK):
                file.write(chunk)
                on_chunk()
        seal(partial)


def publish(partial: Path, path: Path) -> None:
    """Give a complete file its name once it is safe on disk: a name never stands for a torn file.

    Raises:
        OSError: It cannot be written or renamed.
    """
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(path)
    # Some mounted cloud drives cannot sync a folder; the file itself is safe already.
    with contextlib.suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def hidden_name(path: Path) -> Path:
    """Return where a file is written until it is complete: beside its place, with the same suffix."""
    return path.with_name(shorten_name(".", path.stem, f".part{path.suffix}"))


def manifest_beside(path: Path) -> Path:
    """Return where the manifest of a file lies that cannot hold it itself."""
    return path.with_name(shorten_name("", path.name, ".c2pa"))


def shorten_name(before: str, stem: str, after: str) -> str:
    """Join a file's name of three parts; a stem that makes it too long is cut and told apart by its hash."""
    name = f"{before}{stem}{after}"
    if len(name.encode(errors="surrogateescape")) <= _MAX_NAME:
        return name
    raw = stem.encode(errors="surrogateescape")
    digest = f"~{hashlib.sha256(raw).hexdigest()[:8]}"
    room = _MAX_NAME - len(f"{before}{digest}{after}".encode(errors="surrogateescape"))
    return f"{before}{raw[: max(0, room)].decode(errors='ignore')}{digest}{after}"


_SPACE = mark("free some space or choose another disk")
_RIGHTS = mark("choose a folder you may write to")
_NO_FOLDER = mark("a part of the path is a file, not a folder: choose another folder")
_REMEDIES = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: mark("choose a disk that takes larger files"),
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: _RIGHTS,
    errno.ENOTDIR: _NO_FOLDER,
    errno.EEXIST: _NO_FOLDER,
    errno.EINVAL: mark("this container does not take what the source holds: write another, such as .mkv"),
}
_OTHER_REMEDY = mark("check the folder and the free space")


def unwritable_error(path: Path, error: Exception) -> OutputError:
    """Return the error to raise where an OSError, or FFmpeg's, says that a file cannot be written."""
    code = getattr(error, "errno", None) or 0
    return OutputError(
        tr("the result cannot be written ({reason})", reason=getattr(error, "strerror", None) or error),
        where=str(path),
        remedy=tr(_REMEDIES.get(code, _OTHER_REMEDY)),
    )


def expand_pattern(target: str) -> list[Path]:
    """Return the files that a pattern such as ``clips/*.mp4`` stands for, in natural order, or the one named.

    MissingFileError where none fits.
    """
    path = Path(target)
    if not glob.has_magic(target) or path.exists():
        return [path]
    load_or_none = Path(path.anchor).glob(str(path.relative_to(path.anchor)))
    if not (files := sorted(load_or_none, key=lambda path: natural_key(path.name))):
        raise MissingFileError(
            tr("there is no such file, and no file's name fits it as a pattern"),
            where=target,
            remedy=tr("check the name, the folder and the suffix"),
        )
    return files
