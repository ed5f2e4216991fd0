"""What the README says, in each language, is what the package does."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

import colab_helpers
from colab_helpers.__main__ import build_parser
from colab_helpers.batch.report import FileReport, Summary
from colab_helpers.language import LANGUAGES, spoken
from colab_helpers.trust.consent import DEMO_CONSENT
from colab_helpers.ui import cells

ROOT = Path(__file__).resolve().parents[2]
READMES = {
    name: (ROOT / file).read_text(encoding="utf-8")
    for name, file in {"en": "README.md", "es": "README.es.md"}.items()
}
in_each_language = pytest.mark.parametrize("spoken_here", LANGUAGES)


def code_blocks(kind: str, readme: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)


def sections(readme: str) -> list[str]:
    """The parts below the headings of the second level, in order."""
    return re.split(r"^## .*$", readme, flags=re.MULTILINE)[1:]


# The order of the sections is the same in every language.
COMMANDS, LANGUAGE, NOTEBOOKS, MODELS, PRESETS, SETTINGS, COMMAND_LINE, PYTHON, REPORT = range(9)


def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shell_lines() -> list[list[str]]:
    blocks = [block for readme in READMES.values() for block in code_blocks("", readme)]
    text = "\n".join(blocks).replace("\\\n", " ")
    words = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [line for line in words if line[:3] == ["python", "-m", "colab_helpers"]]


@in_each_language
def test_the_tables_are_up_to_date(spoken_here):
    with spoken(spoken_here):
        readme = READMES[spoken_here]
        assert tables().updated(readme) == readme, "run: python docs/tables.py"


@in_each_language
def test_every_notebook_has_its_badge(spoken_here):
    folder = ROOT / "notebooks" / ("" if spoken_here == "en" else spoken_here)
    found = list(folder.glob("*.ipynb"))
    assert len(found) == 4
    for notebook in found:
        place = notebook.relative_to(ROOT / "notebooks").as_posix()
        assert cells.badge(place) in READMES[spoken_here]


@in_each_language
def test_pictures_and_links_are_there(spoken_here):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", READMES[spoken_here]):
        assert (ROOT / target).exists(), target


def test_both_say_the_same():
    """As far as that can be seen: tables, lists, blocks of code and pictures are as many, names the same."""
    english, spanish = sections(READMES["en"]), sections(READMES["es"])
    assert len(english) == len(spanish) > REPORT
    for ours, theirs in zip(english, spanish, strict=True):
        for start in (r"^\| ", r"^- ", r"^```", r"^!\["):
            counts = [len(re.findall(start, text, re.MULTILINE)) for text in (ours, theirs)]
            assert counts[0] == counts[1], (start, ours[:200])
        names = [set(re.findall(r"`([a-z_]+)`", text)) for text in (ours, theirs)]
        assert names[0] == names[1], ours[:200]


@in_each_language
def test_the_python_example_uses_what_there_is(spoken_here):
    (example,) = code_blocks("python", READMES[spoken_here])
    names = [
        alias.name
        for node in ast.walk(ast.parse(example))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert names
    assert set(names) <= set(colab_helpers.__all__)
    for name in names:
        assert callable(getattr(colab_helpers, name))


@pytest.mark.parametrize("words", shell_lines(), ids=" ".join)
def test_the_command_lines_are_understood(words):
    options = build_parser().parse_args(words[3:])
    assert isinstance(options, argparse.Namespace)


def test_there_are_command_lines():
    assert len(shell_lines()) >= 5
    assert any(DEMO_CONSENT in line for line in shell_lines())


@in_each_language
def test_every_field_of_the_report_is_explained(spoken_here):
    section = sections(READMES[spoken_here])[REPORT]
    for name in [*FileReport.model_fields, *Summary.model_fields]:
        assert f"`{name}`" in section, name


@in_each_language
def test_every_answer_of_the_form_is_explained(spoken_here):
    section = sections(READMES[spoken_here])[NOTEBOOKS]
    from colab_helpers.ui.form import read_form

    explained = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    _, form = read_form(ROOT / "notebooks" / "batch_swap.ipynb")
    assert explained == list(form)
