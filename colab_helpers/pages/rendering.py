"""The templates: everything that is put into them is escaped, and their texts go through ``tr``."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colab_helpers.batch.report import STATE_WORDS, action_text
from colab_helpers.language import language, printable, tr
from colab_helpers.pages import people, svg, units

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent


def render(name: str, **values: Any) -> str:
    """Fill in a template; the result can be encoded, whatever stands in names of files."""
    return printable(_environment().get_template(name).render(language=language(), **values))


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # slow, and words alone need none

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(tr=tr, state_words=STATE_WORDS, svg=svg, action_text=action_text)
    for use in (people.person_name, people.strip_of, people.spans_text):
        made.globals[use.__name__] = use
    made.filters.update(
        number=units.number,
        clock=units.clock_text,
        moment=units.moment,
        duration=units.duration,
        size=units.size,
        memory=units.memory,
        file_name=lambda path: Path(path).name,
    )
    return made
