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

_POLL_INTERVAL = 0.5

# How CUDA, ONNX Runtime's arenas (at the device's end and at their own limit), cuDNN and cuBLAS, and the C++
# library say it.
_OUT_OF_MEMORY_PATTERN = re.compile(
    r"out of memory|failed to allocate|is smaller than requested bytes|alloc_failed|allocation[ _]failed"
    r"|bad[ _]alloc",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory, of the GPU or the machine, ran out."""
    return isinstance(error, MemoryError) or _OUT_OF_MEMORY_PATTERN.search(str(error)) is not None


def first_line(error: Exception) -> str:
    """The first line of what an error says, or its name."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


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
    # By path, least recently used first.
    _known: dict[Path, PooledSession] = field(default_factory=dict, init=False)
    _changed: threading.Condition = field(default_factory=threading.Condition, init=False)

    @property
    def loaded(self) -> dict[str, int]:
        """Name of each network in memory, least recently used first, and the bytes it takes."""
        with self._changed:
            return {each.name: each.needs for each in self._in_memory()}

    def session(self, path: Path, create: Callable[[], Any], *, name: str = "") -> PooledSession:
        """Take a network into the pool; ``create`` makes a session and runs it once, at each load."""
        # Until it is measured: the weights, and as much again for what runs through them.
        new = PooledSession(self, path, name or path.stem, create, needs=2 * path.stat().st_size)
        with self._changed:
            return self._known.setdefault(path, new)

    @contextmanager
    def using(self, wanted: PooledSession) -> Iterator[None]:
        """Have a network in memory as long as it is used; OutOfMemoryError if it does not fit alone."""
        with self._changed:
            self._known[wanted.path] = self._known.pop(wanted.path)
            self._load(wanted)
            wanted.users += 1
        try:
            yield
        finally:
            with self._changed:
                wanted.users -= 1
                self._make_room(wanted, 0)
                self._changed.notify_all()

    def unload_idle(self, *, keep: PooledSession | None = None) -> bool:
        """Unload every network that is not in use, but ``keep``; whether there was any."""
        with self._changed:
            idle = [each for each in self._in_memory() if not each.users and each is not keep]
            for each in idle:
                _unload(each)
            return bool(idle)

    def _in_memory(self) -> list[PooledSession]:
        return [each for each in self._known.values() if each.session is not None]

    def _load(self, wanted: PooledSession) -> None:
        # One that is larger than the budget is tried alone: only memory itself can say that it does not fit.
        while wanted.session is None and not self._make_room(wanted, min(wanted.needs, self.budget)):
            self._changed.wait()
        if wanted.session is not None:  # already, or by another thread while this one waited
            return
        self._wait_for_others(wanted)
        for alone in (False, True):
            before = self.used()
            try:
                wanted.session = wanted.create()
                break
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if alone:
                    raise _too_large(wanted, self.budget) from error
                self.unload_idle()
                text = mark("{name}: memory ran out while it was loaded; loaded again alone")
                self.notes.append(tr(text, name=wanted.name))
        wanted.needs = max(wanted.path.stat().st_size, self.used() - before) + wanted.beside

    def _make_room(self, wanted: PooledSession, needed: int) -> bool:
        """Unload the least recently used until ``needed`` bytes fit; False if the rest is in use."""
        for other in self._in_memory():
            if self._fits(needed):
                break
            if not other.users and other is not wanted:
                _unload(other)
                text = mark("{name} was unloaded to make room for {other}")
                self.notes.append(tr(text, name=other.name, other=wanted.name))
        return self._fits(needed)

    def _fits(self, needed: int) -> bool:
        return sum(each.needs for each in self._in_memory()) + needed <= self.budget

    def _wait_for_others(self, wanted: PooledSession) -> None:
        """Wait until memory that other programs hold is free; on an end without, loading is tried anyway."""
        started = self.clock()
        while self.free() < wanted.needs and self.clock() - started < self.wait:
            self.sleep(_POLL_INTERVAL)
        waited = self.clock() - started
        if waited >= _POLL_INTERVAL:
            text = mark("{name}: waited {waited:.1f} s for memory to become free")
            self.notes.append(tr(text, name=wanted.name, waited=waited))


@dataclass(eq=False)
class PooledSession:
    """Stands for an ONNX Runtime session that may have to be loaded first.

    Nobody may hold the session itself once a call is over, or it stays in memory.
    """

    pool: SessionPool
    path: Path
    name: str
    create: Callable[[], Any]  # makes the session and runs it once
    needs: int  # bytes; a guess until it was loaded
    session: Any = None  # None while it is not in memory
    users: int = 0  # calls that run it now
    beside: int = 0  # bytes of what works beside it, in ``needs`` too

    def run(self, *arguments: Any) -> Any:
        """Run it; when memory runs out, once more with every idle network unloaded."""
        with self.pool.using(self):
            try:
                return self.session.run(*arguments)
            except Exception as error:
                if not is_out_of_memory(error) or not self.pool.unload_idle(keep=self):
                    raise
            text = mark("{name}: memory ran out; the idle networks were unloaded")
            self.pool.notes.append(tr(text, name=self.name))
            return self.session.run(*arguments)

    @contextmanager
    def track_growth(self) -> Iterator[None]:
        """Count what is made beside it meanwhile as its own, whenever it is loaded."""
        with self.pool.using(self):
            before = self.pool.used()
            yield
            self.beside = max(self.pool.used() - before, 0)
            self.needs += self.beside

    def __getattr__(self, name: str) -> Any:
        """Whatever else is asked of a session: its inputs, outputs, metadata, providers."""
        if name.startswith("__"):
            raise AttributeError(name)
        with self.pool.using(self):
            return getattr(self.session, name)


def _unload(idle: PooledSession) -> None:
    idle.session = None
    gc.collect()  # sessions hold cycles; memory is only free when they are gone


def _too_large(wanted: PooledSession, budget: int) -> OutOfMemoryError:
    return OutOfMemoryError(
        tr(
            "the network does not fit into memory: it needs {needed:.0f} MB and {budget:.0f} MB may be used",
            needed=wanted.needs / 1e6,
            budget=budget / 1e6,
        ),
        where=wanted.path.name,
        remedy=tr("close other programs that use the GPU, or choose a lighter preset"),
    )
