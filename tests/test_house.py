"""Package structure: no import cycles, layered imports, one error hierarchy."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from colab_helpers import errors
from colab_helpers.startup import VERSION

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "colab_helpers"


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in PACKAGE.rglob("*.py")}


def imported(module: str) -> Iterator[str]:
    """Modules of the package imported by one, also in functions and for type checkers."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield name if name in MODULES else name.rpartition(".")[0]


def reaches(start: str, imports: dict[str, set[str]]) -> set[str]:
    """All modules imported by a module, also indirectly."""
    found: set[str] = set()
    pending = [start]
    while pending:
        new = imports[pending.pop()] - found
        found |= new
        pending += new
    return found


def test_no_import_cycles() -> None:
    """Neither in functions nor for type checkers."""
    imports = {
        module: {name for name in imported(module) if name in MODULES and name != "colab_helpers"}
        for module in MODULES
    }
    imports["colab_helpers"] = set()  # loads its public names on first use
    cycles = {module for module in MODULES if module in reaches(module, imports)}
    assert cycles == set()


def test_layers_include_type_checking_imports_and_all_modules() -> None:
    """import-linter enforces the layers in pyproject.toml; no exceptions may be configured."""
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    assert not linter.get("exclude_type_checking_imports")
    assert all("ignore_imports" not in contract for contract in linter["contracts"])
    layers = next(contract["layers"] for contract in linter["contracts"] if contract["type"] == "layers")
    placed = {name.strip() for layer in layers for name in layer.split("|")}
    modules = {name for name in MODULES if name.count(".") == 1} - {"colab_helpers.demo"}
    assert modules == placed


def test_version_matches_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == VERSION


@pytest.mark.parametrize("name", [name for name in vars(errors) if name.endswith("Error")])
def test_errors_are_package_errors_but_not_os_errors(name: str) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, errors.ColabHelpersError)
    assert not issubclass(kind, OSError)
