"""Run all files of a batch; one bad file never stops the others."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from colab_helpers.batch.context import WorkerContext
from colab_helpers.batch.drive import FACES_NAME
from colab_helpers.batch.estimate import Estimate
from colab_helpers.batch.face_indexes import remove_stale
from colab_helpers.batch.file_report import build_report, skipped_report
from colab_helpers.batch.memory_growth import MemoryGrowth
from colab_helpers.batch.report import BatchReport, FileReport
from colab_helpers.batch.task_runner import TaskRunner
from colab_helpers.batch.worker_handles import WorkerInfo
from colab_helpers.progress import Progress
from colab_helpers.trust.consent import parse_consent


@dataclass(eq=False)
class BatchRunner(ABC):
    """Processes the targets of a batch in an ``order``; ``files``: reports of those that have ended."""

    context: WorkerContext
    order: Sequence[int]
    estimate: Estimate
    loaded: WorkerInfo = field(default=WorkerInfo(), init=False)  # networks and photos in use
    files: dict[int, FileReport] = field(default_factory=dict, init=False)

    def run(self) -> BatchReport:
        """Process every task; a stop ends the current one cleanly and skips the rest."""
        status = self.context.status
        # Includes earlier workers of this run; monotonic from here on, whatever happens to the clock.
        began = time.monotonic() - max(0.0, time.time() - status.status.started)
        stopped = False
        try:
            self._run_all()
            remove_stale(self.context.job.folder / FACES_NAME)
        except KeyboardInterrupt:
            stopped = True
        loaded, job = self.loaded, self.context.job
        photos = list(loaded.photos or job.names)
        return build_report(
            [self.files.get(n) or skipped_report(task, photos) for n, task in enumerate(job.tasks)],
            consent=parse_consent(job.request.consent),
            settings=loaded.settings or job.request.settings.model_dump(mode="json"),
            seconds=time.monotonic() - began,
            networks=loaded.models,
            notes=[*loaded.notes, *status.status.remarks, *([status.problem] if status.problem else [])],
            run=job.run,
            stopped=stopped,
            memory_warnings=status.status.memory_warnings,
            restarts=status.status.restarts,
        )

    @abstractmethod
    def _run_all(self) -> None:
        """Process every task, and call `file_ended` for each."""

    def file_ended(self, index: int, report: FileReport) -> None:
        """Record the report of a file that has ended."""
        self.files[index] = report
        self.context.status.file(index, report)

    def report_progress(self, progress: Progress) -> None:
        """Report a file's progress, and update the estimate."""
        self.context.report_progress(progress)
        self.estimate.update()


@dataclass(eq=False)
class InProcessRunner(BatchRunner):
    """Processes a batch with one ``runner``, in this process."""

    runner: TaskRunner

    def _run_all(self) -> None:
        self.loaded = self.runner.loaded
        growth, self.runner.on_progress = MemoryGrowth(), self.report_progress
        for index in self.order:
            self.context.heartbeat()
            self.file_ended(index, self.runner.process_file(index))
            if self.runner.did_work and len(self.files) < len(self.context.job.tasks):
                growth.check(self.context.stop)


@dataclass(eq=False)
class SkippingRunner(BatchRunner):
    """Skips all files of a batch for a ``reason``; an empty one means that it was stopped."""

    reason: str

    def _run_all(self) -> None:
        if not self.reason:
            raise KeyboardInterrupt
        for index in self.order:
            report = skipped_report(self.context.job.tasks[index], list(self.context.job.names), self.reason)
            report.fallbacks = list(self.context.status.status.files[index].fallbacks)
            self.file_ended(index, report)
