from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from colab_helpers import stages
from colab_helpers.stages import in_groups, map_ordered, run_ahead
from tests.conftest import TIMEOUT, until


class BoomError(Exception):
    pass


@pytest.fixture(autouse=True)
def _no_threads_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    until(lambda: set(threading.enumerate()) <= before)


def test_run_ahead_is_limited_by_depth() -> None:
    produced: list[int] = []

    def source() -> Iterator[int]:
        for number in range(20):
            produced.append(number)
            yield number

    stage = run_ahead(source(), 3, name="t")
    assert next(stage) == 0
    time.sleep(0.2)
    # One consumed, three queued, one waiting in the producer.
    assert len(produced) <= 5
    stage.close()


def test_in_groups() -> None:
    assert list(in_groups(run_ahead(range(7), 2, name="t"), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(in_groups([], 3)) == []


def test_map_ordered_runs_workers_concurrently() -> None:
    barrier = threading.Barrier(4, timeout=TIMEOUT)
    assert list(map_ordered(lambda _: barrier.wait() >= 0, range(8), workers=4)) == [True] * 8


@pytest.mark.parametrize("workers", [1, 3])
def test_error_stops_endless_source(workers: int) -> None:
    def endless() -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1

    def explode(number: int) -> int:
        if number == 10:
            raise BoomError
        return number

    stages = run_ahead(map_ordered(explode, run_ahead(endless(), 2, name="a"), workers=workers), 2, name="b")
    with pytest.raises(BoomError):
        for _ in stages:
            pass


def test_early_close_closes_source_in_its_thread() -> None:
    closed_in: list[str] = []

    def source() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            closed_in.append(threading.current_thread().name)

    stage = run_ahead(source(), 2, name="feeder")
    next(stage)
    stage.close()
    assert closed_in == ["feeder"]


def test_hanging_stage_does_not_block_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "_MAX_WAIT", 0.2)
    release = threading.Event()

    def hangs() -> Iterator[int]:
        yield 1
        release.wait()

    ahead = run_ahead(hangs(), 1, name="stuck drive")
    assert next(ahead) == 1
    started = time.monotonic()
    ahead.close()
    assert time.monotonic() - started < 20
    release.set()
