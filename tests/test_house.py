"""How the package is built: no circles and no imports upwards, and errors of one kind."""

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
    """Every module of the package that one imports, wherever: in functions and for type checkers, too."""
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
    """Everything a module imports, also by way of others."""
    found: set[str] = set()
    left = [start]
    while left:
        new = imports[left.pop()] - found
        found |= new
        left += new
    return found


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Also not inside functions, nor for type checkers alone."""
    imports = {
        module: {name for name in imported(module) if name in MODULES and name != "colab_helpers"}
        for module in MODULES
    }
    imports["colab_helpers"] = set()  # the public face names what is behind it, and loads it when it is used
    circles = {module for module in MODULES if module in reaches(module, imports)}
    assert circles == set()


def test_the_floors_count_imports_for_type_checkers_too() -> None:
    """import-linter holds the floors, see pyproject.toml; it can be told to look away."""
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    assert not linter.get("exclude_type_checking_imports")
    assert all("ignore_imports" not in contract for contract in linter["contracts"])
    floors = next(contract["layers"] for contract in linter["contracts"] if contract["type"] == "layers")
    placed = {name.strip() for floor in floors for name in floor.split("|")}
    rooms = {name for name in MODULES if name.count(".") == 1} - {"colab_helpers.demo"}
    assert rooms == placed


def test_the_package_and_its_installer_tell_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == VERSION


@pytest.mark.parametrize("name", [name for name in vars(errors) if name.endswith("Error")])
def test_a_refusal_is_no_failure_of_the_system(name: str) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, errors.ColabHelpersError)
    assert not issubclass(kind, OSError)
