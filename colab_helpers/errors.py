"""Every error shown to users: what happened, where, and what to do next.

Each class also derives from a suitable builtin, so that both ``except ValueError`` and ``except
SettingsError`` work; never from OSError, whose handlers must not swallow a refusal.
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
        what: What happened: one sentence; a final full stop is optional.
        where: The file, setting, model or stage concerned; empty if ``what`` names it.
        remedy: What the user can do next. Settings are named as in Python (``models_dir``); the command line
            shows them as options.
    """

    refusal: ClassVar[bool] = True
    """Whether the run was refused before any work, for the exit code: 2 if so, else 1."""

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
    """An unknown preset or key, or an invalid value."""


class UsageError(ColabHelpersError, ValueError):
    """A call or command line that does not make sense."""


class ConsentError(ColabHelpersError, ValueError):
    """The statement of consent, without which nothing is processed, is missing or unusable."""


class ContentError(ColabHelpersError, ValueError):
    """A target with refused content: sexual content, or an apparent minor in doubtful content."""


class MediaError(ColabHelpersError, ValueError):
    """A video or image that cannot be read or has nothing to process."""


class MissingFileError(MediaError):
    """A source or target that does not exist."""


class OutOfMemoryError(ColabHelpersError, MemoryError):
    """RAM or GPU memory ran out even with the smallest pieces of work."""

    refusal = False


class OutputError(ColabHelpersError, RuntimeError):
    """A result cannot be written (no permission, full disk, unsuitable container)."""


class EncoderError(ColabHelpersError, RuntimeError):
    """The encoder named in the settings does not work on this machine."""


class ModelError(ColabHelpersError, RuntimeError):
    """A model is missing, damaged, or has other tensors than it should have."""


class LicenceError(ColabHelpersError, RuntimeError):
    """The licence of a model restricts its use and has not been accepted."""


class ProviderError(ColabHelpersError, RuntimeError):
    """The requested execution provider cannot run the model."""


class NoFaceError(ColabHelpersError, ValueError):
    """A source photo without a usable face."""


class WorkerError(ColabHelpersError, RuntimeError):
    """The worker process died or could not be started."""

    refusal = False


@contextmanager
def wrap_os_error(kind: type[ColabHelpersError], what: str, where: object, remedy: str) -> Iterator[None]:
    """Re-raise an OSError in the block as ``kind``.

    ``what`` and ``remedy`` are marked for translation; ``{reason}`` in ``what`` is the system's message.
    """
    try:
        yield
    except OSError as error:
        message = tr(what, reason=error.strerror or error)
        raise kind(message, where=str(where), remedy=tr(remedy)) from error


def require_extra(extra: str, *modules: str) -> None:
    """Raise UsageError, with the command to run, if modules of an extra are not installed."""
    if missing := ", ".join(name for name in modules if find_spec(name) is None):
        what = tr("this needs packages that are not installed: {names}", names=missing)
        raise UsageError(what, remedy=tr("run 'bash setup.sh install {extra}'", extra=extra))


def allowed_values(schema: Mapping[str, Any]) -> str:
    """Describe the values that a field's JSON schema allows: choices, ranges, ``auto``."""
    parts = [part for part in schema.get("anyOf", [schema]) if part.get("type") != "null"]
    return tr(" or ").join(dict.fromkeys(map(_allowed, parts)))


def _allowed(schema: Mapping[str, Any]) -> str:
    if "enum" in schema or "const" in schema:
        return ", ".join(map(str, schema.get("enum", [schema.get("const")])))
    if schema["type"] == "array":
        fixed = "maxItems" in schema
        text = mark("a list of {count} items, each {values}") if fixed else mark("a list of {values}")
        return tr(text, count=schema.get("maxItems"), values=_allowed(schema["items"]))
    if schema["type"] == "object":
        return tr("settings such as {example}", example="{batch_size: 2}")
    low, high = schema.get("minimum"), schema.get("maximum")
    kinds = {"integer": tr("a whole number"), "number": tr("a number"), "boolean": "true, false"}
    kind = kinds.get(schema["type"], tr("text"))
    if low is not None and high is not None:
        return tr("{kind} from {low} to {high}", kind=kind, low=low, high=high)
    return kind if low is None else tr("{kind} from {low}", kind=kind, low=low)
