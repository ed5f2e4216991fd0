"""Low memory between files: a warning and a limited wait."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from colab_helpers.resources import allocator
from colab_helpers.resources.guard import MAX_WAIT_SECONDS, RESUME_PERCENT, MemoryGuard
from colab_helpers.resources.sampler import process_memory


class Machine:
    """Simulates RAM use over time."""

    def __init__(self, *percents: float) -> None:
        self.percents, self.time = list(percents), 0.0

    def read(self) -> float:
        return self.percents.pop(0) if len(self.percents) > 1 else self.percents[0]

    def sleep(self, seconds: float) -> None:
        self.time += seconds

    def guard(self) -> MemoryGuard:
        return MemoryGuard(read=self.read, sleep=self.sleep, clock=lambda: self.time)


@pytest.mark.parametrize("percent", [0.0, 49.0, 85.0])
def test_no_warning_below_threshold(percent) -> None:
    machine = Machine(percent)
    guard = machine.guard()
    assert guard.check(wait=True) is None
    assert (guard.warnings, machine.time) == (0, 0.0)


def test_check_waits_until_half_is_free() -> None:
    machine = Machine(91.0, 90.0, 80.0, 60.0, RESUME_PERCENT)
    guard = machine.guard()
    assert guard.check(wait=True) == "RAM in use was 91 %, and 50 % after 3 s of freeing and waiting"
    assert guard.warnings == 1


def test_check_gives_up_after_two_minutes() -> None:
    machine = Machine(95.0)
    guard = machine.guard()
    assert "and 95 % after 120 s" in guard.check(wait=True)
    assert machine.time == MAX_WAIT_SECONDS == 120
    assert guard.short
    machine.percents = [60.0]
    assert guard.check(wait=True) is None
    assert not guard.short
    machine.percents = [86.0]
    assert guard.check(wait=False)  # counted, but without waiting
    assert (guard.warnings, machine.time) == (2, MAX_WAIT_SECONDS)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library cannot trim")
def test_freed_memory_is_returned_to_system() -> None:
    allocator.tune_allocator()
    pieces = [np.ones(4 << 20, np.uint8) for _ in range(24)]
    del pieces
    before = process_memory()
    assert allocator.return_free_memory()
    assert process_memory() < before - (60 << 20)
