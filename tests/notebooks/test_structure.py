"""Every notebook is thin, without outputs, consistent with the others and with the package."""

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
from colab_helpers.settings import DEFAULT_PRESET
from colab_helpers.trust.consent import DEMO_CONSENT
from colab_helpers.ui.form import PortraitsRequest, read_form

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAX_LINES = 20
REQUEST_TYPES = {
    "batch_swap": BatchRequest,
    "monitor": MonitorRequest,
    "portraits": PortraitsRequest,
    "preload": PreloadRequest,
    "setup": SetupRequest,
}
"""The request type that each notebook builds."""
FORMS = ("form", "cluster", "parameters")
"""Ids of the form's cells; the last one has the tag ``parameters``."""
CLUSTER_FIELDS = {"gpus", "cluster", "gpus_per_worker", "priority", "map_paths"}
"""Names outside the tagged cell: papermill sets them, but warns that it does not know them."""
BADGE = re.compile(
    r"\[!\[Open In Colab\]\(https://colab\.research\.google\.com/assets/colab-badge\.svg\)\]"
    r"\(https://colab\.research\.google\.com/github/([\w-]+/[\w-]+)/blob/main/notebooks/([\w.]+)\)"
)
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(path: Path) -> list[NotebookNode]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def form_text(path: Path) -> str:
    return "\n".join(cell.source for cell in code_cells(path) if cell.id in FORMS)


def test_all_notebooks_exist():
    assert [path.stem for path in NOTEBOOKS] == sorted(REQUEST_TYPES)


@every_notebook
def test_notebook_is_valid_thin_and_without_outputs(path):
    notebook = read(path)
    nbformat.validate(notebook)
    metadata = notebook.metadata
    assert "widgets" not in metadata
    assert (metadata.kernelspec.name, metadata.accelerator) == ("python3", "GPU")
    colab = metadata.colab
    assert (colab.gpuType, colab.private_outputs, colab.name) == ("T4", True, path.name)
    for cell in code_cells(path):
        assert not cell.outputs
        assert not cell.execution_count
        assert cell.source.startswith("#@title "), cell.id
        assert cell.metadata.cellView == "form", cell.id
        assert len(cell.source.splitlines()) <= MAX_LINES, cell.id
        assert not re.search(r"^\s*(import|from) google|\binput\(|userdata", cell.source, re.MULTILINE)


@every_notebook
def test_notebook_has_badge_notice_form_limits_and_troubleshooting(path):
    first, second, *rest = read(path).cells
    forms = [cell for cell in rest if cell.id in FORMS]
    bootstrap = next(cell for cell in rest if cell.cell_type == "code" and cell not in forms)
    repository, name = BADGE.fullmatch(first.source).groups()
    assert name == path.name
    assert second.source.startswith("# ")
    assert re.findall(r"^(\d)\. ", second.source, re.MULTILINE) == ["1", "2", "3"]
    assert "> **Before you start.** Change faces only where it is lawful" in second.source
    # Papermill sets values after the tagged cell, so it must be the form's last.
    tagged = [cell for cell in code_cells(path) if cell.metadata.get("tags") == ["parameters"]]
    assert [cell.id for cell in tagged] == [forms[-1].id]
    assert rest.index(forms[-1]) < rest.index(bootstrap)
    assert f'"https://github.com/{repository}"' in bootstrap.source
    last = rest[-1].source
    assert last.startswith("## Troubleshooting")
    for trouble in ("GPU not available", "Module not found", "CUDA out of memory"):
        assert trouble in last
    text = "\n".join(cell.source for cell in rest if cell.cell_type == "markdown")
    for limit in ("12 hours", "90 minutes", "temporary"):
        assert limit in text


@every_notebook
def test_form_fields_match_request(path):
    lines = [line for line in ast.parse(form_text(path)).body if isinstance(line, ast.AnnAssign)]
    declared = {line.target.id: line for line in lines}
    for name, line in declared.items():
        assert type(ast.literal_eval(line.value)).__name__ == ast.unparse(line.annotation), name
    model, form = read_form(path)
    assert model is REQUEST_TYPES[path.stem]
    assert {*form} == {*model.form()} == {*declared}
    # Papermill warns of names outside the tagged cell.
    assert {*form} - {*papermill.inspect_notebook(str(path))} == {*form} & CLUSTER_FIELDS
    # Only the default consent, the demo's, is the form's own.
    own = {"consent": DEMO_CONSENT} if "consent" in form else {}
    assert model(**form) == model(**own)
    if "preset" in form:
        choices = ast.literal_eval(re.search(r"^preset.*#@param (\[.*\])", form_text(path), re.MULTILINE)[1])
        assert choices == list(load_presets().presets)
        assert choices[0] == DEFAULT_PRESET


@every_notebook
def test_cells_contain_no_logic(path):
    """Other cells only import and call; run alone after a restart, they say what to do."""
    form, *rest = code_cells(path)
    for cell in rest:
        if cell.id in ("bootstrap", "cluster"):
            continue
        if cell.id in FORMS:  # the error shows the line with its instructions
            with pytest.raises(NameError):
                exec(cell.source, {})
            assert "sources = sources  # Not defined? Run the cell '1. What to do' first" in cell.source
        else:
            *imports, call = ast.parse(cell.source).body
            assert all(isinstance(line, ast.ImportFrom) for line in imports), cell.id
            assert all(line.module.startswith("colab_helpers.") for line in imports), cell.id
            assert isinstance(call.value, ast.Call), cell.id
            with pytest.raises(UsageError, match=r"the kernel was restarted.*run all"):
                exec(cell.source, {})
    exec(form.source, {})


def test_main_fields_come_first_and_the_rest_is_folded():
    path = next(path for path in NOTEBOOKS if path.stem == "batch_swap")
    first, *others = (cell for cell in code_cells(path) if cell.id in FORMS)
    names = re.findall(r"^(\w+):", first.source, re.MULTILINE)
    assert names == ["sources", "targets", "output_dir", "preset", "consent"]
    assert all(cell.metadata.jupyter.source_hidden for cell in others)
    order = [cell.id for cell in read(path).cells]
    folded = read(path).metadata.colab.collapsed_sections
    assert [order[order.index(name) + 1] for name in folded] == [cell.id for cell in others]
    # The next heading of the same level ends the folded section.
    for cell in others:
        assert read(path).cells[order.index(cell.id) + 1].source.startswith("## ")


def test_bootstrap_and_notice_are_the_same_in_all_notebooks():
    texts = [{cell.id: cell.source for cell in read(path).cells} for path in NOTEBOOKS]
    assert len({text["bootstrap"] for text in texts}) == 1
    notices = {re.search(r"^> .*", "\n".join(text.values()), re.MULTILINE)[0] for text in texts}
    assert len(notices) == 1


def test_only_host_module_imports_colab_and_ipython():
    imports = re.compile(r"^\s*(import|from) (google|IPython|ipywidgets)\b", re.MULTILINE)
    sources = (ROOT / "colab_helpers").rglob("*.py")
    assert [path.name for path in sources if imports.search(path.read_text())] == ["host.py"]
