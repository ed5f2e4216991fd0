"""Files: absolute paths, identity, natural order, hashes, JSON and YAML, and atomic writes."""

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
"""Completes a finished file (such as by signing it) under its hidden name, before it is published."""

_CHUNK = 1 << 20
_MAX_NAME = 255
"""Longest file name, in bytes, that all common file systems accept."""
_SURROGATE = re.compile("[\ud800-\udfff]")


def absolute(path: str | Path) -> Path:
    """Make a user's path absolute, with ``~`` expanded and links left as they are.

    Called once, where a path enters the package; everything else expects absolute paths. An address in object
    storage becomes the local path that stands for it. Raise UsageError for a path with a null character.
    """
    if "\0" in str(path):
        what, remedy = tr("the path contains a null character"), tr("write the path as the system shows it")
        raise UsageError(what, where=repr(str(path)), remedy=remedy)
    if (local := local_path_of(path)) is not None:
        return local
    # Not Path.expanduser, which raises for ``~name`` of an unknown user: that is an ordinary file name.
    return Path(os.path.expanduser(path)).absolute()  # noqa: PTH111


def same_file(one: Path, other: Path) -> bool:
    """Return whether two paths lead to the same file or folder, links followed; False if one is missing."""
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        return False


def size_and_mtime(path: str | Path) -> tuple[int, int] | None:
    """Return a file's size and mtime in ns, by which changes are noticed; None if there is no such file."""
    try:
        stat = os.stat(path)  # noqa: PTH116 - may be a data URL, which is too long a name for Path
    except (OSError, ValueError):
        return None
    return stat.st_size, stat.st_mtime_ns


def natural_key(name: str) -> list[tuple[int, str]]:
    """Return a case-insensitive sort key by which ``clip2`` comes before ``clip10``."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name.lower())
    return [(int(part), "") if "0" <= part[0] <= "9" else (-1, part) for part in parts]


def numbered(path: Path, number: int) -> Path:
    """Add a number to a file's name: ``clip.mp4`` becomes ``clip (2).mp4``."""
    return path.with_name(f"{path.stem} ({number}){path.suffix}")


def to_json(model: BaseModel, **options: Any) -> str:
    r"""Dump a model to JSON; file names that are not UTF-8 are kept, with escapes such as ``\udce9``.

    Options are ``indent``, as for ``json.dumps``, and those of ``model_dump``.
    """
    indent = options.pop("indent", None)
    data = model.model_dump(mode="json", by_alias=True, **options)
    text = json.dumps(data, ensure_ascii=False, indent=indent, separators=None if indent else (",", ":"))
    # pydantic refuses lone surrogates and no encoding accepts them, but JSON can escape them.
    return _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def from_json(kind: type[Model], data: str | bytes) -> Model:
    """Parse what ``to_json`` wrote; raise ValueError if it is not JSON or does not fit the model."""
    return kind.model_validate(parse_json(data))


def parse_json(data: str | bytes) -> Any:
    """Parse JSON; raise ValueError if it is invalid or nested too deeply."""
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError(str(error)) from error


def load_or_none(kind: type[Model], path: Path) -> Model | None:
    """Read a file that ``to_json`` wrote; None if it cannot be read or does not fit the model."""
    try:
        return from_json(kind, path.read_bytes())
    except (OSError, ValueError):
        return None


def from_yaml(text: str) -> Any:
    """Parse YAML, with libyaml if present, which is ten times as fast; raise YAMLError if it is invalid."""
    import yaml

    try:
        return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (RecursionError, ValueError) as error:  # nested too deeply; an impossible date
        raise yaml.YAMLError(str(error)) from error


def load(
    kind: type[Model], path: Path, *, missing: str, missing_remedy: str, foreign: str, foreign_remedy: str
) -> Model:
    """Read a file that ``to_json`` wrote, or raise an error with the given texts.

    Raises:
        MissingFileError: It cannot be read.
        UsageError: It does not fit the model: it is of another version or no such file at all.
    """
    try:
        return from_json(kind, path.read_bytes())
    except OSError as error:
        raise MissingFileError(missing, where=str(path), remedy=missing_remedy) from error
    except ValueError as error:
        raise UsageError(foreign, where=str(path), remedy=foreign_remedy) from error


def open_nofollow(path: str, flags: int) -> int:
    """Opener for ``open`` that refuses symbolic links, by which writes would go elsewhere."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def open_private(path: str, flags: int) -> int:
    """Opener for ``open`` that creates files readable by their owner only."""
    return os.open(path, flags, 0o600)


def ends_with_newline(file: BinaryIO) -> bool:
    """Return whether a file open for reading is empty or ends with a line break."""
    if file.seek(0, os.SEEK_END) == 0:
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def sha256_of(path: Path, *, on_chunk: Callable[[], None] | None = None) -> str:
    """Return a file's SHA-256 as 64 lower-case hex digits; raise OSError if it cannot be read.

    ``on_chunk`` is called every megabyte and may raise to cancel.
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
    """Return a file's CRC-32 as 8 lower-case hex digits; raise OSError if it cannot be read."""
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return f"{value:08x}"


