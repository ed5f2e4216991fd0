"""What is noted of the machine and the run every few seconds, and how it is read back from its file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from colab_helpers.files import from_json

SAMPLES_NAME = "samples.jsonl"
# Read at once, and far longer than any sample: what has no end of line within it is none.
_CHUNK = 1 << 20
# So much of what stood before the place is compared, to know the file again.
_MARK = 256


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class GpuSample(_Model):
    """The first GPU at one moment; None stands for what its driver does not tell."""

    utilisation: float | None = Field(None, description="Share of the time in which it computed, in percent.")
    memory_used: int | None = Field(None, description="VRAM in use by all programs, in bytes.")
    memory_total: int | None = Field(None, description="VRAM in all, in bytes.")
    process_memory: int | None = Field(None, description="VRAM in use by the run's processes, in bytes.")
    encoder: float | None = Field(None, description="Load of the video encoder, in percent.")
    decoder: float | None = Field(None, description="Load of the video decoder, in percent.")
    temperature: float | None = Field(None, description="Temperature in degrees Celsius.")
    power: float | None = Field(None, description="Power drawn, in watts.")


class Sample(_Model):
    """Machine, process and run at one moment; None stands for what could not be read."""

    time: float = Field(description="When it was taken, in seconds since 1970.")
    cpu_percent: float | None = Field(
        None,
        description="Load of all the machine's processors since the sample before, 0 to 100 percent; "
        "None in the first sample.",
    )
    ram_used: int = Field(description="RAM in use, of the container where it has a limit, in bytes.")
    ram_total: int = Field(description="RAM of the machine or container, in bytes.")
    process_memory: int | None = Field(
        None, description="Resident memory of the run's process and its children, in bytes."
    )
    disk_free: int | None = Field(None, description="Free space where the results go, in bytes.")
    gpu: GpuSample | None = Field(None, description="The first GPU; None without one.")
    file: str | None = Field(None, description="Target in work; None between files.")
    frame: int = Field(0, description="Frames of it written so far.")
    fps: float = Field(0.0, description="Frames per second, as the run counts them.")
    queues: dict[str, int] = Field({}, description="Items that wait after each stage, by the stage's name.")
    stage: str = Field("", description="What the run is doing, in a word or two.")

    @property
    def ram_percent(self) -> float:
        """RAM in use in percent of what there is."""
        return 100.0 * self.ram_used / self.ram_total if self.ram_total else 0.0


class SampleTail:
    """Reads the samples that were added to a file since the last look.

    Lines that are no sample are passed over. A file that was cut or replaced meanwhile is read from its start
    again; whoever reads must know samples seen before by their times.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._mark = b""

    def read(self) -> Iterator[Sample]:
        """Read new samples, in the file's order; a file that cannot be read holds none."""
        try:
            with self._path.open("rb") as file:
                # What stands before the place is compared, not the file's number: Drive gives a new one
                # with every version of the same file.
                file.seek(self._offset - len(self._mark))
                if file.read(len(self._mark)) != self._mark:
                    self._offset, self._mark = file.seek(0), b""
                while chunk := file.read(_CHUNK):
                    used = chunk.rfind(b"\n") + 1 or (len(chunk) if len(chunk) == _CHUNK else 0)
                    if not used:
                        break
                    self._mark, self._offset = (self._mark + chunk[:used])[-_MARK:], self._offset + used
                    file.seek(self._offset)
                    yield from _samples(chunk[:used])
        except OSError:
            return


def _samples(text: bytes) -> Iterator[Sample]:
    for line in text.splitlines():
        try:
            yield from_json(Sample, line)
        except ValueError:
            continue


def read_samples(path: Path, *, most: int | None = None) -> list[Sample]:
    """Read a file of samples in its order; one that cannot be read holds none.

    ``most`` (2 or more) thins evenly, keeping the first and the last, in memory that depends on it alone.
    """
    samples = SampleTail(path).read()
    return list(samples) if most is None else _thinned(samples, most)


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
