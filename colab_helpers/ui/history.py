"""Samples as they come in: read once, shown for ten minutes, summed up for good."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from colab_helpers.files import from_json
from colab_helpers.resources.samples import Sample
from colab_helpers.ui.charts import FIGURES, WINDOW, Figure

# More samples than ten minutes hold; only foreign files have so many.
_MOST_SAMPLES = 2000
_CHUNK = 1 << 20
_MARK = 256


class FigureSummary(BaseModel):
    """One figure over all that was measured, in its unit."""

    model_config = ConfigDict(extra="forbid")

    unit: str
    mean: float
    least: float
    most: float


class SampleTail:
    """The samples that were added to a file since the last look.

    A file that was cut or replaced meanwhile is read from its start again; whoever reads must know samples
    seen before by their times.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._mark = b""

    def read(self) -> Iterator[Sample]:
        """New samples, in the file's order; what is no sample, or not yet a whole line, is passed over."""
        try:
            with self._path.open("rb") as file:
                # What stands before the place is compared, not the file's number: Drive gives a new one
                # with every version of the same file.
                file.seek(self._offset - len(self._mark))
                if file.read(len(self._mark)) != self._mark:
                    self._offset, self._mark = file.seek(0), b""
                while chunk := file.read(_CHUNK):
                    # A megabyte without an end of line is no sample.
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


@dataclass
class _Tally:
    """A figure's least, most and mean, without its values."""

    count: int = 0
    total: float = 0.0
    least: float = math.inf
    most: float = -math.inf

    def add(self, value: float) -> None:
        self.count, self.total = self.count + 1, self.total + value
        self.least, self.most = min(self.least, value), max(self.most, value)

    def summary(self, unit: str) -> FigureSummary:
        mean = round(self.total / self.count, 3)
        return FigureSummary(unit=unit, mean=mean, least=round(self.least, 3), most=round(self.most, 3))


@dataclass
class History:
    """The samples of the last ten minutes, and the figures of all; as small after hours as before.

    Attributes:
        since: Earlier samples are those of another run.
    """

    since: float = 0.0
    recent: deque[Sample] = field(default_factory=lambda: deque(maxlen=_MOST_SAMPLES))
    count: int = 0
    tallies: dict[str, _Tally] = field(default_factory=dict)
    worst: dict[str, Sample] = field(default_factory=dict)

    def add(self, samples: Iterator[Sample]) -> None:
        """Take what is new."""
        for sample in samples:
            if sample.time >= self.since and (not self.recent or sample.time > self.recent[-1].time):
                self._add(sample)

    def _add(self, sample: Sample) -> None:
        self.count += 1
        self.recent.append(sample)
        while sample.time - self.recent[0].time > WINDOW:
            self.recent.popleft()
        for figure in FIGURES:
            value = figure.read(sample)
            if value is not None:
                self.tallies.setdefault(figure.name, _Tally()).add(value)
            if figure.strain(sample) >= 1:
                self.worst[figure.name] = self._worse(figure, sample)

    def _worse(self, figure: Figure, sample: Sample) -> Sample:
        before = self.worst.get(figure.name)
        return before if before and figure.strain(before) >= figure.strain(sample) else sample

    def figures(self) -> dict[str, FigureSummary]:
        """Every figure that was known at some time."""
        units = {figure.name: figure.unit for figure in FIGURES if figure.name in self.tallies}
        return {name: self.tallies[name].summary(unit) for name, unit in units.items()}

    def warnings(self) -> list[str]:
        """Limits that were passed, each at its worst."""
        return [figure.warning(self.worst[figure.name]) for figure in FIGURES if figure.name in self.worst]
