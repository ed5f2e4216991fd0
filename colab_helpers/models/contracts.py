"""Input/output contracts of the swapper, enhancer, upscaler and content networks.

A model consists of its file, listed in ``catalog.yaml`` or supplied by the user, and one row here. This
module alone knows how a network's crops are aligned, their value range, and how the source is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from colab_helpers.errors import ModelError
from colab_helpers.language import mark, tr

InputKind = Literal["picture", "vector", "weight", "unknown"]
"""An input: RGB planes ``(1|N, 3, S, S)`` float32, a source ``(1|N, 512)`` float32, or a scalar ``(1,)``."""
Template = Literal["arcface", "arcface_112_v1", "ffhq"]
"""The alignment template of the crops, see ``faces.geometry.template_of``."""
FLOAT_TYPES: dict[str, Any] = {"tensor(float)": np.float32, "tensor(double)": np.float64}


@dataclass(frozen=True)
class Contract:
    """The contract of one kind of network, as in the model files published by other projects."""

    kind: str  # a file is of this kind if its name contains this and its inputs fit
    inputs: tuple[InputKind, ...]  # the inputs, sorted: their order in a file does not matter
    template: Template
    black: float  # black level of input and output pictures; white is 1
    # How the source is passed in: the embedding times the file's projection matrix, normalised; the unit
    # embedding; or the output of another network, the converter, for the recogniser's raw embedding.
    source: Literal["none", "projected", "unit", "converted"] = "none"
    converter: str = ""  # name of the converter network
    size: int = 0  # edge of its crops in pixels; 0: any
    outputs: int = 0  # number of outputs; 0: any
    by_name: bool = False  # identified by name only: inputs and outputs are ambiguous
    truncates: bool = False  # the reference truncates to 8 bits; rounding could differ by two grey levels

    @property
    def role(self) -> str:
        """The role of networks of this kind."""
        return "swapper" if "vector" in self.inputs else "enhancer"


_SWAPS: tuple[InputKind, ...] = ("picture", "vector")
CONTRACTS = (
    # 1a, 1b, 1c by FaceFusion. Its second output, a mask, is ignored, as FaceFusion does.
    Contract("hyperswap", _SWAPS, "arcface", -1.0, source="unit", size=256, outputs=2),
    # 1, 2, 3 by ai-forever.
    Contract(
        "ghost", _SWAPS, "arcface_112_v1", -1.0, source="converted", converter="crossface_ghost", size=256,
        by_name=True,
    ),
    Contract("inswapper", _SWAPS, "arcface", 0.0, source="projected", truncates=True),
    # GPEN-BFR-256; the larger ones have GFPGAN's contract.
    Contract("gpen_256", ("picture",), "arcface", -1.0, size=256),
    # Also GPEN-BFR-512, RestoreFormer++ and other networks that restore FFHQ crops.
    Contract("gfpgan", ("picture",), "ffhq", -1.0),
    Contract("codeformer", ("picture", "weight"), "ffhq", -1.0),
)  # fmt: skip


@dataclass(frozen=True)
class ContractMatch:
    """A network's contract, and what is specific to its file."""

    contract: Contract
    size: int  # edge of its crops in pixels
    inputs: tuple[InputKind, ...]  # in the network's order
    picture: int  # index of the picture output
    weight: Any  # NumPy type of the weight input; None without one


def input_kinds(session: Any) -> tuple[InputKind, ...]:
    """Return the kind of each input of a network."""
    return tuple(map(_kind_of, session.get_inputs()))


def _kind_of(item: Any) -> InputKind:
    shape = list(item.shape)
    if len(shape) == 1 and item.type in FLOAT_TYPES:
        return "weight"
    if item.type != "tensor(float)":
        return "unknown"
    if len(shape) == 4 and shape[1] == 3:
        return "picture"
    return "vector" if len(shape) == 2 and shape[1] == 512 else "unknown"


def match_contract(session: Any, name: str) -> ContractMatch | None:
    """Find the contract of a network, by its name if that is conclusive, else by its inputs and outputs."""
    inputs, outputs = input_kinds(session), session.get_outputs()
    if "picture" not in inputs:
        return None
    size, width = session.get_inputs()[inputs.index("picture")].shape[2:]
    if not isinstance(size, int) or size != width:
        return None
    fitting = [
        row
        for row in CONTRACTS
        if row.inputs == tuple(sorted(inputs))
        and row.size in (0, size)
        and (row.template != "arcface" or size % 112 == 0 or size % 128 == 0)
    ]
    by_name = [row for row in fitting if row.kind in name.lower()]
    by_shape = [row for row in fitting if not row.by_name and row.outputs in (0, len(outputs))]
    picture = next((k for k, item in enumerate(outputs) if list(item.shape[1:]) == [3, size, size]), 0)
    weights = (FLOAT_TYPES[item.type] for item in session.get_inputs() if _kind_of(item) == "weight")
    for row in by_name or by_shape:
        return ContractMatch(row, size, inputs, picture, next(weights, None))
    return None


