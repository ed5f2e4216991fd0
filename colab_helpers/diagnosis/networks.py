"""Every network of the settings, run on the CPU and on the GPU, timed, and the results compared."""

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
"""How far GPU and CPU may lie apart, as a share of the output's length: TensorFloat-32 rounds to 1/2048."""
_EDGE = 64  # of the picture that a network is tried at where any size would do, but take minutes
_REFETCH = mark("fetch it again: python -m colab_helpers preload --accept-licences --verify")
_WHERE_FROM = mark("use it only if you know where it is from")


class Problem(NamedTuple):
    """Something wrong with a network."""

    what: str
    remedy: str
    warns: bool = False


def models(subject: Subject) -> Iterator[Check]:
    """Try each network: one finding each, and one more where insightface can be held against it."""
    for role, name in required_model_names(subject.settings, subject.models):
        title = f"model {Path(name).name}"
        try:
            yield from _examine(subject, role, name)
        except ColabHelpersError as error:
            yield finding(title, f"{error.where}: {error.what}", error.remedy)
        except ImportError:  # the installation's fault, and the same for every network
            raise
        except Exception as error:  # noqa: BLE001 - a damaged network may fail in any way
            what = tr("it does not run: {kind}: {error}", kind=type(error).__name__, error=error)
            yield finding(title, what, tr(_REFETCH))


def _examine(subject: Subject, role: Role, name: str) -> Iterator[Check]:
    choice = _choice(subject, role, name)
    # What a run loads is held against what it was made from; exported weights stand for themselves.
    plain = choice.original if choice.original.suffix == ".onnx" else choice.path
    network = open_network(plain, "cpu")
    if role in _MAKERS:
        _MAKERS[role](network)
    edge = _EDGE if role == "frame_enhancer" else subject.settings.face_detector_size
    inputs = list(sample_inputs(network.session, edge=edge, name=network.name).values())
    on_cpu, milliseconds = trial(network, inputs)
    facts, figures = [f"CPU {milliseconds:.1f} ms"], {"cpu_ms": milliseconds}
    problems = [*_values_problem(on_cpu, "CPU"), *_file_problem(network, name, plain)]
    if choice.path != plain:
        facts.insert(0, tr("a run loads {what}", what=choice.path.name))
    if subject.runs_on_gpu:
        fallbacks: list[str] = []
        there = open_network(choice.path, "cuda", settings=subject.settings, notes=fallbacks)
        on_gpu, milliseconds = trial(there, inputs)
        apart = difference(on_cpu, on_gpu)
        took = f"GPU {milliseconds:.1f} ms"
        if getattr(there.session, "captured", False):
            took = tr("GPU as a CUDA graph {ms:.1f} ms", ms=milliseconds)
        facts += [took, tr("{apart:.2%} apart", apart=apart), *fallbacks]
        facts += _pixels(role, there, choice.original, subject)
        figures |= {"cuda_ms": milliseconds, "difference": apart}
        problems += [*_values_problem(on_gpu, "GPU"), *_difference_problem(apart)]
    elif choice.path != plain:
        made, _ = trial(open_network(choice.path, "cpu"), inputs)
        apart = difference(on_cpu, made)
        facts.append(tr("{apart:.2%} apart from the original", apart=apart))
        figures["difference"] = apart
        problems += _difference_problem(apart, choice.path.parent)
    problems.sort(key=lambda problem: problem.warns)
    what = "; ".join([", ".join(facts), *choice.notes, *(problem.what for problem in problems)])
    worst = problems[0] if problems else Problem("", "")
    yield finding(f"model {Path(name).name}", what, worst.remedy, warns=worst.warns, figures=figures)
    fit = match_contract(network.session, network.name)
    known = role in ("detector", "recogniser", "attributes") or (fit and fit.contract.kind == "inswapper")
    if known and not network.standin and (worst.warns or not problems):  # insightface has a class for it
        yield reference.parity(role, network, subject.settings, subject.models)
        if role == "detector" and not problems:
            with suppress(ImportError):  # without scikit-image there is no insightface: that was told
                yield reference.photograph(network, subject.settings)


def _pixels(role: Role, network: Network, original: Path, subject: Subject) -> Iterator[str]:
    """Say where faces are sampled and blended for a network on the GPU; it is tried and recorded here."""
    if role in ("swapper", "enhancer"):
        boost = subject.settings.face_swapper_pixel_boost
        part = Swapper(network, boost=boost) if role == "swapper" else Enhancer(network)
        _, problem = choose_path(part, original, Runtime("cuda", graphs=subject.settings.cuda_graphs))
        pixels = tr("by the processor, because {reason}", reason=problem) if problem else "GPU"
        yield tr("faces' pixels: {where}", where=pixels)


