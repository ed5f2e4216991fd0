"""Execution providers, options of ONNX Runtime and the driver, and batches of samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from colab_helpers.errors import OutOfMemoryError, ProviderError
from colab_helpers.models import session
from colab_helpers.models.session import Network, Runtime, create_session, wait_without_spinning
from colab_helpers.models.session_pool import SessionPool
from tests.helpers.gpu import CPU, CUDA, FakeGpu
from tests.helpers.networks import net

DEFAULT = {"arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "EXHAUSTIVE"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(net("plain"), path)
    return path


# --- options of ONNX Runtime and the driver -----------------------------------------------------------


class Driver:
    """CUDA's driver library, in which one function fails."""

    def __init__(self, fails: str = "") -> None:
        self.calls: list[tuple[str, int]] = []
        self._fails = fails

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            self.calls.append((name, arguments[-1]))
            return int(name == self._fails)

        return call


CALLS = [("cuInit", 0), ("cuDeviceGet", 0), ("cuDevicePrimaryCtxSetFlags_v2", 4)]


@pytest.mark.parametrize(
    ("driver", "calls"),
    [
        (Driver(), CALLS),
        (Driver("cuDeviceGet"), CALLS[:2]),
        (Driver("cuDevicePrimaryCtxSetFlags_v2"), CALLS),
        (object(), []),  # without the functions
    ],
    ids=["agrees", "no device", "refuses", "old"],
)
def test_threads_waiting_for_the_gpu_do_not_spin(
    monkeypatch: pytest.MonkeyPatch, driver: Any, calls: list[tuple[str, int]]
) -> None:
    wait_without_spinning("libnothing-of-this-name.so")
    monkeypatch.setattr(session.ctypes, "CDLL", lambda name: driver)
    wait_without_spinning()
    assert getattr(driver, "calls", []) == calls


def test_cuda_options_of_plain_and_captured_sessions(gpu: FakeGpu, model: Path) -> None:
    plain = Runtime("cuda")
    plain.open(model)
    pool = SessionPool(1 << 30, lambda: 0, lambda: 1 << 40, ceiling=2 << 30)
    for runtime in (Runtime("cuda", graphs=True), plain.pooled(pool, graphs=True)):
        runtime.open(model)
    captured = {**DEFAULT, "enable_cuda_graph": "1"}
    assert gpu.options("net.onnx", CUDA) == [DEFAULT, captured, {**captured, "gpu_mem_limit": str(2 << 30)}]
    assert [providers[-1] for _, providers in gpu.asked] == [CPU] * 5


def test_onnxruntime_does_not_retry_with_other_options(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "net.onnx"
    broken.write_bytes(b"no network")
    with pytest.raises(Exception, match="Protobuf"):
        create_session(str(broken), "cpu")
    assert capfd.readouterr().out == ""


def test_out_of_memory_while_loading_does_not_select_the_cpu(
    gpu: FakeGpu, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = SessionPool(1 << 30, lambda: 0, lambda: 1 << 40)
    runtime = Runtime("cuda", pool=pool)
    real, refusals = gpu.create, [True]

    def create(*words: object, **more: object) -> object:
        if refusals:
            refusals.pop()
            raise RuntimeError("CUDA failure 2: out of memory ; GPU=0")
        return real(*words, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("onnxruntime.InferenceSession", create)
    assert runtime.open(model).session.get_providers()[0] == CUDA
    assert pool.notes == ["net: memory ran out while loading; loaded again after unloading the others"]


def test_fallback_of_onnxruntime_to_the_cpu_is_detected(gpu: FakeGpu) -> None:
    gpu.missing.add(CUDA)
    assert Runtime().provider == "cpu"
    with pytest.raises(ProviderError, match="fell back to the CPU"):
        Runtime("cuda")


# --- batches of samples -------------------------------------------------------------------------------


class Doubles:
    """A session that doubles its input, or fails with a message."""

    def __init__(self, message: str = "") -> None:
        self.message = message

    def run(self, _names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        (value,) = feed.values()
        assert len(value) == 1
        if self.message:
            raise RuntimeError(self.message)
        return [value * 2]


def run_stack(session: Doubles) -> np.ndarray:
    network = Network("net", Path("net.onnx"), session, "cuda", False, ("x",), ("y",))
    return network.run_stack(SAMPLES)


SAMPLES = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)


def test_samples_of_a_batch_run_one_by_one() -> None:
    assert np.array_equal(run_stack(Doubles()), SAMPLES * 2)


def test_out_of_memory_is_an_error_with_a_remedy() -> None:
    message = "Failed to allocate memory for requested buffer of size 268435456"
    with pytest.raises(OutOfMemoryError, match=r"GPU memory ran out.*lighter preset") as caught:
        run_stack(Doubles(message))
    assert isinstance(caught.value, MemoryError)
    assert message in str(caught.value.__cause__)
    with pytest.raises(RuntimeError, match="Invalid rank"):  # not out of memory
        run_stack(Doubles("Invalid rank for input: x"))
