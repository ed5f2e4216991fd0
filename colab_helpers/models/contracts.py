"""How the networks that change faces are spoken to: a row for each kind, and which row a file keeps.

A model is its file, listed in ``catalog.yaml`` or the user's own, and one row here. Nothing else knows where
a face lies in a network's crops, what black is there, or what it wants of the source.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from colab_helpers.errors import ModelError
from colab_helpers.language import mark, tr

InputKind = Literal["picture", "vector", "weight", "unknown"]
"""An input: RGB planes ``(1|N, 3, S, S)`` float32, a source ``(1|N, 512)`` float32, or a number ``(1,)``."""
Template = Literal["arcface", "arcface_112_v1", "ffhq"]
"""Where the face lies in a crop, see ``faces.geometry.template_of``."""
NUMBERS: dict[str, Any] = {"tensor(float)": np.float32, "tensor(double)": np.float64}


@dataclass(frozen=True)
class Contract:
    """One kind of network. Contracts are those of the files that peers publish."""

    kind: str  # a file whose name holds it is of this kind, if its inputs fit
    takes: tuple[InputKind, ...]  # its inputs, sorted: their order in a file does not matter
    template: Template
    black: float  # in pictures, going in and coming out; white is 1
    # What stands for the source: its embedding times the file's own matrix, of unit length; its unit
    # embedding; or what another network, the converter, makes of the embedding as the recogniser gave it.
    source: Literal["none", "projected", "unit", "converted"] = "none"
    converter: str = ""  # name of that network
    size: int = 0  # edge of its crops in pixels; 0: any
    outputs: int = 0  # how many there are; 0: any
    by_name: bool = False  # inputs and outputs alone do not tell it from others
    truncates: bool = False  # its reference drops fractions: rounding could come two grey levels off

    @property
    def role(self) -> str:
        """What it is used as."""
        return "swapper" if "vector" in self.takes else "enhancer"


_SWAPS: tuple[InputKind, ...] = ("picture", "vector")
CONTRACTS = (
    # 1a, 1b, 1c by FaceFusion. The mask it gives beside the picture is not used, as by its makers.
    Contract("hyperswap", _SWAPS, "arcface", -1.0, source="unit", size=256, outputs=2),
    # 1, 2, 3 by ai-forever.
    Contract(
        "ghost", _SWAPS, "arcface_112_v1", -1.0, source="converted", converter="crossface_ghost", size=256,
        by_name=True,
    ),
    Contract("inswapper", _SWAPS, "arcface", 0.0, source="projected", truncates=True),
    # GPEN-BFR-256; the larger ones are spoken to as GFPGAN.
    Contract("gpen_256", ("picture",), "arcface", -1.0, size=256),
    # Also GPEN-BFR-512, RestoreFormer++ and what else restores FFHQ crops.
    Contract("gfpgan", ("picture",), "ffhq", -1.0),
    Contract("codeformer", ("picture", "weight"), "ffhq", -1.0),
)  # fmt: skip


@dataclass(frozen=True)
class ContractMatch:
    """What was found of a network."""

    contract: Contract
    size: int  # edge of its crops in pixels
    inputs: tuple[InputKind, ...]  # what each input takes, in the network's order
    picture: int  # which output is the picture
    weight: Any  # numpy's type of the weight; None where it takes none


def input_kinds(session: Any) -> tuple[InputKind, ...]:
    """What each input of a network takes."""
    return tuple(map(_kind_of, session.get_inputs()))


def _kind_of(item: Any) -> InputKind:
    shape = list(item.shape)
    if len(shape) == 1 and item.type in NUMBERS:
        return "weight"
    if item.type != "tensor(float)":
        return "unknown"
    if len(shape) == 4 and shape[1] == 3:
        return "picture"
    return "vector" if len(shape) == 2 and shape[1] == 512 else "unknown"


def match_contract(session: Any, name: str) -> ContractMatch | None:
    """Find the kind of a network: by its name where that says it, else by inputs and outputs."""
    inputs, outputs = input_kinds(session), session.get_outputs()
    if "picture" not in inputs:
        return None
    size, other = session.get_inputs()[inputs.index("picture")].shape[2:]
    if not isinstance(size, int) or size != other:
        return None
    fitting = [
        row
        for row in CONTRACTS
        if row.takes == tuple(sorted(inputs))
        and row.size in (0, size)
        and (row.template != "arcface" or size % 112 == 0 or size % 128 == 0)
    ]
    named = [row for row in fitting if row.kind in name.lower()]
    shaped = [row for row in fitting if not row.by_name and row.outputs in (0, len(outputs))]
    pictures = [k for k, item in enumerate(outputs) if list(item.shape[1:]) == [3, size, size]]
    weights = [NUMBERS[item.type] for item in session.get_inputs() if _kind_of(item) == "weight"]
    for row in named or shaped:
        return ContractMatch(
            row, size, inputs, pictures[0] if pictures else 0, weights[0] if weights else None
        )
    return None


def require_contract(session: Any, name: str, *, role: str, where: str) -> ContractMatch:
    """Find the kind of a swapper or enhancer, in the file ``where``; ModelError where none is known."""
    fit = match_contract(session, name)
    if fit is None or fit.contract.role != role:
        raise unsupported_network_error(session, role=role, where=where)
    return fit


def unsupported_network_error(session: Any, *, role: str, where: str) -> ModelError:
    """The error of a network that keeps no contract of a role."""
    inputs = "; ".join(f"{item.name} {item.shape} {item.type}" for item in session.get_inputs())
    kinds = ", ".join(row.kind for row in CONTRACTS if row.role == role) or "crossface"
    return ModelError(
        tr("no {role} that is known takes these inputs: {inputs}", role=role, inputs=inputs),
        where=where,
        remedy=tr(
            "use a {role} of one of these kinds: {kinds} (see docs/settings.md)", role=role, kinds=kinds
        ),
    )


def converter_of(name: str) -> str:
    """Name of the network that a swapper of some name needs beside it; empty where it needs none."""
    return next((row.converter for row in CONTRACTS if row.converter and row.kind in name.lower()), "")


def enlarges(session: Any, *, where: str) -> tuple[int, int]:
    """Return how many times a network enlarges, and the edge of its pictures; 0 where it takes any.

    The contract of Real-ESRGAN's exports: RGB planes ``(1, 3, h, w)`` float32, black 0 and white 1, to
    ``(1, 3, s h, s w)`` alike, s being 2 or 4. Most leave h and w open (RealESRGAN_x2plus takes even ones).

    Raises:
        ModelError: It takes or gives something else.
    """
    inputs, scale, edge = session.get_inputs(), 0, 0
    if input_kinds(session) == ("picture",):
        edge, other = (size if isinstance(size, int) else 0 for size in inputs[0].shape[2:])
        trial = edge or 16
        names = [session.get_outputs()[0].name]
        (given,) = session.run(names, {inputs[0].name: np.zeros((1, 3, trial, trial), np.float32)})
        fits = edge == other and given.ndim == 4 and given.shape == (1, 3, *(2 * [given.shape[-1]]))
        scale = given.shape[-1] // trial if fits and given.shape[-1] % trial == 0 else 0
    if scale not in (2, 4):
        shapes = [list(item.shape) for items in (inputs, session.get_outputs()) for item in items]
        raise ModelError(
            tr("it enlarges no pictures twice or four times; its shapes are {shapes}", shapes=shapes),
            where=where,
            remedy=tr("use {name}", name="RealESRGAN_x2plus.onnx"),
        )
    return scale, edge


class ContentContract(NamedTuple):
    """How a classifier of sexual content is spoken to, and from which score on a picture counts as such.

    It takes RGB planes ``(1, 3, S, S)`` float32, the whole picture fit into a square with black around it,
    and its score is the sum of its outputs by ``weights``; without any it is a detector, which gives
    ``(1, 4 + k, cells)``, whose surest class counts. Contracts and thresholds are those of FaceFusion 3.
    """

    name: str  # of its file
    maker: str
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    weights: tuple[float, ...]
    threshold: float

    def score(self, outputs: Any) -> float:
        """Return what a network's first output says of a picture."""
        if not self.weights:
            return float(outputs[:, 4:].max())
        return float(np.dot(outputs.reshape(-1), self.weights))


