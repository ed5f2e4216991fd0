"""The people of a video: what became of each, with a portrait, and when somebody was missed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from colab_helpers.batch.report import FileReport, PersonReport, action_text
from colab_helpers.errors import MediaError
from colab_helpers.language import first_of, tr
from colab_helpers.pages.pictures import portrait_of
from colab_helpers.pages.svg import strip
from colab_helpers.pages.units import moment, number

_MOST_SPANS = 4
_STAGES = ("likeness_swap", "likeness_mask", "likeness_final")


@dataclass(frozen=True)
class PersonRow:
    """One person of a file, ready to be shown; ``portrait`` is a data URL, empty where there is none."""

    name: str
    done: str
    portrait: str
    counts: tuple[str, ...]
    missed: Markup
    told: str


def person_name(person: PersonReport, place: int) -> str:
    """What somebody is called: as the map says, else by the order of their first frames."""
    if person.name:
        return person.name
    return tr("Person {number}", number=place + 1) if person.present_spans else tr("Others")


def rows_of(file: FileReport, *, portraits: bool) -> list[PersonRow]:
    """Write down the people of a file; for ``portraits`` frames of its target are decoded."""
    people = file.quality.people if file.quality else []
    return [
        PersonRow(
            name=person_name(person, place),
            done=action_text(person) if person.name else "",
            portrait=_portrait(file, person) if portraits else "",
            counts=_counts(person),
            missed=strip_of(person, file.frames_out, person_name(person, place)),
            told=spans_text(person.missed_spans, file, _MOST_SPANS),
        )
        for place, person in enumerate(people)
    ]


def strip_of(person: PersonReport, frames: int, name: str) -> Markup:
    """Draw when somebody is there, and when they were missed; nothing of a crowd."""
    if not person.present_spans:
        return Markup()
    label = tr("{name}: missed in {count} spans", name=name, count=len(person.missed_spans))
    return strip(person.present_spans, person.missed_spans, frames, label=label)


def spans_text(spans: Sequence[tuple[int, int]], file: FileReport, most: int) -> str:
    """Name stretches of a file in frames and times; only the first few of many."""
    rate = file.frames_out / file.video_seconds if file.video_seconds else 0.0
    lines = [f"{first}–{end - 1}" for first, end in spans]
    if rate:
        times = [f"{moment(first / rate)}–{moment(end / rate)}" for first, end in spans]
        lines = [f"{line} ({span})" for line, span in zip(lines, times, strict=True)]
    return first_of(lines, most)


def _counts(person: PersonReport) -> tuple[str, ...]:
    """Frames seen, changed, filled and skipped; likeness by stage; flicker."""
    skipped = {
        tr("{count} hidden", count=person.hidden): person.hidden,
        tr("{count} not selected", count=person.unselected): person.unselected,
        tr("{count} lost", count=person.lost): person.lost,
    }
    stages = [getattr(person, name) for name in _STAGES]
    flicker = [person.flicker, person.flicker_target]
    return (
        str(person.seen),
        str(person.changed),
        str(person.filled),
        ", ".join(text for text, count in skipped.items() if count) or "–",
        " → ".join(f"{value:.2f}" for value in stages if value is not None) or "–",
        " / ".join(number(value) for value in flicker if value is not None) or "–",
    )


def _portrait(file: FileReport, person: PersonReport) -> str:
    if person.portrait_seconds is None or person.portrait_box is None:
        return ""
    try:
        return portrait_of(Path(file.target), person.portrait_seconds, person.portrait_box)
    except (MediaError, OSError, ValueError):  # files change after a run
        return ""
