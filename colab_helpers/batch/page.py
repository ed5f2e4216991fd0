"""The page beside a report, made in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from colab_helpers.batch.worker_exit import cause_of
from colab_helpers.language import VARIABLE, language, tr

# Seconds that the page may take, for which pictures are decoded.
PAGE_LONGEST = 180.0
PAGE_LOOK_EVERY = 0.5


def make_page(folder: Path, report: Path, beat: Callable[[], None]) -> str:
    """Have the page beside a report made; return why there is none. ``beat`` may raise to give up.

    In a process of its own: decoders crash and hang, which must cost nothing else.
    """
    beat()
    process = subprocess.Popen(
        [sys.executable, "-m", "colab_helpers.pages", str(folder), "--report", str(report)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, VARIABLE: language()},
    )
    until = time.monotonic() + PAGE_LONGEST
    try:
        while time.monotonic() < until:
            with suppress(subprocess.TimeoutExpired):
                said = process.communicate(timeout=PAGE_LOOK_EVERY)[1].strip().splitlines()
                return ": ".join([cause_of(process.returncode), *said[-1:]]) if process.returncode else ""
            beat()
    finally:
        process.kill()
        with suppress(subprocess.TimeoutExpired):  # what hangs in the system does not even end then
            process.wait(1.0)
    return tr("it took longer than {limit:.0f} seconds", limit=PAGE_LONGEST)
