"""A batch from first to last file: one bad file never stops the others."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from colab_helpers.batch.context import WorkerContext
from colab_helpers.batch.drive import FACES_NAME
from colab_helpers.batch.estimate import Estimate
from colab_helpers.batch.face_indexes import remove_stale
from colab_helpers.batch.file_report import build_report, skipped
from colab_helpers.batch.memory_growth import MemoryGrowth
from colab_helpers.batch.report import BatchReport, FileReport
from colab_helpers.batch.task_runner import TaskRunner
from colab_helpers.batch.worker_handles import WorkerInfo
from colab_helpers.progress import Progress
from colab_helpers.trust.consent import parse_consent


@dataclass(eq=False)
class BatchRunner(ABC):
    """Many targets, done in an ``order``.

    Attributes:
        loaded: What does the work.
        files: What became of those that are over, by number.
    """

    context: WorkerContext
    order: Sequence[int]
    estimate: Estimate
    loaded: WorkerInfo = field(default=WorkerInfo(), init=False)
    files: dict[int, FileReport] = field(default_factory=dict, init=False)

    def run(self) -> BatchReport:
        """Do every task; a stop ends the current one cleanly and leaves the rest as skipped."""
        status = self.context.status
        # Earlier workers of this run were at work, too; from here on a clock that jumps changes nothing.
        began = time.monotonic() - max(0.0, time.time() - status.status.started)
        stopped = False
        try:
            self._run_all()
            remove_stale(self.context.job.folder / FACES_NAME)
        except KeyboardInterrupt:
            stopped = True
        loaded, now = self.loaded, status.status
        reports = [
            self.files.get(n) or skipped(task, list(loaded.photos or self.context.job.names))
            for n, task in enumerate(self.context.job.tasks)
        ]
        return build_report(
            reports,
            consent=parse_consent(self.context.job.request.consent),
            settings=loaded.settings or self.context.job.request.settings.model_dump(mode="json"),
            seconds=time.monotonic() - began,
            networks=loaded.models,
            notes=[*loaded.notes, *now.remarks, *([status.problem] if status.problem else [])],
            run=self.context.job.run,
            stopped=stopped,
            memory_warnings=now.memory_warnings,
            restarts=now.restarts,
        )

    @abstractmethod
    def _run_all(self) -> None:
        """Do every task, and tell by `ended` what became of each."""

    def ended(self, index: int, report: FileReport) -> None:
        """Tell what became of a file."""
        self.files[index] = report
        self.context.status.file(index, report)

    def tell(self, progress: Progress) -> None:
        """Say where a file stands, and how many fit the session."""
        self.context.tell(progress)
        self.estimate.update()


@dataclass(eq=False)
class InProcessRunner(BatchRunner):
    """A batch done by one pair of ``runner``, in this process."""

    runner: TaskRunner

    def _run_all(self) -> None:
        self.loaded = self.runner.loaded
        growth, self.runner.on_progress = MemoryGrowth(), self.tell
        for index in self.order:
            self.context.heartbeat()
            self.ended(index, self.runner.whole(index))
            if self.runner.did_work and len(self.files) < len(self.context.job.tasks):
                growth.check(self.context.stop)


@dataclass(eq=False)
class SkippingRunner(BatchRunner):
    """A batch of which no file is done, for a reason; without one somebody has stopped it."""

    why: str

    def _run_all(self) -> None:
        if not self.why:
            raise KeyboardInterrupt
        for index in self.order:
            report = skipped(self.context.job.tasks[index], list(self.context.job.names), self.why)
            report.fallbacks = list(self.context.status.status.files[index].fallbacks)
            self.ended(index, report)
