"""What ONNX Runtime is told on CUDA."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from colab_helpers.errors import ProviderError
from colab_helpers.models import providers
from colab_helpers.models.pool import SessionPool
from colab_helpers.models.providers import cuda_options, wait_without_spinning
from colab_helpers.models.session import Runtime, create_session
from tests.models.graphs import net
from tests.models.pretend import CPU, CUDA, PretendedGpu, pretend_gpu

USUAL = {"arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "EXHAUSTIVE"}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> PretendedGpu:
    return pretend_gpu(monkeypatch)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(net("plain"), path)
    return path


def test_cuda() -> None:
    assert cuda_options() == USUAL
    assert cuda_options(memory_limit=14 << 30) == {**USUAL, "gpu_mem_limit": "15032385536"}


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
    ],
    ids=["agrees", "no device", "refuses"],
)
def test_threads_that_wait_for_the_gpu_sleep(
    monkeypatch: pytest.MonkeyPatch, driver: Driver, agreed: bool, calls: list[tuple[str, int]]
) -> None:
    monkeypatch.setattr(providers.ctypes, "CDLL", lambda name: driver)
    assert wait_without_spinning() is agreed
    assert driver.asked == calls


def test_without_a_driver_nothing_waits_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not wait_without_spinning("libnothing-of-this-name.so")
    monkeypatch.setattr(providers.ctypes, "CDLL", lambda name: object())  # an old one, without the function
    assert not wait_without_spinning()


def test_every_session_is_asked_for_with_them(gpu: PretendedGpu, model: Path) -> None:
    runtime = Runtime("cuda")
    runtime.open(model)
    runtime.graphs = True
    runtime.open(model)
    runtime.pool = SessionPool(1 << 30, lambda: 0, lambda: 1 << 40, ceiling=2 << 30)
    runtime.open(model)
    captured = {**USUAL, "enable_cuda_graph": "1"}
    assert gpu.options("net.onnx", CUDA) == [USUAL, captured, {**captured, "gpu_mem_limit": str(2 << 30)}]
    assert [providers[-1] for _, providers in gpu.asked] == [CPU] * 4


def test_the_options_are_known_to_nobody_on_the_cpu(model: Path) -> None:
    assert create_session(str(model), "cpu", memory_limit=5).get_providers() == [CPU]


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
