"""What is noted of the machine and the run every few seconds, and how it is read back from its file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from colab_helpers.files import from_json

SAMPLES_NAME = "samples.jsonl"
WARNING_PERCENT = 85.0
"""Of RAM in use; from here on it is short."""
# Far longer than any sample: what has no end of line within it is none.
_LONGEST = 1 << 20
# Ten minutes of samples take some 150 kB, and 25 kB for each further GPU.
_RECENT = 1 << 19


# Others may have written a file: what no machine has would stop whoever draws it.
_Count = Annotated[int, Field(lt=1 << 63)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class GpuSample(_Model):
    """A GPU at one moment; None stands for what its driver does not tell."""

    utilisation: float | None = Field(None, description="Share of the time in which it computed, in percent.")
    memory_used: _Count | None = Field(None, description="VRAM in use by all programs, in bytes.")
    memory_total: _Count | None = Field(None, description="VRAM in all, in bytes.")
    process_memory: _Count | None = Field(None, description="VRAM in use by the run's processes, in bytes.")
    encoder: float | None = Field(None, description="Load of the video encoder, in percent.")
    decoder: float | None = Field(None, description="Load of the video decoder, in percent.")
    temperature: float | None = Field(None, description="Temperature in degrees Celsius.")
    power: float | None = Field(None, description="Power drawn, in watts.")


class Sample(_Model):
    """Machine, process and run at one moment; None stands for what could not be read."""

    time: float = Field(ge=0, lt=1e11, description="When it was taken, in seconds since 1970.")
    cpu_percent: float | None = Field(
        None,
        description="Load of all the machine's processors since the sample before, 0 to 100 percent; "
        "None in the first sample.",
    )
    ram_used: _Count = Field(description="RAM in use, of the container where it has a limit, in bytes.")
    ram_total: _Count = Field(description="RAM of the machine or container, in bytes.")
    process_memory: _Count | None = Field(
        None, description="Resident memory of the run's process and its children, in bytes."
    )
    disk_free: _Count | None = Field(None, description="Free space where the results go, in bytes.")
    gpu: GpuSample | None = Field(None, description="The first GPU; None without one.")
    gpus: list[GpuSample] = Field([], description="Further GPUs, of which load and VRAM are read.")
    file: str | None = Field(None, description="Target in work; None between files.")
    frame: _Count = Field(0, description="Frames of it written so far.")
    fps: float = Field(0.0, description="Frames per second, as the run counts them.")
    queues: dict[str, _Count] = Field({}, description="Items that wait after each stage, by its name.")
    stage: str = Field("", description="What the run is doing, in a word or two.")

    @property
    def ram_percent(self) -> float:
        """RAM in use in percent of what there is."""
        return 100.0 * self.ram_used / self.ram_total if self.ram_total else 0.0


def iter_samples(path: Path, *, last: int | None = None) -> Iterator[Sample]:
    """Read the samples of a file in its order, or those in its ``last`` bytes; none where it cannot be read.

    Lines that are no sample are passed over, also one that is not whole yet.
    """
    try:
        with path.open("rb") as file:
            if last is not None:
                file.seek(max(0, file.seek(0, os.SEEK_END) - last))
            while line := file.readline(_LONGEST):
                try:
                    sample = from_json(Sample, line)
                except ValueError:
                    continue
                yield sample
    except OSError:
        return


def recent_samples(path: Path, since: float = 0.0) -> list[Sample]:
    """Read the samples of the last ten minutes or more, in the order of the file; none from before ``since``.

    In as much memory after hours as before.
    """
    return [sample for sample in iter_samples(path, last=_RECENT) if sample.time >= since]


def read_samples(path: Path, *, most: int | None = None) -> list[Sample]:
    """Read a file of samples in its order; one that cannot be read holds none.

    ``most`` (2 or more) thins evenly, keeping the first and the last, in memory that depends on it alone.
    """
    return list(iter_samples(path)) if most is None else _thinned(iter_samples(path), most)


def _thinned(samples: Iterator[Sample], most: int) -> list[Sample]:
    """At most ``most`` of the samples; never holds more than twice as many."""
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
