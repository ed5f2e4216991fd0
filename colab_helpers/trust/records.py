"""What is kept in reports and manifests of the consent stated and of a look at a target's content."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel

from colab_helpers.files import to_json
from colab_helpers.language import mark, tr

Ground = Literal["self", "written consent", "synthetic", "licensed", "public archive"]
GROUNDS = (mark("self"), mark("written consent"), mark("synthetic"), mark("licensed"), mark("public archive"))
"""On what ground a person may be shown: it is oneself, they agreed in writing, they do not exist, the
material is licensed for this use, or an archive gives it to the public for it. In English; ``grounds`` names
them in the language spoken."""


def grounds() -> tuple[str, ...]:
    """The grounds in the language spoken; a statement may name them in English, too."""
    return tuple(map(tr, GROUNDS))


class ConsentedPerson(BaseModel, extra="forbid", frozen=True):
    """Somebody who is shown, as source or in a target."""

    name: str
    ground: Ground  # one of ``GROUNDS``
    given_by: str = ""  # who says so, and when; for oneself and for people who do not exist it may be empty
    document: str = ""  # where that is written down

    @property
    def told(self) -> str:
        """The same in a few words."""
        beside = "; ".join(filter(None, (self.given_by, self.document)))
        return f"{self.name}: {tr(self.ground)}{f' ({beside})' if beside else ''}"


class Consent(BaseModel, extra="forbid", frozen=True):
    """What was stated: a sentence, and each person where a file names them. Empty where none is needed."""

    statement: str = ""
    people: tuple[ConsentedPerson, ...] = ()

    @property
    def text(self) -> str:
        """The same as one text, which depends on no file."""
        return to_json(self) if self.people else self.statement

    def record(self) -> dict[str, Any]:
        """Return it as manifests and reports keep it."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def unnamed(self, people: Iterable[str]) -> list[str]:
        """Return who of some people, by name, it does not name; each once, in their order.

        Case, accents and what stands between two words do not matter: ``ana_ruiz`` is Ana Ruiz. A sentence
        may go on before and behind a name; of people who are named each, the whole name counts.
        """
        named, said = {_plain(one.name) for one in self.people}, f" {_plain(self.statement)} "
        return [
            name
            for name in dict.fromkeys(people)
            if not (_plain(name) in named if named else f" {_plain(name)} " in said)
        ]


class ContentDecision(BaseModel, frozen=True):
    """What was seen in a target, and what follows."""

    state: Literal["allowed", "refused"]
    reason: str = ""  # why it is refused, in the language spoken
    # When frames hit or, for a seeming minor, were doubtful: the first twenty.
    seconds: tuple[float, ...] = ()
    # Frames that were looked at; ``hits`` those that hit, ``doubts`` those that are doubtful.
    samples: int = 0
    hits: int = 0
    doubts: int = 0
    scores: dict[str, float] = {}  # the highest of each network; ``thresholds`` what they were held against
    thresholds: dict[str, float] = {}
    networks: dict[str, str] = {}  # SHA-256 of each network's file
    # The youngest that a face seems, of doubtful frames and of who is put in; None without either.
    age: float | None = None


def _plain(text: str) -> str:
    letters = unicodedata.normalize("NFKD", text.casefold())
    kept = (letter for letter in letters if not unicodedata.combining(letter))
    return " ".join(re.findall(r"[^\W_]+", "".join(kept)))
