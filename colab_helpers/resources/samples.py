"""Samples of the machine and the run, and reading them back from their file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from colab_helpers.files import from_json

SAMPLES_NAME = "samples.jsonl"
WARNING_PERCENT = 85.0
"""RAM in use, in percent, above which it counts as short."""
# Far more than any sample: a longer line is not one.
_MAX_LINE_BYTES = 1 << 20
# Ten minutes of samples take some 150 kB, and 25 kB for each further GPU.
_RECENT_BYTES = 1 << 19

# The file may come from elsewhere: absurd values would break the charts.
_Count = Annotated[int, Field(lt=1 << 63)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class GpuSample(_Model):
    """State of a GPU at one moment; None for values that its driver does not report."""

    utilisation: float | None = Field(None, description="Share of the time it was computing, in percent.")
    memory_used: _Count | None = Field(None, description="VRAM in use by all programs, in bytes.")
    memory_total: _Count | None = Field(None, description="Total VRAM, in bytes.")
    process_memory: _Count | None = Field(None, description="VRAM in use by the run's processes, in bytes.")
    encoder: float | None = Field(None, description="Load of the video encoder, in percent.")
    decoder: float | None = Field(None, description="Load of the video decoder, in percent.")
    temperature: float | None = Field(None, description="Temperature in degrees Celsius.")
    power: float | None = Field(None, description="Power drawn, in watts.")


class Sample(_Model):
    """State of machine, process and run at one moment; None for values that could not be read."""

    time: float = Field(ge=0, lt=1e11, description="When it was taken, in seconds since 1970.")
    cpu_percent: float | None = Field(
        None,
        description="Load of all processors since the previous sample, 0 to 100 percent; None in the first.",
    )
    ram_used: _Count = Field(description="RAM in use, by the container if it has a limit, in bytes.")
    ram_total: _Count = Field(description="RAM of the machine or container, in bytes.")
    process_memory: _Count | None = Field(
        None, description="Resident memory of the run's processes, in bytes."
    )
    disk_free: _Count | None = Field(None, description="Free disk space of the output folder, in bytes.")
    gpu: GpuSample | None = Field(None, description="The first GPU; None without one.")
    gpus: list[GpuSample] = Field([], description="Load and VRAM of further GPUs.")
    file: str | None = Field(None, description="Current target; None between files.")
    frame: _Count = Field(0, description="Frames of its result written so far.")
    fps: float = Field(0.0, description="Frames per second, as the run counts them.")
    queues: dict[str, _Count] = Field({}, description="Items in the queue behind each stage, by its name.")
    stage: str = Field("", description="What the run is doing, in a word or two.")

    @property
    def ram_percent(self) -> float:
        """RAM in use in percent of the total."""
        return 100.0 * self.ram_used / self.ram_total if self.ram_total else 0.0


def iter_samples(path: Path, *, last: int | None = None) -> Iterator[Sample]:
    """Yield the samples of a file in order, or those in its ``last`` bytes; none if it cannot be read.

    Lines that are no sample are skipped, such as an incomplete last one.
    """
    try:
        with path.open("rb") as file:
            if last is not None:
                file.seek(max(0, file.seek(0, os.SEEK_END) - last))
            while line := file.readline(_MAX_LINE_BYTES):
                try:
                    sample = from_json(Sample, line)
                except ValueError:
                    continue
                yield sample
    except OSError:
        return


def recent_samples(path: Path, since: float = 0.0) -> list[Sample]:
    """Read at least the last ten minutes of samples, in order, from ``since`` on, in constant memory."""
    return [sample for sample in iter_samples(path, last=_RECENT_BYTES) if sample.time >= since]


def read_samples(path: Path, *, most: int | None = None) -> list[Sample]:
    """Read the samples of a file in order; none if it cannot be read.

    ``most`` (2 or more) limits their number: they are thinned evenly, the first and the last are kept, and
    memory use depends on ``most`` alone.
    """
    return list(iter_samples(path)) if most is None else _thin(iter_samples(path), most)


def _thin(samples: Iterator[Sample], most: int) -> list[Sample]:
    """Thin samples evenly to at most ``most``, holding never more than twice as many."""
    kept: list[Sample] = []
    step, last = 1, None
    for number, sample in enumerate(samples):
        last = sample
        if number % step:
            continue
        kept.append(sample)
        if len(kept) == 2 * most:
            del kept[1::2]
            step *= 2
    if last is not None and kept[-1] is not last:
        kept.append(last)
    if len(kept) <= most:
        return kept
    return [kept[round(index * (len(kept) - 1) / (most - 1))] for index in range(most)]
