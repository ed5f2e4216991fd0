"""Every text for people is in the catalogue and in Spanish; the Spanish notebooks follow the English ones."""

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


def test_the_catalogue_holds_what_the_sources_say():
    found = {text for text, _ in words().messages()}
    assert len(found) > 1000
    known = {message.id for message in words().read_catalog() if message.id}
    assert known == found, UPDATE


def test_everything_is_translated_with_the_same_values():
    assert words().faults(words().read_catalog()) == []


def test_the_compiled_catalogue_is_the_one_that_is_edited():
    with words().MO.open("rb") as file:
        compiled = gettext.GNUTranslations(file)
    for message in words().read_catalog():
        if message.id:
            assert compiled.gettext(message.id) == message.string, UPDATE


def test_the_spanish_notebooks_follow_the_english_ones():
    made = words().spanish_notebooks()
    assert len(made) == 5
    for path, text in made.items():
        assert path.read_text(encoding="utf-8") == text, UPDATE
    assert {path.name for path in (ROOT / "notebooks" / "es").iterdir()} == {path.name for path in made}
