"""Update the tables of the READMEs and of ``docs/``: ``python docs/tables.py``; tests check them.

Each table is enclosed by ``<!-- NAME -->`` and ``<!-- /NAME -->``.
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
    "setup.ipynb": mark("Checks the machine: what works, what does not, and how to fix it"),
    "preload.ipynb": mark(
        "Lists the models of a preset with their licences; downloads, verifies and tests them"
    ),
    "batch_swap.ipynb": mark("Swaps faces in many videos and images: a form, one run, a gallery, a report"),
    "monitor.ipynb": mark(
        "Monitors the machine and the batch live: GPU, memory, files, speed, and the bottleneck"
    ),
}

ROOT = Path(__file__).resolve().parents[1]
PAGES: dict[Language, tuple[Path, ...]] = {
    "en": (ROOT / "README.md", ROOT / "docs" / "settings.md"),
    "es": (ROOT / "README.es.md", ROOT / "docs" / "es" / "settings.md"),
}


def notebooks_table() -> str:
    """Return the table of the notebooks with their badges."""
    folder = ROOT / "notebooks" / ("" if language() == "en" else language())
    rows = [(f"`{name}`", tr(purpose), _badge(folder / name)) for name, purpose in NOTEBOOKS.items()]
    return table((tr("Notebook"), tr("What it does"), tr("Open")), rows)


def _badge(notebook: Path) -> str:
    """Return the badge that opens a notebook in Colab: the content of its first cell."""
    return "".join(json.loads(notebook.read_text(encoding="utf-8"))["cells"][0]["source"])


def presets_table() -> str:
    """Return the table of the presets and machine profiles with their settings."""
    presets = load_presets()
    groups = [(tr("preset"), presets.presets), (tr("machine"), presets.profiles)]
    rows = [
        (f"`{name}`", kind, tr(entry.description), _changes(entry.extends, entry.settings))
        for kind, group in groups
        for name, entry in group.items()
    ]
    return table((tr("Name"), tr("Kind"), tr("For"), tr("Sets")), rows)


def _changes(extends: str | None, settings: dict[str, Any]) -> str:
    values = ", ".join(f"`{key}={_as_yaml(value)}`" for key, value in settings.items())
    return tr("`{base}` and {values}", base=extends, values=values) if extends else values


def settings_table() -> str:
    """Return the table of the settings with default, allowed values and description."""
    schema = Settings.model_json_schema()["properties"]
    rows = [
        (f"`{name}`", f"`{_as_yaml(field.default)}`", _allowed(schema[name]), tr(str(field.description)))
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
        return tr("0 or more")
    return {"boolean": "`true`, `false`", "string": tr("text")}[schema["type"]]


def _as_yaml(value: object) -> str:
    """Format a value as in YAML."""
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(str, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


TABLES = {"notebooks": notebooks_table, "presets": presets_table, "settings": settings_table}


def updated(text: str) -> str:
    """Return a page's text with its tables regenerated in the current language."""
    for name, make_table in TABLES.items():
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if start in text:
            before, rest = text.split(start)
            text = f"{before}{start}\n{make_table()}\n{end}{rest.split(end)[1]}"
    return text


if __name__ == "__main__":
    for spoken, paths in PAGES.items():
        with use_language(spoken):
            for path in paths:
                path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")
