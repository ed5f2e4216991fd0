"""Models made to fit this machine: float16 for a GPU, and GFPGAN's official weights as ONNX.

What was made is kept in ``converted/`` beside the model, under a name that holds the SHA-256 of what it was
made from and the converter's version. Nothing made is used before it was compared with the original on the
provider it is to run on: the record beside it says what was accepted where, and why not; what is refused
leaves the original in use. onnx is imported only to make something.
"""

from __future__ import annotations

import gc
import hashlib
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import onnxruntime
from pydantic import BaseModel

from colab_helpers.errors import ModelError, OutputError, wrap_os_error
from colab_helpers.files import load_or_none, publish, sha256_of
from colab_helpers.language import mark, tr
from colab_helpers.machine import this_machine
from colab_helpers.models.catalog import broken_model_error, missing_model_error
from colab_helpers.models.contracts import match_contract
from colab_helpers.models.emap import load_model
from colab_helpers.models.gfpgan_export import export_gfpgan
from colab_helpers.models.inventory import file_size, part_path, record_path, recorded_hash, write_json
from colab_helpers.models.parity import HALF_TOLERANCE, Verdict, compare, sample_inputs, value_range
from colab_helpers.models.session import Network, Provider, Runtime, is_standin
from colab_helpers.models.session_pool import first_line, is_out_of_memory
from colab_helpers.settings import FrameProcessor, Settings

WEIGHTS = ".pth"
_SAMPLES = 3

CONVERTER_VERSION = 2
"""Raised whenever the same input would give another file: earlier conversions then no longer count."""
CONVERTED_FOLDER = "converted"

HalfPrecision = bool | Literal["auto"]


class Conversion(BaseModel, extra="ignore", frozen=True):
    """The record beside a float16 copy, in ``<file>.json``; no copy is there if nobody accepted it."""

    version: Literal[4] = 4
    bytes: int = 0  # of the copy; 0 if there is none
    verdicts: dict[str, Verdict] = {}  # by provider, device and ONNX Runtime's version

    @classmethod
    def of(cls, path: Path) -> Conversion:
        """Return what is recorded of a copy that is there as it was made; else an empty record."""
        record = load_or_none(cls, record_path(path))
        return record if record is not None and record.bytes in (0, file_size(path)) else cls()

    def write(self, path: Path) -> list[str]:
        """Write the record of a copy, or say why it cannot be: it then holds for this run."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(record_path(path), self.model_dump())
        except OSError as error:  # the folder may be read-only
            text = mark("{path} cannot be written ({reason}): compared anew next time")
            return [tr(text, path=record_path(path), reason=error.strerror)]
        return []


def comparison_key(runtime: Runtime) -> str:
    """Where a comparison holds: provider, device and ONNX Runtime's version."""
    gpu = this_machine().gpu
    device = gpu.name if runtime.provider == "cuda" and gpu is not None else "CPU"
    return f"{runtime.provider}, {device}, onnxruntime {onnxruntime.__version__}"


def converted_folder(source: Path) -> Path:
    """Where what is made of a file is kept."""
    return source.parent if source.parent.name == CONVERTED_FOLDER else source.parent / CONVERTED_FOLDER


def converted_path(source: Path, kind: Literal["export", "half", "pixels"]) -> Path:
    """Where what is made of a file lies."""
    sha256 = recorded_hash(source) or sha256_of(source)
    key = hashlib.sha256(f"{sha256} {kind} {CONVERTER_VERSION}".encode()).hexdigest()[:16]
    return converted_folder(source) / f"{source.stem}-{kind}-{key}.onnx"


def remove_outdated(target: Path) -> None:
    """Remove what was made of an earlier file of the same name, or by an earlier converter."""
    own = re.compile(re.escape(target.stem[:-16]) + r"[0-9a-f]{16}\b.*")
    for other in target.parent.iterdir():
        if own.fullmatch(other.name) and not other.name.startswith(target.stem):
            other.unlink(missing_ok=True)


