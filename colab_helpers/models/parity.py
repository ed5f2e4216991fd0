"""How far two networks' outputs lie apart, on samples that keep a swapper's or an enhancer's contract."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from colab_helpers.errors import ModelError
from colab_helpers.language import mark, tr
from colab_helpers.models.contracts import NUMBERS, fit_of

FloatArray = npt.NDArray[np.float32]

SAME = (0.1, 1.0)
"""Grey levels of 255 that outputs may lie apart, on average and at most, after the same arithmetic in another
order (TensorFloat-32 on GPUs included): nothing 8 bits could show."""
NEARLY_SAME = (1.0, 4.0)
"""The same for half precision."""


class Parity(BaseModel):
    """How far two networks' outputs lie apart, in grey levels of 255."""

    model_config = ConfigDict(frozen=True)

    mean: float  # absolute difference
    max: float  # largest absolute difference
    spread: float  # mean difference between the outputs of different samples
    allowed: tuple[float, float]  # largest ``mean`` and ``max`` that count as the same

    @property
    def problem(self) -> str:
        """Why this is no proof that both compute the same; empty if it is."""
        mean_limit, max_limit = self.allowed
        # Written so that NaN fails.
        if not (self.mean <= mean_limit and self.max <= max_limit):
            text = mark(
                "the output differs by {mean:.3g} grey levels on average and {max:.3g} at most "
                "({mean_limit:g} and {max_limit:g} are allowed)"
            )
            return tr(text, mean=self.mean, max=self.max, mean_limit=mean_limit, max_limit=max_limit)
        # Outputs that hardly depend on the input would agree whatever became of the network.
        if not self.spread > 10 * self.mean:
            text = mark(
                "the output differs by {mean:.3g} grey levels on average where those of different "
                "samples lie only {spread:.3g} apart, which proves nothing"
            )
            return tr(text, mean=self.mean, spread=self.spread)
        return ""


def compare(
    reference: FloatArray, candidate: FloatArray, allowed: tuple[float, float], width: float
) -> Parity:
    """Compare outputs ``(N, …)`` float32 for the same samples, N at least 2; another shape is infinitely far.

    ``width`` is what 255 grey levels are in the outputs, see ``value_range``.
    """
    levels, exact = 255 / width, reference.astype(np.float64)
    difference = np.abs(exact - candidate) if reference.shape == candidate.shape else np.full(1, np.inf)
    return Parity(
        mean=float(difference.mean()) * levels,
        max=float(difference.max()) * levels,
        spread=float(np.abs(np.diff(exact, axis=0)).mean()) * levels,
        allowed=allowed,
    )


def value_range(session: Any, name: str = "") -> float:
    """Width of the range of a network's pictures; 2, from -1 to 1, where its kind is not known."""
    fit = fit_of(session, name)
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
