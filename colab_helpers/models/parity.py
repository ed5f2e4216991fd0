"""Compare the outputs of two versions of a network on random inputs that fit its contract."""

from __future__ import annotations

from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from colab_helpers.errors import ModelError
from colab_helpers.language import mark, tr
from colab_helpers.models.contracts import FLOAT_TYPES, match_contract

FloatArray = npt.NDArray[np.float32]

EXACT_TOLERANCE = (0.1, 1.0)
"""Allowed mean and maximum difference, in grey levels of 255, for the same arithmetic in another order
(including TensorFloat-32 on GPUs): invisible at 8 bits."""
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
        "the comparison is inconclusive: the output differs by {mean:.3g} grey levels on average, and the "
        "outputs of different samples by only {spread:.3g}"
    ),
    "fails": mark("it does not run: {error}"),
    "slower": mark("a face takes {own:.1f} ms of CPU time there, but {usual:.1f} ms with OpenCV"),
}


class Verdict(BaseModel, frozen=True, ser_json_inf_nan="constants"):
    """The result of a comparison, as numbers, so that it can be explained in the current language."""

    reason: Reason = ""  # why the candidate was rejected; empty if accepted
    # In grey levels of 255:
    mean: float = 0  # mean absolute difference
    max: float = 0  # maximum absolute difference
    mean_limit: float = 0
    max_limit: float = 0
    spread: float = 0  # mean absolute difference between the outputs of different samples
    usual: float = 0  # CPU milliseconds per face with OpenCV
    own: float = 0  # CPU milliseconds per face with the pixel work done where the network runs
    error: str = ""

    @property
    def problem(self) -> str:
        """Why the candidate was rejected, in the current language; empty if accepted."""
        return tr(_REASONS[self.reason], **self.model_dump(exclude={"reason"})) if self.reason else ""


def compare(
    reference: FloatArray, candidate: FloatArray, allowed: tuple[float, float], width: float
) -> Verdict:
    """Compare outputs ``(N, …)`` float32 for the same N >= 2 samples; other shapes differ infinitely.

    ``allowed`` limits the mean and the maximum difference; for ``width`` see ``value_range``.
    """
    levels, exact = 255 / width, reference.astype(np.float64)
    difference = np.abs(exact - candidate) if reference.shape == candidate.shape else np.full(1, np.inf)
    mean, maximum = float(difference.mean()) * levels, float(difference.max()) * levels
    spread = float(np.abs(np.diff(exact, axis=0)).mean()) * levels
    reason: Reason = ""
    if not (mean <= allowed[0] and maximum <= allowed[1]):  # written so that NaN fails
        reason = "differs"
    elif not spread > 10 * mean:  # outputs that hardly depend on the input would agree in any case
        reason = "proves nothing"
    limits = {"mean_limit": allowed[0], "max_limit": allowed[1]}
    return Verdict(reason=reason, mean=mean, max=maximum, spread=spread, **limits)


def value_range(session: Any, name: str = "") -> float:
    """Return white minus black of a network's pictures; 2 (from -1 to 1) if its kind is unknown."""
    fit = match_contract(session, name)
    return 1.0 - fit.contract.black if fit else 2.0


def sample_inputs(
    session: Any, count: int = 1, *, edge: int = 0, seed: int = 0, name: str = "", where: str = ""
) -> dict[str, npt.NDArray[Any]]:
    """Return random inputs for a network, by input name.

    Inputs of rank 4 get smooth pictures with some noise, ``(count, C, H, W)`` or channels last, in the value
    range of the network's contract (found by ``name``), and of size ``edge`` if the network accepts any;
    those of rank 2 get unit vectors ``(count, D)``; those of rank 1 get 0.5.

    Raises:
        ModelError: An input has another rank; ``where`` names the network.
    """
    rng, low = np.random.default_rng(seed), 1.0 - value_range(session, name)
    inputs: dict[str, npt.NDArray[Any]] = {}
    for item in session.get_inputs():
        if len(item.shape) == 1 and item.type in FLOAT_TYPES:
            inputs[item.name] = np.full(count, 0.5, FLOAT_TYPES[item.type])
            continue
        shape = [size if isinstance(size, int) else edge for size in item.shape[1:]]
        if len(shape) not in (1, 3) or not all(shape):
            text = mark("the input {name!r} of shape {shape} is neither a picture nor a vector")
            raise ModelError(
                tr(text, name=item.name, shape=item.shape),
                where=where,
                remedy=tr("only swappers and enhancers can be converted"),
            )
        if len(shape) == 1:
            vectors = rng.standard_normal((count, *shape))
            values = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        else:
            channels_last = shape[-1] == 3  # an occluder
            shape = [3, *shape[:2]] if channels_last else shape
            values = low + (1 - low) * np.stack([_picture(rng, *shape) for _ in range(count)])
            values = np.moveaxis(values, 1, -1) if channels_last else values
        inputs[item.name] = values.astype(np.float32)
    return inputs


def _picture(rng: np.random.Generator, channels: int, height: int, width: int) -> npt.NDArray[np.float64]:
    """Return a random picture ``(C, H, W)`` from 0 to 1: smooth patches and a little noise, like a photo."""
    patches, size = rng.random((channels, 8, 8)), (width, height)
    smooth = np.stack([cv2.resize(patch, size, interpolation=cv2.INTER_CUBIC) for patch in patches])
    return np.asarray(np.clip(smooth + 0.05 * rng.standard_normal(smooth.shape), 0, 1))
