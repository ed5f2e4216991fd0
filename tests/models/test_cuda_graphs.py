"""Captured networks, whose calls run one at a time; here with the same bindings on the CPU."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from colab_helpers.models.cuda_graphs import GpuSession
from colab_helpers.models.parity import sample_inputs
from tests.conftest import until
from tests.helpers.networks import net

SHAPE = (1, 3, 32, 32)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(net("dynamic"), path)
    return path


class RecordedSession:
    """An ONNX Runtime session that records its calls."""

    def __init__(self, path: Path) -> None:
        self.real = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.runs: list[str] = []
        self.threads: set[int] = set()
        self.running = 0
        self.max_running = 0
        self.stale = False
        self.fails: list[Exception] = []

    def _record(self, kind: str) -> None:
        self.runs.append(kind)
        self.threads.add(threading.get_ident())

    def run(self, names: list[str], feed: dict[str, Any], options: Any) -> Any:
        assert options.get_run_config_entry("gpu_graph_id") == "-1"  # ONNX Runtime would capture it
        self._record("plain")
        self.running += 1
        self.max_running = max(self.max_running, self.running)
        time.sleep(0.001)
        result = self.real.run(names, feed, options)
        self.running -= 1
        return result

    def run_with_iobinding(self, binding: Any) -> None:
        self._record("replay")
        if self.fails:
            raise self.fails.pop()
        # A stale replay ignores its inputs: its outputs stay those of the capture.
        if not self.stale or self.runs.count("replay") == 1:
            self.real.run_with_iobinding(binding)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


@dataclass
class Factory:
    """Create sessions and record the requests; the faults apply to sessions with capture."""

    path: Path
    refuses: Exception | None = None
    fails: Exception | None = None
    stale: bool = False
    requests: list[bool] = field(default_factory=list)
    created: list[RecordedSession] = field(default_factory=list)

    def __call__(self, capture: bool) -> RecordedSession:
        self.requests.append(capture)
        if capture and self.refuses:
            raise self.refuses
        session = RecordedSession(self.path)
        if capture:
            session.stale = self.stale
            session.fails = [self.fails] if self.fails else []
        self.created.append(session)
        return session


def open_session(create: Callable[[bool], Any], problems: list[str], *, capture: bool = True) -> GpuSession:
    example = partial(sample_inputs, edge=32)
    return GpuSession(create, example=example, capture=capture, on_problem=problems.append, device="cpu")


def sample(seed: int, shape: tuple[int, ...] = SHAPE) -> dict[str, Any]:
    return {"input": np.random.default_rng(seed).normal(size=shape).astype(np.float32)}


def names(session: Any) -> list[str]:
    return [output.name for output in session.get_outputs()]


def test_replay_gives_the_same_results_as_a_plain_run(model: Path) -> None:
    problems: list[str] = []
    factory = Factory(model)
    session = open_session(factory, problems)
    # A plain reference run; the capture, on empty inputs; a replay of the example.
    assert session.captured
    assert factory.created[0].runs == ["plain", "replay", "replay"]
    wanted = names(session)
    assert session.get_providers() == ["CPUExecutionProvider"]  # delegated to the session
    found = [session.run(wanted, sample(seed))[0] for seed in range(5)]  # not overwritten by later calls
    for seed, each in enumerate(found):
        (expected,) = factory.created[0].real.run(wanted, sample(seed))
        assert np.array_equal(each, expected)
        assert each.std() > 0
    assert factory.created[0].runs[3:] == ["replay"] * 5
    four = sample(1, (4, 3, 32, 32))  # of another shape: without the graph
    assert np.array_equal(session.run(wanted, four)[0], factory.created[0].real.run(wanted, four)[0])
    session.run(wanted, sample(2))
    assert factory.created[0].runs[-2:] == ["plain", "replay"]
    assert (problems, factory.requests) == ([], [True])


@pytest.mark.parametrize("capture", [True, False])
def test_calls_from_many_threads_run_one_at_a_time(model: Path, capture: bool) -> None:
    factory = Factory(model)
    session = open_session(factory, [], capture=capture)
    wanted = names(session)
    real = factory.created[0].real
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda seed: session.run(wanted, sample(seed))[0], range(40)))
    for seed, found in enumerate(results):
        assert np.array_equal(found, real.run(wanted, sample(seed))[0])
    assert len(factory.created[0].threads) == 1
    assert factory.created[0].max_running <= 1
    assert (session.captured, factory.requests) == (capture, [capture])
    if not capture:  # the first run, on the example, allocates the memory
        assert factory.created[0].runs == ["plain"] * 41


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ({"refuses": RuntimeError("nodes are not all on CUDA\nand more")}, "nodes are not all on CUDA"),
        ({"fails": RuntimeError("CUDA failure 901: operation failed")}, "CUDA failure 901: operation failed"),
        ({"fails": RuntimeError()}, "RuntimeError"),
        ({"stale": True}, "the CUDA graph's replay gives other results"),
    ],
    ids=["refused", "failed", "wordless", "stale"],
)
def test_network_that_cannot_be_captured_runs_without_graph(
    model: Path, fault: dict[str, Any], problem: str
) -> None:
    problems: list[str] = []
    factory = Factory(model, **fault)
    session = open_session(factory, problems)
    assert (problems, factory.requests, session.captured) == ([problem], [True, False], False)
    wanted = names(session)
    for seed in range(3):
        (found,) = session.run(wanted, sample(seed))
        assert np.array_equal(found, factory.created[-1].real.run(wanted, sample(seed))[0])
    assert factory.created[-1].runs == ["plain"] * 4


@pytest.mark.parametrize("fault", ["refuses", "fails"])
def test_out_of_memory_does_not_disable_the_graph(model: Path, fault: str) -> None:
    problems: list[str] = []
    factory = Factory(model, **{fault: RuntimeError("CUDA failure 2: out of memory")})
    with pytest.raises(RuntimeError, match="out of memory"):  # the pool frees memory and retries
        open_session(factory, problems)
    assert (problems, factory.requests) == ([], [True])


def test_other_networks_wait_while_one_is_captured(model: Path) -> None:
    """A concurrent run would fail or break the capture."""
    factory, runs_during_capture, ended = Factory(model), list[int](), threading.Event()
    busy = open_session(factory, [], capture=False)
    runs = factory.created[0].runs

    class Slow(RecordedSession):
        def run_with_iobinding(self, binding: Any) -> None:
            before = len(runs)
            time.sleep(0.05)
            runs_during_capture.append(len(runs) - before)
            super().run_with_iobinding(binding)

    def call_repeatedly() -> None:
        while not ended.is_set():
            busy.run(names(busy), sample(0))

    with ThreadPoolExecutor(3) as threads, ExitStack() as stack:
        stack.callback(ended.set)
        for _ in range(3):
            threads.submit(call_repeatedly)
        until(lambda: len(runs) > 5)
        assert open_session(lambda _: Slow(model), []).captured
        after = len(runs)
        until(lambda: len(runs) > after + 5)
    assert runs_during_capture == [0, 0]


def test_dropped_session_frees_its_memory_and_thread(model: Path) -> None:
    factory = Factory(model)
    session = open_session(factory, [])
    session.run(names(session), sample(0))
    (number,) = factory.created[0].threads
    dropped = weakref.ref(factory.created.pop())
    del session
    gc.collect()
    assert dropped() is None
    until(lambda: number not in [thread.ident for thread in threading.enumerate()])
