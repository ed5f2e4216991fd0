"""A batch from first to last file: one bad file never stops the others."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from colab_helpers.batch.drive import FACES_NAME
from colab_helpers.batch.estimate import Estimate
from colab_helpers.batch.face_indexes import remove_stale
from colab_helpers.batch.growth import Growth
from colab_helpers.batch.hands import Hands, Loaded
from colab_helpers.batch.plan import Task
from colab_helpers.batch.report import BatchReport, FileReport, ModelReport, summarize, swapped_people
from colab_helpers.batch.surroundings import Surroundings
from colab_helpers.language import mark, tr
from colab_helpers.machine import this_machine
from colab_helpers.models.session import Network
from colab_helpers.progress import Progress
from colab_helpers.trust.consent import consent_of
from colab_helpers.trust.records import Consent


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
            self.files.get(n) or skipped(task, list(loaded.photos))
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


def skipped(task: Task, sources: list[str], why: str = "") -> FileReport:
    """Return the report of a task that was not done: somebody stopped the batch, unless ``why`` tells it."""
    why = why or tr("stopped by the user")
    return FileReport(source=sources, target=str(task.target), status="skipped", error=why)


def report_of(
    files: Sequence[FileReport],
    *,
    consent: Consent,
    settings: Mapping[str, Any],
    seconds: float,
    networks: Iterable[Network | ModelReport] = (),
    notes: Sequence[str] = (),
    run: str = "",
    stopped: bool = False,
    memory_warnings: int = 0,
    restarts: int = 0,
) -> BatchReport:
    """Put together the report of a run on this machine."""
    foreign = consent.unnamed(swapped_people(files))
    if foreign:
        told = mark("the statement of consent does not name everybody who was changed or put in: {names}")
        notes = [*notes, tr(told, names=", ".join(foreign))]
    return BatchReport(
        run=run,
        stopped=stopped,
        consent=consent,
        settings=dict(settings),
        machine=asdict(this_machine()),
        models=[ModelReport(name=net.name, path=str(net.path), standin=net.standin) for net in networks],
        notes=list(notes),
        not_in_consent=foreign,
        summary=summarize(files, seconds=seconds, memory_warnings=memory_warnings, restarts=restarts),
        files=list(files),
    )
