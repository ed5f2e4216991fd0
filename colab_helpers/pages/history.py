"""The samples of a run as they come in: shown for ten minutes, summed up for good."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from colab_helpers.pages.figures import FIGURES
from colab_helpers.resources.samples import Sample

WINDOW = 600.0
"""Seconds that the charts go back."""
# More samples than ten minutes hold; only foreign files have so many.
_MOST_SAMPLES = 2000


class FigureSummary(BaseModel):
    """One figure over all that was measured, in its unit."""

    model_config = ConfigDict(extra="forbid")

    unit: str
    mean: float
    least: float
    most: float


@dataclass
class SampleHistory:
    """The samples of the last ten minutes, and the figures of all; as small after hours as before.

    Samples before ``since`` are those of another run.
    """

    since: float = 0.0
    recent: deque[Sample] = field(default_factory=lambda: deque(maxlen=_MOST_SAMPLES))
    count: int = 0
    _sums: dict[str, tuple[int, float, float, float]] = field(default_factory=dict)
    _worst: dict[str, Sample] = field(default_factory=dict)

    def add(self, samples: Iterable[Sample]) -> None:
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
                count, total, least, most = self._sums.get(figure.name, (0, 0.0, math.inf, -math.inf))
                self._sums[figure.name] = (count + 1, total + value, min(least, value), max(most, value))
            if figure.strain(sample) >= 1:
                before = self._worst.get(figure.name, sample)
                self._worst[figure.name] = max(before, sample, key=figure.strain)

    def figures(self) -> dict[str, FigureSummary]:
        """Sum up every figure that was known at some time."""
        found = {}
        for figure in FIGURES:
            if figure.name in self._sums:
                count, total, least, most = self._sums[figure.name]
                values = {"mean": total / count, "least": least, "most": most}
                rounded = {name: round(value, 3) for name, value in values.items()}
                found[figure.name] = FigureSummary(unit=figure.unit, **rounded)
        return found

    def warnings(self) -> list[str]:
        """Name the limits that were passed, each at its worst."""
        return [figure.warning(self._worst[figure.name]) for figure in FIGURES if figure.name in self._worst]
