"""Where networks run, what ONNX Runtime is told, and stacks of samples through a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from colab_helpers.errors import OutOfMemoryError, ProviderError
from colab_helpers.models import session
from colab_helpers.models.pool import SessionPool
from colab_helpers.models.session import Network, Runtime, create_session, wait_without_spinning
from tests.helpers.gpu import CPU, CUDA, PretendedGpu, pretend_gpu
from tests.helpers.networks import net

USUAL = {"arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "EXHAUSTIVE"}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> PretendedGpu:
    return pretend_gpu(monkeypatch)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(net("plain"), path)
    return path


# --- what ONNX Runtime and the driver are told --------------------------------------------------------


class Driver:
    """CUDA's driver library; answers with these codes, 0 for success."""

    def __init__(self, *, device: int = 0, flags: int = 0) -> None:
        self.asked: list[tuple[str, int]] = []
        self._device, self._flags = device, flags

    def cuInit(self, flags: int) -> int:  # noqa: N802
        self.asked.append(("init", flags))
        return 0

    def cuDeviceGet(self, _device: object, number: int) -> int:  # noqa: N802
        self.asked.append(("device", number))
        return self._device

    def cuDevicePrimaryCtxSetFlags_v2(self, _device: object, flags: int) -> int:  # noqa: N802
        self.asked.append(("flags", flags))
        return self._flags


@pytest.mark.parametrize(
    ("driver", "agreed", "calls"),
    [
        (Driver(), True, [("init", 0), ("device", 0), ("flags", 4)]),
        (Driver(device=100), False, [("init", 0), ("device", 0)]),
        (Driver(flags=1), False, [("init", 0), ("device", 0), ("flags", 4)]),
        (object(), False, []),  # an old one, without the functions
    ],
    ids=["agrees", "no device", "refuses", "old"],
)
def test_threads_that_wait_for_the_gpu_sleep(
    monkeypatch: pytest.MonkeyPatch, driver: Any, agreed: bool, calls: list[tuple[str, int]]
) -> None:
    monkeypatch.setattr(session.ctypes, "CDLL", lambda name: driver)
    assert wait_without_spinning() is agreed
    assert getattr(driver, "asked", []) == calls


def test_without_a_driver_nothing_waits_otherwise() -> None:
    assert not wait_without_spinning("libnothing-of-this-name.so")


def test_what_every_session_is_told(gpu: PretendedGpu, model: Path) -> None:
    plain = Runtime("cuda")
    plain.open(model)
    pool = SessionPool(1 << 30, lambda: 0, lambda: 1 << 40, ceiling=2 << 30)
    for runtime in (Runtime("cuda", graphs=True), plain.pooled(pool, graphs=True)):
        runtime.open(model)
    captured = {**USUAL, "enable_cuda_graph": "1"}
    assert gpu.options("net.onnx", CUDA) == [USUAL, captured, {**captured, "gpu_mem_limit": str(2 << 30)}]
    assert [providers[-1] for _, providers in gpu.asked] == [CPU] * 5


def test_onnxruntime_never_tries_again_with_other_options(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "net.onnx"
    broken.write_bytes(b"no network")
    with pytest.raises(Exception, match="Protobuf"):
        create_session(str(broken), "cpu")
    assert capfd.readouterr().out == ""


def test_memory_that_runs_out_while_loading_is_no_reason_for_the_cpu(
    gpu: PretendedGpu, model: Path, monkeypatch: pytest.MonkeyPatch
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
    assert pool.notes == ["net: memory ran out while it was loaded; loaded again alone"]


def test_a_gpu_that_onnxruntime_leaves_out_is_no_gpu(gpu: PretendedGpu) -> None:
    gpu.missing.add(CUDA)
    assert Runtime().provider == "cpu"
    with pytest.raises(ProviderError, match="fell back to the CPU"):
        Runtime("cuda")


# --- stacks of samples --------------------------------------------------------------------------------

CUDA_MESSAGE = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. "
    "bfc_arena.cc:376 AllocateRawInternal Failed to allocate memory for requested buffer of size 268435456"
)


class Session:
    """Doubles its input, or fails with a message."""

    def __init__(self, batch: int | str = "N", message: str = "") -> None:
        self.batch, self.message = batch, message
        self.asked: list[int] = []

    def get_inputs(self) -> list[Any]:
        return [type("Input", (), {"shape": [self.batch, 3]})]

    def run(self, _names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        (value,) = feed.values()
        self.asked.append(len(value))
        if self.message:
            raise RuntimeError(self.message)
        return [value * 2]


def network(session: Session) -> Network:
    return Network(
        name="net", path=Path("net.onnx"), session=session, provider="cuda", standin=False,
        input_names=("x",), output_names=("y",),
    )  # fmt: skip


@pytest.mark.parametrize(("batch", "asked"), [("N", [1] * 6), (1, [1] * 6), (4, [4, 4]), (9, [9])])
def test_every_sample_comes_out_once_whatever_the_graph_insists_on(
    batch: int | str, asked: list[int]
) -> None:
    samples = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    session = Session(batch)
    assert np.array_equal(network(session).run_stack(samples), samples * 2)
    assert session.asked == asked


@pytest.mark.parametrize("batch", ["N", 1, 4])
def test_memory_that_runs_out_is_an_error_with_a_remedy(batch: int | str) -> None:
    with pytest.raises(OutOfMemoryError, match=r"GPU memory ran out.*lighter preset") as caught:
        network(Session(batch, CUDA_MESSAGE)).run_stack(np.zeros((2, 3), np.float32))
    assert isinstance(caught.value, MemoryError)
    assert "Failed to allocate" in str(caught.value.__cause__)


def test_other_errors_are_not_mistaken_for_memory() -> None:
    with pytest.raises(RuntimeError, match="Invalid rank"):
        network(Session(message="Invalid rank for input: x")).run_stack(np.zeros((2, 3), np.float32))
