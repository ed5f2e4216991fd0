"""Models made to fit this machine: float16 for a GPU, and GFPGAN's official weights as ONNX.

What was made is kept in ``converted/`` beside the model, under a name that holds the SHA-256 of what it was
made from and the converter's version. Nothing made is used before it was compared with the original on the
provider it is to run on: the record beside it says what was accepted where, and why not; what is refused
leaves the original in use. onnx is imported only to make something.
"""

from __future__ import annotations

import gc
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from colab_helpers.errors import ColabHelpersError, ModelError, OutputError, telling
from colab_helpers.files import publish
from colab_helpers.language import mark, tr
from colab_helpers.models.contracts import fit_of
from colab_helpers.models.converted import Conversion, folder_of, place_of, remove_outdated, target_of
from colab_helpers.models.emap import load_model
from colab_helpers.models.gfpgan_export import export_gfpgan
from colab_helpers.models.identify import broken_model, missing_model
from colab_helpers.models.parity import NEARLY_SAME, Verdict, compare, sample_inputs, value_range
from colab_helpers.models.pool import first_line, is_out_of_memory
from colab_helpers.models.records import part_path
from colab_helpers.models.session import Network, Provider, Runtime, is_standin
from colab_helpers.settings import FrameProcessor, Settings

WEIGHTS = ".pth"
_SAMPLES = 3

HalfPrecision = bool | Literal["auto"]


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


def choose(root: Path, name: str, *, half: HalfPrecision, runtime: Runtime, make: bool) -> ModelChoice:
    """Find the file to load for a swapper or enhancer.

    It is ``{name}.onnx`` in the models folder, or ``{name}.pth`` that was exported. What another runtime's
    place accepted does not count. With ``make`` float16 is made and compared on CUDA where it is wanted and
    missing, which takes half a minute for each model, once. On the CPU it does not help.

    Raises:
        ModelError: There are only weights that were not exported yet.
    """
    wanted = wants_half(half, runtime.provider)
    source, weights = root / f"{name}.onnx", root / f"{name}{WEIGHTS}"
    asked = source if source.is_file() or not weights.is_file() else weights
    options = f"--execution-provider {runtime.provider} {'--half ' if wanted else ''}"
    command = f"python -m colab_helpers convert {options}'{asked}'"
    if asked == weights:
        source = target_of(weights, "export")
        if not source.is_file():
            raise ModelError(
                tr("there are only weights, which were not made into a network yet"),
                where=str(weights),
                remedy=tr("run '{command}', or fetch {name}.onnx", command=command, name=name),
            )
    choice = ModelChoice(name, source, source)
    if not wanted or not source.is_file():  # opening it says what to do
        return choice
    target = target_of(source, "half")
    verdict = Conversion.of(target).verdicts.get(place_of(runtime))
    if verdict is not None:
        return _followed(choice, target, verdict)
    if runtime.provider == "cuda" and is_standin(source):
        return choice
    if runtime.provider == "cuda" and make:
        return _made(choice, runtime)
    text = mark(
        "{name}: no float16 copy was compared here yet; '{command}' does it, on a GPU also the first run"
    )
    return replace(choice, notes=(tr(text, name=name, command=command),))


def _followed(choice: ModelChoice, target: Path, verdict: Verdict) -> ModelChoice:
    """What a run loads after a copy was accepted or refused."""
    if not verdict.problem:
        return replace(choice, path=target if target.is_file() else choice.path, half=True)
    text = mark("{file}: half precision is not used, because {reason}")
    return replace(choice, notes=(tr(text, file=choice.original.name, reason=verdict.problem),))


