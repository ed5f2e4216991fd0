"""Progress of a run, as the pipeline reports it and every display shows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from colab_helpers.language import mark

FINDING = mark("finding faces")
"""The stage that finds faces, before anything is changed."""
PROCESSING = mark("frames")
"""The stage that changes and writes frames."""


@dataclass(frozen=True)
class Progress:
    """Progress of a run at one moment.

    Attributes:
        file: Name of the target, which is number ``file_index``, from 0, of ``file_count``.
        frame: Frames written so far, of ``frames`` (None if unknown).
        fps: Frames per second since the file was started; for a worker, since the first of consecutive
            segments.
        eta: Estimated seconds until the file is done, or None.
        ram_percent: RAM in use on the machine; ``gpu_percent`` is VRAM in use and ``gpu_load`` the GPU's
            utilization, both in percent and None without a GPU.
        provider: Execution provider of the networks.
        threads: Groups of frames processed at the same time.
        batch_size: Frames whose faces go through a network together.
        stage: `FINDING`, then `PROCESSING`, then ``joining`` of the segments.
        waiting: Items in the queue after each stage of the pipeline, by its name: an empty queue waits for
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
