"""Read and fill in the form of a notebook without running it."""

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
"""Reports that the notebooks setup, preload and monitor write into their output folder."""


class PortraitsRequest(Request):
    """Parameters of ``portraits.ipynb``."""

    not_in_form = frozenset({"output_dir"})

    name: str = Field("crowd", description="Base name of the people: crowd-1, crowd-2 and so on.")
    prompt: str = Field("an adult", description="Who is shown: an adult, in English or Spanish.")
    count: int | None = Field(4, ge=1, le=999, description="How many to add to those who exist.")
    size: int = Field(1024, ge=512, le=1024, multiple_of=256, description="Edge of the pictures in pixels.")
    seed: int = Field(0, description="Random seed; another one gives other people.")
    library: OptionalPath = Field(None, description="Library folder; empty for one beside the runs.")
    models_dir: OptionalPath = Field(None, description="Folder of the model files; empty for the default.")
    offline: bool = Field(False, description="Never access the network.")


_REQUESTS: dict[str, type[Request]] = {**REQUESTS, "PortraitsRequest": PortraitsRequest}


def read_form(path: Path) -> tuple[type[Request], dict[str, Any]]:
    """Return the request class that a notebook uses, and the default values of its form, in form order.

    Raise UsageError if the file is missing, not a notebook, or has no form.
    """
    remedy = tr("choose a file of notebooks/")
    try:
        cells = parse_json(path.read_bytes())["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except OSError as error:
        raise UsageError(tr("there is no such notebook"), where=str(path), remedy=remedy) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(tr("this is not a notebook"), where=str(path), remedy=remedy) from error
    nodes = [node for source in sources for node in _parse(source)]
    names = (inner.id for node in nodes for inner in ast.walk(node) if isinstance(inner, ast.Name))
    model = next((_REQUESTS[name] for name in names if name in _REQUESTS), None)
    if model is None:
        what = tr("this notebook has no form that can be filled in from here")
        raise UsageError(what, where=str(path), remedy=remedy)
    values: dict[str, Any] = {}
    for node in nodes:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            with suppress(ValueError):  # not a literal
                values[node.target.id] = ast.literal_eval(node.value)
    return model, {name: value for name, value in values.items() if name in model.form()}


def _parse(source: str) -> list[ast.stmt]:
    try:
        return ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []  # for example, a cell with shell commands


def fill_in(
    model: type[Request], form: Mapping[str, Any], pairs: Iterable[tuple[str, Any]]
) -> tuple[Request, dict[str, Any]]:
    """Apply values to a form; return the complete request, and the values in the notebook's types.

    Raise UsageError if the form has no such parameter, and the request's own errors for invalid values.
    """
    values = dict(pairs)
    for name in values:
        if name not in form:
            remedy = tr("choose from {names}", names=", ".join(form))
            raise UsageError(tr("the notebook has no parameter {name!r}", name=name), remedy=remedy)
    language = values.get("language", form.get("language"))
    with use_language(next((choice for choice in LANGUAGE_CHOICES if choice == language), "auto")):
        request = model(**{**form, **values})
        request.check()
    return request, request.model_dump(mode="json", include=set(values))
