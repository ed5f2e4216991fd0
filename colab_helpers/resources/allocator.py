"""How the C library hands out large buffers."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

# glibc's <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 << 20
_KEPT_AT_THE_TOP = 128 << 20


@cache
def keep_large_buffers() -> bool:
    """Have freed buffers of up to 32 MB reused instead of returned to the system each time.

    Frames and tensors are a few megabytes each and come and go with every frame. By default glibc maps
    fresh pages for each, and touching them costs more than the work done on them: with this setting the
    detector's and enhancer's pre-processing takes about two thirds of the time.

    Returns:
        Whether it took effect; False where the C library has no such setting (macOS, musl, Windows).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    taken = mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD), mallopt(_M_TRIM_THRESHOLD, _KEPT_AT_THE_TOP)
    return all(taken)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    return trim


def return_free_memory() -> bool:
    """Give memory that is freed but kept for reuse back to the system.

    Returns:
        Whether anything was given back; False also where the C library cannot do it.
    """
    trim = _malloc_trim()
    return bool(trim is not None and trim(0))
