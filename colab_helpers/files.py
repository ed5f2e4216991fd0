"""Files: where they are, which are the same, their order, their bytes, and writing small ones whole."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import yaml
from pydantic import BaseModel

from colab_helpers.errors import MissingFileError, UsageError

Model = TypeVar("Model", bound=BaseModel)

_CHUNK = 4 << 20
_SURROGATE = re.compile("[\ud800-\udfff]")


def absolute(path: str | Path) -> Path:
    """Make a path that a user wrote absolute, with ``~`` expanded; links in it are left as they are.

    Called once, where the path comes in: everything behind the door takes absolute paths.
    """
    # Not Path.expanduser: it raises for a user who does not exist, whose path is then a name like any other.
    return Path(os.path.expanduser(path)).absolute()  # noqa: PTH111


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file or folder, links followed; False where either is not there."""
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        return False


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sort key by which ``clip2`` comes before ``clip10``, whatever the case."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name.lower())
    return [(int(part), "") if "0" <= part[0] <= "9" else (-1, part) for part in parts]


def numbered(path: Path, number: int) -> Path:
    """The same path with a number in its name: ``clip.mp4`` is ``clip (2).mp4``."""
    return path.with_name(f"{path.stem} ({number}){path.suffix}")


def to_json(model: BaseModel, **options: Any) -> str:
    r"""Return a model as JSON on one line, or indented; file names that are no UTF-8 survive as ``\udce9``.

    Args:
        model: What is written down.
        **options: ``indent`` as for ``json.dumps``; the others as for ``model_dump``.
    """
    indent = options.pop("indent", None)
    data = model.model_dump(mode="json", by_alias=True, **options)
    text = json.dumps(data, ensure_ascii=False, indent=indent, separators=None if indent else (",", ":"))
    # pydantic refuses lone surrogates, and no encoding takes them; JSON can spell them.
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def from_json(kind: type[Model], data: str | bytes) -> Model:
    """Read what ``to_json`` wrote.

    Raises:
        ValueError: It is no JSON, or does not fit the model.
    """
    return kind.model_validate(json.loads(data))


def from_yaml(text: str) -> Any:
    """Read YAML, with libyaml where it is, which is ten times as fast.

    Raises:
        yaml.YAMLError: It is none.
    """
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


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


def ends_a_line(file: BinaryIO) -> bool:
    """Whether a file that is open for reading is empty or ends with a line break."""
    if file.seek(0, os.SEEK_END) == 0:
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def sha256_of(path: Path, *, on_chunk: Callable[[], None] | None = None) -> str:
    """SHA-256 of a file's bytes, 64 lower-case hex digits.

    Args:
        path: The file.
        on_chunk: Called every few megabytes; may raise to give up.

    Raises:
        OSError: It cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            if on_chunk is not None:
                on_chunk()
    return digest.hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write a small file, all of it or nothing, safe on disk; its folder must be there.

    Raises:
        OSError: It cannot be written; a file that was there stays as it was.
    """
    # The process in the name keeps two writers apart; not mkstemp, whose files nobody else may read.
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
