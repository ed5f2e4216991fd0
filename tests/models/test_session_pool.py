"""The pool: never over its budget, the same results as without one, and short memory survived."""

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
    """A graphics card with a pool, which knows what is loaded on it; sizes are given in megabytes."""

    def __init__(self, folder: Path, size: int, budget: int, **more: Any) -> None:
        self.folder, self.size, self.foreign = folder, size * MEGABYTE, 0
        self.taken = self.peak = 0
        self.pool = SessionPool(budget * MEGABYTE, self.used, self.free, **more)
        self._lock = threading.RLock()  # a session may be collected while another is made

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
    """Takes memory as long as it is there, and more in a call with ``working`` bytes."""

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


def test_a_network_that_takes_more_than_guessed_counts_from_when_it_is_loaded(card) -> None:
    there = card(1000, 600)
    there.net("a").run(None, 1)
    assert there.net("b", 550).card is there  # asked about itself, as when it is opened
    assert there.pool.loaded == {"b": 550 * MEGABYTE}
    assert there.pool.notes == ["a was unloaded to make room for b"]


def test_what_is_made_beside_a_network_counts_whenever_it_is_loaded(card) -> None:
    there = card(1000, 600)
    net = there.net("a")
    with net.track_growth():
        there.take(80 * MEGABYTE)
    assert there.pool.loaded == {"a": 230 * MEGABYTE}
    there.give(80 * MEGABYTE)
    assert there.pool.unload_idle()
    net.run(None, 1)
    assert there.pool.loaded == {"a": 230 * MEGABYTE}


def test_the_least_recently_used_leaves(card) -> None:
    there = card(1000, 510)
    a, b, c, d = map(there.net, "abcd")
    for net in (a, b, c, a):  # all fit
        assert net.run(None, 21) == 42
    assert there.pool.loaded == dict.fromkeys("bca", 150 * MEGABYTE)
    assert not there.pool.notes
    d.run(None, 1)
    assert list(there.pool.loaded) == ["c", "a", "d"]


def test_nothing_holds_a_session_once_its_call_is_over(card) -> None:
    there = card(1000, 400)
    net = there.net("a")
    with there.pool.using(net):
        assert net.run(None, 1) == 2
    assert there.pool.unload_idle()
    assert (there.taken, net.session) == (0, None)


def test_several_threads_share_a_budget_for_two(card) -> None:
    there = card(1000, 400)
    nets = [there.net(name) for name in "abcd"]
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
    assert there.peak <= 400 * MEGABYTE
    assert len(there.pool.loaded) == 2


@pytest.mark.parametrize(
    ("size", "working", "note"),
    [
        (250, 0, "b: memory ran out while loading; loaded again after unloading the others"),
        (310, 100, "b: memory ran out; the idle networks were unloaded"),
    ],
    ids=["loading", "running"],
)
def test_memory_that_runs_out_is_made_and_tried_again(card, size: int, working: int, note: str) -> None:
    there = card(size, 900)  # the budget is more than the card has
    for name in "ab":
        assert there.net(name, working=working).run(None, 1) == 2
    assert list(there.pool.loaded) == ["b"]
    assert there.pool.notes == [note]


def test_what_does_not_fit_at_all_is_an_error_with_a_remedy(card) -> None:
    there = card(100, 90)
    with pytest.raises(
        OutOfMemoryError, match=r"a\.onnx: the network needs 200 MB of memory, but only 90 MB.*lighter preset"
    ):
        there.net("a").run(None, 1)
    assert there.taken == 0


def test_a_fault_that_is_not_about_memory_is_not_retried(card) -> None:
    tries = []

    def broken() -> Any:
        tries.append(1)
        raise RuntimeError("Invalid model")

    with pytest.raises(RuntimeError, match="Invalid model"):
        card(1000, 900).net("a", create=broken).run(None, 1)
    assert len(tries) == 1


def test_waits_for_other_programs_as_long_as_allowed(card) -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if now[0] >= 3:
            there.foreign = 0

    there = card(500, 400, wait=30.0, sleep=sleep, clock=lambda: now[0])
    there.foreign = 450 * MEGABYTE
    assert there.net("a").run(None, 1) == 2
    assert there.pool.notes == ["a: waited 3.0 s for memory to become free"]
    there.foreign, now[0] = 400 * MEGABYTE, -100.0
    with pytest.raises(OutOfMemoryError):
        there.net("b").run(None, 1)
    assert now[0] == -70


def test_a_runtime_opens_its_networks_through_the_pool(standins: Path) -> None:
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


def test_the_gpus_pool_takes_what_is_free_but_a_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "gpu_memory", lambda: (2 << 30, 15 << 30))
    pool = engine.gpu_pool(wait=5.0)
    assert pool.budget == (13 << 30) - (512 << 20)
    assert (pool.used(), pool.free(), pool.wait) == (2 << 30, 13 << 30, 5.0)
    assert pool.ceiling == (15 << 30) - (512 << 20)
    monkeypatch.setattr(engine, "gpu_memory", lambda: None)
    assert engine.gpu_pool() is None


@pytest.mark.parametrize(
    "said",
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
def test_ways_to_say_that_memory_ran_out(said: str) -> None:
    assert is_out_of_memory(RuntimeError(said))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(ValueError("Got invalid dimensions"))
