"""Checks of the networks: each is run on the CPU and on the GPU, timed, and the results compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from colab_helpers.diagnosis import reference
from colab_helpers.diagnosis.findings import Check, Subject, finding
from colab_helpers.errors import ColabHelpersError
from colab_helpers.faces.detector import Detector
from colab_helpers.faces.frame_enhancer import FrameEnhancer
from colab_helpers.faces.occluder import FaceParser, Occluder
from colab_helpers.faces.path_choice import choose_path
from colab_helpers.faces.swapper_enhancer import Enhancer, Swapper
from colab_helpers.language import mark, tr
from colab_helpers.models.catalog import Role, load_catalog, required_model_names
from colab_helpers.models.contracts import check_content, match_contract
from colab_helpers.models.inventory import inspect_file
from colab_helpers.models.model_conversion import ModelChoice, choose
from colab_helpers.models.parity import sample_inputs
from colab_helpers.models.session import Network, Provider, Runtime
from colab_helpers.settings import Settings

SAME_RESULT = 0.01
"""Allowed difference of GPU and CPU, relative to the output's norm: TensorFloat-32 rounds to 1/2048."""
_EDGE = 64  # input size for a frame enhancer's trial run; larger ones take minutes
_REFETCH = mark("fetch it again: python -m colab_helpers preload --accept-licences --verify")
_UNKNOWN_REMEDY = mark("use it only if you know where it comes from")


class Problem(NamedTuple):
    """A problem with a network."""

    what: str
    remedy: str
    warns: bool = False


def models(subject: Subject) -> Iterator[Check]:
    """Run each network: one finding each, and one more for the comparison with insightface where possible."""
    for role, name in required_model_names(subject.settings, subject.models):
        title = f"model {Path(name).name}"
        try:
            yield from _check_network(subject, role, name)
        except ColabHelpersError as error:
            yield finding(title, f"{error.where}: {error.what}", error.remedy)
        except ImportError:  # a fault of the installation, which affects all networks
            raise
        except Exception as error:  # noqa: BLE001 - a damaged network may fail in any way
            what = tr("it does not run: {kind}: {error}", kind=type(error).__name__, error=error)
            yield finding(title, what, tr(_REFETCH))


def _check_network(subject: Subject, role: Role, name: str) -> Iterator[Check]:
    choice = _choice(subject, role, name)
    original = choice.original  # a converted file, which a run may load instead, is compared with this
    network = open_network(original, "cpu")
    if role in _CONTRACT_CHECKS:
        _CONTRACT_CHECKS[role](network)
    edge = _EDGE if role == "frame_enhancer" else subject.settings.face_detector_size
    inputs = list(sample_inputs(network.session, edge=edge, name=network.name).values())
    on_cpu, milliseconds = trial(network, inputs)
    details, figures = [f"CPU {milliseconds:.1f} ms"], {"cpu_ms": milliseconds}
    problems = [*_values_problem(on_cpu, "CPU"), *_file_problem(network, name, original)]
    if choice.path != original:
        details.insert(0, tr("a run loads {what}", what=choice.path.name))
    if subject.runs_on_gpu:
        fallbacks: list[str] = []
        on_cuda = open_network(choice.path, "cuda", settings=subject.settings, notes=fallbacks)
        on_gpu, milliseconds = trial(on_cuda, inputs)
        error = difference(on_cpu, on_gpu)
        timing = f"GPU {milliseconds:.1f} ms"
        if getattr(on_cuda.session, "captured", False):
            timing = tr("GPU as a CUDA graph {ms:.1f} ms", ms=milliseconds)
        details += [timing, tr("{apart:.2%} apart", apart=error), *fallbacks]
        details += _pixel_path(role, on_cuda, original, subject)
        figures |= {"cuda_ms": milliseconds, "difference": error}
        problems += [*_values_problem(on_gpu, "GPU"), *_difference_problem(error)]
    elif choice.path != original:
        converted, _ = trial(open_network(choice.path, "cpu"), inputs)
        error = difference(on_cpu, converted)
        details.append(tr("{apart:.2%} apart from the original", apart=error))
        figures["difference"] = error
        problems += _difference_problem(error, choice.path.parent)
    problems.sort(key=lambda problem: problem.warns)
    what = "; ".join([", ".join(details), *choice.notes, *(problem.what for problem in problems)])
    worst = problems[0] if problems else Problem("", "")
    yield finding(f"model {Path(name).name}", what, worst.remedy, warns=worst.warns, figures=figures)
    fit = match_contract(network.session, network.name)
    in_insightface = role in ("detector", "recogniser", "attributes") or (
        fit and fit.contract.kind == "inswapper"
    )
    if in_insightface and not network.standin and (worst.warns or not problems):
        yield reference.parity(role, network, subject.settings, subject.models)
        if role == "detector" and not problems:
            with suppress(ImportError):  # scikit-image comes with insightface, whose absence was reported
                yield reference.photograph(network, subject.settings)


