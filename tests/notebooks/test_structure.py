"""What every notebook must be: thin, bare of outputs, alike, and in step with the package."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from colab_helpers.settings import DEFAULT_PRESET, load_presets, load_settings
from colab_helpers.trust.consent import DEMO_CONSENT
from colab_helpers.ui import cells
from colab_helpers.ui.doctor import run_setup
from colab_helpers.ui.models import fetch_models, show_models
from colab_helpers.ui.monitor import watch
from colab_helpers.ui.notebook import run_batch_swap
from colab_helpers.ui.panel import show_panel

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAX_LINES = 15

CALLED = {
    "batch_swap": [show_panel, run_batch_swap],
    "monitor": [watch],
    "preload": [show_models, fetch_models],
    "setup": [run_setup],
}
"""Who takes the answers of each notebook's form."""
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
with_presets = pytest.mark.parametrize(
    "path", [path for path in NOTEBOOKS if path.stem != "monitor"], ids=lambda path: path.stem
)


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(path: Path) -> list[NotebookNode]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def parameters_cell(path: Path) -> NotebookNode:
    (cell,) = [cell for cell in read(path).cells if "parameters" in cell.metadata.get("tags", [])]
    return cell


def declared(path: Path) -> dict[str, tuple[str, object]]:
    """Annotation and default of each parameter."""
    statements = ast.parse(parameters_cell(path).source).body
    assert all(isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) for line in statements)
    return {
        line.target.id: (ast.unparse(line.annotation), ast.literal_eval(line.value)) for line in statements
    }


def answers(function: Callable[..., object]) -> dict[str, object]:
    """What a function takes from the form, and its defaults."""
    parameters = inspect.signature(function).parameters
    return {name: value.default for name, value in parameters.items() if value.default is not value.empty}


def calls(path: Path) -> list[ast.Call]:
    """The calls that take answers of the form, in the notebook's order."""
    names = {function.__name__ for function in CALLED[path.stem]}
    return [
        node
        for cell in code_cells(path)
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names
    ]


def test_there_are_notebooks():
    assert [path.stem for path in NOTEBOOKS] == sorted(CALLED)


@every_notebook
class TestEveryNotebook:
    def test_is_valid_and_bare(self, path):
        notebook = read(path)
        nbformat.validate(notebook)
        assert "widgets" not in notebook.metadata
        assert not any(cell.outputs or cell.execution_count for cell in code_cells(path))

    def test_metadata(self, path):
        metadata = read(path).metadata
        assert metadata.kernelspec.name == "python3"
        assert metadata.accelerator == "GPU"
        assert metadata.colab.gpuType == "T4"
        assert metadata.colab.private_outputs is True
        assert metadata.colab.name == path.name

    def test_cells_are_thin_forms(self, path):
        for cell in code_cells(path):
            assert cell.source.startswith("#@title "), cell.id
            assert cell.metadata.cellView == "form", cell.id
            assert len(cell.source.splitlines()) <= MAX_LINES, cell.id

    def test_order(self, path):
        first, second, form, bootstrap = read(path).cells[:4]
        assert first.source == cells.badge(path.name)
        assert second.source.startswith("# ")
        assert re.findall(r"^(\d)\. ", second.source, re.MULTILINE) == ["1", "2", "3"]
        assert cells.NOTICE in second.source
        assert form.metadata.tags == ["parameters"]
        assert bootstrap.source == cells.BOOTSTRAP
        last = read(path).cells[-1].source
        assert last.startswith("## Troubleshooting")
        for trouble in ("GPU not available", "Module not found", "CUDA out of memory"):
            assert trouble in last

    def test_parameters_are_annotated_literals(self, path):
        for name, (annotation, default) in declared(path).items():
            assert type(default).__name__ == annotation, name
        lines = [line for line in parameters_cell(path).source.splitlines() if not line.startswith("#")]
        assert all("#@param" in line for line in lines)

    def test_runs_cold(self, path):
        text = "\n".join(cell.source for cell in code_cells(path))
        assert not re.search(r"\binput\(|files\.upload|userdata", text)
        assert not re.search(r"^\s*(import|from) google", text, re.MULTILINE)


@every_notebook
def test_the_limits_of_colab_are_stated(path):
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    assert "12 hours" in text
    assert "90 minutes" in text
    assert "temporary" in text


@every_notebook
def test_the_form_asks_for_what_the_functions_take(path):
    expected = {
        name: default for function in CALLED[path.stem] for name, default in answers(function).items()
    }
    if path.stem == "batch_swap":
        expected = {"sources": (), "targets": (), **expected}
    # The form's own defaults: an empty list or mapping for "none given", and the demo's consent.
    own = {"sources": [], "targets": [], "overrides": {}, "consent": DEMO_CONSENT}
    expected |= {name: value for name, value in own.items() if name in expected}
    assert {name: default for name, (_, default) in declared(path).items()} == expected


@every_notebook
def test_every_answer_is_passed_on_once(path):
    found = calls(path)
    assert [call.func.id for call in found] == [function.__name__ for function in CALLED[path.stem]]
    results = {"needed", "choice"}  # what one cell gives to the next
    passed = [argument.id for call in found for argument in call.args if argument.id not in results]
    keywords = [keyword for call in found for keyword in call.keywords]
    assert all(keyword.arg == keyword.value.id for keyword in keywords)
    passed += [keyword.arg for keyword in keywords]
    assert sorted(passed) == sorted(declared(path))


@every_notebook
def test_cells_hold_no_logic(path):
    """Beside form and bootstrap a cell imports and calls, once."""
    for cell in code_cells(path):
        if cell.id in ("parameters", "bootstrap"):
            continue
        first, second = ast.parse(cell.source).body
        assert isinstance(first, ast.ImportFrom), cell.id
        assert first.module.startswith("colab_helpers.ui."), cell.id
        assert isinstance(second, (ast.Expr, ast.Assign)), cell.id
        assert isinstance(second.value, ast.Call), cell.id


@with_presets
def test_the_choices_are_the_presets(path):
    line = next(line for line in parameters_cell(path).source.splitlines() if line.startswith("preset"))
    choices = ast.literal_eval(re.search(r"#@param (\[.*\])", line)[1])
    assert choices == list(load_presets().presets)
    assert choices[0] == DEFAULT_PRESET == declared(path)["preset"][1]
    for choice in choices:
        load_settings(choice)


def test_only_the_host_knows_colab():
    importing = [
        path.name
        for path in (ROOT / "colab_helpers").rglob("*.py")
        if re.search(r"^\s*(import|from) (google|IPython|ipywidgets)\b", path.read_text(), re.MULTILINE)
    ]
    assert importing == ["host.py"]


def test_the_repository_is_named_in_one_place():
    naming = [
        path.relative_to(ROOT).as_posix()
        for path in [*(ROOT / "colab_helpers").rglob("*"), ROOT / "setup.sh", ROOT / "pyproject.toml"]
        if path.suffix in {".py", ".sh", ".toml", ".yaml"} and cells.REPOSITORY in path.read_text()
    ]
    assert naming == ["colab_helpers/ui/cells.py"]
