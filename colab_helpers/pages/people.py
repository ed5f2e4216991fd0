"""The people of a video: who each is, and when somebody was missed."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from colab_helpers.batch.report import FileReport, PersonReport
from colab_helpers.language import first_of, tr
from colab_helpers.pages.svg import strip
from colab_helpers.pages.units import moment


def person_name(person: PersonReport, place: int) -> str:
    """What somebody is called: as the map says, else by the order of their first frames."""
    if person.name:
        return person.name
    return tr("Person {number}", number=place + 1) if person.present_spans else tr("Others")


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
