"""Limit memory between files: replace a worker process that has grown, and use less after a death."""

from __future__ import annotations

from dataclasses import replace

from colab_helpers.batch.stop import StopToken
from colab_helpers.faces.engine import Engine
from colab_helpers.language import tr
from colab_helpers.resources.sampler import gpu_memory, process_memory

# A process that exceeds its memory after the first file by this factor plus this many bytes is replaced.
GROWTH = 1.25
GROWTH_BYTES = 256 << 20
_GPU_GROWTH_BYTES = 1 << 30


class RecycleError(Exception):
    """The process holds too much memory and must be replaced by a new one."""


class MemoryGrowth:
    """Compares the process's memory with that after its first file."""

    def __init__(self) -> None:
        self._baseline: tuple[int, int] | None = None

    def check(self, stop: StopToken) -> None:
        """Raise RecycleError if RAM or VRAM has grown too much and the process runs only the batch."""
        ram, vram = process_memory(), (gpu_memory() or (0, 0))[0]
        first_ram, first_vram = self._baseline = self._baseline or (ram, vram)
        grown = ram > first_ram * GROWTH + GROWTH_BYTES or vram - first_vram > _GPU_GROWTH_BYTES
        if grown and stop.owns_process:
            raise RecycleError(f"it holds {ram / 1e6:.0f} MB of RAM and {vram / 1e6:.0f} MB of VRAM")


def with_less_memory(engine: Engine, times: int, *, reason: str) -> tuple[Engine, str]:
    """Return the engine with memory and threads halved ``times`` times, and a note on it."""
    old = engine.settings
    memory = max(0.5, float(old.max_memory) / 2**times)
    threads = max(1, int(old.execution_threads) // 2**times)
    settings = old.with_overrides(max_memory=round(memory, 2), batch_size=1, execution_threads=threads)
    note = tr(
        "{reason}: max_memory lowered to {memory:.1f} GB, batch_size to 1, execution_threads to {threads}",
        reason=reason,
        memory=memory,
        threads=threads,
    )
    return replace(engine, settings=settings), note
