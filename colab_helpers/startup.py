"""Which version of the package this is, and how a process that is all its own begins and ends."""

from __future__ import annotations

import gc
import os
import sys
from typing import NoReturn

VERSION = "0.1.0"


def begin_startup() -> None:
    """Make a process that is all ours start sooner; call it before anything heavy is loaded.

    numpy starts a thread for every core to multiply large matrices, of which there are none here, and
    pydantic asks every installed package whether it brings a plugin. Modules stay: they are not looked
    through again and again while they load. Call `finish_startup` before work that lasts.
    """
    gc.disable()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


def finish_startup() -> None:
    """Have garbage collected from now on, but for what is loaded: it need never be looked through."""
    gc.freeze()
    gc.enable()


def exit_immediately(code: int) -> NoReturn:
    """End a process that is all ours at once: everything is on disk; code 1 where what was said is lost.

    To take modules and networks apart takes a tenth of a second, and threads of drivers may hold that up.
    """
    for stream in filter(None, (sys.stdout, sys.stderr)):  # a shell may have closed either
        try:
            stream.flush()
        except OSError:  # a full disk, or nobody reads
            code = code or 1
    os._exit(code)
