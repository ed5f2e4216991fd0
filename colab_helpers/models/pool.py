"""Keeps loaded networks within a memory budget (requirements D4, E2, E4).

A network asked for is loaded; when it would not fit, those least recently used leave first. What it takes is
measured when it is loaded: whoever makes a session runs it once, so that its workspaces are there by then.
"""

from __future__ import annotations

import gc
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from colab_helpers.errors import OutOfMemoryError
from colab_helpers.language import mark, tr

_LOOK_EVERY = 0.5

# How CUDA, ONNX Runtime's arenas (at the device's end and at their own limit), cuDNN and cuBLAS, and the C++
# library say it.
_SIGNS = re.compile(
    r"out of memory|failed to allocate|is smaller than requested bytes|alloc_failed|allocation[ _]failed"
    r"|bad[ _]alloc",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory, of the GPU or the machine, ran out."""
    return isinstance(error, MemoryError) or _SIGNS.search(str(error)) is not None


@dataclass(eq=False)
class _Slot:
    """A network the pool knows; ``needs`` is a guess until it was loaded, ``users`` run it now."""

    path: Path
    name: str
    create: Callable[[], Any]
    needs: int
    session: Any = None
    users: int = 0


@dataclass(eq=False)
class SessionPool:
    """Sessions within a budget of bytes; safe to use from several threads."""

    budget: int  # bytes that all sessions together may take
    used: Callable[[], int]  # bytes in use where the networks run
    free: Callable[[], int]  # bytes free there
    wait: float = 0.0  # seconds to wait at most for other programs to free memory (``gpu_memory_wait``)
    ceiling: int = 0  # bytes a single session may grow to, whatever is free; 0: no limit
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    notes: list[str] = field(default_factory=list, init=False)  # what was unloaded or waited for
    # Least recently used first.
    _slots: dict[Path, _Slot] = field(default_factory=dict, init=False)
    _changed: threading.Condition = field(default_factory=threading.Condition, init=False)

    @property
    def loaded(self) -> dict[str, int]:
        """Name of each network in memory, least recently used first, and the bytes it takes."""
        with self._changed:
            return {slot.name: slot.needs for slot in self._in_memory()}

    def session(self, path: Path, create: Callable[[], Any], *, name: str = "") -> PooledSession:
        """Take a network into the pool; ``create`` makes a session and runs it once, at each load."""
        name = name or path.stem
        with self._changed:
            # Until it is measured: the weights, and as much again for what runs through them.
            self._slots.setdefault(path, _Slot(path, name, create, needs=2 * path.stat().st_size))
        return PooledSession(self, path, name)

    @contextmanager
    def using(self, path: Path) -> Iterator[_Slot]:
        """Have a network in memory as long as it is used.

        What is handed out is its place, not its session: nobody may hold a session once its call is over.

        Raises:
            OutOfMemoryError: It cannot be loaded even with every idle network unloaded.
        """
        with self._changed:
            slot = self._slots[path] = self._slots.pop(path)
            self._load(slot)
            slot.users += 1
        try:
            yield slot
        finally:
            with self._changed:
                slot.users -= 1
                self._make_room(slot, 0)
                self._changed.notify_all()

    def unload_idle(self, *, keep: Path | None = None) -> bool:
        """Unload every network that is not in use, but ``keep``; whether there was any."""
        with self._changed:
            idle = [slot for slot in self._in_memory() if not slot.users and slot.path != keep]
            for slot in idle:
                _unload(slot)
            return bool(idle)

    def _in_memory(self) -> list[_Slot]:
        return [slot for slot in self._slots.values() if slot.session is not None]

    def _load(self, slot: _Slot) -> None:
        # One that is larger than the budget is tried alone: only memory itself can say that it does not fit.
        while slot.session is None and not self._make_room(slot, min(slot.needs, self.budget)):
            self._changed.wait()
        if slot.session is not None:  # already, or by another thread while this one waited
            return
        self._wait_for_others(slot)
        for alone in (False, True):
            before = self.used()
            try:
                slot.session = slot.create()
                break
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if alone:
                    raise _too_large(slot, self.budget) from error
                self.unload_idle()
                text = mark("{name}: memory ran out while it was loaded; loaded again alone")
                self.notes.append(tr(text, name=slot.name))
        slot.needs = max(slot.path.stat().st_size, self.used() - before)

    def _make_room(self, slot: _Slot, needed: int) -> bool:
        """Unload the least recently used until ``needed`` bytes fit; False if the rest is in use."""
        for other in self._in_memory():
            if self._fits(needed):
                break
            if not other.users and other is not slot:
                _unload(other)
                text = mark("{name} was unloaded to make room for {other}")
                self.notes.append(tr(text, name=other.name, other=slot.name))
        return self._fits(needed)

    def _fits(self, needed: int) -> bool:
        return sum(slot.needs for slot in self._in_memory()) + needed <= self.budget

    def _wait_for_others(self, slot: _Slot) -> None:
        """Wait until memory that other programs hold is free; on an end without, loading is tried anyway."""
        started = self.clock()
        while self.free() < slot.needs and self.clock() - started < self.wait:
            self.sleep(_LOOK_EVERY)
        waited = self.clock() - started
        if waited >= _LOOK_EVERY:
            text = mark("{name}: waited {waited:.1f} s for memory to become free")
            self.notes.append(tr(text, name=slot.name, waited=waited))


@dataclass(frozen=True)
class PooledSession:
    """Stands for an ONNX Runtime session that may have to be loaded first."""

    pool: SessionPool
    path: Path
    name: str

    def run(self, *arguments: Any) -> Any:
        """Run it; when memory runs out, once more with every idle network unloaded."""
        with self.pool.using(self.path) as slot:
            try:
                return slot.session.run(*arguments)
            except Exception as error:
                if not is_out_of_memory(error) or not self.pool.unload_idle(keep=self.path):
                    raise
            text = mark("{name}: memory ran out; the idle networks were unloaded")
            self.pool.notes.append(tr(text, name=self.name))
            return slot.session.run(*arguments)

    def __getattr__(self, name: str) -> Any:
        """Whatever else is asked of a session: its inputs, outputs, metadata, providers."""
        if name.startswith("__"):
            raise AttributeError(name)
        with self.pool.using(self.path) as slot:
            return getattr(slot.session, name)


def _unload(slot: _Slot) -> None:
    slot.session = None
    gc.collect()  # sessions hold cycles; memory is only free when they are gone


def _too_large(slot: _Slot, budget: int) -> OutOfMemoryError:
    return OutOfMemoryError(
        tr(
            "the network does not fit into memory: it needs {needed:.0f} MB and {budget:.0f} MB may be used",
            needed=slot.needs / 1e6,
            budget=budget / 1e6,
        ),
        where=slot.path.name,
        remedy=tr("close other programs that use the GPU, or choose a lighter preset"),
    )
