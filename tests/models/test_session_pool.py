"""The session pool: its memory budget, unloading, and retries when memory runs out."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from colab_helpers.errors import OutOfMemoryError
from colab_helpers.faces import engine
from colab_helpers.models.parity import sample_inputs
from colab_helpers.models.session import Runtime
from colab_helpers.models.session_pool import SessionPool, is_out_of_memory
from tests.conftest import TIMEOUT

MEGABYTE = 1_000_000


class Card:
    """A GPU with a pool and simulated memory; sizes in megabytes."""

    def __init__(self, folder: Path, size: int, budget: int, **more: Any) -> None:
        self.folder, self.size, self.foreign = folder, size * MEGABYTE, 0
        self.taken = self.peak = 0
        self.pool = SessionPool(budget * MEGABYTE, self.used, self.free, **more)
        self._lock = threading.RLock()  # garbage collection may free a session during take()

    def used(self) -> int:
        return self.taken + self.foreign

    def free(self) -> int:
        return self.size - self.used()

    def take(self, count: int) -> None:
        if count > self.free():
            raise RuntimeError(f"Failed to allocate memory for requested buffer of size {count}")
        with self._lock:
            self.taken += count
            self.peak = max(self.peak, self.taken)

    def give(self, count: int) -> None:
        with self._lock:
            self.taken -= count

    def net(
        self, name: str, size: int = 150, *, working: int = 0, create: Callable[[], Any] | None = None
    ) -> Any:
        """A network of 100 MB on disk, and this size in memory."""
        path = self.folder / f"{name}.onnx"
        with path.open("wb") as out:
            out.truncate(100 * MEGABYTE)
        make = create or (lambda: Session(self, size * MEGABYTE, working * MEGABYTE))
        return self.pool.session(path, make)


class Session:
    """Takes memory while it is loaded, and ``working`` bytes more during a call."""

    def __init__(self, card: Card, size: int, working: int) -> None:
        self.card, self.working = card, working
        self.card.take(size)
        weakref.finalize(self, card.give, size)

    def run(self, _names: object, feed: int) -> int:
        self.card.take(self.working)
        self.card.give(self.working)
        return feed * 2


@pytest.fixture
def card(tmp_path: Path) -> Callable[..., Card]:
    return partial(Card, tmp_path)


def test_actual_size_of_a_loaded_network_counts(card) -> None:
    gpu = card(1000, 600)
    gpu.net("a").run(None, 1)
    assert gpu.net("b", 550).card is gpu  # attribute access loads the session
    assert gpu.pool.loaded == {"b": 550 * MEGABYTE}
    assert gpu.pool.notes == ["a was unloaded to make room for b"]


def test_tracked_growth_counts_whenever_the_network_is_loaded(card) -> None:
    gpu = card(1000, 600)
    net = gpu.net("a")
    with net.track_growth():
        gpu.take(80 * MEGABYTE)
    assert gpu.pool.loaded == {"a": 230 * MEGABYTE}
    gpu.give(80 * MEGABYTE)
    assert gpu.pool.unload_idle()
    net.run(None, 1)
    assert gpu.pool.loaded == {"a": 230 * MEGABYTE}


def test_least_recently_used_network_is_unloaded(card) -> None:
    gpu = card(1000, 510)
    a, b, c, d = map(gpu.net, "abcd")
    for net in (a, b, c, a):  # all fit
        assert net.run(None, 21) == 42
    assert gpu.pool.loaded == dict.fromkeys("bca", 150 * MEGABYTE)
    assert not gpu.pool.notes
    d.run(None, 1)
    assert list(gpu.pool.loaded) == ["c", "a", "d"]


def test_session_can_be_unloaded_after_its_call(card) -> None:
    gpu = card(1000, 400)
    net = gpu.net("a")
    with gpu.pool.using(net):
        assert net.run(None, 1) == 2
    assert gpu.pool.unload_idle()
    assert (gpu.taken, net.session) == (0, None)


def test_threads_share_a_budget_for_two_networks(card) -> None:
    gpu = card(1000, 400)
    nets = [gpu.net(name) for name in "abcd"]
    results: list[int] = []

    def work(seed: int) -> None:
        for k in np.random.default_rng(seed).integers(0, 4, 50):
            results.append(nets[k].run(None, 1))

    threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert results == [2] * 200
    assert gpu.peak <= 400 * MEGABYTE
    assert len(gpu.pool.loaded) == 2


@pytest.mark.parametrize(
    ("size", "working", "note"),
    [
        (250, 0, "b: memory ran out while loading; loaded again after unloading the others"),
        (310, 100, "b: memory ran out; the idle networks were unloaded"),
    ],
    ids=["loading", "running"],
)
def test_out_of_memory_is_retried_after_unloading(card, size: int, working: int, note: str) -> None:
    gpu = card(size, 900)  # the budget exceeds the GPU's memory
    for name in "ab":
        assert gpu.net(name, working=working).run(None, 1) == 2
    assert list(gpu.pool.loaded) == ["b"]
    assert gpu.pool.notes == [note]


def test_network_larger_than_the_budget_is_an_error_with_a_remedy(card) -> None:
    gpu = card(100, 90)
    with pytest.raises(
        OutOfMemoryError, match=r"a\.onnx: the network needs 200 MB of memory, but only 90 MB.*lighter preset"
    ):
        gpu.net("a").run(None, 1)
    assert gpu.taken == 0


def test_other_errors_are_not_retried(card) -> None:
    tries = []

    def broken() -> Any:
        tries.append(1)
        raise RuntimeError("Invalid model")

    with pytest.raises(RuntimeError, match="Invalid model"):
        card(1000, 900).net("a", create=broken).run(None, 1)
    assert len(tries) == 1


def test_wait_for_memory_of_other_programs_is_limited(card) -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if now[0] >= 3:
            gpu.foreign = 0

    gpu = card(500, 400, wait=30.0, sleep=sleep, clock=lambda: now[0])
    gpu.foreign = 450 * MEGABYTE
    assert gpu.net("a").run(None, 1) == 2
    assert gpu.pool.notes == ["a: waited 3.0 s for memory to become free"]
    gpu.foreign, now[0] = 400 * MEGABYTE, -100.0
    with pytest.raises(OutOfMemoryError):
        gpu.net("b").run(None, 1)
    assert now[0] == -70


def test_runtime_opens_networks_through_the_pool(standins: Path) -> None:
    pool = SessionPool(1 << 30, lambda: 0, lambda: 1 << 40)
    network = Runtime("cpu", pool=pool).open(standins / "inswapper_128.onnx")
    assert network.standin
    assert list(pool.loaded) == ["inswapper_128"]
    pool.unload_idle()
    assert not pool.loaded
    inputs = sample_inputs(network.session, 2).values()
    plain = Runtime("cpu").open(standins / "inswapper_128.onnx")
    assert np.allclose(network.run_stack(*inputs), plain.run_stack(*inputs), atol=1e-5)
    assert list(pool.loaded) == ["inswapper_128"]


def test_budget_of_the_gpu_pool_is_free_memory_minus_a_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "gpu_memory", lambda: (2 << 30, 15 << 30))
    pool = engine.gpu_pool(wait=5.0)
    assert pool.budget == (13 << 30) - (512 << 20)
    assert (pool.used(), pool.free(), pool.wait) == (2 << 30, 13 << 30, 5.0)
    assert pool.ceiling == (15 << 30) - (512 << 20)
    monkeypatch.setattr(engine, "gpu_memory", lambda: None)
    assert engine.gpu_pool() is None


@pytest.mark.parametrize(
    "message",
    [
        "CUDA failure 2: out of memory ; GPU=0",
        "CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED",
        "CUBLAS failure 3: the resource allocation failed ; GPU=0",
        "bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 268435456",
        "bfc_arena.cc:360 Available memory of 7 is smaller than requested bytes of 805896448",
        "CUDNN failure 4: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "std::bad_alloc",
    ],
)
def test_out_of_memory_messages_are_recognised(message: str) -> None:
    assert is_out_of_memory(RuntimeError(message))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(ValueError("Got invalid dimensions"))
