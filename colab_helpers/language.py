"""The language people read: every text meant for them goes through ``tr``.

English stands in the code and is also the key of each translation, as gettext has it. The catalogue
is ``locale/<language>/LC_MESSAGES/colab_helpers.po``; ``python docs/words.py`` brings it up to date.
What machines read (names of settings, states in JSON files) is never translated.
"""

from __future__ import annotations

import gettext
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Literal, get_args

Language = Literal["en", "es"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
LanguageChoice = Literal["auto", "en", "es"]
"""What may be asked for; ``auto`` leaves it to the environment."""
LANGUAGE_CHOICES: tuple[LanguageChoice, ...] = get_args(LanguageChoice)

LANGUAGE_ENV = "COLAB_HELPERS_LANGUAGE"
"""Environment variable that names the language where nothing else does."""

DOMAIN = "colab_helpers"
LOCALE = Path(__file__).with_name("locale")
_SURROGATE = re.compile("[\ud800-\udfff]")

_process: Language | None = None
"""Set by ``set_language`` for all threads."""
_spoken: ContextVar[Language | None] = ContextVar("spoken", default=None)
"""Set by ``use_language``; start a thread with ``contextvars.copy_context().run`` to inherit it."""
LOCAL_PATH_PREFIX = re.compile(r"/[^\"\s]*?/colab_helpers-\d+/(s3|gs):/")
"""How a path that stands for an address begins, in a text."""


def tr(text: str, /, **values: object) -> str:
    """A text in the language spoken now.

    Args:
        text: English, written out where ``tr`` is called (or where ``mark`` is), so that it can be collected.
            Values stand in braces, with a format where need be: ``"{free:.1f} GB are free"``.
        **values: What is put into the braces; without any, braces stay as they are.
    """
    found = _translations(language()).gettext(text) if text else ""
    return printable(found.format(**values)) if values else found


def printable(text: str) -> str:
    r"""Return a text that can be encoded: bytes of a file's name that are no UTF-8 become ``\xe9``.

    Python keeps such bytes as lone surrogates, which no stream, page or notebook takes.
    """
    return _SURROGATE.sub(lambda found: f"\\x{ord(found[0]) & 0xFF:02x}", text)


def with_store_addresses(text: str) -> str:
    """Return a text with addresses in place of the paths that stand for them (see ``addresses``)."""
    return LOCAL_PATH_PREFIX.sub(r"\1://", text)


def one_line(text: str) -> str:
    r"""Return a text of somebody else's for a terminal: what moves its cursor or hides becomes ``\x1b``."""
    shown = (letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
    return "".join(shown)


def first_of(texts: Sequence[str], most: int) -> str:
    """The first few of some texts, with commas, and how many more there are."""
    more = len(texts) - most
    return ", ".join([*texts[:most], *([tr("and {count} more", count=more)] if more > 0 else [])])


def mark(text: str, /) -> str:
    """The same text: marks a constant for the catalogue that ``tr`` translates when it is shown."""
    return text


LANGUAGE_HELP = mark(
    "Language of messages, reports and notebooks: auto takes that of the environment variable "
    "COLAB_HELPERS_LANGUAGE, else English."
)
"""What the setting ``language`` is for; verbs without settings have it, too, and need not load them."""


def language() -> Language:
    """Return the current language: of ``use_language``, ``set_language``, the environment, or English."""
    return _spoken.get() or _process or _preferred(os.environ.get(LANGUAGE_ENV, ""))


def set_language(chosen: LanguageChoice) -> None:
    """Set the language of this process, all threads of it; ``auto`` leaves it to the environment."""
    global _process
    _process = None if chosen == "auto" else chosen


@contextmanager
def use_language(chosen: LanguageChoice) -> Iterator[None]:
    """Speak a language for a while, in this thread alone; ``auto`` keeps the one that is spoken already."""
    token = _spoken.set(_spoken.get() if chosen == "auto" else chosen)
    try:
        yield
    finally:
        _spoken.reset(token)


@cache
def _preferred(name: str) -> Language:
    for known in LANGUAGES:
        if name == known:
            return known
    if name:
        warnings.warn(
            f"{LANGUAGE_ENV}={name} is none of {', '.join(LANGUAGES)}: English is used", stacklevel=3
        )
    return "en"


@cache
def _translations(chosen: Language) -> gettext.NullTranslations:
    if chosen == "en":
        return gettext.NullTranslations()
    return gettext.translation(DOMAIN, LOCALE, [chosen])
