"""Build the reports of finished files and of runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from colab_helpers.batch.plan import Task
from colab_helpers.batch.report import (
    BatchReport,
    FileReport,
    MarkReport,
    ModelReport,
    PersonReport,
    Quality,
    summarize,
    swapped_people,
)
from colab_helpers.faces.person_stats import PersonStats
from colab_helpers.faces.quality import root_mean
from colab_helpers.language import mark, tr
from colab_helpers.machine import this_machine
from colab_helpers.models.session import Network
from colab_helpers.pipeline import FileResult
from colab_helpers.trust.marking import Marks
from colab_helpers.trust.records import Consent


def fill_report(result: FileResult, report: FileReport, marks: Marks) -> None:
    """Copy the pipeline's measurements and the result's marks into the report."""
    measured = result.measured
    if marks.marked:
        by, texts, report.manifest = marks.signed_by, marks.disclosures(measured.actions), marks.manifest
        report.mark = MarkReport(beside=bool(marks.manifest), signed_by=by.name, made_here=by.local, **texts)
    for name in vars(result).keys() - {"measured", "notes", "seconds", "people"}:
        setattr(report, name, getattr(result, name))
    report.faces_swapped, report.frames_without_face = result.faces_swapped, result.frames_without_face
    report.fps = result.frames_out / result.seconds if result.seconds else 0.0
    report.quality = Quality(
        similarity_mean=measured.similarity_mean,
        similarity_p5=measured.similarity_p5,
        similarity_samples=len(measured.similarities),
        flicker=measured.flicker_rms,
        missed_spans=measured.spans,
        filled=measured.filled,
        people=[_person_report(person) for person in result.people],
    )
    report.fallbacks += result.notes


def _person_report(person: PersonStats) -> PersonReport:
    counts, portrait = person.counts, person.counts.portrait
    sums = {"likeness_swap": counts.swap, "likeness_mask": counts.mask, "likeness_final": counts.final}
    return PersonReport(
        people=person.people,
        name=person.name,
        action=person.action,
        source=person.source,
        seen=counts.seen,
        changed=counts.changed,
        filled=counts.filled,
        hidden=counts.hidden,
        unselected=counts.seen - counts.changed - counts.hidden,
        lost=person.lost,
        samples=counts.samples,
        **{name: value / counts.samples for name, value in sums.items() if counts.samples},
        flicker=root_mean(counts.flicker, counts.pairs),
        flicker_target=root_mean(counts.own, counts.pairs),
        present_spans=person.present,
        missed_spans=person.missed,
        portrait_seconds=portrait.seconds if portrait else None,
        portrait_box=portrait.box if portrait else None,
        portrait=portrait.url if portrait else "",
    )


def skipped_report(task: Task, sources: list[str], reason: str = "") -> FileReport:
    """Return the report of a skipped task; without a ``reason`` it was stopped by the user."""
    reason = reason or tr("stopped by the user")
    return FileReport(source=sources, target=str(task.target), status="skipped", error=reason)


def build_report(
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
    """Build the report of a run on this machine."""
    unnamed = consent.unnamed(swapped_people(files))
    if unnamed:
        text = mark("the statement of consent does not name these people who were changed or put in: {names}")
        notes = [*notes, tr(text, names=", ".join(unnamed))]
    return BatchReport(
        run=run,
        stopped=stopped,
        consent=consent,
        settings=dict(settings),
        machine=asdict(this_machine()),
        models=[ModelReport(name=net.name, path=str(net.path), standin=net.standin) for net in networks],
        notes=list(notes),
        not_in_consent=unnamed,
        summary=summarize(files, seconds=seconds, memory_warnings=memory_warnings, restarts=restarts),
        files=list(files),
    )
