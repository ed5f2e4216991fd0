"""Translation: every text shown to users goes through ``tr``.

The English text in the code is the key of its translation, as in gettext. The catalogue is
``locale/<language>/LC_MESSAGES/colab_helpers.po``; ``python docs/words.py`` updates it. What programs read
(names of settings, states in JSON files) is never translated.
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
"""Values of the setting; ``auto`` leaves the choice to the environment."""
LANGUAGE_CHOICES: tuple[LanguageChoice, ...] = get_args(LanguageChoice)

LANGUAGE_ENV = "COLAB_HELPERS_LANGUAGE"
"""Environment variable for the language if neither a setting nor ``set_language`` chooses one."""

DOMAIN = "colab_helpers"
LOCALE = Path(__file__).with_name("locale")
_SURROGATE = re.compile("[\ud800-\udfff]")

_process: Language | None = None
"""Set by ``set_language`` for all threads."""
_current: ContextVar[Language | None] = ContextVar("current_language", default=None)
"""Set by ``use_language``; start a thread with ``contextvars.copy_context().run`` to inherit it."""
LOCAL_PATH_PREFIX = re.compile(r"/[^\"\s]*?/colab_helpers-\d+/(s3|gs):/")
"""Matches the start of a path that stands for an address (see ``addresses``)."""


def tr(text: str, /, **values: object) -> str:
    """Translate a text to the current language.

    Args:
        text: English text, a literal at the call of ``tr`` or ``mark`` so that it can be collected, with
            placeholders as for ``str.format``: ``"{free:.1f} GB are free"``.
        **values: Values of the placeholders; without any, braces are left as they are.
    """
    translated = _translations(language()).gettext(text) if text else ""
    return printable(translated.format(**values)) if values else translated


def printable(text: str) -> str:
    r"""Return a text that can be encoded: bytes of a file name that are not UTF-8 become ``\xe9``.

    Python keeps such bytes as lone surrogates, which streams, pages and notebooks cannot encode.
    """
    return _SURROGATE.sub(lambda match: f"\\x{ord(match[0]) & 0xFF:02x}", text)


def with_store_addresses(text: str) -> str:
    """Replace local paths that stand for addresses with the addresses (see ``addresses``)."""
    return LOCAL_PATH_PREFIX.sub(r"\1://", text)


def one_line(text: str) -> str:
    r"""Escape untrusted text for a terminal: control and invisible characters as ``\x1b`` and so on."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def first_of(texts: Sequence[str], most: int) -> str:
    """Join the first ``most`` texts with commas, and say how many more there are."""
    more = len(texts) - most
    return ", ".join([*texts[:most], *([tr("and {count} more", count=more)] if more > 0 else [])])


def mark(text: str, /) -> str:
    """Return the text unchanged: marks a constant for the catalogue; ``tr`` translates it when shown."""
    return text


LANGUAGE_HELP = mark(
    "Language of messages, reports and notebooks: auto uses the environment variable "
    "COLAB_HELPERS_LANGUAGE, else English."
)
"""Help of the setting ``language``; here, so that verbs without settings need not import those."""


def language() -> Language:
    """Return the current language: from ``use_language``, ``set_language``, the environment, or English."""
    return _current.get() or _process or _preferred(os.environ.get(LANGUAGE_ENV, ""))


def set_language(chosen: LanguageChoice) -> None:
    """Set the language of the whole process; ``auto`` leaves it to the environment."""
    global _process
    _process = None if chosen == "auto" else chosen


@contextmanager
def use_language(chosen: LanguageChoice) -> Iterator[None]:
    """Use a language within the block, in this thread only; ``auto`` keeps the current one."""
    token = _current.set(_current.get() if chosen == "auto" else chosen)
    try:
        yield
    finally:
        _current.reset(token)


@cache
def _preferred(name: str) -> Language:
    for known in LANGUAGES:
        if name == known:
            return known
    if name:
        warnings.warn(
            f"{LANGUAGE_ENV}={name} is not one of {', '.join(LANGUAGES)}: using English", stacklevel=3
        )
    return "en"


@cache
def _translations(chosen: Language) -> gettext.NullTranslations:
    if chosen == "en":
        return gettext.NullTranslations()
    return gettext.translation(DOMAIN, LOCALE, [chosen])
