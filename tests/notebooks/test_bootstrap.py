"""The bootstrap cell of every notebook: what it clones and installs, and where it must not."""

from __future__ import annotations

import importlib.util
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import nbformat
import pytest

BOOK = nbformat.read(Path(__file__).resolve().parents[2] / "notebooks" / "setup.ipynb", as_version=4)
BOOTSTRAP = next(cell.source for cell in BOOK.cells if cell.id == "bootstrap")
SPEC = SimpleNamespace(origin="/somewhere/colab_helpers/__init__.py")


class Session:
    """Runs the cell and records its commands, scripts and installs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.commands: list[list[str]] = []
        self.scripts: list[str] = []
        self.installs: list[bool] = []
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.setattr(subprocess, "run", lambda words, check: self.commands.append(words))
        monkeypatch.setattr(runpy, "run_path", self._script)

    def _script(self, path: str) -> dict[str, object]:
        self.scripts.append(path)
        return {"ensure": lambda install: self.installs.append(install)}

    def run(self, *, found: list[object], colab: bool, checkout: bool = False) -> None:
        """Run the cell; ``found`` has the results of successive searches for the package."""
        specs = iter(found)
        self.monkeypatch.setattr(importlib.util, "find_spec", lambda name: next(specs))
        self.monkeypatch.setattr(Path, "exists", lambda path: checkout)
        if colab:
            self.monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
        exec(BOOTSTRAP, {})


@pytest.fixture
def session(monkeypatch) -> Session:
    return Session(monkeypatch)


ADDRESS = "https://github.com/colab-helpers/colab-helpers"
CLONE = ["git", "clone", "--depth=1", ADDRESS, "/content/colab-helpers"]
PULL = ["git", "-C", "/content/colab-helpers", "pull", "--ff-only"]


@pytest.mark.parametrize(
    ("found", "colab", "checkout", "commands"),
    [
        ([None, SPEC], True, False, [CLONE]),
        ([None, SPEC], True, True, [PULL]),
        ([SPEC, SPEC], True, False, []),
        ([SPEC], False, False, []),
    ],
    ids=["fresh", "existing checkout", "second run", "elsewhere"],
)
def test_only_colab_clones_repository_and_installs_packages(session, found, colab, checkout, commands):
    session.run(found=found, colab=colab, checkout=checkout)
    assert session.commands == commands
    assert (sys.path[0] == "/content/colab-helpers") == bool(commands)
    assert session.scripts == ["/somewhere/colab_helpers/install.py"]
    assert session.installs == [colab]


def test_missing_package_outside_colab_is_explained(session):
    with pytest.raises(RuntimeError, match=r"bash setup\.sh install"):
        session.run(found=[None], colab=False)
    assert session.installs == []
