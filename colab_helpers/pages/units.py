"""Numbers as people read them."""

from __future__ import annotations

import math

from colab_helpers.language import tr
from colab_helpers.machine import GIB


def number(value: float) -> str:
    """Write a value with as many digits as are worth reading: about three."""
    if not value:
        return "0"
    digits = min(3, max(0, 2 - math.floor(math.log10(abs(value)))))
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def clock_text(seconds: float) -> str:
    """Write a time as ``m:ss``, from an hour on as ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def moment(seconds: float) -> str:
    """Write a time in a video as ``m:ss.t``; short spans would otherwise begin and end at the same second."""
    tenths = round(seconds * 10)
    return f"{clock_text(tenths // 10)}.{tenths % 10}"


def duration(seconds: float) -> str:
    """Write a time in tenths of seconds below a minute, else in minutes and seconds."""
    return f"{seconds:.1f} s" if seconds < 60 else clock_text(seconds)


def size(count: float) -> str:
    """Write the bytes of a file in steps of 1000."""
    for unit in (tr("bytes"), "kB", "MB"):
        if count < 1000:
            return f"{number(count)} {unit}"
        count /= 1000
    return f"{number(count)} GB"


def memory(count: float) -> str:
    """Write bytes of memory in steps of 1024."""
    return f"{number(count / GIB)} GiB" if abs(count) >= GIB else f"{count / 2**20:.0f} MiB"
