"""Every network of the settings, run on the CPU and on the GPU, timed, and the results compared."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from colab_helpers.diagnosis.findings import Check, CheckStatus
from colab_helpers.diagnosis.subject import Subject
from colab_helpers.errors import ColabHelpersError
from colab_helpers.language import mark, tr
from colab_helpers.settings import Settings, load_presets

if TYPE_CHECKING:
    from colab_helpers.models.half import ModelChoice
    from colab_helpers.models.session import Network, Provider

Role = Literal["detector", "recogniser", "swapper", "enhancer"]

SAME_RESULT = 0.01
"""How far GPU and CPU may lie apart, as a share of the output's length: TensorFloat-32 rounds to 1/2048."""
_REFETCH = mark("fetch it again: python -m colab_helpers preload --accept-licences --verify")


@dataclass(frozen=True)
class Trial:
    """One run of a network.

    Attributes:
        outputs: In the graph's order.
        milliseconds: Of the second run; the first one sets things up.
    """

    outputs: Sequence[Any]
    milliseconds: float


@dataclass(frozen=True)
class Problem:
    """Something wrong with a network."""

    status: CheckStatus
    what: str
    remedy: str


def wanted_networks(settings: Settings) -> list[tuple[Role, str]]:
    """Role and name of each network a run with these settings opens."""
    from colab_helpers.models.catalog import ANALYSIS_MODELS

    found: list[tuple[Role, str]] = [("detector", ANALYSIS_MODELS[0]), ("recogniser", ANALYSIS_MODELS[1])]
    if "face_swapper" in settings.frame_processors:
        found.append(("swapper", settings.swapper_model))
    if "face_enhancer" in settings.frame_processors:
        found.append(("enhancer", settings.enhancer_model))
    return found


def models(subject: Subject) -> Iterator[Check]:
    """One finding for each network, and one more where insightface can be held against it."""
    for role, name in wanted_networks(subject.settings):
        try:
            yield from _examine(subject, role, name)
        except ColabHelpersError as error:
            yield _failed(name, f"{error.where}: {error.what}", error.remedy)
        except ImportError:  # the installation's fault, and the same for every network
            raise
        except Exception as error:  # noqa: BLE001 - a damaged network may fail in any way
            yield _failed(
                name,
                tr("it does not run: {kind}: {error}", kind=type(error).__name__, error=error),
                tr(_REFETCH),
            )


def _failed(name: str, detail: str, remedy: str) -> Check:
    return Check(name=f"model {Path(name).name}", status="fail", detail=detail, remedy=remedy)


def _examine(subject: Subject, role: Role, name: str) -> Iterator[Check]:
    choice = _choice(subject, role, name)
    # What a run loads is held against what it was made from; exported weights stand for themselves.
    plain = choice.original if choice.original.suffix == ".onnx" else choice.path
    network = open_network(plain, "cpu")
    check_contract(role, network)
    inputs = sample_inputs(role, network, subject.settings)
    on_cpu = trial(network, inputs)
    facts, figures = [f"CPU {on_cpu.milliseconds:.1f} ms"], {"cpu_ms": on_cpu.milliseconds}
    problems = [*_values_problem(on_cpu, "CPU"), *_file_problem(network, name, plain)]
    if choice.path != plain:
        facts.insert(0, tr("a run loads {what}", what=choice.words))
    if subject.runs_on_gpu:
        fallbacks: list[str] = []
        there = open_network(choice.path, "cuda", settings=subject.settings, notes=fallbacks)
        on_gpu = trial(there, inputs)
        apart = difference(on_cpu.outputs, on_gpu.outputs)
        took = (
            tr("GPU as a CUDA graph {ms:.1f} ms", ms=on_gpu.milliseconds)
            if getattr(there.session, "captured", False)
            else f"GPU {on_gpu.milliseconds:.1f} ms"
        )
        facts += [took, tr("{apart:.2%} apart", apart=apart), *fallbacks]
        figures |= {"cuda_ms": on_gpu.milliseconds, "difference": apart}
        problems += [*_values_problem(on_gpu, "GPU"), *_difference_problem(apart)]
    elif choice.path != plain:
        made = trial(open_network(choice.path, "cpu"), inputs)
        apart = difference(on_cpu.outputs, made.outputs)
        facts.append(tr("{apart:.2%} apart from the original", apart=apart))
        figures["difference"] = apart
        problems += _conversion_problem(apart, choice.path)
    yield _finding(name, [", ".join(facts), *choice.notes], figures, problems)
    if not network.standin and role != "enhancer" and not any(found.status == "fail" for found in problems):
        from colab_helpers.diagnosis import oracle

        yield oracle.parity(role, network, subject.settings, subject.models)


def _choice(subject: Subject, role: Role, name: str) -> ModelChoice:
    """The file a run would load; nothing is made."""
    from colab_helpers.models.half import ModelChoice, choose
    from colab_helpers.models.session import Runtime

    if role in ("detector", "recogniser"):
        path = subject.models / f"{name}.onnx"
        return ModelChoice(name, path, path)
    runtime = Runtime("cuda" if subject.runs_on_gpu else "cpu")
    half = subject.settings.half_precision
    return choose(subject.models, name, half=half, runtime=runtime, make=False)


def _finding(name: str, facts: list[str], figures: dict[str, float], problems: Iterable[Problem]) -> Check:
    worst: list[Problem] = sorted(problems, key=lambda problem: problem.status)  # "fail" before "warn"
    return Check(
        name=f"model {Path(name).name}",
        status=worst[0].status if worst else "pass",
        detail="; ".join([*facts, *(problem.what for problem in worst)]),
        remedy=worst[0].remedy if worst else "",
        # JSON knows neither infinity nor "not a number".
        figures={key: value for key, value in figures.items() if math.isfinite(value)},
    )


