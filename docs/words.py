"""Collect all messages for users, and update the message catalogue and the Spanish notebooks.

``python docs/words.py`` writes ``colab_helpers/locale/es/LC_MESSAGES/colab_helpers.po`` (existing
translations are kept, unused messages are removed), compiles it to the ``.mo`` file, and writes
``notebooks/es``. The exit code is 1 if a translation is missing or wrong. Translators edit the ``.po`` file
with any gettext editor and run this again. Tests check that all of it is up to date.
"""

from __future__ import annotations

import ast
import io
import json
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from string import Formatter
from typing import Any

from babel.messages import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po
from jinja2 import Environment
from jinja2.ext import extract_from_ast

from colab_helpers.language import DOMAIN, LOCALE, tr, use_language
from colab_helpers.models.catalog import load_catalog
from colab_helpers.pages.rendering import TEMPLATES
from colab_helpers.presets import load_presets
from colab_helpers.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
PO = LOCALE / "es" / "LC_MESSAGES" / f"{DOMAIN}.po"
MO = PO.with_suffix(".mo")
NOTEBOOKS = ROOT / "notebooks"

_FUNCTIONS = {"tr", "mark"}
# The part of a Markdown line before its text, which is the same in every language.
_MARKER = re.compile(r"^(\s*(?:\d+\. |- |#+ |> )?)(.*)$")
_TITLE = re.compile(r"^(#@title (?:\d+\. )?)(.*?)( \{ display-mode: .*)$")
_FORM_TEXT = re.compile(r"^(#@markdown )(.*)()$")
# A fixed date: with the current one, every run would change the file.
_DATE = datetime(2026, 1, 1, tzinfo=UTC)

Message = tuple[str, str]
"""A text, and the file that contains it."""


def messages() -> Iterator[Message]:
    """Yield every text for users in the order of the files; some occur more than once."""
    for path in [*sorted((ROOT / "colab_helpers").rglob("*.py")), ROOT / "docs" / "tables.py"]:
        name = path.relative_to(ROOT).as_posix()
        yield from ((text, name) for text in _marked(path.read_text(encoding="utf-8")))
    for path in sorted(TEMPLATES.glob("*.j2")):
        name = path.relative_to(ROOT).as_posix()
        yield from ((text, name) for text in _marked_in_template(path.read_text(encoding="utf-8")))
    for field in Settings.model_fields.values():
        yield str(field.description), "colab_helpers/settings.py"
    presets = load_presets()
    for entry in [*presets.presets.values(), *presets.profiles.values()]:
        yield entry.description, "presets.yaml"
    for licence in load_catalog().licences.values():
        yield licence.name, "colab_helpers/models/catalog.yaml"
        yield licence.forbids, "colab_helpers/models/catalog.yaml"
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            yield from ((text, f"notebooks/{path.name}") for text in _texts(cell))


