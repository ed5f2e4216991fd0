"""How far two networks' outputs lie apart, on samples that keep a swapper's or an enhancer's contract."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from colab_helpers.errors import ModelError
from colab_helpers.language import tr
from colab_helpers.models.session import Network

SAMPLES = 3

FloatArray = npt.NDArray[np.float32]


class Limits(BaseModel):
    """How far outputs may lie apart, in grey levels of 255."""

    model_config = ConfigDict(frozen=True)

    mean: float
    max: float


SAME = Limits(mean=0.1, max=1.0)
"""The same arithmetic in another order (TensorFloat-32 on GPUs included): nothing 8 bits could show."""
NEARLY_SAME = Limits(mean=1.0, max=4.0)
"""Half precision."""


class Parity(BaseModel):
    """How far two networks' outputs lie apart, in grey levels of 255.

    Attributes:
        mean: Mean absolute difference.
        max: Largest absolute difference.
        spread: Mean absolute difference between the outputs of different samples.
        limits: What was allowed.
    """

    model_config = ConfigDict(frozen=True)

    mean: float
    max: float
    spread: float
    limits: Limits

    @property
    def problem(self) -> str:
        """Why this is no proof that both compute the same; empty if it is."""
        # Written so that NaN fails.
        if not (self.mean <= self.limits.mean and self.max <= self.limits.max):
            return tr(
                "the output differs by {mean:.3g} grey levels on average and {max:.3g} at most "
                "({mean_limit:g} and {max_limit:g} are allowed)",
                mean=self.mean,
                max=self.max,
                mean_limit=self.limits.mean,
                max_limit=self.limits.max,
            )
        # Outputs that hardly depend on the input would agree whatever became of the network.
        if not self.spread > 10 * self.mean:
            return tr(
                "the output differs by {mean:.3g} grey levels on average where those of different "
                "samples lie only {spread:.3g} apart, which proves nothing",
                mean=self.mean,
                spread=self.spread,
            )
        return ""


def compare(reference: FloatArray, candidate: FloatArray, limits: Limits, *, value_range: float) -> Parity:
    """Compare outputs for the same samples.

    Args:
        reference: ``(N, …)`` float32, N at least 2.
        candidate: Of the same shape; another shape counts as infinitely far.
        limits: What is allowed.
        value_range: What 255 grey levels are in the outputs: 1 for 0 to 1, 2 for -1 to 1.
    """
    levels, exact = 255 / value_range, reference.astype(np.float64)
    difference = np.abs(exact - candidate) if reference.shape == candidate.shape else np.full(1, np.inf)
    return Parity(
        mean=float(difference.mean()) * levels,
        max=float(difference.max()) * levels,
        spread=float(np.abs(np.diff(exact, axis=0)).mean()) * levels,
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