def open_network(
    path: Path, provider: Provider, *, settings: Settings | None = None, notes: list[str] | None = None
) -> Network:
    """Load a network on one provider.

    Args:
        path: Its file.
        provider: Where it must run.
        settings: On CUDA, capture it if they say so; without them it is loaded plainly.
        notes: Gets what the runtime had to do without.

    Raises:
        ColabHelpersError: It is missing or damaged, or does not run there.
    """
    from colab_helpers.models.session import Runtime

    graphs = settings is not None and settings.cuda_graphs
    runtime = Runtime(provider, graphs=graphs, notes=[] if notes is None else notes)
    return runtime.open(path, edge=settings.face_detector_size if settings else 0)


def check_contract(role: Role, network: Network) -> None:
    """Make sure that a network takes and gives what its role asks for.

    Raises:
        ModelError: It does not.
    """
    from colab_helpers.faces.detector import Detector
    from colab_helpers.faces.enhancer import Enhancer
    from colab_helpers.faces.swapper import Swapper

    makers = {"detector": Detector, "swapper": Swapper, "enhancer": Enhancer}
    if role in makers:
        makers[role](network)


def sample_inputs(role: Role, network: Network, settings: Settings) -> list[Any]:
    """A made-up picture (and identity) as the network of a role takes it, float32, always the same."""
    import numpy as np

    size = network.session.get_inputs()[0].shape[2]
    edge = settings.face_detector_size if role == "detector" else size if isinstance(size, int) else 112
    picture = soft_picture(edge).transpose(2, 0, 1)[None].astype(np.float32) / 255
    if role != "swapper":
        return [2 * picture - 1]
    identity = np.random.default_rng(0).standard_normal((1, 512)).astype(np.float32)
    return [picture, identity / np.linalg.norm(identity)]


def soft_picture(size: int, *, seed: int = 0) -> Any:
    """A picture of large soft patches, ``(size, size, 3)`` uint8: like a photo, and like nobody."""
    import cv2
    import numpy as np

    patches = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return cv2.resize(patches, (size, size), interpolation=cv2.INTER_CUBIC)


def trial(network: Network, inputs: Sequence[Any]) -> Trial:
    """Run a network twice and time the second run."""
    network.run(*inputs)
    start = time.perf_counter()
    outputs = network.run(*inputs)
    return Trial(outputs, 1000 * (time.perf_counter() - start))


def difference(reference: Sequence[Any], candidate: Sequence[Any]) -> float:
    """How far outputs lie apart: length of the difference by length of the reference, the worst output's."""
    import numpy as np

    apart = []
    for ours, theirs in zip(reference, candidate, strict=True):
        if ours.shape != theirs.shape:
            return float("inf")
        length = float(np.linalg.norm(ours.astype(np.float64)))
        error = float(np.linalg.norm(ours.astype(np.float64) - theirs))
        apart.append(error / length if length > 0 else error)
    return float(np.max(apart))  # a NaN wins


def _values_problem(found: Trial, where: str) -> Iterator[Problem]:
    import numpy as np

    if not all(np.isfinite(output).all() for output in found.outputs):
        yield Problem(
            "fail",
            tr("on the {where} it gives values that are not numbers", where=where),
            tr("{remedy}; a model in half precision: use the one in single precision", remedy=tr(_REFETCH)),
        )


def _difference_problem(apart: float) -> Iterator[Problem]:
    if not apart <= SAME_RESULT:  # written so that NaN is a problem
        yield Problem(
            "fail",
            tr("GPU and CPU give different results ({allowed:.0%} is allowed)", allowed=SAME_RESULT),
            tr("run with execution_provider=cpu; update driver and ONNX Runtime: bash setup.sh install"),
        )


def _conversion_problem(apart: float, path: Path) -> Iterator[Problem]:
    if not apart <= SAME_RESULT:  # written so that NaN is a problem
        yield Problem(
            "fail",
            tr("the file made of it gives different results ({allowed:.0%} is allowed)", allowed=SAME_RESULT),
            tr("remove the folder {folder}: it is made anew when needed", folder=path.parent),
        )


def _file_problem(network: Network, name: str, path: Path) -> Iterator[Problem]:
    """Whether the file is one that was published: a flipped bit in the weights may still load and run."""
    if network.standin:
        yield Problem(
            "warn",
            tr("a stand-in, not the real network"),
            tr(
                "stand-ins know the demo's rendered people only; for others run "
                "'python -m colab_helpers preload --accept-licences'"
            ),
        )
        return
    from colab_helpers.models.catalog import load_catalog
    from colab_helpers.models.inventory import examine

    entry = load_catalog(load_presets().models).models.get(name)
    if entry is None or path.name != Path(entry.path).name:
        yield Problem(
            "warn", tr("the catalogue does not know it"), tr("use it only if you know where it is from")
        )
        return
    # Hashed anew each time: what a failing disk does to a file leaves its size and time as they were.
    found = examine(entry, path, verify=True, loads=True)
    if found.state == "damaged":
        yield Problem("fail", found.problem, found.remedy)
    elif found.state == "unknown":
        yield Problem(
            "warn",
            tr("none of the published files (SHA-256 {sha256}); it is used as it is", sha256=found.sha256),
            tr("use it only if you know where it is from"),
        )
