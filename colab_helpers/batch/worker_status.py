"""What one of several workers of a batch does at the moment."""

from __future__ import annotations

from pydantic import BaseModel, Field

from colab_helpers.language import mark

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
