"""Which version of the package this is, and how a process that is all its own begins."""

from __future__ import annotations

import os

VERSION = "0.1.0"


def own_process() -> None:
    """Make a process that is all ours start sooner; call it before anything heavy is loaded.

    numpy starts a thread for every core to multiply large matrices, of which there are none here, and
    pydantic asks every installed package whether it brings a plugin.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
