"""What is done about memory between two files: a process that grew is replaced, one that died gets less."""

from __future__ import annotations

from dataclasses import replace

from colab_helpers.batch.stop import StopToken
from colab_helpers.faces.engine import Engine
from colab_helpers.language import tr
from colab_helpers.resources.sampler import gpu_memory, process_memory

# A process that holds so much more than after its first video gives it back by being replaced (B6).
GROWTH = 1.25
GROWTH_BYTES = 256 << 20
_GPU_GROWTH_BYTES = 1 << 30


class RecycleError(Exception):
    """The process holds more memory than it should: another one is to go on."""


class MemoryGrowth:
    """Has a process replaced that holds much more than after its first file."""

    def __init__(self) -> None:
        self._held: tuple[int, int] | None = None

    def check(self, stop: StopToken) -> None:
        """Raise RecycleError where it holds too much, and does nothing but a batch."""
        ram, vram = process_memory(), (gpu_memory() or (0, 0))[0]
        first_ram, first_vram = self._held = self._held or (ram, vram)
        grown = ram > first_ram * GROWTH + GROWTH_BYTES or vram - first_vram > _GPU_GROWTH_BYTES
        if grown and stop.owns_process:
            raise RecycleError(f"it holds {ram / 1e6:.0f} MB of RAM and {vram / 1e6:.0f} MB of VRAM")


def with_less_memory(engine: Engine, times: int, *, reason: str) -> tuple[Engine, str]:
    """Return the same networks, used with less memory, and a note on it."""
    before = engine.settings
    memory = max(0.5, float(before.max_memory) / 2**times)
    threads = max(1, int(before.execution_threads) // 2**times)
    settings = before.with_overrides(max_memory=round(memory, 2), batch_size=1, execution_threads=threads)
    note = tr(
        "{reason}: max_memory lowered to {memory:.1f} GB, batch_size to 1, execution_threads to {threads}",
        reason=reason,
        memory=memory,
        threads=threads,
    )
    return replace(engine, settings=settings), note
