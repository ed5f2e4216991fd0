"""An LRU pool of loaded networks within a memory budget.

Networks are loaded on use; if one does not fit, the least recently used ones are unloaded first. Its size is
measured while loading, including its workspaces, because ``create`` callbacks run the session once.
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

# The messages of CUDA, ONNX Runtime's arenas (device memory exhausted, or the arena's limit reached), cuDNN
# and cuBLAS, and the C++ library.
_OUT_OF_MEMORY_PATTERN = re.compile(
    r"out of memory|failed to allocate|is smaller than requested bytes|alloc_failed|allocation[ _]failed"
    r"|bad[ _]alloc",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that VRAM or RAM ran out."""
    return isinstance(error, MemoryError) or _OUT_OF_MEMORY_PATTERN.search(str(error)) is not None


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its class name if the message is empty."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


@dataclass(eq=False)
class SessionPool:
    """An LRU pool of sessions with a memory budget in bytes; thread-safe."""

    budget: int  # total bytes of all loaded sessions
    used: Callable[[], int]  # returns the bytes in use on the device
    free: Callable[[], int]  # returns the bytes free on the device
    wait: float = 0.0  # maximum seconds to wait for other programs to free memory (``gpu_memory_wait``)
    ceiling: int = 0  # maximum bytes of a single session; 0: no limit
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    notes: list[str] = field(default_factory=list, init=False)  # about unloading and waiting
    _known: dict[Path, PooledSession] = field(default_factory=dict, init=False)  # least recently used first
    _changed: threading.Condition = field(default_factory=threading.Condition, init=False)

    @property
    def loaded(self) -> dict[str, int]:
        """Name and bytes of each network in memory, least recently used first."""
        with self._changed:
            return {one.name: one.size for one in self._in_memory()}

    def session(self, path: Path, create: Callable[[], Any], *, name: str = "") -> PooledSession:
        """Add a network to the pool; ``create``, called at each load, creates a session and runs it once."""
        # A guess until it is measured: the weights, and as much again for activations.
        new = PooledSession(self, path, name or path.stem, create, size=2 * path.stat().st_size)
        with self._changed:
            return self._known.setdefault(path, new)

    @contextmanager
    def using(self, session: PooledSession) -> Iterator[None]:
        """Keep a network in memory during the context; raise OutOfMemoryError if it does not fit alone."""
        with self._changed:
            self._known[session.path] = self._known.pop(session.path)
            self._load(session)
            session.users += 1
        try:
            yield
        finally:
            with self._changed:
                session.users -= 1
                self._make_room(session, 0)
                self._changed.notify_all()

    def unload_idle(self, *, keep: PooledSession | None = None) -> bool:
        """Unload every network that is not in use, except ``keep``; return whether there was any."""
        with self._changed:
            idle = [one for one in self._in_memory() if not one.users and one is not keep]
            for one in idle:
                _unload(one)
            return bool(idle)

    def _in_memory(self) -> list[PooledSession]:
        return [one for one in self._known.values() if one.session is not None]

    def _load(self, new: PooledSession) -> None:
        # One that exceeds the budget is tried alone, since its size may be only a guess.
        while new.session is None and not self._make_room(new, min(new.size, self.budget)):
            self._changed.wait()
        if new.session is not None:  # possibly loaded by another thread meanwhile
            return
        self._wait_for_memory(new)
        for alone in (False, True):
            before = self.used()
            try:
                new.session = new.create()
                break
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if alone:
                    raise _too_large_error(new, self.budget) from error
                self.unload_idle()
                text = mark("{name}: memory ran out while loading; loaded again after unloading the others")
                self.notes.append(tr(text, name=new.name))
        new.size = max(new.path.stat().st_size, self.used() - before) + new.auxiliary

    def _make_room(self, new: PooledSession, needed: int) -> bool:
        """Unload the least recently used until ``needed`` bytes fit; return False if the rest is in use."""
        for other in self._in_memory():
            if self._fits(needed):
                break
            if not other.users and other is not new:
                _unload(other)
                text = mark("{name} was unloaded to make room for {other}")
                self.notes.append(tr(text, name=other.name, other=new.name))
        return self._fits(needed)

    def _fits(self, needed: int) -> bool:
        return sum(one.size for one in self._in_memory()) + needed <= self.budget

    def _wait_for_memory(self, new: PooledSession) -> None:
        """Wait for other programs to free memory; after the time limit, return anyway."""
        started = self.clock()
        while self.free() < new.size and self.clock() - started < self.wait:
            self.sleep(_POLL_INTERVAL)
        waited = self.clock() - started
        if waited >= _POLL_INTERVAL:
            text = mark("{name}: waited {waited:.1f} s for memory to become free")
            self.notes.append(tr(text, name=new.name, waited=waited))


@dataclass(eq=False)
class PooledSession:
    """A wrapper of an ONNX Runtime session that is loaded on use.

    Callers must not keep a reference to ``session`` after a call, or it cannot be unloaded.
    """

    pool: SessionPool
    path: Path
    name: str
    create: Callable[[], Any]  # creates the session and runs it once
    size: int  # bytes; a guess until it was loaded
    session: Any = None  # None while unloaded
    users: int = 0  # calls in progress
    auxiliary: int = 0  # bytes of auxiliary sessions, included in ``size``

    def run(self, *arguments: Any) -> Any:
        """Run the session; if memory runs out, unload all idle networks and retry once."""
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
        """Count memory allocated during the context as this session's, also after it is loaded again."""
        with self.pool.using(self):
            before = self.pool.used()
            yield
            self.auxiliary = max(self.pool.used() - before, 0)
            self.size += self.auxiliary

    def __getattr__(self, name: str) -> Any:
        """Delegate everything else to the session: inputs, outputs, metadata, providers."""
        if name.startswith("__"):
            raise AttributeError(name)
        with self.pool.using(self):
            return getattr(self.session, name)


def _unload(idle: PooledSession) -> None:
    idle.session = None
    gc.collect()  # sessions are in reference cycles, which keep their memory


def _too_large_error(new: PooledSession, budget: int) -> OutOfMemoryError:
    text = mark("the network needs {needed:.0f} MB of memory, but only {budget:.0f} MB may be used")
    remedy = tr("close other programs that use the GPU, or choose a lighter preset")
    message = tr(text, needed=new.size / 1e6, budget=budget / 1e6)
    return OutOfMemoryError(message, where=new.path.name, remedy=remedy)
