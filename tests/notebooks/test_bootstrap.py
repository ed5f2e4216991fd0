"""The first code cell of every notebook: what it fetches and installs, and where it must not."""

from __future__ import annotations

import importlib.util
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from colab_helpers.ui import cells

HERE = SimpleNamespace(origin="/somewhere/colab_helpers/__init__.py")


class Session:
    """Runs the cell and writes down what it does to the machine."""

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
        """Run the cell; ``found`` is what looking for the package gives, look by look."""
        looks = iter(found)
        self.monkeypatch.setattr(importlib.util, "find_spec", lambda name: next(looks))
        self.monkeypatch.setattr(Path, "exists", lambda path: checkout)
        if colab:
            self.monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
        exec(cells.BOOTSTRAP, {})


@pytest.fixture
def session(monkeypatch) -> Session:
    return Session(monkeypatch)


def test_a_fresh_colab_session_gets_the_repository_and_the_packages(session):
    session.run(found=[None, HERE], colab=True)
    address = f"https://github.com/{cells.REPOSITORY}"
    assert session.commands == [["git", "clone", "--depth=1", address, "/content/colab-helpers"]]
    assert sys.path[0] == "/content/colab-helpers"
    assert session.scripts == ["/somewhere/colab_helpers/install.py"]
    assert session.installs == [True]


def test_a_checkout_that_is_there_is_brought_up_to_date(session):
    session.run(found=[None, HERE], colab=True, checkout=True)
    assert session.commands == [["git", "-C", "/content/colab-helpers", "pull", "--ff-only"]]
    assert sys.path[0] == "/content/colab-helpers"


def test_a_second_run_on_colab_fetches_nothing(session):
    session.run(found=[HERE, HERE], colab=True)
    assert session.commands == []
    assert session.installs == [True]


def test_elsewhere_nothing_is_installed(session):
    session.run(found=[HERE], colab=False)
    assert session.commands == []
    assert session.installs == [False]


def test_elsewhere_a_missing_package_is_explained(session):
    with pytest.raises(RuntimeError, match=r"bash setup\.sh install"):
        session.run(found=[None], colab=False)
    assert session.installs == []
