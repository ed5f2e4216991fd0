"""Render the Jinja templates; every value is escaped, every text goes through ``tr``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from colab_helpers.batch.report import STATE_WORDS, FileReport, PersonReport, action_text
from colab_helpers.language import first_of, language, printable, tr
from colab_helpers.pages import svg, units

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent


def render(name: str, **values: Any) -> str:
    """Render a template; the result can be encoded as UTF-8 whatever bytes file names contain."""
    return printable(_environment().get_template(name).render(language=language(), **values))


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # slow import; text output needs none

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(tr=tr, state_words=STATE_WORDS, svg=svg, action_text=action_text)
    environment.globals.update(person_name=person_name, presence_bar=presence_bar, spans_text=spans_text)
    environment.filters.update(clock=units.clock_text, file_name=lambda path: Path(path).name)
    for function in (units.number, units.moment, units.duration, units.size, units.memory):
        environment.filters[function.__name__] = function
    return environment


def person_name(person: PersonReport, index: int) -> str:
    """Return a person's name from the people map, else their number in order of first appearance."""
    if person.name:
        return person.name
    return tr("Person {number}", number=index + 1) if person.present_spans else tr("Others")


def presence_bar(person: PersonReport, frames: int, name: str) -> Markup:
    """Draw when a person is present and when they were missed; empty for the row that sums up others."""
    if not person.present_spans:
        return Markup()
    label = tr("{name}: missed in {count} spans", name=name, count=len(person.missed_spans))
    return svg.strip(person.present_spans, person.missed_spans, frames, label=label)


def spans_text(spans: Sequence[tuple[int, int]], file: FileReport, limit: int) -> str:
    """Format spans of frames, with their times where known; list at most the first ``limit``."""
    rate = file.frames_out / file.video_seconds if file.video_seconds else 0.0
    lines = [f"{first}–{end - 1}" for first, end in spans]
    if rate:
        times = [f"{units.moment(first / rate)}–{units.moment(end / rate)}" for first, end in spans]
        lines = [f"{line} ({span})" for line, span in zip(lines, times, strict=True)]
    return first_of(lines, limit)
