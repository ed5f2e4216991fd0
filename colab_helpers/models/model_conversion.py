"""Convert models for this machine: float16 copies for a GPU, GFPGAN's official weights exported to ONNX.

Converted models are stored in ``converted/`` beside the original; the file name contains a hash of the
original's SHA-256 and the converter's version. A converted model is used only after its outputs were compared
with the original's on the execution provider it will run on; the record beside it holds the verdicts. If a
copy is rejected, the original is used. onnx is imported only for conversions.
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
"""Incremented whenever the same input would give another file, which invalidates earlier conversions."""
CONVERTED_FOLDER = "converted"

HalfPrecision = bool | Literal["auto"]


class Conversion(BaseModel, extra="ignore", frozen=True):
    """The record of a float16 copy, in ``<file>.json``; the copy itself exists only if it was accepted."""

    version: Literal[4] = 4
    bytes: int = 0  # size of the copy; 0 without one
    verdicts: dict[str, Verdict] = {}  # by ``comparison_key``

    @classmethod
    def of(cls, path: Path) -> Conversion:
        """Read the record of a copy; return an empty one if it is missing or the copy has another size."""
        record = load_or_none(cls, record_path(path))
        return record if record is not None and record.bytes in (0, file_size(path)) else cls()

    def write(self, path: Path) -> list[str]:
        """Write the record of a copy; return a note if it cannot be written."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(record_path(path), self.model_dump())
        except OSError as error:  # the folder may be read-only
            text = mark("{path} cannot be written ({reason}): the comparison will be repeated next time")
            return [tr(text, path=record_path(path), reason=error.strerror)]
        return []


def comparison_key(runtime: Runtime) -> str:
    """Return what a verdict is valid for: the provider, the device and ONNX Runtime's version."""
    gpu = this_machine().gpu
    device = gpu.name if runtime.provider == "cuda" and gpu is not None else "CPU"
    return f"{runtime.provider}, {device}, onnxruntime {onnxruntime.__version__}"


def converted_folder(source: Path) -> Path:
    """Return the folder of files converted from ``source``."""
    return source.parent if source.parent.name == CONVERTED_FOLDER else source.parent / CONVERTED_FOLDER


def converted_path(source: Path, kind: Literal["export", "half", "pixels"]) -> Path:
    """Return the path of a file converted from ``source``."""
    sha256 = recorded_hash(source) or sha256_of(source)
    key = hashlib.sha256(f"{sha256} {kind} {CONVERTER_VERSION}".encode()).hexdigest()[:16]
    return converted_folder(source) / f"{source.stem}-{kind}-{key}.onnx"


def remove_outdated(target: Path) -> None:
    """Remove conversions of an earlier file of the same name, or by an earlier converter version."""
    pattern = re.compile(re.escape(target.stem[:-16]) + r"[0-9a-f]{16}\b.*")
    for other in target.parent.iterdir():
        if pattern.fullmatch(other.name) and not other.name.startswith(target.stem):
            other.unlink(missing_ok=True)


@dataclass(frozen=True)
class ModelChoice:
    """The file to load for a model."""

    name: str
    path: Path
    original: Path  # the file it was converted from, or ``path``
    half: bool = False  # it computes in float16
    notes: tuple[str, ...] = ()  # what was converted, or why float16 is not used

    def open(self, runtime: Runtime) -> Network:
        """Load it; see ``Runtime.open``."""
        return runtime.open(self.path, name=self.name)

    def with_note(self, note: str) -> ModelChoice:
        """Return a copy with another note."""
        return replace(self, notes=(*self.notes, note))


def face_processor_models(settings: Settings) -> dict[FrameProcessor, str]:
    """Return the model names of the swapping and enhancing steps of a run."""
    names: dict[FrameProcessor, str] = {
        "face_swapper": settings.swapper_model,
        "face_enhancer": settings.enhancer_model,
    }
    return {step: names[step] for step in settings.frame_processors if step in names}


def wants_half(setting: HalfPrecision, provider: Provider) -> bool:
    """Return whether float16 should be used if accepted; ``auto`` means on a GPU only."""
    return setting is True or (setting == "auto" and provider == "cuda")


def choose(root: Path, name: str, *, half: HalfPrecision, runtime: Runtime, make: bool) -> ModelChoice:
    """Choose the file to load for a swapper or enhancer.

    This is ``{name}.onnx`` in the models folder ``root``, the ONNX export of ``{name}.pth``, or the float16
    copy of either if it was accepted on this provider and device. With ``make``, a missing float16 copy is
    made and compared on CUDA, which takes half a minute per model, once. (On the CPU float16 is no faster.)

    Raises:
        ModelError: There is only a ``.pth`` file that was not exported yet.
    """
    source, weights = root / f"{name}.onnx", root / f"{name}{WEIGHTS}"
    use_half, on_gpu = wants_half(half, runtime.provider), runtime.provider == "cuda"
    file = source if source.is_file() or not weights.is_file() else weights
    options = f"--execution-provider {runtime.provider} {'--half ' if use_half else ''}"
    command = f"python -m colab_helpers convert {options}'{file}'"
    if file == weights:
        source = converted_path(weights, "export")
        if not source.is_file():
            raise ModelError(
                tr("these weights have not been converted to an ONNX model yet"),
                where=str(weights),
                remedy=tr("run '{command}', or fetch {name}.onnx", command=command, name=name),
            )
    choice = ModelChoice(name, source, source)
    if not use_half or not source.is_file():  # a missing file is reported when it is loaded
        return choice
    target = converted_path(source, "half")
    verdict = Conversion.of(target).verdicts.get(comparison_key(runtime))
    if verdict is not None:
        return _apply_verdict(choice, target, verdict)
    if on_gpu and is_standin(source):
        return choice
    if not (on_gpu and make):
        text = mark("{name}: no float16 copy was compared here yet; run '{command}' (on a GPU any run does)")
        return choice.with_note(tr(text, name=name, command=command))
    try:
        converted = replace(convert(source, half=True, runtime=runtime), name=name)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the copy, the original still runs
        text = mark("{name}: it cannot be converted for this GPU ({reason})")
        return choice.with_note(tr(text, name=name, reason=getattr(error, "what", "") or first_line(error)))
    finally:
        gc.collect()  # sessions are in reference cycles; frees their memory now
    text = mark("{name}: compared with its float16 copy on this GPU (once); using {used}")
    return converted.with_note(tr(text, name=name, used=converted.path.name))


