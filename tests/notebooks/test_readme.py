"""What the README says is what the package does."""

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
from colab_helpers.trust.consent import DEMO_CONSENT
from colab_helpers.ui import cells

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shell_lines() -> list[list[str]]:
    text = "\n".join(code_blocks("")).replace("\\\n", " ")
    words = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [line for line in words if line[:3] == ["python", "-m", "colab_helpers"]]


def test_the_tables_are_up_to_date():
    assert tables().updated(README) == README, "run: python docs/tables.py"


def test_every_notebook_has_its_badge():
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        assert cells.badge(notebook.name) in README


def test_pictures_and_links_are_there():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_python_example_uses_what_there_is():
    (example,) = code_blocks("python")
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


def test_every_field_of_the_report_is_explained():
    section = README.split("## The report")[1].split("## ")[0]
    for name in [*FileReport.model_fields, *Summary.model_fields]:
        assert f"`{name}`" in section, name


def test_every_answer_of_the_form_is_explained():
    section = README.split("## Notebooks")[1].split("## ")[0]
    from colab_helpers.ui.headless import notebook_parameters

    explained = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert explained == list(notebook_parameters(ROOT / "notebooks" / "batch_swap.ipynb"))
