from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from colab_helpers.machine import GIB
from colab_helpers.pipeline.frames import queue_depth


@given(st.integers(1, 200 << 20), st.floats(0.5, 64), st.integers(1, 400), st.integers(1, 5))
def test_queues_are_never_empty_nor_deeper_than_they_help(
    frame: int, memory: float, in_work: int, queues: int
) -> None:
    depth = queue_depth(frame, max_memory=memory, in_work=in_work, queues=queues)
    assert 1 <= depth <= 6
    if depth > 1:
        assert (depth * queues + in_work) * frame <= 0.2 * memory * GIB
