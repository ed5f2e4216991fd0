"""How many frames may be held at once."""

from __future__ import annotations

from colab_helpers.machine import GIB

# Frames waiting between stages may take this share of the budget; networks, decoder and encoder need
# the rest.
_QUEUE_SHARE = 0.2
# Deeper queues do not make a run faster: one slow stage fills them all.
_DEEPEST = 8


def queue_depth(frame_bytes: int, *, max_memory: float, in_work: int, queues: int) -> int:
    """Depth of each queue between stages.

    Args:
        frame_bytes: Size of one decoded frame.
        max_memory: RAM the run may hold, in GiB.
        in_work: Frames that the stages themselves hold.
        queues: How many queues there are.

    Returns:
        From 1 to 8 frames.
    """
    frames = int(max_memory * GIB * _QUEUE_SHARE / max(1, frame_bytes)) - in_work
    return max(1, min(_DEEPEST, frames // queues))
