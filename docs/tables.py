"""Bring the tables of the READMEs and of ``docs/`` up to date: ``python docs/tables.py``; tests check them.

Each table stands between ``<!-- NAME -->`` and ``<!-- /NAME -->``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from colab_helpers.language import Language, language, mark, tr, use_language
from colab_helpers.presets import load_presets
from colab_helpers.settings import Settings

NOTEBOOKS = {
    "setup.ipynb": mark("Examines the machine: what works, what does not, and what to do about it"),
    "preload.ipynb": mark(
        "Shows the models a preset needs with their licences, fetches, verifies and tries them"
    ),
    "batch_swap.ipynb": mark("Swaps faces in many videos and images: a form, one run, a gallery, a report"),
    "monitor.ipynb": mark(
        "Shows live how machine and batch do: GPU, memory, files, rate, and what limits it"
    ),
}

ROOT = Path(__file__).resolve().parents[1]
PAGES: dict[Language, tuple[Path, ...]] = {
    "en": (ROOT / "README.md", ROOT / "docs" / "settings.md"),
    "es": (ROOT / "README.es.md", ROOT / "docs" / "es" / "settings.md"),
}


def notebooks_table() -> str:
    """Every notebook with its badge."""
    folder = ROOT / "notebooks" / ("" if language() == "en" else language())
    rows = [(f"`{name}`", tr(purpose), _badge(folder / name)) for name, purpose in NOTEBOOKS.items()]
    return table((tr("Notebook"), tr("What it does"), tr("Open")), rows)


def _badge(notebook: Path) -> str:
    """The badge that opens a notebook in Colab, which is its first text."""
    return "".join(json.loads(notebook.read_text(encoding="utf-8"))["cells"][0]["source"])


def presets_table() -> str:
    """Every preset and machine profile with what it sets."""
    presets = load_presets()
    groups = [(tr("preset"), presets.presets), (tr("machine"), presets.profiles)]
    rows = [
        (f"`{name}`", kind, tr(entry.description), _changes(entry.extends, entry.settings))
        for kind, group in groups
        for name, entry in group.items()
    ]
    return table((tr("Name"), tr("Kind"), tr("For"), tr("Sets")), rows)


def _changes(extends: str | None, settings: dict[str, Any]) -> str:
    values = ", ".join(f"`{key}={_plain(value)}`" for key, value in settings.items())
    return tr("`{base}` and {values}", base=extends, values=values) if extends else values


def settings_table() -> str:
    """Every setting with its default, what is allowed, and what it does."""
    schema = Settings.model_json_schema()["properties"]
    rows = [
        (f"`{name}`", f"`{_plain(field.default)}`", _allowed(schema[name]), tr(str(field.description)))
        for name, field in Settings.model_fields.items()
    ]
    return table((tr("Setting"), tr("Default"), tr("Allowed"), tr("Meaning")), rows)


def _allowed(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return tr(" or ").join(_allowed(part) for part in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema["type"] == "array":
        return tr("list of {values}", values=_allowed(schema["items"]))
    if "minimum" in schema:
        if "maximum" in schema:
            return tr("{low:g} to {high:g}", low=schema["minimum"], high=schema["maximum"])
        return tr("0 and more")
    return {"boolean": "`true`, `false`", "string": tr("text")}[schema["type"]]


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
    """A page's text with each of its tables as it should be in the language spoken."""
    for name, make in TABLES.items():
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if start in text:
            before, rest = text.split(start)
            text = f"{before}{start}\n{make()}\n{end}{rest.split(end)[1]}"
    return text


if __name__ == "__main__":
    for chosen, paths in PAGES.items():
        with use_language(chosen):
            for path in paths:
                path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")
