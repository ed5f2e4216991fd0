"""The statement of consent that every run makes and every report records."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from colab_helpers.errors import ConsentError
from colab_helpers.files import sha256_of
from colab_helpers.language import mark, tr

GROUNDS = (mark("self"), mark("written consent"), mark("synthetic"), mark("licensed"))
"""On what ground a person may be shown: it is oneself, they agreed in writing, they do not exist, or
the material is licensed for this use. In English; ``grounds`` names them in the language spoken."""

DEMO_CONSENT = "Only the rendered people of the demo are shown: synthetic."
"""The statement that covers the demo and nothing else."""

DEMO_MANIFEST = "demo.json"
"""File in a demo folder that lists its sources and targets with their SHA-256."""


def grounds() -> tuple[str, ...]:
    """The grounds in the language spoken; a statement may name them in English, too."""
    return tuple(map(tr, GROUNDS))


def require_consent(statement: str, files: Iterable[Path]) -> str:
    """Check the statement of consent before any work.

    Args:
        statement: What the user wrote.
        files: Every source and target of the run.

    Returns:
        The statement, stripped, for the report.

    Raises:
        ConsentError: It is missing, says nothing, or is the demo's while other files are used.
    """
    text = " ".join(statement.split())
    if not text:
        raise ConsentError(
            tr("no statement of consent was given, and nothing is processed without one"), remedy=_how()
        )
    if len(text.split()) < 3 and not any(ground in text.lower() for ground in (*GROUNDS, *grounds())):
        raise ConsentError(
            tr("the statement of consent {text!r} does not say who is shown and why", text=text),
            remedy=_how(),
        )
    if text == DEMO_CONSENT:
        _require_demo(files)
    return text


def not_named(statement: str, people: Iterable[str]) -> list[str]:
    """Return who of some people, by name, is not named in a statement of consent; each once, in their order.

    Case, accents and what stands between two words do not matter: ``ana_ruiz`` is Ana Ruiz.
    """
    text = f" {_plain(statement)} "
    return [name for name in dict.fromkeys(people) if f" {_plain(name)} " not in text]


def _plain(text: str) -> str:
    letters = unicodedata.normalize("NFKD", text.casefold())
    kept = (letter for letter in letters if not unicodedata.combining(letter))
    return " ".join(re.findall(r"[^\W_]+", "".join(kept)))


def _require_demo(files: Iterable[Path]) -> None:
    for path in files:
        if not is_demo_file(path):
            raise ConsentError(
                tr("the demo's statement of consent covers its rendered people only"),
                where=str(path),
                remedy=_how(),
            )


def _how() -> str:
    return tr(
        "say who is shown and on what ground, for example "
        'consent="Ana Ruiz (source) and Jon Lee (video): written consent, 2026-10-01"; '
        "grounds are: {grounds}",
        grounds=", ".join(grounds()),
    )


def is_demo_file(path: Path) -> bool:
    """Whether a file is an unchanged source or target of a demo folder, by its manifest's hash."""
    folder = path.absolute().parent.parent
    try:
        listed = json.loads((folder / DEMO_MANIFEST).read_text(encoding="utf-8"))["files"]
        expected = listed[path.absolute().relative_to(folder).as_posix()]
        return bool(expected == sha256_of(path))
    except (OSError, KeyError, TypeError, ValueError):
        return False
