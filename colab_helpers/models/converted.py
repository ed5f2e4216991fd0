"""What was made of a model: where it lies, and what was decided about it at each place it may run."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Literal

import onnxruntime
from pydantic import BaseModel, ConfigDict

from colab_helpers.files import found, sha256_of
from colab_helpers.language import mark, tr
from colab_helpers.machine import this_machine
from colab_helpers.models.parity import Verdict
from colab_helpers.models.records import record_path, recorded_hash, size_of, write_json
from colab_helpers.models.session import Runtime

CONVERTER = 2
"""Raised whenever the same input would give another file: earlier conversions then no longer count."""
FOLDER = "converted"


class Conversion(BaseModel):
    """The record beside a float16 copy, in ``<file>.json``; no copy is there if nobody accepted it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    version: Literal[4] = 4
    bytes: int = 0  # of the copy; 0 if there is none
    verdicts: dict[str, Verdict] = {}  # by provider, device and ONNX Runtime's version

    @classmethod
    def of(cls, path: Path) -> Conversion:
        """Return what is recorded of a copy that is there as it was made; else an empty record."""
        record = found(cls, record_path(path))
        return record if record is not None and record.bytes in (0, size_of(path)) else cls()

    def write(self, path: Path) -> list[str]:
        """Write the record of a copy, or say why it cannot be: it then holds for this run."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(record_path(path), self.model_dump())
        except OSError as error:  # the folder may be read-only
            text = mark("{path} cannot be written ({reason}): compared anew next time")
            return [tr(text, path=record_path(path), reason=error.strerror)]
        return []


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


def remove_outdated(target: Path) -> None:
    """Remove what was made of an earlier file of the same name, or by an earlier converter."""
    own = re.compile(re.escape(target.stem[:-16]) + r"[0-9a-f]{16}\b.*")
    for other in target.parent.iterdir():
        if own.fullmatch(other.name) and not other.name.startswith(target.stem):
            other.unlink(missing_ok=True)
