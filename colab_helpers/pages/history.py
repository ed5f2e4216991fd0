"""The samples of a run as they come in, as far back as charts show them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from colab_helpers.resources.samples import Sample

WINDOW = 600.0
"""Seconds that the charts go back."""
# More samples than ten minutes hold; only foreign files have so many.
_MOST_SAMPLES = 2000


@dataclass
class SampleHistory:
    """The samples of the last ten minutes; as small after hours as before.

    Samples before ``since`` are those of another run.
    """

    since: float = 0.0
    recent: deque[Sample] = field(default_factory=lambda: deque(maxlen=_MOST_SAMPLES))
    count: int = 0

    def add(self, samples: Iterable[Sample]) -> None:
        """Take what is new."""
        for sample in samples:
            if sample.time < self.since or (self.recent and sample.time <= self.recent[-1].time):
                continue
            self.count += 1
            self.recent.append(sample)
            while sample.time - self.recent[0].time > WINDOW:
                self.recent.popleft()