def require_contract(session: Any, name: str, *, role: str, where: str) -> ContractMatch:
    """Find the contract of a swapper or enhancer; raise ModelError if none fits."""
    fit = match_contract(session, name)
    if fit is None or fit.contract.role != role:
        raise unsupported_network_error(session, role=role, where=where)
    return fit


def unsupported_network_error(session: Any, *, role: str, where: str) -> ModelError:
    """Return the error for a network that fits no contract of a role."""
    inputs = "; ".join(f"{item.name} {item.shape} {item.type}" for item in session.get_inputs())
    kinds = ", ".join(row.kind for row in CONTRACTS if row.role == role) or "crossface"
    remedy = mark("use a {role} of one of these kinds: {kinds} (see docs/settings.md)")
    return ModelError(
        tr("no known kind of {role} has these inputs: {inputs}", role=role, inputs=inputs),
        where=where,
        remedy=tr(remedy, role=role, kinds=kinds),
    )


def converter_of(name: str) -> str:
    """Return the name of the converter network that the swapper of that name needs; empty if none."""
    return next((row.converter for row in CONTRACTS if row.converter and row.kind in name.lower()), "")


def upscaler_contract(session: Any, *, where: str) -> tuple[int, int]:
    """Return the scale factor of an upscaling network, and the edge of its input pictures (0: any).

    The contract is that of Real-ESRGAN's exports: RGB planes ``(1, 3, h, w)`` float32 from 0 to 1 become
    ``(1, 3, s h, s w)`` with s 2 or 4. Most accept any h and w (RealESRGAN_x2plus: even ones).

    Raises:
        ModelError: The network has other inputs or outputs.
    """
    inputs, scale, edge = session.get_inputs(), 0, 0
    if input_kinds(session) == ("picture",):
        edge, width = (size if isinstance(size, int) else 0 for size in inputs[0].shape[2:])
        trial = edge or 16
        names = [session.get_outputs()[0].name]
        (output,) = session.run(names, {inputs[0].name: np.zeros((1, 3, trial, trial), np.float32)})
        size = output.shape[-1] if output.ndim else 0
        if edge == width and output.shape == (1, 3, size, size) and size % trial == 0:
            scale = size // trial
    if scale not in (2, 4):
        shapes = [list(item.shape) for items in (inputs, session.get_outputs()) for item in items]
        raise ModelError(
            tr("the network does not upscale pictures by 2 or 4; its shapes are {shapes}", shapes=shapes),
            where=where,
            remedy=tr("use {name}", name="RealESRGAN_x2plus.onnx"),
        )
    return scale, edge


class ContentContract(NamedTuple):
    """The contract of a classifier of sexual content, and the score from which a picture counts as such.

    The input is RGB planes ``(1, 3, S, S)`` float32, the whole picture letterboxed in black. The score is the
    sum of the outputs weighted by ``weights``; without weights the network is a detector with the output
    ``(1, 4 + k, cells)``, and its highest class score counts. Contracts and thresholds follow FaceFusion 3.
    """

    name: str  # of its file
    maker: str
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    weights: tuple[float, ...]
    threshold: float

    def score(self, outputs: Any) -> float:
        """Return the score of a picture from the network's first output."""
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
"""Only the first is used, unless ``content_check`` is ``vote``."""


def content_contracts(check: Literal["single", "vote"]) -> tuple[ContentContract, ...]:
    """Return the contracts of the classifiers used for a ``content_check`` setting."""
    return CONTENT_CONTRACTS[:1] if check == "single" else CONTENT_CONTRACTS


def check_content(session: Any, name: str, *, where: str) -> None:
    """Raise ModelError if a classifier's inputs or outputs do not fit its contract."""
    (row,) = (one for one in CONTENT_CONTRACTS if one.name == name)
    inputs = [list(item.shape) for item in session.get_inputs()]
    output = list(session.get_outputs()[0].shape)
    output_fits = output[-1:] == [len(row.weights)] if row.weights else len(output) == 3
    if inputs != [[1, 3, row.size, row.size]] or not output_fits:
        text = mark("{name} has input shapes {inputs} and output shape {output}, unlike {maker}'s network")
        message = tr(text, name=name, inputs=inputs, output=output, maker=row.maker)
        remedy = tr("fetch it again: python -m colab_helpers preload --accept-licences --verify")
        raise ModelError(message, where=where, remedy=remedy)
