"""RAM guard between pieces of work: warn when RAM runs short, free memory and wait until it recovers."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from colab_helpers.language import tr
from colab_helpers.resources.allocator import return_free_memory
from colab_helpers.resources.sampler import ram_percent
from colab_helpers.resources.samples import WARNING_PERCENT

RESUME_PERCENT = 50.0
MAX_WAIT_SECONDS = 120.0
"""Seconds after which work resumes although RAM is still short: other programs may hold it for good."""

_POLL_INTERVAL = 1.0


@dataclass
class MemoryGuard:
    """Watches RAM; counts in ``warnings`` each time it exceeds ``WARNING_PERCENT``, and calls ``on_warning``.

    ``short`` is whether it still was above after the last wait: the next piece of work should need less.
    """

    read: Callable[[], float] = ram_percent
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    on_warning: Callable[[], object] = lambda: None
    warnings: int = field(default=0, init=False)
    short: bool = field(default=False, init=False)

    def check(self, *, wait: bool) -> str | None:
        """Check once; when RAM is short, free what this process does not need and return a warning.

        With ``wait``, wait until RAM use falls to ``RESUME_PERCENT``, for at most ``MAX_WAIT_SECONDS``.
        """
        before = self.read()
        self.short = False
        if before <= WARNING_PERCENT:
            return None
        self.warnings += 1
        self.on_warning()
        gc.collect()
        return_free_memory()
        started = self.clock()
        now = self.read()
        while wait and now > RESUME_PERCENT and self.clock() - started < MAX_WAIT_SECONDS:
            self.sleep(_POLL_INTERVAL)
            now = self.read()
        waited = self.clock() - started
        self.short = now > WARNING_PERCENT
        return tr(
            "RAM in use was {before:.0f} %, and {now:.0f} % after {waited:.0f} s of freeing and waiting",
            before=before,
            waited=waited,
            now=now,
        )
