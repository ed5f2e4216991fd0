"""A network that takes turns and is replayed: here on the CPU, which runs the same bindings."""

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


class Watched:
    """An ONNX Runtime session that notes how it is used."""

    def __init__(self, path: Path) -> None:
        self.real = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.runs: list[str] = []
        self.threads: set[int] = set()
        self.inside = 0
        self.most_inside = 0
        self.stale = False
        self.fails: list[Exception] = []

    def _note(self, kind: str) -> None:
        self.runs.append(kind)
        self.threads.add(threading.get_ident())

    def run(self, names: list[str], feed: dict[str, Any], options: Any) -> Any:
        assert options.get_run_config_entry("gpu_graph_id") == "-1"  # ONNX Runtime would capture it
        self._note("plain")
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        time.sleep(0.001)
        result = self.real.run(names, feed, options)
        self.inside -= 1
        return result

    def run_with_iobinding(self, binding: Any) -> None:
        self._note("replay")
        if self.fails:
            raise self.fails.pop()
        # A stale replay does not read its inputs anew: its outputs stay those of the capture.
        if not self.stale or self.runs.count("replay") == 1:
            self.real.run_with_iobinding(binding)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


@dataclass
class Makes:
    """Makes sessions, and remembers what was asked for; one that may be captured has these faults."""

    path: Path
    refuses: Exception | None = None
    fails: Exception | None = None
    stale: bool = False
    asked: list[bool] = field(default_factory=list)
    made: list[Watched] = field(default_factory=list)

    def __call__(self, capture: bool) -> Watched:
        self.asked.append(capture)
        if capture and self.refuses:
            raise self.refuses
        session = Watched(self.path)
        if capture:
            session.stale = self.stale
            session.fails = [self.fails] if self.fails else []
        self.made.append(session)
        return session


def opened(makes: Callable[[bool], Watched], problems: list[str], *, capture: bool = True) -> GpuSession:
    example = partial(sample_inputs, edge=32)
    return GpuSession(makes, example=example, capture=capture, on_problem=problems.append, device="cpu")


def sample(seed: int, shape: tuple[int, ...] = SHAPE) -> dict[str, Any]:
    return {"input": np.random.default_rng(seed).normal(size=shape).astype(np.float32)}


def names(session: Any) -> list[str]:
    return [output.name for output in session.get_outputs()]


def test_what_is_replayed_is_what_a_plain_call_gives(model: Path) -> None:
    problems: list[str] = []
    makes = Makes(model)
    session = opened(makes, problems)
    # Once plainly, for the yardstick; captured on empty inputs; and replayed on the example.
    assert session.captured
    assert makes.made[0].runs == ["plain", "replay", "replay"]
    wanted = names(session)
    assert session.get_providers() == ["CPUExecutionProvider"]  # as whatever else is asked of a session
    found = [session.run(wanted, sample(seed))[0] for seed in range(5)]  # each the caller's own
    for seed, each in enumerate(found):
        (expected,) = makes.made[0].real.run(wanted, sample(seed))
        assert np.array_equal(each, expected)
        assert each.std() > 0
    assert makes.made[0].runs[3:] == ["replay"] * 5
    four = sample(1, (4, 3, 32, 32))  # of another shape: beside the graph
    assert np.array_equal(session.run(wanted, four)[0], makes.made[0].real.run(wanted, four)[0])
    session.run(wanted, sample(2))
    assert makes.made[0].runs[-2:] == ["plain", "replay"]
    assert (problems, makes.asked) == ([], [True])


@pytest.mark.parametrize("capture", [True, False])
def test_calls_from_many_threads_take_turns(model: Path, capture: bool) -> None:
    makes = Makes(model)
    session = opened(makes, [], capture=capture)
    wanted = names(session)
    real = makes.made[0].real
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda seed: session.run(wanted, sample(seed))[0], range(40)))
    for seed, found in enumerate(results):
        assert np.array_equal(found, real.run(wanted, sample(seed))[0])
    assert len(makes.made[0].threads) == 1
    assert makes.made[0].most_inside <= 1
    assert (session.captured, makes.asked) == (capture, [capture])
    if not capture:  # once on the example, so that it takes what it will need from now on
        assert makes.made[0].runs == ["plain"] * 41


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
def test_a_network_that_cannot_be_captured_runs_without(
    model: Path, fault: dict[str, Any], problem: str
) -> None:
    problems: list[str] = []
    makes = Makes(model, **fault)
    session = opened(makes, problems)
    assert (problems, makes.asked, session.captured) == ([problem], [True, False], False)
    wanted = names(session)
    for seed in range(3):
        (found,) = session.run(wanted, sample(seed))
        assert np.array_equal(found, makes.made[-1].real.run(wanted, sample(seed))[0])
    assert makes.made[-1].runs == ["plain"] * 4


@pytest.mark.parametrize("fault", ["refuses", "fails"])
def test_memory_that_runs_out_is_no_reason_to_do_without(model: Path, fault: str) -> None:
    problems: list[str] = []
    makes = Makes(model, **{fault: RuntimeError("CUDA failure 2: out of memory")})
    with pytest.raises(RuntimeError, match="out of memory"):  # the pool makes room and tries again
        opened(makes, problems)
    assert (problems, makes.asked) == ([], [True])


def test_nothing_else_runs_while_a_network_is_captured(model: Path) -> None:
    """What runs meanwhile would fail, or spoil the capture; what waits for it goes on afterwards."""
    makes, beside, ended = Makes(model), list[int](), threading.Event()
    busy = opened(makes, [], capture=False)
    runs = makes.made[0].runs

    class Slow(Watched):
        def run_with_iobinding(self, binding: Any) -> None:
            before = len(runs)
            time.sleep(0.05)
            beside.append(len(runs) - before)
            super().run_with_iobinding(binding)

    def call_on() -> None:
        while not ended.is_set():
            busy.run(names(busy), sample(0))

    with ThreadPoolExecutor(3) as threads, ExitStack() as stack:
        stack.callback(ended.set)
        for _ in range(3):
            threads.submit(call_on)
        until(lambda: len(runs) > 5)
        assert opened(lambda _: Slow(model), []).captured
        after = len(runs)
        until(lambda: len(runs) > after + 5)
    assert beside == [0, 0]


def test_nothing_is_left_of_one_that_is_dropped(model: Path) -> None:
    makes = Makes(model)
    session = opened(makes, [])
    session.run(names(session), sample(0))
    (number,) = makes.made[0].threads
    dropped = weakref.ref(makes.made.pop())
    del session
    gc.collect()
    assert dropped() is None
    until(lambda: number not in [thread.ident for thread in threading.enumerate()])
