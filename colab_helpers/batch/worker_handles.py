"""Who is in a crew, and what of its files is in work: what there is to tell of both."""

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

BEGINS, READY = mark("begins"), mark("ready")


class WorkerStatus(BaseModel, extra="forbid", defer_build=True):
    """One of several workers."""

    name: str = Field(description="Its machine, and what it has of that: a GPU, or processors.")
    file: str = Field("", description="Target it is at; none between two.")
    segment: int | None = Field(None, description="Number of the segment it is at, if that is all it does.")
    stage: str = Field(BEGINS, description="What is being done, in a word or two, as in a progress.")
    fps: float = Field(0.0, description="Frames per second; 0 where no frames are made.")
    gpu_load: float | None = Field(None, description="Of its GPU, in percent.")
    gpu_percent: float | None = Field(None, description="VRAM in use on its GPU, in percent.")
    pause: str | None = Field(None, description="What it waits for, if anything.")


@dataclass(frozen=True)
class WorkerInfo:
    """What a report says of the networks and photos of a worker; where they run, and what encodes there."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    models: tuple[ModelReport, ...] = ()
    notes: tuple[str, ...] = ()
    photos: tuple[str, ...] = ()
    place: str = "CPU"
    encoder: str = ""


@dataclass(eq=False)
class WorkerHandle:
    """A worker: what it sees, when it was last heard, what it is at, and what that waits for.

    ``process`` is a `WorkerProcess`, or what does the same elsewhere. Nobody waits for one that was
    ``last_heard`` at no time yet (infinity). The ``name`` is its own as long as it is there.
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
        """Note that it begins with something, or has ended."""
        self.call, self.progress, self.pause, self.last_heard = call, None, None, time.monotonic()

    def told(self, file: str) -> WorkerStatus:
        """Say what it does; its call is about a ``file``."""
        call, now, status = self.call, self.progress, WorkerStatus(name=self.name, pause=self.pause)
        if call is not None:
            status.file, status.stage = file, ""
            status.segment = call.number if call.kind == "segment" else None
        elif self.loaded:
            status.stage = READY
        if now is not None:
            status.file, status.stage = now.file, now.stage
            status.gpu_load, status.gpu_percent = now.gpu_load, now.gpu_percent
            status.fps = round(now.fps, 2) if now.stage == PROCESSING and not self.pause else 0.0
        return status


@dataclass(eq=False)
class FileInProgress:
    """A file in work: since when, what is to be done with it, and the frames of its segments so far."""

    began: float = field(default_factory=time.monotonic)
    plan: FilePlan = field(default_factory=FilePlan)
    frames: dict[int, int] = field(default_factory=dict)
    made_by: dict[str, list[tuple[int, int]]] = field(default_factory=dict)

    def together(self, latest: Progress, members: Iterable[WorkerHandle]) -> Progress:
        """Return how far all who make its segments have come; one that is noted counts once."""
        frame, fps = len(self.plan.finished) * self.plan.length + sum(self.frames.values()), 0.0
        for worker in members:
            call, now = worker.call, worker.progress
            if call and now and now.file_index == latest.file_index and now.stage == PROCESSING:
                fps += now.fps
                if call.number not in self.frames:
                    frame += max(0, now.frame - call.number * self.plan.length)
        frame = min(frame, latest.frames or frame)  # the last segment may be shorter
        left = (latest.frames - frame) / fps if fps and latest.frames else None
        return replace(latest, frame=frame, fps=fps, eta=left)
