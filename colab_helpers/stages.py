"""Pipeline stages in threads, with bounded queues: each stage runs ahead of the next by a few items at most.

An error in any stage ends all of them and is raised unchanged by the last one. Leaving the last stage early
(error, break, Ctrl-C) stops the ones before it; no thread outlives its generator, unless it hangs.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_MAX_WAIT = 30.0
"""Seconds that an abandoned stage may take to finish its item."""


class Channel(Generic[T]):
    """A bounded queue between two threads that either end can close."""

    def __init__(self, depth: int) -> None:
        self._items: deque[T] = deque()
        self._depth = depth
        self._changed = threading.Condition()
        self._finished = False
        self._abandoned = False
        self._error: BaseException | None = None

    def put(self, item: T) -> bool:
        """Wait for room and append an item; return False if the reader has abandoned the channel."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._items) < self._depth or self._abandoned)
            if not self._abandoned:
                self._items.append(item)
                self._changed.notify_all()
            return not self._abandoned

    def finish(self, error: BaseException | None = None) -> None:
        """Close the writing end; the reader raises ``error``, if any, after the last item."""
        with self._changed:
            self._finished, self._error = True, error
            self._changed.notify_all()

    def abandon(self) -> None:
        """Close the reading end; waiting writers return at once."""
        with self._changed:
            self._abandoned = True
            self._items.clear()
            self._changed.notify_all()

    def __len__(self) -> int:
        """Return the number of waiting items."""
        return len(self._items)

    def __iter__(self) -> Iterator[T]:
        """Yield items until the writer finishes; then raise its error, if any."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._items or self._finished)
                if not self._items:
                    break
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
        if self._error is not None:
            raise self._error


def run_ahead(
    items: Iterable[T], depth: int, *, name: str, gauges: dict[str, Sized] | None = None
) -> Generator[T, None, None]:
    """Yield the items, produced ahead by a thread called ``name`` that keeps at most ``depth`` waiting.

    ``gauges[name]`` is set to an object whose length is the number of waiting items.
    """
    channel: Channel[T] = Channel(depth)
    if gauges is not None:
        gauges[name] = channel
    # Daemon: a decoder that hangs in a system call must not keep the process alive.
    thread = threading.Thread(target=copy_context().run, args=(_feed, items, channel), name=name, daemon=True)
    thread.start()
    try:
        yield from channel
    finally:
        channel.abandon()
        # A stage that hangs in a system call (such as on a drive) is left to end with the process.
        thread.join(_MAX_WAIT)


def _feed(items: Iterable[T], channel: Channel[T]) -> None:
    try:
        with _closing(items):
            for item in items:
                if not channel.put(item):
                    break
        channel.finish()
    except BaseException as error:  # noqa: BLE001 - handed to the reading thread, which raises it
        channel.finish(error)


@contextmanager
def _closing(items: Iterable[object]) -> Iterator[None]:
    """Close the previous stage, if it is a generator, in the thread that ran it.

    The garbage collector would close it only once no error's traceback refers to it.
    """
    try:
        yield
    finally:
        if isinstance(items, Generator):
            items.close()


def map_ordered(function: Callable[[T], R], items: Iterable[T], *, workers: int) -> Generator[R, None, None]:
    """Apply a function with up to ``workers`` concurrent calls; yield results in the items' order."""
    if workers == 1:
        with _closing(items):
            yield from map(function, items)
        return
    pending: deque[Future[R]] = deque()
    with _closing(items), ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                pending.append(pool.submit(copy_context().run, function, item))
                if len(pending) == workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def in_groups(items: Iterable[T], size: int) -> Generator[list[T], None, None]:
    """Yield the items in lists of ``size``; the last may be shorter."""
    group: list[T] = []
    with _closing(items):
        for item in items:
            group.append(item)
            if len(group) == size:
                yield group
                group = []
    if group:
        yield group
