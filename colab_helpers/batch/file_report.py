"""What a file's report takes from the pipeline, once its result is made."""

from __future__ import annotations

from colab_helpers.batch.report import FileReport, MarkReport, PersonReport, Quality
from colab_helpers.faces.person_counts import Person
from colab_helpers.faces.quality import root_mean
from colab_helpers.pipeline import FileResult
from colab_helpers.trust.marking import Marks


def enter(result: FileResult, report: FileReport, marks: Marks) -> None:
    """Copy what the pipeline measured into the report, and how it marked the result."""
    if marks.marked:
        by, said, report.manifest = marks.signed_by, marks.disclosed(result.measured.actions), marks.manifest
        report.mark = MarkReport(beside=bool(marks.manifest), signed_by=by.name, made_here=by.local, **said)
    measured = result.measured
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


def _person_report(person: Person) -> PersonReport:
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
