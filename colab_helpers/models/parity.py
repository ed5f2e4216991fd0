"""How far two networks' outputs lie apart, on samples that keep a swapper's or an enhancer's contract."""

from __future__ import annotations

from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from colab_helpers.errors import ModelError
from colab_helpers.language import mark, tr
from colab_helpers.models.contracts import NUMBERS, match_contract

FloatArray = npt.NDArray[np.float32]

EXACT_TOLERANCE = (0.1, 1.0)
"""Grey levels of 255 that outputs may lie apart, on average and at most, after the same arithmetic in another
order (TensorFloat-32 on GPUs included): nothing 8 bits could show."""
HALF_TOLERANCE = (1.0, 4.0)
"""The same for half precision."""

Reason = Literal["", "differs", "proves nothing", "fails", "slower"]
_REASONS: dict[Reason, str] = {
    "": "",
    "differs": mark(
        "the output differs by {mean:.3g} grey levels on average and {max:.3g} at most "
        "({mean_limit:g} and {max_limit:g} are allowed)"
    ),
    "proves nothing": mark(
        "the output differs by {mean:.3g} grey levels on average where those of different "
        "samples lie only {spread:.3g} apart, which proves nothing"
    ),
    "fails": mark("it does not run: {error}"),
    "slower": mark("a face takes {own:.1f} ms of the processor there, and {usual:.1f} ms otherwise"),
}


class Verdict(BaseModel, frozen=True, ser_json_inf_nan="constants"):
    """What came of a comparison, in figures: why it was refused is told in the language of today."""

    reason: Reason = ""  # why the second is not used; empty if it is
    # Grey levels of 255: the outputs' absolute difference, its largest, what was allowed of both, and the
    # mean difference between the outputs of different samples.
    mean: float = 0
    max: float = 0
    mean_limit: float = 0
    max_limit: float = 0
    spread: float = 0
    usual: float = 0  # milliseconds of the processor for a face, by OpenCV and where the network runs
    own: float = 0
    error: str = ""

    @property
    def problem(self) -> str:
        """Why the second is not used; empty if it is."""
        return tr(_REASONS[self.reason], **self.model_dump(exclude={"reason"})) if self.reason else ""


def compare(
    reference: FloatArray, candidate: FloatArray, allowed: tuple[float, float], width: float
) -> Verdict:
    """Compare outputs ``(N, …)`` float32 for the same samples, N at least 2; another shape is infinitely far.

    ``width`` is what 255 grey levels are in the outputs, see ``value_range``.
    """
    levels, exact = 255 / width, reference.astype(np.float64)
    difference = np.abs(exact - candidate) if reference.shape == candidate.shape else np.full(1, np.inf)
    mean, most = float(difference.mean()) * levels, float(difference.max()) * levels
    spread = float(np.abs(np.diff(exact, axis=0)).mean()) * levels
    reason: Reason = ""
    if not (mean <= allowed[0] and most <= allowed[1]):  # written so that NaN fails
        reason = "differs"
    elif (
        not spread > 10 * mean
    ):  # outputs that hardly depend on the input agree whatever became of the network
        reason = "proves nothing"
    limits = {"mean_limit": allowed[0], "max_limit": allowed[1]}
    return Verdict(reason=reason, mean=mean, max=most, spread=spread, **limits)


def value_range(session: Any, name: str = "") -> float:
    """Width of the range of a network's pictures; 2, from -1 to 1, where its kind is not known."""
    fit = match_contract(session, name)
    return 1.0 - fit.contract.black if fit else 2.0


def sample_inputs(
    session: Any, count: int = 1, *, edge: int = 0, seed: int = 0, name: str = "", where: str = ""
) -> dict[str, npt.NDArray[Any]]:
    """Return random inputs of the shapes and types that the session of a network takes, by input.

    For an input of rank 4 they are soft pictures ``(count, C, H, W)``, or channels last, with some noise, in
    the range of the network's contract (``name`` helps to tell it), of this edge where it leaves that open;
    for one of rank 2 ``(count, D)`` unit vectors; for one of rank 1 the middle between 0 and 1.

    Raises:
        ModelError: An input has another rank; ``where`` names the network.
    """
    rng, low = np.random.default_rng(seed), 1.0 - value_range(session, name)
    inputs: dict[str, npt.NDArray[Any]] = {}
    for item in session.get_inputs():
        if len(item.shape) == 1 and item.type in NUMBERS:
            inputs[item.name] = np.full(count, 0.5, NUMBERS[item.type])
            continue
        shape = [size if isinstance(size, int) else edge for size in item.shape[1:]]
        if len(shape) not in (1, 3) or not all(shape):
            text = mark("the input {name!r} has the shape {shape}, neither pictures nor vectors")
            raise ModelError(
                tr(text, name=item.name, shape=item.shape),
                where=where,
                remedy=tr("only swappers and enhancers can be converted"),
            )
        if len(shape) == 1:
            vectors = rng.standard_normal((count, *shape))
            values = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        else:
            last = shape[-1] == 3  # an occluder's
            shape = [3, *shape[:2]] if last else shape
            values = low + (1 - low) * np.stack([_picture(rng, *shape) for _ in range(count)])
            values = np.moveaxis(values, 1, -1) if last else values
        inputs[item.name] = values.astype(np.float32)
    return inputs


def _picture(rng: np.random.Generator, channels: int, height: int, width: int) -> npt.NDArray[np.float64]:
    """A random picture ``(C, H, W)`` from 0 to 1: large soft patches and a little noise, like a photo."""
    patches = rng.random((channels, 8, 8))
    soft = np.stack([cv2.resize(patch, (width, height), interpolation=cv2.INTER_CUBIC) for patch in patches])
    return np.asarray(np.clip(soft + 0.05 * rng.standard_normal(soft.shape), 0, 1))
