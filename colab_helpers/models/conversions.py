"""What is known about models made to fit this machine: their names, records and verdicts.

Reading this needs neither onnx nor a model file's bytes, so that every start can ask what there is;
``models.convert`` makes the files, ``models.prepared`` chooses among them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import onnxruntime
from pydantic import BaseModel, ConfigDict, ValidationError

from colab_helpers.language import mark, tr
from colab_helpers.machine import this_machine
from colab_helpers.models.records import record_path
from colab_helpers.models.session import Runtime

CONVERTER = 1
"""Raised whenever the same input would give another file: earlier conversions then no longer count."""
FOLDER = "converted"
WEIGHTS = ".pth"
EXPORT_PLACE = "torch"
"""Where exported weights are compared: in the process that makes them, on any machine."""

Kind = Literal["export", "batch", "half"]


class Limits(BaseModel):
    """How far outputs may lie apart, in grey levels of 255."""

    model_config = ConfigDict(frozen=True)

    mean: float
    max: float


class Parity(BaseModel):
    """How far two networks' outputs lie apart, in grey levels of 255.

    Attributes:
        mean: Mean absolute difference.
        max: Largest absolute difference.
        spread: Mean absolute difference between the outputs of different samples.
        samples: How many were compared.
        limits: What was allowed.
    """

    model_config = ConfigDict(frozen=True)

    mean: float
    max: float
    spread: float
    samples: int
    limits: Limits

    @property
    def problem(self) -> str:
        """Why this is no proof that both compute the same; empty if it is."""
        # Written so that NaN fails.
        if not (self.mean <= self.limits.mean and self.max <= self.limits.max):
            return tr(
                "the output differs by {mean:.3g} grey levels on average and {max:.3g} at most "
                "({mean_limit:g} and {max_limit:g} are allowed)",
                mean=self.mean,
                max=self.max,
                mean_limit=self.limits.mean,
                max_limit=self.limits.max,
            )
        # Samples that got mixed would lie about as far off as they lie apart.
        if not self.spread > 10 * self.mean:
            return tr(
                "the output differs by {mean:.3g} grey levels on average where those of different "
                "samples lie only {spread:.3g} apart, which proves nothing",
                mean=self.mean,
                spread=self.spread,
            )
        return ""


class Verdict(BaseModel):
    """Whether a converted model is used at one place.

    Attributes:
        outcome: ``needless``: the model already is as it was to be made.
        reason: Why it was refused; empty otherwise.
        parity: What was measured; None where it did not come to that.
        checked_at: In UTC.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    outcome: Literal["accepted", "refused", "needless"]
    reason: str = ""
    parity: Parity | None = None
    checked_at: str


class Conversion(BaseModel):
    """The record beside a converted model, in ``<file>.json``; the file is absent if nobody accepted it.

    Attributes:
        kind: ``export`` (weights to ONNX), ``batch`` (any batch size) or ``half`` (float16).
        source: Name of the file it was made from.
        sha256: Of the result; empty if there is none. Likewise ``bytes`` and ``mtime_ns``.
        verdicts: By place: provider, device and ONNX Runtime's version.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    version: Literal[1] = 1
    kind: Kind
    source: str
    source_sha256: str
    converter: int
    made_at: str
    sha256: str = ""
    bytes: int = 0
    mtime_ns: int = 0
    verdicts: dict[str, Verdict]

    def is_untouched(self, path: Path) -> bool:
        """Whether a file is the recorded result, by size and modification time."""
        if not self.sha256 or not path.is_file():
            return False
        found = path.stat()
        return (found.st_size, found.st_mtime_ns) == (self.bytes, self.mtime_ns)


class Origin(BaseModel):
    """What is known about a model that was to be converted, so that it is read only once."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    bytes: int
    mtime_ns: int
    sha256: str
    has_emap: bool


def origin_path(path: Path, cache: Path) -> Path:
    """Where the ``Origin`` of a model is kept."""
    return cache / f"{path.name}.origin.json"


def read_origin(path: Path, cache: Path) -> Origin | None:
    """What is known about a model; None if nothing is, or it has changed since."""
    found = path.stat()
    try:
        origin = Origin.model_validate_json(origin_path(path, cache).read_bytes())
    except (OSError, ValidationError):
        return None
    return origin if (origin.bytes, origin.mtime_ns) == (found.st_size, found.st_mtime_ns) else None


def place_of(runtime: Runtime) -> str:
    """Where a comparison holds: provider, device and ONNX Runtime's version."""
    gpu = this_machine().gpu
    device = gpu.name if runtime.provider == "cuda" and gpu is not None else "CPU"
    return f"{runtime.provider}, {device}, onnxruntime {onnxruntime.__version__}"


@dataclass
class Chain:
    """The steps from a model to what is made of it; each step starts from what the last one gave.

    Args:
        path: The model.
        cache: Folder of the conversions.
        sha256: Of the model.
        converter: Version of the converter; conversions of another do not count.

    Attributes:
        current: The file to use after the steps taken so far.
        labels: Steps whose outcome is in ``current``.
        notes: What was refused and why.
        records: The record of each step, oldest first.
    """

    path: Path
    cache: Path
    sha256: str
    converter: int
    current: Path = field(init=False)
    labels: list[Kind] = field(default_factory=list, init=False)
    notes: list[str] = field(default_factory=list, init=False)
    records: list[Path] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.current = self.path

    def prefix(self, kind: Kind) -> str:
        """What the names of a step's results begin with, whatever they were made from."""
        return f"{self.path.stem}-{'-'.join([*self.labels, kind])}-"

    def target(self, kind: Kind) -> Path:
        """Where the result of the next step lies."""
        key = hashlib.sha256(f"{self.sha256} {kind} {self.converter}".encode()).hexdigest()[:16]
        return self.cache / f"{self.prefix(kind)}{key}.onnx"

    def read(self, kind: Kind) -> Conversion | None:
        """The record of the next step; None if there is none that fits."""
        try:
            record = Conversion.model_validate_json(record_path(self.target(kind)).read_bytes())
        except (OSError, ValidationError):
            return None
        wanted = (self.sha256, kind, self.converter)
        return record if (record.source_sha256, record.kind, record.converter) == wanted else None

    def follow(self, kind: Kind, record: Conversion, verdict: Verdict) -> None:
        """Take a step as a verdict says: use its result, or note why it is not used."""
        target = self.target(kind)
        self.records.append(record_path(target))
        if verdict.outcome == "accepted":
            self.current, self.sha256 = target, record.sha256
        if verdict.outcome != "refused":
            self.labels.append(kind)
        else:
            # Figures say it in the language of today; a reason that was written down has that of its day.
            reason = (verdict.parity.problem if verdict.parity else "") or verdict.reason
            what = tr(WHAT[kind])
            note = tr(
                "{file}: {what} is not used, because {reason}", file=self.path.name, what=what, reason=reason
            )
            self.notes.append(note)

    @property
    def any_batch(self) -> bool:
        """Whether ``current`` is known to take any batch size."""
        return "batch" in self.labels or "export" in self.labels

    @property
    def half(self) -> bool:
        """Whether ``current`` computes in float16."""
        return "half" in self.labels


WHAT: dict[Kind, str] = {
    "export": mark("the exported network"),
    "batch": mark("a batch axis of any size"),
    "half": mark("half precision"),
}
"""What a step makes, in words; ``tr`` of it is shown."""
