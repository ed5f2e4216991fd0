"""Every error a user can meet: what happened, where, and what to do next.

Each class also derives from the builtin a caller would naturally catch, so ``except ValueError``
and ``except SettingsError`` both work; never from OSError, whose handlers must not swallow a refusal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, ClassVar

from colab_helpers.language import mark, printable, tr, with_store_addresses


class ColabHelpersError(Exception):
    """Base of every error this package raises on purpose.

    Args:
        what: What happened, one sentence, no trailing full stop needed.
        where: The file, setting, model or stage concerned; empty if the sentence already says it.
        remedy: What the user can do next. It names settings as forms and Python do (``models_dir``); the
            command line spells them its own way.
    """

    refusal: ClassVar[bool] = True
    """Raised out of a run, it says that the run was refused before any work: exit code 2, else 1."""

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what = what
        self.where = where
        self.remedy = remedy
        super().__init__(what)

    def __str__(self) -> str:
        parts = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.remedy:
            parts.append(tr("What to do: {remedy}", remedy=self.remedy))
        return with_store_addresses(printable(". ".join(part.rstrip(".") for part in parts) + "."))


class SettingsError(ColabHelpersError, ValueError):
    """A preset, key or value that cannot be used."""


class UsageError(ColabHelpersError, ValueError):
    """A call or command line that does not make sense."""


class ConsentError(ColabHelpersError, ValueError):
    """No usable statement of consent; nothing is processed without one."""


class ContentError(ColabHelpersError, ValueError):
    """A target that shows what is never worked on: sexual content, or a seeming minor in doubtful content."""


class MediaError(ColabHelpersError, ValueError):
    """A video or image that cannot be read, or holds nothing to work on."""


class MissingFileError(MediaError):
    """A source or target that does not exist."""


class OutOfMemoryError(ColabHelpersError, MemoryError):
    """RAM or GPU memory ran out although the work was cut down to single pieces."""

    refusal = False


class OutputError(ColabHelpersError, RuntimeError):
    """A result that cannot be written (no permission, full disk, unsuitable container)."""


class EncoderError(ColabHelpersError, RuntimeError):
    """An encoder that was asked for by name but does not work on this machine."""


class ModelError(ColabHelpersError, RuntimeError):
    """A model that is missing, damaged or does not keep its tensor contract."""


class LicenceError(ColabHelpersError, RuntimeError):
    """A model whose licence limits its use, and which nobody has accepted yet."""


class ProviderError(ColabHelpersError, RuntimeError):
    """An execution provider that was asked for but does not run the model."""


class NoFaceError(ColabHelpersError, ValueError):
    """A source picture without a usable face."""


class WorkerError(ColabHelpersError, RuntimeError):
    """The process that does the work died or could not be started."""

    refusal = False


@contextmanager
def wrap_os_error(kind: type[ColabHelpersError], what: str, where: object, remedy: str) -> Iterator[None]:
    """Say of an error of the system what it means: an OSError is raised as ``kind``.

    ``what`` and ``remedy`` are marked for the catalogue; in the former ``{reason}`` is the system's own word.
    """
    try:
        yield
    except OSError as error:
        told = tr(what, reason=error.strerror or error)
        raise kind(told, where=str(where), remedy=tr(remedy)) from error


def require_extra(extra: str, *modules: str) -> None:
    """Make sure that an extra's modules are installed; UsageError with the one command where they are not."""
    if missing := ", ".join(name for name in modules if find_spec(name) is None):
        what = tr("this needs packages that are not installed: {names}", names=missing)
        raise UsageError(what, remedy=tr("run 'bash setup.sh install {extra}'", extra=extra))


def allowed_values(schema: Mapping[str, Any]) -> str:
    """Return what a field takes, in words, by its JSON schema: choices, ranges, and ``auto``."""
    parts = [part for part in schema.get("anyOf", [schema]) if part.get("type") != "null"]
    return tr(" or ").join(dict.fromkeys(map(_allowed, parts)))


def _allowed(schema: Mapping[str, Any]) -> str:
    if "enum" in schema or "const" in schema:
        return ", ".join(map(str, schema.get("enum", [schema.get("const")])))
    if schema["type"] == "array":
        fixed = "maxItems" in schema
        text = mark("a list of {count}, each {values}") if fixed else mark("a list of {values}")
        return tr(text, count=schema.get("maxItems"), values=_allowed(schema["items"]))
    if schema["type"] == "object":
        return tr("settings such as {example}", example="{batch_size: 2}")
    low, high = schema.get("minimum"), schema.get("maximum")
    kinds = {"integer": tr("a whole number"), "number": tr("a number"), "boolean": "true, false"}
    kind = kinds.get(schema["type"], tr("text"))
    if low is not None and high is not None:
        return tr("{kind} from {low} to {high}", kind=kind, low=low, high=high)
    return kind if low is None else tr("{kind} from {low}", kind=kind, low=low)
