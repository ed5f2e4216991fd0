"""Models made to fit this machine: float16 for a GPU, and GFPGAN's official weights as ONNX.

What was made is kept in ``converted/`` beside the model, under a name that holds the SHA-256 of what it was
made from and the converter's version, with a record beside it. Nothing made is used before it was compared
with the original on the provider it is to run on; what fails is refused, the record says why, and the
original stays in use. Asking what there is reads a few small files; onnx is imported only to make something.
"""

from __future__ import annotations

import gc
import hashlib
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import onnxruntime
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError

from colab_helpers.errors import ColabHelpersError, ModelError, OutputError
from colab_helpers.files import sha256_of
from colab_helpers.language import mark, tr
from colab_helpers.machine import this_machine
from colab_helpers.models.emap import load_model
from colab_helpers.models.gfpgan import export_gfpgan
from colab_helpers.models.identify import missing_model
from colab_helpers.models.parity import NEARLY_SAME, Parity, compare, sample_inputs, value_range
from colab_helpers.models.pool import is_out_of_memory
from colab_helpers.models.records import now, part_path, put_in_place, read_record, record_path, write_json
from colab_helpers.models.session import Network, Provider, Runtime, is_standin
from colab_helpers.settings import FrameProcessor, Settings

CONVERTER = 2
"""Raised whenever the same input would give another file: earlier conversions then no longer count."""
FOLDER = "converted"
WEIGHTS = ".pth"
# Exported weights are compared in the process that makes them, on any machine.
_TORCH = "torch"

HalfPrecision = bool | Literal["auto"]


# --- what is recorded ---------------------------------------------------------------------------------


class Verdict(BaseModel):
    """Whether what was made of a model is used at one place.

    Attributes:
        reason: Why it is not; empty where it is.
        parity: What was measured; None where it did not come to that.
        checked_at: In UTC.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    reason: str = ""
    parity: Parity | None = None
    checked_at: str

    @classmethod
    def of(cls, parity: Parity | None = None, reason: str = "") -> Verdict:
        """Judge a comparison."""
        return cls(reason=parity.problem if parity else reason, parity=parity, checked_at=now())

    @property
    def words(self) -> str:
        """Why it is not used; figures say it in the language of today."""
        return (self.parity.problem if self.parity else "") or self.reason


class Conversion(BaseModel):
    """The record beside a converted model, in ``<file>.json``; the file is absent if nobody accepted it.

    Attributes:
        sha256: Of the result; empty if there is none, also where the model computes in float16 already.
        verdicts: By place: provider, device and ONNX Runtime's version.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    version: Literal[2] = 2
    source_sha256: str
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


def place_of(runtime: Runtime) -> str:
    """Where a comparison holds: provider, device and ONNX Runtime's version."""
    gpu = this_machine().gpu
    device = gpu.name if runtime.provider == "cuda" and gpu is not None else "CPU"
    return f"{runtime.provider}, {device}, onnxruntime {onnxruntime.__version__}"