def _marked(source: str) -> Iterator[str]:
    """Yield the texts of a module from its syntax tree: Babel's own search misses nested calls."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and node.args)
    for call in sorted(calls, key=lambda call: (call.lineno, call.col_offset)):
        text = call.args[0]
        if isinstance(call.func, ast.Name) and call.func.id in _FUNCTIONS and isinstance(text, ast.Constant):
            yield str(text.value)


def _marked_in_template(source: str) -> Iterator[str]:
    """Yield the texts of a Jinja template."""
    for _, _, texts in extract_from_ast(Environment().parse(source), _FUNCTIONS, babel_style=False):
        yield texts[0]


def _texts(cell: dict[str, Any]) -> Iterator[str]:
    """Yield the texts of a notebook cell, one per line."""
    for line in "".join(cell["source"]).splitlines():
        parts = _parts(line, cell["cell_type"])
        if parts and parts[1] and not parts[1].startswith("[!["):  # not a badge
            yield parts[1]


def _parts(line: str, kind: str) -> tuple[str, str, str] | None:
    """Split a line into prefix, text and suffix; return None if it has no text."""
    if kind == "markdown":
        marker, text = _MARKER.findall(line)[0]
        return marker, text, ""
    match = _TITLE.match(line) or _FORM_TEXT.match(line)
    return (match[1], match[2], match[3]) if match else None


def collected(old: Catalog) -> Catalog:
    """Return a catalogue of all messages with the translations of an older one."""
    catalog = Catalog(
        locale="es",
        domain=DOMAIN,
        project=DOMAIN,
        version="1",
        copyright_holder="the authors",
        creation_date=_DATE,
        revision_date=_DATE,
        last_translator="",
        language_team="es",
        fuzzy=False,
    )
    catalog.header_comment = "# Texts of colab_helpers; see docs/words.py."
    for text, name in messages():
        known = old.get(text)
        translation = known.string if known is not None and not known.fuzzy else ""
        catalog.add(text, translation, locations=[(name, 0)])
    for message in catalog:
        # Babel guesses this flag from percent signs; placeholders are in braces here.
        message.flags.discard("python-format")
        message.locations = sorted(set(message.locations))
    return catalog


def read_catalog() -> Catalog:
    """Read the catalogue from disk; return an empty one if there is none."""
    if not PO.exists():
        return Catalog(locale="es", domain=DOMAIN)
    with PO.open("rb") as file:
        return read_po(file, locale="es", domain=DOMAIN)


def po_bytes(catalog: Catalog) -> bytes:
    """Return the catalogue as a ``.po`` file."""
    file = io.BytesIO()
    write_po(file, catalog, width=100, include_lineno=False, omit_header=False)
    # Without these lines, another version of Babel writes the same file.
    return re.sub(rb'^"(Generated-By|Report-Msgid|Last-Trans).*\n', b"", file.getvalue(), flags=re.MULTILINE)


def mo_bytes(catalog: Catalog) -> bytes:
    """Return the compiled catalogue, as ``gettext`` loads it."""
    file = io.BytesIO()
    write_mo(file, catalog)
    return file.getvalue()


def faults(catalog: Catalog) -> list[str]:
    """Describe the messages without a translation, or whose translation has other placeholders."""
    problems = []
    for message in catalog:
        if not message.id:
            continue
        if not message.string:
            problems.append(f"not translated: {message.id}")
        elif _has_placeholders(message.id) and _placeholders(message.id) != _placeholders(message.string):
            problems.append(f"placeholders differ: {message.string}")
    return problems


def _has_placeholders(text: str) -> bool:
    try:
        return bool(_placeholders(text))
    except ValueError:
        return False  # literal braces, as in a line of code


def _placeholders(text: str) -> set[tuple[str, str, str]]:
    """Return name, format and conversion of a text's placeholders."""
    parsed = Formatter().parse(text)
    return {(name, spec or "", conversion or "") for _, name, spec, conversion in parsed if name is not None}


def spanish_notebooks() -> dict[Path, str]:
    """Return the Spanish notebooks, from the English ones and the compiled catalogue."""
    with use_language("es"):
        return {NOTEBOOKS / "es" / path.name: _translated(path) for path in sorted(NOTEBOOKS.glob("*.ipynb"))}


def _translated(path: Path) -> str:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        source = source.replace(f"/blob/main/notebooks/{path.name}", f"/blob/main/notebooks/es/{path.name}")
        lines = (_translated_line(line, cell["cell_type"]) for line in source.splitlines())
        cell["source"] = "\n".join(lines).splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _translated_line(line: str, kind: str) -> str:
    if kind == "code" and line.startswith("language: str ="):
        return line.replace('"auto"', '"es"', 1)
    parts = _parts(line, kind)
    return f"{parts[0]}{tr(parts[1])}{parts[2]}" if parts else line


def main() -> int:
    """Write all files; return the exit code."""
    catalog = collected(read_catalog())
    PO.parent.mkdir(parents=True, exist_ok=True)
    PO.write_bytes(po_bytes(catalog))
    MO.write_bytes(mo_bytes(catalog))
    for path, text in spanish_notebooks().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    problems = faults(catalog)
    print("\n".join([*problems, f"{len(catalog)} texts, {len(problems)} to be corrected"]))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
