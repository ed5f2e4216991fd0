"""Records of consent and of the content check, as kept in reports and manifests."""

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
"""Grounds on which a person may be shown: it is oneself, they agreed in writing, they do not exist, the
material is licensed for this use, or a public archive provides it for this use. In English; `grounds`
translates them."""


def grounds() -> tuple[str, ...]:
    """Return the grounds in the current language; statements may always name them in English, too."""
    return tuple(map(tr, GROUNDS))


class ConsentedPerson(BaseModel, extra="forbid", frozen=True):
    """A person who is shown, as source or in a target."""

    name: str
    ground: Ground  # one of ``GROUNDS``
    given_by: str = ""  # who gave it, and when; may be empty for the grounds self and synthetic
    document: str = ""  # where it is documented

    @property
    def summary(self) -> str:
        """Name, ground and evidence on one line."""
        evidence = "; ".join(filter(None, (self.given_by, self.document)))
        return f"{self.name}: {tr(self.ground)}{f' ({evidence})' if evidence else ''}"


class Consent(BaseModel, extra="forbid", frozen=True):
    """A statement of consent, and each person if a consent file names them; empty if none is needed."""

    statement: str = ""
    people: tuple[ConsentedPerson, ...] = ()

    @property
    def text(self) -> str:
        """The statement as a self-contained text; `consent.parse_consent` reads it."""
        return to_json(self) if self.people else self.statement

    def record(self) -> dict[str, Any]:
        """Return the fields as manifests and reports keep them."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def unnamed(self, people: Iterable[str]) -> list[str]:
        """Return the names among ``people`` that the statement does not cover, each once, in order.

        Case, accents and separators are ignored: ``ana_ruiz`` is Ana Ruiz. A plain statement has to contain
        the name as whole words; a consent file has to list exactly that name.
        """
        listed, statement = {_plain(one.name) for one in self.people}, f" {_plain(self.statement)} "
        return [
            name
            for name in dict.fromkeys(people)
            if not (_plain(name) in listed if listed else f" {_plain(name)} " in statement)
        ]


class ContentDecision(BaseModel, frozen=True):
    """Result of the content check of a target."""

    state: Literal["allowed", "refused"]
    reason: str = ""  # why it is refused, in the current language
    # Times of the first twenty hits, or doubtful frames if an apparent minor is the reason.
    seconds: tuple[float, ...] = ()
    samples: int = 0  # checked frames
    hits: int = 0  # frames above the threshold of the network, or of two with ``content_check=vote``
    doubts: int = 0  # frames above half of the threshold of any network
    scores: dict[str, float] = {}  # highest score of each network
    thresholds: dict[str, float] = {}  # threshold of each network
    networks: dict[str, str] = {}  # SHA-256 of each network's file
    age: float | None = None  # lowest apparent age in doubtful frames or of the sources; None if unknown


def _plain(text: str) -> str:
    letters = unicodedata.normalize("NFKD", text.casefold())
    kept = (letter for letter in letters if not unicodedata.combining(letter))
    return " ".join(re.findall(r"[^\W_]+", "".join(kept)))