def write_atomically(path: Path, data: bytes, *, private: bool = False) -> None:
    """Write a small file atomically and sync it; its folder must exist.

    Only the owner can read a ``private`` file. On an OSError an existing file is left as it was.
    """
    # The process id keeps concurrent writers apart; not mkstemp, whose files only the owner can read.
    hidden, opener = path.with_name(f".{path.name}.{os.getpid()}.part"), open_private if private else None
    with _published(path, hidden) as partial, open(partial, "xb", opener=opener) as file:
        file.write(data)


@contextlib.contextmanager
def _published(path: Path, partial: Path) -> Iterator[Path]:
    """Publish ``partial`` as ``path`` at the end of the block; remove it on an error."""
    try:
        partial.unlink(missing_ok=True)  # it may be a link, which would be followed
        yield partial
        publish(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def atomic_output(path: Path) -> Iterator[Path]:
    """Yield a hidden path to write to; at the end of the block it is published, on an error removed.

    Missing folders are made. Raise OutputError if the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _published(path, hidden_name(path)) as partial:
            yield partial
    except OSError as error:
        raise unwritable_error(path, error) from error


def no_seal(_partial: Path) -> None:
    """Do nothing: the seal of files that need none."""


def copy_atomically(
    path: Path, content: BinaryIO, seal: Seal = no_seal, *, on_chunk: Callable[[], None] = lambda: None
) -> None:
    """Write content to a file atomically, sealed before it is published; missing folders are made.

    ``on_chunk`` is called every megabyte and may raise to cancel. Raise OutputError if that fails.
    """
    content.seek(0)
    with atomic_output(path) as partial:
        with partial.open("wb") as file:
            while chunk := content.read(_CHUNK):
                file.write(chunk)
                on_chunk()
        seal(partial)


def publish(partial: Path, path: Path) -> None:
    """Sync a complete file and rename it to its final name, which thus never holds a partial file."""
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(path)
    # Some mounted cloud drives cannot sync a folder; the file itself is synced already.
    with contextlib.suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def hidden_name(path: Path) -> Path:
    """Return the path a file is written to until it is complete: in the same folder, with the same suffix."""
    return path.with_name(shorten_name(".", path.stem, f".part{path.suffix}"))


def manifest_beside(path: Path) -> Path:
    """Return the path of the separate manifest of a file that cannot embed one."""
    return path.with_name(shorten_name("", path.name, ".c2pa"))


def shorten_name(before: str, stem: str, after: str) -> str:
    """Join the parts of a file name; a stem that makes it too long is cut, and its hash added."""
    name = f"{before}{stem}{after}"
    if len(name.encode(errors="surrogateescape")) <= _MAX_NAME:
        return name
    raw = stem.encode(errors="surrogateescape")
    digest = f"~{hashlib.sha256(raw).hexdigest()[:8]}"
    room = _MAX_NAME - len(f"{before}{digest}{after}".encode(errors="surrogateescape"))
    return f"{before}{raw[: max(0, room)].decode(errors='ignore')}{digest}{after}"


_SPACE = mark("free some space or choose another disk")
_RIGHTS = mark("choose a folder you can write to")
_NO_FOLDER = mark("a part of the path is a file, not a folder: choose another folder")
_REMEDIES = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: mark("choose a disk that supports larger files"),
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: _RIGHTS,
    errno.ENOTDIR: _NO_FOLDER,
    errno.EEXIST: _NO_FOLDER,
    errno.EINVAL: mark("the container cannot hold the target's streams: choose another, such as .mkv"),
}
_OTHER_REMEDY = mark("check the folder and the free space")


def unwritable_error(path: Path, error: Exception) -> OutputError:
    """Build the OutputError for an OSError or FFmpeg error met while writing a file."""
    code = getattr(error, "errno", None) or 0
    reason = getattr(error, "strerror", None) or error
    what = tr("the result cannot be written ({reason})", reason=reason)
    return OutputError(what, where=str(path), remedy=tr(_REMEDIES.get(code, _OTHER_REMEDY)))


def expand_pattern(target: str) -> list[Path]:
    """Return the files that match a pattern such as ``clips/*.mp4``, in natural order; a plain path as it is.

    Raise MissingFileError if no file matches.
    """
    path = Path(target)
    if not glob.has_magic(target) or path.exists():
        return [path]
    matches = Path(path.anchor).glob(str(path.relative_to(path.anchor)))
    if not (files := sorted(matches, key=lambda path: natural_key(path.name))):
        what = tr("there is no such file, and no file matches it as a pattern")
        remedy = tr("check the name, the folder and the suffix")
        raise MissingFileError(what, where=target, remedy=remedy)
    return files