@dataclass(frozen=True)
class _Step:
    """One conversion of one file.

    Attributes:
        sha256: Of ``source``.
        place: Where it is to be compared.
    """

    kind: Literal["export", "half"]
    source: Path
    sha256: str
    cache: Path
    place: str

    @property
    def target(self) -> Path:
        """Where the result lies."""
        key = hashlib.sha256(f"{self.sha256} {self.kind} {CONVERTER}".encode()).hexdigest()[:16]
        return self.cache / f"{self.source.stem}-{self.kind}-{key}.onnx"

    def record(self) -> Conversion | None:
        """What is recorded; None if nothing is, or nothing that fits."""
        try:
            record = Conversion.model_validate_json(record_path(self.target).read_bytes())
        except (OSError, ValidationError):
            return None
        return record if record.source_sha256 == self.sha256 else None

    def verdict(self) -> Verdict | None:
        """What was decided here; None if nothing was, or if what was accepted is not there any more."""
        record = self.record()
        verdict = record.verdicts.get(self.place) if record else None
        if record is None or verdict is None:
            return None
        kept = verdict.reason or not record.sha256 or record.is_untouched(self.target)
        return verdict if kept else None

    def result(self) -> Path:
        """The file that an accepted step gives: the source where that is in float16 already."""
        record = self.record()
        return self.target if record is not None and record.sha256 else self.source

    def decide(self, work: Callable[[Path, bool], Verdict]) -> Verdict:
        """Make the result unless it is there, compare it, keep it if it was accepted, and record that.

        Args:
            work: Given the result's place and whether it is still to be made; may leave it unmade.
        """
        known, part = self.record(), part_path(self.target)
        there = known is not None and known.is_untouched(self.target)
        try:
            verdict = work(self.target if there else part, not there)
            if not verdict.reason and part.is_file():
                put_in_place(part, self.target)
        finally:
            part.unlink(missing_ok=True)
        verdicts = {**(known.verdicts if known and there else {}), self.place: verdict}
        record = Conversion(source_sha256=self.sha256, verdicts=verdicts)
        if self.target.is_file() and not verdict.reason:
            found = self.target.stat()
            kept = {"sha256": sha256_of(self.target), "bytes": found.st_size, "mtime_ns": found.st_mtime_ns}
            record = record.model_copy(update=kept)
        elif known is not None and there:
            record = known.model_copy(update={"verdicts": verdicts})
        write_json(record_path(self.target), record.model_dump())
        self._remove_outdated()
        return verdict

    def _remove_outdated(self) -> None:
        """Remove what the same step made of an earlier file, or an earlier converter of this one."""
        own = re.compile(re.escape(f"{self.source.stem}-{self.kind}-") + r"[0-9a-f]{16}\b.*")
        for other in self.cache.iterdir():
            if own.fullmatch(other.name) and not other.name.startswith(self.target.stem):
                other.unlink(missing_ok=True)


def _step(kind: Literal["export", "half"], source: Path, cache: Path, place: str) -> _Step:
    record = read_record(source)
    known = record is not None and record.still_describes(source)
    sha256 = record.sha256 if record is not None and known else sha256_of(source)
    return _Step(kind, source, sha256, cache, place)


