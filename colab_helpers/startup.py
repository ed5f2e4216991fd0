"""The package's version, and fast startup and exit of processes that run nothing else."""

from __future__ import annotations

import gc
import os
import sys
from typing import NoReturn

VERSION = "0.1.0"


def begin_startup() -> None:
    """Speed up the start of a dedicated process; call it before heavy imports.

    Keeps numpy from starting a BLAS thread per core and pydantic from searching every installed package for
    plugins, neither of which is needed here, and turns off garbage collection, which would scan the modules
    again and again while they load. Call `finish_startup` before lasting work.
    """
    gc.disable()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


def finish_startup() -> None:
    """Turn garbage collection on, without the objects loaded so far: they are never scanned."""
    gc.freeze()
    gc.enable()


def exit_immediately(code: int) -> NoReturn:
    """End a dedicated process without teardown; with code 1 instead of 0 if output cannot be flushed.

    Everything is on disk already. Teardown of modules and networks takes a tenth of a second, and driver
    threads may block it.
    """
    for stream in filter(None, (sys.stdout, sys.stderr)):  # a shell may have closed either
        try:
            stream.flush()
        except OSError:  # a full disk, or the reader has closed the pipe
            code = code or 1
    os._exit(code)