_HALF = (0.5, 0.5, 0.5)
_CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CONTENT_CONTRACTS = (
    ContentContract("nsfw_2", "Marqo", 384, _HALF, _HALF, (1.0, -1.0), 0.25),
    ContentContract("nsfw_1", "EraX", 640, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (), 0.2),
    ContentContract("nsfw_3", "Freepik", 448, *_CLIP, (-1.0, -1.0, 1.0, 1.0), 10.5),
)
"""The first asks alone, unless ``content_check`` has all three vote."""


def content_contracts(check: Literal["single", "vote"]) -> tuple[ContentContract, ...]:
    """Return how the classifiers of a ``content_check`` are spoken to."""
    return CONTENT_CONTRACTS[:1] if check == "single" else CONTENT_CONTRACTS


def check_content(session: Any, name: str, *, where: str) -> None:
    """Make sure that a classifier takes and gives what its contract says; ModelError where it does not."""
    (row,) = (one for one in CONTENT_CONTRACTS if one.name == name)
    taken = [list(item.shape) for item in session.get_inputs()]
    given = list(session.get_outputs()[0].shape)
    wanted = given[-1:] == [len(row.weights)] if row.weights else len(given) == 3
    if taken != [[1, 3, row.size, row.size]] or not wanted:
        text = mark("{name} takes {taken} and gives {given}, not what {maker}'s does")
        told = tr(text, name=name, taken=taken, given=given, maker=row.maker)
        remedy = tr("fetch it again: python -m colab_helpers preload --accept-licences --verify")
        raise ModelError(told, where=where, remedy=remedy)
