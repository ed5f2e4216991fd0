"""Stacks of samples through a network: cut, padded, and halved where memory runs out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from colab_helpers.errors import OutOfMemoryError
from colab_helpers.models.pool import is_out_of_memory
from colab_helpers.models.session import BatchLimit, Network

# As ONNX Runtime's CUDA provider words it.
CUDA_MESSAGE = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. "
    "bfc_arena.cc:376 AllocateRawInternal Failed to allocate memory for requested buffer of size 268435456"
)


class Session:
    """Doubles its input; refuses more than ``fits`` samples as a full GPU does."""

    def __init__(self, fits: int, *, batch: int | str = "N", message: str = CUDA_MESSAGE) -> None:
        self.fits, self.batch, self.message = fits, batch, message
        self.asked: list[int] = []

    def get_inputs(self) -> list[Any]:
        return [type("Input", (), {"shape": [self.batch, 3]})]

    def run(self, _names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        (value,) = feed.values()
        self.asked.append(len(value))
        if len(value) > self.fits:
            raise RuntimeError(self.message)
        return [value * 2]


def network(session: Session, *, largest: int = 16) -> Network:
    return Network(
        name="net", path=Path("net.onnx"), session=session, provider="cuda", standin=False,
        input_names=("x",), output_names=("y",), limit=BatchLimit(largest),
    )  # fmt: skip


def test_samples_go_one_by_one_where_stacks_gain_nothing() -> None:
    samples = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    session = Session(1)
    net = network(session, largest=BatchLimit().largest)
    assert np.array_equal(net.run_stack(samples), samples * 2)
    assert session.asked == [1] * 5


def test_stacks_are_not_padded_where_any_size_will_do() -> None:
    session = Session(99)
    network(session).run_stack(np.zeros((21, 3), np.float32))
    assert session.asked == [16, 5]


def test_a_batch_the_graph_insists_on_is_filled_up() -> None:
    samples = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    session = Session(99, batch=4)
    assert np.array_equal(network(session).run_stack(samples), samples * 2)
    assert session.asked == [4, 4]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 16, 17, 40])
@pytest.mark.parametrize("fits", [1, 2, 3, 7, 16, 99])
def test_every_sample_comes_out_once_whatever_fits(count: int, fits: int) -> None:
    samples = np.random.default_rng(count).normal(size=(count, 3)).astype(np.float32)
    session = Session(fits)
    net = network(session)
    assert np.array_equal(net.run_stack(samples), samples * 2)
    refused = [asked for asked in session.asked if asked > fits]
    # Each size is tried once and halved: memory that ran out is not asked for again.
    assert len(refused) == len(set(refused)) == len(net.limit.notes)
    session.asked.clear()
    net.run_stack(samples)
    assert max(session.asked) <= fits


def test_what_was_lowered_is_said() -> None:
    net = network(Session(3))
    net.run_stack(np.zeros((8, 3), np.float32))
    assert net.limit.notes == [
        "net: memory ran out with 8 at once; going on with 4",
        "net: memory ran out with 4 at once; going on with 2",
    ]


@pytest.mark.parametrize("batch", ["N", 1, 4])
def test_nothing_left_to_halve_is_an_error_with_a_remedy(batch: int | str) -> None:
    with pytest.raises(OutOfMemoryError, match=r"GPU memory ran out.*lighter preset") as caught:
        network(Session(0, batch=batch)).run_stack(np.zeros((2, 3), np.float32))
    assert isinstance(caught.value, MemoryError)
    assert "Failed to allocate" in str(caught.value.__cause__)


def test_other_errors_are_not_mistaken_for_memory() -> None:
    session = Session(1, message="Invalid rank for input: x")
    with pytest.raises(RuntimeError, match="Invalid rank"):
        network(session).run_stack(np.zeros((2, 3), np.float32))
    assert session.asked == [2]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA failure 2: out of memory ; GPU=0"),
        RuntimeError("CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED"),
        RuntimeError("CUBLAS failure 3: the resource allocation failed ; GPU=0"),
        RuntimeError("bfc_arena.cc:360 Available memory of 7 is smaller than requested bytes of 805896448"),
        RuntimeError("CUDNN failure 4: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("std::bad_alloc"),
    ],
    ids=str,
)
def test_ways_to_say_that_memory_ran_out(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_out_of_memory(ValueError("Got invalid dimensions"))
