"""Models made to fit this machine: any batch size, half precision, GFPGAN's official weights as ONNX.

What was made is kept in ``converted/`` beside the model, under a name made of the input's SHA-256 and the
converter's version, with a record beside it. Nothing made is used before it was compared with what it was
made from, on the provider it is to run on; what fails is refused, the record says why, and the original stays
in use.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import cv2
import numpy as np
import numpy.typing as npt
import onnx
from filelock import FileLock

from colab_helpers.errors import ColabHelpersError, ModelError, OutputError
from colab_helpers.files import sha256_of
from colab_helpers.language import VARIABLE, language, tr
from colab_helpers.models.conversions import (
    CONVERTER,
    EXPORT_PLACE,
    FOLDER,
    WEIGHTS,
    Chain,
    Conversion,
    Kind,
    Limits,
    Origin,
    Parity,
    Verdict,
    origin_path,
    place_of,
    read_origin,
)
from colab_helpers.models.convert_graph import (
    computes_in_half,
    dynamic_batch,
    fed_inputs,
    takes_any_batch,
    to_half,
)
from colab_helpers.models.emap import emap_path, find_emap, load_model, read_emap, save_emap
from colab_helpers.models.pool import is_out_of_memory
from colab_helpers.models.records import (
    now,
    part_path,
    put_in_place,
    read_record,
    record_path,
    write_json,
)
from colab_helpers.models.session import MISSING_MODEL_REMEDY, Network, Runtime

SAMPLES = 3
GFPGAN_PACKAGE = "gfpgan==1.3.8"

FloatArray = npt.NDArray[np.float32]

# --- comparing ----------------------------------------------------------------------------------------


SAME = Limits(mean=0.1, max=1.0)
"""The same arithmetic in another order (TensorFloat-32 on GPUs included): nothing 8 bits could show."""
NEARLY_SAME = Limits(mean=1.0, max=4.0)
"""Half precision."""


def compare(reference: FloatArray, candidate: FloatArray, limits: Limits, *, value_range: float) -> Parity:
    """Compare outputs for the same samples.

    Args:
        reference: ``(N, …)`` float32, N at least 2.
        candidate: Of the same shape; another shape counts as infinitely far.
        limits: What is allowed.
        value_range: What 255 grey levels are in the outputs: 1 for 0 to 1, 2 for -1 to 1.
    """
    levels = 255 / value_range
    if reference.shape != candidate.shape:
        difference = np.full(1, np.inf)
    else:
        difference = np.abs(reference.astype(np.float64) - candidate)
    spread = np.abs(np.diff(reference.astype(np.float64), axis=0))
    return Parity(
        mean=float(difference.mean()) * levels,
        max=float(difference.max()) * levels,
        spread=float(spread.mean()) * levels,
        samples=len(reference),
        limits=limits,
    )


def sample_inputs(network: Network, count: int = SAMPLES, *, seed: int = 0) -> list[FloatArray]:
    """Random inputs that keep a swapper's or an enhancer's contract.

    Returns:
        For an input of rank 4 ``(count, C, H, W)`` soft random pictures with some noise, from 0 to 1 where
        the network also takes a latent and from -1 to 1 where it does not; for one of rank 2
        ``(count, D)`` random unit vectors. All float32.

    Raises:
        ModelError: An input has another rank, or a picture's size is not fixed.
    """
    rng = np.random.default_rng(seed)
    inputs: list[FloatArray] = []
    for item in network.session.get_inputs():
        shape = item.shape[1:]
        if len(shape) not in (1, 3) or not all(isinstance(size, int) for size in shape):
            raise ModelError(
                tr(
                    "the input {name!r} has the shape {shape}, neither pictures nor vectors",
                    name=item.name,
                    shape=item.shape,
                ),
                where=str(network.path),
                remedy=tr("only swappers and enhancers can be converted"),
            )
        if len(shape) == 1:
            vectors = rng.standard_normal((count, *shape))
            values = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        else:
            low = 1.0 - value_range(network)
            values = low + (1 - low) * np.stack([_picture(rng, *shape) for _ in range(count)])
        inputs.append(values.astype(np.float32))
    return inputs


def value_range(network: Network) -> float:
    """Width of the range of a network's pictures: 1 for swappers, 2 for enhancers."""
    return 1.0 if len(network.input_names) > 1 else 2.0


def _picture(rng: np.random.Generator, channels: int, height: int, width: int) -> npt.NDArray[np.float64]:
    """A random picture ``(C, H, W)`` from 0 to 1: large soft patches and a little noise, like a photo."""
    patches = rng.random((channels, 8, 8))
    soft = np.stack([cv2.resize(patch, (width, height), interpolation=cv2.INTER_CUBIC) for patch in patches])
    return np.asarray(np.clip(soft + 0.05 * rng.standard_normal(soft.shape), 0, 1))


