"""Where a run stands: what the pipeline tells and every display shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from colab_helpers.language import mark

FINDING = mark("finding faces")
"""The stage in which faces are searched for, before anything is changed."""
PROCESSING = mark("frames")
"""The stage in which frames are changed and written."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        file: Name of the target, number ``file_index``, from 0, of ``file_count``.
        frame: Frames written so far, of ``frames`` (None if the file does not say).
        fps: Frames per second since the file began; of a worker since the first of segments in a row.
        eta: Seconds until the file is done, or None.
        ram_percent: RAM in use on the machine; ``gpu_percent`` VRAM, ``gpu_load`` how busy the GPU is, both
            None without one.
        provider: Where the networks run.
        threads: Groups of frames worked on at a time.
        batch_size: Frames whose faces go through a network together.
        stage: What is being done: `PROCESSING`, `FINDING` before them, or ``joining`` the segments at the
        end.
        waiting: Items waiting behind each stage of the pipeline, by its name: an empty queue waits for
            the stage before it, a full one for the stage after it.
    """

    file: str
    file_index: int
    file_count: int
    frame: int
    frames: int | None
    fps: float
    eta: float | None
    ram_percent: float
    gpu_percent: float | None
    provider: str
    threads: int
    batch_size: int
    stage: str = PROCESSING
    gpu_load: float | None = None
    waiting: Mapping[str, int] = field(default_factory=dict)


ProgressCallback = Callable[[Progress], None]
