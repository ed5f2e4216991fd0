"""README and docs, in each language, match the package."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import nbformat
import pytest

import colab_helpers
from colab_helpers.__main__ import VERBS
from colab_helpers.batch.report import FileReport, Summary
from colab_helpers.command_line import build_parser
from colab_helpers.language import LANGUAGES, use_language
from colab_helpers.trust.consent import DEMO_CONSENT
from colab_helpers.ui.headless import read_form

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("settings", "command-line", "results", "notebooks", "people")
FILES = {
    "en": {"README": ROOT / "README.md", **{name: ROOT / "docs" / f"{name}.md" for name in NAMES}},
    "es": {"README": ROOT / "README.es.md", **{name: ROOT / "docs" / "es" / f"{name}.md" for name in NAMES}},
}
PAGES = {
    code: {name: path.read_text(encoding="utf-8") for name, path in files.items()}
    for code, files in FILES.items()
}
in_each_language = pytest.mark.parametrize("code", LANGUAGES)


def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shell_lines() -> list[list[str]]:
    texts = [text for pages in PAGES.values() for text in pages.values()]
    fenced = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
    blocks = [block for page in texts for kind, block in fenced.findall(page) if not kind]
    text = "\n".join(blocks).replace("\\\n", " ")
    words = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [line for line in words if line[:3] == ["python", "-m", "colab_helpers"]]


@in_each_language
def test_tables_are_up_to_date(code):
    pages = PAGES[code]
    for name, page in (("notebooks", "README"), ("presets", "settings"), ("settings", "settings")):
        assert pages[page].count(f"<!-- {name} -->") == pages[page].count(f"<!-- /{name} -->") == 1
    with use_language(code):
        for text in pages.values():
            assert tables().updated(text) == text, "run: python docs/tables.py"


@in_each_language
def test_readme_is_short_and_has_badge_of_each_notebook(code):
    readme = PAGES[code]["README"]
    assert len(readme.splitlines()) <= 180
    folder = ROOT / "notebooks" / ("" if code == "en" else code)
    for notebook in (folder / name for name in tables().NOTEBOOKS):
        badge = nbformat.read(notebook, as_version=4).cells[0].source
        assert notebook.relative_to(ROOT).as_posix() in badge
        assert badge in readme


@pytest.mark.parametrize("page", ["README", *NAMES])
def test_translations_have_same_structure_and_links_exist(page):
    """Equal numbers of table rows, list items, code blocks and pictures per section; equal names."""
    for code in LANGUAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", PAGES[code][page]):
            assert (FILES[code][page].parent / target).exists(), target
    english, spanish = (re.split(r"^## .*$", PAGES[code][page], flags=re.MULTILINE) for code in LANGUAGES)
    assert len(english) == len(spanish)
    for ours, theirs in zip(english, spanish, strict=True):
        for start in (r"^\| ", r"^- ", r"^```", r"^!\["):
            counts = [len(re.findall(start, text, re.MULTILINE)) for text in (ours, theirs)]
            assert counts[0] == counts[1], (start, ours[:200])
        names = [set(re.findall(r"`([a-z_]+)`", text)) for text in (ours, theirs)]
        assert names[0] == names[1], ours[:200]


@in_each_language
def test_python_example_uses_public_names(code):
    text = PAGES[code]["command-line"]
    (example,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    imports = [node for node in ast.walk(ast.parse(example)) if isinstance(node, ast.ImportFrom)]
    names = [alias.name for node in imports for alias in node.names]
    assert names
    assert set(names) <= set(colab_helpers.__all__)
    for name in names:
        assert callable(getattr(colab_helpers, name))


def test_command_lines_can_be_parsed():
    assert any(DEMO_CONSENT in line for line in shell_lines())
    for words in shell_lines():
        build_parser(VERBS).parse_args(words[3:])


@in_each_language
def test_report_and_form_fields_are_documented(code):
    pages = PAGES[code]
    for name in [*FileReport.model_fields, *Summary.model_fields]:
        assert f"`{name}`" in pages["results"], name
    _, form = read_form(ROOT / "notebooks" / "batch_swap.ipynb")
    assert re.findall(r"^\| `(\w+)` \|", pages["notebooks"], re.MULTILINE) == list(form)