@dataclass(frozen=True)
class Prepared:
    """A model as it is to be used here.

    Attributes:
        path: The file to load.
        emap: The ``(512, 512)`` float32 matrix beside ``path``, for swappers; None otherwise.
        any_batch: Whether it is known to take any batch size; False where that was not asked for.
        half: Whether it computes in float16.
        notes: What was refused and why; empty if everything asked for was made.
        records: The record of each conversion, oldest first.
    """

    path: Path
    emap: Path | None
    any_batch: bool
    half: bool
    notes: tuple[str, ...]
    records: tuple[Path, ...]


# --- the steps ----------------------------------------------------------------------------------------


class _Needless(Exception):  # noqa: N818
    """The model already is as it was to be made."""


class _Refused(Exception):  # noqa: N818
    """The model cannot be made so."""


class _Step(Protocol):
    """One conversion."""

    kind: Kind
    place: str

    def make(self, source: Path, target: Path) -> None: ...
    def check(self, source: Path, target: Path) -> Parity: ...


class _Graph:
    """A rewriting of an ONNX file.

    Args:
        kind: Names it.
        rewrite: Does it; raises ModelError if it cannot.
        limits: What the outputs may differ by.
        runtime: Where both are run.
    """

    def __init__(
        self,
        kind: Literal["batch", "half"],
        rewrite: Callable[[onnx.ModelProto], onnx.ModelProto],
        limits: Limits,
        runtime: Runtime,
    ) -> None:
        self.kind: Kind = kind
        self.place = place_of(runtime)
        self._rewrite = rewrite
        self._limits = limits
        self._runtime = runtime

    def make(self, source: Path, target: Path) -> None:
        model = load_model(source)
        try:
            target.write_bytes(self._rewrite(model).SerializeToString())
        except ModelError as error:
            raise _Refused(error.what) from error

    def check(self, source: Path, target: Path) -> Parity:
        reference = self._runtime.open(source)
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
        del reference  # half a gigabyte, and as much again for the other
        try:
            network = self._runtime.open(target)
            found = self._outputs(network, inputs)
        except Exception as error:  # any failure to load or run means that it cannot be used
            if is_out_of_memory(error):
                raise
            raise _Refused(tr("it does not run: {reason}", reason=_first_line(error))) from error
        return compare(expected, found, self._limits, value_range=width)

    def _outputs(self, network: Network, inputs: Sequence[FloatArray]) -> FloatArray:
        if self.kind == "half" and network.fixed_batch is not None:
            return np.asarray(network.run_stack(*inputs))
        # One call for all: stacks of different sizes would be padded to the same few.
        return np.asarray(network.run(*inputs)[0])


class _Export:
    """GFPGAN's weights to ONNX, compared with torch in the process that makes it."""

    kind: Kind = "export"
    place = EXPORT_PLACE

    def __init__(self) -> None:
        self._parity: Parity | None = None

    def make(self, source: Path, target: Path) -> None:
        self._parity = _export(source, target)

    def check(self, source: Path, target: Path) -> Parity:
        return self._parity or _export(source, target)


def _swapper_emap(model: onnx.ModelProto) -> FloatArray | None:
    """The projection matrix; an enhancer, which takes no latent, may have others of its size."""
    return find_emap(model) if len(fed_inputs(model.graph)) > 1 else None


def _freed_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    if takes_any_batch(model):
        raise _Needless
    return dynamic_batch(model)


def _halved(model: onnx.ModelProto) -> onnx.ModelProto:
    if computes_in_half(model):
        raise _Needless
    return to_half(model)


def _first_line(error: Exception) -> str:
    text = error.what if isinstance(error, ColabHelpersError) else str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


# --- the entry ----------------------------------------------------------------------------------------


