"""What every notebook must be: thin, bare of outputs, alike, and in step with the package."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nbformat
import papermill
import pytest
from nbformat import NotebookNode

from colab_helpers.errors import UsageError
from colab_helpers.presets import load_presets
from colab_helpers.request import BatchRequest, MonitorRequest, PreloadRequest, SetupRequest
from colab_helpers.settings import DEFAULT_PRESET, load_settings
from colab_helpers.trust.consent import DEMO_CONSENT
from colab_helpers.ui import cells
from colab_helpers.ui.form import read_form

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAX_LINES = 20

BUILT = {
    "batch_swap": BatchRequest,
    "monitor": MonitorRequest,
    "preload": PreloadRequest,
    "setup": SetupRequest,
}
"""The request that each notebook builds."""
FORMS = ("form", "parameters")
"""The cells of the form; in the last one are the parameters of papermill."""
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
with_presets = pytest.mark.parametrize(
    "path", [path for path in NOTEBOOKS if path.stem != "monitor"], ids=lambda path: path.stem
)


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(path: Path) -> list[NotebookNode]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def form_text(path: Path) -> str:
    return "\n".join(cell.source for cell in code_cells(path) if cell.id in FORMS)


def declared(path: Path) -> dict[str, tuple[str, object]]:
    """Annotation and default of each parameter."""
    lines = [line for line in ast.parse(form_text(path)).body if isinstance(line, ast.AnnAssign)]
    return {line.target.id: (ast.unparse(line.annotation), ast.literal_eval(line.value)) for line in lines}


def test_there_are_notebooks():
    assert [path.stem for path in NOTEBOOKS] == sorted(BUILT)


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
        first, second, *rest = read(path).cells
        forms = [cell for cell in rest if cell.id in FORMS]
        bootstrap = next(cell for cell in rest if cell.cell_type == "code" and cell not in forms)
        assert first.source == cells.badge(path.name)
        assert second.source.startswith("# ")
        assert re.findall(r"^(\d)\. ", second.source, re.MULTILINE) == ["1", "2", "3"]
        assert cells.NOTICE in second.source
        # Papermill sets values after the one tagged cell: nothing of the form comes later.
        assert [cell.metadata.get("tags") for cell in forms][-1] == ["parameters"]
        assert [cell.id for cell in code_cells(path) if cell.metadata.get("tags")] == ["parameters"]
        assert rest.index(forms[-1]) < rest.index(bootstrap)
        assert bootstrap.source == cells.BOOTSTRAP
        last = read(path).cells[-1].source
        assert last.startswith("## Troubleshooting")
        for trouble in ("GPU not available", "Module not found", "CUDA out of memory"):
            assert trouble in last

    def test_parameters_are_annotated_literals(self, path):
        for name, (annotation, default) in declared(path).items():
            assert type(default).__name__ == annotation, name
        lines = [line for line in form_text(path).splitlines() if not line.startswith("#")]
        repeated = [line for line in lines if "#@param" not in line and not line.startswith(("if ", " "))]
        assert all(re.fullmatch(r"(\w+) = \1", line) for line in repeated)
        # Papermill warns of what does not stand in the tagged cell.
        assert {*papermill.inspect_notebook(str(path))} == {*declared(path)}

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
def test_the_form_asks_for_what_the_request_takes(path):
    model, form = read_form(path)
    assert model is BUILT[path.stem]
    assert {*form} == {*model.form()} == {*declared(path)}
    # The demo's consent is the form's own; the rest is as everywhere else.
    own = {"consent": DEMO_CONSENT} if "consent" in form else {}
    assert model(**form) == model(**own)


@every_notebook
def test_cells_hold_no_logic(path):
    """Beside form and bootstrap a cell imports and calls, once."""
    for cell in code_cells(path):
        if cell.id in (*FORMS, "bootstrap"):
            continue
        *imports, call = ast.parse(cell.source).body
        assert all(isinstance(line, ast.ImportFrom) for line in imports), cell.id
        assert all(line.module.startswith("colab_helpers.") for line in imports), cell.id
        assert isinstance(call, (ast.Expr, ast.Assign)), cell.id
        assert isinstance(call.value, ast.Call), cell.id


@every_notebook
def test_a_cell_run_by_itself_after_a_restart_says_what_to_do(path):
    form, *rest = code_cells(path)
    for cell in rest:
        if cell.id == "bootstrap":
            continue
        told = (
            r"Run the cell '1\. What to do' first"
            if cell.id in FORMS
            else r"the kernel was restarted.*run all"
        )
        with pytest.raises((UsageError, RuntimeError), match=told):
            exec(cell.source, {})
    exec(form.source, {})


def test_the_five_that_matter_stand_first_and_the_rest_is_folded():
    path = next(path for path in NOTEBOOKS if path.stem == "batch_swap")
    first, second = (cell for cell in code_cells(path) if cell.id in FORMS)
    assert re.findall(r"^(\w+):", first.source, re.MULTILINE) == [
        "sources",
        "targets",
        "output_dir",
        "preset",
        "consent",
    ]
    assert second.metadata.jupyter.source_hidden
    folded = read(path).metadata.colab.collapsed_sections
    order = [cell.id for cell in read(path).cells]
    assert [order[order.index(name) + 1] for name in folded] == [second.id]
    # Another heading of that level ends what is folded.
    assert read(path).cells[order.index(second.id) + 1].source.startswith("## ")


@with_presets
def test_the_choices_are_the_presets(path):
    line = next(line for line in form_text(path).splitlines() if line.startswith("preset"))
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