def _made(found: ModelChoice, runtime: Runtime) -> ModelChoice:
    """Make and compare what is missing; where that fails, what there is stays in use."""
    started = time.monotonic()
    try:
        made = convert(found.original, half=True, runtime=runtime)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the copy, the original still runs
        reason = getattr(error, "what", "") or f"{type(error).__name__}: {error}"
        text = mark("{name}: it cannot be made to fit this GPU ({reason}); used is {used}")
        return replace(found, notes=(tr(text, name=found.name, reason=reason, used=found.words),))
    finally:
        gc.collect()  # sessions hold cycles; their memory is wanted now
    note = tr(
        "{name}: compared on this GPU, once, in {seconds:.1f} s; used is {used}",
        name=found.name,
        seconds=time.monotonic() - started,
        used=made.words,
    )
    return replace(made, name=found.name, notes=(note, *made.notes))


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
        raise missing_model(path)
    folder, locks = folder_of(path), folder_of(path) / ".locks"
    unwritable = mark("a converted model cannot be written ({reason})")
    try:
        with telling(
            OutputError, unwritable, folder, mark("free space, check the permissions, or name another folder")
        ):
            locks.mkdir(parents=True, exist_ok=True)
            with FileLock(locks / f"{path.name}.lock"):
                return _converted(path, half, runtime or Runtime())
    except Exception as error:
        if isinstance(error, ColabHelpersError) or not is_out_of_memory(error):
            raise
        raise ModelError(
            tr("memory ran out while the model was converted ({reason})", reason=first_line(error)),
            where=str(path),
            remedy=tr("close other programs and try again, or use the model as it is"),
        ) from error


def _converted(path: Path, half: bool, runtime: Runtime) -> ModelChoice:
    source = path
    if path.suffix == WEIGHTS:
        source = target_of(path, "export")
        if not source.is_file():
            try:
                export_gfpgan(path, part_path(source))
                publish(part_path(source), source)
            finally:
                part_path(source).unlink(missing_ok=True)
            remove_outdated(source)
    choice = ModelChoice(path.stem, source, source)
    if half:
        target = target_of(source, "half")
        verdict, notes = _copied(source, target, runtime)
        followed = _followed(choice, target, verdict)
        return replace(followed, notes=(*followed.notes, *notes))
    load_model(source)  # says so if it is none
    text = mark("{name}: used as it is; a float16 copy is made where half precision is asked for")
    return choice if path.suffix == WEIGHTS else replace(choice, notes=(tr(text, name=path.name),))


def _copied(source: Path, target: Path, runtime: Runtime) -> tuple[Verdict, list[str]]:
    """Make a float16 copy unless it is there, compare it, keep it if it was accepted, and record that."""
    record, part, place = Conversion.of(target), part_path(target), place_of(runtime)
    if place in record.verdicts:
        return record.verdicts[place], []
    try:
        verdict = None if record.bytes else write_half(source, part)
        if verdict is None:
            verdict = _compared(source, target if record.bytes else part, runtime)
        if part.is_file() and not verdict.reason:
            publish(part, target)
            record = Conversion.made(target, record.verdicts)
    finally:
        part.unlink(missing_ok=True)
    record = record.model_copy(update={"verdicts": {**record.verdicts, place: verdict}})
    remove_outdated(target)
    return verdict, record.write(target)


def _compared(source: Path, copy: Path, runtime: Runtime) -> Verdict:
    """Hold a float16 copy against its original where both are to run."""
    reference, name = runtime.open(source), source.stem
    inputs = list(sample_inputs(reference.session, _SAMPLES, name=name, where=str(source)).values())
    width, fit = value_range(reference.session, name), fit_of(reference.session, name)
    picture = fit.picture if fit else 0
    try:
        expected = reference.run_stack(*inputs, output=picture)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise broken_model(source, first_line(error)) from error
    del reference  # as much again for the other
    try:
        found = runtime.open(copy).run_stack(*inputs, output=picture)
    except Exception as error:  # any failure to load or run means that it cannot be used
        if is_out_of_memory(error):
            raise
        return Verdict(reason="fails", error=first_line(error))
    return compare(expected, found, NEARLY_SAME, width)


def write_half(source: Path, out: Path) -> Verdict | None:
    """Write a network that computes in float16; its inputs, outputs and unused initializers stay as they are.

    Returns:
        None where it was written, and is to be compared; else that the source is in float16 already, or why
        it cannot be.

    Raises:
        ModelError: The source is no network.
        OSError: It cannot be written.
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