def prepared(
    path: Path,
    *,
    batch: bool,
    half: bool,
    runtime: Runtime | None = None,
    cache: Path | None = None,
) -> Prepared:
    """Make a swapper or enhancer fit this machine, once; later calls read a few small files.

    Args:
        path: ``.onnx``, or GFPGAN's ``.pth``, which becomes ONNX with any batch (``gfpgan_to_onnx``).
        batch: Make it take any batch size.
        half: Make it compute in float16.
        runtime: Where it is to run and is compared; by default decided by trial.
        cache: Where conversions are kept; by default ``converted/`` beside the model.

    Returns:
        What to load. What was refused is in ``notes``, and the model before that step is used.

    Raises:
        ModelError: The model is missing, damaged, or no swapper or enhancer; or a ``.pth`` file cannot be
            exported.
        OutputError: The cache cannot be written.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(tr("the model file is missing"), where=str(path), remedy=tr(MISSING_MODEL_REMEDY))
    workshop = _Workshop(path, cache or path.parent / FOLDER)
    try:
        return workshop.prepare(batch=batch, half=half, runtime=runtime or Runtime())
    except ColabHelpersError:
        raise
    except OSError as error:
        raise OutputError(
            tr("a converted model cannot be written ({reason})", reason=error.strerror or error),
            where=str(workshop.cache),
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


class _Workshop:
    """Converts one model."""

    def __init__(self, path: Path, cache: Path) -> None:
        self.path = path
        self.cache = cache
        self._notes: list[str] = []

    def prepare(self, *, batch: bool, half: bool, runtime: Runtime) -> Prepared:
        locks = self.cache / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / f"{self.path.name}.lock"):
            origin = self._origin()
            chain = Chain(self.path, self.cache, origin.sha256, CONVERTER)
            if self.path.suffix == WEIGHTS:
                self._export(chain)
            elif batch:
                self._apply(chain, _Graph("batch", _freed_batch, SAME, runtime))
            if half:
                self._apply(chain, _Graph("half", _halved, NEARLY_SAME, runtime))
            emap = self._keep_emap(chain.current) if origin.has_emap else None
        return Prepared(
            path=chain.current,
            emap=emap,
            any_batch=chain.any_batch,
            half=chain.half,
            notes=(*self._notes, *chain.notes),
            records=tuple(chain.records),
        )

    def _origin(self) -> Origin:
        """Hash the model and look for its matrix, unless that was done since it last changed."""
        origin = read_origin(self.path, self.cache)
        if origin is not None:
            return origin
        found = self.path.stat()
        record = read_record(self.path)
        known = record is not None and record.still_describes(self.path)
        emap = None if self.path.suffix == WEIGHTS else _swapper_emap(load_model(self.path))
        origin = Origin(
            bytes=found.st_size,
            mtime_ns=found.st_mtime_ns,
            sha256=record.sha256 if record is not None and known else sha256_of(self.path),
            has_emap=emap is not None,
        )
        if emap is not None:
            self._save_beside_original(emap)
        write_json(origin_path(self.path, self.cache), origin.model_dump())
        return origin

    def _save_beside_original(self, emap: FloatArray) -> None:
        try:
            save_emap(self.path, emap)
        except OSError as error:  # a models folder may be read-only by intent
            self._notes.append(
                tr(
                    "{name}: its projection matrix cannot be saved beside it ({reason}), "
                    "so the whole file is read at each start",
                    name=self.path.name,
                    reason=error.strerror,
                )
            )

    def _keep_emap(self, current: Path) -> Path | None:
        """See to it that the matrix lies beside the model that is used."""
        if not emap_path(current).is_file():
            emap = read_emap(self.path)
            if current == self.path:
                self._save_beside_original(emap)
            else:
                save_emap(current, emap)
        return emap_path(current) if emap_path(current).is_file() else None

    def _export(self, chain: Chain) -> None:
        verdict = self._apply(chain, _Export())
        if verdict.outcome != "accepted":
            raise ModelError(
                tr(
                    "the exported network does not compute what the weights do: {reason}",
                    reason=verdict.reason,
                ),
                where=str(self.path),
                remedy=tr("use the ready-made GFPGANv1.4.onnx"),
            )

    def _apply(self, chain: Chain, step: _Step) -> Verdict:
        """Take one step, or what the record says about it; if it is accepted, its result is used on."""
        record = chain.read(step.kind)
        verdict = record.verdicts.get(step.place) if record is not None else None
        if record is None or verdict is None or not _keeps_its_word(record, verdict, chain.target(step.kind)):
            record, verdict = self._take(chain, step, record)
        chain.follow(step.kind, record, verdict)
        return verdict

    def _take(self, chain: Chain, step: _Step, known: Conversion | None) -> tuple[Conversion, Verdict]:
        """Make the result unless it is there and right, compare it, keep it if accepted, and record it."""
        target = chain.target(step.kind)
        there = known is not None and _is_intact(known, target)
        part = part_path(target)
        try:
            verdict = _judge(step, chain.current, target if there else part, make=not there)
            if verdict.outcome == "accepted" and not there:
                put_in_place(part, target)
        finally:
            part.unlink(missing_ok=True)
        record = _recorded(chain, step, known if there else None, verdict)
        write_json(record_path(target), record.model_dump())
        self._remove_outdated(chain.prefix(step.kind), target)
        return record, verdict

    def _remove_outdated(self, prefix: str, target: Path) -> None:
        """Remove what the same step made of an earlier file, or an earlier converter of this one."""
        own = re.compile(re.escape(prefix) + r"[0-9a-f]{16}\b.*")
        for other in self.cache.iterdir():
            if own.fullmatch(other.name) and not other.name.startswith(target.stem):
                other.unlink(missing_ok=True)


def _judge(step: _Step, source: Path, file: Path, *, make: bool) -> Verdict:
    try:
        if make:
            step.make(source, file)
        parity = step.check(source, file)
    except _Needless:
        return Verdict(outcome="needless", checked_at=now())
    except _Refused as refusal:
        return Verdict(outcome="refused", reason=str(refusal), checked_at=now())
    outcome: Literal["refused", "accepted"] = "refused" if parity.problem else "accepted"
    return Verdict(outcome=outcome, reason=parity.problem, parity=parity, checked_at=now())


def _recorded(chain: Chain, step: _Step, known: Conversion | None, verdict: Verdict) -> Conversion:
    if known is not None:
        return known.model_copy(update={"verdicts": {**known.verdicts, step.place: verdict}})
    target = chain.target(step.kind)
    found = target.stat() if verdict.outcome == "accepted" else None
    return Conversion(
        kind=step.kind,
        source=chain.current.name,
        source_sha256=chain.sha256,
        converter=chain.converter,
        made_at=now(),
        sha256=sha256_of(target) if found else "",
        bytes=found.st_size if found else 0,
        mtime_ns=found.st_mtime_ns if found else 0,
        verdicts={step.place: verdict},
    )


def _keeps_its_word(record: Conversion, verdict: Verdict, target: Path) -> bool:
    """Whether what was accepted is still there."""
    return verdict.outcome != "accepted" or _is_intact(record, target)


def _is_intact(record: Conversion, target: Path) -> bool:
    """Whether a result is the recorded file: by size and time, or by hash where it was moved."""
    if not record.sha256 or not target.is_file() or target.stat().st_size != record.bytes:
        return False
    return record.is_untouched(target) or sha256_of(target) == record.sha256


# --- GFPGAN -------------------------------------------------------------------------------------------


def gfpgan_to_onnx(weights: Path, out: Path, *, architecture: Mapping[str, object] | None = None) -> Parity:
    """Export GFPGAN's official weights to ONNX, in a process of its own.

    The network is the gfpgan package's own; see ``models.convert_gfpgan``. The result takes ``input``
    ``(N, 3, 512, 512)`` float32 RGB from -1 to 1 and gives ``output`` of that shape.

    Args:
        weights: GFPGANv1.4.pth, or 1.2 or 1.3, which have the same layout.
        out: The ONNX file; appears only when it was compared with torch.
        architecture: Settings of a network other than the official ones, such as ``out_size``.

    Returns:
        How far it lies from torch.

    Raises:
        ModelError: torch or gfpgan is not installed, the file holds other weights or code, or the result
            does not compute the same.
        OutputError: ``out`` cannot be written.
    """
    part = part_path(out)
    try:
        parity = _export(weights, part, architecture)
        if parity.problem:
            raise ModelError(
                tr(
                    "the exported network does not compute what the weights do: {reason}",
                    reason=parity.problem,
                ),
                where=str(weights),
                remedy=tr("use the ready-made GFPGANv1.4.onnx"),
            )
        put_in_place(part, out)
    except ColabHelpersError:
        raise
    except OSError as error:
        raise OutputError(
            tr("cannot be written ({reason})", reason=error.strerror or error),
            where=str(out),
            remedy=tr("free space, check the permissions, or name another folder"),
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return parity


def _export(weights: Path, out: Path, architecture: Mapping[str, object] | None = None) -> Parity:
    """Write the ONNX file and say how far it lies from torch."""
    commands = {
        "torch": "python -m pip install torch",
        # Its requirements are left out: basicsr does not build on new Pythons, and nothing of it is needed.
        "gfpgan": f"python -m pip install --no-deps {GFPGAN_PACKAGE}",
    }
    missing = [name for name in commands if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(
            tr("exporting the weights needs {names}, not installed here", names=tr(" and ").join(missing)),
            where=str(weights),
            remedy=tr(
                "run '{commands}', or use the ready-made GFPGANv1.4.onnx",
                commands=" && ".join(commands[name] for name in missing),
            ),
        )
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "colab_helpers.models.convert_gfpgan"),
            *(str(weights), str(out), json.dumps(dict(architecture or {}))),
        ],
        env={**os.environ, "PYTHONPATH": paths, VARIABLE: language()},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [
            tr("the exporting process ended with {code}", code=done.returncode)
        ]
        raise ModelError(
            tr("the weights cannot be exported ({reason})", reason=said[-1]),
            where=str(weights),
            remedy=tr("use the official GFPGANv1.4.pth, or the ready-made GFPGANv1.4.onnx"),
        )
    return Parity.model_validate_json(done.stdout.strip().splitlines()[-1])
