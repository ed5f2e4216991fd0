"""The pool: never over its budget, the same results as without one, and short memory survived."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from colab_helpers.errors import OutOfMemoryError
from colab_helpers.faces import engine
from colab_helpers.models.pool import SessionPool, is_out_of_memory
from colab_helpers.models.session import Runtime, create_session
from tests.conftest import PATIENCE

MEGABYTE = 1_000_000


class Card:
    """A graphics card that knows what is loaded on it."""

    def __init__(self, size: int) -> None:
        self.size, self.taken, self.peak, self.foreign = size, 0, 0, 0
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


class Session:
    """Takes memory as long as it is there, and more in a call with ``working`` bytes."""

    def __init__(self, card: Card, size: int, working: int = 0) -> None:
        self.card, self.working = card, working
        self.card.take(size)
        weakref.finalize(self, card.give, size)

    def run(self, _names: object, feed: int) -> int:
        self.card.take(self.working)
        self.card.give(self.working)
        return feed * 2


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str, int], Path]:
    def make(name: str, size: int) -> Path:
        path = tmp_path / f"{name}.onnx"
        with path.open("wb") as out:
            out.truncate(size)
        return path

    return make


def pool_on(card: Card, budget: int, **more: Any) -> SessionPool:
    return SessionPool(budget, card.used, card.free, **more)


def sessions(
    pool: SessionPool, card: Card, file: Callable[[str, int], Path], names: str, *, working: int = 0
) -> list[Any]:
    """Networks of 100 MB on disk and 150 in memory."""
    return [
        pool.session(file(name, 100 * MEGABYTE), lambda: Session(card, 150 * MEGABYTE, working))
        for name in names
    ]


def test_everything_stays_loaded_where_it_fits(file) -> None:
    card = Card(1000 * MEGABYTE)
    pool = pool_on(card, 800 * MEGABYTE)
    nets = sessions(pool, card, file, "abc")
    for _ in range(3):
        assert [net.run(None, k) for k, net in enumerate(nets)] == [0, 2, 4]
    assert pool.loaded == dict.fromkeys("abc", 150 * MEGABYTE)
    assert not pool.notes


def test_a_network_that_takes_more_than_guessed_counts_from_when_it_is_loaded(file) -> None:
    card = Card(1000 * MEGABYTE)
    pool = pool_on(card, 600 * MEGABYTE)
    (other,) = sessions(pool, card, file, "a")
    other.run(None, 1)
    large = pool.session(file("b", 50 * MEGABYTE), lambda: Session(card, 550 * MEGABYTE))
    assert large.card is card  # asked about itself, as when it is opened
    assert pool.loaded == {"b": 550 * MEGABYTE}
    assert pool.notes == ["a was unloaded to make room for b"]


def test_taking_turns_never_exceeds_the_budget(file) -> None:
    card = Card(1000 * MEGABYTE)
    pool = pool_on(card, 350 * MEGABYTE)
    nets = sessions(pool, card, file, "abc")
    for k in np.random.default_rng(1).integers(0, 3, 60):
        assert nets[k].run(None, 21) == 42
    assert card.peak <= 350 * MEGABYTE
    assert len(pool.loaded) == 2
    assert "a was unloaded to make room for b" in pool.notes


def test_the_least_recently_used_leaves(file) -> None:
    card = Card(1000 * MEGABYTE)
    pool = pool_on(card, 510 * MEGABYTE)
    a, b, c, d = sessions(pool, card, file, "abcd")
    for net in (a, b, c, a, d):
        net.run(None, 1)
    assert list(pool.loaded) == ["c", "a", "d"]


def test_nothing_holds_a_session_once_its_call_is_over(file) -> None:
    card = Card(1000 * MEGABYTE)
    pool = pool_on(card, 400 * MEGABYTE)
    (net,) = sessions(pool, card, file, "a")
    with pool.using(net.path) as slot:
        assert net.run(None, 1) == 2
    assert pool.unload_idle()
    assert (card.taken, slot.session) == (0, None)


def test_several_threads_share_a_budget_for_two(file) -> None:
    card = Card(1000 * MEGABYTE)
    pool = pool_on(card, 400 * MEGABYTE)
    nets = sessions(pool, card, file, "abcd")
    results: list[int] = []

    def work(seed: int) -> None:
        for k in np.random.default_rng(seed).integers(0, 4, 50):
            results.append(nets[k].run(None, 1))

    threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert results == [2] * 200
    assert card.peak <= 400 * MEGABYTE


@pytest.mark.parametrize(
    ("size", "working", "note"),
    [
        (250, 0, "b: memory ran out while it was loaded; loaded again alone"),
        (310, 100, "b: memory ran out; the idle networks were unloaded"),
    ],
    ids=["loading", "running"],
)
def test_memory_that_runs_out_is_made_and_tried_again(file, size: int, working: int, note: str) -> None:
    card = Card(size * MEGABYTE)
    pool = pool_on(card, 900 * MEGABYTE)  # more than the card has
    a, b = sessions(pool, card, file, "ab", working=working * MEGABYTE)
    assert [a.run(None, 1), b.run(None, 1)] == [2, 2]
    assert list(pool.loaded) == ["b"]
    assert pool.notes == [note]


def test_what_does_not_fit_at_all_is_an_error_with_a_remedy(file) -> None:
    card = Card(100 * MEGABYTE)
    (net,) = sessions(pool_on(card, 90 * MEGABYTE), card, file, "a")
    with pytest.raises(OutOfMemoryError, match=r"a\.onnx: the network does not fit.*lighter preset"):
        net.run(None, 1)
    assert card.taken == 0


def test_a_fault_that_is_not_about_memory_is_not_retried(file) -> None:
    tries = []

    def broken() -> Any:
        tries.append(1)
        raise RuntimeError("Invalid model")

    net = pool_on(Card(1000), 900).session(file("a", 1), broken)
    with pytest.raises(RuntimeError, match="Invalid model"):
        net.run(None, 1)
    assert len(tries) == 1


def test_waits_for_other_programs_as_long_as_allowed(file) -> None:
    card, now = Card(500 * MEGABYTE), [0.0]
    card.foreign = 450 * MEGABYTE

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if now[0] >= 3:
            card.foreign = 0

    pool = pool_on(card, 400 * MEGABYTE, wait=30.0, sleep=sleep, clock=lambda: now[0])
    a, b = sessions(pool, card, file, "ab")
    assert a.run(None, 1) == 2
    assert pool.notes == ["a: waited 3.0 s for memory to become free"]
    card.foreign, now[0] = 400 * MEGABYTE, -100.0
    with pytest.raises(OutOfMemoryError):
        b.run(None, 1)
    assert now[0] == -70


def test_real_networks_give_the_same_with_and_without_a_budget(standins: Path) -> None:
    names = ["buffalo_l/w600k_r50.onnx", "buffalo_l/genderage.onnx", "inswapper_128.onnx"]
    paths = [standins / name for name in names]
    live = {"count": 0, "peak": 0}

    def create(path: Path) -> Any:
        session = create_session(str(path), "cpu", threads=1)
        live["count"] += 1
        live["peak"] = max(live["peak"], live["count"])
        weakref.finalize(session, lambda: live.update(count=live["count"] - 1))
        return session

    # The meter sees nothing, so the sizes of the files count; guessed is twice as much for the next one.
    sizes = sorted(path.stat().st_size for path in paths)
    pool = SessionPool(sizes[0] + 2 * sizes[2], lambda: 0, lambda: 1 << 40)
    pooled = [pool.session(path, partial(create, path)) for path in paths]
    rng = np.random.default_rng(0)
    for k in [0, 1, 2, 2, 0, 1, 0, 2, 1]:
        direct = onnxruntime.InferenceSession(str(paths[k]), providers=["CPUExecutionProvider"])
        feed = {
            item.name: rng.random([n if isinstance(n, int) else 1 for n in item.shape], np.float32)
            for item in direct.get_inputs()
        }
        for ours, theirs in zip(pooled[k].run(None, feed), direct.run(None, feed), strict=True):
            assert np.allclose(ours, theirs, atol=1e-5)
    assert live["peak"] <= 3
    assert pool.notes  # something had to leave


def test_a_runtime_opens_its_networks_through_the_pool(standins: Path) -> None:
    pool = SessionPool(1 << 30, lambda: 0, lambda: 1 << 40)
    network = Runtime("cpu", pool=pool).open(standins / "inswapper_128.onnx")
    assert network.standin
    assert network.fixed_batch == 1
    assert list(pool.loaded) == ["inswapper_128"]
    pool.unload_idle()
    assert not pool.loaded
    blob, latent = np.zeros((2, 3, 128, 128), np.float32), np.ones((2, 512), np.float32)
    assert network.run_stack(blob, latent).shape == (2, 3, 128, 128)
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
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA failure 2: out of memory ; GPU=0"),
        RuntimeError("CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED"),
        RuntimeError("CUBLAS failure 3: the resource allocation failed ; GPU=0"),
        RuntimeError("bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 268435456"),
        RuntimeError("bfc_arena.cc:360 Available memory of 7 is smaller than requested bytes of 805896448"),
        RuntimeError("CUDNN failure 4: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("std::bad_alloc"),
    ],
    ids=str,
)
def test_ways_to_say_that_memory_ran_out(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_out_of_memory(ValueError("Got invalid dimensions"))
