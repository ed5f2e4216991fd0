"""Watches RAM between pieces of work: warns when it runs short and waits until it is free again."""

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
"""Seconds after which work goes on although RAM is still short: others may hold it for good."""

_POLL_INTERVAL = 1.0


@dataclass
class MemoryGuard:
    """Watches RAM: ``warnings`` counts how often it was found above ``WARNING_PERCENT``, which is told, too.

    ``short`` tells whether it still was after the last wait: what comes next had better need less.
    """

    read: Callable[[], float] = ram_percent
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    on_warning: Callable[[], object] = lambda: None
    warnings: int = field(default=0, init=False)
    short: bool = field(default=False, init=False)

    def check(self, *, wait: bool) -> str | None:
        """Look once; when RAM is short, give back what this process holds for nothing, and tell so.

        With ``wait``, wait for RAM to fall to ``RESUME_PERCENT``, ``MAX_WAIT_SECONDS`` seconds at most.
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
            "RAM in use was {before:.0f} %; after {waited:.0f} s of collecting and waiting {now:.0f} %",
            before=before,
            waited=waited,
            now=now,
        )