@dataclass(frozen=True)
class ModelChoice:
    """The file to load for a model."""

    name: str
    path: Path
    original: Path  # what it was made from; else the same
    half: bool = False  # it computes in float16
    notes: tuple[str, ...] = ()  # why it is not the fast one, and what was done

    def open(self, runtime: Runtime) -> Network:
        """Load it; see ``Runtime.open``."""
        return runtime.open(self.path, name=self.name)

    def noted(self, note: str) -> ModelChoice:
        """Return the same with something more to say."""
        return replace(self, notes=(*self.notes, note))


def face_processor_models(settings: Settings) -> dict[FrameProcessor, str]:
    """Name of the network that each step of a run that changes faces needs."""
    names: dict[FrameProcessor, str] = {
        "face_swapper": settings.swapper_model,
        "face_enhancer": settings.enhancer_model,
    }
    return {step: names[step] for step in settings.frame_processors if step in names}


def wants_half(setting: HalfPrecision, provider: Provider) -> bool:
    """Whether a run uses float16 where it was accepted: on a GPU unless switched off, else only if asked."""
    return setting is True or (setting == "auto" and provider == "cuda")


def choose(root: Path, name: str, *, half: HalfPrecision, runtime: Runtime, make: bool) -> ModelChoice:
    """Find the file to load for a swapper or enhancer.

    It is ``{name}.onnx`` in the models folder, or ``{name}.pth`` that was exported; ModelError before it was.
    What another runtime's place accepted does not count. With ``make`` float16 is made and compared on CUDA
    where it is wanted and missing, which takes half a minute for each model, once. On the CPU it does not
    help.
    """
    source, weights = root / f"{name}.onnx", root / f"{name}{WEIGHTS}"
    wanted, on_gpu = wants_half(half, runtime.provider), runtime.provider == "cuda"
    asked = source if source.is_file() or not weights.is_file() else weights
    options = f"--execution-provider {runtime.provider} {'--half ' if wanted else ''}"
    command = f"python -m colab_helpers convert {options}'{asked}'"
    if asked == weights:
        source = converted_path(weights, "export")
        if not source.is_file():
            raise ModelError(
                tr("there are only weights, which were not made into a network yet"),
                where=str(weights),
                remedy=tr("run '{command}', or fetch {name}.onnx", command=command, name=name),
            )
    choice = ModelChoice(name, source, source)
    if not wanted or not source.is_file():  # opening it says what to do
        return choice
    target = converted_path(source, "half")
    verdict = Conversion.of(target).verdicts.get(comparison_key(runtime))
    if verdict is not None:
        return _apply_verdict(choice, target, verdict)
    if on_gpu and is_standin(source):
        return choice
    if not (on_gpu and make):
        text = mark("{name}: no float16 copy was compared here yet; '{command}' does it, on a GPU any run")
        return choice.noted(tr(text, name=name, command=command))
    try:
        made = replace(convert(source, half=True, runtime=runtime), name=name)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the copy, the original still runs
        text = mark("{name}: it cannot be made to fit this GPU ({reason})")
        return choice.noted(tr(text, name=name, reason=getattr(error, "what", "") or first_line(error)))
    finally:
        gc.collect()  # sessions hold cycles; their memory is wanted now
    return made.noted(
        tr("{name}: compared on this GPU, once; used is {used}", name=name, used=made.path.name)
    )


def _apply_verdict(choice: ModelChoice, target: Path, verdict: Verdict) -> ModelChoice:
    """What a run loads after a copy was accepted or refused."""
    if not verdict.reason:
        return replace(choice, path=target if target.is_file() else choice.path, half=True)
    text = mark("{file}: half precision is not used, because {reason}")
    return choice.noted(tr(text, file=choice.original.name, reason=verdict.problem))


# --- making -------------------------------------------------------------------------------------------


