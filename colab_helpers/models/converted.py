"""What was made of a model: where it lies, and what was decided about it at each place it may run."""

from __future__ import annotations

import hashlib
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Literal

import onnxruntime
from pydantic import BaseModel, ConfigDict, ValidationError

from colab_helpers.files import publish, sha256_of
from colab_helpers.language import mark, tr
from colab_helpers.machine import this_machine
from colab_helpers.models.parity import Parity
from colab_helpers.models.records import part_path, record_path, recorded_hash, write_json
from colab_helpers.models.session import Runtime

CONVERTER = 2
"""Raised whenever the same input would give another file: earlier conversions then no longer count."""
FOLDER = "converted"
ALLOWED = 1, 3
"""Grey levels that OpenCV's way and a network's own may lie apart, in the middle and at most."""


class Trial(BaseModel):
    """A made-up face changed by OpenCV (``usual``) and where the network runs (``own``)."""

    model_config = ConfigDict(frozen=True)

    middle: float  # grey levels between both, the median of what changed
    most: float
    usual_ms: float  # the processor's time for a face
    own_ms: float

    @property
    def problem(self) -> str:
        """Why the second way is not used; empty if it is."""
        if self.middle > ALLOWED[0] or self.most > ALLOWED[1]:
            text = mark("the pixels differ by {middle:g} grey levels in the middle and {most:g} at most")
            return tr(text, middle=self.middle, most=self.most)
        if self.own_ms >= self.usual_ms:
            text = mark("a face takes {own:.1f} ms of the processor there, and {usual:.1f} ms otherwise")
            return tr(text, own=self.own_ms, usual=self.usual_ms)
        return ""


Verdict = Parity | Trial | str
"""A comparison, or in words why there was none; empty where the original is in float16 already."""


class Conversion(BaseModel):
    """The record beside a float16 copy, in ``<file>.json``; no copy is there if nobody accepted it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    version: Literal[3] = 3
    bytes: int = 0  # of the copy; 0 if there is none
    mtime_ns: int = 0
    verdicts: dict[str, Verdict] = {}  # by provider, device and ONNX Runtime's version

    @classmethod
    def of(cls, path: Path) -> Conversion:
        """Return what is recorded of a copy that is as it was made; else an empty record."""
        with suppress(OSError, ValidationError):
            record = cls.model_validate_json(record_path(path).read_bytes())
            found = path.stat() if record.bytes else None
            if found is None or (found.st_size, found.st_mtime_ns) == (record.bytes, record.mtime_ns):
                return record
        return cls()

    @classmethod
    def made(cls, path: Path, verdicts: dict[str, Verdict] | None = None) -> Conversion:
        """Return the record of a copy as it is now."""
        found = path.stat()
        return cls(bytes=found.st_size, mtime_ns=found.st_mtime_ns, verdicts=verdicts or {})


def problem_of(verdict: Verdict) -> str:
    """Why a copy is not used, in the language of today; empty if it is."""
    return verdict if isinstance(verdict, str) else verdict.problem


def place_of(runtime: Runtime) -> str:
    """Where a comparison holds: provider, device and ONNX Runtime's version."""
    gpu = this_machine().gpu
    device = gpu.name if runtime.provider == "cuda" and gpu is not None else "CPU"
    return f"{runtime.provider}, {device}, onnxruntime {onnxruntime.__version__}"


def folder_of(source: Path) -> Path:
    """Where what is made of a file is kept."""
    return source.parent if source.parent.name == FOLDER else source.parent / FOLDER


def target_of(source: Path, kind: Literal["export", "half", "pixels"]) -> Path:
    """Where what is made of a file lies."""
    sha256 = recorded_hash(source) or sha256_of(source)
    key = hashlib.sha256(f"{sha256} {kind} {CONVERTER}".encode()).hexdigest()[:16]
    return folder_of(source) / f"{source.stem}-{kind}-{key}.onnx"


def carry(source: Path, target: Path, name: str) -> None:
    """Copy a model's float16 copy to another models folder, where it is only compared before it is used.

    Raises:
        OSError: It cannot be read or written.
    """
    for path in (source / FOLDER).glob(f"{name}-half-*.onnx"):
        place = target / FOLDER / path.name
        if Conversion.of(path).bytes and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, part_path(place))
            publish(part_path(place), place)
            write_json(record_path(place), Conversion.made(place).model_dump())


def remove_outdated(target: Path) -> None:
    """Remove what was made of an earlier file of the same name, or by an earlier converter."""
    own = re.compile(re.escape(target.stem[:-16]) + r"[0-9a-f]{16}\b.*")
    for other in target.parent.iterdir():
        if own.fullmatch(other.name) and not other.name.startswith(target.stem):
            other.unlink(missing_ok=True)
