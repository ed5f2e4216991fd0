"""Collect every text for people, and bring catalogue and Spanish notebooks up to date.

``python docs/words.py`` writes ``colab_helpers/locale/es/LC_MESSAGES/colab_helpers.po`` (translations that
are there are kept, texts that are gone are dropped), compiles it to the ``.mo`` beside it, writes
``notebooks/es``, and ends with 1 if something is not translated yet. Translators edit the ``.po`` file with
any gettext editor and run this again. Tests check that all of it is up to date.
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
# What stands before the text of a line of Markdown, and does not change with the language.
_MARKER = re.compile(r"^(\s*(?:\d+\. |- |#+ |> )?)(.*)$")
_TITLE = re.compile(r"^(#@title (?:\d+\. )?)(.*?)( \{ display-mode: .*)$")
_REMARK = re.compile(r"^(#@markdown )(.*)()$")
# A file's date would make every run a change.
_DATE = datetime(2026, 1, 1, tzinfo=UTC)

Message = tuple[str, str]
"""A text, and the file it stands in."""


def messages() -> Iterator[Message]:
    """Every text for people, in the order of the files; some come more than once."""
    for path in [*sorted((ROOT / "colab_helpers").rglob("*.py")), ROOT / "docs" / "tables.py"]:
        place = path.relative_to(ROOT).as_posix()
        yield from ((text, place) for text in _marked(path.read_text(encoding="utf-8")))
    for path in sorted(TEMPLATES.glob("*.j2")):
        place = path.relative_to(ROOT).as_posix()
        yield from ((text, place) for text in _marked_in_template(path.read_text(encoding="utf-8")))
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
    """The texts in a module, found in its syntax tree: Babel's own search misses calls within calls."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and node.args)
    for call in sorted(calls, key=lambda call: (call.lineno, call.col_offset)):
        text = call.args[0]
        if isinstance(call.func, ast.Name) and call.func.id in _FUNCTIONS and isinstance(text, ast.Constant):
            yield str(text.value)


def _marked_in_template(source: str) -> Iterator[str]:
    """The texts in a Jinja template."""
    for _, _, texts in extract_from_ast(Environment().parse(source), _FUNCTIONS, babel_style=False):
        yield texts[0]


def _texts(cell: dict[str, Any]) -> Iterator[str]:
    """The texts in a notebook's cell, each on a line."""
    for line in "".join(cell["source"]).splitlines():
        found = _parts(line, cell["cell_type"])
        if found and found[1] and not found[1].startswith("[!["):
            yield found[1]


def _parts(line: str, kind: str) -> tuple[str, str, str] | None:
    """What stands before the text of a line, the text, and what follows; None where there is no text."""
    if kind == "markdown":
        marker, text = _MARKER.findall(line)[0]
        return marker, text, ""
    found = _TITLE.match(line) or _REMARK.match(line)
    return (found[1], found[2], found[3]) if found else None


def collected(old: Catalog) -> Catalog:
    """A catalogue of all messages, with the translations of an older one."""
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
    for text, place in messages():
        before = old.get(text)
        known = before.string if before is not None and not before.fuzzy else ""
        catalog.add(text, known, locations=[(place, 0)])
    for message in catalog:
        # Babel guesses from percent signs; values stand in braces here.
        message.flags.discard("python-format")
        message.locations = sorted(set(message.locations))
    return catalog


def read_catalog() -> Catalog:
    """The catalogue as it is on disk; an empty one where there is none."""
    if not PO.exists():
        return Catalog(locale="es", domain=DOMAIN)
    with PO.open("rb") as file:
        return read_po(file, locale="es", domain=DOMAIN)


def po_bytes(catalog: Catalog) -> bytes:
    """The catalogue as a ``.po`` file."""
    file = io.BytesIO()
    write_po(file, catalog, width=100, include_lineno=False, omit_header=False)
    # Babel's version would make a change of nothing.
    return re.sub(rb'^"(Generated-By|Report-Msgid|Last-Trans).*\n', b"", file.getvalue(), flags=re.MULTILINE)


def mo_bytes(catalog: Catalog) -> bytes:
    """The catalogue compiled, as ``gettext`` loads it."""
    file = io.BytesIO()
    write_mo(file, catalog)
    return file.getvalue()


def faults(catalog: Catalog) -> list[str]:
    """What is not translated, or has other values in it than the English text."""
    found = []
    for message in catalog:
        if not message.id:
            continue
        if not message.string:
            found.append(f"not translated: {message.id}")
        elif _has_values(message.id) and _values(message.id) != _values(message.string):
            found.append(f"other values in braces: {message.string}")
    return found


def _has_values(text: str) -> bool:
    try:
        return bool(_values(text))
    except ValueError:
        return False  # braces that mean themselves, as in a line of code


def _values(text: str) -> set[tuple[str, str, str]]:
    """Names, formats and conversions in a text's braces."""
    parsed = Formatter().parse(text)
    return {(name, format_spec or "", how or "") for _, name, format_spec, how in parsed if name is not None}


def spanish_notebooks() -> dict[Path, str]:
    """The notebooks in Spanish, from the English ones and the compiled catalogue."""
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
    found = _parts(line, kind)
    return f"{found[0]}{tr(found[1])}{found[2]}" if found else line


def main() -> int:
    """Write everything; returns the exit code."""
    catalog = collected(read_catalog())
    PO.parent.mkdir(parents=True, exist_ok=True)
    PO.write_bytes(po_bytes(catalog))
    MO.write_bytes(mo_bytes(catalog))
    for path, text in spanish_notebooks().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    wrong = faults(catalog)
    print("\n".join([*wrong, f"{len(catalog)} texts, {len(wrong)} to be mended"]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
