"""The worker pool's view of its workers and of the files in progress."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel, Field

from colab_helpers.batch.report import ModelReport
from colab_helpers.batch.scheduler import Call, FilePlan
from colab_helpers.language import mark
from colab_helpers.progress import PROCESSING, Progress

STARTING, READY = mark("starting"), mark("ready")


class WorkerStatus(BaseModel, extra="forbid", defer_build=True):
    """One of several workers."""

    name: str = Field(description="Its host and device: a GPU or the CPU.")
    file: str = Field("", description="Target it works on; empty between two.")
    segment: int | None = Field(None, description="Number of the segment it works on; none for a whole file.")
    stage: str = Field(STARTING, description="Current stage in a word or two, as in a progress.")
    fps: float = Field(0.0, description="Frames per second; 0 while no frames are written.")
    gpu_load: float | None = Field(None, description="Load of its GPU, in percent.")
    gpu_percent: float | None = Field(None, description="VRAM in use on its GPU, in percent.")
    pause: str | None = Field(None, description="What it waits for, if anything.")


@dataclass(frozen=True)
class WorkerInfo:
    """A worker's networks and photos as the report lists them, its device, and the encoder it uses."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    models: tuple[ModelReport, ...] = ()
    notes: tuple[str, ...] = ()
    photos: tuple[str, ...] = ()
    device_name: str = "CPU"
    encoder: str = ""


@dataclass(eq=False)
class WorkerHandle:
    """A worker as the pool sees it.

    Attributes:
        process: A `WorkerProcess`, or an object with the same methods for a worker on another machine.
        device: What the worker sees: a GPU's identifier, "" for none; on a cluster the node.
        name: Unique among the workers of the pool.
        last_heard: Monotonic time of its last message; infinity, without stall timeout, until it has started.
        pause: What its current call waits for.
    """

    number: int
    process: Any
    device: str
    name: str
    last_heard: float = field(default_factory=time.monotonic)
    loaded: bool = False
    call: Call | None = None
    progress: Progress | None = None
    pause: str | None = None
    kill_reason: str = ""

    def assign(self, call: Call | None) -> None:
        """Set the current call, None when it has ended, and reset what belonged to the previous one."""
        self.call, self.progress, self.pause, self.last_heard = call, None, None, time.monotonic()

    def status(self, file: str) -> WorkerStatus:
        """Describe what the worker does; ``file`` is the name of its call's target."""
        call, progress, status = self.call, self.progress, WorkerStatus(name=self.name, pause=self.pause)
        if call is not None:
            status.file, status.stage = file, ""
            status.segment = call.number if call.kind == "segment" else None
        elif self.loaded:
            status.stage = READY
        if progress is not None:
            status.file, status.stage = progress.file, progress.stage
            status.gpu_load, status.gpu_percent = progress.gpu_load, progress.gpu_percent
            status.fps = round(progress.fps, 2) if progress.stage == PROCESSING and not self.pause else 0.0
        return status


@dataclass(eq=False)
class FileInProgress:
    """A file in progress: when it began, its plan, and the frames of its journaled segments by number."""

    began: float = field(default_factory=time.monotonic)
    plan: FilePlan = field(default_factory=FilePlan)
    frames: dict[int, int] = field(default_factory=dict)
    made_by: dict[str, list[tuple[int, int]]] = field(default_factory=dict)

    def combined_progress(self, latest: Progress, workers: Iterable[WorkerHandle]) -> Progress:
        """Return ``latest`` with the frames and rate of all workers on the file; count no segment twice."""
        frame, fps = len(self.plan.finished) * self.plan.length + sum(self.frames.values()), 0.0
        for worker in workers:
            call, progress = worker.call, worker.progress
            if call and progress and (progress.file_index, progress.stage) == (latest.file_index, PROCESSING):
                fps += progress.fps
                if call.number not in self.frames:
                    frame += max(0, progress.frame - call.number * self.plan.length)
        frame = min(frame, latest.frames or frame)  # the last segment may be shorter
        eta = (latest.frames - frame) / fps if fps and latest.frames else None
        return replace(latest, frame=frame, fps=fps, eta=eta)