# --- what a run loads ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """The file to load for a model.

    Attributes:
        name: The model's name.
        path: The file.
        original: What it was made from; the same where nothing was made.
        half: It computes in float16.
        notes: Why it is not the fast one, and what was done; one sentence each.
        unmade: Float16 is wanted, and nobody has made or compared it here yet.
    """

    name: str
    path: Path
    original: Path
    half: bool = False
    notes: tuple[str, ...] = ()
    unmade: bool = False

    def open(self, runtime: Runtime) -> Network:
        """Load it.

        Raises:
            ModelError: It is missing or cannot be loaded.
            ProviderError: It was to run on CUDA but does not.
        """
        return runtime.open(self.path, name=self.name)

    @property
    def words(self) -> str:
        """What kind of file it is, for people."""
        return f"{self.path.name} (float16)" if self.half else self.path.name


def changing_models(settings: Settings) -> dict[FrameProcessor, str]:
    """Name of the network that each step of a run needs."""
    names: dict[FrameProcessor, str] = {
        "face_swapper": settings.swapper_model,
        "face_enhancer": settings.enhancer_model,
    }
    return {step: names[step] for step in settings.frame_processors}


def wants_half(setting: HalfPrecision, provider: Provider) -> bool:
    """Whether a run uses float16 where it was accepted: on a GPU unless switched off, else only if asked."""
    return setting is True or (setting == "auto" and provider == "cuda")


def choose(root: Path, name: str, *, half: HalfPrecision, runtime: Runtime, make: bool) -> Choice:
    """Find the file to load for a swapper or enhancer.

    Args:
        root: The models folder; ``{name}.onnx`` there, or ``{name}.pth`` whose export was accepted.
        name: The model's name.
        half: The setting ``half_precision``.
        runtime: Where it is to run: what another place accepted does not count here. Its notes get nothing.
        make: On CUDA, make and compare float16 where it is wanted and missing, which takes half a minute for
            each model, once. On the CPU it does not help.

    Raises:
        ModelError: There are only weights that were not exported yet.
    """
    source, weights = root / f"{name}.onnx", root / f"{name}{WEIGHTS}"
    if not source.is_file() and not weights.is_file():
        return Choice(name, source, source)  # opening it says what to do
    wanted = wants_half(half, runtime.provider)
    command = _command(source if source.is_file() else weights, runtime.provider, half=wanted)
    if not source.is_file():
        source = _exported(weights, command, name)
    found = _with_half(Choice(name, source, source), runtime) if wanted else Choice(name, source, source)
    if runtime.provider == "cpu":
        return replace(found, notes=(*found.notes, *_on_the_cpu(found, command)))
    if not found.unmade or is_standin(source):
        return replace(found, unmade=False)
    if make:
        return _made(found, runtime)
    note = tr(
        "{name}: nothing was made of it for this GPU yet; the first run does it, or '{command}'",
        name=name,
        command=command,
    )
    return replace(found, notes=(*found.notes, note))


def _exported(weights: Path, command: str, name: str) -> Path:
    step = _step("export", weights, weights.parent / FOLDER, _TORCH)
    verdict = step.verdict()
    if verdict is None or verdict.reason:
        raise ModelError(
            tr("there are only weights, which were not made into a network yet"),
            where=str(weights),
            remedy=tr("run '{command}', or fetch {name}.onnx", command=command, name=name),
        )
    return step.target


def _with_half(choice: Choice, runtime: Runtime) -> Choice:
    """What was made of a model and accepted or refused where it is to run."""
    source = choice.original
    cache = source.parent if source.parent.name == FOLDER else source.parent / FOLDER
    step = _step("half", source, cache, place_of(runtime))
    return _followed(choice, step, step.verdict())


def _followed(choice: Choice, step: _Step, verdict: Verdict | None) -> Choice:
    if verdict is None:
        return replace(choice, unmade=True)
    if not verdict.reason:
        return replace(choice, path=step.result(), half=True)
    note = tr(
        "{file}: {what} is not used, because {reason}",
        file=step.source.name,
        what=tr(_HALF),
        reason=verdict.words,
    )
    return replace(choice, notes=(*choice.notes, note))


_HALF = mark("half precision")


def _on_the_cpu(found: Choice, command: str) -> list[str]:
    if found.half:
        return [tr("{name}: computes in float16 as asked; on the CPU that is no faster", name=found.name)]
    if found.unmade:
        return [
            tr(
                "{name}: float16 was asked for but nothing was made yet; run '{command}'",
                name=found.name,
                command=command,
            )
        ]
    return []  # not wanted, or refused: said with its reason


def _made(found: Choice, runtime: Runtime) -> Choice:
    """Make and compare what is missing; where that fails, what there is stays in use."""
    started = time.monotonic()
    try:
        made = convert(found.original, half=True, runtime=runtime)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the copy, the original still runs
        note = tr(
            "{name}: it cannot be made to fit this GPU ({reason}); used is {used}",
            name=found.name,
            reason=error.what if isinstance(error, ColabHelpersError) else f"{type(error).__name__}: {error}",
            used=found.words,
        )
        return replace(found, notes=(*found.notes, note))
    finally:
        gc.collect()  # sessions hold cycles; their memory is wanted now
    note = tr(
        "{name}: compared on this GPU, once, in {seconds:.1f} s; used is {used}",
        name=found.name,
        seconds=time.monotonic() - started,
        used=made.words,
    )
    return replace(made, name=found.name, notes=(note, *made.notes))


def _command(source: Path, provider: Provider, *, half: bool) -> str:
    words = f"--execution-provider {provider} {'--half ' if half else ''}'{source}'"
    return f"python -m colab_helpers convert {words}"


# --- making -------------------------------------------------------------------------------------------


def convert(path: Path, *, half: bool, runtime: Runtime | None = None) -> Choice:
    """Make a swapper or enhancer fit this machine, once; later calls read a few small files.

    Args:
        path: ``.onnx``, or GFPGAN's ``.pth``, which becomes ONNX.
        half: Make it compute in float16.
        runtime: Where it is to run and is compared; by default decided by trial.

    Returns:
        What to load. What was refused is in ``notes``, and the model before that step is used.

    Raises:
        ModelError: The model is missing, damaged, or no swapper or enhancer; or a ``.pth`` file cannot be
            exported.
        OutputError: The folder for what is made cannot be written.
    """
    if not path.is_file():
        raise missing_model(path)
    cache = path.parent if path.parent.name == FOLDER else path.parent / FOLDER
    try:
        locks = cache / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / f"{path.name}.lock"):
            return _converted(path, cache, half, runtime or Runtime())
    except ColabHelpersError:
        raise
    except OSError as error:
        raise OutputError(
            tr("a converted model cannot be written ({reason})", reason=error.strerror or error),
            where=str(cache),
            remedy=tr("free space, check the permissions, or name another folder"),
        ) from error
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(
            tr("memory ran out while the model was converted ({reason})", reason=_first_line(error)),
            where=str(path),
            remedy=tr("close other programs and try again, or use the model as it is"),
        ) from error


def _converted(path: Path, cache: Path, half: bool, runtime: Runtime) -> Choice:
    choice, source = Choice(path.stem, path, path), path
    if path.suffix == WEIGHTS:
        export = _step("export", path, cache, _TORCH)
        verdict = export.verdict() or export.decide(lambda file, make: Verdict.of(export_gfpgan(path, file)))
        if verdict.reason:
            raise ModelError(
                tr(
                    "the exported network does not compute what the weights do: {reason}",
                    reason=verdict.words,
                ),
                where=str(path),
                remedy=tr("use the ready-made GFPGANv1.4.onnx"),
            )
        source = export.target
        choice = replace(choice, path=source)
    if not half:
        load_model(source)  # says so if it is none
        note = tr(
            "{name}: used as it is; a float16 copy is made where half precision is asked for", name=path.name
        )
        return choice if path.suffix == WEIGHTS else replace(choice, notes=(note,))
    step = _step("half", source, cache, place_of(runtime))
    verdict = step.verdict() or step.decide(lambda file, make: _half(source, file, make, runtime))
    return _followed(choice, step, verdict)


def _half(source: Path, file: Path, make: bool, runtime: Runtime) -> Verdict:
    """Write a float16 copy and hold it against its original."""
    if make:
        model = load_model(source)
        if computes_in_half(model):
            return Verdict.of()
        try:
            file.write_bytes(to_half(model).SerializeToString())
        except (OSError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - a graph that the converter does not understand
            return Verdict.of(reason=_first_line(error))
        del model  # half a gigabyte
    reference = runtime.open(source)
    inputs, width = sample_inputs(reference), value_range(reference)
    try:
        expected = reference.run_stack(*inputs)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(
            tr("the model loads but does not run ({reason})", reason=_first_line(error)),
            where=str(source),
            remedy=tr("the file may be damaged: fetch it again"),
        ) from error
    del reference  # as much again for the other
    try:
        found = runtime.open(file).run_stack(*inputs)
    except Exception as error:  # any failure to load or run means that it cannot be used
        if is_out_of_memory(error):
            raise
        return Verdict.of(reason=tr("it does not run: {reason}", reason=_first_line(error)))
    return Verdict.of(compare(expected, found, NEARLY_SAME, value_range=width))


def computes_in_half(model: Any) -> bool:
    """Whether a model has float16 weights (a matrix that no node uses does not count)."""
    from onnx import TensorProto

    used = {name for node in model.graph.node for name in node.input}
    return any(
        item.data_type == TensorProto.FLOAT16 and item.name in used for item in model.graph.initializer
    )


def to_half(model: Any) -> Any:
    """ONNX Runtime's own conversion to float16; inputs, outputs and unused initializers stay as they are."""
    before = list(sys.path)
    try:
        from onnxruntime.transformers.float16 import convert_float_to_float16
    finally:
        sys.path[:] = before  # the import adds a folder with modules called "benchmark" and the like
    for index, node in enumerate(model.graph.node):
        node.name = f"{index}_{node.op_type}"  # it names its casts after the nodes, whose names may be equal
    return convert_float_to_float16(model, keep_io_types=True)


def _first_line(error: Exception) -> str:
    text = error.what if isinstance(error, ColabHelpersError) else str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