def _choice(subject: Subject, role: Role, name: str) -> ModelChoice:
    """The file a run would load; nothing is made."""
    if role not in ("swapper", "enhancer"):
        path = subject.models / f"{name}.onnx"
        return ModelChoice(name, path, path)
    runtime = Runtime("cuda" if subject.runs_on_gpu else "cpu")
    half = subject.settings.half_precision
    return choose(subject.models, name, half=half, runtime=runtime, make=False)


def open_network(
    path: Path, provider: Provider, *, settings: Settings | None = None, notes: list[str] | None = None
) -> Network:
    """Load a network on one provider; ColabHelpersError where it is damaged or does not run there.

    On CUDA it is captured if the settings say so. ``notes`` gets what the runtime had to do without.
    """
    graphs = settings is not None and settings.cuda_graphs
    runtime = Runtime(provider, graphs=graphs, notes=[] if notes is None else notes)
    return runtime.open(path, edge=settings.face_detector_size if settings else 0)


_MAKERS: dict[Role, Callable[[Network], object]] = {
    "detector": Detector,
    "swapper": Swapper,
    "enhancer": Enhancer,
    "occluder": Occluder,
    "parser": FaceParser,
    "frame_enhancer": FrameEnhancer,
    "content": lambda network: check_content(network.session, network.name, where=str(network.path)),
}
"""What raises ModelError where a network does not take and give what its role asks for."""


def trial(network: Network, inputs: Sequence[Any]) -> tuple[Sequence[Any], float]:
    """Run a network twice; return its outputs and the milliseconds of the second run."""
    network.run(*inputs)
    start = time.perf_counter()
    outputs = network.run(*inputs)
    return outputs, 1000 * (time.perf_counter() - start)


def difference(reference: Sequence[Any], candidate: Sequence[Any]) -> float:
    """Return how far outputs lie apart: the length of the difference by that of the reference, at worst."""
    apart = []
    for ours, theirs in zip(reference, candidate, strict=True):
        if ours.shape != theirs.shape:
            return float("inf")
        length = float(np.linalg.norm(ours.astype(np.float64)))
        error = float(np.linalg.norm(ours.astype(np.float64) - theirs))
        apart.append(error / length if length > 0 else error)
    return float(np.max(apart))  # a NaN wins


def _values_problem(outputs: Sequence[Any], where: str) -> Iterator[Problem]:
    if not all(np.isfinite(output).all() for output in outputs):
        yield Problem(
            tr("on the {where} it gives values that are not numbers", where=where),
            tr("{remedy}; a model in half precision: use the one in single precision", remedy=tr(_REFETCH)),
        )


def _difference_problem(apart: float, made_in: Path | None = None) -> Iterator[Problem]:
    """Whether GPU and CPU, or a file and what was made of it in a folder, lie too far apart."""
    if apart <= SAME_RESULT:  # NaN is not
        return
    if made_in is None:
        yield Problem(
            tr("GPU and CPU give different results ({allowed:.0%} is allowed)", allowed=SAME_RESULT),
            tr("run with execution_provider=cpu; update driver and ONNX Runtime: bash setup.sh install"),
        )
        return
    yield Problem(
        tr("the file made of it gives different results ({allowed:.0%} is allowed)", allowed=SAME_RESULT),
        tr("remove the folder {folder}: it is made anew when needed", folder=made_in),
    )


def _file_problem(network: Network, name: str, path: Path) -> Iterator[Problem]:
    """Whether the file is one that was published: a flipped bit in the weights may still load and run."""
    if network.standin:
        remedy = tr(
            "stand-ins know the demo's rendered people only; for others run "
            "'python -m colab_helpers preload --accept-licences'"
        )
        yield Problem(tr("a stand-in, not the real network"), remedy, warns=True)
        return
    entry = load_catalog().models.get(name)
    if entry is None or path.name != Path(entry.path).name:
        yield Problem(tr("the catalogue does not know it"), tr(_WHERE_FROM), warns=True)
        return
    # Hashed anew each time: what a failing disk does to a file leaves its size and time as they were.
    found = inspect_file(entry, path, verify=True, loads=True)
    if found.problem is not None:
        yield Problem(found.problem.what, found.problem.remedy)
    elif found.state == "unknown":
        what = tr("none of the published files (SHA-256 {sha256}); it is used as it is", sha256=found.sha256)
        yield Problem(what, tr(_WHERE_FROM), warns=True)
