"""Every user-visible text is in the catalogue and in Spanish; so are the notebooks."""

from __future__ import annotations

import gettext
import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
UPDATE = "run: python docs/words.py"


@cache
def words() -> ModuleType:
    spec = importlib.util.spec_from_file_location("words", ROOT / "docs" / "words.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_catalogue_has_all_texts_of_the_sources():
    found = {text for text, _ in words().messages()}
    assert len(found) > 1000
    known = {message.id for message in words().read_catalog() if message.id}
    assert known == found, UPDATE


def test_translations_are_complete_with_same_values():
    assert words().faults(words().read_catalog()) == []


def test_compiled_catalogue_is_up_to_date():
    with words().MO.open("rb") as file:
        compiled = gettext.GNUTranslations(file)
    for message in words().read_catalog():
        if message.id:
            assert compiled.gettext(message.id) == message.string, UPDATE


def test_spanish_notebooks_are_up_to_date():
    notebooks = words().spanish_notebooks()
    assert len(notebooks) == 5
    for path, text in notebooks.items():
        assert path.read_text(encoding="utf-8") == text, UPDATE
    assert {path.name for path in (ROOT / "notebooks" / "es").iterdir()} == {path.name for path in notebooks}