def _pixel_path(role: Role, network: Network, original: Path, subject: Subject) -> Iterator[str]:
    """Report whether faces are sampled and blended on the GPU; this is decided by trial and recorded here."""
    if role in ("swapper", "enhancer"):
        boost = subject.settings.face_swapper_pixel_boost
        part = Swapper(network, boost=boost) if role == "swapper" else Enhancer(network)
        _, problem = choose_path(part, original, Runtime("cuda", graphs=subject.settings.cuda_graphs))
        where = tr("on the CPU, because {reason}", reason=problem) if problem else "GPU"
        yield tr("sampling and blending of faces: {where}", where=where)


def _choice(subject: Subject, role: Role, name: str) -> ModelChoice:
    """Return the file that a run would load, without converting anything."""
    if role not in ("swapper", "enhancer"):
        path = subject.models / f"{name}.onnx"
        return ModelChoice(name, path, path)
    runtime = Runtime("cuda" if subject.runs_on_gpu else "cpu")
    half = subject.settings.half_precision
    return choose(subject.models, name, half=half, runtime=runtime, make=False)


def open_network(
    path: Path, provider: Provider, *, settings: Settings | None = None, notes: list[str] | None = None
) -> Network:
    """Load a network on one provider; raise ColabHelpersError if it is damaged or cannot run there.

    On CUDA it is captured if the settings say so. The runtime's notes are appended to ``notes``.
    """
    graphs = settings is not None and settings.cuda_graphs
    runtime = Runtime(provider, graphs=graphs, notes=[] if notes is None else notes)
    return runtime.open(path, edge=settings.face_detector_size if settings else 0)


_CONTRACT_CHECKS: dict[Role, Callable[[Network], object]] = {
    "detector": Detector,
    "swapper": Swapper,
    "enhancer": Enhancer,
    "occluder": Occluder,
    "parser": FaceParser,
    "frame_enhancer": FrameEnhancer,
    "content": lambda network: check_content(network.session, network.name, where=str(network.path)),
}
"""Callables that raise ModelError if a network's inputs and outputs do not fit its role."""


def trial(network: Network, inputs: Sequence[Any]) -> tuple[Sequence[Any], float]:
    """Run a network twice; return its outputs and the milliseconds of the second run."""
    network.run(*inputs)
    start = time.perf_counter()
    outputs = network.run(*inputs)
    return outputs, 1000 * (time.perf_counter() - start)


def difference(reference: Sequence[Any], candidate: Sequence[Any]) -> float:
    """Return the largest relative error of the outputs, by their L2 norms; infinite for different shapes."""
    errors = []
    for expected, actual in zip(reference, candidate, strict=True):
        if expected.shape != actual.shape:
            return float("inf")
        norm = float(np.linalg.norm(expected.astype(np.float64)))
        error = float(np.linalg.norm(expected.astype(np.float64) - actual))
        errors.append(error / norm if norm > 0 else error)
    return float(np.max(errors))  # NaN if any is


def _values_problem(outputs: Sequence[Any], where: str) -> Iterator[Problem]:
    if not all(np.isfinite(output).all() for output in outputs):
        yield Problem(
            tr("on the {where} its output contains NaN or infinity", where=where),
            tr("{remedy}; if it is in half precision, use the one in single precision", remedy=tr(_REFETCH)),
        )


def _difference_problem(error: float, converted_folder: Path | None = None) -> Iterator[Problem]:
    """Check the difference between CPU and GPU, or between a file and the one converted from it."""
    if error <= SAME_RESULT:  # False for NaN
        return
    if converted_folder is None:
        yield Problem(
            tr("GPU and CPU give different results ({allowed:.0%} is allowed)", allowed=SAME_RESULT),
            tr("run with execution_provider=cpu; update driver and ONNX Runtime: bash setup.sh install"),
        )
        return
    yield Problem(
        tr("the converted file gives different results ({allowed:.0%} is allowed)", allowed=SAME_RESULT),
        tr("remove the folder {folder}: its files are converted again when needed", folder=converted_folder),
    )


def _file_problem(network: Network, name: str, path: Path) -> Iterator[Problem]:
    """Check that the file is a published one: weights with a flipped bit may still load and run."""
    if network.standin:
        remedy = tr(
            "stand-ins work only with the demo's rendered people; for others run "
            "'python -m colab_helpers preload --accept-licences'"
        )
        yield Problem(tr("a stand-in, not the real network"), remedy, warns=True)
        return
    entry = load_catalog().models.get(name)
    if entry is None or path.name != Path(entry.path).name:
        yield Problem(tr("not in the catalogue"), tr(_UNKNOWN_REMEDY), warns=True)
        return
    # Hashed again each time: a failing disk changes a file without changing its size and time.
    file = inspect_file(entry, path, verify=True, loads=True)
    if file.problem is not None:
        yield Problem(file.problem.what, file.problem.remedy)
    elif file.state == "unknown":
        what = tr("not a published file (SHA-256 {sha256}); used anyway", sha256=file.sha256)
        yield Problem(what, tr(_UNKNOWN_REMEDY), warns=True)