def _apply_verdict(choice: ModelChoice, target: Path, verdict: Verdict) -> ModelChoice:
    """Choose the float16 copy if it was accepted, else add a note why not."""
    if not verdict.reason:
        return replace(choice, path=target if target.is_file() else choice.path, half=True)
    text = mark("{file}: half precision is not used, because {reason}")
    return choice.with_note(tr(text, file=choice.original.name, reason=verdict.problem))


# --- conversion ---------------------------------------------------------------------------------------


def convert(path: Path, *, half: bool, runtime: Runtime | None = None) -> ModelChoice:
    """Convert a swapper or enhancer for this machine, once; later calls use the result.

    GFPGAN's ``.pth`` file is exported to ONNX. With ``half``, a float16 copy is made and compared with the
    original on ``runtime`` (default: ``Runtime("auto")``); if it is rejected, the result's ``notes`` say why.

    Raises:
        ModelError: The model is missing or damaged, or has inputs that are neither pictures nor vectors; or a
            ``.pth`` file cannot be exported.
        OutputError: The folder of converted models cannot be written.
    """
    from filelock import FileLock  # slow to import, and needed only here

    if not path.is_file():
        raise missing_model_error(path)
    folder = converted_folder(path)
    text = mark("a converted model cannot be written ({reason})")
    remedy = mark("free space, check the permissions, or name another folder")
    with wrap_os_error(OutputError, text, folder, remedy):
        (folder / ".locks").mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".locks" / f"{path.name}.lock"):
            source = _export_weights(path) if path.suffix == WEIGHTS else path
            choice = ModelChoice(path.stem, source, source)
            if half:
                return _convert_to_half(choice, runtime or Runtime())
            load_model(source)  # raises ModelError if it is not a model
            return choice


def _export_weights(weights: Path) -> Path:
    """Export weights unless done already."""
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
    """Make a float16 copy unless it exists, compare it, keep it if accepted, and record the verdict."""
    source, target = choice.original, converted_path(choice.original, "half")
    record, part, key = Conversion.of(target), part_path(target), comparison_key(runtime)
    if key in record.verdicts:
        return _apply_verdict(choice, target, record.verdicts[key])
    size = record.bytes
    try:
        verdict = None if size else write_half(source, part)
        if verdict is None:
            verdict = _compare_half(source, target if size else part, runtime)
        if part.is_file() and not verdict.reason:
            publish(part, target)
            size = file_size(target)
    finally:
        part.unlink(missing_ok=True)
    notes = Conversion(bytes=size, verdicts={**record.verdicts, key: verdict}).write(target)
    remove_outdated(target)
    choice = _apply_verdict(choice, target, verdict)
    return replace(choice, notes=(*choice.notes, *notes))


def _compare_half(source: Path, copy: Path, runtime: Runtime) -> Verdict:
    """Compare the outputs of a float16 copy with its original's."""
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
    del reference  # frees its memory for the copy
    try:
        actual = runtime.open(copy).run_stack(*inputs, output=picture)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return Verdict(reason="fails", error=first_line(error))
    return compare(expected, actual, HALF_TOLERANCE, width)


def write_half(source: Path, out: Path) -> Verdict | None:
    """Write a copy that computes in float16; inputs, outputs and unused initializers are not changed.

    Return None if it was written and has to be compared, else a verdict: accepted if the source is in float16
    already, or why it cannot be converted. Raise ModelError if the source is not a model, OSError if the copy
    cannot be written.
    """
    model, path = load_model(source), list(sys.path)
    if computes_in_half(model):
        return Verdict()
    try:
        from onnxruntime.transformers.float16 import convert_float_to_float16

        for index, node in enumerate(model.graph.node):
            node.name = f"{index}_{node.op_type}"  # made unique: inserted casts are named after it
        out.write_bytes(convert_float_to_float16(model, keep_io_types=True).SerializeToString())
    except (OSError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - a graph that the converter does not support
        return Verdict(reason="fails", error=first_line(error))
    finally:
        sys.path[:] = path  # the import adds a folder with modules called "benchmark" and the like
    return None


def computes_in_half(model: Any) -> bool:
    """Return whether a model has float16 weights (initializers that no node uses do not count)."""
    from onnx import TensorProto

    used = {name for node in model.graph.node for name in node.input}
    return any(
        item.data_type == TensorProto.FLOAT16 and item.name in used for item in model.graph.initializer
    )
