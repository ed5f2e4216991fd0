"""A batch from first to last file: one bad file never stops the others."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from colab_helpers.batch.drive import FACES_NAME
from colab_helpers.batch.estimate import Estimate
from colab_helpers.batch.face_indexes import remove_stale
from colab_helpers.batch.file_report import report_of, skipped
from colab_helpers.batch.growth import Growth
from colab_helpers.batch.hands import Hands
from colab_helpers.batch.members import Loaded
from colab_helpers.batch.report import BatchReport, FileReport
from colab_helpers.batch.surroundings import Surroundings
from colab_helpers.progress import Progress
from colab_helpers.trust.consent import consent_of


@dataclass(eq=False)
class Batch(ABC):
    """Many targets, done in an ``order``.

    Attributes:
        loaded: What does the work.
        files: What became of those that are over, by number.
    """

    around: Surroundings
    order: Sequence[int]
    estimate: Estimate
    loaded: Loaded = field(default=Loaded(), init=False)
    files: dict[int, FileReport] = field(default_factory=dict, init=False)

    def run(self) -> BatchReport:
        """Do every task; a stop ends the current one cleanly and leaves the rest as skipped."""
        status = self.around.status
        # Earlier workers of this run were at work, too; from here on a clock that jumps changes nothing.
        began = time.monotonic() - max(0.0, time.time() - status.status.started)
        stopped = False
        try:
            self._do_all()
            remove_stale(self.around.job.folder / FACES_NAME)
        except KeyboardInterrupt:
            stopped = True
        loaded, now = self.loaded, status.status
        reports = [
            self.files.get(n) or skipped(task, list(loaded.photos or self.around.job.names))
            for n, task in enumerate(self.around.job.tasks)
        ]
        return report_of(
            reports,
            consent=consent_of(self.around.job.request.consent),
            settings=loaded.settings or self.around.job.request.settings.model_dump(mode="json"),
            seconds=time.monotonic() - began,
            networks=loaded.models,
            notes=[*loaded.notes, *now.remarks, *([status.problem] if status.problem else [])],
            run=self.around.job.run,
            stopped=stopped,
            memory_warnings=now.memory_warnings,
            restarts=now.restarts,
        )

    @abstractmethod
    def _do_all(self) -> None:
        """Do every task, and tell by `ended` what became of each."""

    def ended(self, index: int, report: FileReport) -> None:
        """Tell what became of a file."""
        self.files[index] = report
        self.around.status.file(index, report)

    def tell(self, progress: Progress) -> None:
        """Say where a file stands, and how many fit the session."""
        self.around.tell(progress)
        self.estimate.look()


@dataclass(eq=False)
class Alone(Batch):
    """A batch done by one pair of ``hands``, in this process."""

    hands: Hands

    def _do_all(self) -> None:
        self.loaded = self.hands.loaded
        growth, self.hands.on_progress = Growth(), self.tell
        for index in self.order:
            self.around.beat()
            self.ended(index, self.hands.whole(index))
            if self.hands.worked and len(self.files) < len(self.around.job.tasks):
                growth.check(self.around.stop)


@dataclass(eq=False)
class Idle(Batch):
    """A batch of which no file is done, for a reason; without one somebody has stopped it."""

    why: str

    def _do_all(self) -> None:
        if not self.why:
            raise KeyboardInterrupt
        for index in self.order:
            report = skipped(self.around.job.tasks[index], list(self.around.job.names), self.why)
            report.fallbacks = list(self.around.status.status.files[index].fallbacks)
            self.ended(index, report)
