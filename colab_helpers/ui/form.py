"""The form of a notebook, read and filled in without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import Field

from colab_helpers.errors import UsageError
from colab_helpers.files import parse_json
from colab_helpers.language import LANGUAGE_CHOICES, tr, use_language
from colab_helpers.request import REQUESTS, OptionalPath, Request

DOCTOR_REPORT, PRELOAD_REPORT, MONITOR_REPORT = "doctor.json", "preload.json", "monitor.json"
"""Names of what the notebooks setup, preload and monitor leave in their output folder."""


class PortraitsRequest(Request):
    """What ``portraits.ipynb`` asks for."""

    not_in_form = frozenset({"output_dir"})

    name: str = Field("crowd", description="What they are called: crowd-1, crowd-2 and so on.")
    prompt: str = Field("an adult", description="Who is shown: an adult, in English or Spanish.")
    count: int | None = Field(4, ge=1, le=999, description="How many, beside those who are there.")
    size: int = Field(1024, ge=512, le=1024, multiple_of=256, description="Edge of the pictures in pixels.")
    seed: int = Field(0, description="Another seed gives other people.")
    library: OptionalPath = Field(
        None, description="Folder of people they go to; empty for one beside the runs."
    )
    models_dir: OptionalPath = Field(
        None, description="Folder of the model files; empty for the usual place."
    )
    offline: bool = Field(False, description="Never touch the network.")


_REQUESTS: dict[str, type[Request]] = {**REQUESTS, "PortraitsRequest": PortraitsRequest}


def read_form(path: Path) -> tuple[type[Request], dict[str, Any]]:
    """Return the request that a notebook builds, and the values of its form, in the form's order."""
    remedy = tr("name a file of notebooks/")
    try:
        found = parse_json(path.read_bytes())["cells"]
        sources = ["".join(cell["source"]) for cell in found if cell["cell_type"] == "code"]
    except OSError as error:
        raise UsageError(tr("there is no such notebook"), where=str(path), remedy=remedy) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(tr("this is no notebook"), where=str(path), remedy=remedy) from error
    nodes = [node for source in sources for node in _parsed(source)]
    names = (inner.id for node in nodes for inner in ast.walk(node) if isinstance(inner, ast.Name))
    model = next((_REQUESTS[name] for name in names if name in _REQUESTS), None)
    if model is None:
        what = tr("this notebook has no form that can be filled in from here")
        raise UsageError(what, where=str(path), remedy=remedy)
    values: dict[str, Any] = {}
    for line in nodes:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value is not None:
            with suppress(ValueError):  # computed
                values[line.target.id] = ast.literal_eval(line.value)
    return model, {name: value for name, value in values.items() if name in model.form()}


def _parsed(source: str) -> list[ast.stmt]:
    try:
        return ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []  # a cell with commands of the shell, say


def fill_in(
    model: type[Request], form: Mapping[str, Any], pairs: Iterable[tuple[str, Any]]
) -> tuple[Request, dict[str, Any]]:
    """Put values into a form.

    Returns:
        The whole request, and those of its values that were given, as a notebook takes them.
    """
    given = dict(pairs)
    for name in given:
        if name not in form:
            raise UsageError(
                tr("the notebook has no parameter {name!r}", name=name),
                remedy=tr("choose from {names}", names=", ".join(form)),
            )
    language = given.get("language", form.get("language"))
    with use_language(next((known for known in LANGUAGE_CHOICES if known == language), "auto")):
        request = model(**{**form, **given})
        request.check()
    return request, request.model_dump(mode="json", include=set(given))
