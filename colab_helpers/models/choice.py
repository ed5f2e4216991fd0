"""Which file a run loads for a model: the original, or one made of it to fit this machine.

Asking reads a few small files; no model is parsed or hashed.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from colab_helpers.errors import ColabHelpersError, ModelError
from colab_helpers.language import tr
from colab_helpers.models.conversions import (
    CONVERTER,
    EXPORT_PLACE,
    FOLDER,
    WEIGHTS,
    Chain,
    Kind,
    Verdict,
    place_of,
    read_origin,
)
from colab_helpers.models.session import Network, Provider, Runtime, is_standin
from colab_helpers.settings import FrameProcessor, Settings

HalfPrecision = bool | Literal["auto"]


@dataclass(frozen=True)
class Choice:
    """The file to load for a model.

    Attributes:
        name: The model's name.
        path: The file.
        original: What it was made from; the same where nothing was made.
        any_batch: It was found to take any batch size.
        half: It computes in float16.
        notes: Why it is not the fast one, and what was done; one sentence each.
        unmade: What nobody has made or compared here yet.
    """

    name: str
    path: Path
    original: Path
    any_batch: bool = False
    half: bool = False
    notes: tuple[str, ...] = ()
    unmade: tuple[Kind, ...] = ()

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
        kinds = [*([tr("any batch")] if self.any_batch else []), *(["float16"] if self.half else [])]
        return f"{self.path.name} ({', '.join(kinds)})" if kinds else self.path.name


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
        make: On CUDA, make and compare what is missing, which takes half a minute for each model, once:
            float16 where it is wanted, and any batch. On the CPU neither helps.

    Raises:
        ModelError: There are only weights that were not exported yet.
    """
    source = _source(root, name)
    if not source.is_file():
        return Choice(name, source, source)  # opening it says what to do
    wanted = wants_half(half, runtime.provider)
    made: Kind = "export" if source.suffix == WEIGHTS else "batch"
    found = _look(source, name, (made, "half") if wanted else (made,), place_of(runtime))
    command = _command(source, runtime.provider, half=wanted)
    if "export" in found.unmade:
        raise ModelError(
            tr("there are only weights, which were not made into a network yet"),
            where=str(source),
            remedy=tr("run '{command}', or fetch {name}.onnx", command=command, name=name),
        )
    if runtime.provider == "cpu":
        return replace(found, notes=(*found.notes, *_on_the_cpu(found, command, wanted=wanted)))
    if not found.unmade or is_standin(source):
        return found
    if make:
        return _made(found, half=wanted, runtime=runtime)
    note = tr(
        "{name}: nothing was made of it for this GPU yet; the first run does it, or '{command}'",
        name=name,
        command=command,
    )
    return replace(found, notes=(*found.notes, note))


def _source(root: Path, name: str) -> Path:
    network, weights = root / f"{name}.onnx", root / f"{name}{WEIGHTS}"
    return weights if weights.is_file() and not network.is_file() else network


def _look(source: Path, name: str, kinds: Sequence[Kind], place: str) -> Choice:
    """What was made of a model and accepted at a place."""
    cache = source.parent / FOLDER
    origin = read_origin(source, cache)
    if origin is None:
        return Choice(name, source, source, unmade=tuple(kinds))
    chain = Chain(source, cache, origin.sha256, CONVERTER)
    unmade = [kind for kind in kinds if not _follow(chain, kind, place)]
    return Choice(
        name=name,
        path=chain.current,
        original=source,
        any_batch=chain.any_batch,
        half=chain.half,
        notes=tuple(chain.notes),
        unmade=tuple(unmade),
    )


def _follow(chain: Chain, kind: Kind, place: str) -> bool:
    """Take a step as it was decided at a place; False if it was not, or its result is not there any more."""
    record = chain.read(kind)
    verdict: Verdict | None = None
    if record is not None:
        verdict = record.verdicts.get(EXPORT_PLACE if kind == "export" else place)
    if record is None or verdict is None:
        return False
    if verdict.outcome == "accepted" and not record.is_untouched(chain.target(kind)):
        return False
    chain.follow(kind, record, verdict)
    return True


def _on_the_cpu(found: Choice, command: str, *, wanted: bool) -> list[str]:
    if not wanted:
        return []
    if found.half:
        return [tr("{name}: computes in float16 as asked; on the CPU that is no faster", name=found.name)]
    if "half" in found.unmade:
        return [
            tr(
                "{name}: float16 was asked for but nothing was made yet; run '{command}'",
                name=found.name,
                command=command,
            )
        ]
    return []  # refused: said with its reason


def _made(found: Choice, *, half: bool, runtime: Runtime) -> Choice:
    """Make and compare what is missing; where that fails, what there is stays in use."""
    from colab_helpers.models.convert import prepared  # imports onnx, which is slow

    started = time.monotonic()
    try:
        result = prepared(found.original, batch=True, half=half, runtime=runtime)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the copy, the original still runs
        what = error.what if isinstance(error, ColabHelpersError) else f"{type(error).__name__}: {error}"
        note = tr(
            "{name}: it cannot be made to fit this GPU ({reason}); used is {used}",
            name=found.name,
            reason=what,
            used=found.words,
        )
        return replace(found, notes=(*found.notes, note))
    finally:
        gc.collect()  # sessions hold cycles; their memory is wanted now
    choice = Choice(found.name, result.path, found.original, result.any_batch, result.half)
    note = tr(
        "{name}: compared on this GPU, once, in {seconds:.1f} s; used is {used}",
        name=found.name,
        seconds=time.monotonic() - started,
        used=choice.words,
    )
    return replace(choice, notes=(note, *result.notes))


def _command(source: Path, provider: Provider, *, half: bool) -> str:
    words = f"--execution-provider {provider} {'--half ' if half else ''}'{source}'"
    return f"python -m colab_helpers convert {words}"
