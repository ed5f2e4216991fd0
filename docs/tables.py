"""Bring the tables of README.md up to date: ``python docs/tables.py``; a test checks that they are.

Each table stands between ``<!-- NAME -->`` and ``<!-- /NAME -->``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from colab_helpers.settings import Settings, load_presets
from colab_helpers.ui import cells

NOTEBOOKS = {
    "setup.ipynb": "Examines the machine: what works, what does not, and what to do about it",
    "preload.ipynb": "Shows the models a preset needs with their licences, fetches, verifies and tries them",
    "batch_swap.ipynb": "Swaps faces in many videos and images: a form, one run, a gallery, a report",
    "monitor.ipynb": "Shows live how machine and batch do: GPU, memory, files, rate, and what limits it",
}

README = Path(__file__).resolve().parents[1] / "README.md"


def notebooks_table() -> str:
    """Every notebook with its badge."""
    rows = [(f"`{name}`", purpose, cells.badge(name)) for name, purpose in NOTEBOOKS.items()]
    return table(("Notebook", "What it does", "Open"), rows)


def presets_table() -> str:
    """Every preset and machine profile with what it sets."""
    presets = load_presets()
    groups = [("preset", presets.presets), ("machine", presets.profiles)]
    rows = [
        (f"`{name}`", kind, entry.description, _changes(entry.extends, entry.settings))
        for kind, group in groups
        for name, entry in group.items()
    ]
    return table(("Name", "Kind", "For", "Sets"), rows)


def _changes(extends: str | None, settings: dict[str, Any]) -> str:
    values = ", ".join(f"`{key}={_plain(value)}`" for key, value in settings.items())
    return f"`{extends}` and {values}" if extends else values


def settings_table() -> str:
    """Every setting with its default, what is allowed, and what it does."""
    schema = Settings.model_json_schema()["properties"]
    rows = [
        (f"`{name}`", f"`{_plain(field.default)}`", _allowed(schema[name]), str(field.description))
        for name, field in Settings.model_fields.items()
    ]
    return table(("Setting", "Default", "Allowed", "Meaning"), rows)


def _allowed(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_allowed(part) for part in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema["type"] == "array":
        return "list of " + _allowed(schema["items"])
    if "minimum" in schema:
        return f"{schema['minimum']:g} to {schema['maximum']:g}" if "maximum" in schema else "0 and more"
    return {"boolean": "`true`, `false`", "string": "text"}[schema["type"]]


def _plain(value: object) -> str:
    """A value as it is written in YAML."""
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(str, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


TABLES = {"notebooks": notebooks_table, "presets": presets_table, "settings": settings_table}


def updated(text: str) -> str:
    """The README's text with every table as it should be."""
    for name, make in TABLES.items():
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if text.count(start) != 1 or text.count(end) != 1:
            sys.exit(f"README.md: {start} and {end} must be there once")
        before, rest = text.split(start)
        text = f"{before}{start}\n{make()}\n{end}{rest.split(end)[1]}"
    return text


if __name__ == "__main__":
    README.write_text(updated(README.read_text(encoding="utf-8")), encoding="utf-8")