def convert(path: Path, *, half: bool, runtime: Runtime | None = None) -> ModelChoice:
    """Make a swapper or enhancer fit this machine, once; later calls read a few small files.

    GFPGAN's ``.pth`` becomes ONNX. With ``half`` it is made to compute in float16 and compared where it is to
    run, by default decided by trial; why that was refused is in the ``notes`` of what is returned.

    Raises:
        ModelError: The model is missing, damaged, or no swapper or enhancer; or a ``.pth`` file cannot be
            exported.
        OutputError: The folder for what is made cannot be written.
    """
    from filelock import FileLock  # slow, and needed where something is made

    if not path.is_file():
        raise missing_model_error(path)
    folder = converted_folder(path)
    unwritable_error = mark("a converted model cannot be written ({reason})")
    remedy = mark("free space, check the permissions, or name another folder")
    with wrap_os_error(OutputError, unwritable_error, folder, remedy):
        (folder / ".locks").mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".locks" / f"{path.name}.lock"):
            source = _export_weights(path) if path.suffix == WEIGHTS else path
            choice = ModelChoice(path.stem, source, source)
            if half:
                return _convert_to_half(choice, runtime or Runtime())
            load_model(source)  # says so if it is none
            return choice


def _export_weights(weights: Path) -> Path:
    """Export weights unless that was done."""
    source = converted_path(weights, "export")
    part = part_path(source)
    if not source.is_file():
        try:
            export_gfpgan(weights, part)
            publish(part, source)
        finally:
            part.unlink(missing_ok=True)
        remove_outdated(source)
    return source


def _convert_to_half(choice: ModelChoice, runtime: Runtime) -> ModelChoice:
    """Make a float16 copy unless it is there, compare it, keep it if it was accepted, and record that."""
    source, target = choice.original, converted_path(choice.original, "half")
    record, part, place = Conversion.of(target), part_path(target), comparison_key(runtime)
    if place in record.verdicts:
        return _apply_verdict(choice, target, record.verdicts[place])
    there = record.bytes
    try:
        verdict = None if there else write_half(source, part)
        if verdict is None:
            verdict = _compare_half(source, target if there else part, runtime)
        if part.is_file() and not verdict.reason:
            publish(part, target)
            there = file_size(target)
    finally:
        part.unlink(missing_ok=True)
    notes = Conversion(bytes=there, verdicts={**record.verdicts, place: verdict}).write(target)
    remove_outdated(target)
    choice = _apply_verdict(choice, target, verdict)
    return replace(choice, notes=(*choice.notes, *notes))


def _compare_half(source: Path, copy: Path, runtime: Runtime) -> Verdict:
    """Hold a float16 copy against its original where both are to run."""
    reference, name = runtime.open(source), source.stem
    inputs = list(sample_inputs(reference.session, _SAMPLES, name=name, where=str(source)).values())
    width, fit = value_range(reference.session, name), match_contract(reference.session, name)
    picture = fit.picture if fit else 0
    try:
        expected = reference.run_stack(*inputs, output=picture)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise broken_model_error(source, first_line(error)) from error
    del reference  # as much again for the other
    try:
        load_or_none = runtime.open(copy).run_stack(*inputs, output=picture)
    except Exception as error:  # any failure to load or run means that it cannot be used
        if is_out_of_memory(error):
            raise
        return Verdict(reason="fails", error=first_line(error))
    return compare(expected, load_or_none, HALF_TOLERANCE, width)


def write_half(source: Path, out: Path) -> Verdict | None:
    """Write a network that computes in float16; its inputs, outputs and unused initializers stay as they are.

    None where it was written, and is to be compared; else that the source is in float16 already, or why not.
    ModelError where the source is no network, OSError where none can be written.
    """
    model, path = load_model(source), list(sys.path)
    if computes_in_half(model):
        return Verdict()
    try:
        from onnxruntime.transformers.float16 import convert_float_to_float16

        for index, node in enumerate(model.graph.node):
            node.name = f"{index}_{node.op_type}"  # casts are named after the nodes, whose names may be equal
        out.write_bytes(convert_float_to_float16(model, keep_io_types=True).SerializeToString())
    except (OSError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - a graph that the converter does not understand
        return Verdict(reason="fails", error=first_line(error))
    finally:
        sys.path[:] = path  # the import adds a folder with modules called "benchmark" and the like
    return None


def computes_in_half(model: Any) -> bool:
    """Whether a model has float16 weights (a matrix that no node uses does not count)."""
    from onnx import TensorProto

    used = {name for node in model.graph.node for name in node.input}
    return any(
        item.data_type == TensorProto.FLOAT16 and item.name in used for item in model.graph.initializer
    )
